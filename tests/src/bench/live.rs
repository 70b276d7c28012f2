//! A running guest moved by the migration engine natively on this machine, beside QEMU that moves one like it.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::Row;
use super::engine::python;
use super::memory::{self, Image};
use crate::scratch;

/// Size of the memory image, as in `qemu_live.py`.
const IMAGE_MIB: u64 = 256;

/// Runs each of the cases that are named once, without the *held* runs that would double the time, and prints a line of
/// JSON for each.
const QEMU_ONCE: &str = "
import json, sys
import common, qemu_live
common.enter_private_network()
calibration = qemu_live.Calibration(1)
for case in qemu_live.cases():
    if case.name in sys.argv[1:]:
        result = qemu_live.attempt(case, calibration, lambda text: None)
        print(json.dumps({'name': case.name, **result}), flush=True)
";

/// What the engine's own program says of a run (`migration/examples/live`).
#[derive(Clone, Debug, Deserialize)]
struct Run {
    name: String,
    group: String,
    mode: String,
    working_set_mib: u32,
    pages_s: u32,
    cap: u64,
    limit_ms: u64,
    compressed: bool,
    wired: bool,
    intact: bool,
    done: bool,
    why: String,
    lost_work_ms: f64,
    round_trip_ms: f64,
    ping_p50_ms: f64,
    ping_p99_ms: f64,
    ram_used_mib: f64,
    #[serde(default)]
    total_ms: f64,
    #[serde(default)]
    downtime_ms: f64,
    #[serde(default)]
    stall_ms: f64,
    #[serde(default)]
    blocked_ms: f64,
    #[serde(default)]
    waits: u64,
    #[serde(default)]
    wait_p50_ms: f64,
    #[serde(default)]
    wait_p99_ms: f64,
    #[serde(default)]
    wire_mib: f64,
    #[serde(default)]
    rounds: u32,
}

#[derive(Deserialize)]
struct Report {
    runs: Vec<Run>,
}

/// What QEMU's program says of one.
#[derive(Clone, Debug, Deserialize)]
struct Peer {
    name: String,
    converged: bool,
    intact: bool,
    total_ms: Option<f64>,
    #[serde(default)]
    postcopy_blocktime_ms: Option<f64>,
}

impl Peer {
    fn mode(&self) -> &str {
        self.name.split(", W ").next().unwrap_or_default()
    }
}

/// QEMU's case of that mode, working set and rate, as it names it. Its post-copy needs a limit of 1 ms.
fn qemu_name(mode: &str, run: &Run) -> String {
    let limit = if mode == "postcopy" { 1 } else { run.limit_ms };
    format!(
        "{mode}, W {} MiB, {}k pages/s (idle), cap {} MB/s, limit {limit} ms",
        run.working_set_mib,
        run.pages_s / 1_000,
        run.cap / 1_000_000
    )
}

/// QEMU's modes that may be its best for a case. Pre-copy does not end in 10 s where the guest writes more than the link
/// carries, and the largest set at the lowest rate takes it half a minute: once is enough.
fn qemu_modes(run: &Run) -> &'static [&'static str] {
    match (run.pages_s, run.cap, run.working_set_mib, run.limit_ms) {
        (10_000, _, 192, 30) => &[],
        (10_000, ..) => &["precopy"],
        (_, 1_000_000_000, ..) => &["precopy", "postcopy"],
        (_, _, 8, _) => &["precopy", "xbzrle", "postcopy"],
        (_, _, 192, _) => &["xbzrle, 256 MiB cache", "postcopy"],
        _ => &["xbzrle", "postcopy"],
    }
}

/// The engine and, where the comparison is, QEMU, one after the other.
///
/// # Errors
/// One of them failed.
pub fn measure() -> Result<Vec<Row>> {
    let runs = native()?;
    ensure!(runs.iter().all(|run| run.intact), "a guest found memory that was not as it left it");
    let mut rows = Vec::new();
    let peers = if let Some(directory) = memory::comparison() {
        qemu(&directory, &runs)?
    } else {
        let name = "live: total and waits beside QEMU's";
        rows.push(Row::not_measured(name, memory::NO_COMPARISON.to_owned()));
        Vec::new()
    };
    for run in &runs {
        rows.extend(match (run.group.as_str(), run.mode.as_str()) {
            ("qemu", "auto") => beside_qemu(run, &peers),
            ("faults", _) if run.wired => latency(run),
            ("wire", _) => on_the_wire(run),
            _ => vec![Row::reference(&figure(run), course(run))],
        });
    }
    Ok(rows)
}

