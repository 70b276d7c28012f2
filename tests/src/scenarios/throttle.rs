//! A guest that dirties memory as fast as it computes: a move slows it down, and gives it back its speed when it ends.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::moves::{SWEEP_TIMEOUT, sweep_number};
use crate::cluster::Cluster;
use crate::config::GuestConfig;
use crate::host::{COMMAND_TIMEOUT, Host, MOVE_TIMEOUT, Outcome};

/// The bare-metal guest that writes 128 pages over and over without a pause.
const BUSY: &str = "busy";
/// Rounds of two seconds and more, none of which leaves less than the one before.
const OPTIONS: &str = "--mode precopy --bandwidth 2mbit";
/// By how much it is slowed when it is looked at, in percent: a step or two more by the end of that.
const SLOWED_BY: u32 = 50;
const WATCHED: Duration = Duration::from_secs(3);

pub(super) fn guest() -> GuestConfig {
    GuestConfig::bare(BUSY, "pattern 128 1")
}

/// The guest runs at host a, and stays there.
pub(super) fn slows(cluster: &mut Cluster) -> Result<()> {
    let outcome = is_slowed(&mut cluster.hosts[0]);
    // Whatever came of it: others need the processor.
    for host in &mut cluster.hosts {
        if host.guest_state(BUSY)?.is_some_and(|(state, _)| state != "stopped") {
            host.succeed(&format!("vm stop {BUSY}"))?;
        }
    }
    outcome
}

fn is_slowed(a: &mut Host) -> Result<()> {
    a.succeed(&format!("vm start {BUSY}"))?;
    let before = sweeps_per_second(a)?;
    a.enter(&format!("migrate {BUSY} b {OPTIONS}"))?;
    a.serial().expect("pre-copy 1:", MOVE_TIMEOUT)?;
    a.serial().write(b"\x03")?;
    a.wait_for_prompt(COMMAND_TIMEOUT)?;
    let until = Instant::now() + MOVE_TIMEOUT;
    while slowed_by(&a.succeed("migrate status")?) < SLOWED_BY {
        ensure!(Instant::now() < until, "it is not slowed down: {}", a.succeed("migrate status")?);
        std::thread::sleep(Duration::from_millis(500));
    }
    let meanwhile = sweeps_per_second(a)?;
    a.enter(&format!("migrate cancel {BUSY}"))?;
    let Outcome::Failed(line) = a.finish_migrate(BUSY, "b", COMMAND_TIMEOUT)? else { bail!("it moved") };
    ensure!(line.contains("failed: cancelled"), "{line}");
    let after = sweeps_per_second(a)?;
    println!("     {before:.0} sweeps a second, {meanwhile:.0} while it was slowed, {after:.0} behind that");
    ensure!(meanwhile < before * 0.6, "its speed did not follow");
    ensure!(after > meanwhile * 1.4, "it did not get its speed back");
    Ok(())
}

/// `…, guest slowed by 20 %`.
fn slowed_by(status: &str) -> u32 {
    let percent =
        status.split_once("guest slowed by ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    percent.unwrap_or(0)
}

fn sweeps_per_second(host: &mut Host) -> Result<f64> {
    host.attach(BUSY, "", COMMAND_TIMEOUT)?;
    host.serial().skip_pending();
    let mut number = || -> Result<u64> {
        let line = host.serial().expect_line("pattern: sweep", SWEEP_TIMEOUT)?;
        sweep_number(&line).context(line)
    };
    let (first, began) = (number()?, Instant::now());
    let mut last = first;
    while began.elapsed() < WATCHED {
        last = number()?;
    }
    let speed = (last - first) as f64 / began.elapsed().as_secs_f64();
    host.detach()?;
    Ok(speed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_much_a_guest_is_slowed_is_read() {
        assert_eq!(slowed_by("wire 500 KB/s, dirty rate 4 MiB/s, guest slowed by 65 %\n  mode precopy"), 65);
        assert_eq!(slowed_by("wire 500 KB/s, dirty rate 4 MiB/s\n"), 0);
    }
}
