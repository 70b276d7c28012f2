#![expect(unsafe_code, reason = "entering the guest")]
//! Running a machine's processors: the loop between guest and exits.
//!
//! What is done on every round is what every exit pays for: set the timer, enter, decode, handle, advance. All else
//! waits until somebody sets [`CpuContext::attention`](crate::exits::CpuContext::attention).

use godwit_vmx::controls::PrimaryControls;
use godwit_vmx::event::{self, Event, EventKind, Exception};
use godwit_vmx::exit::{Exit, REASONS};
use godwit_vmx::field;
use godwit_vmx::tsc;
use godwit_vmx::vmcs::{Current, Vmcs, VmcsAccess};
use godwit_vmx::world_switch;

use super::host;
use super::machine::{Machine, Timer};
use super::state::Activity;
use crate::devices::board::{Board, Request};
use crate::exits::{self, Context, GuestClock, Outcome, StopReason, Yield};

const RFLAGS_IF: u64 = 1 << 9;
const RFLAGS_TF: u64 = 1 << 8;
const BLOCKING_STI_OR_SS: u32 = 0b11;
const BLOCKING_NMI: u32 = 1 << 3;
/// Pending debug exception "single step" (SDM table 25-4).
const PENDING_SINGLE_STEP: u64 = 1 << 14;
/// Output that waits in the serial port before it is handed on during a slice.
const OUTPUT_BYTES_HIGH: usize = 1024;

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// The slice is over.
    Slice,
    /// The host has an interrupt to take.
    Interrupted,
    /// The processor waits for an interrupt.
    Blocked,
    /// The machine has stopped.
    Stopped,
}

/// What looking after the board says.
enum Attention {
    GoOn,
    Blocked,
    Stop(StopReason),
}

impl Machine {
    /// Whether processor `index` has something to do now, or else at which host TSC it will.
    ///
    /// # Errors
    /// The host TSC of the next deadline, [`u64::MAX`] if there is none.
    pub fn readiness(&mut self, index: usize) -> Result<(), u64> {
        let Some(vcpu) = self.vcpus.get(index) else { return Err(u64::MAX) };
        if !self.state.runs() {
            return Err(u64::MAX);
        }
        match vcpu.activity {
            Activity::Active => Ok(()),
            Activity::WaitingForStartup => Err(u64::MAX),
            Activity::Halted => {
                let due = tsc::host() >= self.timer.host_tsc;
                let wakes = self.board.pending_interrupt(index).is_some()
                    || vcpu.context.nmi_pending
                    || self.board.has_requests();
                if due || wakes { Ok(()) } else { Err(self.timer.host_tsc) }
            }
        }
    }

    /// Runs processor `index` until the host TSC reaches `slice_end` or something else ends the run. Interrupts
    /// are off, and no other machine's registers are in this CPU.
    pub fn run(&mut self, index: usize, slice_end: u64) -> RunEnd {
        if self.load(index).is_err() {
            self.stop(StopReason::OutOfMemory);
            return RunEnd::Stopped;
        }
        let start = tsc::host();
        if self.first_entry_tsc == 0 {
            self.first_entry_tsc = start;
        }
        let end = match self.rounds(index, slice_end) {
            Ok(end) => end,
            Err(reason) => {
                self.stop(reason);
                return RunEnd::Stopped;
            }
        };
        self.run_ticks += tsc::host().wrapping_sub(start);
        end
    }

