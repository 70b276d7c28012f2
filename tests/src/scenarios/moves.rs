//! Two hosts and guests that move between them, before the switch and after it: well, under load, and when everything goes
//! wrong. What happens when hosts die is in [`super::deaths`].

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::clone::sweeper_is_cloned;
use super::linux::{LINUX, quiet_kernel, run, start, uptime};
use super::{
    LAB_ADDRESS, LAB_NAME, LINK_TIMEOUT_S, MIGRATION_PORT, cancel, cuts, deaths, estimate, lab_peer,
    postcopy, throttle, version,
};
use crate::cluster::{Cluster, Plan};
use crate::config::GuestConfig;
use crate::figures;
use crate::host::{COMMAND_TIMEOUT, Host, MOVE_TIMEOUT, Outcome};
use crate::machine::Kind;
use crate::peer::{Connection, Peer};
use crate::suite::{Check, Group, eventually};
use crate::switch::Conditions;

pub(super) const SWEEP_TIMEOUT: Duration = Duration::from_secs(120);
/// The bare-metal guest that rewrites memory.
pub(super) const SWEEPER: &str = "sweeper";
/// Needs more memory than host b has.
const BIG: &str = "big";
const B_MEMORY_MIB: u32 = 384;
const BIG_MEMORY_MIB: u64 = 400;
/// How much slower a host's clock may go at one moment than it does on the average: it stands still where the host waits for a
/// processor, and goes at other speeds where it idles and where it works.
const CLOCK_UNSTEADINESS: f64 = 4.0;

pub(super) fn group(kind: Kind) -> Group {
    Group { name: "moves", kind, weight: 2, plan, checks: CHECKS }
}

fn plan(kind: Kind) -> Plan {
    let mut big = GuestConfig::bare(BIG, "spin");
    big.memory_mib = BIG_MEMORY_MIB;
    let mut linux = GuestConfig::linux(LINUX, 96);
    // Less of what only fills the wire: it moves many times.
    linux.command_line.push_str(" godwit.data_mib=2 init_on_free=1");
    linux.vcpus = 2;
    let mut plan = Plan::new("moves", kind, 2)
        .guest(0, linux)
        .guest(0, sweeper())
        .guest(0, big)
        .guest(0, throttle::guest());
    plan.set_link_timeout(LINK_TIMEOUT_S);
    plan.hosts[0].memory_mib = 1_024;
    plan.hosts[1].memory_mib = B_MEMORY_MIB;
    plan.hosts[0].config.peers.push((LAB_NAME.to_owned(), LAB_ADDRESS.to_string()));
    plan
}

/// The bare-metal guest that rewrites 2 MiB of its memory, half of it by each of its two processors: a page each 80,000 ticks is
/// 0.5 MB/s, a third of what Bochs's card takes in.
pub(super) fn sweeper() -> GuestConfig {
    GuestConfig { memory_mib: 32, vcpus: 2, ..GuestConfig::bare(SWEEPER, "pair 256 160000") }
}

