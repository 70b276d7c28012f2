//! A third host that keeps what goes after the switch, and a source that dies for good.

use anyhow::{Result, bail, ensure};

use super::moves::{SWEEP_TIMEOUT, SWEEPER, sweeper, sweeps};
use super::{LINK_TIMEOUT_S, deaths};
use crate::cluster::{Cluster, Plan};
use crate::host::{COMMAND_TIMEOUT, MOVE_TIMEOUT};
use crate::machine::Kind;
use crate::suite::{Check, Group, eventually};

pub(super) fn group(kind: Kind) -> Group {
    // Three hosts, of which mostly one or two are busy: beside another group that makes good use of two processors.
    Group { name: "spool", kind, weight: 1, plan, checks: CHECKS }
}

fn plan(kind: Kind) -> Plan {
    let mut plan = Plan::new("spool", kind, 3).guest(0, sweeper());
    plan.set_link_timeout(LINK_TIMEOUT_S);
    plan.hosts[2].memory_mib = 256;
    plan
}

const CHECKS: &[Check] = &[
    Check { name: "a spool is refused where it would be none", run: refused },
    Check {
        name: "a guest whose source dies is made whole by a third host, and loses nothing",
        run: source_dies,
    },
    Check { name: "a source that dies before the switch takes the guest along", run: source_dies_before },
];

fn refused(cluster: &mut Cluster) -> Result<()> {
    let a = &mut cluster.hosts[0];
    a.succeed(&format!("vm start {SWEEPER}"))?;
    eventually(COMMAND_TIMEOUT, || a.expect_state(SWEEPER, "running"))?;
    for (options, why) in [
        ("--spool b", "that is a third host"),
        ("--spool a", "that is a third host"),
        ("--spool d", "no host named 'd'"),
        ("--mode precopy --spool c", "in mode precopy nothing does"),
    ] {
        a.enter(&format!("migrate {SWEEPER} b {options}"))?;
        let line = a.serial().expect_line("error:", COMMAND_TIMEOUT)?;
        ensure!(line.contains(why), "{options}: {line}");
        a.wait_for_prompt(COMMAND_TIMEOUT)?;
    }
    Ok(())
}

/// The guest moves paused, so that it does not ask for most of its pages before every page is at one of two hosts; it goes on
/// once its source is dead, and then waits for what only the third host has.
fn source_dies(cluster: &mut Cluster) -> Result<()> {
    let [a, b, c] = &mut cluster.hosts[..] else { bail!("three hosts") };
    a.attach(SWEEPER, "", COMMAND_TIMEOUT)?;
    a.serial().expect_line("pattern: sweep", SWEEP_TIMEOUT)?;
    a.detach()?;
    a.succeed(&format!("vm pause {SWEEPER}"))?;
    eventually(COMMAND_TIMEOUT, || a.expect_state(SWEEPER, "paused"))?;
    a.enter(&format!("migrate {SWEEPER} b --mode postcopy --bandwidth 2mbit --spool c"))?;
    a.serial().expect_line("this host may die now", MOVE_TIMEOUT)?;
    c.serial().expect_line("all that b could lack", COMMAND_TIMEOUT)?;
    let status = b.succeed("migrate status")?;
    a.kill();
    b.succeed(&format!("vm resume {SWEEPER}"))?;
    println!("     {}", status.lines().nth(1).unwrap_or_default().trim());
    let status = c.succeed("migrate status")?;
    ensure!(status.contains("left by a") && status.contains("migrate release"), "{status}");
    let whole = b.serial().expect_line(&format!("{SWEEPER} is whole: "), MOVE_TIMEOUT)?;
    println!("     {whole}");
    ensure!(whole.contains("came from c, verified"), "{whole}");
    c.serial().expect_line("its pages are gone from here", COMMAND_TIMEOUT)?;
    b.wait_for_prompt(COMMAND_TIMEOUT)?;
    b.expect_state(SWEEPER, "running")?;
    sweeps(b)
}

/// The last of what is done here: the guest runs at b, which still waits for a host that is gone for good.
fn source_dies_before(cluster: &mut Cluster) -> Result<()> {
    let b = &mut cluster.hosts[1];
    b.enter(&format!("migrate {SWEEPER} c"))?;
    let line = b.serial().expect_line("error:", COMMAND_TIMEOUT)?;
    ensure!(line.contains("migrate release"), "{line}");
    b.wait_for_prompt(COMMAND_TIMEOUT)?;
    b.succeed(&format!("migrate release {SWEEPER}"))?;
    eventually(COMMAND_TIMEOUT, || {
        let status = b.succeed("migrate status")?;
        ensure!(status.contains("no guest is being moved"), "{status}");
        Ok(())
    })?;
    deaths::begin(cluster, 1, "c", deaths::BEFORE)?;
    cluster.hosts[1].kill();
    deaths::is_discarded(cluster, 2)
}
