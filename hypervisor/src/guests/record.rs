//! One guest as people know it, and the commands on their way to its machine.

use alloc::collections::VecDeque;
use alloc::string::{String, ToString};
use core::fmt;

use godwit_boot::config;
use godwit_migration::{Generation, GuestEvent, GuestId, Page, RunPermit, Step};

use super::Key;
use super::house;
use super::start::Building;
use crate::exits::StopReason;
use crate::exits::cpuid_features::FeatureSet;
use crate::migrate::NotMovable;
use crate::migrate::ram::MachineRam;
use crate::vm::absent::AbsentPages;
use crate::vm::handle::{Command, Figures, Refusal, Reply, Ticket, Unsent, VmHandle};
use crate::vm::lifecycle::State;
use crate::vm::machine::Blueprint;
use crate::vm::memory::GuestRam;
use crate::vm::site::Unready;

/// Commands that wait for a machine.
const JOBS_MAX: usize = 8;

/// Why a migration decides over a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    /// It is on its way to another host, or it is looked at what that would take.
    Leaving,
    /// A copy of it is on its way to another host; the guest itself stays.
    Copied,
    /// It comes from another host, or has come and the other host has not yet let go of it.
    Arriving,
}

/// Where a guest is, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does not run here.
    Stopped,
    /// It starts: its machine is being built.
    Starting,
    /// It runs.
    Running,
    /// It stands still.
    Paused,
    /// It comes from another host.
    Arriving,
}

