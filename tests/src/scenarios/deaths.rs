//! Hosts that lose their power before, in and after the switch, and come back knowing nothing: at no time do two run the
//! guest, and what becomes of it is said.

use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};

use super::moves::{SWEEPER, sweeper, sweeps};
use super::{LINK_TIMEOUT_S, cancel, cuts};
use crate::cluster::{BOOT_TIMEOUT, Cluster, Plan};
use crate::host::{COMMAND_TIMEOUT, Host, MOVE_TIMEOUT, Outcome};
use crate::machine::Kind;
use crate::suite::{Check, Group, eventually};

/// A move so slow that there is time to interfere, and what its progress line says at the moment that is wanted.
pub(super) type Moment = (&'static str, &'static str);
pub(super) const BEFORE: Moment = ("--mode precopy --bandwidth 1mbit", "pre-copy 1:");
/// All that is dirty after the first round fits this limit, and takes long.
pub(super) const IN: Moment = ("--mode precopy --bandwidth 2mbit --downtime-limit 120s", "stop-and-copy");
const AFTER: Moment = ("--mode postcopy --bandwidth 1mbit", "post-copy:");

const PAGE_BYTES: u64 = 4_096;

pub(super) fn group(kind: Kind) -> Group {
    Group { name: "deaths", kind, weight: 2, plan, checks: CHECKS }
}

fn plan(kind: Kind) -> Plan {
    let mut plan = Plan::new("deaths", kind, 2).guest(0, sweeper());
    plan.set_link_timeout(LINK_TIMEOUT_S);
    plan
}

const CHECKS: &[Check] = &[
    Check { name: "a target that dies in the switch leaves the guest where it is", run: target_in },
    Check { name: "a target that dies after the switch comes back, and a person decides", run: target_after },
    Check { name: "a source that dies in the switch takes the guest along", run: source_in },
    Check {
        name: "a source that dies before the commit leaves a guest that a person takes over",
        run: source_ready,
    },
    Check { name: "two hosts that die after the switch begin anew", run: both_after },
    Check {
        name: "a source that dies after the switch leaves a guest whose lost pages are named",
        run: source_after,
    },
];

/// Begins to move the sweeper from host `from` to `to` and waits until the move is at the moment that is wanted.
pub(super) fn begin(cluster: &mut Cluster, from: usize, to: &str, (options, moment): Moment) -> Result<()> {
    let host = &mut cluster.hosts[from];
    host.enter(&format!("migrate {SWEEPER} {to} {options}"))?;
    host.serial().expect_line(moment, MOVE_TIMEOUT)?;
    Ok(())
}

fn start(cluster: &mut Cluster) -> Result<()> {
    cluster.hosts[0].succeed(&format!("vm start {SWEEPER}"))?;
    sweeps(&mut cluster.hosts[0])
}

/// Takes the power of host `index` away and gives it back.
fn reboot(cluster: &mut Cluster, index: usize) -> Result<()> {
    cluster.hosts[index].kill();
    cluster.turn_on_again(index)
}

fn is_back(cluster: &mut Cluster, index: usize) -> Result<()> {
    cluster.hosts[index].wait_for_prompt(BOOT_TIMEOUT).map(|_| ())
}

/// The move of the sweeper from host `from` to `to` fails, and the sweeper goes on where it was.
pub(super) fn goes_on(cluster: &mut Cluster, from: usize, to: &str) -> Result<()> {
    let Outcome::Failed(line) = cluster.hosts[from].finish_migrate(SWEEPER, to, MOVE_TIMEOUT)? else {
        bail!("it did not fail");
    };
    println!("     {line}");
    ensure!(line.contains("the guest goes on here"), "{line}");
    sweeps(&mut cluster.hosts[from])
}

fn target_in(cluster: &mut Cluster) -> Result<()> {
    start(cluster)?;
    begin(cluster, 0, "b", IN)?;
    reboot(cluster, 1)?;
    goes_on(cluster, 0, "b")?;
    is_back(cluster, 1)
}

fn target_after(cluster: &mut Cluster) -> Result<()> {
    begin(cluster, 0, "b", AFTER)?;
    reboot(cluster, 1)?;
    let a = &mut cluster.hosts[0];
    println!("     {}", a.serial().expect_line("is lost before all memory was there", MOVE_TIMEOUT)?);
    println!("     {}", a.serial().expect_line("was restarted while it ran there", MOVE_TIMEOUT)?);
    a.serial().write(b"\x03")?;
    a.wait_for_prompt(COMMAND_TIMEOUT)?;
    a.succeed(&format!("migrate reclaim {SWEEPER}"))?;
    eventually(COMMAND_TIMEOUT, || a.expect_state(SWEEPER, "running"))?;
    sweeps(a)?;
    is_back(cluster, 1)
}

fn source_in(cluster: &mut Cluster) -> Result<()> {
    begin(cluster, 0, "b", IN)?;
    reboot(cluster, 0)?;
    is_discarded(cluster, 1)?;
    is_back(cluster, 0)?;
    start(cluster)
}

