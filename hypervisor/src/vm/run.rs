#![expect(unsafe_code, reason = "entering the guest")]
//! Running a machine's processors: the loop between guest and exits.
//!
//! What is done on every round is what every exit pays for: enter, decode, handle, advance. Exits that need no more
//! than the processor do not even set the timer, see [`Coast`]. All else waits until somebody sets
//! [`CpuContext::attention`](crate::exits::CpuContext::attention).

use godwit_vmx::addr::Gva;
use godwit_vmx::controls::PrimaryControls;
use godwit_vmx::event::{Event, Exception};
use godwit_vmx::exit::{Exit, REASONS};
use godwit_vmx::field;
use godwit_vmx::preemption_timer::Coast;
use godwit_vmx::tsc;
use godwit_vmx::vmcs::{Current, Vmcs, VmcsAccess};
use godwit_vmx::world_switch;

use super::delivery::{self, BLOCKING_NMI, is_free};
use super::handle::VmHandle;
use super::host;
use super::machine::{Machine, Timer};
use super::memory::GuestRam;
use super::page_wait::PageWait;
use super::platform::Platform;
use super::processors::Called;
use super::state::Activity;
use super::tables::{Resolution, Tables};
use super::vcpu::Vcpu;
use super::virtual_eoi::VirtualEoi;
use crate::devices::board::Board;
use crate::exits::context::is_64_bit_code;
use crate::exits::{self, Context, GuestClock, Outcome, StopReason, Yield, debug};
use crate::guest_memory::CpuMemory;

const RFLAGS_IF: u64 = 1 << 9;
const BLOCKING_STI_OR_SS: u32 = 0b11;
const WINDOWS: u32 =
    PrimaryControls::INTERRUPT_WINDOW_EXITING.union(PrimaryControls::NMI_WINDOW_EXITING).bits();
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
    /// The processor waits for a page that has not come: whoever gets it is to be told.
    Absent,
    /// The machine has stopped.
    Stopped,
}

/// What looking after the board says.
enum Attention {
    GoOn,
    Blocked,
    /// Others have something to do first: who owns the machine, or another processor.
    GiveWay,
}

impl Machine {
    /// Runs processor `index` until the host TSC reaches `slice_end` or something else ends the run. Interrupts
    /// are off, and no other machine's registers are in this CPU.
    pub fn run(&mut self, index: usize, slice_end: u64) -> RunEnd {
        if self.load(index).is_err() {
            self.stop(StopReason::OutOfMemory);
            return RunEnd::Stopped;
        }
        if let Err(reason) = self.end_wait(index) {
            self.stop(reason);
            return RunEnd::Stopped;
        }
        let start = tsc::host();
        if self.first_entry_tsc == 0 {
            self.first_entry_tsc = start;
        }
        if self.vcpus.len() > 1 {
            // Another processor may have sent it something.
            self.vcpus[index].context.attention = true;
        }
        let end = self.rounds(index, slice_end).and_then(|end| self.after_run(index, end));
        self.run_ticks += tsc::host().wrapping_sub(start);
        end.unwrap_or_else(|reason| {
            self.stop(reason);
            RunEnd::Stopped
        })
    }

    /// Processor `index`, which is still loaded, has run.
    fn after_run(&mut self, index: usize, end: RunEnd) -> Result<RunEnd, StopReason> {
        if end == RunEnd::Blocked && self.is_dead() {
            let vmcs = self.vcpus[index].slot.as_current();
            let rip = Gva::new(vmcs.map_or(0, |vmcs| vmcs.read(field::GUEST_RIP)));
            return Err(StopReason::HaltedForGood { rip });
        }
        self.obey_requests()?;
        Ok(end)
    }

