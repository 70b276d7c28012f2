//! What this processor's VMX can do (SDM appendix A), read once, pure over register values.

use core::fmt;

use bitflags::bitflags;

use crate::controls::{Allowed, PinControls, PrimaryControls, SecondaryControls};
use crate::msr;

bitflags! {
    /// IA32_VMX_EPT_VPID_CAP (SDM A.10).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct EptCapabilities: u64 {
        /// Execute-only translations.
        const EXECUTE_ONLY = 1 << 0;
        /// Four-level page walks.
        const WALK_LENGTH_4 = 1 << 6;
        /// The tables may be uncacheable.
        const MEMORY_TYPE_UC = 1 << 8;
        /// The tables may be write-back.
        const MEMORY_TYPE_WB = 1 << 14;
        /// 2 MiB pages.
        const PAGE_2M = 1 << 16;
        /// 1 GiB pages.
        const PAGE_1G = 1 << 17;
        /// INVEPT.
        const INVEPT = 1 << 20;
        /// Accessed and dirty flags.
        const ACCESSED_DIRTY = 1 << 21;
        /// Advanced information in EPT-violation qualifications.
        const ADVANCED_EXIT_INFORMATION = 1 << 22;
        /// Single-context INVEPT.
        const INVEPT_SINGLE_CONTEXT = 1 << 25;
        /// All-context INVEPT.
        const INVEPT_ALL_CONTEXT = 1 << 26;
        /// INVVPID.
        const INVVPID = 1 << 32;
        /// Individual-address INVVPID.
        const INVVPID_ADDRESS = 1 << 40;
        /// Single-context INVVPID.
        const INVVPID_SINGLE_CONTEXT = 1 << 41;
        /// All-context INVVPID.
        const INVVPID_ALL_CONTEXT = 1 << 42;
        const _ = !0;
    }
}

/// State of IA32_FEATURE_CONTROL (SDM 24.7): who has decided about VMX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureControl {
    /// Firmware left it open: we set and lock it.
    Unlocked,
    /// Locked with VMX outside SMX enabled.
    LockedOn,
    /// Locked with VMX outside SMX disabled: only firmware settings can change that.
    LockedOff,
}

impl FeatureControl {
    /// Lock bit and "VMX outside SMX", the value to write when [`FeatureControl::Unlocked`].
    pub const ENABLE_AND_LOCK: u64 = LOCK | VMX_OUTSIDE_SMX;

    /// Classifies the register's value.
    #[must_use]
    pub const fn from_msr(value: u64) -> Self {
        match (value & LOCK != 0, value & VMX_OUTSIDE_SMX != 0) {
            (false, _) => Self::Unlocked,
            (true, true) => Self::LockedOn,
            (true, false) => Self::LockedOff,
        }
    }
}

const LOCK: u64 = 1 << 0;
const VMX_OUTSIDE_SMX: u64 = 1 << 2;

/// Bits of CR0 or CR4 that VMX operation fixes (SDM A.7, A.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedBits {
    /// Bits that must be 1.
    pub must_be_1: u64,
    /// Bits that may be 1.
    pub may_be_1: u64,
}

impl FixedBits {
    /// `value` with forced bits set and forbidden bits cleared.
    #[must_use]
    pub const fn apply(self, value: u64) -> u64 {
        (value | self.must_be_1) & self.may_be_1
    }
}

/// Activity states besides "active" (IA32_VMX_MISC bits 8:6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Misc {
    /// The preemption timer counts down once every `2^n` TSC ticks.
    pub preemption_timer_shift: u8,
    /// VM entry may put the guest into HLT.
    pub activity_hlt: bool,
    /// Number of CR3-target values.
    pub cr3_targets: u16,
    /// Recommended maximum of MSRs in each VM-entry/exit area.
    pub msr_area_max: u16,
}

/// Everything the VMX capability registers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Identifier that a VMCS region must begin with.
    pub revision: u32,
    /// Bytes of a VMXON or VMCS region (at most 4096).
    pub region_bytes: u16,
    /// IA32_FEATURE_CONTROL.
    pub feature_control: FeatureControl,
    /// Pin-based controls.
    pub pin: Allowed,
    /// Primary processor-based controls.
    pub primary: Allowed,
    /// Secondary processor-based controls.
    pub secondary: Allowed,
    /// VM-exit controls.
    pub exit: Allowed,
    /// VM-entry controls.
    pub entry: Allowed,
    /// EPT and VPID.
    pub ept: EptCapabilities,
    /// IA32_VMX_MISC.
    pub misc: Misc,
    /// CR0 in VMX operation.
    pub cr0: FixedBits,
    /// CR4 in VMX operation.
    pub cr4: FixedBits,
}

