//! Why the guest came out: decoding is pure and total.
//!
//! [`Exit::decode`] reads from the VMCS only the fields that the reason defines. An exit that this crate does
//! not know is a value too.

use core::fmt;

use crate::addr::Gpa;
use crate::event::{Event, EventKind};
use crate::field;
use crate::vmcs::VmcsAccess;

mod qualification;
mod reason;

pub use qualification::{
    ApicAccess, ControlRegisterAccess, EptViolation, Final, IoAccess, IoDirection, TaskSwitch,
};
pub use reason::{REASONS, Reason};

const ENTRY_FAILURE: u32 = 1 << 31;

/// A VM exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// An exception of the guest, or an NMI that is the host's.
    ExceptionOrNmi(Option<Event>),
    /// An interrupt for the host; it is pending still, or its vector is given if it was acknowledged.
    ExternalInterrupt(Option<u8>),
    /// The guest met a fault while delivering a double fault.
    TripleFault,
    /// INIT.
    InitSignal,
    /// Startup IPI with this vector.
    StartupIpi(u8),
    /// The guest can take an interrupt.
    InterruptWindow,
    /// The guest can take an NMI.
    NmiWindow,
    /// A task switch, which VMX leaves to software.
    TaskSwitch(TaskSwitch),
    /// CPUID.
    Cpuid,
    /// HLT.
    Hlt,
    /// INVD.
    Invd,
    /// INVLPG.
    Invlpg,
    /// RDPMC.
    Rdpmc,
    /// RDTSC.
    Rdtsc,
    /// RDTSCP.
    Rdtscp,
    /// VMCALL.
    Vmcall,
    /// Another instruction of VMX, GETSEC or RSM, which the guest does not have.
    Forbidden(Reason),
    /// Access to a control register.
    ControlRegister(ControlRegisterAccess),
    /// Access to a debug register.
    DebugRegister(u64),
    /// I/O instruction.
    Io(IoAccess),
    /// RDMSR.
    Rdmsr,
    /// WRMSR.
    Wrmsr,
    /// The VM entry failed after the checks of controls and host state.
    EntryFailure(Reason, u64),
    /// MWAIT.
    Mwait,
    /// MONITOR.
    Monitor,
    /// PAUSE.
    Pause,
    /// Single step.
    MonitorTrapFlag,
    /// TPR fell below the threshold.
    TprBelowThreshold,
    /// Access to the APIC-access page.
    ApicAccess(ApicAccess),
    /// EOI of a virtualized interrupt with this vector.
    VirtualizedEoi(u8),
    /// Write to the virtual-APIC page at this offset.
    ApicWrite(u16),
    /// LGDT and its kin.
    DescriptorTable(Reason),
    /// EPT violation.
    EptViolation(EptViolation),
    /// A malformed EPT entry: our own fault.
    EptMisconfiguration(Gpa),
    /// The preemption timer ran out.
    PreemptionTimer,
    /// WBINVD.
    Wbinvd,
    /// XSETBV.
    Xsetbv,
    /// The page-modification log is full.
    PmlFull,
    /// An instruction of which we have not asked to hear.
    Unexpected(Reason),
    /// A reason that this crate does not know, with the whole field.
    Unknown(u32),
}

