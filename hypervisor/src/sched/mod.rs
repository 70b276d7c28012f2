//! One loop per CPU: the processors of the machines that it owns take turns on it.
//!
//! [`CpuLoop::turn`] does what is owed (commands, new machines), makes a portion of a coming guest's RAM ready, runs one
//! processor for a slice, and says when it wants to be called again; the boot CPU's loop calls it between its other
//! duties, every other CPU does nothing else ([`run_guests`]). Other CPUs reach a loop by [`place`] and by machines'
//! mailboxes, both of which raise [`WORK`] and kick the CPU.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use crate::arch::percpu::{self, CPUS_MAX};
use crate::arch::{apic, interrupts, tsc};
use crate::sync::{Level, Lock};
use crate::vm::host::{self, EnableError, VmxOn};
use crate::vm::lifecycle::State;
use crate::vm::machine::{Blueprint, Machine};
use crate::vm::platform::Platform;
use crate::vm::run::RunEnd;
use crate::vm::site::Work;
use crate::vm::throttle::Share;

mod predictors;
pub mod run_queue;

use predictors::{Owed, Predictors};
use run_queue::{Choice, RunQueue};

/// Event of a CPU: a mailbox or the inbox has something.
pub const WORK: u32 = 1 << 0;
/// The CPU on which people and peers are served.
const BOOT_CPU: usize = 0;
/// Slices in a second while several processors share a CPU.
const SLICES_PER_SECOND: u64 = 250;
/// Slices in a second of a processor that has its CPU alone: only so that a command is noticed if its kick was not.
const LONE_SLICES_PER_SECOND: u64 = 20;
/// Portions in a second, of a coming guest's RAM and of processors' slices beside them: each gets half of the CPU.
const PORTIONS_PER_SECOND: u64 = 1000;
/// Assignments that wait for a CPU to take them.
const INBOX_MAX: usize = 64;

/// What a CPU is given.
#[derive(Debug)]
pub enum Assignment {
    /// RAM of a guest that it will run, to be made ready.
    Prepare(Work),
    /// A machine to run.
    Run(Blueprint),
}

static INBOXES: [Lock<Vec<Assignment>>; CPUS_MAX] = [const { Lock::new(Level::Guest, Vec::new()) }; CPUS_MAX];

/// Tells CPU `cpu`'s loop that there is something to do.
pub fn kick(cpu: usize) {
    if let Some(block) = percpu::of(cpu) {
        block.raise(WORK);
        if cpu != percpu::index() {
            apic::kick(cpu);
        }
    }
}

/// Why a CPU does not get a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaceError {
    /// No CPU of that number runs.
    NoSuchCpu(usize),
    /// Too many guests wait for that CPU.
    Full(usize),
}

impl fmt::Display for PlaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchCpu(cpu) => write!(f, "there is no CPU {cpu} that could run it"),
            Self::Full(cpu) => write!(f, "CPU {cpu} takes no more guests"),
        }
    }
}

impl core::error::Error for PlaceError {}

/// Gives `assignment` to CPU `cpu`.
///
/// # Errors
/// [`PlaceError`]; the machine, or the RAM, is gone then.
pub fn place(cpu: usize, assignment: Assignment) -> Result<(), PlaceError> {
    let inbox = INBOXES.get(cpu).filter(|_| percpu::of(cpu).is_some()).ok_or(PlaceError::NoSuchCpu(cpu))?;
    {
        let mut inbox = inbox.lock();
        if inbox.len() >= INBOX_MAX {
            return Err(PlaceError::Full(cpu));
        }
        inbox.push(assignment);
    }
    kick(cpu);
    Ok(())
}

fn empty_inbox(cpu: usize) -> Vec<Assignment> {
    INBOXES.get(cpu).map_or_else(Vec::new, |inbox| core::mem::take(&mut *inbox.lock()))
}

