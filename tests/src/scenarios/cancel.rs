//! Moves that a person cancels: in every state that allows it, at either end, and refused with a clear word in those that do
//! not. That it is refused after the switch is among the checks of [`super::postcopy`].

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, anyhow, bail, ensure};
use godwit_migration::Step;

use super::moves::{SWEEPER, runs_only_at, sweeps};
use super::{LAB_NAME, cuts, deaths, lab_peer, lab_target};
use crate::cluster::Cluster;
use crate::host::{COMMAND_TIMEOUT, Host, MOVE_TIMEOUT, Outcome};
use crate::suite::eventually;

/// So slow that there is time to interfere.
const SLOWLY: &str = "--mode precopy --bandwidth 1mbit";
/// With the usual limit a stop whose target does not answer is called back, long before a person comes.
const PATIENTLY: &str = "--mode precopy --downtime-limit 120s";
/// What a copy would have been called.
const COPY: &str = "sweeper-3";
const TOO_LATE: &str = "too late to cancel";

/// The sweeper runs at host b and is to go to a; a person changes his mind at b, then another one at a.
pub(super) fn in_rounds(cluster: &mut Cluster) -> Result<()> {
    let [a, b] = &mut cluster.hosts[..] else { bail!("two hosts") };
    begin(b, &format!("migrate {SWEEPER} a {SLOWLY}"), "pre-copy 1:")?;
    is_shown(b, &format!("{SWEEPER} to a: pre-copy"))?;
    b.enter(&format!("migrate cancel {SWEEPER}"))?;
    goes_on(b, "a")?;
    begin(b, &format!("migrate {SWEEPER} a {SLOWLY}"), "pre-copy 1:")?;
    a.enter(&format!("migrate cancel {SWEEPER}"))?;
    let line = a.serial().expect_line("what had arrived is discarded", COMMAND_TIMEOUT)?;
    ensure!(line.contains(&format!("migration of {SWEEPER} from b failed: cancelled")), "{line}");
    a.wait_for_prompt(COMMAND_TIMEOUT)?;
    goes_on(b, "a")?;
    nothing_moves(cluster)?;
    runs_only_at(cluster, SWEEPER, 1)?;
    sweeps(&mut cluster.hosts[1])
}

/// The sweeper runs at host b, and stands still when the person comes.
pub(super) fn in_the_stop(cluster: &mut Cluster) -> Result<()> {
    let b = &mut cluster.hosts[1];
    let (options, moment) = deaths::IN;
    begin(b, &format!("migrate {SWEEPER} a {options}"), moment)?;
    is_shown(b, &format!("{SWEEPER} to a: stop-and-copy"))?;
    b.enter(&format!("migrate cancel {SWEEPER}"))?;
    goes_on(b, "a")?;
    nothing_moves(cluster)?;
    runs_only_at(cluster, SWEEPER, 1)?;
    sweeps(&mut cluster.hosts[1])
}

/// The sweeper runs at host b, and a has no copy in the end.
pub(super) fn of_a_clone(cluster: &mut Cluster) -> Result<()> {
    let b = &mut cluster.hosts[1];
    begin(b, &format!("clone {SWEEPER} a --name {COPY} --bandwidth 1mbit"), "pre-copy 1:")?;
    is_shown(b, &format!("{SWEEPER} to a as {COPY}: "))?;
    b.enter(&format!("migrate cancel {SWEEPER}"))?;
    let failed = format!("clone of {SWEEPER} to a as {COPY} failed: cancelled");
    println!("     {}", b.serial().expect_line(&failed, COMMAND_TIMEOUT)?);
    b.wait_for_prompt(COMMAND_TIMEOUT)?;
    nothing_moves(cluster)?;
    ensure!(cluster.hosts[0].guest_state(COPY)?.is_none(), "a part of a copy is left");
    cluster.hosts[1].expect_state(SWEEPER, "running").map(|_| ())
}

