//! Genuine KVM where the machine has no nested VMX: a Linux in Bochs loads KVM, and QEMU runs the machines in it.
//!
//! ```text
//! Bochs ─┬─ COM1: the Linux's console, which takes the lab's orders      disk 1: boots        ([`disks`])
//!        ├─ COM2: the first serial ports of all machines ([`lines`])    disk 2: KVM and QEMU
//!        │                                                              disk 3: the lab's    ([`script`])
//!        └─ Linux, kvm_intel ─┬─ QEMU: a Godwit host ─┐
//!                             ├─ QEMU: a Godwit host ─┼─ their wire: a bridge of that Linux
//!                             └─ …                    ┘
//! ```
//!
//! As many machines fit as Bochs has memory for ([`memory_mib`]). They are turned on together and live as long as the last
//! of them is in use. What the Linux does is in `tests/guests/nest/`.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::bochs::{self, Configuration, MEMORY_MIB_MAX};
use super::kvm_exits::KvmExits;
use super::kvm_log::{self, OURS};
use super::{Kind, Machine, OUTPUT_LOG, Spec, missing_file, qemu};
use crate::process::Process;
use crate::serial::Serial;
use crate::{lock, scratch};

mod disks;
mod lines;
mod script;

/// Instructions per virtual second: what `tsc_early_khz` of the Linux says.
const IPS: u64 = 100_000_000;
/// For the Linux itself.
const MEMORY_MIB: u32 = 320;
/// For a machine's QEMU and KVM, its RAM excepted.
const MEMORY_MIB_EACH: u32 = 96;
/// With more, Bochs only takes longer: all its processors share one thread.
const CPUS: u32 = 1;
/// From power-on until QEMU runs: some 700 M instructions.
const BOOT_TIMEOUT: Duration = Duration::from_secs(600);
const LOG_TIMEOUT: Duration = Duration::from_secs(120);
/// What the Linux says when it cannot go on.
const FATAL_SIGNS: [&str; 3] =
    ["Kernel panic", "there is no /dev/kvm", "the program of the serial lines has ended"];
/// What it says about KVM, so that a log without it is no log.
const KVM_LOADED: &str = "kvm_intel is loaded, nested=Y enable_apicv=N dump_invalid_vmcs=Y";

/// What such machines lack here, if anything.
pub(super) fn missing() -> Option<String> {
    bochs::missing()
        .or_else(qemu::missing)
        .or_else(|| {
            missing_file(&["/usr/bin/apt-get", "/usr/bin/dpkg-deb"], "apt and dpkg: this is not Debian")
        })
        .or_else(|| missing_file(&["/usr/bin/mcopy"], "mtools"))
        .or_else(|| missing_file(&["/usr/bin/objcopy"], "binutils"))
        .or_else(|| missing_file(&["/usr/sbin/mkfs.ext4"], "e2fsprogs"))
}

/// Builds the disks of the Linux.
pub(super) fn prepare() -> Result<()> {
    disks::disks().map(|_| ())
}

/// Turns on a Linux with `specs` in it; `name` is the Linux's.
pub(super) fn start(name: &str, specs: &[Spec]) -> Result<Vec<Box<dyn Machine>>> {
    let memory_mib = memory_mib(specs)?;
    let disks = disks::disks()?;
    let scratch = scratch::directory(&format!("{name}-nest")).context("scratch directory")?;
    let lab_disk = scratch.join("machines.img");
    script::write(&lab_disk, specs)?;
    let mut console = Serial::listen(&scratch.join("serial.log"))?;
    FATAL_SIGNS.iter().for_each(|sign| console.fail_on(sign));
    let mut serials = Vec::new();
    for spec in specs {
        let scratch = scratch::directory(&spec.name).context("scratch directory")?;
        let serial = Serial::listen(&scratch.join("serial.log"))?;
        // Where others look for what the emulator has printed.
        symlink(console.transcript(), scratch.join(OUTPUT_LOG))?;
        serials.push((serial, scratch));
    }
    let ports: Vec<u16> = serials.iter().map(|(serial, _)| serial.port()).collect();
    let lines = lines::listen(&ports, &scratch.join("lines.log")).context("the machines' serial lines")?;
    let process = bochs::launch(
        &scratch,
        &Configuration {
            rom: bochs::BIOS,
            memory_mib,
            cpus: CPUS,
            ips: IPS,
            serial_ports: &[console.port(), lines],
            disks: &[&disks.boot, &disks.root, &lab_disk],
            network: None,
        },
    )?;
    let mut nest = Nest { process, console };
    nest.wait_for_machines()
        .with_context(|| format!("the Linux under the machines: {}", nest.console.transcript().display()))?;
    let nest = Arc::new(Mutex::new(nest));
    let machine = |(spec, (serial, scratch)): (&Spec, (Serial, PathBuf))| -> Box<dyn Machine> {
        Box::new(Nested { nest: Arc::clone(&nest), name: spec.name.clone(), serial, scratch })
    };
    Ok(specs.iter().zip(serials).map(machine).collect())
}