/// Ends what was given to the running CPU, which has no [`CpuLoop`] to do it.
pub fn turn_away() {
    for assignment in empty_inbox(percpu::index()) {
        match assignment {
            Assignment::Prepare(work) => work.refuse(),
            Assignment::Run(blueprint) => {
                log::error!("{} cannot run on CPU {}", blueprint.handle.name(), percpu::index());
                blueprint.refuse();
            }
        }
        kick(BOOT_CPU);
    }
}

/// What a turn did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// A machine ran: call again soon.
    Ran,
    /// Nothing can run before this TSC, [`u64::MAX`] if only an event changes that.
    Idle(u64),
}

/// The machines of one CPU.
#[derive(Debug)]
pub struct CpuLoop {
    platform: &'static Platform,
    /// RAM that is being made ready, in the order in which it came.
    works: VecDeque<Work>,
    machines: Vec<Machine>,
    queue: RunQueue,
    predictors: Predictors,
    index: usize,
    _vmx: VmxOn,
}

impl CpuLoop {
    /// The loop of the running CPU, on which VMX is turned on.
    ///
    /// # Errors
    /// [`EnableError`] if it cannot be.
    pub fn new(platform: &'static Platform) -> Result<Self, EnableError> {
        let vmx = host::enable(&platform.capabilities)?;
        crate::arch::idt::set_handler(crate::arch::idt::vector::KICK, |_| {});
        crate::arch::idt::set_handler(crate::arch::idt::vector::TIMER, |_| {});
        Ok(Self {
            platform,
            works: VecDeque::new(),
            machines: Vec::new(),
            queue: RunQueue::default(),
            predictors: Predictors::default(),
            index: percpu::index(),
            _vmx: vmx,
        })
    }

    /// One turn. A machine runs at most until the TSC reaches `until`. Interrupts are on before and after.
    pub fn turn(&mut self, until: u64) -> Turn {
        let events = percpu::current().map_or(0, percpu::PerCpu::take_events);
        if events & WORK != 0 {
            self.take_in();
            self.serve_all();
        }
        let has_prepared = self.prepare();
        let turn = self.run_one(until);
        self.let_go();
        if has_prepared { Turn::Ran } else { turn }
    }

    fn take_in(&mut self) {
        for assignment in empty_inbox(self.index) {
            match assignment {
                Assignment::Prepare(work) => self.works.push_back(work),
                Assignment::Run(blueprint) => self.adopt(blueprint),
            }
        }
    }

    fn adopt(&mut self, blueprint: Blueprint) {
        let handle = blueprint.handle.clone();
        match Machine::adopt(blueprint, self.platform) {
            Ok(machine) => self.machines.push(machine),
            Err(why) => {
                log::error!("{} cannot run: {why}", handle.name());
                kick(BOOT_CPU);
            }
        }
    }

    /// Makes a portion of the RAM ready that came first, after what only has to be given back; whether there was any. A
    /// command for a machine ends the portion.
    fn prepare(&mut self) -> bool {
        let first = self.works.iter().position(Work::is_given_up).unwrap_or(0);
        let Some(work) = self.works.remove(first) else { return false };
        let end = tsc::read() + self.platform.tsc_hz / PORTIONS_PER_SECOND;
        let is_called = || percpu::current().is_some_and(percpu::PerCpu::has_events);
        match work.go_on(|| tsc::read() >= end || is_called()) {
            Some(work) => self.works.insert(first, work),
            None => kick(BOOT_CPU),
        }
        true
    }

    /// Carries out what machines were told. A command may load its machine's registers into this CPU, so those of
    /// the others are taken out first.
    fn serve_all(&mut self) {
        for position in 0..self.machines.len() {
            if self.machines[position].has_command() {
                self.unload_others(position);
            }
            self.machines[position].serve();
        }
    }

    /// Takes the registers of all machines but the one at `position` out of this CPU.
    fn unload_others(&mut self, position: usize) {
        for (other, machine) in self.machines.iter_mut().enumerate() {
            if other != position {
                machine.unload();
            }
        }
    }

