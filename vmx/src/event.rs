//! Event injection and re-injection (SDM 25.8.3, 25.9.2, 25.9.3).

use core::fmt;

use crate::field;
use crate::vmcs::VmcsAccess;

const VALID: u32 = 1 << 31;
const DELIVER_ERROR_CODE: u32 = 1 << 11;

/// Exceptions by their vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the manual's names")]
pub enum Exception {
    DivideError = 0,
    Debug = 1,
    Breakpoint = 3,
    Overflow = 4,
    BoundRange = 5,
    InvalidOpcode = 6,
    DeviceNotAvailable = 7,
    DoubleFault = 8,
    InvalidTss = 10,
    SegmentNotPresent = 11,
    StackFault = 12,
    GeneralProtection = 13,
    PageFault = 14,
    FloatingPoint = 16,
    AlignmentCheck = 17,
    MachineCheck = 18,
    SimdFloatingPoint = 19,
}

/// What kind of event an interruption-information field describes (bits 10:8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// External interrupt.
    ExternalInterrupt,
    /// Non-maskable interrupt.
    Nmi,
    /// Hardware exception.
    HardwareException,
    /// Software interrupt (INT n).
    SoftwareInterrupt,
    /// Privileged software exception (INT1).
    PrivilegedSoftwareException,
    /// Software exception (INT3, INTO).
    SoftwareException,
    /// Reserved or "other event" code.
    Other(u8),
}

impl EventKind {
    const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::ExternalInterrupt,
            2 => Self::Nmi,
            3 => Self::HardwareException,
            4 => Self::SoftwareInterrupt,
            5 => Self::PrivilegedSoftwareException,
            6 => Self::SoftwareException,
            other => Self::Other(other),
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::ExternalInterrupt => 0,
            Self::Nmi => 2,
            Self::HardwareException => 3,
            Self::SoftwareInterrupt => 4,
            Self::PrivilegedSoftwareException => 5,
            Self::SoftwareException => 6,
            Self::Other(code) => code & 7,
        }
    }

    const fn is_software(self) -> bool {
        matches!(self, Self::SoftwareInterrupt | Self::PrivilegedSoftwareException | Self::SoftwareException)
    }
}

/// An event to be delivered to the guest, or one that was being delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Kind.
    pub kind: EventKind,
    /// Vector.
    pub vector: u8,
    /// Error code, for the exceptions that push one.
    pub error_code: Option<u32>,
    /// Instruction length in bytes, for software events; otherwise 0.
    pub instruction_length: u8,
}

impl Event {
    /// An external interrupt.
    #[must_use]
    pub const fn interrupt(vector: u8) -> Self {
        Self { kind: EventKind::ExternalInterrupt, vector, error_code: None, instruction_length: 0 }
    }

    /// A non-maskable interrupt.
    #[must_use]
    pub const fn nmi() -> Self {
        Self { kind: EventKind::Nmi, vector: 2, error_code: None, instruction_length: 0 }
    }

    /// A hardware exception without error code.
    #[must_use]
    pub const fn exception(exception: Exception) -> Self {
        Self {
            kind: EventKind::HardwareException,
            vector: exception as u8,
            error_code: None,
            instruction_length: 0,
        }
    }

    /// A hardware exception with an error code.
    #[must_use]
    pub const fn exception_with_code(exception: Exception, code: u32) -> Self {
        Self {
            kind: EventKind::HardwareException,
            vector: exception as u8,
            error_code: Some(code),
            instruction_length: 0,
        }
    }

    /// #GP(0), the architected answer to most wrong requests.
    #[must_use]
    pub const fn general_protection() -> Self {
        Self::exception_with_code(Exception::GeneralProtection, 0)
    }

    /// #UD.
    #[must_use]
    pub const fn invalid_opcode() -> Self {
        Self::exception(Exception::InvalidOpcode)
    }

