//! One guest as people know it, and the commands on their way to its machine.

use alloc::collections::VecDeque;
use alloc::string::{String, ToString};
use core::fmt;

use godwit_boot::config;
use godwit_migration::{Generation, GuestEvent, GuestId, RunPermit, Step};

use super::Key;
use super::house;
use crate::exits::StopReason;
use crate::exits::cpuid_features::FeatureSet;
use crate::migrate::ram::MachineRam;
use crate::vm::handle::{Command, Figures, Refusal, Reply, Ticket, Unsent, VmHandle};
use crate::vm::lifecycle::State;
use crate::vm::machine::Blueprint;

/// Commands that wait for a machine.
const JOBS_MAX: usize = 8;

/// Where a guest is, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does not run here.
    Stopped,
    /// It runs.
    Running,
    /// It stands still.
    Paused,
    /// It comes from another host.
    Arriving,
}

impl Standing {
    /// Whether it has a machine.
    #[must_use]
    pub const fn is_alive(self) -> bool {
        !matches!(self, Self::Stopped)
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stopped => "stopped",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Arriving => "arriving",
        })
    }
}

/// What a guest was built from, for people and for building it again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Bytes of RAM.
    pub memory_bytes: u64,
    /// Number of virtual processors.
    pub vcpus: u32,
    /// The kernel's file name.
    pub kernel: String,
    /// The kernel's command line.
    pub command_line: String,
    /// The host that it came from, if it was not started here.
    pub arrived_from: Option<String>,
    /// What its machine shows it, once it has one.
    pub shown: Option<Shown>,
}

/// What a guest's machine shows it, and every other host that it moves to must go on showing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Features of its processors.
    pub features: FeatureSet,
    /// Frequency of its TSC, in Hz.
    pub tsc_hz: u64,
}

impl Shown {
    /// What a machine that is about to be given to a CPU shows.
    pub(super) fn by(blueprint: &Blueprint) -> Self {
        Self { features: *blueprint.policy.cpuid.features(), tsc_hz: blueprint.policy.tsc_hz }
    }
}

/// What a command on its way to a machine is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A step of a migration: its answer is the session's.
    Step(Step),
    /// A person's wish.
    Wish,
    /// Figures for people.
    Figures,
}

/// See the module.
#[derive(Debug)]
pub struct Record {
    key: Key,
    name: String,
    pub(super) origin: Origin,
    configured: Option<&'static config::Guest>,
    pub(super) id: GuestId,
    pub(super) generation: Generation,
    handle: Option<VmHandle>,
    /// What an ended machine wrote and nobody has taken yet: its last words say most.
    last_words: VecDeque<u8>,
    /// Held while the guest stands still after a migration that could not run it again.
    permit: Option<RunPermit>,
    last_end: Option<StopReason>,
    end_was_told: bool,
    jobs: VecDeque<(Purpose, Command)>,
    current: Option<(Ticket, Purpose)>,
    pub(super) events: VecDeque<GuestEvent>,
    migrating: bool,
    pub(super) ram: MachineRam,
    figures: Option<Figures>,
}

impl Record {
    /// A guest that the configuration names.
    pub(super) fn configured(key: Key, guest: &'static config::Guest) -> Self {
        let origin = Origin {
            memory_bytes: u64::from(guest.memory_mib) << 20,
            vcpus: guest.vcpus,
            kernel: guest.kernel.as_str().to_string(),
            command_line: guest.command_line.as_str().to_string(),
            arrived_from: None,
            shown: None,
        };
        Self { configured: Some(guest), name: guest.name.as_str().to_string(), ..Self::empty(key, origin) }
    }

    /// A place for a guest that comes from `peer`.
    pub(super) fn arriving(key: Key, peer: &str) -> Self {
        let origin = Origin { arrived_from: Some(peer.to_string()), ..Origin::default() };
        Self { migrating: true, ..Self::empty(key, origin) }
    }

    fn empty(key: Key, origin: Origin) -> Self {
        Self {
            key,
            name: String::new(),
            origin,
            configured: None,
            id: GuestId([0; 16]),
            generation: Generation::FIRST,
            handle: None,
            last_words: VecDeque::new(),
            permit: None,
            last_end: None,
            end_was_told: true,
            jobs: VecDeque::new(),
            current: None,
            events: VecDeque::new(),
            migrating: false,
            ram: MachineRam::default(),
            figures: None,
        }
    }