/// The small guest first, for what needs no Linux; each check begins where the one before left the guests. That Linux moves by
/// pre-copy while a program rewrites memory is among the checks of [`super::nested`].
const CHECKS: &[Check] = &[
    Check {
        name: "a guest that rewrites memory moves as was estimated, within the limit, and loses nothing",
        run: estimate::comes_true,
    },
    Check {
        name: "a guest that only computes is slowed down for its move, and not behind it",
        run: throttle::slows,
    },
    Check { name: "a paused guest moves and stays paused", run: paused_moves },
    Check { name: "a guest that rewrites memory is cloned, and both go on", run: sweeper_is_cloned },
    Check {
        name: "a guest that rewrites memory moves over a slow and lossy wire, as the report says",
        run: bad_wire,
    },
    Check {
        name: "a move cancelled midway, at either host, leaves the guest where it is",
        run: cancel::in_rounds,
    },
    Check { name: "a move cancelled while the guest stands still has it go on", run: cancel::in_the_stop },
    Check { name: "a clone cancelled midway leaves no copy", run: cancel::of_a_clone },
    Check { name: "a wire cut in the rounds leaves the guest where it is", run: cut_midway },
    Check {
        name: "so does one cut before they begin, and one cut when the target is ready",
        run: cuts::before_the_commit,
    },
    Check {
        name: "a stop that takes too long is called back, and a wire cut twice around the commit loses nothing",
        run: cuts::around_the_commit,
    },
    Check {
        name: "a guest moves before its memory over a slow and lossy wire, as the report says, and loses nothing",
        run: postcopy::bad_wire,
    },
    Check {
        name: "a wire cut twice while memory is on its way, and once when all is there, loses nothing",
        run: postcopy::cut_twice,
    },
    Check { name: "Linux boots at the source", run: |cluster| start(&mut cluster.hosts[0]) },
    Check {
        name: "idle Linux moves, with its data, uptime and a quiet kernel",
        run: |c| linux_moves(c, 0, 1),
    },
    Check { name: "it comes back by post-copy while another guest goes by hybrid", run: postcopy::opposite },
    Check { name: "busy Linux is switched by itself when rounds do not pay", run: postcopy::auto_switches },
    Check { name: "no processor's stack was used to more than a half", run: stacks_have_room },
    Check { name: "a target without memory refuses, by name, before anything is sent", run: no_memory },
    Check { name: "a target of another version is refused", run: other_version },
    Check { name: "a target that is not there is reported", run: nobody_there },
    Check {
        name: "a move is cancelled while its target is waited for, up to the commit",
        run: cancel::while_waiting,
    },
    Check {
        name: "a move cannot be cancelled any more once its target may run the guest, and a person decides",
        run: cancel::too_late,
    },
    Check { name: "a target that dies before the switch leaves the guest where it is", run: target_dies },
];

fn other(index: usize) -> usize {
    1 - index
}

fn paused_moves(cluster: &mut Cluster) -> Result<()> {
    cluster.hosts[1].succeed(&format!("vm pause {SWEEPER}"))?;
    eventually(COMMAND_TIMEOUT, || cluster.hosts[1].expect_state(SWEEPER, "paused").map(|_| ()))?;
    let moved = cluster.hosts[1].migrate(SWEEPER, "a", MOVE_TIMEOUT)?.moved()?;
    println!("     {}", moved.line);
    let a = &mut cluster.hosts[0];
    a.expect_state(SWEEPER, "paused")?;
    a.succeed(&format!("vm resume {SWEEPER}"))?;
    sweeps(a)
}

/// The sweeper has just completed two sweeps or more without finding a damaged page.
pub(super) fn sweeps(host: &mut Host) -> Result<()> {
    guest_sweeps(host, SWEEPER)
}

/// The same of a guest of this name.
pub(super) fn guest_sweeps(host: &mut Host, guest: &str) -> Result<()> {
    host.attach(guest, "", COMMAND_TIMEOUT)?;
    host.serial().skip_pending();
    let mut first = None;
    loop {
        let line = host.serial().expect_line("pattern: sweep", SWEEP_TIMEOUT)?;
        ensure!(line.contains(" 0 errors"), "{line}");
        let number = sweep_number(&line).with_context(|| line.clone())?;
        // The sweep that was under way has not seen all pages here, the one behind it has.
        if number >= *first.get_or_insert(number) + 2 {
            return host.detach();
        }
    }
}

/// How many sweeps a guest says it has completed, on the slower of its processors.
pub(super) fn sweep_number(line: &str) -> Option<u64> {
    let (_, behind) = line.split_once("pattern: sweep ")?;
    behind.split(' ').next()?.parse().ok()
}

/// At most one host may run a guest, and it is host `index`.
pub(super) fn runs_only_at(cluster: &mut Cluster, guest: &str, index: usize) -> Result<()> {
    cluster.hosts[index].expect_state(guest, "running")?;
    match cluster.hosts[other(index)].guest_state(guest)? {
        Some((state, row)) if state != "stopped" => bail!("it is not gone from the other host: {row}"),
        _ => Ok(()),
    }
}

fn linux_moves(cluster: &mut Cluster, from: usize, to: usize) -> Result<()> {
    let before = uptime(&mut cluster.hosts[from])?;
    let name = cluster.hosts[to].name.clone();
    let moved = cluster.hosts[from].migrate(LINUX, &name, MOVE_TIMEOUT)?.moved()?;
    println!("     {}", moved.line);
    is_whole(cluster, to, before)
}

