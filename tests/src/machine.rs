//! Machines: something with a disk, a serial port and a network card that the image can boot on.
//!
//! Back-ends: [`bochs`] (VMX in software, runs anywhere), [`qemu`] with KVM (where VMX really works) and with TCG (no
//! VMX), and [`nest`]: QEMU with KVM in a Linux in Bochs, genuine KVM anywhere. [`Kind::availability`] says by name what
//! is missing for a kind.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, bail};

use kvm_exits::KvmExits;

use crate::serial::Serial;
use crate::switch::{Mac, UdpPort};

pub mod bochs;
pub mod kvm_exits;
pub mod kvm_log;
pub mod nest;
pub mod qemu;

/// The UEFI firmware of Debian's `ovmf` package: the 2 MiB image, since Bochs does not boot the 4 MiB ones.
pub const FIRMWARE: &str = "/usr/share/ovmf/OVMF.fd";

/// What an emulator prints, in its scratch directory.
const OUTPUT_LOG: &str = "output.log";
/// How many of its last lines an error shows.
const OUTPUT_LINES: usize = 5;
/// Emulators plug their serial port in before they execute anything.
const PLUG_TIMEOUT: Duration = Duration::from_secs(60);

/// The kinds of machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bochs: emulated VMX.
    Bochs,
    /// QEMU with KVM and nested VMX.
    QemuKvm,
    /// QEMU with KVM and nested VMX, in a Linux that runs in Bochs.
    KvmInBochs,
    /// QEMU without VMX.
    QemuTcg,
}

/// Whether a kind of machine can be had here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Availability {
    /// It can.
    Available,
    /// It cannot; the text says what is missing.
    Missing(String),
}

impl Kind {
    /// All kinds, best first for running guests.
    pub const ALL: [Self; 4] = [Self::QemuKvm, Self::Bochs, Self::KvmInBochs, Self::QemuTcg];

    /// The fastest kind on which guests run here.
    pub fn best() -> Self {
        match Self::QemuKvm.availability() {
            Availability::Available => Self::QemuKvm,
            Availability::Missing(_) => Self::Bochs,
        }
    }

    /// Genuine KVM under the hosts: directly where nested VMX works, in Bochs elsewhere.
    pub fn kvm() -> Self {
        match Self::QemuKvm.availability() {
            Availability::Available => Self::QemuKvm,
            Availability::Missing(_) => Self::KvmInBochs,
        }
    }

    /// Whether guests can run on it.
    pub fn has_vmx(self) -> bool {
        !matches!(self, Self::QemuTcg)
    }

    /// Looks for what the kind needs.
    pub fn availability(self) -> Availability {
        let missing = match self {
            Self::Bochs => bochs::missing(),
            Self::QemuKvm => qemu::missing().or_else(qemu::missing_for_kvm),
            Self::KvmInBochs => nest::missing(),
            Self::QemuTcg => qemu::missing(),
        };
        missing.map_or(Availability::Available, Availability::Missing)
    }

    /// Whether the lab's switch is the wire of such machines. The others are started together and have a wire of their
    /// own, [`Wire::Common`].
    pub fn has_switch(self) -> bool {
        self != Self::KvmInBochs
    }

    /// Builds what machines of this kind share, and is kept between runs; at once if it is there.
    ///
    /// # Errors
    /// It could not be downloaded or built; the message says what to do.
    pub fn prepare(self) -> Result<()> {
        match self {
            Self::KvmInBochs => nest::prepare(),
            Self::Bochs | Self::QemuKvm | Self::QemuTcg => Ok(()),
        }
    }

    /// Starts a machine of this kind.
    ///
    /// # Errors
    /// What the kind needs is missing, or it could not be started.
    pub fn start(self, spec: &Spec) -> Result<Box<dyn Machine>> {
        let mut machines = self.start_all("", std::slice::from_ref(spec))?;
        machines.pop().context("no machine was started")
    }

    /// Starts machines of this kind that belong together; `name` is for what they share.
    ///
    /// # Errors
    /// What the kind needs is missing, or one could not be started.
    pub fn start_all(self, name: &str, specs: &[Spec]) -> Result<Vec<Box<dyn Machine>>> {
        if let Availability::Missing(reason) = self.availability() {
            bail!("no {self} here: {reason}");
        }
        let each = |start: fn(&Spec) -> Result<Box<dyn Machine>>| {
            specs.iter().map(|spec| start(spec).with_context(|| spec.name.clone())).collect()
        };
        match self {
            Self::Bochs => each(|spec| Ok(Box::new(bochs::Bochs::start(spec)?))),
            Self::QemuKvm => each(|spec| Ok(Box::new(qemu::Qemu::start(spec, qemu::Accelerator::Kvm)?))),
            Self::KvmInBochs => nest::start(name, specs),
            Self::QemuTcg => each(|spec| Ok(Box::new(qemu::Qemu::start(spec, qemu::Accelerator::Tcg)?))),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bochs => "Bochs",
            Self::QemuKvm => "QEMU/KVM",
            Self::KvmInBochs => "QEMU/KVM in Bochs",
            Self::QemuTcg => "QEMU/TCG",
        })
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "bochs" => Ok(Self::Bochs),
            "kvm" => Ok(Self::kvm()),
            "qemu-kvm" => Ok(Self::QemuKvm),
            "kvm-in-bochs" => Ok(Self::KvmInBochs),
            "tcg" | "qemu-tcg" => Ok(Self::QemuTcg),
            other => Err(format!("no machine kind {other:?}: it is one of bochs, kvm, kvm-in-bochs, tcg")),
        }
    }
}

