//! Guests that misbehave, each beside a witness that must not notice.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cluster::{Cluster, Plan};
use crate::config::GuestConfig;
use crate::machine::Kind;
use crate::suite::{Check, Group, eventually};

/// From `vm start` to the end of a guest that does one thing.
const GUEST_TIMEOUT: Duration = Duration::from_secs(180);
/// Rewrites memory all the while.
const WITNESS: &str = "witness";

pub(super) fn group(kind: Kind) -> Group {
    Group { name: "faults", kind, weight: 1, plan, checks: CHECKS }
}

fn plan(kind: Kind) -> Plan {
    let mut plan = Plan::new("faults", kind, 1);
    let host = &mut plan.hosts[0];
    // Host and guests share one processor.
    host.cpus = 1;
    let mut witness = GuestConfig::bare(WITNESS, "pattern 1024 20000");
    (witness.memory_mib, witness.start) = (32, true);
    host.config.guests.push(witness);
    for behaviour in [
        "hello",
        "triple-fault",
        "wild-mmio",
        "wild-jump",
        "unknown-msr",
        "unknown-exit",
        "single-step",
        "hlt-cli",
        "spin",
        "debug-loop",
        "wild-stack",
    ] {
        host.config.guests.push(GuestConfig::bare(behaviour, behaviour));
    }
    host.config.guests.push(GuestConfig { vcpus: 2, ..GuestConfig::bare("real-mode", "real-mode") });
    plan
}

const CHECKS: &[Check] = &[
    Check { name: "a guest in the configuration starts with the host", run: witness_works },
    Check { name: "a bare-metal guest runs and is heard", run: hello },
    Check { name: "a triple fault stops that guest", run: |c| ends(c, "triple-fault", "triple fault") },
    Check { name: "a jump to nowhere stops that guest", run: |c| ends(c, "wild-jump", "") },
    Check {
        name: "a halt with interrupts off stops that guest",
        run: |c| ends(c, "hlt-cli", "hlt with interrupts off"),
    },
    Check {
        name: "memory that is not there reads as ones",
        run: |c| says(c, "wild-mmio", "read 0xffffffff"),
    },
    Check { name: "an unknown MSR raises #GP", run: |c| says(c, "unknown-msr", "exception 13") },
    Check {
        name: "an instruction no guest may use raises #UD",
        run: |c| says(c, "unknown-exit", "exception 6"),
    },
    Check {
        name: "a guest that single-steps traps after every instruction, exits among them",
        run: |c| says(c, "single-step", "single-step: 7 traps of 7, dr6 0xffff4ff0"),
    },
    Check {
        name: "an unknown MSR raises #GP in real mode, too",
        run: |c| says(c, "real-mode", "real-mode: 1 exceptions of 1"),
    },
    Check { name: "a guest that spins is paused and stopped", run: spin },
    Check {
        name: "a guest whose debug exceptions never end is stopped, and the witness goes on beside it",
        run: debug_loop,
    },
    Check {
        name: "an interrupt that finds no stack stops that guest",
        run: |c| ends(c, "wild-stack", "cannot be delivered"),
    },
    Check { name: "the witness has lost nothing", run: witness_works },
];

fn witness_works(cluster: &mut Cluster) -> Result<()> {
    let host = &mut cluster.hosts[0];
    eventually(GUEST_TIMEOUT, || host.expect_state(WITNESS, "running"))?;
    host.attach(WITNESS, "", GUEST_TIMEOUT)?;
    host.serial().skip_pending();
    for _ in 0..2 {
        let line = host.serial().expect_line("pattern: sweep", GUEST_TIMEOUT)?;
        ensure!(line.contains(" 0 errors"), "{line}");
    }
    host.detach()
}

fn hello(cluster: &mut Cluster) -> Result<()> {
    says(cluster, "hello", "bare: hello")
}

/// The guest's console shows `text`; afterwards the guest ends, since the program halts with interrupts off.
fn says(cluster: &mut Cluster, guest: &str, text: &str) -> Result<()> {
    let host = &mut cluster.hosts[0];
    host.succeed(&format!("vm start {guest}"))?;
    has_ended(cluster, guest)?;
    let host = &mut cluster.hosts[0];
    host.attach(guest, text, GUEST_TIMEOUT)?;
    host.detach()
}

/// The guest ends with a reason in which `reason` stands, and the host goes on.
fn ends(cluster: &mut Cluster, guest: &str, reason: &str) -> Result<()> {
    cluster.hosts[0].succeed(&format!("vm start {guest}"))?;
    let row = has_ended(cluster, guest)?;
    ensure!(row.to_lowercase().contains(reason), "no {reason:?} in: {row}");
    let info = cluster.hosts[0].succeed(&format!("vm info {guest}"))?;
    let state = info.lines().find(|line| line.starts_with("state")).context("no state")?;
    ensure!(state.contains(": "), "no reason in: {state}");
    Ok(())
}

fn has_ended(cluster: &mut Cluster, guest: &str) -> Result<String> {
    eventually(GUEST_TIMEOUT, || {
        let (state, row) = cluster.hosts[0].guest_state(guest)?.context("it is not listed")?;
        ensure!(state == "failed" || state == "stopped", "still not ended: {row}");
        Ok(row)
    })
}

fn debug_loop(cluster: &mut Cluster) -> Result<()> {
    cluster.hosts[0].succeed("vm start debug-loop")?;
    witness_works(cluster)?;
    let host = &mut cluster.hosts[0];
    host.expect_state("debug-loop", "running").context("it has left the loop")?;
    host.succeed("vm pause debug-loop")?;
    eventually(GUEST_TIMEOUT, || host.expect_state("debug-loop", "paused"))?;
    host.succeed("vm resume debug-loop")?;
    host.succeed("vm stop debug-loop")?;
    eventually(GUEST_TIMEOUT, || host.expect_state("debug-loop", "stopped")).map(|_| ())
}

fn spin(cluster: &mut Cluster) -> Result<()> {
    let host = &mut cluster.hosts[0];
    host.succeed("vm start spin")?;
    eventually(GUEST_TIMEOUT, || host.expect_state("spin", "running"))?;
    host.succeed("vm pause spin")?;
    eventually(GUEST_TIMEOUT, || host.expect_state("spin", "paused"))?;
    host.succeed("vm resume spin")?;
    eventually(GUEST_TIMEOUT, || host.expect_state("spin", "running"))?;
    host.succeed("vm stop spin")?;
    eventually(GUEST_TIMEOUT, || host.expect_state("spin", "stopped"))?;
    // And it can be started again, once the CPU that ran it is done with its machine.
    eventually(GUEST_TIMEOUT, || host.succeed("vm start spin"))?;
    host.succeed("vm stop spin").map(|_| ())
}
