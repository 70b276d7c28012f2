//! A machine's processors among each other: which of them can run, what they do to one another, and when none of them ever
//! will run again.

use alloc::boxed::Box;

use godwit_vmx::tsc;

use super::machine::Machine;
use super::run::renew_timer;
use super::startup;
use super::state::{Activity, VcpuState};
use super::vcpu::Vcpu;
use crate::devices::board::{Board, Request};
use crate::exits::StopReason;

/// The processors for which an interrupt waits, as it was when that was last looked at, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Called(u64);

impl Called {
    /// Looks at `board`. Whether an interrupt has come for another processor than `index`, which is then to have its turn at
    /// once: the sender often waits for that. Each counts once, so that a processor that cannot take its interrupt stops
    /// nobody.
    pub(super) fn news(&mut self, board: &Board, index: usize) -> bool {
        let waiting = (0..board.vcpus()).filter(|vcpu| board.pending_interrupt(*vcpu).is_some());
        let before = core::mem::replace(&mut self.0, waiting.fold(0, |set, vcpu| set | 1 << vcpu));
        self.0 & !before & !(1 << index) != 0
    }
}

impl Machine {
    /// Number of its processors.
    #[must_use]
    pub const fn vcpus(&self) -> usize {
        self.vcpus.len()
    }

    /// Whether processor `index` has something to do now, or else at which host TSC it will.
    ///
    /// # Errors
    /// The host TSC of the next deadline, [`u64::MAX`] if there is none.
    pub fn readiness(&mut self, index: usize) -> Result<(), u64> {
        if !self.state.runs() {
            return Err(u64::MAX);
        }
        let Some(vcpu) = self.vcpus.get(index) else { return Err(u64::MAX) };
        if let Some(wait) = vcpu.waits_for {
            return if wait.is_over(self.ram.absent()) { Ok(()) } else { Err(u64::MAX) };
        }
        match vcpu.activity {
            Activity::Active => Ok(()),
            Activity::WaitingForStartup => Err(u64::MAX),
            Activity::Halted => {
                if tsc::host() >= self.timer.host_tsc {
                    self.board.advance(self.clock.now());
                    renew_timer(&self.board, &self.clock, &mut self.timer);
                }
                if self.wakes(index) { Ok(()) } else { Err(self.timer.host_tsc) }
            }
        }
    }

    /// Whether something ends the HLT of processor `index`, or is to be looked at by it.
    fn wakes(&self, index: usize) -> bool {
        let vcpu = &self.vcpus[index];
        // After a pause or a move nobody has looked yet, and the deadline is not known.
        vcpu.context.attention
            || vcpu.context.nmi_pending
            || self.board.has_requests()
            || !vcpu.deaf && self.board.pending_interrupt(index).is_some()
    }

    /// Whether no processor will ever do anything again.
    pub(super) fn is_dead(&self) -> bool {
        !self.board.has_requests() && self.vcpus.iter().all(is_gone)
    }