fn figure(run: &Run) -> String {
    format!("live: {}", run.name)
}

/// The migration in words.
fn course(run: &Run) -> String {
    if !run.done {
        return format!("not moved: {}", run.why);
    }
    let why = if run.why.is_empty() { String::new() } else { format!("; {}", run.why) };
    format!(
        "{:.0} ms, down {:.1} ms, stall {:.1} ms, blocked {:.1} ms in {} waits, lost work {:.0} ms, {:.0} MiB on the wire, \
         {} rounds{why}",
        run.total_ms,
        run.downtime_ms,
        run.stall_ms,
        run.blocked_ms,
        run.waits,
        run.lost_work_ms,
        run.wire_mib,
        run.rounds
    )
}

/// A row whose figure was not reached because the guest has not moved, or `row`.
fn if_moved(run: &Run, row: Row) -> Row {
    if run.done { row } else { Row { measured: course(run), verdict: super::Verdict::Missed, ..row } }
}

fn beside_qemu(run: &Run, peers: &[Peer]) -> Vec<Row> {
    let of = |mode: &&str| peers.iter().find(|peer| peer.name == qemu_name(mode, run));
    let peers: Vec<&Peer> = qemu_modes(run).iter().filter_map(of).collect();
    let best = peers
        .iter()
        .filter(|peer| peer.converged && peer.intact)
        .filter_map(|peer| Some((peer.total_ms?, peer.mode())))
        .min_by(|a, b| a.0.total_cmp(&b.0));
    let name = figure(run);
    let Some((total_ms, mode)) = best else {
        let row = Row::reference(&format!("{name} (QEMU not beside)"), course(run));
        return vec![if_moved(run, row)];
    };
    let total = format!("{name}: total / QEMU's best ({mode}: {total_ms:.0} ms)");
    let row = Row::at_most(&total, run.total_ms / total_ms, 1.0, "").with_details(&course(run));
    let mut rows = vec![if_moved(run, row)];
    let postcopy = peers.iter().find(|peer| peer.mode() == "postcopy" && peer.converged);
    if let Some(blocked_ms) = postcopy.and_then(|peer| peer.postcopy_blocktime_ms) {
        let blocked = format!("… blocked (a third of QEMU's post-copy: {blocked_ms:.0} ms)");
        rows.push(if_moved(run, Row::at_most(&blocked, run.blocked_ms, blocked_ms / 3.0, " ms")));
    }
    rows
}

/// How long the guest waited for pages that nobody could foresee, in round trips of the wire.
fn latency(run: &Run) -> Vec<Row> {
    let name = figure(run);
    let text = format!(
        "{:.2} ms, round trip {:.2} ms, of a ping meanwhile {:.2} ms",
        run.wait_p50_ms, run.round_trip_ms, run.ping_p50_ms
    );
    let p50 = Row::at_most(
        &format!("{name}: wait / round trip, p50"),
        run.wait_p50_ms / run.round_trip_ms,
        1.5,
        "",
    );
    let p99 = Row::at_most("… p99", run.wait_p99_ms / run.round_trip_ms, 4.0, "");
    let late =
        format!("{:.2} ms, of a ping meanwhile {:.2} ms; {}", run.wait_p99_ms, run.ping_p99_ms, course(run));
    vec![if_moved(run, p50.with_details(&text)), if_moved(run, p99.with_details(&late))]
}