    /// The interruption-information format without the fields beside it.
    #[must_use]
    pub const fn to_info(self) -> u32 {
        let code = if self.error_code.is_some() { DELIVER_ERROR_CODE } else { 0 };
        VALID | code | (self.kind.code() as u32) << 8 | self.vector as u32
    }

    /// Decodes an IDT-vectoring or interruption-information field; `None` if it is not valid.
    #[must_use]
    pub const fn from_info(info: u32, error_code: u32, instruction_length: u32) -> Option<Self> {
        if info & VALID == 0 {
            return None;
        }
        let kind = EventKind::from_code((info >> 8) as u8 & 7);
        Some(Self {
            kind,
            vector: info as u8,
            error_code: if info & DELIVER_ERROR_CODE != 0 { Some(error_code) } else { None },
            instruction_length: if kind.is_software() { instruction_length as u8 & 0xf } else { 0 },
        })
    }

    /// Whether a VM entry may inject this event (SDM 27.2.1.3): reserved kinds and impossible vectors, as a
    /// saved state from elsewhere might hold, may not.
    #[must_use]
    pub const fn is_injectable(self) -> bool {
        let length_fits = if self.kind.is_software() {
            self.instruction_length >= 1 && self.instruction_length <= 15
        } else {
            self.instruction_length == 0
        };
        let vector_fits = match self.kind {
            EventKind::Nmi => self.vector == 2,
            EventKind::HardwareException => self.vector <= 31,
            EventKind::PrivilegedSoftwareException => self.vector == 1,
            EventKind::SoftwareException => self.vector == 3 || self.vector == 4,
            EventKind::ExternalInterrupt | EventKind::SoftwareInterrupt => true,
            EventKind::Other(_) => false,
        };
        let pushes_code =
            matches!(self.kind, EventKind::HardwareException) && matches!(self.vector, 8 | 10..=14 | 17 | 21);
        let code_fits = match self.error_code {
            Some(code) => pushes_code && code <= 0x7fff,
            None => true,
        };
        length_fits && vector_fits && code_fits
    }

    /// Arranges for delivery at the next VM entry.
    #[inline]
    pub fn inject(self, vmcs: &mut impl VmcsAccess) {
        if let Some(code) = self.error_code {
            vmcs.write(field::ENTRY_EXCEPTION_ERROR_CODE, code);
        }
        if self.kind.is_software() {
            vmcs.write(field::ENTRY_INSTRUCTION_LENGTH, u32::from(self.instruction_length));
        }
        vmcs.write(field::ENTRY_INTERRUPTION_INFO, self.to_info());
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            EventKind::ExternalInterrupt | EventKind::SoftwareInterrupt => {
                write!(f, "interrupt {:#x}", self.vector)
            }
            EventKind::Nmi => f.write_str("an NMI"),
            EventKind::HardwareException
            | EventKind::PrivilegedSoftwareException
            | EventKind::SoftwareException => write!(f, "exception {}", self.vector),
            EventKind::Other(code) => write!(f, "event {:#x} of kind {code}", self.vector),
        }
    }
}

/// The event whose delivery the VM exit interrupted, if any: it must be injected again.
#[must_use]
pub fn interrupted_delivery(vmcs: &impl VmcsAccess) -> Option<Event> {
    let info = vmcs.read(field::IDT_VECTORING_INFO);
    if info & VALID == 0 {
        return None;
    }
    let code = vmcs.read(field::IDT_VECTORING_ERROR_CODE);
    Event::from_info(info, code, vmcs.read(field::EXIT_INSTRUCTION_LENGTH))
}

