//! What a machine boots: the loader and the hypervisor, built, and a disk with them, a configuration and guests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use crate::scratch;

pub mod esp;
pub mod stick;

use esp::Content;

/// The built programs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The UEFI application.
    pub loader: PathBuf,
    /// The hypervisor's ELF file.
    pub hypervisor: PathBuf,
}

static PROGRAMS: Mutex<Option<Programs>> = Mutex::new(None);

/// Builds loader and hypervisor for release; once per process, and quick when nothing has changed.
///
/// # Errors
/// A build failed; its messages have gone to standard error.
pub fn programs() -> Result<Programs> {
    let mut slot = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(programs) = &*slot {
        return Ok(programs.clone());
    }
    let hypervisor = "-p godwit-hypervisor --bin godwit --features image --target x86_64-unknown-none";
    cargo_build(hypervisor, &[])?;
    cargo_build("-p godwit-boot --bin godwit-boot --features loader --target x86_64-unknown-uefi", &[])?;
    let programs = Programs {
        loader: scratch::target().join("x86_64-unknown-uefi/release/godwit-boot.efi"),
        hypervisor: scratch::target().join("x86_64-unknown-none/release/godwit"),
    };
    *slot = Some(programs.clone());
    Ok(programs)
}

/// Runs `cargo build --release` with `arguments` (separated by blanks) in the workspace.
///
/// # Errors
/// Cargo could not be run, or the build failed.
pub fn cargo_build(arguments: &str, environment: &[(&str, &str)]) -> Result<()> {
    let status = Command::new("cargo")
        .args(["build", "--release", "--quiet"])
        .args(arguments.split(' '))
        .envs(environment.iter().copied())
        .current_dir(scratch::workspace())
        .status()
        .context("cargo")?;
    if !status.success() {
        bail!("cargo build --release {arguments} failed");
    }
    Ok(())
}

/// Writes the disk of one host to `path`: its [`host_contents`].
///
/// # Errors
/// A file could not be read, or the disk not be written.
pub fn host_disk(
    path: &Path,
    programs: &Programs,
    configuration: &str,
    files: &[(&str, &Path)],
) -> Result<()> {
    let contents = host_contents(programs, configuration, files)?;
    esp::create(path, &contents).with_context(|| path.display().to_string())?;
    Ok(())
}

/// What is on the disk of one host: the programs, `configuration` as `godwit.toml`, and `files` beside it.
///
/// # Errors
/// A file could not be read.
pub fn host_contents(
    programs: &Programs,
    configuration: &str,
    files: &[(&str, &Path)],
) -> Result<Vec<Content>> {
    let read = |file: &Path| fs::read(file).with_context(|| file.display().to_string());
    let mut contents = vec![
        Content::new("EFI/BOOT/BOOTX64.EFI", read(&programs.loader)?),
        Content::new("godwit/godwit.elf", stripped(&programs.hypervisor)?),
        Content::new("godwit/godwit.toml", configuration.as_bytes().to_vec()),
    ];
    for (name, file) in files {
        contents.push(Content::new(&format!("godwit/{name}"), read(file)?));
    }
    Ok(contents)
}

/// The ELF file without debug sections, if `strip` is at hand: they only cost reading time in the firmware.
fn stripped(elf: &Path) -> Result<Vec<u8>> {
    let copy = elf.with_extension("stripped");
    let mut strip = Command::new("strip");
    let outcome = strip.arg("--strip-debug").arg("-o").arg(&copy).arg(elf).stderr(Stdio::null()).status();
    let file = match outcome {
        Ok(status) if status.success() => copy,
        _ => elf.to_path_buf(),
    };
    fs::read(&file).with_context(|| file.display().to_string())
}
