//! What this host's processors can do for guests: found once, shared by all CPUs.

use core::fmt;

use godwit_vmx::capability::{Capabilities, EptCapabilities, Unsupported};
use godwit_vmx::controls::SecondaryControls;
use godwit_vmx::ept::AccessedDirty;
use godwit_vmx::preemption_timer::{Coast, PreemptionTimer};

use super::controls::{Controls, Unsuitable};
use super::dirty::DirtySource;
use super::host::{self, Residency};
use super::state::Limits;
use crate::exits::Policy;
use crate::exits::cpuid::{Basis, GuestCpuid, host_cpuid};
use crate::exits::cpuid_features::{FEATURES, FeatureSet, Register, WORDS};

/// Why guests cannot run here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoGuests {
    /// There is no VMX.
    Unsupported(Unsupported),
    /// VMX lacks something.
    Unsuitable(Unsuitable),
}

impl fmt::Display for NoGuests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported(why) => why.fmt(f),
            Self::Unsuitable(why) => why.fmt(f),
        }
    }
}

impl core::error::Error for NoGuests {}

/// Bits of CR4 that no feature bit stands for: VME, PVI, TSD, DE, PSE, PAE, MCE, PGE, PCE, OSFXSR, OSXMMEXCPT.
const CR4_BASIC: u64 = 0x7ff;
const CR4_OSXSAVE: u64 = 1 << 18;
/// Feature word, its bit, and the CR4 bit that comes with it.
const CR4_FEATURES: [(usize, u32, u64); 5] = [
    // UMIP, FSGSBASE, PCIDE, SMEP, SMAP.
    (4, 1 << 2, 1 << 11),
    (3, 1 << 0, 1 << 16),
    (1, 1 << 17, 1 << 17),
    (3, 1 << 7, 1 << 20),
    (3, 1 << 20, 1 << 21),
];
const CR4_MCE: u64 = 1 << 6;
/// Bit of CPUID 7 EDX by which IA32_SPEC_CTRL and IA32_PRED_CMD are there.
const SPEC_CTRL: u32 = 26;
/// Bit of CPUID 7 EDX, and the IA32_SPEC_CTRL bit that it tells of: IBRS, STIBP, SSBD. The processor refuses the others.
const SPEC_CTRL_FEATURES: [(u32, u64); 3] = [(SPEC_CTRL, 1 << 0), (27, 1 << 1), (31, 1 << 2)];
/// Entries for which a saved preemption timer is not set anew. The exits between them take some hundred ticks each, so it
/// comes late by a few thousand at most: a microsecond or two.
const COAST_ENTRIES_MAX: u32 = 15;
/// Bit of CPUID 7 EDX by which IA32_ARCH_CAPABILITIES is there.
const ARCH_CAPABILITIES: u32 = 29;
/// Bits of IA32_ARCH_CAPABILITIES that tell of an immunity; the others offer registers that guests do not have.
const ARCH_CAPABILITIES_IMMUNITIES: u64 = 0x0d12_e17f;

/// What this host can do for guests.
#[derive(Clone, Debug)]
pub struct Platform {
    /// VMX.
    pub capabilities: Capabilities,
    /// The controls that guests run under.
    pub controls: Controls,
    /// Registers that stay in the processor.
    pub residency: Residency,
    /// The preemption timer.
    pub timer: PreemptionTimer,
    /// How dirty pages are found.
    pub dirty_source: DirtySource,
    /// Frequency of the host's TSC, in Hz.
    pub tsc_hz: u64,
}

impl Platform {
    /// Looks at the running processor; all others are taken to be like it.
    ///
    /// # Errors
    /// [`NoGuests`] says why no guest can run.
    pub fn probe(tsc_hz: u64) -> Result<Self, NoGuests> {
        let capabilities = host::probe().map_err(NoGuests::Unsupported)?;
        let controls = Controls::negotiate(&capabilities).map_err(NoGuests::Unsuitable)?;
        let residency =
            Residency::probe(controls.secondary).ok_or(NoGuests::Unsuitable(Unsuitable::NoXsave))?;
        Ok(Self {
            timer: PreemptionTimer::new(capabilities.misc.preemption_timer_shift),
            dirty_source: DirtySource::choose(&capabilities),
            capabilities,
            controls,
            residency,
            tsc_hz,
        })
    }