/// RAM of a Bochs for `machines` and the Linux under them.
fn memory_mib(machines: &[Spec]) -> Result<u32> {
    let count = machines.len() as u64;
    let theirs = machines.iter().map(|machine| u64::from(machine.memory_mib)).sum::<u64>();
    let (linux, each, most) = (u64::from(MEMORY_MIB), u64::from(MEMORY_MIB_EACH), u64::from(MEMORY_MIB_MAX));
    let under = linux + count * each;
    let fitting = (most - linux) * count / (theirs + count * each).max(1);
    let smaller = most.saturating_sub(under) / count.max(1);
    ensure!(
        theirs + under <= most,
        "{count} machines with {theirs} MiB of RAM in all, and {under} MiB for the Linux and the QEMUs under them, do not \
         fit into the {most} MiB of a Bochs: {fitting} machines of that size would, or {count} with {smaller} MiB each"
    );
    Ok((theirs + under) as u32)
}

/// The Linux in Bochs.
struct Nest {
    process: Process,
    console: Serial,
}

impl Nest {
    fn is_running(&mut self) -> bool {
        let text = self.console.text();
        self.process.ended().is_none() && !FATAL_SIGNS.iter().any(|sign| text.contains(sign))
    }

    fn wait_for_machines(&mut self) -> Result<()> {
        self.console.expect_line(&format!("{OURS}the machines are on"), BOOT_TIMEOUT)?;
        Ok(())
    }

    /// The Linux's log since KVM is there, the VM entries that KVM refused, and what QEMU printed.
    fn log(&mut self) -> Result<String> {
        let (begins, ends) = (format!("{OURS}the log begins\n"), format!("{OURS}the log ends"));
        self.console.send_line("log")?;
        self.console.expect(&begins, LOG_TIMEOUT)?;
        let log = self.console.expect(&ends, LOG_TIMEOUT)?;
        kvm_log::since(&log, KVM_LOADED).map(str::to_owned)
    }

    fn exits(&mut self, machine: &str) -> Result<KvmExits> {
        self.console.send_line(&format!("statistics {machine}"))?;
        KvmExits::parse(&self.console.expect_line(&format!("{OURS}statistics of {machine}:"), LOG_TIMEOUT)?)
    }
}

/// One machine in it.
struct Nested {
    nest: Arc<Mutex<Nest>>,
    name: String,
    serial: Serial,
    scratch: PathBuf,
}

impl Machine for Nested {
    fn kind(&self) -> Kind {
        Kind::KvmInBochs
    }

    fn serial(&mut self) -> &mut Serial {
        &mut self.serial
    }

    fn is_running(&mut self) -> bool {
        let mut nest = lock(&self.nest);
        let ended = format!("{OURS}{} has ended", self.name);
        nest.is_running() && !nest.console.text().contains(&ended)
    }

    fn kill(&mut self) {
        if self.is_running() {
            // If the line fails the Linux is gone, and the machine with it.
            let _ = lock(&self.nest).console.send_line(&format!("kill {}", self.name));
        }
    }

    fn scratch(&self) -> &Path {
        &self.scratch
    }

    fn kvm_log(&mut self) -> Result<String> {
        lock(&self.nest).log()
    }

    fn kvm_exits(&mut self) -> Result<KvmExits> {
        lock(&self.nest).exits(&self.name)
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        // The last one pulls the Linux's plug.
        if Arc::strong_count(&self.nest) > 1 {
            self.kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machines(count: usize, memory_mib: u32) -> Vec<Spec> {
        vec![Spec { memory_mib, ..Spec::new("m", Path::new("disk")) }; count]
    }

    #[test]
    fn as_many_machines_fit_as_there_is_memory_for() {
        assert_eq!(memory_mib(&machines(2, 384)).unwrap(), 320 + 2 * 96 + 2 * 384);
        assert_eq!(memory_mib(&machines(14, 100)).unwrap(), 320 + 14 * 196);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_would() {
        let error = memory_mib(&machines(8, 512)).unwrap_err().to_string();
        for part in [
            "8 machines with 4096 MiB",
            "1088 MiB for the Linux",
            "3072 MiB of a Bochs",
            "4 machines of that size",
            "8 with 248 MiB each",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(memory_mib(&machines(4, 512)).is_ok() && memory_mib(&machines(5, 512)).is_err());
        assert!(memory_mib(&machines(8, 248)).is_ok() && memory_mib(&machines(8, 249)).is_err());
        assert!(memory_mib(&machines(1, u32::MAX)).is_err());
    }
}
