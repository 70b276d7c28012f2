//! What waits to be delivered to a processor at its next entry, and the event whose delivery an exit interrupted.
//!
//! One [`Event`] at most waits, beside the VMCS, in [`super::vcpu::Vcpu::event`]: there it outlives the end of a run, and a
//! state that is saved has it.
//!
//! An event whose delivery ends in an exit is delivered again, and a guest can see to it that this never ends: a debug
//! exception whose delivery meets its own breakpoint (CVE-2015-8104), an alignment check whose delivery is misaligned
//! (CVE-2015-5307). A VM entry completes a delivery, and raises what traps then, before the preemption timer, an interrupt
//! or an NMI ends anything (SDM 27.7.4), so on this way the host asks for the time itself
//! ([`ends_slice`]).

use godwit_vmx::event::{self, Event, EventKind};
use godwit_vmx::exit::Exit;
use godwit_vmx::field;
use godwit_vmx::tsc;
use godwit_vmx::vmcs::VmcsAccess;

use crate::exits::debug;

const CR0_PE: u64 = 1 << 0;
/// In the interruptibility state: NMIs are blocked (SDM table 25-3).
pub(super) const BLOCKING_NMI: u32 = 1 << 3;
/// In the interruption information of an exit: an IRET had unblocked NMIs (SDM 28.2.2).
const NMI_UNBLOCKED: u32 = 1 << 12;
/// The same in the exit qualification of a full page-modification log (SDM 28.2.3).
const QUALIFICATION_NMI_UNBLOCKED: u64 = 1 << 12;

/// Arranges for delivery of an event at this entry. An NMI that is delivered again must not find its own blocking, and in
/// real mode no exception pushes an error code (SDM 27.2.1.3).
pub(super) fn deliver(vmcs: &mut impl VmcsAccess, mut event: Event) {
    if event.error_code.is_some() && vmcs.read(field::GUEST_CR0) & CR0_PE == 0 {
        event.error_code = None;
    }
    if event.kind == EventKind::Nmi {
        let blocking = vmcs.read(field::GUEST_INTERRUPTIBILITY);
        if blocking & BLOCKING_NMI != 0 {
            vmcs.write(field::GUEST_INTERRUPTIBILITY, blocking & !BLOCKING_NMI);
        }
    }
    event.inject(vmcs);
}

/// Whether an interrupt is the next thing that can be delivered, as far as other events go.
pub(super) fn is_free(vmcs: &impl VmcsAccess, event: Option<Event>) -> bool {
    event.is_none() && !debug::is_trap_due(vmcs)
}

/// What is to be delivered when `second` is raised while `first`, if there is one, is being delivered; `None` for a triple
/// fault.
pub(super) fn raised(first: Option<Event>, second: Event) -> Option<Event> {
    match first {
        None => Some(second),
        Some(first) => event::combine(first, second),
    }
}

/// Whether a run until host TSC `slice_end` ends before `event` is delivered. With nothing to deliver the preemption timer
/// sees to it.
pub(super) fn ends_slice(event: Option<Event>, slice_end: u64) -> bool {
    event.is_some() && tsc::host() >= slice_end
}

/// The event whose delivery the exit interrupted. If there was none, but an IRET had just unblocked NMIs, they are
/// blocked again, since that IRET is going to be executed again (SDM 28.2.3).
pub(super) fn interrupted(vmcs: &mut impl VmcsAccess, exit: &Exit) -> Option<Event> {
    let interrupted = event::interrupted_delivery(vmcs);
    let unblocked = match exit {
        Exit::EptViolation(violation) => violation.nmi_unblocked,
        Exit::ExceptionOrNmi(Some(Event { kind: EventKind::HardwareException, .. })) => {
            vmcs.read(field::EXIT_INTERRUPTION_INFO) & NMI_UNBLOCKED != 0
        }
        Exit::PmlFull => vmcs.read(field::EXIT_QUALIFICATION) & QUALIFICATION_NMI_UNBLOCKED != 0,
        _ => false,
    };
    if interrupted.is_none() && unblocked {
        let blocking = vmcs.read(field::GUEST_INTERRUPTIBILITY);
        vmcs.write(field::GUEST_INTERRUPTIBILITY, blocking | BLOCKING_NMI);
    }
    interrupted
}

#[cfg(test)]
mod tests {
    use godwit_vmx::event::Exception;
    use godwit_vmx::exit::EptViolation;
    use godwit_vmx::vmcs::FakeVmcs;

    use super::*;
    use crate::exits::testing::Fixture;
    use crate::exits::{self, Outcome};

    #[test]
    fn an_nmi_delivered_again_is_not_blocked_by_itself() {
        let mut vmcs = FakeVmcs::new();
        vmcs.set(field::GUEST_INTERRUPTIBILITY, BLOCKING_NMI);
        deliver(&mut vmcs, Event::nmi());
        assert_eq!(vmcs.read(field::GUEST_INTERRUPTIBILITY), 0);
        assert_eq!(vmcs.read(field::ENTRY_INTERRUPTION_INFO), 0x8000_0202);
    }

    /// A VM entry that injects an error code into real mode is refused.
    #[test]
    fn in_real_mode_no_exception_has_an_error_code() {
        let mut vmcs = FakeVmcs::new();
        deliver(&mut vmcs, Event::general_protection());
        assert_eq!(vmcs.read(field::ENTRY_INTERRUPTION_INFO), 0x8000_030d);
        vmcs.set(field::GUEST_CR0, CR0_PE);
        deliver(&mut vmcs, Event::general_protection());
        assert_eq!(vmcs.read(field::ENTRY_INTERRUPTION_INFO), 0x8000_0b0d);
    }