    fn rounds(&mut self, index: usize, slice_end: u64) -> Result<RunEnd, StopReason> {
        self.tables.flush();
        let Self { vcpus, board, ram, clock, policy, tables, timer, platform, handle, .. } = self;
        let vcpu = &mut vcpus[index];
        let Some(vmcs) = vcpu.slot.current() else { return Err(StopReason::OutOfMemory) };
        let mut context = Context { vmcs, cpu: &mut vcpu.context, board, memory: &**ram, clock, policy };
        if vcpu.activity == Activity::Halted {
            context.cpu.attention = true;
        }
        loop {
            if context.cpu.attention {
                context.cpu.attention = false;
                if context.board.serial_waiting() >= OUTPUT_BYTES_HIGH {
                    hand_on(context.board, handle);
                }
                let mut interrupts = Interrupts {
                    event: &mut vcpu.event,
                    activity: &mut vcpu.activity,
                    primary: &mut vcpu.primary,
                };
                match attend(&mut context, timer, &mut interrupts) {
                    Attention::GoOn => {}
                    Attention::Blocked => return Ok(RunEnd::Blocked),
                    Attention::Stop(reason) => return Err(reason),
                }
            }
            if let Some(event) = vcpu.event.take() {
                deliver(context.vmcs, event);
            }
            let deadline = timer.host_tsc.min(slice_end);
            let value = platform.timer.value_for(tsc::host(), deadline);
            context.vmcs.write(field::PREEMPTION_TIMER_VALUE, value);
            // SAFETY: interrupts are off; `load` wrote this CPU's state and the register block's address;
            // the tables map nothing but the guest's RAM; the host uses no register that is let through.
            let entered = unsafe { world_switch::enter(context.vmcs, &mut context.cpu.registers) };
            if entered.is_err() {
                let error = context.vmcs.read(field::INSTRUCTION_ERROR);
                return Err(StopReason::EntryRefused { error, rip: context.rip() });
            }
            let reason = context.vmcs.read(field::EXIT_REASON);
            context.cpu.counts[(reason as usize & 0xffff).min(REASONS - 1)] += 1;
            let exit = Exit::decode(reason, context.vmcs);
            if exit.may_interrupt_delivery() {
                vcpu.event = interrupted(context.vmcs, &exit);
            }
            match exits::handle(&mut context, exit) {
                Outcome::Skip => {
                    let length = context.vmcs.read(field::EXIT_INSTRUCTION_LENGTH);
                    advance(context.vmcs, length.into());
                }
                Outcome::Advance(length) => advance(context.vmcs, length.into()),
                Outcome::Resume => {}
                Outcome::Inject(event) => vcpu.event = Some(combined(vcpu.event, event)?),
                Outcome::PageFault(fault) => {
                    host::set_cr2(fault.address.as_u64());
                    let event = Event::exception_with_code(Exception::PageFault, fault.code);
                    vcpu.event = Some(combined(vcpu.event, event)?);
                }
                Outcome::Block => {
                    let length = context.vmcs.read(field::EXIT_INSTRUCTION_LENGTH);
                    advance(context.vmcs, length.into());
                    vcpu.activity = Activity::Halted;
                    context.cpu.attention = true;
                }
                Outcome::LoadXcr0 => {
                    host::set_xcr0(context.cpu.xcr0);
                    let length = context.vmcs.read(field::EXIT_INSTRUCTION_LENGTH);
                    advance(context.vmcs, length.into());
                }
                Outcome::RenewTscOffset => {
                    let offset = context.clock.mapping.offset.wrapping_add(context.cpu.tsc_adjust);
                    context.vmcs.write(field::TSC_OFFSET, offset);
                    let length = context.vmcs.read(field::EXIT_INSTRUCTION_LENGTH);
                    advance(context.vmcs, length.into());
                }
                Outcome::RamViolation(violation) => {
                    if !tables.resolve(&violation) {
                        let exit = Exit::EptViolation(violation);
                        return Err(StopReason::UnhandledExit { exit, rip: context.rip() });
                    }
                }
                Outcome::LogFull => tables.drain(context.vmcs),
                Outcome::Yield(Yield::Timer) => {
                    let now = tsc::host();
                    context.cpu.attention |= now >= timer.host_tsc;
                    if now >= slice_end {
                        return Ok(RunEnd::Slice);
                    }
                }
                Outcome::Yield(Yield::Interrupt) => return Ok(RunEnd::Interrupted),
                Outcome::Yield(Yield::Nmi) => {
                    host::handle_nmi();
                    return Ok(RunEnd::Interrupted);
                }
                Outcome::Stop(reason) => return Err(reason),
            }
        }
    }
}

/// The parts of a processor that decide what it is interrupted by.
struct Interrupts<'a> {
    event: &'a mut Option<Event>,
    activity: &'a mut Activity,
    primary: &'a mut u32,
}