    /// Does what the board asks for: the machine's end, or something with its processors.
    ///
    /// # Errors
    /// The reason why the machine is to stop.
    pub(super) fn obey_requests(&mut self) -> Result<(), StopReason> {
        while let Some(request) = self.board.take_request() {
            match request {
                Request::Shutdown => return Err(StopReason::Shutdown),
                // The bootstrap processor goes on with the firmware, and this machine has none.
                Request::Reset | Request::InitVcpu { vcpu: 0 } => return Err(StopReason::Reset),
                Request::NonMaskableInterrupt { vcpu } => {
                    if self.activity(vcpu) != Some(Activity::WaitingForStartup) {
                        let context = &mut self.vcpus[vcpu].context;
                        (context.nmi_pending, context.attention) = (true, true);
                    }
                }
                Request::InitVcpu { vcpu } => self.rewrite(vcpu, startup::after_init)?,
                Request::StartVcpu { vcpu, vector } => {
                    if self.activity(vcpu) == Some(Activity::WaitingForStartup) {
                        self.rewrite(vcpu, |state| startup::after_startup(state, vector))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn activity(&self, index: usize) -> Option<Activity> {
        self.vcpus.get(index).map(|vcpu| vcpu.activity)
    }

    /// Gives processor `index` the state that `change` makes of its own.
    fn rewrite(
        &mut self,
        index: usize,
        change: impl FnOnce(VcpuState) -> VcpuState,
    ) -> Result<(), StopReason> {
        let state = self.save_vcpu(index).map_err(|_refusal| StopReason::OutOfMemory)?;
        let state = Box::new(change(state));
        let limits = self.platform.limits(&self.policy);
        let parts = state.validate(&limits).map_err(|_invalid| StopReason::NotTaken)?;
        self.unload();
        self.ram.absent().end_wait(index);
        self.vcpus[index].restore(state, parts);
        Ok(())
    }
}

/// Whether nothing but another processor can have `vcpu` do anything.
fn is_gone(vcpu: &Vcpu) -> bool {
    match vcpu.activity {
        Activity::Active => false,
        Activity::WaitingForStartup => true,
        Activity::Halted => vcpu.deaf && !vcpu.context.nmi_pending && vcpu.waits_for.is_none(),
    }
}

#[cfg(test)]
mod tests {
    use godwit_vmx::addr::Gpa;

    use super::super::slot::VmcsSlot;
    use super::super::startup::after_init;
    use super::super::state::tests::fresh;
    use super::super::vcpu::tests::platform;
    use super::*;
    use crate::devices::board::BoardConfig;
    use crate::devices::{GuestTime, Width};
    use crate::exits::cpuid::CRYSTAL_HZ;
    use crate::exits::testing::policy;

    const APIC: u64 = 0xfee0_0000;
    const VECTOR: u64 = 0x40;

    fn board() -> Board {
        let config = BoardConfig {
            vcpus: 3,
            tsc_hz: 1_000_000_000,
            crystal_hz: CRYSTAL_HZ,
            wall_clock_unix_seconds: 0,
        };
        let mut board = Board::new(&config, GuestTime::ZERO).unwrap();
        for vcpu in 0..3 {
            write(&mut board, vcpu, 0xf0, 0x1ff);
        }
        board
    }

    fn write(board: &mut Board, vcpu: usize, register: u64, value: u64) {
        let address = Gpa::new(APIC + register);
        board.mmio_write(GuestTime::ZERO, vcpu, address, Width::Dword, value).unwrap();
    }

    /// Processor `from` sends processor `to` an interrupt.
    fn call(board: &mut Board, from: usize, to: u64, vector: u64) {
        write(board, from, 0x310, to << 24);
        write(board, from, 0x300, vector);
    }

    #[test]
    fn a_processor_gives_way_once_to_each_interrupt_of_another() {
        let (mut board, mut called) = (board(), Called::default());
        assert!(!called.news(&board, 0));
        call(&mut board, 0, 0, VECTOR);
        assert!(!called.news(&board, 0), "its own");
        call(&mut board, 0, 1, VECTOR);
        assert!(called.news(&board, 0));
        assert!(!called.news(&board, 0), "it may go on while the other cannot take it");
        assert!(!called.news(&board, 1) && !called.news(&board, 0), "nor does the other's turn change that");
        board.acknowledge(1).unwrap();
        assert!(!called.news(&board, 1));
        call(&mut board, 0, 1, VECTOR + 0x10);
        assert!(called.news(&board, 0), "another one is news again");
    }

    #[test]
    fn a_start_up_message_is_asked_of_the_owner() {
        let mut board = board();
        call(&mut board, 0, 2, 0x4500);
        call(&mut board, 0, 2, 0x4612);
        assert_eq!(board.take_request(), Some(Request::InitVcpu { vcpu: 2 }));
        assert_eq!(board.take_request(), Some(Request::StartVcpu { vcpu: 2, vector: 0x12 }));
        assert_eq!(board.take_request(), None);
    }

    #[test]
    fn a_machine_of_processors_that_hear_nothing_is_dead() {
        let (platform, policy) = (platform(), policy());
        let vcpu = |state: VcpuState| {
            let parts = state.validate(&platform.limits(&policy)).unwrap();
            Vcpu::new(0, VmcsSlot::Gone, &platform, Box::new(state), parts)
        };
        assert!(is_gone(&vcpu(after_init(fresh()))), "who would start it?");
        let mut halted = vcpu(fresh());
        assert!(!is_gone(&halted));
        halted.activity = Activity::Halted;
        assert!(!is_gone(&halted), "an interrupt may come");
        halted.deaf = true;
        assert!(is_gone(&halted));
        halted.context.nmi_pending = true;
        assert!(!is_gone(&halted));
    }
}