    /// The page that processor `index` waits for, if it waits, has come or never will.
    fn end_wait(&mut self, index: usize) -> Result<(), StopReason> {
        let Some(vcpu) = self.vcpus.get_mut(index) else { return Ok(()) };
        let Some(wait) = vcpu.waits_for.take() else { return Ok(()) };
        // Time has passed.
        vcpu.context.attention = true;
        match wait.end(self.ram.absent(), index)? {
            Some(page) => self.tables.admit(page).map_err(|_error| StopReason::OutOfMemory),
            None => Ok(()),
        }
    }

    fn rounds(&mut self, index: usize, slice_end: u64) -> Result<RunEnd, StopReason> {
        self.tables.flush();
        let Self { vcpus, board, ram, clock, policy, tables, timer, platform, handle, called, .. } = self;
        let Vcpu { context: cpu, slot, event, activity, deaf, waits_for, primary, virtual_eoi, vpid, .. } =
            &mut vcpus[index];
        let Some(vmcs) = slot.current() else { return Err(StopReason::OutOfMemory) };
        cpu.attention |= *activity == Activity::Halted;
        let ram = &**ram;
        let memory = CpuMemory::new(ram);
        let context = Context { vmcs, cpu, board, memory: &memory, clock, policy };
        let coast = platform.coast();
        let mut rounds = Rounds {
            context,
            ram,
            event,
            activity,
            deaf,
            waits_for,
            primary,
            vpid: *vpid,
            called,
            virtual_eoi: virtual_eoi.as_deref_mut(),
            timer,
            coast,
            tables,
            handle,
            slice_end,
        };
        loop {
            if rounds.context.cpu.attention {
                match rounds.attend() {
                    Attention::GoOn => {}
                    Attention::Blocked => return Ok(RunEnd::Blocked),
                    Attention::GiveWay => return Ok(RunEnd::Slice),
                }
            }
            let reason = rounds.enter(platform)?;
            let outcome = match exits::handle_at_once(&mut rounds.context, reason) {
                Some(Outcome::Skip) => {
                    rounds.skip();
                    continue;
                }
                Some(outcome) => outcome,
                None => rounds.handle(reason),
            };
            // Whatever the handler made of memory that has not come: it is asked again when that is there.
            let end = match rounds.context.memory.take_touched().and_then(|page| ram.page_of(page)) {
                None => rounds.act(outcome)?,
                Some(page) => rounds.wait(page)?,
            };
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }
}

/// One processor between entries: what its rounds work on.
struct Rounds<'a> {
    context: Running<'a>,
    ram: &'a GuestRam,
    event: &'a mut Option<Event>,
    activity: &'a mut Activity,
    deaf: &'a mut bool,
    waits_for: &'a mut Option<PageWait>,
    primary: &'a mut u32,
    vpid: Option<u16>,
    called: &'a mut Called,
    virtual_eoi: Option<&'a mut VirtualEoi>,
    timer: &'a mut Timer,
    coast: Coast,
    tables: &'a mut Tables,
    handle: &'a VmHandle,
    slice_end: u64,
}