    /// Its key.
    #[must_use]
    pub const fn key(&self) -> Key {
        self.key
    }

    /// Its name; empty for a guest that arrives and has not said it yet.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it was built from.
    #[must_use]
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Its machine, if it has one.
    #[must_use]
    pub const fn handle(&self) -> Option<&VmHandle> {
        self.handle.as_ref()
    }

    /// How it ended last.
    #[must_use]
    pub const fn last_end(&self) -> Option<&StopReason> {
        self.last_end.as_ref()
    }

    /// Its machine's figures, at most a second old.
    #[must_use]
    pub const fn figures(&self) -> Option<&Figures> {
        self.figures.as_ref()
    }

    /// Whether a migration decides over it.
    #[must_use]
    pub const fn is_migrating(&self) -> bool {
        self.migrating
    }

    /// Where it is.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.handle.as_ref().map_or(Standing::Stopped, |handle| Standing::from(&handle.state()))
    }

    pub(super) const fn configuration(&self) -> Option<&'static config::Guest> {
        self.configured
    }

    pub(super) const fn set_configuration(&mut self, configured: Option<&'static config::Guest>) {
        self.configured = configured;
    }

    pub(super) fn set_name(&mut self, name: &str) {
        self.name = name.to_string();
    }

    pub(super) fn set_migrating(&mut self, migrating: bool) {
        self.migrating = migrating;
    }

    /// It has a machine from now on.
    pub(super) fn attach(&mut self, handle: VmHandle) {
        // Whatever still waits was for the machine before it.
        self.fail_all();
        self.ram = MachineRam(handle.ram());
        self.handle = Some(handle);
        self.last_words.clear();
        self.last_end = None;
        self.end_was_told = false;
        self.figures = None;
    }

    pub(super) fn hold_permit(&mut self, permit: RunPermit) {
        self.permit = Some(permit);
    }

    pub(super) fn take_permit_if_still(&mut self) -> Option<RunPermit> {
        if self.standing() == Standing::Paused { self.permit.take() } else { None }
    }

    pub(super) fn take_output(&mut self, into: &mut [u8]) -> usize {
        if self.last_words.is_empty() {
            return self.handle.as_ref().map_or(0, |handle| handle.take_output(into));
        }
        let count = into.len().min(self.last_words.len());
        for (place, byte) in into.iter_mut().zip(self.last_words.drain(..count)) {
            *place = byte;
        }
        count
    }

    /// Keeps what the machine wrote to the end; a machine holds a bounded number of bytes.
    fn keep_last_words(&mut self) {
        let mut chunk = [0; 256];
        while let Some(handle) = &self.handle {
            let count = handle.take_output(&mut chunk);
            if count == 0 {
                return;
            }
            self.last_words.extend(&chunk[..count]);
        }
    }

    /// A person's command: carried out when those before it are.
    pub(super) fn order(&mut self, command: Command) {
        self.forget_figures();
        if self.jobs.len() < JOBS_MAX {
            self.jobs.push_back((Purpose::Wish, command));
            self.poll();
        }
    }

    /// A migration's command.
    pub(super) fn order_step(&mut self, step: Step, command: Command) {
        self.forget_figures();
        self.jobs.push_back((Purpose::Step(step), command));
        self.poll();
    }

    /// Asks the machine for figures, unless it has something better to do: while it stands still for a move, every
    /// round trip is downtime.
    pub(super) fn ask_for_figures(&mut self) {
        let has_figures = |state| matches!(state, State::Running | State::MovingOut { .. } | State::Paused);
        let is_free = self.current.is_none() && self.jobs.is_empty();
        if is_free && self.handle.as_ref().is_some_and(|handle| has_figures(handle.state())) {
            self.jobs.push_back((Purpose::Figures, Command::Inspect));
        }
    }

    /// Nothing waits behind a question that can as well be asked later.
    fn forget_figures(&mut self) {
        self.jobs.retain(|(purpose, _)| *purpose != Purpose::Figures);
    }

    /// Brings commands to the machine and answers back.
    pub(super) fn poll(&mut self) {
        let Some(handle) = self.handle.clone() else {
            self.fail_all();
            return;
        };
        if let Some((ticket, purpose)) = self.current {
            let Some(reply) = handle.poll(ticket) else { return };
            self.current = None;
            self.finish(purpose, reply);
        }
        if self.current.is_none()
            && let Some((purpose, command)) = self.jobs.pop_front()
        {
            match handle.submit(command) {
                Ok(ticket) => self.current = Some((ticket, purpose)),
                Err(Unsent::Busy(command)) => self.jobs.push_front((purpose, command)),
                Err(Unsent::Gone(command)) => {
                    self.jobs.push_front((purpose, command));
                    self.fail_all();
                }
            }
        }
    }

    fn finish(&mut self, purpose: Purpose, reply: Reply) {
        match purpose {
            Purpose::Step(step) => {
                self.events.push_back(house::event(step, reply));
                if step == Step::Run {
                    self.ask_for_figures();
                }
            }
            Purpose::Figures => {
                if let Reply::Figures(figures) = reply {
                    self.figures = Some(*figures);
                }
            }
            Purpose::Wish => {
                if let Reply::Refused(why, permit) = reply {
                    // That it has ended is told anyway.
                    if why != Refusal::Gone {
                        log::warn!("{}: {why}", self.name);
                    }
                    self.permit = permit.or(self.permit.take());
                }
                self.ask_for_figures();
            }
        }
    }

    /// The machine is gone: whoever waits for an answer gets one.
    fn fail_all(&mut self) {
        let current = self.current.take().map(|(_, purpose)| (purpose, None));
        let waiting = self.jobs.drain(..).map(|(purpose, command)| (purpose, Some(command)));
        for (purpose, command) in current.into_iter().chain(waiting) {
            if let Purpose::Step(step) = purpose {
                self.events.push_back(house::event_of_the_gone(step, command));
            }
        }
    }

    /// Lets go of a machine that has ended; why it ended, once.
    pub(super) fn notice_end(&mut self) -> Option<StopReason> {
        let handle = self.handle.as_ref()?;
        let State::Stopped(reason) = handle.state() else {
            return None;
        };
        if !handle.is_closed() {
            // Its owner is about to answer the command that ended it.
            return None;
        }
        self.poll();
        self.keep_last_words();
        self.handle = None;
        self.ram = MachineRam(None);
        self.permit = None;
        self.last_end = Some(reason.clone());
        if self.migrating && reason != StopReason::Migrated && reason != StopReason::Requested {
            self.events.push_back(GuestEvent::Ended);
        }
        if core::mem::replace(&mut self.end_was_told, true) { None } else { Some(reason) }
    }

    /// Whether there is nothing left to know about it: it came from elsewhere and has ended or left.
    pub(super) fn is_forgotten(&self) -> bool {
        self.configured.is_none() && self.handle.is_none() && !self.migrating
    }

    /// The machine's RAM, for a migration.
    pub(super) const fn ram_mut(&mut self) -> &mut MachineRam {
        &mut self.ram
    }

    /// Whether this is the guest `id`, alive.
    pub(super) fn is(&self, id: GuestId) -> bool {
        self.id == id && self.handle.is_some()
    }
}

