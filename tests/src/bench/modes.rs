//! What goes before the switch and what after it: downtime, bytes and waits of each mode, for guests that write little,
//! some and most of their memory, on the same wire.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{GUEST_TIMEOUT, Row};
use crate::cluster::{Cluster, Plan};
use crate::config::GuestConfig;
use crate::figures::{Moved, span};
use crate::host::{COMMAND_TIMEOUT, Host, MOVE_TIMEOUT, Outcome};
use crate::machine::{Kind, Spec};
use crate::switch::link::Conditions;

/// The largest working set begins at 8 MiB and has a table behind it.
const MEMORY_MIB: u64 = 48;
const PAGES: u64 = MEMORY_MIB << 20 >> 12;
const PAGE_BYTES: f64 = 4_096.0;
/// Ticks for each page: 125 pages a second, 0.5 MB/s, a third of what the card takes in.
const TICKS: u64 = 80_000;
/// Parts of RAM that are written, in percent.
const WORKING_SETS: [u64; 3] = [5, 25, 75];
const MODES: [&str; 3] = ["precopy", "postcopy", "hybrid"];
/// What is measured once more with memory of which nothing compresses.
const NOISE: [(u64, &str); 3] = [(25, "postcopy"), (25, "hybrid"), (75, "postcopy")];
/// Each way, to a host in another town: on the short wire a page takes longer through the emulated cards than an echo.
const FAR: Duration = Duration::from_millis(20);

/// A guest to be moved.
#[derive(Clone, Copy)]
struct Case {
    working_set: u64,
    mode: &'static str,
    /// What it rewrites compresses as memory in use does, or not at all.
    is_noise: bool,
    is_far: bool,
}

/// One move.
struct Measured {
    moved: Moved,
    case: Case,
    /// The longest time between two writes that the guest itself saw, and by how much all that came late did so.
    gap_ms: f64,
    lost_ms: f64,
    /// How long an echo took meanwhile, where the hosts' clocks allow no other comparison.
    echo: Option<Duration>,
}

/// Moves one guest for each working set and mode from host a to host b, and one over a longer way.
///
/// # Errors
/// A host or a guest did not do what it should.
pub fn measure(kind: Kind) -> Result<Vec<Row>> {
    let mut plan = Plan::new("bench-modes", kind, 2);
    for case in cases() {
        let pages = PAGES * case.working_set / 100;
        let behaviour = if case.is_noise { "pattern" } else { "mixed" };
        let mut guest = GuestConfig::bare(&case.guest(), &format!("{behaviour} {pages} {TICKS}"));
        guest.memory_mib = MEMORY_MIB;
        plan = plan.guest(0, guest);
    }
    let mut cluster = plan.start()?;
    cluster.wait_for_prompts()?;
    let mut rows = Vec::new();
    for is_far in [false, true] {
        if is_far {
            let wire = Conditions { delay: FAR, ..Conditions::default() };
            cluster.switch.set(cluster.hosts[0].port.context("no port")?, wire);
        }
        let round_trip = round_trip(&mut cluster.hosts[0])?;
        rows.push(Row::reference(
            "guests of 48 MiB that rewrite 125 pages a second; the wire's round trip",
            format!("{:.1} ms", milliseconds(round_trip)),
        ));
        for case in cases().filter(|case| case.is_far == is_far) {
            match one(&mut cluster, case).with_context(|| case.guest())? {
                Ok(measured) => rows.extend(rows_of(&measured, round_trip)),
                Err(why) if case.mode == "precopy" => rows.push(Row::reference(&case.figure(), why)),
                Err(why) => rows.push(Row::not_measured(&case.figure(), why)),
            }
        }
    }
    Ok(rows)
}

fn cases() -> impl Iterator<Item = Case> {
    let near = |working_set, mode| Case { working_set, mode, is_noise: false, is_far: false };
    let noise = |(working_set, mode)| Case { is_noise: true, ..near(working_set, mode) };
    let far = Case { is_far: true, ..near(25, "postcopy") };
    let all = WORKING_SETS.into_iter().flat_map(move |working_set| MODES.map(|mode| near(working_set, mode)));
    all.chain(NOISE.map(noise)).chain([far])
}