/// The sweeper runs at host a. The lab is a target that keeps the source waiting where another would for an instant.
pub(super) fn while_waiting(cluster: &mut Cluster) -> Result<()> {
    cluster.hosts[0].succeed(&format!("vm start {SWEEPER}"))?;
    sweeps(&mut cluster.hosts[0])?;
    is_cancelled(&mut cluster.hosts[0], "connecting").context("nobody is there")?;
    let mut peer = lab_peer(cluster);
    let a = &mut cluster.hosts[0];
    beside(|over| lab_target::say_nothing(&mut peer, over), || is_cancelled(a, "negotiating"))?;
    beside(|over| lab_target::serve(&mut peer, Step::Build, over), || is_cancelled(a, "negotiating"))?;
    beside(|over| lab_target::serve(&mut peer, Step::RestoreState, over), || is_cancelled(a, "verifying"))?;
    sweeps(a)
}

/// The sweeper runs at host a. The lab is told to run it, and never says whether it does.
pub(super) fn too_late(cluster: &mut Cluster) -> Result<()> {
    let mut peer = lab_peer(cluster);
    let a = &mut cluster.hosts[0];
    beside(
        |over| lab_target::serve(&mut peer, Step::Run, over),
        || {
            begin(a, &format!("migrate {SWEEPER} {LAB_NAME} {PATIENTLY}"), "committing")?;
            is_refused(a)
        },
    )?;
    drop(peer);
    cuts::is_held(a)?;
    a.wait_for_prompt(COMMAND_TIMEOUT)?;
    is_shown(a, &format!("{SWEEPER} to {LAB_NAME}: commit unknown"))?;
    is_refused(a)?;
    a.enter(&format!("migrate reclaim {SWEEPER}"))?;
    a.serial().expect_line(&format!("{SWEEPER} goes on here"), COMMAND_TIMEOUT)?;
    eventually(COMMAND_TIMEOUT, || a.expect_state(SWEEPER, "running"))?;
    sweeps(a)
}

/// Types `command`, waits until its progress says `moment`, and comes back to the prompt.
fn begin(host: &mut Host, command: &str, moment: &str) -> Result<()> {
    host.enter(command)?;
    host.serial().expect(moment, MOVE_TIMEOUT)?;
    host.serial().write(b"\x03")?;
    host.wait_for_prompt(COMMAND_TIMEOUT).map(|_| ())
}

/// The sweeper is to go from host a to the lab, and stays when its move is cancelled in this phase.
fn is_cancelled(a: &mut Host, phase: &str) -> Result<()> {
    begin(a, &format!("migrate {SWEEPER} {LAB_NAME} {PATIENTLY}"), phase)?;
    is_shown(a, &format!("{SWEEPER} to {LAB_NAME}: {phase}"))?;
    a.enter(&format!("migrate cancel {SWEEPER}"))?;
    goes_on(a, LAB_NAME).with_context(|| phase.to_owned())
}

/// The move of the sweeper ends as one that was cancelled.
fn goes_on(host: &mut Host, to: &str) -> Result<()> {
    let Outcome::Failed(line) = host.finish_migrate(SWEEPER, to, COMMAND_TIMEOUT)? else {
        bail!("it did not fail")
    };
    ensure!(line.contains("failed: cancelled; the guest goes on here"), "{line}");
    Ok(())
}

/// Cancelling comes too late, and the person is told so.
pub(super) fn is_refused(host: &mut Host) -> Result<()> {
    host.enter(&format!("migrate cancel {SWEEPER}"))?;
    println!("     {}", host.serial().expect_line(TOO_LATE, COMMAND_TIMEOUT)?);
    host.wait_for_prompt(COMMAND_TIMEOUT).map(|_| ())
}

pub(super) fn is_shown(host: &mut Host, line: &str) -> Result<()> {
    let status = host.succeed("migrate status")?;
    ensure!(status.contains(line), "no {line:?} in:\n{status}");
    Ok(())
}

/// Both ends have let go.
fn nothing_moves(cluster: &mut Cluster) -> Result<()> {
    let mut hosts = cluster.hosts.iter_mut();
    hosts.try_for_each(|host| eventually(COMMAND_TIMEOUT, || is_shown(host, "no guest is being moved")))
}

/// Lets the lab be a target while a person is at a console.
fn beside<T>(
    target: impl FnOnce(&AtomicBool) -> Result<()> + Send,
    person: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let lab = scope.spawn(|| target(&is_over));
        let outcome = person();
        is_over.store(true, Ordering::Relaxed);
        let answered = lab.join().map_err(|_| anyhow!("the thread of the lab's target has panicked"))?;
        let outcome = outcome?;
        answered.context("the lab's target").map(|()| outcome)
    })
}