    fn run_one(&mut self, until: u64) -> Turn {
        let now = tsc::read();
        let machines = &mut self.machines;
        let seats = machines.iter().map(Machine::vcpus).sum();
        let choice = self.queue.choose(seats, |seat| {
            let (position, vcpu) =
                run_queue::occupant(machines.iter().map(Machine::vcpus), seat).ok_or(u64::MAX)?;
            let machine = &mut machines[position];
            machine.readiness(vcpu)?;
            match machine.share(now) {
                Share::RunUntil(_) => Ok(()),
                Share::WaitUntil(time) => Err(time),
            }
        });
        let (seat, others) = match choice {
            Choice::Run { position, others } => (position, others),
            Choice::Wait(time) => return Turn::Idle(time),
        };
        let Some((position, vcpu)) = run_queue::occupant(self.machines.iter().map(Machine::vcpus), seat)
        else {
            return Turn::Ran;
        };
        let slices = match others {
            _ if !self.works.is_empty() => PORTIONS_PER_SECOND,
            0 => LONE_SLICES_PER_SECOND,
            _ => SLICES_PER_SECOND,
        };
        let mut end = until.min(now + self.platform.tsc_hz / slices);
        if let Share::RunUntil(time) = self.machines[position].share(now) {
            end = end.min(time);
        }
        self.unload_others(position);
        if self.predictors.pass_to(Arc::as_ptr(self.machines[position].handle()).addr()) == Owed::Barrier {
            host::bar_predictions(&self.platform.residency);
        }
        interrupts::disable();
        let machine = &mut self.machines[position];
        let before = machine.run_ticks();
        let why = machine.run(vcpu, end);
        interrupts::enable();
        if let Some(block) = percpu::of(self.index) {
            block.time().add_guest(machine.run_ticks().wrapping_sub(before));
        }
        let has_news = machine.hand_on_output() || why == RunEnd::Absent;
        if has_news && self.index != BOOT_CPU {
            kick(BOOT_CPU);
        }
        if why == RunEnd::Stopped {
            log::info!("{} stopped", machine.handle().name());
        }
        Turn::Ran
    }

    /// Lets go of machines that have ended.
    fn let_go(&mut self) {
        let mut position = 0;
        while position < self.machines.len() {
            let machine = &self.machines[position];
            if !matches!(machine.state(), State::Stopped(_)) {
                position += 1;
                continue;
            }
            let machine = self.machines.swap_remove(position);
            if let State::Stopped(reason) = machine.state() {
                log::info!("{}: {reason}", machine.handle().name());
            }
            machine.destroy();
            self.predictors.distrust();
            kick(BOOT_CPU);
        }
    }
}

/// Waits until an interrupt comes, an event is raised, or the TSC reaches `until`.
pub fn wait(until: u64) {
    interrupts::disable();
    let raised = percpu::current().is_some_and(|block| {
        let events = block.take_events();
        block.raise(events);
        events != 0
    });
    if !raised {
        if until == u64::MAX {
            apic::disarm_timer();
        } else {
            apic::arm_timer(until);
        }
        percpu::idle();
    }
    interrupts::enable();
}

/// The loop of a CPU that does nothing but run guests.
pub fn run_guests(platform: &'static Platform) -> ! {
    let mut cpu = match CpuLoop::new(platform) {
        Ok(cpu) => cpu,
        Err(why) => {
            log::error!("CPU {} runs no guests: {why}", percpu::index());
            loop {
                let _ = percpu::current().map(percpu::PerCpu::take_events);
                turn_away();
                wait(u64::MAX);
            }
        }
    };
    loop {
        if let Turn::Idle(until) = cpu.turn(u64::MAX) {
            wait(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;
    use crate::vm::builder::tests::blueprint;

    /// In the tests no CPU is known by a number.
    #[test]
    fn a_cpu_that_does_not_run_is_given_nothing() {
        let (_handle, blueprint) = blueprint(1_000_000_000);
        assert_eq!(place(2, Assignment::Run(blueprint)), Err(PlaceError::NoSuchCpu(2)));
        assert!(empty_inbox(2).is_empty());
        assert_eq!(PlaceError::NoSuchCpu(2).to_string(), "there is no CPU 2 that could run it");
    }
}
