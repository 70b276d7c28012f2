//! Exit qualifications (SDM 28.2.1).

use crate::addr::{Gpa, Gva};

/// A control-register access (SDM table 28-3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlRegisterAccess {
    /// MOV to a control register.
    MovTo {
        /// Number of the control register.
        control: u8,
        /// Encoding of the general register, 4 for RSP.
        register: u8,
    },
    /// MOV from a control register.
    MovFrom {
        /// Number of the control register.
        control: u8,
        /// Encoding of the general register, 4 for RSP.
        register: u8,
    },
    /// CLTS.
    Clts,
    /// LMSW with this operand.
    Lmsw(u16),
}

impl ControlRegisterAccess {
    /// Decodes the qualification.
    #[must_use]
    pub const fn decode(qualification: u64) -> Self {
        let control = qualification as u8 & 0xf;
        let register = (qualification >> 8) as u8 & 0xf;
        match (qualification >> 4) & 3 {
            0 => Self::MovTo { control, register },
            1 => Self::MovFrom { control, register },
            2 => Self::Clts,
            _ => Self::Lmsw((qualification >> 16) as u16),
        }
    }
}

/// Direction of a port access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoDirection {
    /// The guest writes.
    Out,
    /// The guest reads.
    In,
}

/// An I/O instruction (SDM table 28-5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoAccess {
    /// First port.
    pub port: u16,
    /// Bytes: 1, 2 or 4; other values only if the processor lies.
    pub size: u8,
    /// Direction.
    pub direction: IoDirection,
    /// INS or OUTS.
    pub is_string: bool,
    /// With a REP prefix.
    pub is_repeated: bool,
}

impl IoAccess {
    /// Decodes the qualification.
    #[must_use]
    #[inline(always)]
    pub const fn decode(qualification: u64) -> Self {
        Self {
            port: (qualification >> 16) as u16,
            size: (qualification as u8 & 7) + 1,
            direction: if qualification & 8 != 0 { IoDirection::In } else { IoDirection::Out },
            is_string: qualification & 0x10 != 0,
            is_repeated: qualification & 0x20 != 0,
        }
    }
}

/// An EPT violation (SDM table 28-7), architected bits only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EptViolation {
    /// Where.
    pub address: Gpa,
    /// The access was a data read.
    pub is_read: bool,
    /// The access was a data write.
    pub is_write: bool,
    /// The access was an instruction fetch.
    pub is_fetch: bool,
    /// Linear address, if there is one, and whether the access was to its translation (else to a paging
    /// structure on the way).
    pub linear: Option<(Gva, Final)>,
    /// An IRET was executing and had unblocked NMIs: blocking must be restored.
    pub nmi_unblocked: bool,
}

/// What of a linear address was accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Final {
    /// Its translation.
    Translation,
    /// A paging structure, for reading an entry or for setting its accessed or dirty flag.
    PagingStructure,
}

impl EptViolation {
    pub(super) const LINEAR_VALID: u64 = 1 << 7;

    /// Decodes the qualification with the address fields beside it.
    #[must_use]
    #[inline(always)]
    pub const fn decode(qualification: u64, address: u64, linear: u64) -> Self {
        let on = if qualification & 1 << 8 != 0 { Final::Translation } else { Final::PagingStructure };
        Self {
            address: Gpa::new(address),
            is_read: qualification & 1 != 0,
            is_write: qualification & 2 != 0,
            is_fetch: qualification & 4 != 0,
            linear: if qualification & Self::LINEAR_VALID != 0 { Some((Gva::new(linear), on)) } else { None },
            nmi_unblocked: qualification & 1 << 12 != 0,
        }
    }
}

/// A task switch (SDM table 28-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskSwitch {
    /// Selector of the new task-state segment.
    pub selector: u16,
    /// 0 CALL, 1 IRET, 2 JMP, 3 a task gate in the IDT.
    pub source: u8,
}

impl TaskSwitch {
    /// Decodes the qualification.
    #[must_use]
    pub const fn decode(qualification: u64) -> Self {
        Self { selector: qualification as u16, source: (qualification >> 30) as u8 & 3 }
    }
}

/// An access to the APIC-access page (SDM table 28-6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApicAccess {
    /// Offset within the page.
    pub offset: u16,
    /// Access type, bits 15:12.
    pub kind: u8,
}

impl ApicAccess {
    /// Decodes the qualification.
    #[must_use]
    pub const fn decode(qualification: u64) -> Self {
        Self { offset: qualification as u16 & 0xfff, kind: (qualification >> 12) as u8 & 0xf }
    }
}
