//! What a move is foretold to take, and what it then takes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::moves::{SWEEPER, runs_only_at, sweeps};
use crate::cluster::Cluster;
use crate::figures::{self, Moved};
use crate::host::{COMMAND_TIMEOUT, MOVE_TIMEOUT};

/// As in the engine's simulation: what is sent is what the guest has in memory, which a sample tells, and what it writes
/// meanwhile, as often as there are rounds.
const BYTES_FACTOR: f64 = 2.0;
/// An emulated host's clock goes at one speed while it watches a guest, and at another while it sends.
const TIME_FACTOR: f64 = 4.0;
/// The usual one.
const DOWNTIME_LIMIT: Duration = Duration::from_millis(300);

/// The sweeper begins at a, and goes to b; in mode `auto`, which sees that rounds get ahead of it.
pub(super) fn comes_true(cluster: &mut Cluster) -> Result<()> {
    let a = &mut cluster.hosts[0];
    a.succeed(&format!("vm start {SWEEPER}"))?;
    sweeps(a)?;
    a.enter(&format!("migrate estimate {SWEEPER} b"))?;
    let would = format!("{SWEEPER} to b would take: ");
    let told = a.serial().expect_line(&would, MOVE_TIMEOUT)?;
    a.wait_for_prompt(COMMAND_TIMEOUT)?;
    let (_, told) = told.split_once(&would).context("what would it take?")?;
    let told = told.trim_end().to_owned();
    ensure!(cluster.hosts[1].guest_state(SWEEPER)?.is_none(), "an estimate leaves something at the target");

    let moved = cluster.hosts[0].migrate(SWEEPER, "b", MOVE_TIMEOUT)?.moved()?;
    println!("     estimated: {told}\n     {}", moved.line);
    let beside = moved.details.lines().find_map(|line| line.strip_prefix("estimated: "));
    ensure!(beside == Some(&told), "the report has {beside:?} beside the result");
    is_about_right(&told, &moved)?;
    ensure!(
        moved.rounds > 0 && !moved.details.contains("after the switch"),
        "it was switched: {}",
        moved.details
    );
    let commit = moved.part("commit").with_context(|| moved.details.clone())?;
    ensure!(moved.downtime.saturating_sub(commit) <= DOWNTIME_LIMIT, "{}", moved.details);
    runs_only_at(cluster, SWEEPER, 1)?;
    sweeps(&mut cluster.hosts[1])
}

/// `total 2.1 s, downtime 40 ms, rounds 3, sent 3.10 MiB`.
fn is_about_right(told: &str, moved: &Moved) -> Result<()> {
    let field = |name: &str| told.split(", ").find_map(|part| part.strip_prefix(name));
    let time = |name| field(name).and_then(figures::span).with_context(|| told.to_owned());
    let sent = field("sent ").and_then(figures::bytes).with_context(|| told.to_owned())?;
    for (told, is, factor) in [
        (sent as f64, moved.sent_bytes as f64, BYTES_FACTOR),
        (time("total ")?.as_secs_f64(), moved.total.as_secs_f64(), TIME_FACTOR),
        (time("downtime ")?.as_secs_f64(), moved.downtime.as_secs_f64(), TIME_FACTOR),
    ] {
        ensure!((1.0 / factor..=factor).contains(&(told / is)), "{told} is not about {is}: {}", moved.line);
    }
    Ok(())
}