/// Why VMX cannot be used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsupported {
    /// The processor has no VMX, or hides it.
    NoVmx,
    /// Firmware has disabled VMX and locked the setting.
    DisabledByFirmware,
    /// A capability register that must exist could not be read.
    UnreadableMsr(u32),
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoVmx => f.write_str("the processor has no VMX, or the machine below hides it"),
            Self::DisabledByFirmware => f.write_str("VMX is disabled and locked by the firmware's settings"),
            Self::UnreadableMsr(number) => write!(f, "capability register {number:#x} cannot be read"),
        }
    }
}

impl core::error::Error for Unsupported {}

impl Capabilities {
    /// Reads the capability registers through `read`, which is asked only for registers that the earlier
    /// ones say exist. The caller has seen CPUID.1:ECX.VMX.
    ///
    /// # Errors
    /// [`Unsupported`] says why VMX cannot be used.
    pub fn probe(read: impl Fn(u32) -> Option<u64>) -> Result<Self, Unsupported> {
        let get = |number: u32| read(number).ok_or(Unsupported::UnreadableMsr(number));
        let basic = read(msr::VMX_BASIC).ok_or(Unsupported::NoVmx)?;
        let feature_control = FeatureControl::from_msr(get(msr::FEATURE_CONTROL)?);
        if feature_control == FeatureControl::LockedOff {
            return Err(Unsupported::DisabledByFirmware);
        }
        let has_true_controls = basic & (1 << 55) != 0;
        let control = |plain: u32, exact: u32| {
            get(if has_true_controls { exact } else { plain }).map(Allowed::from_msr)
        };
        let primary = control(msr::VMX_PROCBASED_CTLS, msr::VMX_TRUE_PROCBASED_CTLS)?;
        let secondary = if primary.offers(PrimaryControls::ACTIVATE_SECONDARY_CONTROLS) {
            Allowed::from_msr(get(msr::VMX_PROCBASED_CTLS2)?)
        } else {
            Allowed::NONE
        };
        let has_ept_vpid = secondary.offers(SecondaryControls::ENABLE_EPT)
            || secondary.offers(SecondaryControls::ENABLE_VPID);
        let ept = if has_ept_vpid { get(msr::VMX_EPT_VPID_CAP)? } else { 0 };
        Ok(Self {
            revision: basic as u32 & 0x7fff_ffff,
            region_bytes: (basic >> 32) as u16 & 0x1fff,
            feature_control,
            pin: control(msr::VMX_PINBASED_CTLS, msr::VMX_TRUE_PINBASED_CTLS)?,
            primary,
            secondary,
            exit: control(msr::VMX_EXIT_CTLS, msr::VMX_TRUE_EXIT_CTLS)?,
            entry: control(msr::VMX_ENTRY_CTLS, msr::VMX_TRUE_ENTRY_CTLS)?,
            ept: EptCapabilities::from_bits_retain(ept),
            misc: Misc::from_msr(get(msr::VMX_MISC)?),
            cr0: FixedBits { must_be_1: get(msr::VMX_CR0_FIXED0)?, may_be_1: get(msr::VMX_CR0_FIXED1)? },
            cr4: FixedBits { must_be_1: get(msr::VMX_CR4_FIXED0)?, may_be_1: get(msr::VMX_CR4_FIXED1)? },
        })
    }

    /// Whether page-modification logging can be used: it needs the dirty flags too.
    #[must_use]
    pub fn has_pml(&self) -> bool {
        self.secondary.offers(SecondaryControls::ENABLE_PML) && self.has_ept_dirty()
    }

    /// Whether the processor can end interrupts for a guest in x2APIC mode, by the virtual-APIC page (SDM 30.1.4, 30.5).
    #[must_use]
    pub fn has_virtual_eoi(&self) -> bool {
        self.pin.offers(PinControls::EXTERNAL_INTERRUPT_EXITING)
            && self.primary.offers(PrimaryControls::USE_TPR_SHADOW)
            && self.secondary.offers(
                SecondaryControls::VIRTUALIZE_X2APIC_MODE | SecondaryControls::VIRTUAL_INTERRUPT_DELIVERY,
            )
    }

    /// Whether EPT keeps accessed and dirty flags.
    #[must_use]
    pub const fn has_ept_dirty(&self) -> bool {
        self.ept.contains(EptCapabilities::ACCESSED_DIRTY)
    }
}

