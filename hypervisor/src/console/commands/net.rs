//! `net` and `ping`.

use alloc::format;
use alloc::string::ToString;
use core::fmt::{self, Write as _};

use super::super::format::Bytes;
use super::super::host::Host;
use super::super::output::Output;
use super::super::parse::PingTarget;
use super::super::table::{Align, Table};
use super::super::view::{AddressSource, CountersView, LinkView, MigrationPort, NetView};
use super::{CommandError, Next, known};

/// `net`.
pub(super) fn show(host: &mut dyn Host, out: &mut Output) -> Result<(), CommandError> {
    let net = host.network()?;
    let [a, b, c, d, e, f] = net.mac;
    writeln!(out, "card       {}, {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}", net.driver)?;
    match net.link {
        LinkView::Down => writeln!(out, "link       down: no cable, or nothing at its other end")?,
        LinkView::Up(None) => writeln!(out, "link       up")?,
        LinkView::Up(Some(speed)) => writeln!(out, "link       up, {speed} Mbit/s")?,
    }
    address(&net, out)?;
    let counters =
        |c: CountersView| format!("{} frames, {}, {} dropped", c.frames, Bytes(c.bytes), c.dropped);
    writeln!(out, "sent       {}", counters(net.sent))?;
    writeln!(out, "received   {}", counters(net.received))?;
    migration_port(net.migration_port, out)?;
    streams(&net, out)?;
    Ok(())
}

fn address(net: &NetView, out: &mut Output) -> fmt::Result {
    match (net.address, net.source) {
        (Some((address, prefix)), AddressSource::Configured) => {
            writeln!(out, "address    {address}/{prefix}")?
        }
        (Some((address, prefix)), AddressSource::Dhcp) => {
            writeln!(out, "address    {address}/{prefix}, from DHCP")?;
        }
        (None, AddressSource::Configured) => writeln!(out, "address    none")?,
        (None, AddressSource::Dhcp) => writeln!(out, "address    none yet: no DHCP server has answered")?,
    }
    match net.gateway {
        Some(gateway) => writeln!(out, "gateway    {gateway}"),
        None => Ok(()),
    }
}

fn migration_port(port: MigrationPort, out: &mut Output) -> fmt::Result {
    match port {
        MigrationPort::Closed => {
            writeln!(
                out,
                "migration  closed: no guest can come here; 'listen = true' under [migration] opens it"
            )
        }
        MigrationPort::Open(port) => {
            writeln!(out, "migration  port {port} is OPEN and UNAUTHENTICATED: whoever reaches it can send")?;
            writeln!(out, "           guests here and read what is sent; use it on a network you trust")
        }
    }
}

fn streams(net: &NetView, out: &mut Output) -> fmt::Result {
    if net.streams.is_empty() {
        return writeln!(out, "streams    none");
    }
    let mut table = Table::new([
        ("STREAM WITH", Align::Left),
        ("PORT", Align::Right),
        ("QUEUED", Align::Right),
        ("UNREAD", Align::Right),
        ("STATE", Align::Left),
    ]);
    for stream in &net.streams {
        table.row([
            stream.remote.to_string(),
            stream.local_port.to_string(),
            Bytes(stream.queued_bytes).to_string(),
            Bytes(stream.unread_bytes).to_string(),
            stream.state.clone(),
        ]);
    }
    table.print(out)
}

/// `ping ADDRESS|HOST`: who it is.
pub(super) fn ping(target: PingTarget, host: &mut dyn Host) -> Result<Next, CommandError> {
    // Without a network that is the answer, whoever was asked for.
    host.network()?;
    let address = match target {
        PingTarget::Address(address) => address,
        PingTarget::Peer(name) => {
            let peers = host.peers();
            let name = known("host", &name, peers.iter().map(|peer| peer.name.clone()).collect())?;
            match peers.into_iter().find(|peer| peer.name == name) {
                Some(peer) => *peer.address.ip(),
                None => return Ok(Next::Prompt),
            }
        }
    };
    Ok(Next::Ping(address))
}