impl Standing {
    /// Whether it has a machine, or is about to.
    #[must_use]
    pub const fn is_alive(self) -> bool {
        !matches!(self, Self::Stopped)
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
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

impl Origin {
    /// That of a guest that the configuration names and that has no machine yet.
    fn configured(guest: &config::Guest) -> Self {
        Self {
            memory_bytes: u64::from(guest.memory_mib) << 20,
            vcpus: guest.vcpus,
            kernel: guest.kernel.as_str().to_string(),
            command_line: guest.command_line.as_str().to_string(),
            arrived_from: None,
            shown: None,
        }
    }
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
    /// What becomes its machine.
    building: Option<Building>,
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
    errand: Option<Errand>,
    pub(super) ram: MachineRam,
    figures: Option<Figures>,
}

impl Record {
    /// A guest that the configuration names.
    pub(super) fn configured(key: Key, guest: &'static config::Guest) -> Self {
        let origin = Origin::configured(guest);
        Self { configured: Some(guest), name: guest.name.as_str().to_string(), ..Self::empty(key, origin) }
    }

    /// A place for a guest that comes from `peer`.
    pub(super) fn arriving(key: Key, peer: &str) -> Self {
        let origin = Origin { arrived_from: Some(peer.to_string()), ..Origin::default() };
        Self { errand: Some(Errand::Arriving), ..Self::empty(key, origin) }
    }

    fn empty(key: Key, origin: Origin) -> Self {
        Self {
            key,
            name: String::new(),
            origin,
            configured: None,
            id: GuestId([0; 16]),
            generation: Generation::FIRST,
            building: None,
            handle: None,
            last_words: VecDeque::new(),
            permit: None,
            last_end: None,
            end_was_told: true,
            jobs: VecDeque::new(),
            current: None,
            events: VecDeque::new(),
            errand: None,
            ram: MachineRam::default(),
            figures: None,
        }
    }

    /// Its guest begins anew here, shown `shown` by its machine, as one that has never been anywhere else: whatever it was
    /// before. The permit to run it; its first.
    pub(super) fn begin_life(&mut self, id: GuestId, shown: Shown) -> RunPermit {
        self.origin.shown = Some(shown);
        (self.id, self.generation) = (id, Generation::FIRST);
        RunPermit::for_new_guest(id)
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

    /// Its machine on its way to be one; also one that is not wanted any more and whose memory has not been given back.
    #[must_use]
    pub const fn building(&self) -> Option<&Building> {
        self.building.as_ref()
    }

    /// Whether there is something that has to end before it can have another machine.
    pub(super) const fn has_machine(&self) -> bool {
        self.handle.is_some() || self.building.is_some()
    }

    /// The CPU that runs it, or will.
    #[must_use]
    pub fn owner(&self) -> Option<usize> {
        let building = self.building.as_ref().map(|building| building.site().owner());
        building.or_else(|| self.handle.as_ref().map(|handle| handle.owner()))
    }

    /// Bytes of RAM that it has here.
    #[must_use]
    pub fn ram_bytes(&self) -> u64 {
        let building = self.building.as_ref().map(|building| building.site().ram_bytes());
        building.or_else(|| self.handle.as_ref().map(|handle| handle.memory_bytes())).unwrap_or(0)
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
        self.errand.is_some()
    }

    /// Why a migration decides over it, if one does.
    #[must_use]
    pub const fn errand(&self) -> Option<Errand> {
        self.errand
    }

    /// Whether its people have to leave it alone as long as its migration goes on. One that came from elsewhere and runs
    /// here already is theirs, though its memory may still be arriving.
    pub(super) fn is_withheld(&self) -> bool {
        match self.errand {
            Some(Errand::Arriving) => self.building.is_some() || self.standing() == Standing::Arriving,
            Some(Errand::Leaving | Errand::Copied) => true,
            None => false,
        }
    }

    /// Where it is.
    #[must_use]
    pub fn standing(&self) -> Standing {
        if let Some(building) = &self.building
            && !building.site().is_given_up()
        {
            return if self.errand == Some(Errand::Arriving) {
                Standing::Arriving
            } else {
                Standing::Starting
            };
        }
        self.handle.as_ref().map_or(Standing::Stopped, |handle| Standing::from(&handle.state()))
    }

    /// Whether it runs here, or could, while parts of its memory have not come.
    #[must_use]
    pub fn is_filling(&self) -> bool {
        let is_here = matches!(self.standing(), Standing::Running | Standing::Paused);
        is_here && self.absent().is_some_and(AbsentPages::is_on)
    }

    /// What of its memory has not come, and who waits for it, while it has a machine.
    #[must_use]
    pub fn absent(&self) -> Option<&AbsentPages> {
        self.ram.ram().map(GuestRam::absent)
    }

    /// Whether a processor of it waits for a page that may still come.
    pub(super) fn is_waiting(&self) -> bool {
        self.absent().is_some_and(AbsentPages::is_waited_for)
    }

    /// Why it cannot be moved although it runs: its memory is not all here.
    pub(super) fn incomplete(&self) -> Option<NotMovable> {
        let absent = self.absent().filter(|_| self.is_filling())?;
        let guest = self.name.clone();
        Some(match absent.is_lost() {
            true => NotMovable::Incomplete(guest),
            false => NotMovable::StillArriving {
                guest,
                from: self.origin.arrived_from.clone().unwrap_or_default(),
                pages: absent.left(),
            },
        })
    }

    /// The next thing that a session is to be told: answers in their order, then what is waited for. A guest is known to
    /// run before it waits.
    pub(super) fn next_event(&mut self) -> Option<GuestEvent> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        let is_starting = matches!(self.current, Some((_, Purpose::Step(Step::Run))));
        let absent = self.absent().filter(|_| !is_starting)?;
        let page = u32::try_from(absent.take_wanted()?).ok()?;
        Some(GuestEvent::PageWanted(Page(page)))
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

    pub(super) const fn set_errand(&mut self, errand: Option<Errand>) {
        self.errand = errand;
    }

    /// Its machine is being built from now on.
    ///
    /// # Panics
    /// If it has one: [`notice_end`](Self::notice_end) lets go of that and tells its migration, which would go on to write
    /// into the new one's memory.
    pub(super) fn build(&mut self, building: Building) {
        self.be_without_machine();
        if let (Some(guest), None) = (self.configured, self.errand) {
            // Whatever came under its name before.
            self.origin = Origin::configured(guest);
        }
        self.building = Some(building);
    }

    /// What was being built, and what has come of its RAM, once that is known.
    pub(super) fn take_built(&mut self) -> Option<(Building, Result<GuestRam, Unready>)> {
        let outcome = self.building.as_ref()?.site().take_outcome()?;
        Some((self.building.take()?, outcome))
    }

    /// It has a machine from now on.
    ///
    /// # Panics
    /// As [`build`](Self::build).
    pub(super) fn attach(&mut self, handle: VmHandle) {
        self.be_without_machine();
        self.ram = MachineRam::of(&handle);
        self.handle = Some(handle);
    }

    /// Forgets what was of the machine before the next.
    fn be_without_machine(&mut self) {
        assert!(!self.has_machine(), "{} has a machine that nobody has let go of", self.name);
        self.fail_all();
        self.last_words.clear();
        self.last_end = None;
        self.end_was_told = false;
        self.figures = None;
    }

    /// It has ended before it had a machine.
    pub(super) fn end_unbuilt(&mut self, reason: StopReason) {
        self.last_end = Some(reason);
    }

    pub(super) fn hold_permit(&mut self, permit: RunPermit) {
        self.permit = Some(permit);
    }

    pub(super) const fn take_permit(&mut self) -> Option<RunPermit> {
        self.permit.take()
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

    /// A person's command: carried out when those before it are, if not too many are.
    pub(super) fn order(&mut self, command: Command) {
        self.forget_figures();
        if self.jobs.len() < JOBS_MAX {
            self.jobs.push_back((Purpose::Wish, command));
            self.poll();
        } else if let Command::Run(Some(permit)) = command {
            self.permit = Some(permit);
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
        let Some(handle) = &self.handle else {
            let reason = self.last_end.clone()?;
            return (!core::mem::replace(&mut self.end_was_told, true)).then_some(reason);
        };
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
        self.ram = MachineRam::default();
        self.permit = None;
        self.last_end = Some(reason.clone());
        if self.is_migrating() && reason != StopReason::Migrated {
            self.events.push_back(GuestEvent::Ended);
        }
        (!core::mem::replace(&mut self.end_was_told, true)).then_some(reason)
    }

    /// Whether there is nothing left to know about it: it came from elsewhere and has ended or left.
    pub(super) fn is_forgotten(&self) -> bool {
        self.configured.is_none() && !self.has_machine() && !self.is_migrating()
    }

    /// The machine's RAM, for a migration.
    pub(super) const fn ram_mut(&mut self) -> &mut MachineRam {
        &mut self.ram
    }

    /// Whether this is the guest `id`, alive.
    pub(super) fn is(&self, id: GuestId) -> bool {
        self.id == id && self.has_machine()
    }
}

#[cfg(test)]
mod tests;
