//! The target's engine: one attempt to take one guest over.
//!
//! [`admission`] says what speaks against a guest, [`receiver`] puts what arrives into RAM; how the guest changes
//! owner is in [`handover`].

mod admission;
mod filling;
mod handover;
pub(crate) mod receiver;
mod spooled;
mod stream;

use core::time::Duration;

use crate::device::DeviceState;
use crate::device::state_bytes_max;
use crate::endpoint::{Endpoint, Link, PATIENCE_UNTOLD, keepalive};
use crate::guest::{GuestDescription, HostCapabilities};
use crate::io::{Channel, Command, Event, GuestAction, GuestEvent, Input, OUTPUT_BYTES_MIN, Output, Step};
use crate::permit::{GuestId, MigrationId, RunPermit};
use crate::policy::TargetPolicy;
use crate::progress::Told;
use crate::ram::GuestRam;
use crate::reason::{AbortReason, GuestFailure, Refusal, StreamFault};
use crate::status::{Downtime, Phase, Report, Status, Stops};
use crate::time::Instant;
use crate::wire::assemble::Assembler;
use crate::wire::control::{Control, Seal};
use crate::wire::hello::{Hello, Reply};
use crate::wire::opening::{Greeting, Opening};
use crate::wire::reasons::refusals_to_wire;
use crate::wire::{VERSION_MAX, VERSION_MIN};
use filling::Filling;
use receiver::Receiver;
use spooled::Spooled;

/// What a target engine is made from.
#[derive(Clone, Debug)]
pub struct TargetConfig {
    /// What this host offers right now.
    pub host: HostCapabilities,
    /// Limits and choices.
    pub policy: TargetPolicy,
}

/// One attempt to take one guest over.
#[derive(Debug)]
pub struct Target {
    host: HostCapabilities,
    policy: TargetPolicy,
    state: State,
    endpoint: Endpoint,
    migration: Option<MigrationId>,
    /// The guest that the opening names.
    announced: Option<GuestId>,
    /// When the source last said more than that it is alive.
    moved_on_at: Instant,
    /// The version that is spoken: the highest that both speak.
    version: u16,
    guest: Option<GuestDescription>,
    receiver: Option<Receiver>,
    /// Whether the guest exists here and is to be discarded at an abort.
    is_built: bool,
    rounds: u32,
    told: (u64, Instant),
    source_patience: Duration,
    digest: u64,
    /// Of the seal that is being answered: how many stops were called back before it.
    stop: u32,
    filling: Filling,
    spooled: Spooled,
    /// Device state to be restored once the restoring of an earlier one, called back, is over.
    to_restore: Option<DeviceState>,
    started_at: Option<Instant>,
    ended_at: Option<Instant>,
    restore_began_at: Instant,
    /// Since when a copy runs here whose source cannot be heard.
    alone_since: Option<Instant>,
    last_word: Option<Event>,
}

/// Where the target stands.
#[derive(Debug)]
enum State {
    /// Waiting for the opening.
    Opening,
    /// Waiting for the hello.
    Hello,
    /// The guest is being built.
    Building,
    /// Pages and sections arrive.
    Receiving,
    /// Devices are being restored.
    Restoring,
    /// Complete: the next thing is the commit.
    Prepared,
    /// Complete, but the source was lost before its commit came; held until then.
    Held(Instant),
    /// The commit has come, the guest is being started.
    Starting { began_at: Instant, by: Decider },
    /// The guest runs here; parts of its memory are still at the source.
    Filling,
    /// The same, but what has not come is being given up.
    Forsaking,
    /// The guest runs here and is whole; the source has not yet let go.
    Owner,
    /// The guest is being discarded.
    Aborting(AbortReason),
    /// The guest does not run here by this attempt and never will; why.
    Disowned(AbortReason),
    /// The guest runs here and the source knows.
    Released,
    /// Somebody asked about a migration that we do not know.
    Stranger,
}

/// Who decided that the guest is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decider {
    /// The source, by its commit.
    Source,
    /// A person, who declared the source dead.
    Person,
}