type Running<'a> = Context<'a, Vmcs<Current>, super::memory::GuestRam>;

/// Looks after everything that is not due on every round: timers, requests, interrupts.
fn attend(context: &mut Running<'_>, timer: &mut Timer, interrupts: &mut Interrupts<'_>) -> Attention {
    let now = context.clock.now();
    context.board.advance(now);
    while let Some(request) = context.board.take_request() {
        match request {
            Request::Shutdown => return Attention::Stop(StopReason::Shutdown),
            Request::Reset => return Attention::Stop(StopReason::Reset),
            Request::NonMaskableInterrupt { vcpu } if vcpu == context.cpu.index => {
                context.cpu.nmi_pending = true;
            }
            // Other processors: there are none yet, and this one is started by its machine.
            Request::NonMaskableInterrupt { .. } | Request::InitVcpu { .. } | Request::StartVcpu { .. } => {}
        }
    }
    renew_timer(context.board, context.clock, timer);
    offer(context, interrupts);
    if *interrupts.activity == Activity::Halted { Attention::Blocked } else { Attention::GoOn }
}

#[inline]
fn renew_timer(board: &Board, clock: &GuestClock, timer: &mut Timer) {
    let deadline = board.next_deadline();
    if deadline != timer.deadline {
        timer.deadline = deadline;
        timer.host_tsc = deadline.map_or(u64::MAX, |time| clock.host_tsc_of(time));
    }
}

/// The single point where interrupts are offered to the guest.
fn offer(context: &mut Running<'_>, interrupts: &mut Interrupts<'_>) {
    let mut wanted = *interrupts.primary
        & !(PrimaryControls::INTERRUPT_WINDOW_EXITING | PrimaryControls::NMI_WINDOW_EXITING).bits();
    let pending = context.board.pending_interrupt(context.cpu.index).is_some();
    if pending || context.cpu.nmi_pending {
        let blocking = context.vmcs.read(field::GUEST_INTERRUPTIBILITY);
        if context.cpu.nmi_pending {
            let free = blocking & (BLOCKING_STI_OR_SS | BLOCKING_NMI) == 0;
            if free && interrupts.event.is_none() {
                context.cpu.nmi_pending = false;
                *interrupts.event = Some(Event::nmi());
                *interrupts.activity = Activity::Active;
            } else {
                wanted |= PrimaryControls::NMI_WINDOW_EXITING.bits();
            }
        }
        if pending {
            let enabled = context.vmcs.read(field::GUEST_RFLAGS) & RFLAGS_IF != 0;
            let free = enabled && blocking & BLOCKING_STI_OR_SS == 0;
            let vector = if free && interrupts.event.is_none() {
                context.board.acknowledge(context.cpu.index)
            } else {
                None
            };
            match vector {
                Some(vector) => {
                    *interrupts.event = Some(Event::interrupt(vector));
                    *interrupts.activity = Activity::Active;
                }
                None => wanted |= PrimaryControls::INTERRUPT_WINDOW_EXITING.bits(),
            }
        }
    }
    if wanted != *interrupts.primary {
        *interrupts.primary = wanted;
        context.vmcs.write(field::PRIMARY_CONTROLS, wanted);
    }
}

/// Arranges for delivery of an event at this entry. An NMI that is delivered again must not find its own blocking.
fn deliver(vmcs: &mut impl VmcsAccess, event: Event) {
    if event.kind == EventKind::Nmi {
        let blocking = vmcs.read(field::GUEST_INTERRUPTIBILITY);
        if blocking & BLOCKING_NMI != 0 {
            vmcs.write(field::GUEST_INTERRUPTIBILITY, blocking & !BLOCKING_NMI);
        }
    }
    event.inject(vmcs);
}