impl Exit {
    /// Decodes the exit whose exit-reason field holds `reason`, reading from `vmcs` only what it needs.
    #[inline(always)]
    pub fn decode(reason: u32, vmcs: &impl VmcsAccess) -> Self {
        let Some(basic) = Reason::from_number(reason as u16) else { return Self::Unknown(reason) };
        if reason & ENTRY_FAILURE != 0 {
            return Self::EntryFailure(basic, vmcs.read(field::EXIT_QUALIFICATION));
        }
        let qualification = || vmcs.read(field::EXIT_QUALIFICATION);
        match basic {
            Reason::ExceptionOrNmi => Self::ExceptionOrNmi(exit_event(vmcs)),
            Reason::ExternalInterrupt => Self::ExternalInterrupt(exit_event(vmcs).map(|event| event.vector)),
            Reason::TripleFault => Self::TripleFault,
            Reason::InitSignal => Self::InitSignal,
            Reason::StartupIpi => Self::StartupIpi(qualification() as u8),
            Reason::InterruptWindow => Self::InterruptWindow,
            Reason::NmiWindow => Self::NmiWindow,
            Reason::TaskSwitch => Self::TaskSwitch(TaskSwitch::decode(qualification())),
            Reason::Cpuid => Self::Cpuid,
            Reason::Hlt => Self::Hlt,
            Reason::Invd => Self::Invd,
            Reason::Invlpg => Self::Invlpg,
            Reason::Rdpmc => Self::Rdpmc,
            Reason::Rdtsc => Self::Rdtsc,
            Reason::Rdtscp => Self::Rdtscp,
            Reason::Vmcall => Self::Vmcall,
            Reason::ControlRegister => Self::ControlRegister(ControlRegisterAccess::decode(qualification())),
            Reason::DebugRegister => Self::DebugRegister(qualification()),
            Reason::IoInstruction => Self::Io(IoAccess::decode(qualification())),
            Reason::Rdmsr => Self::Rdmsr,
            Reason::Wrmsr => Self::Wrmsr,
            Reason::Mwait => Self::Mwait,
            Reason::Monitor => Self::Monitor,
            Reason::Pause => Self::Pause,
            Reason::MonitorTrapFlag => Self::MonitorTrapFlag,
            Reason::TprBelowThreshold => Self::TprBelowThreshold,
            Reason::ApicAccess => Self::ApicAccess(ApicAccess::decode(qualification())),
            Reason::VirtualizedEoi => Self::VirtualizedEoi(qualification() as u8),
            Reason::ApicWrite => Self::ApicWrite(qualification() as u16 & 0xfff),
            Reason::DescriptorTable | Reason::LocalDescriptorTable => Self::DescriptorTable(basic),
            Reason::EptViolation => Self::EptViolation(ept_violation(vmcs)),
            Reason::EptMisconfiguration => {
                Self::EptMisconfiguration(Gpa::new(vmcs.read(field::GUEST_PHYSICAL_ADDRESS)))
            }
            Reason::PreemptionTimer => Self::PreemptionTimer,
            Reason::Wbinvd => Self::Wbinvd,
            Reason::Xsetbv => Self::Xsetbv,
            Reason::PmlFull => Self::PmlFull,
            Reason::EntryFailureGuestState
            | Reason::EntryFailureMsrLoading
            | Reason::EntryFailureMachineCheck => Self::EntryFailure(basic, qualification()),
            other => other_instruction(other),
        }
    }

    /// Whether an event may have been in delivery when this exit happened, so that the IDT-vectoring field
    /// must be looked at (SDM 28.2.4). Instructions do not execute during a delivery.
    #[must_use]
    #[inline(always)]
    pub const fn may_interrupt_delivery(&self) -> bool {
        matches!(
            self,
            Self::ExceptionOrNmi(_)
                | Self::TripleFault
                | Self::TaskSwitch(_)
                | Self::ApicAccess(_)
                | Self::EptViolation(_)
                | Self::EptMisconfiguration(_)
                | Self::PmlFull
        )
    }

    /// Whether the vCPU stands between two instructions with nothing half done after the exit was handled, so that it may be
    /// paused and its state saved. Every exit whose handler completes is; failed entries and unknown exits are not.
    #[must_use]
    pub const fn is_consistent(&self) -> bool {
        !matches!(
            self,
            Self::EntryFailure(..)
                | Self::Unknown(_)
                | Self::Unexpected(_)
                | Self::TripleFault
                | Self::EptMisconfiguration(_)
        )
    }
}

fn other_instruction(reason: Reason) -> Exit {
    match reason {
        Reason::Getsec
        | Reason::Rsm
        | Reason::Vmclear
        | Reason::Vmlaunch
        | Reason::Vmptrld
        | Reason::Vmptrst
        | Reason::Vmread
        | Reason::Vmresume
        | Reason::Vmwrite
        | Reason::Vmxoff
        | Reason::Vmxon
        | Reason::Invept
        | Reason::Invvpid
        | Reason::Vmfunc
        | Reason::Encls => Exit::Forbidden(reason),
        other => Exit::Unexpected(other),
    }
}

fn exit_event(vmcs: &impl VmcsAccess) -> Option<Event> {
    let info = vmcs.read(field::EXIT_INTERRUPTION_INFO);
    let code = vmcs.read(field::EXIT_INTERRUPTION_ERROR_CODE);
    let event = Event::from_info(info, code, 0)?;
    Some(match event.kind {
        EventKind::SoftwareException | EventKind::PrivilegedSoftwareException => {
            Event { instruction_length: vmcs.read(field::EXIT_INSTRUCTION_LENGTH) as u8 & 0xf, ..event }
        }
        _ => event,
    })
}

