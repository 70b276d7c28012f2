//! Checks of moves whose memory goes after the switch: the guests run at the target before it is there, also while the wire
//! is cut.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::linux::{LINUX, run, uptime};
use super::moves::{SWEEP_TIMEOUT, SWEEPER, is_whole, over, pattern_is_whole, runs_only_at, sweeps};
use super::{cancel, cuts};
use crate::cluster::Cluster;
use crate::figures::Moved;
use crate::host::{COMMAND_TIMEOUT, Host, MOVE_TIMEOUT, Outcome};
use crate::suite::eventually;
use crate::switch::Conditions;

pub(super) fn moved(host: &mut Host, guest: &str, peer: &str, options: &str) -> Result<Moved> {
    host.enter(&format!("migrate {guest} {peer} {options}"))?;
    let moved = host.finish_migrate(guest, peer, MOVE_TIMEOUT)?.moved()?;
    println!("     {}", moved.line);
    moved
        .details
        .lines()
        .skip_while(|line| !line.starts_with("after"))
        .for_each(|line| println!("     {line}"));
    Ok(moved)
}

/// The sweeper runs at a. Each page that it waits for at b is a round trip away.
pub(super) fn bad_wire(cluster: &mut Cluster) -> Result<()> {
    let wire = Conditions { loss: 0.003, delay: Duration::from_millis(100), ..Conditions::default() };
    let options = "--mode postcopy --downtime-limit 60s";
    let (moved, round_trip) = over(cluster, wire, 1, |source| moved(source, SWEEPER, "b", options))?;
    ensure!(moved.rounds == 0 && moved.details.contains("after the switch: "), "{}", moved.details);
    let median =
        moved.median_wait().with_context(|| format!("nobody waited for a page: {}", moved.details))?;
    ensure!(median >= round_trip, "waits shorter than a round trip, {round_trip:?}: {}", moved.details);
    let tail = [moved.tail_wait(), moved.longest_wait(), moved.last_page_after()];
    ensure!(tail.iter().all(|time| time.is_some_and(|time| time >= median)), "{tail:?}: {}", moved.details);
    runs_only_at(cluster, SWEEPER, 1)?;
    sweeps(&mut cluster.hosts[1])
}

/// The sweeper runs at b. It is cut off twice while memory is on its way, and once more when all is there; it is too late to
/// cancel, with the wire and without; and in the end it is whole.
pub(super) fn cut_twice(cluster: &mut Cluster) -> Result<()> {
    let b = &mut cluster.hosts[1];
    b.enter(&format!("migrate {SWEEPER} a --mode postcopy --bandwidth 1mbit"))?;
    b.serial().expect_line("post-copy:", MOVE_TIMEOUT)?;
    let port = cluster.hosts[0].port.context("no port")?;
    for _ in 0..2 {
        cluster.switch.cut(port);
        let lost = is_lost(&mut cluster.hosts[1]);
        let waits = both_wait(&mut cluster.hosts[0]);
        cluster.switch.mend(port);
        lost?;
        waits?;
        cluster.hosts[1].serial().expect_line("is back, memory flows again", MOVE_TIMEOUT)?;
    }
    let b = &mut cluster.hosts[1];
    b.wait_for_prompt(COMMAND_TIMEOUT)?;
    cancel::is_refused(b)?;
    let status = b.succeed("migrate status")?;
    ensure!(status.contains("sweeper to a: post-copy") && status.contains("after the switch"), "{status}");
    cluster.switch.cut_at(port, cuts::complete);
    b.succeed(&format!("migrate set {SWEEPER} bandwidth none"))?;
    b.serial().expect_line("is lost before all memory was there", MOVE_TIMEOUT)?;
    cluster.switch.mend(port);
    let Outcome::Moved(moved) = b.finish_migrate(SWEEPER, "a", MOVE_TIMEOUT)? else {
        bail!("it did not move")
    };
    println!("     {}", moved.line);
    let times = moved.details.split_once("the connection was lost, times: ").map(|(_, times)| times);
    let times: Option<u32> = times.and_then(|times| times.lines().next()?.trim().parse().ok());
    ensure!(times.is_some_and(|times| times >= 3), "{}", moved.details);
    runs_only_at(cluster, SWEEPER, 0)?;
    let a = &mut cluster.hosts[0];
    sweeps(a)?;
    // It would take its part of the processor from Linux.
    a.succeed(&format!("vm pause {SWEEPER}")).map(|_| ())
}