/// The event whose delivery the exit interrupted. If there was none, but an IRET had just unblocked NMIs, they are
/// blocked again, since that IRET is going to be executed again (SDM 28.2.3).
fn interrupted(vmcs: &mut impl VmcsAccess, exit: &Exit) -> Option<Event> {
    let interrupted = event::interrupted_delivery(vmcs);
    let unblocked = matches!(exit, Exit::EptViolation(violation) if violation.nmi_unblocked);
    if interrupted.is_none() && unblocked {
        let blocking = vmcs.read(field::GUEST_INTERRUPTIBILITY);
        vmcs.write(field::GUEST_INTERRUPTIBILITY, blocking | BLOCKING_NMI);
    }
    interrupted
}

/// What is delivered when handling an exit during the delivery of `first` raised `second`.
fn combined(first: Option<Event>, second: Event) -> Result<Event, StopReason> {
    match first {
        None => Ok(second),
        Some(first) => event::combine(first, second)
            .ok_or(StopReason::TripleFault { rip: godwit_vmx::addr::Gva::new(0) }),
    }
}

/// Advances past an instruction that was carried out for the guest: the only place where RIP moves.
#[inline(always)]
fn advance(vmcs: &mut impl VmcsAccess, length: u64) {
    let rip = vmcs.read(field::GUEST_RIP);
    vmcs.write(field::GUEST_RIP, rip.wrapping_add(length));
    let blocking = vmcs.read(field::GUEST_INTERRUPTIBILITY);
    if blocking & BLOCKING_STI_OR_SS != 0 {
        vmcs.write(field::GUEST_INTERRUPTIBILITY, blocking & !BLOCKING_STI_OR_SS);
    }
    if vmcs.read(field::GUEST_RFLAGS) & RFLAGS_TF != 0 {
        let pending = vmcs.read(field::GUEST_PENDING_DEBUG);
        vmcs.write(field::GUEST_PENDING_DEBUG, pending | PENDING_SINGLE_STEP);
    }
}

/// Moves output on in the middle of a slice, before the port is full.
fn hand_on(board: &mut Board, handle: &super::handle::VmHandle) {
    let mut buffer = [0; OUTPUT_BYTES_HIGH];
    let count = board.serial_take(&mut buffer);
    handle.put_output(&buffer[..count]);
}

#[cfg(test)]
mod tests {
    use godwit_vmx::vmcs::FakeVmcs;

    use super::*;

    #[test]
    fn an_instruction_done_ends_the_shadow_of_sti() {
        let mut vmcs = FakeVmcs::new();
        vmcs.set(field::GUEST_RIP, 0x1000);
        vmcs.set(field::GUEST_INTERRUPTIBILITY, 0b1001);
        advance(&mut vmcs, 2);
        assert_eq!(vmcs.read(field::GUEST_RIP), 0x1002);
        assert_eq!(vmcs.read(field::GUEST_INTERRUPTIBILITY), 0b1000);
        assert_eq!(vmcs.read(field::GUEST_PENDING_DEBUG), 0);
    }

    #[test]
    fn a_single_stepping_guest_gets_its_trap_after_an_instruction_done_for_it() {
        let mut vmcs = FakeVmcs::new();
        vmcs.set(field::GUEST_RFLAGS, RFLAGS_TF | 2);
        advance(&mut vmcs, 1);
        assert_eq!(vmcs.read(field::GUEST_PENDING_DEBUG), PENDING_SINGLE_STEP);
    }

    #[test]
    fn an_nmi_delivered_again_is_not_blocked_by_itself() {
        let mut vmcs = FakeVmcs::new();
        vmcs.set(field::GUEST_INTERRUPTIBILITY, BLOCKING_NMI);
        deliver(&mut vmcs, Event::nmi());
        assert_eq!(vmcs.read(field::GUEST_INTERRUPTIBILITY), 0);
        assert_eq!(vmcs.read(field::ENTRY_INTERRUPTION_INFO), 0x8000_0202);
    }

    #[test]
    fn an_iret_that_will_run_again_finds_nmis_blocked_again() {
        use godwit_vmx::exit::EptViolation;
        let mut vmcs = FakeVmcs::new();
        let exit = Exit::EptViolation(EptViolation::decode(1 << 12, 0, 0));
        assert_eq!(interrupted(&mut vmcs, &exit), None);
        assert_eq!(vmcs.read(field::GUEST_INTERRUPTIBILITY), BLOCKING_NMI);
    }
}