impl Misc {
    /// Decodes IA32_VMX_MISC (SDM A.6).
    #[must_use]
    pub const fn from_msr(value: u64) -> Self {
        Self {
            preemption_timer_shift: value as u8 & 0x1f,
            activity_hlt: value & (1 << 6) != 0,
            cr3_targets: (value >> 16) as u16 & 0x1ff,
            msr_area_max: 512 * (((value >> 25) as u16 & 7) + 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::vec::Vec;

    use super::*;

    /// What KVM offers to a nested hypervisor.
    fn kvm(number: u32) -> Option<u64> {
        Some(match number {
            msr::FEATURE_CONTROL => 5,
            msr::VMX_BASIC => 0x00da_0400_11e5_7ed0,
            msr::VMX_PINBASED_CTLS | msr::VMX_TRUE_PINBASED_CTLS => 0x7f_0000_0016,
            msr::VMX_PROCBASED_CTLS => 0xfff9_fffe_0401_e172,
            msr::VMX_TRUE_PROCBASED_CTLS => 0xfff9_fffe_0400_6172,
            msr::VMX_EXIT_CTLS | msr::VMX_TRUE_EXIT_CTLS => 0x007f_ffff_0003_6dfb,
            msr::VMX_ENTRY_CTLS | msr::VMX_TRUE_ENTRY_CTLS => 0xffff_0000_11fb,
            msr::VMX_MISC => 0x2000_0165,
            msr::VMX_CR0_FIXED0 => 0x8000_0021,
            msr::VMX_CR0_FIXED1 => 0xffff_ffff,
            msr::VMX_CR4_FIXED0 => 0x2000,
            msr::VMX_CR4_FIXED1 => 0x37_67ff,
            msr::VMX_PROCBASED_CTLS2 => 0x0203_7bff_0000_0000,
            msr::VMX_EPT_VPID_CAP => 0xf01_0633_4041,
            _ => return None,
        })
    }

    #[test]
    fn a_nested_hypervisor_under_kvm_finds_what_it_offers() {
        let found = Capabilities::probe(kvm).unwrap();
        assert_eq!(found.revision, 0x11e5_7ed0);
        assert_eq!(found.region_bytes, 0x400);
        assert_eq!(found.feature_control, FeatureControl::LockedOn);
        assert!(found.has_pml() && found.has_ept_dirty());
        assert!(found.ept.contains(EptCapabilities::PAGE_2M | EptCapabilities::PAGE_1G));
        assert_eq!(found.misc.preemption_timer_shift, 5);
        assert!(found.misc.activity_hlt);
        assert!(!found.primary.offers(PrimaryControls::from_bits_retain(1 << 17)));
    }

    #[test]
    fn a_processor_without_secondary_controls_is_not_asked_for_them() {
        let asked = RefCell::new(Vec::new());
        let found = Capabilities::probe(|number| {
            asked.borrow_mut().push(number);
            match number {
                msr::VMX_BASIC => Some(0x0040_0400_0000_0001),
                msr::VMX_PROCBASED_CTLS => Some(0x7fff_fffe_0401_e172),
                other => kvm(other),
            }
        })
        .unwrap();
        assert_eq!(found.secondary, Allowed::NONE);
        for absent in [
            msr::VMX_PROCBASED_CTLS2,
            msr::VMX_EPT_VPID_CAP,
            msr::VMX_TRUE_EXIT_CTLS,
            msr::VMX_TRUE_PINBASED_CTLS,
        ] {
            assert!(!asked.borrow().contains(&absent));
        }
    }

    #[test]
    fn interrupts_are_ended_by_the_processor_only_where_it_offers_all_that_this_takes() {
        let found = Capabilities::probe(kvm).unwrap();
        assert!(found.has_virtual_eoi());
        for missing in
            [SecondaryControls::VIRTUALIZE_X2APIC_MODE, SecondaryControls::VIRTUAL_INTERRUPT_DELIVERY]
        {
            let mut without = found;
            without.secondary.may_be_1 &= !missing.bits();
            assert!(!without.has_virtual_eoi(), "{missing:?}");
        }
        let mut without = found;
        without.primary.may_be_1 &= !PrimaryControls::USE_TPR_SHADOW.bits();
        assert!(!without.has_virtual_eoi());
    }

    #[test]
    fn firmware_that_locked_vmx_off_is_named() {
        let locked = |number| if number == msr::FEATURE_CONTROL { Some(1) } else { kvm(number) };
        assert_eq!(Capabilities::probe(locked), Err(Unsupported::DisabledByFirmware));
        assert_eq!(Capabilities::probe(|_| None), Err(Unsupported::NoVmx));
        assert_eq!(FeatureControl::from_msr(0), FeatureControl::Unlocked);
    }

    #[test]
    fn fixed_bits_are_applied_both_ways() {
        let bits = FixedBits { must_be_1: 0x2000, may_be_1: 0x37_67ff };
        assert_eq!(bits.apply(1 << 5 | 1 << 24), 1 << 5 | 0x2000);
    }
}