/// The network card a machine gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nic {
    /// Intel 82540EM.
    E1000,
    /// virtio-net over PCI; only QEMU has it.
    VirtioNet,
}

/// Where a card's frames go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// To a port of the lab's switch.
    Switch(UdpPort),
    /// To all machines that are started together, out of the lab's reach.
    Common,
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Its kind.
    pub nic: Nic,
    /// Its address.
    pub mac: Mac,
    /// Its wire.
    pub wire: Wire,
}

/// What a reset does to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnReset {
    /// It ends, so that a host that crashes cannot come up again unnoticed. (Bochs does this for triple faults only.)
    End,
    /// It starts again.
    Restart,
}

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Name: of its scratch directory, and in messages.
    pub name: String,
    /// Disk image with an EFI system partition; never written to.
    pub disk: PathBuf,
    /// RAM in MiB.
    pub memory_mib: u32,
    /// Processors.
    pub cpus: u32,
    /// What a reset does.
    pub on_reset: OnReset,
    /// Bochs: emulated instructions per virtual second. Low makes the network fast, see the lab's README.
    pub ips: u64,
    /// The card, if it has one.
    pub network: Option<Card>,
    /// With KVM: QEMU's processor model and its features; `None`: the processor that KVM runs on.
    pub cpu_model: Option<String>,
}

impl Spec {
    /// Instructions per second that suit network tests.
    pub const IPS_NETWORK: u64 = 10_000_000;

    /// A machine with 512 MiB, two processors and no network card.
    pub fn new(name: &str, disk: &Path) -> Self {
        Self {
            name: name.to_owned(),
            disk: disk.to_path_buf(),
            memory_mib: 512,
            cpus: 2,
            on_reset: OnReset::End,
            ips: Self::IPS_NETWORK,
            network: None,
            cpu_model: None,
        }
    }
}

/// A running machine; it is killed when dropped.
pub trait Machine: Send {
    /// Its kind.
    fn kind(&self) -> Kind;
    /// Its first serial port.
    fn serial(&mut self) -> &mut Serial;
    /// Whether it still runs.
    fn is_running(&mut self) -> bool;
    /// Pulls the plug.
    fn kill(&mut self);
    /// Holds the emulator's configuration, logs and the serial transcript.
    fn scratch(&self) -> &Path;
    /// What the KVM under it has logged since the machine was turned on; see [`kvm_log`].
    ///
    /// # Errors
    /// There is no KVM under it, or its log cannot be read.
    fn kvm_log(&mut self) -> Result<String> {
        bail!("there is no KVM under a machine on {}", self.kind())
    }
    /// The VM exits that the KVM under it has taken for it so far.
    ///
    /// # Errors
    /// There is no KVM under it, or its statistics cannot be read.
    fn kvm_exits(&mut self) -> Result<KvmExits> {
        bail!("there is no KVM under a machine on {}", self.kind())
    }
}

/// Waits until `machine` has connected its serial port, so that an emulator that cannot start is an error at once and
/// not a test's time-out later.
///
/// # Errors
/// It ended, or did not connect; with the last that it printed.
fn wait_until_plugged_in(machine: &mut dyn Machine) -> Result<()> {
    let deadline = Instant::now() + PLUG_TIMEOUT;
    while !machine.serial().is_connected() {
        let problem = match machine.is_running() {
            false => "ended before it executed anything",
            true if Instant::now() >= deadline => "does not connect its serial port",
            true => {
                thread::sleep(Duration::from_millis(20));
                continue;
            }
        };
        let output = fs::read(machine.scratch().join(OUTPUT_LOG)).unwrap_or_default();
        let output = String::from_utf8_lossy(&output);
        let mut last: Vec<&str> = output.lines().rev().take(OUTPUT_LINES).collect();
        last.reverse();
        bail!("{} {problem}; the last it printed was:\n{}", machine.kind(), last.join("\n"));
    }
    Ok(())
}

/// The first of `files` that does not exist, as a reason.
fn missing_file(files: &[&str], package: &str) -> Option<String> {
    let absent = files.iter().find(|file| !Path::new(file).exists())?;
    Some(format!("{absent} is not there (package {package})"))
}
