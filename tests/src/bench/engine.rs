//! The migration engine natively on this machine over loopback TCP, beside QEMU's on the same memory image.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::Row;
use super::memory::{self, Image};
use crate::scratch;

/// Size of the memory image.
const IMAGE_MIB: u64 = 2048;
const REPEATS: &str = "3";

/// What the engine's own program says of a run (`migration/examples/stream`).
#[derive(Deserialize)]
struct Run {
    mode: String,
    cpu_s_per_gib: f64,
    wire_mib: f64,
    ram_equal: bool,
}

#[derive(Deserialize)]
struct Report {
    memcpy_mib_s: f64,
    zero_scan_mib_s: f64,
    runs: Vec<Run>,
}

/// One way to migrate: the engine's mode with its limits, and QEMU's that is like it.
struct Way {
    mode: &'static str,
    qemu: &'static str,
    /// CPU seconds per GiB, on the machine of `shared/bench/results.md`.
    cpu_limit: f64,
    /// The same in parts of what QEMU needs, wherever both run.
    ratio_limit: f64,
    wire_limit: f64,
}

const WAYS: [Way; 2] = [
    Way { mode: "plain", qemu: "precopy", cpu_limit: 0.42, ratio_limit: 0.42 / 0.84, wire_limit: 1_240.0 },
    Way {
        mode: "compressed",
        qemu: "multifd 2, zstd -1",
        cpu_limit: 0.84,
        ratio_limit: 0.84 / 2.3,
        wire_limit: 620.0,
    },
];

/// The engine and, where the comparison is, QEMU, one after the other.
///
/// # Errors
/// One of them failed.
pub fn measure() -> Result<Vec<Row>> {
    let report = native()?;
    ensure!(report.runs.iter().all(|run| run.ram_equal), "the target's memory differs");
    let comparison = memory::comparison();
    let mut rows = Vec::new();
    for way in &WAYS {
        let qemu = comparison.as_deref().map(|directory| qemu(directory, way.qemu)).transpose()?;
        rows.extend(rows_of(way, &report, qemu.as_ref())?);
    }
    let Report { memcpy_mib_s, zero_scan_mib_s, .. } = report;
    let text = format!("memcpy {memcpy_mib_s:.0} MiB/s, zero scan {zero_scan_mib_s:.0} MiB/s");
    rows.push(Row::reference("… in the same run", text));
    Ok(rows)
}

/// Our engine over loopback TCP, the memory image moved between two processes.
fn native() -> Result<Report> {
    let image = Image::new(IMAGE_MIB)?;
    let work = memory::directory()?;
    let file = work.path().join("report.json");
    let status = Command::new("cargo")
        .args(["run", "--release", "--quiet", "-p", "godwit-migration", "--example", "stream", "--"])
        .args(["--repeats", REPEATS, "--report"])
        .arg(&file)
        .arg("--image")
        .arg(&image.path)
        .current_dir(scratch::workspace())
        .stdout(std::process::Stdio::null())
        .status()
        .context("cargo")?;
    ensure!(status.success(), "the engine's program failed");
    Ok(serde_json::from_slice(&std::fs::read(&file)?)?)
}

fn rows_of(way: &Way, report: &Report, qemu: Option<&QemuRun>) -> Result<Vec<Row>> {
    let mode = way.mode;
    let mut runs: Vec<&Run> = report.runs.iter().filter(|run| run.mode == mode).collect();
    runs.sort_by(|a, b| a.cpu_s_per_gib.total_cmp(&b.cpu_s_per_gib));
    let run = runs.get(runs.len() / 2).with_context(|| format!("no {mode} run"))?;
    let (least, most) = (runs[0].cpu_s_per_gib, runs[runs.len() - 1].cpu_s_per_gib);
    let figure = |what: &str| format!("engine natively, 2 GiB image, {mode}: {what}");
    let cpu = Row::at_most(&figure("CPU s per GiB"), run.cpu_s_per_gib, way.cpu_limit, "");
    let cpu = cpu.with_spread(least, most);
    let on_the_wire = |name: &str| Row::at_most(name, run.wire_mib, way.wire_limit, " MiB");
    let Some(qemu) = qemu else {
        let ratio =
            Row::not_measured(&format!("… / QEMU's ({})", way.qemu), memory::NO_COMPARISON.to_owned());
        return Ok(vec![cpu, ratio, on_the_wire("… on the wire")]);
    };
    let ratio = run.cpu_s_per_gib / qemu.cpu_s_per_gib;
    let name = format!("… / QEMU's in the same run ({}: {:.2})", way.qemu, qemu.cpu_s_per_gib);
    let wire = format!("… on the wire (QEMU {:.0} MiB)", qemu.wire_mib);
    Ok(vec![cpu, Row::at_most(&name, ratio, way.ratio_limit, ""), on_the_wire(&wire)])
}

/// What QEMU's migration of a paused 2 GiB guest cost.
#[derive(Debug, PartialEq)]
struct QemuRun {
    cpu_s_per_gib: f64,
    wire_mib: f64,
}

impl QemuRun {
    /// Of what `qemu_stream.py --json` prints: lines of progress, then a list with one entry per mode.
    fn parse(output: &str) -> Result<Self> {
        let start = output.find("\n[").context("no JSON")?;
        let modes: Vec<Mode> = serde_json::from_str(&output[start..])?;
        let [Mode { size_mib, runs, summary }] = &modes[..] else { bail!("not one mode") };
        ensure!(runs.iter().all(|run| run.ram_equal), "the target's memory differs");
        Ok(Self {
            cpu_s_per_gib: summary.cpu_s.median / (size_mib / 1024.0),
            wire_mib: summary.wire_mib.median,
        })
    }
}

/// What is of interest in the report of `qemu_stream.py`.
#[derive(Deserialize)]
struct Mode {
    size_mib: f64,
    runs: Vec<ModeRun>,
    summary: Summary,
}

#[derive(Deserialize)]
struct ModeRun {
    ram_equal: bool,
}

#[derive(Deserialize)]
struct Summary {
    cpu_s: Statistic,
    wire_mib: Statistic,
}

#[derive(Deserialize)]
struct Statistic {
    median: f64,
}

fn qemu(directory: &Path, mode: &str) -> Result<QemuRun> {
    let work = memory::directory()?;
    let output = python(directory, work.path(), &["qemu_stream.py", "--json", mode])?;
    QemuRun::parse(&output).with_context(|| format!("of QEMU: {output}"))
}

pub(super) fn python(directory: &Path, work: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new("python3")
        .args(arguments)
        .current_dir(directory)
        .env("BENCH_DIR", work)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .context("python3")?;
    if !output.status.success() {
        bail!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_qemu_cost_is_read() {
        let text = "stream precopy: 900 ms, 1.68 CPU s, RAM equal: True\n[{\"mode\": \"precopy\", \"size_mib\": 2048, \
            \"runs\": [{\"ram_equal\": true}], \"summary\": {\"cpu_s\": {\"min\": 1.6, \"median\": 1.68, \"max\": 1.7}, \
            \"wire_mib\": {\"median\": 1235.0}}}]\n";
        assert_eq!(QemuRun::parse(text).unwrap(), QemuRun { cpu_s_per_gib: 0.84, wire_mib: 1_235.0 });
        assert!(QemuRun::parse(&text.replace("true", "false")).is_err());
    }
}