impl Case {
    fn guest(self) -> String {
        let Self { working_set, mode, is_noise, is_far } = self;
        let kind = if is_noise { "noise-" } else { "" };
        format!("{}{kind}{mode}{working_set}", if is_far { "far-" } else { "" })
    }

    fn figure(self) -> String {
        let Self { working_set, mode, is_noise, is_far } = self;
        let content = if is_noise { ", noise" } else { "" };
        format!("{working_set} % of RAM written{content}, {mode}{}", if is_far { ", a far host" } else { "" })
    }
}

/// The shortest of the console's own echo requests.
fn round_trip(host: &mut Host) -> Result<Duration> {
    let output = host.command("ping b", COMMAND_TIMEOUT)?;
    let times = output.lines().filter_map(|line| span(line.rsplit_once(" in ")?.1));
    times.min().with_context(|| output.clone())
}

/// Moves one guest; or the line that says why it stays, as one may in pre-copy that writes faster than the wire carries.
fn one(cluster: &mut Cluster, case: Case) -> Result<std::result::Result<Measured, String>> {
    let (guest, mode) = (case.guest(), case.mode);
    let [a, b] = &mut cluster.hosts[..] else { anyhow::bail!("two hosts") };
    a.succeed(&format!("vm start {guest}"))?;
    let before = a.attach(&guest, "pattern: sweep 1 ", GUEST_TIMEOUT)?;
    a.detach()?;
    // The stop has three round trips in it, and the host's clock goes faster than the wire's.
    let limit = if case.is_far { " --downtime-limit 2s" } else { "" };
    a.enter(&format!("migrate {guest} b --mode {mode}{limit}"))?;
    let echo = if case.is_far { Some(echo_meanwhile(a)?) } else { None };
    let moved = match a.finish_migrate(&guest, "b", MOVE_TIMEOUT)? {
        Outcome::Failed(line) => {
            a.succeed(&format!("vm stop {guest}"))?;
            return Ok(Err(line));
        }
        outcome => outcome.moved()?,
    };
    b.attach(&guest, "", COMMAND_TIMEOUT)?;
    b.serial().skip_pending();
    let line = b.serial().expect_line("pattern: sweep", GUEST_TIMEOUT)?;
    b.detach()?;
    ensure!(line.contains(" 0 errors"), "{line}");
    b.succeed(&format!("vm stop {guest}"))?;
    let of = |line: &str, name| milliseconds_after(line, name).with_context(|| line.to_owned());
    let (gap_ms, lost_ms) = (of(&line, "longest ")?, of(&line, "lost ")? - of(&before, "lost ")?);
    Ok(Ok(Measured { moved, case, gap_ms, lost_ms, echo }))
}

/// The shortest of four echo requests while the rest of a guest is pushed. On a longer way most of an echo is the wire's, by
/// our clock, and a host's goes several times as fast while it idles as it does while it works.
fn echo_meanwhile(host: &mut Host) -> Result<Duration> {
    host.serial().expect_line("before all memory is there", MOVE_TIMEOUT)?;
    host.serial().write(b"\x03")?;
    host.wait_for_prompt(COMMAND_TIMEOUT)?;
    round_trip(host)
}

/// The number of ticks behind `name` in a line of the pattern's.
fn milliseconds_after(line: &str, name: &str) -> Option<f64> {
    let ticks: f64 = line.split(name).nth(1)?.split([' ', ',']).next()?.trim().parse().ok()?;
    Some(ticks * 1e3 / Spec::IPS_NETWORK as f64)
}