impl Target {
    /// An engine for a connection that was just accepted: give it [`Input::LinkUp`], then what arrives.
    #[must_use]
    pub fn new(config: TargetConfig) -> Self {
        let TargetConfig { host, policy } = config;
        Self {
            host,
            policy,
            state: State::Opening,
            endpoint: Endpoint::new(Phase::Negotiating),
            migration: None,
            announced: None,
            moved_on_at: Instant::ORIGIN,
            version: VERSION_MAX,
            guest: None,
            receiver: None,
            is_built: false,
            rounds: 0,
            told: (0, Instant::ORIGIN),
            source_patience: PATIENCE_UNTOLD,
            digest: 0,
            stop: 0,
            filling: Filling::default(),
            spooled: Spooled::default(),
            to_restore: None,
            started_at: None,
            ended_at: None,
            restore_began_at: Instant::ORIGIN,
            alone_since: None,
            last_word: None,
        }
    }

    /// The guest, once its source has described it.
    #[must_use]
    pub const fn guest(&self) -> Option<&GuestDescription> {
        self.guest.as_ref()
    }

    /// The attempt's identity, once the source has named it. Connections that open with it are for this engine.
    #[must_use]
    pub const fn migration(&self) -> Option<MigrationId> {
        self.migration
    }

    /// Takes one input. Drain [`Target::poll_output`] afterwards. Before the guest is built and after it is
    /// discarded pass [`crate::NoRam`].
    pub fn handle_input(&mut self, now: Instant, input: Input<'_>, ram: &mut dyn GuestRam) {
        match input {
            Input::Bytes(Channel::MAIN, bytes) => self.receive(now, bytes, ram),
            Input::Bytes(Channel::SPOOL, bytes) => self.receive_spool(now, bytes, ram),
            Input::Bytes(_, bytes) => self.receive_urgent(now, bytes, ram),
            Input::Timeout => self.on_time(now),
            Input::Guest(event) => self.on_guest(now, event, ram),
            Input::Command(Command::Cancel) => self.cancel(now),
            Input::Command(Command::TakeOver) => self.take_over(now),
            Input::Command(Command::Release) => self.release_by_word(now),
            Input::Command(Command::Start | Command::Tune(_) | Command::Reclaim | Command::Retry) => {}
            Input::LinkUp(Channel::MAIN) => self.on_link_up(now),
            Input::LinkUp(Channel::SPOOL) => self.on_spool_up(now),
            Input::LinkUp(_) => self.on_urgent_up(now),
            Input::LinkDown(Channel::MAIN) => self.on_link_down(now),
            Input::LinkDown(Channel::SPOOL) => self.on_spool_down(),
            Input::LinkDown(_) => self.on_urgent_down(now),
        }
    }

    /// The next thing to do. `buffer` holds the bytes of [`Output::Transmit`]; with an empty one nothing is
    /// transmitted.
    ///
    /// # Panics
    /// If `buffer` is neither empty nor [`OUTPUT_BYTES_MIN`] long.
    pub fn poll_output(&mut self, now: Instant, buffer: &mut [u8], _ram: &mut dyn GuestRam) -> Output {
        assert!(
            buffer.is_empty() || buffer.len() >= OUTPUT_BYTES_MIN,
            "the contract asks for a longer buffer"
        );
        if let Some(output) = self.spooled.line.poll(now, &mut []) {
            return output;
        }
        loop {
            if let Some(output) = self.endpoint.poll(now, buffer) {
                return output;
            }
            if buffer.is_empty() {
                break;
            }
            match self.stream(buffer) {
                Some(0) => {}
                Some(len) => return self.endpoint.transmitted(now, len),
                None => break,
            }
        }
        match self.last_word.take() {
            Some(event) => Output::Event(event),
            None => Output::Timeout(self.deadline()),
        }
    }

    /// As [`crate::Source::poll_urgent`].
    pub fn poll_urgent(&mut self, now: Instant, buffer: &mut [u8], _ram: &mut dyn GuestRam) -> usize {
        self.fill_urgent(now, buffer)
    }

