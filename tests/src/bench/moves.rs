//! What a move costs: bytes on the wire, pages after the stun, downtime under load.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{GUEST_TIMEOUT, Row};
use crate::cluster::{Cluster, Plan};
use crate::config::GuestConfig;
use crate::figures::{Moved, span};
use crate::host::{COMMAND_TIMEOUT, MOVE_TIMEOUT};
use crate::machine::{Kind, Spec};

const LINUX: &str = "linux";
const MEMORY_MIB: u64 = 128;
const PAGE_BYTES: f64 = 4_096.0;
/// What the busy guest writes: far below the wire's rate.
const PAGES_PER_SECOND: u64 = 200;
/// What is asked for: the wire carries 1.4 MB/s, and a guest that works dirties some 200 pages in any half of a second.
const DOWNTIME_LIMIT: Duration = Duration::from_millis(1_000);

/// Moves an idle guest to host b, and a writing one back.
///
/// # Errors
/// A host or a guest did not do what it should.
pub fn measure(kind: Kind) -> Result<Vec<Row>> {
    let mut cluster =
        Plan::new("bench-moves", kind, 2).guest(0, GuestConfig::linux(LINUX, MEMORY_MIB)).start()?;
    cluster.wait_for_prompts()?;
    for host in &mut cluster.hosts {
        host.succeed("migrate set mode precopy")?;
    }
    cluster.hosts[0].succeed("vm start linux")?;
    cluster.hosts[0].attach(LINUX, "guest: ready", GUEST_TIMEOUT)?;
    cluster.hosts[0].detach()?;
    let mut rows = idle(&mut cluster)?;
    rows.extend(busy(&mut cluster)?);
    Ok(rows)
}

fn idle(cluster: &mut Cluster) -> Result<Vec<Row>> {
    let port = cluster.hosts[0].port.context("no port")?;
    let before = cluster.switch.statistics(port).sent_bytes;
    let moved = cluster.hosts[0].migrate(LINUX, "b", MOVE_TIMEOUT)?.moved()?;
    let wire = cluster.switch.statistics(port).sent_bytes - before;
    let pages = distinct_pages(&moved).with_context(|| moved.details.clone())?;
    let stun = work_in_stun(&moved).with_context(|| moved.details.clone())?;
    let ticks = stun.as_secs_f64() * Spec::IPS_NETWORK as f64;
    Ok(vec![
        Row::reference("idle 128 MiB Linux moves", moved.line.clone()),
        Row::at_most(
            "… bytes on the wire (frames and all) / bytes of its non-zero distinct pages",
            wire as f64 / (pages as f64 * PAGE_BYTES),
            1.0,
            "",
        ),
        Row::at_most("… pages sent after the stun", moved.pages_in_downtime as f64, 64.0, ""),
        Row::at_most("… engine and device work inside the stun", ticks, 2e6, " ticks"),
        Row::reference("… its downtime, by cause", causes(&moved)),
    ])
}

fn busy(cluster: &mut Cluster) -> Result<Vec<Row>> {
    let b = &mut cluster.hosts[1];
    b.attach(LINUX, "", COMMAND_TIMEOUT)?;
    b.guest_command("", COMMAND_TIMEOUT)?;
    let output = b.guest_command(&format!("pattern start 16 {PAGES_PER_SECOND}"), GUEST_TIMEOUT)?;
    ensure!(output.contains("pattern: started"), "{output}");
    b.detach()?;
    b.succeed(&format!("migrate set downtime {}ms", DOWNTIME_LIMIT.as_millis()))?;
    let moved = b.migrate(LINUX, "a", MOVE_TIMEOUT)?.moved()?;
    let a = &mut cluster.hosts[0];
    a.attach(LINUX, "", COMMAND_TIMEOUT)?;
    a.guest_command("", COMMAND_TIMEOUT)?;
    let check = a.guest_command("pattern check", GUEST_TIMEOUT)?;
    a.detach()?;
    ensure!(check.contains("violations=0"), "{check}");
    let (measured, limit) = (moved.downtime.as_secs_f64() * 1e3, DOWNTIME_LIMIT.as_secs_f64() * 1e3);
    Ok(vec![
        Row::reference("Linux moves while it rewrites 200 pages a second", moved.line.clone()),
        Row::at_most("… downtime", measured, limit, " ms"),
        Row::reference("… by cause", causes(&moved)),
        Row::reference("… what the guest saw", check),
    ])
}

/// Pages that were sent with their contents: neither zero nor known to the target.
fn distinct_pages(moved: &Moved) -> Option<u64> {
    let line = moved.details.lines().find(|line| line.starts_with("pages: "))?;
    let count = |name: &str| -> Option<u64> {
        let words: Vec<_> = line.split([' ', ',']).filter(|word| !word.is_empty()).collect();
        let at = words.iter().position(|word| *word == name)?;
        words.get(at.checked_sub(1)?)?.parse().ok()
    };
    Some(count("whole")? + count("compressed")?)
}

/// The downtime's parts in which no wire is waited for, of both sides.
fn work_in_stun(moved: &Moved) -> Option<Duration> {
    let text = causes(moved);
    let part = |name: &str| span(text.split(name).nth(1)?.split(['+', 'o']).next()?);
    let target = part("restore ")? + part("start ")?;
    Some(part("pause ")? + part("dirty log ")? + part("devices ")? + target)
}

/// The lines about the downtime, as one.
fn causes(moved: &Moved) -> String {
    let lines = moved.details.lines().skip_while(|line| !line.starts_with("downtime: "));
    lines.take_while(|line| !line.starts_with("digest")).map(str::trim).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_taken_apart() {
        let before = "pages: 23558 zero, 210 whole, 9000 compressed, 120 known, 11 unchanged; 41 while stopped\n\
            downtime: 41 ms = pause 1.0 ms + dirty log 2.0 ms + last pages 10 ms\n\
            \u{20} + devices 3.0 ms + verify 20 ms + commit 5.0 ms\n\
            \u{20} the target's part: restore 2.0 ms of verify, start 1.0 ms of commit\n\
            digest: 0123456789abcdef at both ends\n";
        let line = "linux moved to b: total 12.3 s, downtime 41 ms, rounds 4, sent 38.2 MiB, verified";
        let moved = Moved::parse(before, line).unwrap();
        assert_eq!(distinct_pages(&moved), Some(9_210));
        assert_eq!(work_in_stun(&moved), Some(Duration::from_millis(9)));
        assert!(causes(&moved).ends_with("start 1.0 ms of commit"));
    }
}