    /// How EPT is to be used.
    #[must_use]
    pub const fn accessed_dirty(&self) -> AccessedDirty {
        if self.capabilities.has_ept_dirty() { AccessedDirty::Kept } else { AccessedDirty::Ignored }
    }

    /// How long the preemption timer may be left alone.
    #[must_use]
    pub const fn coast(&self) -> Coast {
        Coast::new(if self.controls.saves_timer() { COAST_ENTRIES_MAX } else { 0 })
    }

    /// Whether a guest's TSC can run at another frequency than the host's.
    #[must_use]
    pub fn can_scale_tsc(&self) -> bool {
        self.capabilities.secondary.offers(SecondaryControls::USE_TSC_SCALING)
    }

    /// Whether the processor ends interrupts for guests in x2APIC mode.
    #[must_use]
    pub fn has_virtual_eoi(&self) -> bool {
        self.capabilities.has_virtual_eoi()
    }

    /// Whether a processor that spins can be made to exit, so that the one it waits for gets its turn.
    #[must_use]
    pub fn can_catch_spinning(&self) -> bool {
        self.capabilities.secondary.offers(SecondaryControls::PAUSE_LOOP_EXITING)
    }

    /// Whether 1 GiB pages can map guests' memory.
    #[must_use]
    pub const fn has_huge_pages(&self) -> bool {
        self.capabilities.ept.contains(EptCapabilities::PAGE_1G)
    }

    /// The feature bits that guests see here.
    #[must_use]
    pub fn features(&self) -> FeatureSet {
        *self.policy(1, self.tsc_hz, None).cpuid.features()
    }

    /// What guests with `vcpus` processors see here: what this host has, or of it what the guest has been `shown` where it
    /// comes from.
    #[must_use]
    pub fn policy(&self, vcpus: u32, tsc_hz: u64, shown: Option<&FeatureSet>) -> Policy {
        let secondary = self.controls.secondary;
        let mut withheld = FeatureSet([0; WORDS]);
        let mut withhold = |leaf: u32, register: Register, bit: u32| {
            let found = FEATURES.iter().position(|word| word.leaf == leaf && word.register == register);
            if let Some(index) = found {
                withheld.0[index] |= 1 << bit;
            }
        };
        if !secondary.contains(SecondaryControls::ENABLE_INVPCID) {
            withhold(7, Register::Ebx, 10);
        }
        if !secondary.contains(SecondaryControls::ENABLE_RDTSCP) {
            withhold(7, Register::Ecx, 22);
            withhold(0x8000_0001, Register::Edx, 27);
        }
        if !self.residency.speculation_control {
            SPEC_CTRL_FEATURES.into_iter().for_each(|(bit, _)| withhold(7, Register::Edx, bit));
        }
        let arch_capabilities = self.arch_capabilities();
        if arch_capabilities.is_none() {
            withhold(7, Register::Edx, ARCH_CAPABILITIES);
        }
        if let Some(shown) = shown {
            withheld = withheld.withholding_beyond(shown);
        }
        let cpuid = GuestCpuid::new(&Basis {
            host: &host_cpuid,
            components: self.residency.components,
            tsc_hz,
            vcpus,
            withheld,
        });
        let shows_arch_capabilities = cpuid.features().has(7, Register::Edx, ARCH_CAPABILITIES);
        let speculation_control = cpuid.features().has(7, Register::Edx, SPEC_CTRL);
        let cr4_guest = cr4_guest(cpuid.features()) & self.capabilities.cr4.may_be_1;
        Policy {
            cpuid,
            arch_capabilities: arch_capabilities.filter(|_| shows_arch_capabilities).unwrap_or(0),
            speculation_control,
            tsc_hz,
            cr0: self.capabilities.cr0,
            cr4: self.capabilities.cr4,
            cr4_guest,
        }
    }