impl Rounds<'_> {
    /// Enters the guest and returns with the reason of its next exit.
    #[inline(always)]
    fn enter(&mut self, platform: &Platform) -> Result<u32, StopReason> {
        let context = &mut self.context;
        if let Some(event) = self.event.take() {
            delivery::deliver(context.vmcs, event);
        }
        if self.coast.is_over() {
            let deadline = self.timer.host_tsc.min(self.slice_end);
            let value = platform.timer.value_for(tsc::host(), deadline);
            context.vmcs.write(field::PREEMPTION_TIMER_VALUE, value);
        }
        // SAFETY: interrupts are off; `load` wrote this CPU's state and the register block's address; the
        // tables map nothing but the guest's RAM; the host uses no register that is let through.
        let entered = unsafe { world_switch::enter(context.vmcs, &mut context.cpu.registers) };
        if entered.is_err() {
            let error = context.vmcs.read(field::INSTRUCTION_ERROR);
            return Err(StopReason::EntryRefused { error, rip: context.rip() });
        }
        let reason = context.vmcs.read(field::EXIT_REASON);
        context.cpu.counts[(reason as usize & 0xffff).min(REASONS - 1)] += 1;
        if let Some(eoi) = &mut self.virtual_eoi
            && let Some(serving) = eoi.ended(context.vmcs)
        {
            context.board.local_apic(context.cpu.index).end_above(serving);
        }
        Ok(reason)
    }

    /// Handles any exit.
    #[inline(always)]
    fn handle(&mut self, reason: u32) -> Outcome {
        self.coast.end();
        let exit = Exit::decode(reason, self.context.vmcs);
        if exit.may_interrupt_delivery() {
            *self.event = delivery::interrupted(self.context.vmcs, &exit);
            if let Some(event) = *self.event
                && let Err(reason) = exits::check_delivery(&self.context, &exit, event)
            {
                return Outcome::Stop(reason);
            }
        }
        exits::handle(&mut self.context, exit)
    }

    /// Does what a handler wants done. Some end of the run, or on with the next round.
    #[inline(always)]
    fn act(&mut self, outcome: Outcome) -> Result<Option<RunEnd>, StopReason> {
        match outcome {
            Outcome::Skip => self.skip(),
            Outcome::Advance(length) => advance(self.context.vmcs, length.into()),
            Outcome::Resume => return Ok(self.redeliver()),
            Outcome::Inject(event) => return self.raise(event),
            Outcome::PageFault(fault) => {
                host::set_cr2(fault.address.as_u64());
                return self.raise(Event::exception_with_code(Exception::PageFault, fault.code));
            }
            Outcome::DebugException(conditions) => {
                host::set_dr6(conditions.dr6_after(host::dr6()));
                return self.raise(Event::exception(Exception::Debug));
            }
            Outcome::Block => {
                self.skip();
                *self.activity = Activity::Halted;
                self.context.cpu.attention = true;
            }
            Outcome::LoadXcr0 => {
                host::set_xcr0(self.context.cpu.xcr0);
                self.skip();
            }
            Outcome::ForgetTranslations => {
                self.vpid.into_iter().for_each(host::flush_vpid);
                self.skip();
            }
            Outcome::RenewTscOffset => {
                let Context { vmcs, cpu, clock, .. } = &mut self.context;
                vmcs.write(field::TSC_OFFSET, clock.mapping.offset.wrapping_add(cpu.tsc_adjust));
                self.skip();
            }
            Outcome::RamViolation(violation) => match self.tables.resolve(&violation) {
                Resolution::GoOn => return Ok(self.redeliver()),
                Resolution::Wait(page) => return self.wait(page),
                Resolution::OutOfFrames => return Err(StopReason::OutOfMemory),
                Resolution::Unexplained => {
                    let exit = Exit::EptViolation(violation);
                    return Err(StopReason::UnhandledExit { exit, rip: self.context.rip() });
                }
            },
            Outcome::LogFull => {
                self.tables.drain(self.context.vmcs);
                return Ok(self.redeliver());
            }
            Outcome::Yield(Yield::Timer) => {
                let now = tsc::host();
                self.context.cpu.attention |= now >= self.timer.host_tsc;
                if now >= self.slice_end {
                    return Ok(Some(RunEnd::Slice));
                }
            }
            Outcome::Yield(Yield::Spin) => {
                self.skip();
                return Ok(Some(RunEnd::Slice));
            }
            Outcome::Yield(Yield::Interrupt) => return Ok(Some(RunEnd::Interrupted)),
            Outcome::Yield(Yield::Nmi) => {
                host::handle_nmi();
                return Ok(Some(RunEnd::Interrupted));
            }
            Outcome::Stop(reason) => return Err(reason),
        }
        Ok(None)
    }

    /// Has the processor wait for `page` and then do again what it was about to do, delivering an event included, unless
    /// the page has come meanwhile.
    #[cold]
    fn wait(&mut self, page: usize) -> Result<Option<RunEnd>, StopReason> {
        let (index, rip) = (self.context.cpu.index, self.context.rip());
        *self.waits_for = PageWait::begin(self.ram.absent(), index, page, rip)?;
        Ok(self.waits_for.map(|_wait| RunEnd::Absent))
    }

    /// Advances past the instruction that exited.
    #[inline(always)]
    fn skip(&mut self) {
        let length = self.context.vmcs.read(field::EXIT_INSTRUCTION_LENGTH);
        advance(self.context.vmcs, length.into());
    }

    /// Has an exception delivered; on top of a delivery that the exit interrupted, perhaps a double fault.
    fn raise(&mut self, second: Event) -> Result<Option<RunEnd>, StopReason> {
        *self.event = delivery::raised(*self.event, second);
        if self.event.is_none() {
            return Err(StopReason::TripleFault { rip: self.context.rip() });
        }
        Ok(self.redeliver())
    }

    /// Goes on with a delivery that perhaps ends in an exit again, unless the slice is over: the event then waits for the
    /// next.
    fn redeliver(&self) -> Option<RunEnd> {
        delivery::ends_slice(*self.event, self.slice_end).then_some(RunEnd::Slice)
    }

    /// Looks after everything that is not due on every round: timers, requests, interrupts.
    fn attend(&mut self) -> Attention {
        self.coast.end();
        let context = &mut self.context;
        context.cpu.attention = false;
        if context.board.serial_waiting() >= OUTPUT_BYTES_HIGH {
            hand_on(context.board, self.handle);
        }
        let now = context.clock.now();
        context.board.advance(now);
        renew_timer(context.board, context.clock, self.timer);
        self.offer();
        if let Some(eoi) = &mut self.virtual_eoi {
            let Context { vmcs, cpu, board, .. } = &mut self.context;
            eoi.show(*vmcs, self.primary, board.local_apic(cpu.index));
        }
        if self.others_first() {
            self.context.cpu.attention = true;
            return Attention::GiveWay;
        }
        if *self.activity == Activity::Halted {
            *self.deaf = self.context.vmcs.read(field::GUEST_RFLAGS) & RFLAGS_IF == 0;
            return Attention::Blocked;
        }
        Attention::GoOn
    }

    /// Whether somebody else is to have a turn first: the machine's owner, or another processor.
    fn others_first(&mut self) -> bool {
        let board = &*self.context.board;
        board.has_requests() || board.vcpus() > 1 && self.called.news(board, self.context.cpu.index)
    }

    /// The single point where interrupts are offered to the guest.
    fn offer(&mut self) {
        let Context { vmcs, cpu, board, .. } = &mut self.context;
        let mut wanted = *self.primary & !WINDOWS;
        if *self.activity == Activity::Halted && debug::is_trap_due(*vmcs) {
            // A guest that steps is not halted: the trap of its HLT ends that.
            *self.activity = Activity::Active;
        }
        let pending = board.pending_interrupt(cpu.index).is_some();
        if pending || cpu.nmi_pending {
            let blocking = vmcs.read(field::GUEST_INTERRUPTIBILITY);
            if cpu.nmi_pending {
                if blocking & (BLOCKING_STI_OR_SS | BLOCKING_NMI) == 0 && is_free(*vmcs, *self.event) {
                    cpu.nmi_pending = false;
                    *self.event = Some(Event::nmi());
                    *self.activity = Activity::Active;
                } else {
                    wanted |= PrimaryControls::NMI_WINDOW_EXITING.bits();
                }
            }
            if pending {
                let enabled = vmcs.read(field::GUEST_RFLAGS) & RFLAGS_IF != 0;
                let free = enabled && blocking & BLOCKING_STI_OR_SS == 0 && is_free(*vmcs, *self.event);
                let vector = if free { board.acknowledge(cpu.index) } else { None };
                match vector {
                    Some(vector) => {
                        *self.event = Some(Event::interrupt(vector));
                        *self.activity = Activity::Active;
                    }
                    None => wanted |= PrimaryControls::INTERRUPT_WINDOW_EXITING.bits(),
                }
            }
        }
        if wanted != *self.primary {
            *self.primary = wanted;
            vmcs.write(field::PRIMARY_CONTROLS, wanted);
        }
    }
}