    #[test]
    fn an_iret_that_will_run_again_finds_nmis_blocked_again() {
        let mut vmcs = FakeVmcs::new();
        let exit = Exit::EptViolation(EptViolation::decode(1 << 12, 0, 0));
        assert_eq!(interrupted(&mut vmcs, &exit), None);
        assert_eq!(vmcs.read(field::GUEST_INTERRUPTIBILITY), BLOCKING_NMI);
        let mut vmcs = FakeVmcs::new();
        let fault = Event::exception_with_code(Exception::AlignmentCheck, 0);
        vmcs.set(field::EXIT_INTERRUPTION_INFO, fault.to_info() | NMI_UNBLOCKED);
        assert_eq!(interrupted(&mut vmcs, &Exit::ExceptionOrNmi(Some(fault))), None);
        assert_eq!(vmcs.read(field::GUEST_INTERRUPTIBILITY), BLOCKING_NMI);
        for (qualification, blocking) in [(1 << 12, BLOCKING_NMI), (0, 0)] {
            let mut vmcs = FakeVmcs::new();
            vmcs.set(field::EXIT_QUALIFICATION, qualification);
            assert_eq!(interrupted(&mut vmcs, &Exit::PmlFull), None);
            assert_eq!(vmcs.read(field::GUEST_INTERRUPTIBILITY), blocking);
        }
    }

    #[test]
    fn an_event_whose_delivery_met_a_page_that_has_not_come_is_delivered_when_it_has() {
        let exit = Exit::EptViolation(EptViolation::decode(1, 0x5000, 0));
        assert!(exit.may_interrupt_delivery());
        let breakpoint = Event {
            kind: EventKind::SoftwareException,
            instruction_length: 1,
            ..Event::exception(Exception::Breakpoint)
        };
        let page_fault = Event::exception_with_code(Exception::PageFault, 2);
        for event in [Event::interrupt(0x31), Event::nmi(), page_fault, breakpoint] {
            let mut vmcs = FakeVmcs::new();
            vmcs.set(field::GUEST_CR0, CR0_PE);
            vmcs.set(field::IDT_VECTORING_INFO, event.to_info());
            vmcs.set(field::IDT_VECTORING_ERROR_CODE, event.error_code.unwrap_or(0));
            vmcs.set(field::EXIT_INSTRUCTION_LENGTH, event.instruction_length.into());
            // An NMI blocks the next as soon as its delivery begins.
            vmcs.set(field::GUEST_INTERRUPTIBILITY, if event == Event::nmi() { BLOCKING_NMI } else { 0 });
            let again = interrupted(&mut vmcs, &exit).unwrap();
            assert!(!is_free(&vmcs, Some(again)), "nothing comes before it");
            deliver(&mut vmcs, again);
            assert_eq!(vmcs.read(field::ENTRY_INTERRUPTION_INFO), event.to_info());
            assert_eq!(vmcs.read(field::GUEST_INTERRUPTIBILITY), 0);
            if let Some(code) = event.error_code {
                assert_eq!(vmcs.read(field::ENTRY_EXCEPTION_ERROR_CODE), code);
            }
            let length: u32 = event.instruction_length.into();
            assert_eq!(vmcs.read(field::ENTRY_INSTRUCTION_LENGTH), length);
        }
    }

    /// Plays a guest whose every delivery ends in `exit`, until its slice, which is less than a millisecond, is over.
    fn play(fixture: &mut Fixture, exit: Exit) -> Option<Event> {
        const ROUNDS_MAX: usize = 1_000_000;
        let slice_end = tsc::host() + 1_000_000;
        let mut event = None;
        for _ in 0..ROUNDS_MAX {
            if let Some(event) = event.take() {
                deliver(&mut fixture.vmcs, event);
            }
            event = interrupted(&mut fixture.vmcs, &exit);
            let second = match exits::handle(&mut fixture.context(), exit) {
                Outcome::Inject(second) => second,
                Outcome::DebugException(_) => Event::exception(Exception::Debug),
                outcome => panic!("{outcome:?}"),
            };
            event = raised(event, second);
            if ends_slice(event, slice_end) {
                return event;
            }
        }
        panic!("it never ends");
    }

    #[test]
    fn a_debug_exception_that_raises_itself_for_ever_ends_with_the_slice_and_goes_on_in_the_next() {
        let mut fixture = Fixture::new();
        let debug = Event::exception(Exception::Debug);
        fixture.vmcs.set(field::EXIT_QUALIFICATION, 1);
        assert_eq!(play(&mut fixture, Exit::ExceptionOrNmi(Some(debug))), Some(debug));
    }

    #[test]
    fn an_alignment_check_that_raises_itself_for_ever_does_too() {
        let mut fixture = Fixture::new();
        let check = Event::exception_with_code(Exception::AlignmentCheck, 0);
        fixture.vmcs.set(field::IDT_VECTORING_INFO, check.to_info());
        assert_eq!(play(&mut fixture, Exit::ExceptionOrNmi(Some(check))), Some(check));
    }

    #[test]
    fn only_a_delivery_needs_the_time_to_be_asked_for() {
        assert!(ends_slice(Some(Event::nmi()), 0));
        assert!(!ends_slice(Some(Event::nmi()), u64::MAX));
        assert!(!ends_slice(None, 0), "the preemption timer ends it");
    }

    #[test]
    fn a_fault_in_the_delivery_of_a_double_fault_is_a_triple_one() {
        let double = Event::exception_with_code(Exception::DoubleFault, 0);
        assert_eq!(raised(None, double), Some(double));
        assert_eq!(raised(Some(double), Event::general_protection()), None);
    }
}
