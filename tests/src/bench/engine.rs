//! The migration engine natively on this machine over loopback TCP, beside QEMU's on the same memory image.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Row;
use crate::scratch;

/// Where the comparison with QEMU is kept, beside the checkout.
fn comparison() -> PathBuf {
    scratch::workspace().join("../shared/bench")
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
        let output = python(&directory, &["qemu_stream.py", mode])?;
        rows.extend(markdown_rows(&output).into_iter().map(|(mode, text)| Row::reference(&mode, text)));
    }
    Ok(rows)
}

fn python(directory: &Path, arguments: &[&str]) -> Result<String> {
    let work = scratch::directory("bench-qemu")?;
    let output = Command::new("python3")
        .args(arguments)
        .current_dir(directory)
        .env("BENCH_DIR", &work)
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
