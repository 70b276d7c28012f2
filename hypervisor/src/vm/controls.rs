//! Which VMX controls guests run under: what is required, what is wished for.

use core::fmt;

use godwit_vmx::capability::{Capabilities, EptCapabilities};
use godwit_vmx::controls::{
    EntryControls, ExitControls, MissingControls, PinControls, PrimaryControls, SecondaryControls, negotiate,
};

/// The control words, before anything that changes while a guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Controls {
    /// Pin-based.
    pub pin: PinControls,
    /// Primary processor-based.
    pub primary: PrimaryControls,
    /// Secondary processor-based.
    pub secondary: SecondaryControls,
    /// VM exit.
    pub exit: ExitControls,
    /// VM entry.
    pub entry: EntryControls,
}

/// Why guests cannot run on this processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsuitable {
    /// Pin-based controls are missing.
    Pin(MissingControls<PinControls>),
    /// Primary controls are missing.
    Primary(MissingControls<PrimaryControls>),
    /// Secondary controls are missing.
    Secondary(MissingControls<SecondaryControls>),
    /// VM-exit controls are missing.
    Exit(MissingControls<ExitControls>),
    /// VM-entry controls are missing.
    Entry(MissingControls<EntryControls>),
    /// EPT lacks four levels, write-back tables, 2 MiB pages or INVEPT.
    Ept,
    /// The processor has no XSAVE.
    NoXsave,
}

impl fmt::Display for Unsuitable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pin(missing) => missing.fmt(f),
            Self::Primary(missing) => missing.fmt(f),
            Self::Secondary(missing) => missing.fmt(f),
            Self::Exit(missing) => missing.fmt(f),
            Self::Entry(missing) => missing.fmt(f),
            Self::Ept => f.write_str(
                "the processor's EPT lacks four-level walks, write-back tables, 2 MiB pages or INVEPT",
            ),
            Self::NoXsave => f.write_str("the processor has no XSAVE"),
        }
    }
}

impl core::error::Error for Unsuitable {}

const EPT_REQUIRED: EptCapabilities = EptCapabilities::WALK_LENGTH_4
    .union(EptCapabilities::MEMORY_TYPE_WB)
    .union(EptCapabilities::PAGE_2M)
    .union(EptCapabilities::INVEPT)
    .union(EptCapabilities::INVEPT_SINGLE_CONTEXT);

impl Controls {
    /// Negotiates with the processor.
    ///
    /// # Errors
    /// [`Unsuitable`] names what is missing.
    pub fn negotiate(capabilities: &Capabilities) -> Result<Self, Unsuitable> {
        if !capabilities.ept.contains(EPT_REQUIRED) {
            return Err(Unsuitable::Ept);
        }
        // Guests have no device that goes past the caches: WBINVD is nothing to them, and takes long for all.
        let mut optional = SecondaryControls::ENABLE_RDTSCP
            | SecondaryControls::ENABLE_INVPCID
            | SecondaryControls::WBINVD_EXITING;
        let invvpid = EptCapabilities::INVVPID | EptCapabilities::INVVPID_SINGLE_CONTEXT;
        if capabilities.ept.contains(invvpid) {
            optional |= SecondaryControls::ENABLE_VPID;
        }
        Ok(Self {
            pin: negotiate(
                capabilities.pin,
                PinControls::EXTERNAL_INTERRUPT_EXITING
                    | PinControls::NMI_EXITING
                    | PinControls::VIRTUAL_NMIS
                    | PinControls::PREEMPTION_TIMER,
                PinControls::empty(),
            )
            .map_err(Unsuitable::Pin)?,
            primary: negotiate(
                capabilities.primary,
                PrimaryControls::USE_TSC_OFFSETTING
                    | PrimaryControls::HLT_EXITING
                    | PrimaryControls::MWAIT_EXITING
                    | PrimaryControls::MONITOR_EXITING
                    | PrimaryControls::RDPMC_EXITING
                    | PrimaryControls::CR8_LOAD_EXITING
                    | PrimaryControls::CR8_STORE_EXITING
                    | PrimaryControls::USE_IO_BITMAPS
                    | PrimaryControls::USE_MSR_BITMAPS
                    | PrimaryControls::ACTIVATE_SECONDARY_CONTROLS,
                PrimaryControls::empty(),
            )
            .map_err(Unsuitable::Primary)?,
            secondary: negotiate(
                capabilities.secondary,
                SecondaryControls::ENABLE_EPT | SecondaryControls::UNRESTRICTED_GUEST,
                optional,
            )
            .map_err(Unsuitable::Secondary)?,
            exit: negotiate(
                capabilities.exit,
                ExitControls::SAVE_DEBUG_CONTROLS
                    | ExitControls::HOST_ADDRESS_SPACE_SIZE
                    | ExitControls::SAVE_PAT
                    | ExitControls::LOAD_PAT
                    | ExitControls::SAVE_EFER
                    | ExitControls::LOAD_EFER,
                ExitControls::SAVE_PREEMPTION_TIMER,
            )
            .map_err(Unsuitable::Exit)?,
            entry: negotiate(
                capabilities.entry,
                EntryControls::LOAD_DEBUG_CONTROLS | EntryControls::LOAD_PAT | EntryControls::LOAD_EFER,
                EntryControls::empty(),
            )
            .map_err(Unsuitable::Entry)?,
        })
    }

