//! Guests: Debian's cloud kernel with a small initial RAM disk, and a bare-metal program of our own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::scratch;

pub mod cpio;

/// The kernel's package and the one whose `busybox` is the guest's userland.
const KERNEL_META_PACKAGE: &str = "linux-image-cloud-amd64";
const BUSYBOX_PACKAGE: &str = "busybox-static";

/// The Linux guest's files.
#[derive(Clone, Debug)]
pub struct Linux {
    /// The kernel, a bzImage.
    pub kernel: PathBuf,
    /// The initial RAM disk.
    pub initrd: PathBuf,
}

/// Where unpacked packages are kept between runs.
fn cache() -> PathBuf {
    scratch::target().join("guest")
}

/// Debian's kernel and our initial RAM disk; downloaded once, the RAM disk made anew each time.
///
/// # Errors
/// A package could not be fetched or unpacked, or a guest program not be built.
pub fn linux() -> Result<Linux> {
    let (kernel, busybox) = (kernel()?, busybox()?);
    let initrd = cache().join("initrd.img");
    let partial = cache().join(format!("initrd.{}", std::process::id()));
    fs::write(&partial, initial_ram_disk(&busybox)?)?;
    fs::rename(&partial, &initrd)?;
    Ok(Linux { kernel, initrd })
}

fn initial_ram_disk(busybox: &Path) -> Result<Vec<u8>> {
    let mut archive = cpio::Archive::new();
    for directory in ["bin", "dev", "proc", "sys", "tmp", "data", "run"] {
        archive.directory(directory);
    }
    archive.device("dev/console", 5, 1);
    archive.device("dev/null", 1, 3);
    archive.device("dev/ttyS0", 4, 64);
    archive.program("bin/busybox", &fs::read(busybox).context("busybox")?);
    archive.program("init", include_bytes!("guest/init.sh"));
    Ok(archive.finish())
}

fn kernel() -> Result<PathBuf> {
    let directory = cache().join("kernel");
    if let Some(kernel) = kernel_in(&directory) {
        return Ok(kernel);
    }
    let package = kernel_package()?;
    unpack(&package, &directory)?;
    kernel_in(&directory).with_context(|| format!("no vmlinuz in {package}"))
}

fn kernel_in(directory: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(directory.join("boot")).ok()?;
    entries.flatten().map(|e| e.path()).find(|p| p.to_string_lossy().contains("/vmlinuz-"))
}

/// The package that the meta package depends on at present.
fn kernel_package() -> Result<String> {
    let output = Command::new("apt-cache").args(["depends", KERNEL_META_PACKAGE]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let depends = text.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    match depends {
        Some(rest) => Ok(format!("linux-image-{}", rest.trim())),
        None => bail!("apt knows no {KERNEL_META_PACKAGE}; has `apt-get update` been run?"),
    }
}

fn busybox() -> Result<PathBuf> {
    let directory = cache().join("busybox");
    let program = directory.join("bin/busybox");
    if !program.exists() {
        unpack(BUSYBOX_PACKAGE, &directory)?;
    }
    Ok(program)
}

/// Downloads `package` and unpacks it, without installing it, into `directory`.
fn unpack(package: &str, directory: &Path) -> Result<()> {
    let work = cache().join(format!("download-{}", std::process::id()));
    fs::create_dir_all(&work)?;
    run(Command::new("apt-get").args(["download", "-q", package]).current_dir(&work))?;
    let found = fs::read_dir(&work)?.flatten().map(|e| e.path()).next();
    let archive = found.with_context(|| format!("apt-get download {package} left no file"))?;
    let unpacked = work.join("unpacked");
    run(Command::new("dpkg").arg("-x").arg(&archive).arg(&unpacked))?;
    let _ = fs::remove_dir_all(directory);
    fs::rename(&unpacked, directory)?;
    Ok(fs::remove_dir_all(&work)?)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
