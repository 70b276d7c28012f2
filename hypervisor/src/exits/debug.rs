//! Debug exceptions (SDM 18.3).
//!
//! They exit because their delivery can raise the next: a guest that watches the stack onto which its own handler's
//! frame is pushed would keep the processor in an endless delivery, with no exit for the host to step in
//! (CVE-2015-8104).
//!
//! An exception that exits has changed nothing yet (SDM 28.1), and a VM entry that injects it changes nothing but
//! the stack (SDM 27.6.1): what its delivery does to DR6, to DR7.GD and to IA32_DEBUGCTL is done here. DR6 is not in the
//! VMCS; whoever runs the processor has it, and finds what becomes of it by [`Conditions::dr6_after`].

use godwit_vmx::event::{Event, EventKind};
use godwit_vmx::field;
use godwit_vmx::vmcs::VmcsAccess;

use super::context::{Context, Outcome};
use crate::guest_memory::GuestMemory;

const RFLAGS_TF: u64 = 1 << 8;
const RFLAGS_RF: u64 = 1 << 16;
const BLOCKING_STI_OR_SS: u32 = 0b11;
const DR7_GENERAL_DETECT: u64 = 1 << 13;
const DEBUGCTL_LBR: u64 = 1 << 0;
const DEBUGCTL_BTF: u64 = 1 << 1;

/// Conditions by their bits in DR6, in the exit qualification (SDM table 28-1) and in the pending debug exceptions (SDM
/// table 25-4).
const BREAKPOINTS: u64 = 0b1111;
const BUS_LOCK: u64 = 1 << 11;
const GENERAL_DETECT: u64 = 1 << 13;
const SINGLE_STEP: u64 = 1 << 14;
const TRANSACTION: u64 = 1 << 16;
/// Only in the pending debug exceptions: a breakpoint among them is enabled.
const PENDING_ENABLED: u64 = 1 << 12;

/// What a debug exception was raised for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conditions(u64);

impl Conditions {
    /// The conditions in an exit qualification.
    #[must_use]
    pub const fn from_qualification(qualification: u64) -> Self {
        Self(qualification & (BREAKPOINTS | BUS_LOCK | GENERAL_DETECT | SINGLE_STEP | TRANSACTION))
    }

    /// DR6 with these conditions in it, if it was `dr6` (SDM 18.2.3). Breakpoints replace what was there, and so does
    /// the note of a transaction; the rest is only ever added to. Bus locks and transactions are noted by a zero.
    #[must_use]
    pub const fn dr6_after(self, dr6: u64) -> u64 {
        let kept = dr6 & !BREAKPOINTS | TRANSACTION;
        let noted = kept | self.0 & (BREAKPOINTS | GENERAL_DETECT | SINGLE_STEP);
        noted & !(self.0 & (BUS_LOCK | TRANSACTION))
    }
}

/// Gives the debug exception `event` back to the guest.
pub(super) fn handle<V: VmcsAccess, M: GuestMemory>(
    context: &mut Context<'_, V, M>,
    event: Event,
) -> Outcome {
    let vmcs = &mut *context.vmcs;
    let outcome = if event.kind == EventKind::HardwareException {
        let dr7 = vmcs.read(field::GUEST_DR7);
        vmcs.write(field::GUEST_DR7, dr7 & !DR7_GENERAL_DETECT);
        let control = vmcs.read(field::GUEST_DEBUGCTL);
        vmcs.write(field::GUEST_DEBUGCTL, control & !(DEBUGCTL_LBR | DEBUGCTL_BTF));
        Outcome::DebugException(Conditions::from_qualification(vmcs.read(field::EXIT_QUALIFICATION)))
    } else {
        // INT1 has no conditions and leaves the registers alone.
        Outcome::Inject(event)
    };
    settle_pending(vmcs);
    outcome
}

