//! Hosts that connect to the migration port and mean harm.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xxhash_rust::xxh64::{Xxh64, xxh64};

use super::{LAB_ADDRESS, LAB_NAME, MIGRATION_PORT, PING_TIMEOUT, lab_peer};
use crate::cluster::Cluster;
use crate::host::{COMMAND_TIMEOUT, Host};
use crate::peer::{Connection, Peer, PeerError};
use crate::suite::eventually;

// What a connection to a spool begins with, as docs/migration-protocol.md has it.
const INTENT_SPOOL: u32 = 4;
const INTENT_OFFER: u32 = 5;
const OPENING_SEED: u64 = 0x6f70_656e;
const FRAME_SEED: u64 = 0x6672_616d;
const MANDATORY: u16 = 1;
const REPLY: u16 = 2;
const PAGES: u16 = 3;
const HOLDS: u16 = 22;
const DEPOSIT: u16 = 21;
/// Of a guest of a terabyte.
const TOO_MANY_PAGES: u32 = 1 << 28;
const SOON: Duration = Duration::from_secs(5);

pub(super) fn on_the_port(cluster: &mut Cluster) -> Result<()> {
    let mut peer = lab_peer(cluster);
    let address = cluster.hosts[0].address;
    let nonsense: Vec<u8> = (0..4_096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for bytes in [&b"GET / HTTP/1.0\r\n\r\n"[..], &nonsense, &[0; 512], &[0xff; 4_096]] {
        let connection = peer.connect(address, MIGRATION_PORT, PING_TIMEOUT).context("connect")?;
        // Being thrown out while still talking is fine.
        let _ = peer.send(connection, bytes, Duration::from_secs(2));
        let _ = peer.receive(connection, Duration::from_secs(2));
        peer.close(connection);
    }
    // Connections that say nothing must not use the host up.
    for _ in 0..20 {
        if let Ok(connection) = peer.connect(address, MIGRATION_PORT, Duration::from_secs(2)) {
            peer.close(connection);
        }
    }
    cluster.hosts[0].succeed("vm list")?;
    cluster.hosts[0].succeed("net")?;
    peer.ping(address, PING_TIMEOUT).context("after strangers")?;
    Ok(())
}

/// One says no more than that it comes to leave pages, one says nonsense instead of what, one asks for more than there is,
/// one sends nonsense as pages, and one offers pages that nobody lacks.
pub(super) fn with_pages(cluster: &mut Cluster) -> Result<()> {
    let mut peer = lab_peer(cluster);
    let a = &mut cluster.hosts[0];
    let address = a.address;
    let silent = connect(&mut peer, address, &opening(INTENT_SPOOL, 1))?;
    peer.close(silent);

    let bad = connect(&mut peer, address, &opening(INTENT_SPOOL, 2))?;
    let _ = peer.send(bad, &[0xa5; 64], SOON);
    is_hung_up(&mut peer, bad)?;
    is_told(a, "turned away: bad data from the other host")?;

    let large = connect(&mut peer, address, &opening(INTENT_SPOOL, 3))?;
    peer.send(large, &frame(DEPOSIT, 0, &deposit(TOO_MANY_PAGES)), SOON).context("a large deposit")?;
    ensure!(first_frame(&mut peer, large)? == REPLY, "it is not answered");
    is_hung_up(&mut peer, large)?;
    is_told(a, "turned away: refused: ")?;

    let welcome = connect(&mut peer, address, &opening(INTENT_SPOOL, 4))?;
    peer.send(welcome, &frame(DEPOSIT, 0, &deposit(16)), SOON).context("a small deposit")?;
    ensure!([REPLY, HOLDS].contains(&first_frame(&mut peer, welcome)?), "it is not answered");
    let status = a.succeed("migrate status")?;
    ensure!(status.contains(&format!("stranger for {LAB_NAME}: spooling")), "{status}");
    let _ = peer.send(welcome, &frame(PAGES, 1, &[0xa5; 4_096]), SOON);
    is_hung_up(&mut peer, welcome)?;

    let offer = connect(&mut peer, address, &opening(INTENT_OFFER, 5))?;
    is_hung_up(&mut peer, offer)?;

    eventually(COMMAND_TIMEOUT, || {
        let status = a.succeed("migrate status")?;
        ensure!(status.contains("no guest is being moved"), "{status}");
        Ok(())
    })?;
    peer.ping(address, PING_TIMEOUT).context("after all of them").map(|_| ())
}

fn connect(peer: &mut Peer, address: Ipv4Addr, opening: &[u8]) -> Result<Connection> {
    let connection = peer.connect(address, MIGRATION_PORT, PING_TIMEOUT).context("connect")?;
    // Being thrown out while still talking is fine.
    let _ = peer.send(connection, opening, SOON);
    Ok(connection)
}

/// The host ends the connection, whatever it says before.
fn is_hung_up(peer: &mut Peer, connection: Connection) -> Result<()> {
    loop {
        match peer.receive(connection, PING_TIMEOUT) {
            Ok(bytes) if bytes.is_empty() => break,
            Ok(_) => {}
            Err(PeerError::Reset) => break,
            Err(error) => return Err(error).context("it is not hung up"),
        }
    }
    peer.close(connection);
    Ok(())
}

/// The log says `why`.
fn is_told(host: &mut Host, why: &str) -> Result<()> {
    eventually(COMMAND_TIMEOUT, || {
        let log = host.succeed("log 10")?;
        ensure!(log.contains(why), "no {why:?} in:\n{log}");
        Ok(())
    })
}

/// The kind of the first frame that the host says.
fn first_frame(peer: &mut Peer, connection: Connection) -> Result<u16> {
    let said = peer.receive(connection, PING_TIMEOUT).context("the answer")?;
    let kind = said.first_chunk().context("the answer is short")?;
    Ok(u16::from_le_bytes(*kind))
}

/// The opening of a connection about the migration of this number.
fn opening(intent: u32, migration: u8) -> Vec<u8> {
    let mut bytes = b"Godwit\x1a\n".to_vec();
    bytes.extend([1, 0, 1, 0]);
    bytes.extend(intent.to_le_bytes());
    bytes.extend([migration; 16]);
    bytes.extend([0xdd; 16]);
    bytes.extend([0; 8]);
    let check = xxh64(&bytes, OPENING_SEED);
    bytes.extend(check.to_le_bytes());
    bytes
}

/// The check of page frames is over the header alone.
fn frame(kind: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = [kind.to_le_bytes(), MANDATORY.to_le_bytes()].concat();
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(sequence.to_le_bytes());
    bytes.extend([0; 4]);
    let mut check = Xxh64::new(FRAME_SEED);
    check.update(&bytes);
    if kind != PAGES {
        check.update(body);
    }
    bytes.extend(check.digest().to_le_bytes());
    bytes.extend(body);
    bytes
}

/// CBOR: a map of a guest's name, its pages, as many that will come, the target's name and address, a time-out.
fn deposit(pages: u32) -> Vec<u8> {
    let number = |number: u32| [&[0x1a], &number.to_be_bytes()[..]].concat();
    let text = |text: &str| [&[0x60 + text.len() as u8], text.as_bytes()].concat();
    let mut address = vec![0x46];
    address.extend(LAB_ADDRESS.octets());
    address.extend(MIGRATION_PORT.to_be_bytes());
    let values = [text("stranger"), number(pages), number(pages), text(LAB_NAME), address, number(30_000)];
    let pairs = (0..).zip(values).map(|(key, value): (u8, Vec<u8>)| [vec![key], value].concat());
    [vec![0xa6], pairs.collect::<Vec<_>>().concat()].concat()
}
