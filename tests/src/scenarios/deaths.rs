//! Hosts that lose their power before, in and after the switch, and come back knowing nothing: at no time do two run the
//! guest, and what becomes of it is said.

use anyhow::{Result, bail, ensure};

use super::moves::{SWEEPER, sweeper, sweeps};
use crate::cluster::{BOOT_TIMEOUT, Cluster, Plan};
use crate::host::{COMMAND_TIMEOUT, MOVE_TIMEOUT, Outcome};
use crate::machine::Kind;
use crate::suite::{Check, Group, eventually};

/// So slow that there is time to interfere before the switch.
const BEFORE: (&str, &str) = ("--mode precopy --bandwidth 1mbit", "pre-copy 1:");
/// All that is dirty after the first round fits this limit, and takes long.
const IN: (&str, &str) = ("--mode precopy --bandwidth 2mbit --downtime-limit 120s", "stop-and-copy");
const AFTER: (&str, &str) = ("--mode postcopy --bandwidth 1mbit", "post-copy:");

pub(super) fn group(kind: Kind) -> Group {
    Group { name: "deaths", kind, weight: 2, plan, checks: CHECKS }
}

fn plan(kind: Kind) -> Plan {
    Plan::new("deaths", kind, 2).guest(0, sweeper())
}

const CHECKS: &[Check] = &[
    Check { name: "a target that dies before the switch leaves the guest where it is", run: target_before },
    Check { name: "a target that dies in the switch leaves the guest where it is", run: target_in },
    Check { name: "a target that dies after the switch comes back, and a person decides", run: target_after },
    Check { name: "a source that dies before the switch takes the guest along", run: source_before },
    Check { name: "a source that dies in the switch takes the guest along", run: source_in },
    Check { name: "two hosts that die after the switch begin anew", run: both_after },
    Check {
        name: "a source that dies after the switch leaves a guest that knows what it lost",
        run: source_after,
    },
];

/// Begins to move the sweeper from a to b and waits until the move is at the moment that is wanted.
fn begin(cluster: &mut Cluster, (options, moment): (&str, &str)) -> Result<()> {
    let a = &mut cluster.hosts[0];
    a.enter(&format!("migrate {SWEEPER} b {options}"))?;
    a.serial().expect_line(moment, MOVE_TIMEOUT)?;
    Ok(())
}

fn start(cluster: &mut Cluster) -> Result<()> {
    cluster.hosts[0].succeed(&format!("vm start {SWEEPER}"))?;
    sweeps(&mut cluster.hosts[0])
}

/// Turns hosts on again that were killed, and waits for their prompts.
fn come_back(cluster: &mut Cluster, indexes: &[usize]) -> Result<()> {
    indexes.iter().try_for_each(|&index| cluster.turn_on_again(index))?;
    indexes.iter().try_for_each(|&index| cluster.hosts[index].wait_for_prompt(BOOT_TIMEOUT).map(|_| ()))
}

fn target_before(cluster: &mut Cluster) -> Result<()> {
    start(cluster)?;
    target_dies(cluster, BEFORE)
}

fn target_in(cluster: &mut Cluster) -> Result<()> {
    target_dies(cluster, IN)
}

/// The target dies at a moment before the commit.
fn target_dies(cluster: &mut Cluster, when: (&str, &str)) -> Result<()> {
    begin(cluster, when)?;
    cluster.hosts[1].kill();
    let Outcome::Failed(line) = cluster.hosts[0].finish_migrate(SWEEPER, "b", MOVE_TIMEOUT)? else {
        bail!("it did not fail");
    };
    println!("     {line}");
    ensure!(line.contains("the guest goes on here"), "{line}");
    sweeps(&mut cluster.hosts[0])?;
    come_back(cluster, &[1])
}

fn target_after(cluster: &mut Cluster) -> Result<()> {
    begin(cluster, AFTER)?;
    cluster.hosts[1].kill();
    let a = &mut cluster.hosts[0];
    println!("     {}", a.serial().expect_line("is lost before all memory was there", MOVE_TIMEOUT)?);
    come_back(cluster, &[1])?;
    let a = &mut cluster.hosts[0];
    println!("     {}", a.serial().expect_line("was restarted while it ran there", MOVE_TIMEOUT)?);
    a.serial().write(b"\x03")?;
    a.wait_for_prompt(COMMAND_TIMEOUT)?;
    a.succeed(&format!("migrate reclaim {SWEEPER}"))?;
    eventually(COMMAND_TIMEOUT, || a.expect_state(SWEEPER, "running"))?;
    sweeps(a)
}

fn source_before(cluster: &mut Cluster) -> Result<()> {
    source_dies(cluster, BEFORE)
}

fn source_in(cluster: &mut Cluster) -> Result<()> {
    source_dies(cluster, IN)
}

/// The source dies at a moment before the commit.
fn source_dies(cluster: &mut Cluster, when: (&str, &str)) -> Result<()> {
    begin(cluster, when)?;
    cluster.hosts[0].kill();
    let b = &mut cluster.hosts[1];
    println!("     {}", b.serial().expect_line("what had arrived is discarded", MOVE_TIMEOUT)?);
    b.wait_for_prompt(COMMAND_TIMEOUT)?;
    is_nowhere(cluster, 1)?;
    come_back(cluster, &[0])?;
    start(cluster)
}

/// Host `index` has no guest.
fn is_nowhere(cluster: &mut Cluster, index: usize) -> Result<()> {
    match cluster.hosts[index].guest_state(SWEEPER)? {
        Some((state, row)) if state != "stopped" => bail!("it is not gone: {row}"),
        _ => Ok(()),
    }
}

fn both_after(cluster: &mut Cluster) -> Result<()> {
    begin(cluster, AFTER)?;
    cluster.hosts.iter_mut().for_each(|host| host.kill());
    come_back(cluster, &[0, 1])?;
    is_nowhere(cluster, 0)?;
    is_nowhere(cluster, 1)?;
    for host in &mut cluster.hosts {
        let status = host.succeed("migrate status")?;
        ensure!(status.contains("no guest is being moved"), "{status}");
    }
    start(cluster)
}

fn source_after(cluster: &mut Cluster) -> Result<()> {
    begin(cluster, AFTER)?;
    cluster.hosts[0].kill();
    let b = &mut cluster.hosts[1];
    b.serial().expect_line("is lost before all memory was there", MOVE_TIMEOUT)?;
    b.wait_for_prompt(COMMAND_TIMEOUT)?;
    let info = b.succeed(&format!("vm info {SWEEPER}"))?;
    ensure!(info.contains("absent"), "{info}");
    b.enter(&format!("migrate takeover {SWEEPER}"))?;
    println!("     {}", b.serial().expect_line("pages were still at", COMMAND_TIMEOUT)?);
    let ended = b.serial().expect_line(&format!("{SWEEPER} ended: "), MOVE_TIMEOUT)?;
    println!("     {ended}");
    ensure!(ended.contains("did not come before"), "{ended}");
    b.wait_for_prompt(COMMAND_TIMEOUT).map(|_| ())
}