/// In the shadow of STI or MOV SS a VM entry wants a single step to be pending exactly if the guest steps (SDM 27.3.1.5);
/// an exit by a debug exception does not leave it so. What is pending is forgotten as the injected event is delivered
/// (SDM 27.7.3), so the guest does not see the step twice.
fn settle_pending(vmcs: &mut impl VmcsAccess) {
    let in_shadow = vmcs.read(field::GUEST_INTERRUPTIBILITY) & BLOCKING_STI_OR_SS != 0;
    let pending = if in_shadow && steps(vmcs) { SINGLE_STEP } else { 0 };
    vmcs.write(field::GUEST_PENDING_DEBUG, pending);
}

/// Whether the guest traps after every instruction, not only after branches.
fn steps(vmcs: &impl VmcsAccess) -> bool {
    vmcs.read(field::GUEST_RFLAGS) & RFLAGS_TF != 0 && vmcs.read(field::GUEST_DEBUGCTL) & DEBUGCTL_BTF == 0
}

/// An instruction was carried out for the guest: its trap is due if the guest steps, and RF, which it might have been resumed
/// with, or saved with at an exit by an EPT violation (SDM 28.3.3), holds for no other.
#[inline(always)]
pub fn finish_instruction(vmcs: &mut impl VmcsAccess) {
    let flags = vmcs.read(field::GUEST_RFLAGS);
    if flags & (RFLAGS_TF | RFLAGS_RF) != 0 {
        finish_watched(vmcs, flags);
    }
}

#[cold]
fn finish_watched(vmcs: &mut impl VmcsAccess, flags: u64) {
    vmcs.write(field::GUEST_RFLAGS, flags & !RFLAGS_RF);
    if steps(vmcs) {
        let pending = vmcs.read(field::GUEST_PENDING_DEBUG);
        vmcs.write(field::GUEST_PENDING_DEBUG, pending | SINGLE_STEP);
    }
}

/// Whether the next entry delivers a trap of the instruction before. Interrupts come after it (SDM table 6-2), and an
/// event that is injected instead would have the processor forget it.
#[must_use]
pub fn is_trap_due(vmcs: &impl VmcsAccess) -> bool {
    vmcs.read(field::GUEST_PENDING_DEBUG) & (SINGLE_STEP | PENDING_ENABLED) != 0
}

#[cfg(test)]
mod tests {
    use godwit_vmx::event::Exception;
    use godwit_vmx::exit::Exit;

    use super::super::testing::Fixture;
    use super::*;

    const DR6_RESET: u64 = 0xffff_0ff0;
    const BLOCKING_STI: u32 = 1;
    const BLOCKING_NMI: u32 = 1 << 3;

    fn debug_exit(fixture: &mut Fixture, qualification: u64) -> Outcome {
        fixture.vmcs.set(field::EXIT_QUALIFICATION, qualification);
        let exit = Exit::ExceptionOrNmi(Some(Event::exception(Exception::Debug)));
        super::super::handle(&mut fixture.context(), exit)
    }

    #[test]
    fn breakpoints_replace_those_before_and_the_rest_is_added() {
        let after = |qualification, dr6| Conditions::from_qualification(qualification).dr6_after(dr6);
        assert_eq!(after(SINGLE_STEP, DR6_RESET), 0xffff_4ff0);
        assert_eq!(after(0b0010, 0xffff_4ff1), 0xffff_4ff2);
        assert_eq!(after(GENERAL_DETECT, 0xffff_4ff3), 0xffff_6ff0);
        assert_eq!(after(PENDING_ENABLED | 1 << 40, DR6_RESET), DR6_RESET, "bits that DR6 does not have");
    }

    #[test]
    fn bus_locks_and_transactions_are_noted_by_a_zero() {
        let after = |qualification, dr6| Conditions::from_qualification(qualification).dr6_after(dr6);
        assert_eq!(after(TRANSACTION | 1, DR6_RESET), 0xfffe_0ff1);
        assert_eq!(after(1, 0xfffe_0ff1), 0xffff_0ff1);
        assert_eq!(after(BUS_LOCK, DR6_RESET), 0xffff_07f0);
        assert_eq!(after(1, 0xffff_07f0), 0xffff_07f1, "until the guest says that it has seen it");
    }