#[inline(always)]
fn ept_violation(vmcs: &impl VmcsAccess) -> EptViolation {
    let qualification = vmcs.read(field::EXIT_QUALIFICATION);
    let linear = if qualification & EptViolation::LINEAR_VALID != 0 {
        vmcs.read(field::GUEST_LINEAR_ADDRESS)
    } else {
        0
    };
    EptViolation::decode(qualification, vmcs.read(field::GUEST_PHYSICAL_ADDRESS), linear)
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forbidden(reason) | Self::Unexpected(reason) | Self::DescriptorTable(reason) => {
                f.write_str(reason.name())
            }
            Self::EntryFailure(reason, qualification) => {
                write!(f, "{} (qualification {qualification:#x})", reason.name())
            }
            Self::EptMisconfiguration(address) => write!(f, "EPT misconfiguration at {address}"),
            Self::Unknown(reason) => write!(f, "unknown exit reason {reason:#x}"),
            other => write!(f, "{other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::addr::Gva;
    use crate::vmcs::FakeVmcs;

    #[test]
    fn a_port_write_is_decoded() {
        let mut vmcs = FakeVmcs::new();
        vmcs.set(field::EXIT_QUALIFICATION, 0x03f8_0000);
        let Exit::Io(access) = Exit::decode(30, &vmcs) else { panic!("not I/O") };
        assert_eq!((access.port, access.size, access.direction), (0x3f8, 1, IoDirection::Out));
        assert!(!access.is_string && !access.is_repeated);
    }

    #[test]
    fn an_ept_violation_uses_only_architected_bits() {
        let mut vmcs = FakeVmcs::new();
        vmcs.set(field::GUEST_PHYSICAL_ADDRESS, 0xfee0_0300);
        vmcs.set(field::GUEST_LINEAR_ADDRESS, 0xffff_ffff_ff5f_b300);
        vmcs.set(field::EXIT_QUALIFICATION, 0x182);
        let kvm = Exit::decode(48, &vmcs);
        vmcs.set(field::EXIT_QUALIFICATION, 0x782);
        assert_eq!(Exit::decode(48, &vmcs), kvm);
        let Exit::EptViolation(violation) = kvm else { panic!("not a violation") };
        assert_eq!(violation.linear, Some((Gva::new(0xffff_ffff_ff5f_b300), Final::Translation)));
        assert!(violation.is_write && !violation.is_read && !violation.is_fetch);
    }

    #[test]
    fn a_control_register_move_names_both_registers() {
        let mut vmcs = FakeVmcs::new();
        vmcs.set(field::EXIT_QUALIFICATION, 0x904);
        let expected = ControlRegisterAccess::MovTo { control: 4, register: 9 };
        assert_eq!(Exit::decode(28, &vmcs), Exit::ControlRegister(expected));
    }

    #[test]
    fn failed_entries_and_unknown_reasons_are_values() {
        let vmcs = FakeVmcs::new();
        let failed = Exit::decode(0x8000_0021, &vmcs);
        assert_eq!(failed, Exit::EntryFailure(Reason::EntryFailureGuestState, 0));
        assert!(!failed.is_consistent());
        assert_eq!(Exit::decode(0x7f, &vmcs), Exit::Unknown(0x7f));
        assert!(Exit::decode(12, &vmcs).is_consistent());
    }

    #[test]
    fn every_named_reason_fits_the_table_of_counts() {
        for number in 0..=u16::MAX {
            assert!(Reason::from_number(number).is_none() || usize::from(number) < REASONS);
        }
    }

    proptest! {
        #[test]
        fn decoding_is_total(reason: u32, low in 0_u32..80, qualification: u64, info: u32, code: u32, address: u64) {
            let mut vmcs = FakeVmcs::new();
            vmcs.set(field::EXIT_QUALIFICATION, qualification);
            vmcs.set(field::EXIT_INTERRUPTION_INFO, info);
            vmcs.set(field::EXIT_INTERRUPTION_ERROR_CODE, code);
            vmcs.set(field::GUEST_PHYSICAL_ADDRESS, address);
            for reason in [reason, low, low | ENTRY_FAILURE] {
                let exit = Exit::decode(reason, &vmcs);
                let _ = std::format!("{exit}");
                if Reason::from_number(reason as u16).is_none() {
                    prop_assert_eq!(exit, Exit::Unknown(reason));
                }
            }
        }
    }
}
