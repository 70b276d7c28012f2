//! The machine itself as the console sees it: CPUs, memory, PCI, log.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

/// What is running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionView {
    /// The image's version.
    pub version: &'static str,
    /// How it was built: `release`, `debug`.
    pub profile: &'static str,
    /// Time since the loader handed over.
    pub uptime: Duration,
}

/// Whether guests can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VmxView {
    /// VMX is on; the optional features that are in use, by their manual's names.
    Ready(Vec<&'static str>),
    /// It cannot be used, and why.
    Unavailable(String),
}

/// What a CPU does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuState {
    /// Its loop runs.
    Online,
    /// It was listed, or assumed, and did not start.
    Offline,
}

impl fmt::Display for CpuState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Online => "online",
            Self::Offline => "absent",
        })
    }
}

/// How a CPU divided its time over the last seconds, in percent; together 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadView {
    /// Guests, and handling their exits.
    pub guests_percent: u8,
    /// All other work of the host.
    pub host_percent: u8,
    /// Halted.
    pub idle_percent: u8,
}

/// One physical CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuView {
    /// Its index here; 0 is the one that booted.
    pub index: u32,
    /// Its local APIC's id.
    pub apic_id: u32,
    /// What it does.
    pub state: CpuState,
    /// What it did lately; `None` if not measured.
    pub load: Option<LoadView>,
    /// Guests that its loop owns.
    pub guests: Vec<String>,
}

/// All CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineView {
    /// The processor's own name for itself.
    pub brand: String,
    /// Frequency of the time-stamp counter, in Hz, as calibrated.
    pub tsc_hz: u64,
    /// Whether guests can run.
    pub vmx: VmxView,
    /// Every CPU, by index.
    pub cpus: Vec<CpuView>,
}

/// The hypervisor's heap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeapView {
    /// Bytes handed out.
    pub used_bytes: u64,
    /// Bytes it may hand out in all.
    pub total_bytes: u64,
    /// Bytes that one more guest, or one more move, may take.
    pub spare_bytes: u64,
}

/// The stacks of the CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackView {
    /// How far the one that was used most has been, in bytes.
    pub deepest_bytes: u64,
    /// Bytes of each.
    pub size_bytes: u64,
}

/// Physical memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemView {
    /// RAM that the firmware left us, in bytes.
    pub total_bytes: u64,
    /// Free for guests and everything else, in bytes.
    pub free_bytes: u64,
    /// The hypervisor's image, tables, buffers and heap, in bytes.
    pub hypervisor_bytes: u64,
    /// RAM of guests, in bytes.
    pub guest_bytes: u64,
    /// Kernels and RAM disks that were loaded for guests, in bytes.
    pub file_bytes: u64,
    /// The heap within `hypervisor_bytes`.
    pub heap: HeapView,
    /// The CPUs' stacks within `hypervisor_bytes`.
    pub stacks: StackView,
}

/// One PCI function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciView {
    /// Where it is: `0000:00:02.0`.
    pub address: String,
    /// Vendor id.
    pub vendor_id: u16,
    /// Device id.
    pub device_id: u16,
    /// What it is, by its class codes: `Ethernet`.
    pub kind: &'static str,
    /// Our driver, if one has taken it.
    pub driver: Option<&'static str>,
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When, since the hypervisor's start.
    pub at: Duration,
    /// How grave.
    pub level: log::Level,
    /// What it says.
    pub text: String,
}