/// What becomes of an exception `second` that is raised while `first` is being delivered (SDM table 6-5): the double
/// fault, `second` alone, or `None` for a triple fault.
///
/// An interrupt or a software event that gives way is not lost: its source raises it, or its instruction is executed, again
/// after the handler; only NMIs would be, and the caller keeps those.
#[must_use]
pub fn combine(first: Event, second: Event) -> Option<Event> {
    if first.kind != EventKind::HardwareException || second.kind != EventKind::HardwareException {
        return Some(second);
    }
    let contributory = |vector| matches!(vector, 0 | 10..=13);
    let page_fault = Exception::PageFault as u8;
    let double_fault = Exception::DoubleFault as u8;
    if first.vector == double_fault && (contributory(second.vector) || second.vector == page_fault) {
        return None;
    }
    let doubles = contributory(first.vector) && contributory(second.vector)
        || first.vector == page_fault && (contributory(second.vector) || second.vector == page_fault);
    Some(if doubles { Event::exception_with_code(Exception::DoubleFault, 0) } else { second })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmcs::FakeVmcs;

    #[test]
    fn a_page_fault_is_encoded_with_its_error_code() {
        let mut vmcs = FakeVmcs::new();
        Event::exception_with_code(Exception::PageFault, 2).inject(&mut vmcs);
        assert_eq!(vmcs.read(field::ENTRY_INTERRUPTION_INFO), 0x8000_0b0e);
        assert_eq!(vmcs.read(field::ENTRY_EXCEPTION_ERROR_CODE), 2);
    }

    #[test]
    fn an_interrupt_is_encoded_without_one() {
        assert_eq!(Event::interrupt(0x31).to_info(), 0x8000_0031);
        assert_eq!(Event::nmi().to_info(), 0x8000_0202);
    }

    #[test]
    fn an_interrupted_delivery_comes_back_whole() {
        let mut vmcs = FakeVmcs::new();
        assert_eq!(interrupted_delivery(&vmcs), None);
        vmcs.set(field::IDT_VECTORING_INFO, 0x8000_0480);
        vmcs.set(field::EXIT_INSTRUCTION_LENGTH, 2);
        let event = interrupted_delivery(&vmcs).unwrap();
        assert_eq!((event.kind, event.vector), (EventKind::SoftwareInterrupt, 0x80));
        event.inject(&mut vmcs);
        assert_eq!(vmcs.read(field::ENTRY_INTERRUPTION_INFO), 0x8000_0480);
        assert_eq!(vmcs.read(field::ENTRY_INSTRUCTION_LENGTH), 2);
    }

    #[test]
    fn bit_12_of_the_vectoring_information_is_not_injected() {
        let event = Event::from_info(0x8000_1b0e, 4, 0).unwrap();
        assert_eq!(event.to_info(), 0x8000_0b0e);
    }

    #[test]
    fn faults_during_faults_double_and_triple() {
        let protection = Event::general_protection();
        let page = Event::exception_with_code(Exception::PageFault, 2);
        let double = Event::exception_with_code(Exception::DoubleFault, 0);
        assert_eq!(combine(protection, protection), Some(double));
        assert_eq!(combine(page, page), Some(double));
        assert_eq!(combine(protection, page), Some(page));
        assert_eq!(combine(double, page), None);
        assert_eq!(combine(Event::interrupt(0x40), page), Some(page));
        assert_eq!(combine(double, Event::invalid_opcode()), Some(Event::invalid_opcode()));
    }

    #[test]
    fn events_are_told_to_people() {
        use std::string::ToString;
        assert_eq!(Event::interrupt(0x31).to_string(), "interrupt 0x31");
        assert_eq!(Event::general_protection().to_string(), "exception 13");
        assert_eq!(Event::nmi().to_string(), "an NMI");
    }

    #[test]
    fn impossible_events_are_told_apart() {
        assert!(Event::general_protection().is_injectable());
        assert!(!Event { kind: EventKind::Other(7), ..Event::nmi() }.is_injectable());
        assert!(!Event { vector: 40, ..Event::invalid_opcode() }.is_injectable());
        assert!(!Event { error_code: Some(0), ..Event::invalid_opcode() }.is_injectable());
    }
}