type Running<'a> = Context<'a, Vmcs<Current>, CpuMemory<'a, GuestRam>>;

/// Notes when the board wants to be looked at next.
#[inline]
pub(super) fn renew_timer(board: &Board, clock: &GuestClock, timer: &mut Timer) {
    let deadline = board.next_deadline();
    if deadline != timer.deadline {
        timer.deadline = deadline;
        timer.host_tsc = deadline.map_or(u64::MAX, |time| clock.host_tsc_of(time));
    }
}

/// Advances past an instruction that was carried out for the guest: the only place where RIP moves. Outside 64-bit mode it has
/// 32 bits, and a VM entry refuses more (SDM 27.3.1.4).
#[inline(always)]
fn advance(vmcs: &mut impl VmcsAccess, length: u64) {
    let rip = vmcs.read(field::GUEST_RIP);
    let mut next = rip.wrapping_add(length);
    if (next as u32) < length as u32 {
        next = across_4_gib(vmcs, next);
    }
    vmcs.write(field::GUEST_RIP, next);
    let blocking = vmcs.read(field::GUEST_INTERRUPTIBILITY);
    if blocking & BLOCKING_STI_OR_SS != 0 {
        vmcs.write(field::GUEST_INTERRUPTIBILITY, blocking & !BLOCKING_STI_OR_SS);
    }
    debug::finish_instruction(vmcs);
}

