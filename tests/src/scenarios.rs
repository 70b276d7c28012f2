//! The end-to-end tests: what must be true of a host, a guest and a move, on every kind of machine that can show it.
//!
//! Each file is one group of checks on one boot. Everything is done over serial consoles and the wire.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::cluster::Cluster;
use crate::machine::Kind;
use crate::peer::Peer;
use crate::suite::Group;
use crate::switch::mac;

mod cancel;
mod clone;
mod cuts;
mod deaths;
mod estimate;
mod faults;
mod host;
mod lab_target;
mod linux;
mod moves;
mod nested;
mod postcopy;
mod spool;
mod strangers;
mod throttle;
mod version;
mod without;

/// The lab's own address on the wire, and its name in `godwit.toml`.
const LAB_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 200);
const LAB_NAME: &str = "lab";
const MIGRATION_PORT: u16 = 7_100;
/// Where hosts die and wires are cut, so that silence is noticed soon; an idle clock of Bochs takes 8 s for it, which is how long
/// a machine may get no processor without being taken for dead.
const LINK_TIMEOUT_S: u64 = 20;
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// All groups, the longest first.
pub fn groups() -> Vec<Group> {
    let guest_machines = [Kind::Bochs, Kind::QemuKvm];
    let mut groups: Vec<Group> = guest_machines.into_iter().map(moves::group).collect();
    groups.extend(guest_machines.into_iter().map(deaths::group));
    groups.extend(guest_machines.into_iter().map(spool::group));
    groups.push(nested::group(Kind::kvm()));
    groups.extend(guest_machines.into_iter().map(linux::group));
    groups.extend(guest_machines.into_iter().map(faults::group));
    groups.extend(guest_machines.into_iter().map(host::group));
    groups.extend(without::groups());
    groups
}

/// The lab's own host on the wire of `cluster`.
fn lab_peer(cluster: &Cluster) -> Peer {
    Peer::join(&cluster.switch, LAB_NAME, mac(200), LAB_ADDRESS)
}

/// Pings host `index` from the lab, several times.
fn answers_pings(cluster: &mut Cluster, index: usize, count: usize) -> Result<()> {
    let address = cluster.hosts[index].address;
    let mut peer = lab_peer(cluster);
    let answered = (0..count).filter(|_| peer.ping(address, PING_TIMEOUT).is_ok()).count();
    ensure!(answered == count, "{answered} of {count} echo requests to {address} were answered");
    Ok(())
}
