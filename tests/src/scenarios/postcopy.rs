//! Guests whose memory goes after the switch: they run at the target before it is there, over a wire that is cut and
//! beside hosts that die.

use anyhow::{Context, Result, bail, ensure};

use super::linux::{LINUX, run, start, uptime};
use super::moves::{SWEEP_TIMEOUT, SWEEPER, is_whole, pattern_is_whole, runs_only_at, sweeps};
use crate::cluster::{Cluster, Plan};
use crate::config::GuestConfig;
use crate::figures::Moved;
use crate::host::{COMMAND_TIMEOUT, Host, MOVE_TIMEOUT, Outcome};
use crate::machine::Kind;
use crate::suite::{Check, Group, eventually};

/// So slow that there is time to interfere.
const SLOWLY: &str = "--mode postcopy --bandwidth 4mbit";

pub(super) fn group(kind: Kind) -> Group {
    Group { name: "postcopy", kind, weight: 2, plan, checks: CHECKS }
}

fn plan(kind: Kind) -> Plan {
    let mut sweeper = GuestConfig::bare(SWEEPER, "pattern 1024 80000");
    sweeper.memory_mib = 32;
    let mut linux = GuestConfig::linux(LINUX, 96);
    linux.command_line.push_str(" godwit.data_mib=8");
    Plan::new("postcopy", kind, 2).guest(0, linux).guest(0, sweeper)
}

const CHECKS: &[Check] = &[
    Check {
        name: "a guest that rewrites memory moves before its memory and loses nothing",
        run: sweeper_moves,
    },
    Check { name: "Linux boots at the source", run: |cluster| start(&mut cluster.hosts[0]) },
    Check { name: "it goes by post-copy while the other guest comes back by hybrid", run: opposite },
    Check { name: "busy Linux is switched by itself when rounds do not pay", run: auto_switches },
    Check { name: "a wire cut twice while memory is on its way loses nothing", run: cut_twice },
    Check {
        name: "a target that dies takes the guest along, and a person has it go on from the switch",
        run: target_dies,
    },
];

fn moved(host: &mut Host, guest: &str, peer: &str, options: &str) -> Result<Moved> {
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

fn name(index: usize) -> &'static str {
    ["a", "b"][index]
}

fn sweeper_moves(cluster: &mut Cluster) -> Result<()> {
    cluster.hosts[0].succeed(&format!("vm start {SWEEPER}"))?;
    sweeps(&mut cluster.hosts[0])?;
    let moved = moved(&mut cluster.hosts[0], SWEEPER, "b", "--mode postcopy")?;
    ensure!(moved.rounds == 0 && moved.details.contains("after the switch: "), "{}", moved.details);
    ensure!(moved.details.contains("waits: p50"), "nobody waited for a page: {}", moved.details);
    runs_only_at(cluster, SWEEPER, 1)?;
    sweeps(&mut cluster.hosts[1])
}

fn opposite(cluster: &mut Cluster) -> Result<()> {
    let before = uptime(&mut cluster.hosts[0])?;
    let [a, b] = &mut cluster.hosts[..] else { bail!("two hosts") };
    let (there, back) = std::thread::scope(|scope| {
        let there = scope.spawn(|| moved(a, LINUX, "b", "--mode postcopy"));
        let back = moved(b, SWEEPER, "a", "--mode hybrid");
        (there.join(), back)
    });
    let back = back.context("the sweeper")?;
    ensure!(back.rounds > 0 && back.details.contains("after the switch: "), "{}", back.details);
    there.map_err(|_| anyhow::anyhow!("the thread that types has panicked"))?.context("Linux")?;
    runs_only_at(cluster, SWEEPER, 0)?;
    sweeps(&mut cluster.hosts[0])?;
    cluster.hosts[0].succeed(&format!("vm stop {SWEEPER}"))?;
    is_whole(cluster, 1, before)
}

fn auto_switches(cluster: &mut Cluster) -> Result<()> {
    let output = run(&mut cluster.hosts[1], "pattern start 8 2000", SWEEP_TIMEOUT)?;
    ensure!(output.contains("pattern: started"), "{output}");
    let moved = moved(&mut cluster.hosts[1], LINUX, "a", "--mode auto")?;
    ensure!(moved.details.contains("since rounds did not pay"), "{}", moved.details);
    runs_only_at(cluster, LINUX, 0)?;
    pattern_is_whole(&mut cluster.hosts[0])
}