/// Where an instruction pointer goes that was carried into bit 32.
#[cold]
fn across_4_gib(vmcs: &impl VmcsAccess, next: u64) -> u64 {
    if is_64_bit_code(vmcs) { next } else { next & 0xffff_ffff }
}

/// Moves output on in the middle of a slice, before the port is full.
fn hand_on(board: &mut Board, handle: &VmHandle) {
    let mut buffer = [0; OUTPUT_BYTES_HIGH];
    let count = board.serial_take(&mut buffer);
    handle.put_output(&buffer[..count]);
}

#[cfg(test)]
mod tests {
    use godwit_vmx::controls::EntryControls;
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
    fn only_in_64_bit_mode_an_instruction_done_leaves_the_low_4_gib() {
        const CS_LONG: u32 = 1 << 13;
        let ia32e = EntryControls::IA32E_MODE_GUEST.bits();
        for (controls, code, next) in [
            (ia32e, CS_LONG, 0x1_0000_0000),
            (ia32e, 0, 0),
            // CS.L means nothing in legacy mode.
            (0, CS_LONG, 0),
        ] {
            let mut vmcs = FakeVmcs::new();
            vmcs.set(field::ENTRY_CONTROLS, controls);
            vmcs.set(field::GUEST_CS_ACCESS_RIGHTS, code);
            vmcs.set(field::GUEST_RIP, 0xffff_fffe);
            advance(&mut vmcs, 2);
            assert_eq!(vmcs.read(field::GUEST_RIP), next);
        }
    }

    #[test]
    fn a_single_stepping_guest_gets_its_trap_after_an_instruction_done_for_it() {
        let mut vmcs = FakeVmcs::new();
        assert!(is_free(&vmcs, None));
        vmcs.set(field::GUEST_RFLAGS, 1 << 8 | 2);
        advance(&mut vmcs, 1);
        assert_eq!(vmcs.read(field::GUEST_PENDING_DEBUG), 1 << 14);
        assert!(!is_free(&vmcs, None), "and an interrupt only after it");
    }
}