#[cfg(test)]
mod tests {
    use alloc::boxed::Box;
    use alloc::sync::Arc;

    use godwit_migration::GuestFailure;
    use godwit_vmx::exit::REASONS;

    use super::*;
    use crate::vm::handle::Shared;
    use crate::vm::memory::testing::HeapBlocks;
    use crate::vm::memory::{BLOCK_BYTES, GuestRam};

    /// A guest that comes from another host, and its machine, whose owner the test is.
    fn arriving() -> (Record, VmHandle) {
        let ram = GuestRam::new(&mut HeapBlocks { left: 1 }, BLOCK_BYTES, 1).unwrap();
        let handle =
            Arc::new(Shared::new("linux", 1, Arc::new(ram), State::MovingIn { paused: false }, 0, |_| {}));
        let mut record = Record::arriving(Key(1), "b");
        record.attach(Arc::clone(&handle));
        (record, handle)
    }

    fn permit() -> RunPermit {
        RunPermit::for_new_guest(GuestId([7; 16]))
    }

    fn figures(tsc: u64) -> Reply {
        Reply::Figures(Box::new(Figures {
            exits: [0; REASONS],
            wild_accesses: 0,
            run_ticks: 0,
            tsc,
            throttle: 0,
            dirty_source: "",
            first_entry_tsc: 0,
        }))
    }