/// The target has all and is ready; the word of that never reaches the source, which dies. The guest ends at host b.
fn source_ready(cluster: &mut Cluster) -> Result<()> {
    let port = cluster.hosts[0].port.context("no port")?;
    cluster.switch.cut_at(port, cuts::verified);
    cluster.hosts[0].enter(&format!("migrate {SWEEPER} b --mode precopy --downtime-limit 120s"))?;
    let [_, b] = &mut cluster.hosts[..] else { bail!("two hosts") };
    let is_ready = eventually(MOVE_TIMEOUT, || cancel::is_shown(b, &format!("{SWEEPER} from a: committing")));
    let died = reboot(cluster, 0);
    cluster.switch.mend(port);
    is_ready.and(died)?;
    let b = &mut cluster.hosts[1];
    println!("     {}", b.serial().expect_line("was lost before it said to run it", MOVE_TIMEOUT)?);
    b.serial().expect_line(&format!("'migrate takeover {SWEEPER}'"), COMMAND_TIMEOUT)?;
    b.wait_for_prompt(COMMAND_TIMEOUT)?;
    b.expect_state(SWEEPER, "arriving")?;
    b.succeed(&format!("migrate takeover {SWEEPER}"))?;
    eventually(COMMAND_TIMEOUT, || b.expect_state(SWEEPER, "running"))?;
    sweeps(b)?;
    b.succeed(&format!("migrate release {SWEEPER}"))?;
    is_back(cluster, 0)?;
    is_nowhere(cluster, 0)
}

/// Host `index` gives up what it has of the sweeper, since the source has died.
pub(super) fn is_discarded(cluster: &mut Cluster, index: usize) -> Result<()> {
    let host = &mut cluster.hosts[index];
    println!("     {}", host.serial().expect_line("what had arrived is discarded", MOVE_TIMEOUT)?);
    host.wait_for_prompt(COMMAND_TIMEOUT)?;
    is_nowhere(cluster, index)
}

/// Host `index` has no guest.
fn is_nowhere(cluster: &mut Cluster, index: usize) -> Result<()> {
    match cluster.hosts[index].guest_state(SWEEPER)? {
        Some((state, row)) if state != "stopped" => bail!("it is not gone: {row}"),
        _ => Ok(()),
    }
}

fn both_after(cluster: &mut Cluster) -> Result<()> {
    begin(cluster, 1, "a", AFTER)?;
    [0, 1].into_iter().try_for_each(|index| reboot(cluster, index))?;
    [0, 1].into_iter().try_for_each(|index| is_back(cluster, index))?;
    [0, 1].into_iter().try_for_each(|index| is_nowhere(cluster, index))?;
    for host in &mut cluster.hosts {
        let status = host.succeed("migrate status")?;
        ensure!(status.contains("no guest is being moved"), "{status}");
    }
    start(cluster)
}

fn source_after(cluster: &mut Cluster) -> Result<()> {
    begin(cluster, 0, "b", AFTER)?;
    cluster.hosts[0].kill();
    let b = &mut cluster.hosts[1];
    b.serial().expect_line("is lost before all memory was there", MOVE_TIMEOUT)?;
    b.wait_for_prompt(COMMAND_TIMEOUT)?;
    let info = b.succeed(&format!("vm info {SWEEPER}"))?;
    ensure!(info.contains("absent"), "{info}");
    b.enter(&format!("migrate takeover {SWEEPER}"))?;
    let lost = lost_pages(b)?;
    let ended = b.serial().expect_line(&format!("{SWEEPER} ended: "), MOVE_TIMEOUT)?;
    println!("     {ended}");
    ensure!(ended.contains("did not come before"), "{ended}");
    let needed = ended.split_once("guest-physical ").and_then(|(_, rest)| address(rest));
    let is_lost = |needed: u64| lost.iter().any(|pages| pages.contains(&needed));
    ensure!(needed.is_some_and(is_lost), "it was not said to be lost: {ended}");
    b.wait_for_prompt(COMMAND_TIMEOUT).map(|_| ())
}

/// The addresses that are said to be lost: all of them.
fn lost_pages(host: &mut Host) -> Result<Vec<Range<u64>>> {
    let line = host.serial().expect_line("pages were still at", COMMAND_TIMEOUT)?;
    println!("     {line}");
    let count = line.split_once(": ").and_then(|(_, rest)| rest.split(' ').next()?.parse::<u64>().ok());
    let (count, mut named, mut lost) = (count.with_context(|| line.clone())?, 0, Vec::new());
    while named < count {
        let line = host.serial().expect_line(" pages", COMMAND_TIMEOUT)?;
        let pages = line.split_once(", ").and_then(|(_, rest)| rest.split(' ').next()?.parse::<u64>().ok());
        let (first, pages) = address(line.trim()).zip(pages).with_context(|| line.clone())?;
        lost.push(first..first + pages * PAGE_BYTES);
        named += pages;
    }
    ensure!(named == count, "{count} are lost, {named} are named");
    Ok(lost)
}

/// `0x3000, …`
fn address(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?.split(',').next()?, 16).ok()
}