    /// What of the host's IA32_ARCH_CAPABILITIES guests see, if it has any.
    fn arch_capabilities(&self) -> Option<u64> {
        let [highest, ..] = host_cpuid(0, 0);
        if highest < 7 || host_cpuid(7, 0)[3] & 1 << ARCH_CAPABILITIES == 0 {
            return None;
        }
        let value = crate::arch::cpu::try_read_msr(godwit_vmx::msr::ARCH_CAPABILITIES)?;
        Some(value & ARCH_CAPABILITIES_IMMUNITIES).filter(|value| *value != 0)
    }

    /// What a saved state is checked against, for guests that see `policy`.
    #[must_use]
    pub fn limits(&self, policy: &Policy) -> Limits {
        Limits {
            components: policy.cpuid.components(),
            cr4_allowed: policy.cr4_guest | CR4_MCE,
            spec_ctrl_allowed: spec_ctrl_allowed(policy.cpuid.features()),
        }
    }
}

/// IA32_SPEC_CTRL bits that go with the features that the guest sees.
fn spec_ctrl_allowed(features: &FeatureSet) -> u64 {
    let shown = SPEC_CTRL_FEATURES.into_iter().filter(|(bit, _)| features.has(7, Register::Edx, *bit));
    shown.fold(0, |allowed, (_, control)| allowed | control)
}

/// CR4 bits that go with the features that the guest sees; MCE is the host's.
fn cr4_guest(features: &FeatureSet) -> u64 {
    const WORD_1_ECX: usize = 1;
    const XSAVE: u32 = 1 << 26;
    let mut bits = CR4_BASIC & !CR4_MCE;
    if features.0[WORD_1_ECX] & XSAVE != 0 {
        bits |= CR4_OSXSAVE;
    }
    for (word, feature, cr4) in CR4_FEATURES {
        if features.0[word] & feature != 0 {
            bits |= cr4;
        }
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cr4_bits_follow_the_features() {
        let mut features = FeatureSet([0; WORDS]);
        assert_eq!(cr4_guest(&features), 0x7bf);
        features.0[3] = 1 << 7 | 1 << 20;
        features.0[1] = 1 << 26;
        assert_eq!(cr4_guest(&features), 0x7bf | 1 << 18 | 1 << 20 | 1 << 21);
    }

    /// IA32_SPEC_CTRL with a bit that the processor lacks would fault in the host.
    #[test]
    fn a_state_sets_only_the_speculation_controls_that_its_guest_is_shown() {
        const SSBD: u32 = 31;
        let mut platform = super::super::vcpu::tests::platform();
        platform.residency.speculation_control = true;
        let mut withheld = FeatureSet([0; WORDS]);
        let accepts = |policy: &Policy, value| {
            let mut state = super::super::state::tests::fresh();
            state.msrs.spec_ctrl = value;
            state.validate(&platform.limits(policy)).is_ok()
        };
        let all = policy_without(withheld);
        assert!(accepts(&all, 0b111) && !accepts(&all, 0b1000));
        withheld.0[5] = 1 << SSBD;
        let narrower = policy_without(withheld);
        assert!(accepts(&narrower, 0b011) && !accepts(&narrower, 0b100));
    }

    fn policy_without(withheld: FeatureSet) -> Policy {
        let host = |_, _| [!0; 4];
        let components = godwit_vmx::fpu::Components::all();
        let cpuid =
            GuestCpuid::new(&Basis { host: &host, components, tsc_hz: 1_000_000, vcpus: 1, withheld });
        Policy { cpuid, ..crate::exits::testing::policy() }
    }

    #[test]
    fn the_feature_words_are_where_the_table_above_says() {
        let word = |index: usize| (FEATURES[index].leaf, FEATURES[index].register);
        assert_eq!(word(1), (1, Register::Ecx));
        assert_eq!(word(3), (7, Register::Ebx));
        assert_eq!(word(4), (7, Register::Ecx));
    }
}