/// Begins to move Linux from host `from` slowly, and waits until it runs at the other one.
fn switch_slowly(cluster: &mut Cluster, from: usize) -> Result<()> {
    let host = &mut cluster.hosts[from];
    host.enter(&format!("migrate {LINUX} {} {SLOWLY}", name(1 - from)))?;
    host.serial().expect_line("post-copy:", MOVE_TIMEOUT)?;
    Ok(())
}

fn cut_twice(cluster: &mut Cluster) -> Result<()> {
    switch_slowly(cluster, 0)?;
    let port = cluster.hosts[1].port.context("no port")?;
    for _ in 0..2 {
        cluster.switch.cut(port);
        let lost = cluster.hosts[0].serial().expect_line("is lost before all memory was there", MOVE_TIMEOUT);
        cluster.switch.mend(port);
        println!("     {}", lost?);
        cluster.hosts[0].serial().expect_line("is back, memory flows again", MOVE_TIMEOUT)?;
    }
    // Too late for another end of it.
    let a = &mut cluster.hosts[0];
    a.serial().write(b"\x03")?;
    a.wait_for_prompt(COMMAND_TIMEOUT)?;
    a.enter(&format!("migrate cancel {LINUX}"))?;
    a.serial().expect_line("too late to cancel", COMMAND_TIMEOUT)?;
    a.wait_for_prompt(COMMAND_TIMEOUT)?;
    let status = a.succeed("migrate status")?;
    ensure!(status.contains("linux to b: post-copy") && status.contains("after the switch"), "{status}");
    a.succeed(&format!("migrate set {LINUX} bandwidth none"))?;
    let Outcome::Moved(moved) = a.finish_migrate(LINUX, "b", MOVE_TIMEOUT)? else { bail!("it did not move") };
    println!("     {}", moved.line);
    ensure!(moved.details.contains("the connection was lost, times: 2"), "{}", moved.details);
    runs_only_at(cluster, LINUX, 1)?;
    pattern_is_whole(&mut cluster.hosts[1])
}

fn target_dies(cluster: &mut Cluster) -> Result<()> {
    let before = uptime(&mut cluster.hosts[1])?;
    switch_slowly(cluster, 1)?;
    cluster.hosts[0].kill();
    let b = &mut cluster.hosts[1];
    let lost = b.serial().expect_line("is lost before all memory was there", MOVE_TIMEOUT)?;
    println!("     {lost}");
    b.serial().write(b"\x03")?;
    b.wait_for_prompt(COMMAND_TIMEOUT)?;
    b.succeed(&format!("migrate reclaim {LINUX}"))?;
    eventually(COMMAND_TIMEOUT, || b.expect_state(LINUX, "running").map(|_| ()))?;
    let after = uptime(b)?;
    ensure!(after >= before && after < before + 600.0, "uptime was {before} and is {after}");
    let output = run(b, "verify", SWEEP_TIMEOUT)?;
    ensure!(output.contains("verify: ok"), "{output}");
    // Its kernel has complained by now, and rightly: it has waited for a page while the wire was cut, and time goes on.
    pattern_is_whole(b)
}

/// Linux runs at host a; the last of what the two hosts do.
pub(super) fn source_dies(cluster: &mut Cluster) -> Result<()> {
    switch_slowly(cluster, 0)?;
    cluster.hosts[0].kill();
    let b = &mut cluster.hosts[1];
    b.serial().expect_line("is lost before all memory was there", MOVE_TIMEOUT)?;
    b.wait_for_prompt(COMMAND_TIMEOUT)?;
    let info = b.succeed(&format!("vm info {LINUX}"))?;
    ensure!(info.contains("absent"), "{info}");
    b.enter(&format!("migrate takeover {LINUX}"))?;
    let lost = b.serial().expect_line("pages were still at", COMMAND_TIMEOUT)?;
    println!("     {lost}");
    let ended = b.serial().expect_line(&format!("{LINUX} ended: "), MOVE_TIMEOUT)?;
    println!("     {ended}");
    ensure!(ended.contains("did not come before"), "{ended}");
    b.wait_for_prompt(COMMAND_TIMEOUT).map(|_| ())
}
