//! The VM-execution, VM-exit and VM-entry control words, and their negotiation (SDM 25.6–25.8, A.3–A.5).
//!
//! [`negotiate`] is the only formula by which a control word comes to be: what the processor insists on, what
//! is required, and what is wished for and offered. A required control that is not offered is named.

use core::fmt;

use bitflags::{Flags, bitflags};

bitflags! {
    /// Pin-based VM-execution controls (SDM table 25-5).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct PinControls: u32 {
        /// External interrupts cause VM exits.
        const EXTERNAL_INTERRUPT_EXITING = 1 << 0;
        /// Non-maskable interrupts cause VM exits.
        const NMI_EXITING = 1 << 3;
        /// NMIs are never blocked and "blocking by NMI" is virtual.
        const VIRTUAL_NMIS = 1 << 5;
        /// The VMX-preemption timer counts down in VMX non-root operation.
        const PREEMPTION_TIMER = 1 << 6;
        /// Interrupts with the notification vector are processed into the virtual-APIC page.
        const PROCESS_POSTED_INTERRUPTS = 1 << 7;
        const _ = !0;
    }

    /// Primary processor-based VM-execution controls (SDM table 25-6).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct PrimaryControls: u32 {
        /// VM exit as soon as the guest can take an interrupt.
        const INTERRUPT_WINDOW_EXITING = 1 << 2;
        /// RDTSC, RDTSCP and RDMSR of the TSC are offset.
        const USE_TSC_OFFSETTING = 1 << 3;
        /// HLT exits.
        const HLT_EXITING = 1 << 7;
        /// INVLPG exits.
        const INVLPG_EXITING = 1 << 9;
        /// MWAIT exits.
        const MWAIT_EXITING = 1 << 10;
        /// RDPMC exits.
        const RDPMC_EXITING = 1 << 11;
        /// RDTSC and RDTSCP exit.
        const RDTSC_EXITING = 1 << 12;
        /// MOV to CR3 exits.
        const CR3_LOAD_EXITING = 1 << 15;
        /// MOV from CR3 exits.
        const CR3_STORE_EXITING = 1 << 16;
        /// MOV to CR8 exits.
        const CR8_LOAD_EXITING = 1 << 19;
        /// MOV from CR8 exits.
        const CR8_STORE_EXITING = 1 << 20;
        /// The virtual-APIC page holds the TPR.
        const USE_TPR_SHADOW = 1 << 21;
        /// VM exit as soon as the guest can take an NMI.
        const NMI_WINDOW_EXITING = 1 << 22;
        /// MOV DR exits.
        const MOV_DR_EXITING = 1 << 23;
        /// Every I/O instruction exits.
        const UNCONDITIONAL_IO_EXITING = 1 << 24;
        /// The I/O bitmaps decide which ports exit.
        const USE_IO_BITMAPS = 1 << 25;
        /// Single-step by VM exit.
        const MONITOR_TRAP_FLAG = 1 << 27;
        /// The MSR bitmaps decide which MSRs exit.
        const USE_MSR_BITMAPS = 1 << 28;
        /// MONITOR exits.
        const MONITOR_EXITING = 1 << 29;
        /// PAUSE exits.
        const PAUSE_EXITING = 1 << 30;
        /// The secondary controls are used.
        const ACTIVATE_SECONDARY_CONTROLS = 1 << 31;
        const _ = !0;
    }

    /// Secondary processor-based VM-execution controls (SDM table 25-7).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct SecondaryControls: u32 {
        /// Accesses to the APIC-access page are special.
        const VIRTUALIZE_APIC_ACCESSES = 1 << 0;
        /// Extended page tables.
        const ENABLE_EPT = 1 << 1;
        /// Loads and stores of descriptor-table registers exit.
        const DESCRIPTOR_TABLE_EXITING = 1 << 2;
        /// RDTSCP works.
        const ENABLE_RDTSCP = 1 << 3;
        /// RDMSR and WRMSR of x2APIC registers are special.
        const VIRTUALIZE_X2APIC_MODE = 1 << 4;
        /// Linear mappings are tagged with a virtual-processor identifier.
        const ENABLE_VPID = 1 << 5;
        /// WBINVD exits.
        const WBINVD_EXITING = 1 << 6;
        /// The guest may run unpaged and in real mode.
        const UNRESTRICTED_GUEST = 1 << 7;
        /// Virtualises most APIC registers.
        const APIC_REGISTER_VIRTUALIZATION = 1 << 8;
        /// Evaluates and delivers virtual interrupts.
        const VIRTUAL_INTERRUPT_DELIVERY = 1 << 9;
        /// A series of PAUSEs exits.
        const PAUSE_LOOP_EXITING = 1 << 10;
        /// RDRAND exits.
        const RDRAND_EXITING = 1 << 11;
        /// INVPCID works.
        const ENABLE_INVPCID = 1 << 12;
        /// VMFUNC works.
        const ENABLE_VM_FUNCTIONS = 1 << 13;
        /// VMREAD and VMWRITE of the guest may reach a shadow VMCS.
        const VMCS_SHADOWING = 1 << 14;
        /// RDSEED exits.
        const RDSEED_EXITING = 1 << 16;
        /// An access that sets an EPT dirty bit is logged.
        const ENABLE_PML = 1 << 17;
        /// EPT violations may become #VE.
        const EPT_VIOLATION_VE = 1 << 18;
        /// XSAVES and XRSTORS work.
        const ENABLE_XSAVES = 1 << 20;
        /// EPT execute permission depends on the linear address's mode.
        const MODE_BASED_EXECUTE = 1 << 22;
        /// The guest's TSC is multiplied.
        const USE_TSC_SCALING = 1 << 25;
        /// TPAUSE, UMONITOR and UMWAIT work.
        const ENABLE_USER_WAIT_PAUSE = 1 << 26;
        const _ = !0;
    }

    /// VM-exit controls (SDM table 25-13).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct ExitControls: u32 {
        /// DR7 and IA32_DEBUGCTL are saved.
        const SAVE_DEBUG_CONTROLS = 1 << 2;
        /// The host is in 64-bit mode.
        const HOST_ADDRESS_SPACE_SIZE = 1 << 9;
        /// IA32_PERF_GLOBAL_CTRL is loaded.
        const LOAD_PERF_GLOBAL_CTRL = 1 << 12;
        /// The interrupt controller is acknowledged and the vector stored.
        const ACKNOWLEDGE_INTERRUPT = 1 << 15;
        /// IA32_PAT is saved.
        const SAVE_PAT = 1 << 18;
        /// IA32_PAT is loaded.
        const LOAD_PAT = 1 << 19;
        /// IA32_EFER is saved.
        const SAVE_EFER = 1 << 20;
        /// IA32_EFER is loaded.
        const LOAD_EFER = 1 << 21;
        /// The preemption timer's value is saved.
        const SAVE_PREEMPTION_TIMER = 1 << 22;
        /// IA32_BNDCFGS is cleared.
        const CLEAR_BNDCFGS = 1 << 23;
        const _ = !0;
    }

    /// VM-entry controls (SDM table 25-15).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct EntryControls: u32 {
        /// DR7 and IA32_DEBUGCTL are loaded.
        const LOAD_DEBUG_CONTROLS = 1 << 2;
        /// The guest is in IA-32e mode.
        const IA32E_MODE_GUEST = 1 << 9;
        /// Entry to system-management mode.
        const ENTRY_TO_SMM = 1 << 10;
        /// IA32_PERF_GLOBAL_CTRL is loaded.
        const LOAD_PERF_GLOBAL_CTRL = 1 << 13;
        /// IA32_PAT is loaded.
        const LOAD_PAT = 1 << 14;
        /// IA32_EFER is loaded.
        const LOAD_EFER = 1 << 15;
        /// IA32_BNDCFGS is loaded.
        const LOAD_BNDCFGS = 1 << 16;
        const _ = !0;
    }
}

