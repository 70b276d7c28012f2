//! What a guest needs and what a host offers, as told to each other before anything is sent.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::heap::{HostShare, Room};
use crate::permit::{Generation, GuestId};
use crate::policy::Identity;
use crate::ram::RamLayout;
use crate::reason::Refusal;

/// Longest guest or host name, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 64;
/// Most CPUID words that a guest may name as required.
pub const FEATURES_MAX: usize = 256;
/// Longest opaque guest configuration.
pub const CONFIGURATION_BYTES_MAX: usize = 4096;
/// Most vCPUs of a guest.
pub const VCPUS_MAX: u32 = 512;

/// A register that CPUID returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CpuidRegister {
    /// EAX.
    Eax,
    /// EBX.
    Ebx,
    /// ECX.
    Ecx,
    /// EDX.
    Edx,
}

/// Feature bits in one register of one CPUID leaf: those a guest has been shown, or those a host offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuFeatures {
    /// EAX on input.
    pub leaf: u32,
    /// ECX on input; 0 where the leaf has no subleaves.
    pub subleaf: u32,
    /// The register that holds the bits.
    pub register: CpuidRegister,
    /// The bits, in the register's positions.
    pub bits: u32,
}

/// A guest, as its source describes it to the target before the first page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestDescription {
    /// Its identity.
    pub id: GuestId,
    /// The generation in which it runs at the source.
    pub generation: Generation,
    /// Its name, 1 to [`NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// Where its RAM lies.
    pub layout: RamLayout,
    /// Number of virtual CPUs, 1 to [`VCPUS_MAX`].
    pub vcpus: u32,
    /// The CPU features that it has been shown and may use; at most [`FEATURES_MAX`] words.
    pub features: Vec<CpuFeatures>,
    /// Its TSC's frequency in hertz.
    pub tsc_hz: u64,
    /// What the hypervisor needs to build it again, opaque to the engine; at most
    /// [`CONFIGURATION_BYTES_MAX`] bytes.
    pub configuration: Vec<u8>,
}

impl GuestDescription {
    /// Whether this is a copy that has run nowhere yet. The guest that it was made of has another identity and goes on at the
    /// source.
    #[must_use]
    pub fn is_copy(&self) -> bool {
        self.generation == Generation::NONE
    }

    /// A copy of this guest under an identity of its own.
    pub(crate) fn copied_as(self, copy: &Identity) -> Self {
        Self { id: copy.id, generation: Generation::NONE, name: copy.name.clone(), ..self }
    }
}

/// Whether a host can present another TSC frequency than its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TscScaling {
    /// It can.
    Available,
    /// It cannot: the frequencies must agree within the tolerance.
    Unavailable,
}

/// What a target host offers. The engine compares it with a [`GuestDescription`] and refuses by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostCapabilities {
    /// The host's name, for messages; at most [`NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// A number that is different after each boot of this host.
    pub incarnation: u64,
    /// The CPU features that it can show a guest.
    pub features: Vec<CpuFeatures>,
    /// Its TSC's frequency in hertz.
    pub tsc_hz: u64,
    /// Whether it can scale a guest's TSC.
    pub tsc_scaling: TscScaling,
    /// How far two TSC frequencies may differ and still count as the same, in parts per million.
    pub tsc_tolerance_ppm: u32,
    /// What it can give to one more guest.
    pub room: Room,
    /// What it notes itself about one.
    pub share: HostShare,
    /// Most vCPUs that it gives to one guest.
    pub vcpus_max: u32,
    /// Why it takes no guest at all just now.
    pub closed: Option<Refusal>,
    /// It can run a guest of whose RAM parts are absent ([`crate::GuestRam::set_absent`]).
    pub post_copy: bool,
}

impl fmt::Display for CpuidRegister {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Eax => "EAX",
            Self::Ebx => "EBX",
            Self::Ecx => "ECX",
            Self::Edx => "EDX",
        })
    }
}

impl fmt::Display for CpuFeatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { leaf, subleaf, register, bits } = self;
        write!(f, "CPUID {leaf:#x}.{subleaf} {register} bits {bits:#010x}")
    }
}
