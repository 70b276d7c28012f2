//! Genuine KVM where the machine has no nested VMX: a Linux in Bochs loads KVM, and QEMU runs the machines in it.
//!
//! ```text
//! Bochs ─┬─ COM1: the Linux's console, which takes the lab's orders      disk 1: boots        ([`disks`])
//!        ├─ COM2: first serial port of the first machine                disk 2: KVM and QEMU
//!        ├─ COM3, COM4: of the second and the third                     disk 3: the lab's    ([`script`])
//!        └─ Linux, kvm_intel ─┬─ QEMU: a Godwit host ─┐
//!                             └─ QEMU: a Godwit host ─┴─ their wire: UDP on the Linux's loopback
//! ```
//!
//! Bochs has four serial ports, so [`MACHINES_MAX`] machines fit. They are turned on together and live as long as the
//! last of them is in use. What the Linux does is in `tests/guests/nest/`.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::bochs::{self, Configuration, SERIAL_PORTS_MAX};
use super::kvm_exits::KvmExits;
use super::kvm_log::{self, OURS};
use super::{Kind, Machine, OUTPUT_LOG, Spec, missing_file, qemu};
use crate::process::Process;
use crate::serial::Serial;
use crate::{lock, scratch};

mod disks;
mod script;

/// Machines in one Linux: one serial port each, besides that Linux's own.
pub const MACHINES_MAX: usize = SERIAL_PORTS_MAX - 1;

/// Instructions per virtual second: what `tsc_early_khz` of the Linux says.
const IPS: u64 = 100_000_000;
/// For the Linux itself, QEMU's own needs included.
const MEMORY_MIB: u32 = 512;
/// With more, Bochs only takes longer: all its processors share one thread.
const CPUS: u32 = 1;
/// From power-on until QEMU runs: some 700 M instructions.
const BOOT_TIMEOUT: Duration = Duration::from_secs(600);
const LOG_TIMEOUT: Duration = Duration::from_secs(120);
/// What the Linux says when it cannot go on.
const FATAL_SIGNS: [&str; 2] = ["Kernel panic", "there is no /dev/kvm"];
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

/// Turns on a Linux with `specs` in it; `name` is the Linux's.
pub(super) fn start(name: &str, specs: &[Spec]) -> Result<Vec<Box<dyn Machine>>> {
    ensure!(specs.len() <= MACHINES_MAX, "{} machines: {MACHINES_MAX} fit into one Bochs", specs.len());
    let disks = disks::disks()?;
    let scratch = scratch::directory(&format!("{name}-nest")).context("scratch directory")?;
    let lab_disk = scratch.join("machines.img");
    script::write(&lab_disk, specs)?;
    let mut console = Serial::listen(&scratch.join("serial.log"))?;
    FATAL_SIGNS.iter().for_each(|sign| console.fail_on(sign));
    let mut lines = Vec::new();
    for spec in specs {
        let scratch = scratch::directory(&spec.name).context("scratch directory")?;
        let serial = Serial::listen(&scratch.join("serial.log"))?;
        // Where others look for what the emulator has printed.
        symlink(console.transcript(), scratch.join(OUTPUT_LOG))?;
        lines.push((serial, scratch));
    }
    let ports: Vec<u16> =
        [console.port()].into_iter().chain(lines.iter().map(|(serial, _)| serial.port())).collect();
    let process = bochs::launch(
        &scratch,
        &Configuration {
            rom: bochs::BIOS,
            memory_mib: MEMORY_MIB + specs.iter().map(|spec| spec.memory_mib).sum::<u32>(),
            cpus: CPUS,
            ips: IPS,
            serial_ports: &ports,
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
    Ok(specs.iter().zip(lines).map(machine).collect())
}

/// The Linux in Bochs.
struct Nest {
    process: Process,
    console: Serial,
}

impl Nest {
    fn is_running(&mut self) -> bool {
        self.process.ended().is_none()
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