/// What one capability register allows of a control word (SDM A.2): low half the bits that must be 1, high
/// half the bits that may be 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Bits that must be 1.
    pub must_be_1: u32,
    /// Bits that may be 1.
    pub may_be_1: u32,
}

impl Allowed {
    /// Nothing offered: for a control word that does not exist on this processor.
    pub const NONE: Self = Self { must_be_1: 0, may_be_1: 0 };

    /// Splits the value of a capability register.
    #[must_use]
    pub const fn from_msr(value: u64) -> Self {
        Self { must_be_1: value as u32, may_be_1: (value >> 32) as u32 }
    }

    /// Whether every control in `controls` may be set.
    #[must_use]
    pub fn offers<C: Flags<Bits = u32>>(self, controls: C) -> bool {
        controls.bits() & !self.may_be_1 == 0
    }
}

/// Required controls that the processor does not offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingControls<C>(pub C);

impl<C: Flags<Bits = u32>> fmt::Display for MissingControls<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the processor does not offer")?;
        for (index, (name, _)) in self.0.iter_names().enumerate() {
            f.write_str(if index == 0 { " " } else { ", " })?;
            f.write_str(name)?;
        }
        Ok(())
    }
}

impl<C: Flags<Bits = u32> + fmt::Debug> core::error::Error for MissingControls<C> {}

/// The control word: forced bits, plus `required`, plus what of `optional` is offered.
///
/// # Errors
/// [`MissingControls`] names the part of `required` that is not offered.
pub fn negotiate<C: Flags<Bits = u32> + Copy>(
    allowed: Allowed,
    required: C,
    optional: C,
) -> Result<C, MissingControls<C>> {
    let missing = required.bits() & !allowed.may_be_1;
    if missing != 0 {
        return Err(MissingControls(C::from_bits_retain(missing)));
    }
    let wanted = required.bits() | (optional.bits() & allowed.may_be_1);
    Ok(C::from_bits_retain(wanted | allowed.must_be_1))
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    /// IA32_VMX_PINBASED_CTLS as KVM offers it to a nested hypervisor.
    const PIN: Allowed = Allowed::from_msr(0x7f_0000_0016);

    #[test]
    fn forced_and_offered_bits_make_the_word() {
        let word = negotiate(PIN, PinControls::NMI_EXITING, PinControls::PREEMPTION_TIMER).unwrap();
        assert_eq!(word.bits(), 0x16 | 1 << 3 | 1 << 6);
    }

    #[test]
    fn an_optional_control_that_is_not_offered_is_left_out() {
        let word = negotiate(PIN, PinControls::empty(), PinControls::PROCESS_POSTED_INTERRUPTS).unwrap();
        assert_eq!(word.bits(), 0x16);
    }

    #[test]
    fn missing_required_controls_are_named() {
        let error = negotiate(
            Allowed::from_msr(0x2 << 32),
            SecondaryControls::ENABLE_EPT
                | SecondaryControls::UNRESTRICTED_GUEST
                | SecondaryControls::ENABLE_VPID,
            SecondaryControls::empty(),
        )
        .unwrap_err();
        assert_eq!(error.to_string(), "the processor does not offer ENABLE_VPID, UNRESTRICTED_GUEST");
    }
}