fn rows_of(measured: &Measured, round_trip: Duration) -> Vec<Row> {
    let Measured { moved, case, gap_ms, lost_ms, echo } = measured;
    let round_trip = echo.unwrap_or(round_trip);
    let ratio = moved.sent_bytes as f64 / in_use_bytes(&moved.details);
    let figure = case.figure();
    let waits = moved.details.lines().find_map(|line| line.trim().strip_prefix("waits: "));
    let mut rows = vec![Row::reference(
        &figure,
        format!(
            "downtime {:.0} ms, total {:.1} s, bytes on the wire / bytes in use {ratio:.3}, work lost in the \
             guest {lost_ms:.0} ms, at most {gap_ms:.0} ms at once; waits: {}",
            milliseconds(moved.downtime),
            moved.total.as_secs_f64(),
            waits.unwrap_or("none")
        ),
    )];
    match (case.mode, case.working_set) {
        ("postcopy", _) => rows.push(Row::at_most("… bytes / bytes in use", ratio, 1.0, "")),
        ("hybrid", 25) => rows.push(Row::at_most("… bytes / bytes in use", ratio, 1.3, "")),
        _ => {}
    }
    if case.mode == "postcopy"
        && let Some(waits) = waits
        && let Some((median, p99)) = percentiles(waits)
    {
        let of_round_trip = |time: Duration| time.as_secs_f64() / round_trip.as_secs_f64();
        let by = if echo.is_some() { "echo meanwhile" } else { "round trip" };
        let name = format!("… median wait / {by} ({:.1} ms)", milliseconds(round_trip));
        rows.push(Row::at_most(&name, of_round_trip(median), 1.5, ""));
        rows.push(Row::at_most(&format!("… 99th percentile / {by}"), of_round_trip(p99), 4.0, ""));
    }
    rows
}

/// What the guest has in its memory that is not zero: what it rewrites, its program, its tables.
fn in_use_bytes(details: &str) -> f64 {
    let zero: Option<u64> =
        details.split_once("pages: ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    PAGES.saturating_sub(zero.unwrap_or(0)) as f64 * PAGE_BYTES
}

/// `p50 2.0 ms, p99 4.0 ms, …`.
fn percentiles(waits: &str) -> Option<(Duration, Duration)> {
    let field = |name: &str| span(waits.split(name).nth(1)?.split(',').next()?);
    Some((field("p50 ")?, field("p99 ")?))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guest_saw_is_read() {
        let line = "pattern: sweep 5 over 102 pages, 0 errors, recent gap 9 ticks, longest 20000, lost 50000";
        assert_eq!(milliseconds_after(line, "longest "), Some(2.0));
        assert_eq!(milliseconds_after(line, "lost "), Some(5.0));
        assert_eq!(milliseconds_after("pattern: sweep 5", "lost "), None);
    }

    #[test]
    fn waits_are_read() {
        let waits = "p50 2.0 ms, p99 4.5 ms, max 5.0 ms, 30 ms in all";
        assert_eq!(percentiles(waits), Some((Duration::from_millis(2), Duration::from_micros(4_500))));
    }

    #[test]
    fn what_is_sent_and_waited_for_is_set_against_its_limits() {
        let line = "g moved to b: total 2.0 s, downtime 20 ms, rounds 0, sent 8.00 MiB, verified";
        let before = "pages: 10240 zero, 2 whole, 3 compressed, 0 known, 0 unchanged; 2048 while stopped\n\
            after the switch: 2048 pages, as was asked for\n  \
            waits: p50 2.0 ms, p99 9.0 ms, max 9.0 ms, 30 ms in all\n";
        let moved = Moved::parse(before, line).unwrap();
        let case = Case { working_set: 25, mode: "postcopy", is_noise: false, is_far: false };
        let measured = Measured { moved, case, gap_ms: 7.0, lost_ms: 9.0, echo: None };
        let rows = rows_of(&measured, Duration::from_millis(2));
        let verdicts: Vec<_> = rows.iter().map(|row| row.verdict).collect();
        use super::super::Verdict::{Missed, Reached, Reference};
        assert_eq!(verdicts, [Reference, Reached, Reached, Missed], "{rows:?}");
    }
}
