//! The migration engine natively on this machine over loopback TCP, beside QEMU's on the same memory image.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::Row;
use crate::scratch;

/// Where the comparison with QEMU is kept, beside the checkout.
fn comparison() -> PathBuf {
    scratch::workspace().join("../shared/bench")
}

/// Size of the memory image, and the seed that makes it.
const IMAGE_MIB: &str = "2048";
const IMAGE_SEED: &str = "1";
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

/// The engine and QEMU, one after the other.
///
/// # Errors
/// One of them failed.
pub fn measure() -> Result<Vec<Row>> {
    let mut rows = native()?;
    rows.extend(qemu()?);
    Ok(rows)
}

/// Our engine over loopback TCP, the memory image moved between two processes.
///
/// # Errors
/// The image could not be made, or the program failed.
pub fn native() -> Result<Vec<Row>> {
    let directory = comparison();
    if !directory.join("mkimage.py").exists() {
        let reason =
            "shared/bench, which makes the memory image, does not stand beside the checkout".to_owned();
        return Ok(vec![Row::not_measured("the engine natively", reason)]);
    }
    let work = memory_directory()?;
    let image = work.path().join("image");
    let image_path = image.display().to_string();
    python(&directory, work.path(), &["mkimage.py", &image_path, IMAGE_MIB, IMAGE_SEED])?;
    let file = work.path().join("report.json");
    let status = Command::new("cargo")
        .args(["run", "--release", "--quiet", "-p", "godwit-migration", "--example", "stream", "--"])
        .args(["--repeats", REPEATS, "--image", &image_path, "--report"])
        .arg(&file)
        .current_dir(scratch::workspace())
        .stdout(std::process::Stdio::null())
        .status()
        .context("cargo")?;
    ensure!(status.success(), "the engine's program failed");
    let report: Report = serde_json::from_slice(&std::fs::read(&file)?)?;
    rows_of(&report)
}

fn rows_of(report: &Report) -> Result<Vec<Row>> {
    ensure!(report.runs.iter().all(|run| run.ram_equal), "the target's memory differs");
    let mut rows = Vec::new();
    for (mode, cpu_limit, wire_limit) in [("plain", 0.42, 1_240.0), ("compressed", 0.84, 620.0)] {
        let mut runs: Vec<&Run> = report.runs.iter().filter(|run| run.mode == mode).collect();
        runs.sort_by(|a, b| a.cpu_s_per_gib.total_cmp(&b.cpu_s_per_gib));
        let run = runs.get(runs.len() / 2).with_context(|| format!("no {mode} run"))?;
        let figure = |what: &str| format!("engine natively, 2 GiB image, {mode}: {what}");
        let (least, most) = (runs[0].cpu_s_per_gib, runs[runs.len() - 1].cpu_s_per_gib);
        let cpu = Row::at_most(&figure("CPU s per GiB"), run.cpu_s_per_gib, cpu_limit, "");
        rows.push(cpu.with_spread(least, most));
        rows.push(Row::at_most(&figure("on the wire"), run.wire_mib, wire_limit, " MiB"));
    }
    let Report { memcpy_mib_s, zero_scan_mib_s, .. } = report;
    let text = format!("memcpy {memcpy_mib_s:.0} MiB/s, zero scan {zero_scan_mib_s:.0} MiB/s");
    rows.push(Row::reference("… in the same run", text));
    Ok(rows)
}

/// A directory in memory if there is one: disks would be measured otherwise.
fn memory_directory() -> Result<tempfile::TempDir> {
    let shared = Path::new("/dev/shm");
    let parent = if shared.is_dir() { shared.to_path_buf() } else { scratch::target() };
    Ok(tempfile::tempdir_in(parent)?)
}

/// QEMU's migration of a paused 2 GiB guest, if the scripts for it are there.
///
/// # Errors
/// The scripts are there and failed.
pub fn qemu() -> Result<Vec<Row>> {
    let directory = comparison();
    if !directory.join("qemu_stream.py").exists() {
        let reason = "the directory shared/bench does not stand beside the checkout".to_owned();
        return Ok(vec![Row::not_measured("QEMU's migration of the same image", reason)]);
    }
    let mut rows = Vec::new();
    for mode in ["precopy", "multifd 2, zstd -1"] {
        let work = memory_directory()?;
        let output = python(&directory, work.path(), &["qemu_stream.py", mode])?;
        rows.extend(markdown_rows(&output).into_iter().map(|(mode, text)| Row::reference(&mode, text)));
    }
    Ok(rows)
}

fn python(directory: &Path, work: &Path, arguments: &[&str]) -> Result<String> {
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

/// The rows of a Markdown table, each as its first cell and the others with their column's names.
fn markdown_rows(text: &str) -> Vec<(String, String)> {
    let mut lines = text.lines().filter(|line| line.starts_with('|'));
    let cells =
        |line: &str| line.trim_matches('|').split('|').map(|c| c.trim().to_owned()).collect::<Vec<_>>();
    let Some(names) = lines.next().map(cells) else { return Vec::new() };
    let rows = lines.filter(|line| !line.starts_with("|---")).map(|line| {
        let row = cells(line);
        let wanted = ["lo MiB", "CPU both s", "QEMU total ms"];
        let pairs = names.iter().zip(&row).filter(|(name, _)| wanted.contains(&name.as_str()));
        let text = pairs.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ");
        (format!("QEMU: {}", row.first().cloned().unwrap_or_default()), text)
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read() {
        let text = "x\n| mode | lo MiB | CPU both s |\n|---|---|---|\n| precopy | 1,235 | 1.68 |\n";
        assert_eq!(markdown_rows(text), [("QEMU: precopy".into(), "lo MiB 1,235, CPU both s 1.68".into())]);
    }
}
