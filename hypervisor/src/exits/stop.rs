//! Why a virtual machine stopped, in words that a person can read.

use core::fmt;

use godwit_vmx::addr::{Gpa, Gva};
use godwit_vmx::event::Event;
use godwit_vmx::exit::Exit;

use crate::emulate::EmulateError;

/// Why a virtual machine stopped for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The guest switched the machine off.
    Shutdown,
    /// The guest asked for a reset, which ends this run.
    Reset,
    /// Somebody at the host stopped it.
    Requested,
    /// It runs on another host now.
    Migrated,
    /// A fault while delivering a double fault.
    TripleFault {
        /// Where.
        rip: Gva,
    },
    /// HLT with interrupts off and nothing that could end it.
    HaltedForGood {
        /// Where.
        rip: Gva,
    },
    /// An exit for which there is no policy.
    UnhandledExit {
        /// The exit.
        exit: Exit,
        /// Where.
        rip: Gva,
    },
    /// An instruction that touched a device could not be emulated.
    CannotEmulate {
        /// Address it touched.
        address: Gpa,
        /// Where.
        rip: Gva,
        /// What the emulator says.
        problem: EmulateError,
    },
    /// The delivery of an interrupt or exception led to where no memory is. It is the processor's to carry out, so that
    /// there is nothing to emulate.
    CannotDeliver {
        /// The interrupt or exception.
        event: Event,
        /// Address that it touched.
        address: Gpa,
        /// Where.
        rip: Gva,
    },
    /// The processor refused to enter the guest.
    EntryRefused {
        /// Value of the VM-instruction error field (SDM 31.4).
        error: u32,
        /// Where.
        rip: Gva,
    },
    /// The host lacked memory that the guest's tables needed.
    OutOfMemory,
    /// A page that it touched was lost with the host that it was to come from.
    PageLost {
        /// The page's guest-physical address.
        page: Gpa,
        /// Where.
        rip: Gva,
    },
    /// The CPU that was to run it could not take it.
    NotTaken,
    /// A machine check was reported while the guest ran.
    MachineCheck,
}

impl StopReason {
    /// Whether the guest came to this end by its own wish.
    #[must_use]
    pub const fn is_orderly(&self) -> bool {
        matches!(self, Self::Shutdown | Self::Reset | Self::Requested | Self::Migrated)
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shutdown => f.write_str("the guest switched itself off"),
            Self::Reset => f.write_str("the guest reset itself"),
            Self::Requested => f.write_str("stopped on request"),
            Self::Migrated => f.write_str("moved to another host"),
            Self::TripleFault { rip } => write!(f, "triple fault at rip {:#x}", rip.as_u64()),
            Self::HaltedForGood { rip } => {
                write!(f, "HLT with interrupts off at rip {:#x}: nothing can wake it", rip.as_u64())
            }
            Self::UnhandledExit { exit, rip } => {
                write!(f, "the guest did what this host cannot handle: {exit} at rip {:#x}", rip.as_u64())
            }
            Self::CannotEmulate { address, rip, problem } => {
                let rip = rip.as_u64();
                write!(
                    f,
                    "the instruction at rip {rip:#x} that touches {address} cannot be emulated: {problem}"
                )
            }
            Self::CannotDeliver { event, address, rip } => {
                let rip = rip.as_u64();
                write!(
                    f,
                    "{event} cannot be delivered at rip {rip:#x}: that touches {address}, which is no memory"
                )
            }
            Self::EntryRefused { error, rip } => {
                write!(f, "the processor refused to run the guest (error {error}) at rip {:#x}", rip.as_u64())
            }
            Self::OutOfMemory => f.write_str("the host ran out of memory for the guest's page tables"),
            Self::PageLost { page, rip } => {
                let rip = rip.as_u64();
                write!(
                    f,
                    "the page at guest-physical {page}, which it needed at rip {rip:#x}, did not come before "
                )?;
                f.write_str("the host that had it was given up")
            }
            Self::NotTaken => f.write_str("this host's processor cannot run it: the log says why"),
            Self::MachineCheck => f.write_str("the machine reported a hardware error while the guest ran"),
        }
    }
}
