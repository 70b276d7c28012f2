//! The guests that the lab runs: an unmodified Linux and a bare-metal test program.
//!
//! * [`linux`] gives Debian's cloud kernel as it is, with a small initrd of ours: busybox and the programs of
//!   `tests/guests/linux` (what they print and accept is written in `tests/README.md`).
//! * [`bare`] gives the program of `tests/guests/bare` in bzImage format; its command line says what it does.
//!
//! Both take the directory in which downloads and build results are kept (a directory under `target/`), may be
//! called by several processes at once, and cost well under a second when nothing has changed.
//!
//! Neighbours: [`debian`] fetches packages, [`programs`] builds, [`cpio`] and [`bzimage`] are the pure writers.
//! Invariant: a file whose path is returned is complete; it is never seen half written.

pub mod bzimage;
pub mod cpio;
pub mod debian;
pub mod initrd;
pub mod programs;
pub(crate) mod store;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::scratch;

/// The files of the Linux guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinuxFiles {
    /// The kernel, a bzImage, exactly as Debian ships it.
    pub kernel: PathBuf,
    /// The initrd: a newc archive that [`initrd::build`] made.
    pub initrd: PathBuf,
    /// The kernel package and its version, for reports: `linux-image-6.1.0-56-cloud-amd64 6.1.192-2`.
    pub version: String,
}

impl LinuxFiles {
    /// The beginning of the line by which the guest says that its data is in place and a shell reads the console.
    pub const READY: &str = "guest: ready";

    /// A kernel command line for use as a guest, without options for the guest's own programs. Without the self-tests
    /// of its cryptography the kernel boots in half the instructions. With SMAP, Bochs walks the page tables anew for every
    /// access of the kernel to user memory, and it carries out string instructions byte by byte: without both the guest
    /// boots in a third of the time.
    ///
    /// Those are added behind it: `godwit.data_mib=N` (default 32), `godwit.pattern=MIB,PAGES_PER_SECOND`,
    /// `godwit.heartbeat=SECONDS`, `godwit.start_tsc=TICKS`.
    pub const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 cryptomgr.notests clearcpuid=smap,erms,fsrm";
}

/// Where the lab keeps guests between runs, unless it has a reason for another place.
pub fn cache() -> PathBuf {
    scratch::target().join("guest")
}

/// Gives the Linux guest's files, downloading and building what `cache` lacks.
///
/// # Errors
///
/// If the cache is empty and apt cannot provide the packages (not a Debian system, no package lists, no network), if
/// the guest's programs do not compile, or if a file cannot be written. The message says what to do.
pub fn linux(cache: &Path) -> Result<LinuxFiles> {
    let cache = store::open(cache)?;
    let packages = debian::packages(cache.path()).context("the Linux guest's packages")?;
    let programs = programs::linux(cache.path()).context("the Linux guest's programs")?;
    let busybox = store::read(&packages.busybox)?;
    let program = store::read(&programs)?;
    let image = initrd::build(&initrd::Contents { busybox: &busybox, program: &program })?;
    let initrd = cache.path().join("initrd.img");
    store::replace(&initrd, &image)?;
    Ok(LinuxFiles { kernel: packages.kernel, initrd, version: packages.kernel_version })
}

/// Gives the program of the Linux under machines, which puts their serial lines on one.
///
/// # Errors
///
/// If it does not compile.
pub(crate) fn lines(cache: &Path) -> Result<Vec<u8>> {
    let cache = store::open(cache)?;
    store::read(&programs::nest(cache.path()).context("the program of the Linux under machines")?)
}

/// Gives the bare-metal test guest: a file in bzImage format.
///
/// # Errors
///
/// If the program does not compile or the file cannot be written.
pub fn bare(cache: &Path) -> Result<PathBuf> {
    let cache = store::open(cache)?;
    let elf = programs::bare(cache.path()).context("the bare-metal guest")?;
    let flat = bzimage::flatten(&store::read(&elf)?).context("the bare-metal guest's ELF file")?;
    let image = bzimage::wrap(&flat)?;
    let path = cache.path().join("bare.bzimage");
    store::replace(&path, &image)?;
    Ok(path)
}