    #[test]
    fn delivery_clears_general_detect_and_branch_tracing() {
        let mut fixture = Fixture::new();
        fixture.vmcs.set(field::GUEST_DR7, 0x2401);
        fixture.vmcs.set(field::GUEST_DEBUGCTL, 0b11);
        let outcome = debug_exit(&mut fixture, GENERAL_DETECT);
        assert_eq!(outcome, Outcome::DebugException(Conditions(GENERAL_DETECT)));
        assert_eq!(fixture.vmcs.read(field::GUEST_DR7), 0x401);
        assert_eq!(fixture.vmcs.read(field::GUEST_DEBUGCTL), 0);
    }

    #[test]
    fn a_step_in_the_shadow_of_sti_leaves_what_the_next_entry_checks() {
        let mut fixture = Fixture::new();
        fixture.vmcs.set(field::GUEST_RFLAGS, RFLAGS_TF | 2);
        fixture.vmcs.set(field::GUEST_INTERRUPTIBILITY, BLOCKING_STI);
        let _ = debug_exit(&mut fixture, SINGLE_STEP);
        assert_eq!(fixture.vmcs.read(field::GUEST_PENDING_DEBUG), SINGLE_STEP);
        fixture.vmcs.set(field::GUEST_INTERRUPTIBILITY, BLOCKING_NMI);
        let _ = debug_exit(&mut fixture, SINGLE_STEP);
        assert_eq!(fixture.vmcs.read(field::GUEST_PENDING_DEBUG), 0, "no second trap");
        fixture.vmcs.set(field::GUEST_INTERRUPTIBILITY, BLOCKING_STI);
        fixture.vmcs.set(field::GUEST_RFLAGS, 2);
        let _ = debug_exit(&mut fixture, 1);
        assert_eq!(fixture.vmcs.read(field::GUEST_PENDING_DEBUG), 0);
    }

    #[test]
    fn int1_goes_back_as_it_came() {
        let mut fixture = Fixture::new();
        fixture.vmcs.set(field::GUEST_DR7, 0x2400);
        let kind = EventKind::PrivilegedSoftwareException;
        let event = Event { kind, instruction_length: 1, ..Event::exception(Exception::Debug) };
        let outcome = super::super::handle(&mut fixture.context(), Exit::ExceptionOrNmi(Some(event)));
        assert_eq!(outcome, Outcome::Inject(event));
        assert_eq!(fixture.vmcs.read(field::GUEST_DR7), 0x2400);
    }

    /// The processor saves RF set where an access to a device exits (SDM 28.3.3).
    #[test]
    fn an_instruction_done_for_a_guest_leaves_the_next_its_breakpoint() {
        let mut fixture = Fixture::new();
        fixture.vmcs.set(field::GUEST_RFLAGS, RFLAGS_RF | 2);
        finish_instruction(&mut fixture.vmcs);
        assert_eq!(fixture.vmcs.read(field::GUEST_RFLAGS), 2);
        assert!(!is_trap_due(&fixture.vmcs));
        fixture.vmcs.set(field::GUEST_RFLAGS, RFLAGS_RF | RFLAGS_TF | 2);
        finish_instruction(&mut fixture.vmcs);
        assert_eq!(fixture.vmcs.read(field::GUEST_RFLAGS), RFLAGS_TF | 2);
        assert!(is_trap_due(&fixture.vmcs));
    }

    #[test]
    fn an_instruction_done_for_a_guest_that_steps_traps() {
        let mut fixture = Fixture::new();
        finish_instruction(&mut fixture.vmcs);
        assert!(!is_trap_due(&fixture.vmcs));
        fixture.vmcs.set(field::GUEST_RFLAGS, RFLAGS_TF | 2);
        fixture.vmcs.set(field::GUEST_DEBUGCTL, DEBUGCTL_BTF);
        finish_instruction(&mut fixture.vmcs);
        assert!(!is_trap_due(&fixture.vmcs), "it steps over branches only");
        fixture.vmcs.set(field::GUEST_DEBUGCTL, 0);
        finish_instruction(&mut fixture.vmcs);
        assert!(is_trap_due(&fixture.vmcs));
        assert_eq!(fixture.vmcs.read(field::GUEST_PENDING_DEBUG), SINGLE_STEP);
    }
}