/// Linux runs at host `index` only, with its data, a quiet kernel, and an uptime that has gone on from `before`.
pub(super) fn is_whole(cluster: &mut Cluster, index: usize, before: f64) -> Result<()> {
    runs_only_at(cluster, LINUX, index)?;
    let host = &mut cluster.hosts[index];
    let after = uptime(host)?;
    ensure!(after >= before && after < before + 600.0, "uptime was {before} and is {after}");
    let output = run(host, "verify", SWEEP_TIMEOUT)?;
    ensure!(output.contains("verify: ok"), "{output}");
    quiet_kernel(host)
}

pub(super) fn pattern_is_whole(host: &mut Host) -> Result<()> {
    let output = run(host, "pattern check", SWEEP_TIMEOUT)?;
    ensure!(output.contains("violations=0"), "{output}");
    Ok(())
}

/// The limit is far above what the wire's delay alone makes of a stop.
fn bad_wire(cluster: &mut Cluster) -> Result<()> {
    let wire = Conditions { loss: 0.003, delay: Duration::from_millis(40), ..Conditions::default() };
    let options = "--mode precopy --downtime-limit 120s";
    let (moved, round_trip) =
        over(cluster, wire, 0, |source| postcopy::moved(source, SWEEPER, "b", options))?;
    for part in ["verify", "commit"] {
        let took = moved.part(part).with_context(|| moved.details.clone())?;
        ensure!(took >= round_trip, "{part} took less than a round trip, {round_trip:?}: {}", moved.details);
    }
    runs_only_at(cluster, SWEEPER, 1)?;
    sweeps(&mut cluster.hosts[1])
}

/// Has host a do something while its wire is as `wire` says; and the least that host `index` can have measured for a round trip
/// meanwhile, by its own clock.
pub(super) fn over<T>(
    cluster: &mut Cluster,
    wire: Conditions,
    index: usize,
    what: impl FnOnce(&mut Host) -> Result<T>,
) -> Result<(T, Duration)> {
    let port = cluster.hosts[0].port.context("no port")?;
    let (begun, before) = (Instant::now(), clock(&mut cluster.hosts[index])?);
    cluster.switch.set(port, wire);
    let outcome = what(&mut cluster.hosts[0]);
    cluster.switch.mend(port);
    let after = clock(&mut cluster.hosts[index])?;
    let speed = after.saturating_sub(before).as_secs_f64() / begun.elapsed().as_secs_f64();
    let round_trip = (2 * wire.delay).mul_f64(speed / CLOCK_UNSTEADINESS);
    println!(
        "     its clock went {speed:.1} times as fast as ours: a round trip is {round_trip:.1?} at least"
    );
    Ok((outcome?, round_trip))
}

/// For how long the host is up, by its own clock.
fn clock(host: &mut Host) -> Result<Duration> {
    let text = host.succeed("version")?;
    let up = text.lines().find_map(|line| figures::span(line.rsplit_once(", up ")?.1));
    up.with_context(|| format!("since when is it up? {text}"))
}

/// Starts moving the sweeper from host b to a so slowly that there is time to interfere, and waits until it is on its way.
fn begin_slowly(cluster: &mut Cluster) -> Result<()> {
    let b = &mut cluster.hosts[1];
    b.enter(&format!("migrate {SWEEPER} a --bandwidth 1mbit"))?;
    b.serial().expect_line("pre-copy 1:", MOVE_TIMEOUT)?;
    Ok(())
}

fn cut_midway(cluster: &mut Cluster) -> Result<()> {
    begin_slowly(cluster)?;
    let port = cluster.hosts[0].port.context("no port")?;
    cluster.switch.cut(port);
    let outcome = cluster.hosts[1].finish_migrate(SWEEPER, "a", MOVE_TIMEOUT);
    cluster.switch.mend(port);
    let Outcome::Failed(line) = outcome? else { bail!("it did not fail") };
    ensure!(line.contains("the guest goes on here"), "{line}");
    println!("     {line}");
    sweeps(&mut cluster.hosts[1])?;
    // The target notices later, by its own clock.
    eventually(MOVE_TIMEOUT, || match cluster.hosts[0].guest_state(SWEEPER)? {
        Some((state, row)) if state != "stopped" => bail!("the target has not let go: {row}"),
        _ => Ok(()),
    })
}