    /// Whether the preemption timer goes on at an entry where it stopped at the exit before.
    #[must_use]
    pub const fn saves_timer(&self) -> bool {
        self.exit.contains(ExitControls::SAVE_PREEMPTION_TIMER)
    }

    /// Whether translations are tagged per virtual processor.
    #[must_use]
    pub const fn has_vpid(&self) -> bool {
        self.secondary.contains(SecondaryControls::ENABLE_VPID)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::string::ToString;

    use godwit_vmx::controls::Allowed;
    use godwit_vmx::msr;

    use super::*;

    /// What KVM offers to a nested hypervisor.
    pub(in super::super) fn kvm() -> Capabilities {
        Capabilities::probe(|number| {
            Some(match number {
                msr::FEATURE_CONTROL => 5,
                msr::VMX_BASIC => 0x00da_0400_11e5_7ed0,
                msr::VMX_TRUE_PINBASED_CTLS => 0x7f_0000_0016,
                msr::VMX_TRUE_PROCBASED_CTLS => 0xfff9_fffe_0400_6172,
                msr::VMX_TRUE_EXIT_CTLS => 0x007f_ffff_0003_6dfb,
                msr::VMX_TRUE_ENTRY_CTLS => 0xffff_0000_11fb,
                msr::VMX_MISC => 0x2000_0165,
                msr::VMX_CR0_FIXED0 => 0x8000_0021,
                msr::VMX_CR0_FIXED1 => 0xffff_ffff,
                msr::VMX_CR4_FIXED0 => 0x2000,
                msr::VMX_CR4_FIXED1 => 0x37_67ff,
                msr::VMX_PROCBASED_CTLS2 => 0x0203_7bff_0000_0000,
                msr::VMX_EPT_VPID_CAP => 0xf01_0633_4041,
                _ => return None,
            })
        })
        .unwrap()
    }

    #[test]
    fn kvm_suits() {
        let controls = Controls::negotiate(&kvm()).unwrap();
        assert!(controls.has_vpid() && controls.saves_timer());
        assert!(controls.secondary.contains(SecondaryControls::ENABLE_INVPCID));
        assert!(controls.secondary.contains(SecondaryControls::WBINVD_EXITING), "caches are everybody's");
        assert!(!controls.primary.contains(PrimaryControls::CR3_LOAD_EXITING));
        assert!(!controls.secondary.contains(SecondaryControls::ENABLE_PML), "only while it is wanted");
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut old = kvm();
        old.secondary = Allowed { must_be_1: 0, may_be_1: 0x2 };
        let error = Controls::negotiate(&old).unwrap_err();
        assert_eq!(error.to_string(), "the processor does not offer UNRESTRICTED_GUEST");
        old.ept = EptCapabilities::empty();
        assert_eq!(Controls::negotiate(&old), Err(Unsuitable::Ept));
        let mut no_timer = kvm();
        no_timer.pin = Allowed::from_msr(0x3f_0000_0016);
        let error = Controls::negotiate(&no_timer).unwrap_err();
        assert_eq!(error.to_string(), "the processor does not offer PREEMPTION_TIMER");
    }
}