/// The modes over one wire: what the guest lost, and how much went.
fn on_the_wire(run: &Run) -> Vec<Row> {
    let name = figure(run);
    let ratio = run.wire_mib / run.ram_used_mib;
    let limit = match (run.mode.as_str(), run.working_set_mib) {
        ("postcopy", _) => 1.0,
        ("hybrid", 64) => 1.3,
        _ => {
            let text = format!("{}; {ratio:.2} of the RAM in use", course(run));
            return vec![if_moved(run, Row::reference(&name, text))];
        }
    };
    let how = if run.compressed { "" } else { " without compression" };
    let bytes = format!("{name}: bytes / RAM in use{how}");
    vec![if_moved(run, Row::at_most(&bytes, ratio, limit, "").with_details(&course(run)))]
}

/// Our engine over loopback TCP, the guest moved between two hosts of one process.
fn native() -> Result<Vec<Run>> {
    let image = Image::new(IMAGE_MIB)?;
    let work = memory::directory()?;
    let file = work.path().join("report.json");
    let status = Command::new("cargo")
        .args(["run", "--release", "--quiet", "-p", "godwit-migration", "--example", "live", "--"])
        .arg("--report")
        .arg(&file)
        .arg("--image")
        .arg(&image.path)
        .current_dir(scratch::workspace())
        .stdout(std::process::Stdio::null())
        .status()
        .context("cargo")?;
    ensure!(status.success(), "the engine's program failed");
    let report: Report = serde_json::from_slice(&std::fs::read(&file)?)?;
    Ok(report.runs)
}

/// QEMU's runs of the cases that are compared.
fn qemu(directory: &std::path::Path, runs: &[Run]) -> Result<Vec<Peer>> {
    let compared = runs.iter().filter(|run| run.group == "qemu" && run.mode == "auto");
    let names = compared.flat_map(|run| qemu_modes(run).iter().map(|mode| qemu_name(mode, run)));
    let names: Vec<String> = names.collect();
    let mut arguments = vec!["-c", QEMU_ONCE];
    arguments.extend(names.iter().map(String::as_str));
    let work = memory::directory()?;
    let output = python(directory, work.path(), &arguments)?;
    output.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(mode: &str, pages_s: u32, cap: u64, working_set_mib: u32) -> Run {
        let text = format!(
            "{{\"name\":\"x\",\"group\":\"qemu\",\"mode\":\"{mode}\",\"working_set_mib\":{working_set_mib},\
             \"pages_s\":{pages_s},\"cap\":{cap},\"limit_ms\":300,\"compressed\":true,\"wired\":false,\"intact\":true,\
             \"done\":true,\"why\":\"\",\"lost_work_ms\":1.5,\"round_trip_ms\":2.0,\"ping_p50_ms\":2.1,\
             \"ping_p99_ms\":3.0,\"ram_used_mib\":100.0,\"total_ms\":900.0,\"blocked_ms\":50.0}}"
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_best_of_qemus_modes_is_compared_with() {
        let run = run("auto", 40_000, 100_000_000, 64);
        let peer = |mode: &str, total_ms: f64, blocked: Option<f64>| Peer {
            name: qemu_name(mode, &run),
            converged: true,
            intact: true,
            total_ms: Some(total_ms),
            postcopy_blocktime_ms: blocked,
        };
        let rows =
            beside_qemu(&run, &[peer("xbzrle", 1_000.0, None), peer("postcopy", 2_000.0, Some(120.0))]);
        assert!(
            rows[0].figure.ends_with("(xbzrle: 1000 ms)") && rows[0].measured.starts_with("0.90"),
            "{rows:?}"
        );
        assert_eq!(rows[1].verdict, crate::bench::Verdict::Missed, "50 ms of at most 40 ms");
        let stays = Run { done: false, why: "it does not converge".into(), ..run.clone() };
        assert_eq!(beside_qemu(&stays, &[])[0].measured, "not moved: it does not converge");
    }

    #[test]
    fn bytes_are_set_against_the_memory_in_use() {
        let hybrid = Run { wire_mib: 140.0, ..run("hybrid", 40_000, 0, 64) };
        assert_eq!(on_the_wire(&hybrid)[0].verdict, crate::bench::Verdict::Missed);
        assert_eq!(
            on_the_wire(&Run { wire_mib: 120.0, ..hybrid })[0].verdict,
            crate::bench::Verdict::Reached
        );
    }
}