/// Each processor of the sweeper waits for a page of its own.
fn both_wait(host: &mut Host) -> Result<()> {
    eventually(COMMAND_TIMEOUT, || {
        let info = host.succeed(&format!("vm info {SWEEPER}"))?;
        let waits =
            |vcpu: u32| info.contains(&format!("virtual CPU {vcpu} for the page at guest-physical 0x"));
        ensure!(waits(0) && waits(1), "{info}");
        Ok(())
    })
}

/// The source's connection is lost; it comes back to its prompt, and it is too late to cancel.
fn is_lost(source: &mut Host) -> Result<()> {
    println!("     {}", source.serial().expect_line("is lost before all memory was there", MOVE_TIMEOUT)?);
    source.serial().write(b"\x03")?;
    source.wait_for_prompt(COMMAND_TIMEOUT)?;
    cancel::is_shown(source, &format!("{SWEEPER} to a: recovering"))?;
    cancel::is_refused(source)
}

/// Linux runs at b and goes to a, the sweeper stands still at a, and goes on and to b at the same time.
pub(super) fn opposite(cluster: &mut Cluster) -> Result<()> {
    let before = uptime(&mut cluster.hosts[1])?;
    let [a, b] = &mut cluster.hosts[..] else { bail!("two hosts") };
    a.succeed(&format!("vm resume {SWEEPER}"))?;
    let (linux, sweeper) = std::thread::scope(|scope| {
        // The last round trip of a stop takes its time where two emulated clocks run apart: within the usual limit it is called
        // back until few stops are left.
        let linux = scope.spawn(|| moved(b, LINUX, "a", "--mode postcopy --downtime-limit 1s"));
        let sweeper = moved(a, SWEEPER, "b", "--mode hybrid");
        (linux.join(), sweeper)
    });
    let sweeper = sweeper.context("the sweeper")?;
    ensure!(sweeper.rounds > 0 && sweeper.details.contains("after the switch: "), "{}", sweeper.details);
    linux.map_err(|_| anyhow::anyhow!("the thread that types has panicked"))?.context("Linux")?;
    runs_only_at(cluster, SWEEPER, 1)?;
    sweeps(&mut cluster.hosts[1])?;
    cluster.hosts[1].succeed(&format!("vm stop {SWEEPER}"))?;
    is_whole(cluster, 0, before)
}

/// Linux runs at a, and a program in it is made to rewrite more memory than rounds get ahead of.
pub(super) fn auto_switches(cluster: &mut Cluster) -> Result<()> {
    let host = &mut cluster.hosts[0];
    let output = run(host, "pattern start 3 2000", SWEEP_TIMEOUT)?;
    ensure!(output.contains("pattern: started"), "{output}");
    host.enter(&format!("migrate {LINUX} b --mode auto --downtime-limit 1s"))?;
    host.serial().expect_line("post-copy:", MOVE_TIMEOUT)?;
    // The rest stays on its way while a person asks why.
    let port = host.port.context("no port")?;
    cluster.switch.cut(port);
    host.serial().write(b"\x03")?;
    let asked = host
        .wait_for_prompt(COMMAND_TIMEOUT)
        .and_then(|_| cancel::is_shown(host, "since rounds did not pay"));
    cluster.switch.mend(port);
    asked?;
    let moved = host.finish_migrate(LINUX, "b", MOVE_TIMEOUT)?.moved()?;
    println!("     {}", moved.line);
    ensure!(moved.details.contains("since rounds did not pay"), "{}", moved.details);
    runs_only_at(cluster, LINUX, 1)?;
    pattern_is_whole(&mut cluster.hosts[1])?;
    // Nothing that still runs takes the processors from what comes next.
    cluster.hosts[1].succeed(&format!("vm stop {LINUX}")).map(|_| ())
}