/// On all that was done so far, of which restoring a guest goes deepest.
fn stacks_have_room(cluster: &mut Cluster) -> Result<()> {
    for host in &mut cluster.hosts {
        let memory = host.succeed("mem")?;
        let line = memory.lines().find(|line| line.starts_with("stacks")).with_context(|| memory.clone())?;
        println!("     host {}: {line}", host.name);
        let numbers: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let is_kib = line.matches(" KiB").count() == 2;
        let [deepest, size] = numbers[..] else { bail!("{line}") };
        ensure!(is_kib && deepest * 2.0 <= size, "{line}");
    }
    Ok(())
}

fn no_memory(cluster: &mut Cluster) -> Result<()> {
    let a = &mut cluster.hosts[0];
    a.succeed(&format!("vm start {BIG}"))?;
    eventually(COMMAND_TIMEOUT, || a.expect_state(BIG, "running"))?;
    let outcome = a.migrate(BIG, "b", MOVE_TIMEOUT)?;
    let (Outcome::Failed(line) | Outcome::Refused(line)) = outcome else { bail!("it moved") };
    ensure!(line.contains("memory"), "{line}");
    println!("     {line}");
    a.expect_state(BIG, "running")?;
    Ok(())
}

/// The lab's own host answers as a target of another version, and then with what no version says.
fn other_version(cluster: &mut Cluster) -> Result<()> {
    let line = fails_at_lab(cluster, version::refuse)?;
    ensure!(line.contains("no common protocol version") && line.contains("999"), "{line}");
    let line = fails_at_lab(cluster, |peer, connection| {
        peer.receive(connection, COMMAND_TIMEOUT).context("nothing was said")?;
        peer.send(connection, &[0xfe; 256], COMMAND_TIMEOUT).context("answering")?;
        peer.serve(Duration::from_secs(1));
        peer.close(connection);
        Ok(())
    })?;
    ensure!(line.contains("lab"), "{line}");
    cluster.hosts[0].expect_state(BIG, "running").map(|_| ())
}

/// Moves the big guest to the lab, which answers by `answer`; the line that says why it failed.
fn fails_at_lab(cluster: &mut Cluster, answer: fn(&mut Peer, Connection) -> Result<()>) -> Result<String> {
    let mut peer = lab_peer(cluster);
    let a = &mut cluster.hosts[0];
    let outcome = std::thread::scope(|scope| {
        let command = scope.spawn(|| a.migrate(BIG, LAB_NAME, MOVE_TIMEOUT));
        let connection = peer.accept(MIGRATION_PORT, MOVE_TIMEOUT).context("nobody connected")?;
        answer(&mut peer, connection)?;
        while !command.is_finished() {
            peer.serve(Duration::from_millis(50));
        }
        command.join().map_err(|_| anyhow::anyhow!("the thread that types has panicked"))?
    })?;
    let Outcome::Failed(line) = outcome else { bail!("{outcome:?}") };
    println!("     {line}");
    ensure!(line.contains("the guest goes on here"), "{line}");
    Ok(line)
}

fn nobody_there(cluster: &mut Cluster) -> Result<()> {
    let a = &mut cluster.hosts[0];
    let outcome = a.migrate(BIG, LAB_NAME, MOVE_TIMEOUT)?;
    let (Outcome::Failed(line) | Outcome::Refused(line)) = outcome else { bail!("it moved to nobody") };
    println!("     {line}");
    a.expect_state(BIG, "running")?;
    a.succeed(&format!("vm stop {BIG}")).map(|_| ())
}

/// The last of what the two hosts do.
fn target_dies(cluster: &mut Cluster) -> Result<()> {
    deaths::begin(cluster, 0, "b", deaths::BEFORE)?;
    cluster.hosts[1].kill();
    deaths::goes_on(cluster, 0, "b")
}