    /// Whether the attempt is over. An engine that has taken a guest over is finished when the source has let go
    /// of its copy; until then keep it, to answer the source. One that has not may be kept for the same purpose;
    /// if it is not, a source that has lost the commit's reply needs a person to decide.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        matches!(self.state, State::Disowned(_) | State::Released | State::Stranger)
    }

    /// As [`crate::Source::take_permit`]; always `None`, since a target that cannot run the guest gives the right
    /// to run it back.
    pub const fn take_permit(&mut self) -> Option<RunPermit> {
        None
    }

    /// Whether the guest runs here and may wait for a page at any moment.
    #[must_use]
    pub const fn is_after_switch(&self) -> bool {
        matches!(self.state, State::Filling)
    }

    /// As [`crate::Source::is_urgent`]: a guest is between two hosts.
    #[must_use]
    pub const fn is_urgent(&self) -> bool {
        match self.state {
            State::Restoring | State::Prepared | State::Starting { .. } => true,
            State::Filling => self.filling.is_waiting(),
            _ => false,
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn status(&self, now: Instant) -> Status {
        let (bytes_sent, bytes_received) = self.endpoint.bytes();
        Status {
            phase: self.endpoint.phase(),
            round: self.rounds,
            pages_total: self.guest.as_ref().map_or(0, |guest| guest.layout.page_count()),
            pages_left: self.receiver.as_ref().map_or(0, |receiver| receiver.absent_pages().len()),
            pages: self.receiver.as_ref().map(Receiver::counts).unwrap_or_default(),
            bytes_sent,
            bytes_received,
            dirty_pages_per_second: 0,
            bytes_per_second: 0,
            throttle_percent: 0,
            downtime_estimate: None,
            remaining_estimate: None,
            elapsed: self.elapsed(now),
            downtime: Downtime::default(),
            stops: Stops::default(),
            judgement: None,
            post_copy: self.post_copy(now),
        }
    }

    fn report(&self, now: Instant) -> Report {
        let (bytes_sent, bytes_received) = self.endpoint.bytes();
        Report {
            total: self.elapsed(now),
            downtime: Downtime::default(),
            stops: Stops::default(),
            post_copy: self.post_copy(now),
            rounds: self.rounds,
            pages: self.receiver.as_ref().map(Receiver::counts).unwrap_or_default(),
            pages_in_downtime: 0,
            bytes_sent,
            bytes_received,
            throttle_percent_peak: 0,
            digest: self.digest,
        }
    }

    fn elapsed(&self, now: Instant) -> Duration {
        self.started_at.map_or(Duration::ZERO, |started| self.ended_at.unwrap_or(now).since(started))
    }

    fn on_link_up(&mut self, now: Instant) {
        self.started_at = self.started_at.or(Some(now));
        let keepalive = keepalive(self.policy.peer_timeout, self.source_patience);
        self.endpoint.link_up(Link::new(Assembler::for_target(), now, keepalive));
        // The source makes another.
        self.endpoint.urgent.hang_up();
        self.told = (0, now);
        self.moved_on_at = now;
        self.filling.told = Told::default();
        self.alone_since = None;
        if let Some(receiver) = &mut self.receiver {
            receiver.link_is_new(Channel::MAIN);
        }
        self.yield_to_source();
        match self.state {
            // The old connection is replaced: what was under way on it will not come.
            State::Hello | State::Building | State::Receiving | State::Restoring => {
                self.abort(now, AbortReason::LinkLost);
            }
            State::Prepared => self.hold(now),
            _ => {}
        }
    }

    fn on_opening(&mut self, now: Instant, greeting: &Greeting) -> Result<(), AbortReason> {
        match (greeting.opening, &self.state) {
            (Opening::Begin { migration, guest }, State::Opening) => {
                self.migration = Some(migration);
                self.announced = Some(guest);
                let (low, high) = (greeting.version_min, greeting.version_max);
                if high < VERSION_MIN || low > VERSION_MAX {
                    let refusal =
                        Refusal::Version { source: (low, high), target: (VERSION_MIN, VERSION_MAX) };
                    self.refuse(now, [refusal].into());
                    return Ok(());
                }
                self.version = high.min(VERSION_MAX);
                self.state = State::Hello;
                Ok(())
            }
            (Opening::Resolve { migration, .. }, _) => {
                self.answer(now, migration);
                Ok(())
            }
            _ => Err(AbortReason::Stream(StreamFault::Unexpected)),
        }
    }

    fn on_hello(&mut self, now: Instant, hello: &Hello) -> Result<(), AbortReason> {
        let guest = hello.guest().map_err(AbortReason::Stream)?;
        // The session has made room for the guest of the opening.
        if self.announced != Some(guest.id) {
            return Err(AbortReason::Stream(StreamFault::Value));
        }
        self.source_patience = Duration::from_millis(hello.peer_timeout_ms.into());
        if let Some(link) = &mut self.endpoint.link {
            link.keepalive = keepalive(self.policy.peer_timeout, self.source_patience);
        }
        let refusals = admission::check(&guest, self.needs_of_heap(&guest), &self.host);
        self.guest = Some(guest.clone());
        if !refusals.is_empty() {
            self.refuse(now, refusals);
            return Ok(());
        }
        self.state = State::Building;
        self.endpoint.enter(Phase::Building);
        self.endpoint.act(GuestAction::Build(guest));
        Ok(())
    }

    fn refuse(&mut self, now: Instant, refusals: alloc::vec::Vec<Refusal>) {
        self.say_reply(&refusals);
        self.endpoint.close();
        self.unwind(now, AbortReason::Refused(refusals));
    }

    fn say_reply(&mut self, refusals: &[Refusal]) {
        let reply = Reply {
            version: self.version,
            refusals: refusals_to_wire(refusals),
            incarnation: self.host.incarnation,
            peer_timeout_ms: u32::try_from(self.policy.peer_timeout.as_millis()).unwrap_or(u32::MAX),
            post_copy: self.host.post_copy,
        };
        self.endpoint.say(Control::Reply(reply));
    }

    fn on_built(&mut self, now: Instant, ram: &dyn GuestRam) {
        self.is_built = true;
        let page_count = ram.page_count();
        let vcpus = match &self.guest {
            Some(guest) if guest.layout.page_count() == page_count => guest.vcpus,
            _ => return self.abort(now, AbortReason::Contract),
        };
        match Receiver::new(page_count, state_bytes_max(vcpus)) {
            Ok(receiver) => self.receiver = Some(receiver),
            Err(failure) => return self.abort(now, AbortReason::Ram(failure)),
        }
        self.state = State::Receiving;
        self.endpoint.enter(Phase::PreCopy);
        self.say_reply(&[]);
    }

    fn on_seal(&mut self, now: Instant, seal: &Seal, ram: &mut dyn GuestRam) -> Result<(), AbortReason> {
        let Some(receiver) = &mut self.receiver else { return Err(AbortReason::Contract) };
        // The source was told that nobody can wait here.
        if seal.absent > 0 && !self.host.post_copy {
            return Err(AbortReason::Stream(StreamFault::Value));
        }
        let (digest, state) = receiver.seal(seal.sections, seal.absent)?;
        if digest != seal.digest {
            return Err(AbortReason::DigestMismatch);
        }
        receiver.hide_absent(ram)?;
        self.digest = digest;
        self.stop = seal.stop;
        self.restore_began_at = now;
        self.state = State::Restoring;
        self.endpoint.enter(Phase::Verifying);
        self.to_restore = Some(state);
        self.restore();
        Ok(())
    }

    fn on_guest(&mut self, now: Instant, event: GuestEvent, ram: &mut dyn GuestRam) {
        let step = match &event {
            GuestEvent::Built => Step::Build,
            GuestEvent::StateRestored => Step::RestoreState,
            GuestEvent::Running | GuestEvent::RunFailed(..) => Step::Run,
            GuestEvent::Discarded => Step::Discard,
            GuestEvent::Settled => Step::Settle,
            GuestEvent::Forsaken => Step::Forsake,
            GuestEvent::Failed(step, _) => *step,
            GuestEvent::DirtyLogStarted
            | GuestEvent::DirtyLogHarvested
            | GuestEvent::DirtyLogStopped
            | GuestEvent::Throttled
            | GuestEvent::Paused(_)
            | GuestEvent::StateSaved(_) => return,
            GuestEvent::PageWanted(page) => return self.on_wanted(now, *page),
            GuestEvent::Ended => return self.on_ended(now),
        };
        if !self.endpoint.answered(step) {
            return;
        }
        match (event, &self.state) {
            (GuestEvent::Built, State::Building) => self.on_built(now, ram),
            (GuestEvent::Built, State::Aborting(_)) => {
                self.is_built = true;
                self.undo(now);
            }
            (GuestEvent::Failed(Step::Build, failure), State::Building) => self.on_build_failed(now, failure),
            (GuestEvent::StateRestored, State::Restoring) => self.on_restored(now),
            // Also of a stop that was called back meanwhile: what this host cannot restore it cannot take.
            (GuestEvent::Failed(Step::RestoreState, failure), State::Restoring | State::Receiving) => {
                self.abort(now, AbortReason::Guest(Step::RestoreState, failure));
            }
            (GuestEvent::Forsaken | GuestEvent::Failed(Step::Forsake, _), State::Forsaking) => {
                self.on_forsaken(now);
            }
            // It goes on in small pages.
            (GuestEvent::Failed(step @ Step::Settle, failure), _) => {
                self.endpoint.tell(Event::CleanupFailed(step, failure));
            }
            (GuestEvent::Running, State::Starting { began_at, .. }) => {
                let began_at = *began_at;
                self.on_running(now, began_at);
            }
            (GuestEvent::RunFailed(permit, failure), State::Starting { by, .. }) => {
                let by = *by;
                self.on_run_failed(now, permit, failure, by);
            }
            (GuestEvent::Discarded, State::Aborting(_)) => {
                self.is_built = false;
                self.undo(now);
            }
            (GuestEvent::Failed(step @ Step::Discard, failure), State::Aborting(_)) => {
                self.is_built = false;
                self.endpoint.tell(Event::CleanupFailed(step, failure));
                self.undo(now);
            }
            (_, State::Aborting(_)) => self.undo(now),
            _ => {}
        }
    }

    fn on_build_failed(&mut self, now: Instant, failure: GuestFailure) {
        let refusals = match failure {
            GuestFailure::Refused(refusals) => refusals,
            GuestFailure::OutOfMemory => {
                let needed_bytes = self.guest.as_ref().map_or(0, |guest| guest.layout.bytes());
                [Refusal::Memory { needed_bytes, free_bytes: self.host.room.ram_bytes }].into()
            }
            failure => [Refusal::Host(alloc::format!("{failure}"))].into(),
        };
        self.refuse(now, refusals);
    }

    fn on_time(&mut self, now: Instant) {
        self.endpoint.keep_alive(now);
        self.urgent_on_time(now);
        self.spool_on_time(now);
        let patience = self.policy.peer_timeout;
        if now >= self.endpoint.silent_at(patience) {
            match self.state {
                // The goodbye cannot be said.
                _ if self.endpoint.is_closing() => self.endpoint.hang_up(),
                State::Opening | State::Hello | State::Building | State::Receiving | State::Restoring => {
                    self.abort(now, AbortReason::PeerSilent(patience));
                }
                _ => {
                    self.endpoint.hang_up();
                    self.on_link_down(now);
                }
            }
        }
        if now >= self.must_move_on_by() {
            self.abort(now, AbortReason::PeerSilent(now.since(self.moved_on_at)));
        }
        if let State::Held(since) = self.state
            && now >= since.after(self.policy.hold)
        {
            self.abort(now, AbortReason::LinkLost);
        }
        if now >= self.outwaits_source_at() {
            self.released(now);
        }
    }

    /// When a source that only shows that it is alive, and holds a place and memory here, is given up.
    fn must_move_on_by(&self) -> Instant {
        match self.state {
            State::Opening | State::Hello => self.moved_on_at.after(self.policy.peer_timeout),
            State::Receiving | State::Prepared => self.moved_on_at.after(self.policy.hold),
            _ => Instant::NEVER,
        }
    }

    /// When [`Target::on_time`] has something to do.
    fn deadline(&self) -> Instant {
        let own = match self.state {
            State::Held(since) => since.after(self.policy.hold),
            _ => self.outwaits_source_at(),
        };
        let silent_at = self.endpoint.silent_at(self.policy.peer_timeout);
        let urgent = self.endpoint.urgent.deadline(self.policy.peer_timeout);
        own.min(self.must_move_on_by())
            .min(silent_at)
            .min(self.endpoint.ping_at())
            .min(urgent)
            .min(self.spool_due_at())
    }
}

/// The permit that the commit makes: the only place where one of a later generation comes from.
fn permit_after_commit(guest: &GuestDescription) -> RunPermit {
    RunPermit::after_commit(guest.id, guest.generation.next())
}