    #[test]
    fn an_arrived_guest_has_figures_as_soon_as_it_runs() {
        let (mut record, handle) = arriving();
        record.order_step(Step::Run, Command::Run(Some(permit())));
        assert!(matches!(handle.take_command(), Some(Command::Run(_))));
        handle.publish(&State::Running);
        handle.answer(Reply::Done);
        record.poll();
        assert!(matches!(record.events.pop_front(), Some(GuestEvent::Running)));
        assert!(matches!(handle.take_command(), Some(Command::Inspect)));
        handle.answer(figures(77));
        record.poll();
        assert!(record.is_migrating(), "its session is not over");
        assert_eq!(record.figures().map(|figures| figures.tsc), Some(77));
        record.ask_for_figures();
        record.poll();
        assert!(matches!(handle.take_command(), Some(Command::Inspect)), "and from then on");
    }

    #[test]
    fn a_resumed_or_paused_guest_shows_no_old_figures() {
        let (mut record, handle) = arriving();
        handle.publish(&State::Running);
        record.order(Command::Pause);
        assert!(matches!(handle.take_command(), Some(Command::Pause)));
        handle.publish(&State::Paused);
        handle.answer(Reply::Done);
        record.poll();
        assert!(matches!(handle.take_command(), Some(Command::Inspect)));
    }

    #[test]
    fn a_machine_that_stands_still_for_a_move_is_not_asked() {
        for state in [State::MovingIn { paused: false }, State::Stunned { paused: false }] {
            let (mut record, handle) = arriving();
            handle.publish(&state);
            record.ask_for_figures();
            record.poll();
            assert!(handle.take_command().is_none(), "{state}");
        }
    }

    #[test]
    fn all_that_waits_for_a_machine_that_ended_is_answered() {
        let (mut record, handle) = arriving();
        record.order_step(Step::Throttle, Command::Throttle(10));
        record.order_step(Step::Run, Command::Run(Some(permit())));
        record.order_step(Step::Discard, Command::Stop(StopReason::Migrated));
        handle.publish(&State::Stopped(StopReason::Shutdown));
        assert_eq!(record.notice_end(), None, "its owner has not let go of it");
        handle.close();
        assert_eq!(record.notice_end(), Some(StopReason::Shutdown));
        let mut next = || record.events.pop_front();
        assert!(matches!(next(), Some(GuestEvent::Failed(Step::Throttle, GuestFailure::Gone))));
        assert!(matches!(next(), Some(GuestEvent::RunFailed(_, GuestFailure::Gone))));
        assert!(matches!(next(), Some(GuestEvent::Discarded)));
        assert!(matches!(next(), Some(GuestEvent::Ended)));
        assert!(next().is_none());
        assert_eq!(record.standing(), Standing::Stopped);
    }

    #[test]
    fn a_step_begun_after_the_end_is_answered_too() {
        let (mut record, handle) = arriving();
        handle.publish(&State::Stopped(StopReason::Reset));
        handle.close();
        record.order_step(Step::Pause, Command::Stun);
        let event = record.events.pop_front();
        assert!(matches!(event, Some(GuestEvent::Failed(Step::Pause, GuestFailure::Gone))));
    }

    #[test]
    fn discarding_a_machine_that_ends_meanwhile_succeeds() {
        let (mut record, handle) = arriving();
        record.order_step(Step::Discard, Command::Stop(StopReason::Migrated));
        handle.close();
        record.poll();
        assert!(matches!(record.events.pop_front(), Some(GuestEvent::Discarded)));
    }

    #[test]
    fn a_new_machine_is_not_asked_for_the_answers_of_the_one_before() {
        let (mut record, ended) = arriving();
        record.order(Command::Stop(StopReason::Requested));
        ended.publish(&State::Stopped(StopReason::Requested));
        ended.close();
        let (_, handle) = arriving();
        record.attach(Arc::clone(&handle));
        record.order(Command::Run(None));
        assert!(matches!(handle.take_command(), Some(Command::Run(None))));
    }

    #[test]
    fn a_step_does_not_wait_for_figures() {
        let (mut record, handle) = arriving();
        handle.publish(&State::MovingOut { paused: false });
        record.ask_for_figures();
        record.order_step(Step::Pause, Command::Stun);
        assert!(matches!(handle.take_command(), Some(Command::Stun)));
    }
}
