//! The source's engine: one attempt to move one guest away from this host.
//!
//! [`state`] says where it stands, [`sender`] which pages go and how ([`batch`] builds the frames),
//! [`convergence`] decides after each round, [`rate`] measures. The life of an attempt is in [`precopy`], its
//! end in [`handover`] and [`unwind`].

pub(crate) mod batch;
mod ceiling;
mod convergence;
mod copy;
mod estimate;
mod handover;
mod haste;
mod message;
mod packing;
mod precopy;
mod predict;
mod rate;
mod report;
mod rewritten;
mod round;
mod sender;
mod serving;
mod spooling;
mod state;
mod under_way;
mod unwind;
pub(crate) mod window;

use core::cmp::Ordering;
use core::time::Duration;

use crate::endpoint::{Endpoint, Link, PATIENCE_UNTOLD, keepalive};
use crate::guest::GuestDescription;
use crate::io::{Channel, Command, Event, GuestEvent, Input, OUTPUT_BYTES_MIN, Output, Step};
use crate::permit::{Generation, GuestId, MigrationId, RunPermit};
use crate::policy::{Policy, Purpose};
use crate::ram::GuestRam;
use crate::reason::{AbortReason, GuestFailure, StreamFault};
use crate::status::{Judgement, Phase};
use crate::time::Instant;
use crate::wire::assemble::{Assembler, Unit};
use crate::wire::control::Fate;
use crate::wire::frame::Kind;
use ceiling::Ceiling;
use convergence::Convergence;
use message::{Message, message};
use rate::{BandwidthMeter, DirtyMeter, TokenBucket};
use round::Round;
use sender::Sender;
use serving::Serving;
pub use spooling::SpoolOrder;
use spooling::Spooling;
use state::{Asking, Awaited, Marks, State};

/// What a source engine is made from.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// Chosen at random, never used before.
    pub migration: MigrationId,
    /// The guest.
    pub guest: GuestDescription,
    /// Limits and choices.
    pub policy: Policy,
    /// What for.
    pub purpose: Purpose,
}

/// One attempt to move one guest away from this host.
#[derive(Debug)]
pub struct Source {
    migration: MigrationId,
    /// The guest as it will be at the target.
    guest: GuestDescription,
    /// Whose permit is taken when the guest is paused.
    paused_as: (GuestId, Generation),
    policy: Policy,
    purpose: Purpose,
    state: State,
    endpoint: Endpoint,
    sender: Option<Sender>,
    convergence: Convergence,
    /// What it said behind the last round.
    judgement: Option<Judgement>,
    bucket: TokenBucket,
    bandwidth: BandwidthMeter,
    dirty: DirtyMeter,
    round: Round,
    marks: Marks,
    ceiling: Ceiling,
    serving: Serving,
    spooling: Option<alloc::boxed::Box<Spooling>>,
    /// What has been done to the guest and must be undone.
    log_is_on: bool,
    throttle: u8,
    throttle_wanted: u8,
    throttle_peak: u8,
    /// How long to wait before asking a lost target again.
    ask_again: Duration,
    /// How long the target waits for a sign of life from here.
    target_patience: Duration,
    pages_in_downtime: u32,
    digest: u64,
    started_at: Option<Instant>,
    ended_at: Option<Instant>,
    last_word: state::LastWord,
    held: Option<RunPermit>,
}

impl Source {
    /// An engine that waits for [`Command::Start`].
    #[must_use]
    pub fn new(config: SourceConfig) -> Self {
        let SourceConfig { migration, guest, policy, purpose } = config;
        let (policy, paused_as) = (purpose.bound(policy), (guest.id, guest.generation));
        let guest = match &purpose {
            Purpose::Clone(copy) => guest.copied_as(copy),
            Purpose::Move | Purpose::Estimate => guest,
        };
        Self {
            migration,
            guest,
            paused_as,
            policy,
            purpose,
            state: State::Idle,
            endpoint: Endpoint::new(Phase::Idle),
            sender: None,
            convergence: Convergence::default(),
            judgement: None,
            bucket: TokenBucket::new(policy.bandwidth_bytes_per_second),
            bandwidth: BandwidthMeter::default(),
            dirty: DirtyMeter::default(),
            round: Round::default(),
            marks: Marks::default(),
            ceiling: Ceiling::default(),
            serving: Serving::default(),
            spooling: None,
            log_is_on: false,
            throttle: 0,
            throttle_wanted: 0,
            throttle_peak: 0,
            ask_again: handover::ASK_AGAIN_MIN,
            target_patience: PATIENCE_UNTOLD,
            pages_in_downtime: 0,
            digest: 0,
            started_at: None,
            ended_at: None,
            last_word: None,
            held: None,
        }
    }

    /// The guest as it will be at the target: that which moves, or its copy.
    #[must_use]
    pub const fn guest(&self) -> &GuestDescription {
        &self.guest
    }

    /// This attempt's identity.
    #[must_use]
    pub const fn migration(&self) -> MigrationId {
        self.migration
    }

    /// Whether the guest's state is yet to be saved, or is on its way.
    pub(crate) const fn may_be_saved(&self) -> bool {
        self.is_before_commit()
    }

    /// Bytes of the heap that tables over so many pages take at most, and those that they have.
    pub(crate) fn tables(&self, pages: u32) -> (u64, u64) {
        let serving = Serving::bytes_for(pages);
        let spooling = self.spooling.as_ref().map_or((0, 0), |it| (Spooling::bytes_for(pages), it.bytes()));
        let sender = self.sender.as_ref().map_or(0, Sender::bytes);
        (Sender::bytes_for(pages) + serving + spooling.0, sender + spooling.1)
    }

    /// Takes one input. Drain [`Source::poll_output`] afterwards.
    pub fn handle_input(&mut self, now: Instant, input: Input<'_>, ram: &mut dyn GuestRam) {
        match input {
            Input::Bytes(Channel::MAIN, bytes) => self.receive(now, bytes, ram),
            Input::Bytes(Channel::SPOOL, bytes) => self.receive_spool(now, bytes),
            Input::Bytes(_, bytes) => self.receive_urgent(now, bytes),
            Input::Timeout => self.on_time(now),
            Input::Guest(event) => self.on_guest(now, event, ram),
            Input::Command(command) => self.on_command(now, command),
            Input::LinkUp(Channel::MAIN) => self.on_link_up(now),
            Input::LinkUp(Channel::SPOOL) => self.on_spool_up(now),
            Input::LinkUp(_) => self.on_urgent_up(now),
            Input::LinkDown(Channel::MAIN) => self.on_link_down(now),
            Input::LinkDown(Channel::SPOOL) => self.on_spool_down(now),
            Input::LinkDown(_) => self.on_urgent_down(now),
        }
    }

    /// The next thing to do. `buffer` holds the bytes of [`Output::Transmit`]; with an empty one nothing is
    /// transmitted.
    ///
    /// # Panics
    /// If `buffer` is neither empty nor [`OUTPUT_BYTES_MIN`] long.
    pub fn poll_output(&mut self, now: Instant, buffer: &mut [u8], ram: &mut dyn GuestRam) -> Output {
        assert!(
            buffer.is_empty() || buffer.len() >= OUTPUT_BYTES_MIN,
            "the contract asks for a longer buffer"
        );
        loop {
            let line = self.spooling.as_mut().and_then(|spooling| spooling.poll_line(now));
            if let Some(output) = line.or_else(|| self.endpoint.poll(now, buffer)) {
                return output;
            }
            if buffer.is_empty() {
                let last_word = self.last_word.take().map(Output::Event);
                return last_word.unwrap_or_else(|| Output::Timeout(self.deadline(now)));
            }
            match self.stream(now, buffer, ram) {
                Streamed::Transmit(len) => return self.endpoint.transmitted(now, len),
                Streamed::Changed => {}
                Streamed::Wait(at) => {
                    if let Some(event) = self.last_word.take() {
                        return Output::Event(event);
                    }
                    return Output::Timeout(at.min(self.deadline(now)));
                }
            }
        }
    }

    /// Puts what is to be sent on [`crate::Channel::URGENT`] now into `buffer`, at least [`OUTPUT_BYTES_MIN`] long, and
    /// says how much that is; 0 if there is nothing. Call it after [`Self::poll_output`] has come to an end, whenever that
    /// channel takes bytes.
    pub fn poll_urgent(&mut self, now: Instant, buffer: &mut [u8], ram: &mut dyn GuestRam) -> usize {
        self.fill_urgent(now, buffer, ram)
    }

    /// Whether the attempt is over and the engine can be dropped.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        matches!(self.state, State::Finished)
    }

    /// The permit of a guest that stands still at this host although the attempt is over ([`Event::Held`]).
    pub fn take_permit(&mut self) -> Option<RunPermit> {
        self.held.take()
    }

    fn on_command(&mut self, now: Instant, command: Command) {
        match command {
            Command::Start => self.start(now),
            Command::Tune(policy) => {
                self.policy = self.purpose.bound(policy);
                self.bucket.set(policy.bandwidth_bytes_per_second, now);
                self.reconsider_round(now);
            }
            Command::Cancel if !self.heeds(command) => self.endpoint.tell(Event::CancelTooLate),
            Command::Cancel => match self.state {
                State::Committing(_) | State::Unknown(..) => self.give_up_copy(now, AbortReason::CopyMayRun),
                _ => self.abort(now, AbortReason::Cancelled),
            },
            _ if !self.heeds(command) => {}
            Command::Reclaim if self.is_serving() => self.resurrect(now),
            Command::Release if self.is_serving() => {
                self.endpoint.hang_up();
                self.let_go();
            }
            Command::Reclaim => self.reclaim_by_word(now),
            Command::Release => self.release(now),
            Command::Retry => self.retry(now),
            Command::TakeOver => {}
        }
    }

    fn start(&mut self, now: Instant) {
        if !matches!(self.state, State::Idle) {
            return;
        }
        self.started_at = Some(now);
        self.state = State::Connecting { until: now.after(self.policy.peer_timeout) };
        self.endpoint.enter(Phase::Connecting);
        self.endpoint.connect();
    }

    fn on_link_up(&mut self, now: Instant) {
        let keepalive = keepalive(self.policy.peer_timeout, self.target_patience);
        match self.state {
            State::Connecting { .. } => {
                self.endpoint.link_up(Link::new(Assembler::for_source(), now, keepalive));
                self.greet(now);
            }
            State::Unknown(Asking::Connecting(_) | Asking::Waiting(_), _)
            | State::Serving(Some(Asking::Connecting(_) | Asking::Waiting(_))) => {
                self.endpoint.link_up(Link::new(Assembler::for_source(), now, keepalive));
                self.ask();
            }
            // Nobody asked for it.
            _ => {}
        }
    }

    fn receive(&mut self, now: Instant, bytes: &[u8], ram: &mut dyn GuestRam) {
        let Some(link) = &mut self.endpoint.link else { return };
        link.heard_at = now;
        link.received += bytes.len() as u64;
        let mut rest = bytes;
        loop {
            // What follows a goodbye is not read.
            if self.endpoint.is_closing() {
                return;
            }
            let Some(link) = &mut self.endpoint.link else { return };
            let message = match link.assembler.next(&mut rest) {
                Ok(None) => return,
                Ok(Some(Unit::Control(Kind::Absent, body))) => {
                    match self.serving.on_absent(&self.state, body, self.guest.layout.page_count()) {
                        Ok(()) => continue,
                        Err(reason) => Err(reason),
                    }
                }
                Ok(Some(unit)) => message(unit).map_err(AbortReason::Stream),
                Err(reason) => Err(reason),
            };
            match message.and_then(|message| self.on_message(now, message, ram)) {
                Ok(()) => {}
                Err(reason) => return self.on_bad_stream(now, reason),
            }
        }
    }

    fn on_message(
        &mut self,
        now: Instant,
        message: Message,
        ram: &mut dyn GuestRam,
    ) -> Result<(), AbortReason> {
        let unexpected = Err(AbortReason::Stream(StreamFault::Unexpected));
        match (message, &self.state) {
            (Message::Ping, _) => Ok(()),
            (Message::Abort(body), _) => {
                self.on_peer_abort(now, &body);
                Ok(())
            }
            (Message::Reply(reply), State::Negotiating) => self.on_reply(now, &reply, ram),
            (Message::Progress(progress), _) => {
                self.on_progress(now, &progress);
                Ok(())
            }
            (
                Message::Verified(verified),
                State::Stopped(state::Stopped::Verifying, _)
                | State::Copied(Awaited::Both | Awaited::Verified),
            ) => {
                match verified.stop.cmp(&self.ceiling.stops.recalls()) {
                    // Of a stop that was called back.
                    Ordering::Less => return Ok(()),
                    Ordering::Greater => return Err(AbortReason::Stream(StreamFault::Value)),
                    Ordering::Equal => {}
                }
                self.marks.restore = Duration::from_nanos(verified.restore_ns);
                self.on_verified(now);
                Ok(())
            }
            (Message::Verified(verified), _) if self.is_of_a_recalled_stop(&verified) => Ok(()),
            (Message::Committed(committed), State::Committing(_) | State::Unknown(Asking::Asked, _)) => {
                if committed.generation != self.guest.generation.next().0 {
                    return Err(AbortReason::Stream(StreamFault::Value));
                }
                self.marks.start = Duration::from_nanos(committed.run_ns);
                if self.serving.absent > 0 {
                    self.serve(now)
                } else {
                    self.release(now)
                }
                Ok(())
            }
            (Message::Returned(body), State::Committing(_) | State::Unknown(Asking::Asked, _)) => {
                self.reclaim(now, body.reason());
                Ok(())
            }
            (Message::Want(want), _) => self.on_want(&want),
            (Message::Complete(complete), _) => self.on_complete(&complete),
            (Message::Outcome(outcome), State::Serving(Some(Asking::Asked)))
                if !matches!(outcome.fate, Fate::Owned | Fate::Unknown) =>
            {
                unexpected
            }
            (
                Message::Outcome(outcome),
                State::Unknown(Asking::Asked, _) | State::Serving(Some(Asking::Asked)),
            ) => {
                self.on_outcome(now, &outcome);
                Ok(())
            }
            _ => unexpected,
        }
    }

    /// What came is not the protocol: before the commit that ends the attempt, after it the connection.
    fn on_bad_stream(&mut self, now: Instant, reason: AbortReason) {
        match self.state {
            State::Committing(_)
            | State::Unknown(..)
            | State::Serving(_)
            | State::Releasing
            | State::Settling
            | State::Finished
            | State::Aborting(..) => {
                self.endpoint.hang_up();
                self.on_link_down(now);
            }
            _ => self.abort(now, reason),
        }
    }

    fn on_time(&mut self, now: Instant) {
        self.endpoint.keep_alive(now);
        self.urgent_on_time(now);
        self.spool_on_time(now);
        match self.state {
            State::Connecting { until } if now >= until => self.abort(now, AbortReason::LinkLost),
            State::Unknown(Asking::Waiting(until), _) | State::Serving(Some(Asking::Waiting(until)))
                if now >= until =>
            {
                self.reconnect(now);
            }
            State::Unknown(Asking::Connecting(until), _)
            | State::Serving(Some(Asking::Connecting(until)))
                if now >= until =>
            {
                self.endpoint.hang_up();
                self.on_link_down(now);
            }
            State::Sending => self.harvest_meanwhile(now),
            State::Probing(_) => self.probe_on_time(now),
            State::Resting if now >= self.ceiling.rest_until() => {
                self.state = State::Harvesting;
                self.harvest(now);
            }
            State::Stopped(..) => self.mind_the_limit(now),
            _ => {}
        }
        let patience = self.policy.peer_timeout;
        if now >= self.endpoint.silent_at(patience) {
            match self.state {
                // The goodbye cannot be said.
                _ if self.endpoint.is_closing() => self.endpoint.hang_up(),
                State::Committing(_) | State::Unknown(..) | State::Serving(_) => {
                    self.endpoint.hang_up();
                    self.on_link_down(now);
                }
                _ => self.abort(now, AbortReason::PeerSilent(patience)),
            }
        }
    }

    /// When [`Source::on_time`] has something to do.
    fn deadline(&self, now: Instant) -> Instant {
        let own = match self.state {
            State::Connecting { until }
            | State::Unknown(Asking::Waiting(until) | Asking::Connecting(until), _)
            | State::Serving(Some(Asking::Waiting(until) | Asking::Connecting(until))) => until,
            State::Sending => self.harvest_due_at(),
            State::Probing(_) => self.probe_due_at(),
            State::Resting => self.ceiling.rest_until(),
            State::Stopped(..) => self.recall_at().min(self.switch_at()),
            _ => Instant::NEVER,
        };
        let silent_at = self.endpoint.silent_at(self.policy.peer_timeout);
        let urgent = self.endpoint.urgent.deadline(self.policy.peer_timeout);
        own.min(silent_at).min(self.endpoint.ping_at()).min(urgent).min(self.spool_due_at(now))
    }

    fn on_guest(&mut self, now: Instant, event: GuestEvent, ram: &mut dyn GuestRam) {
        let step = match &event {
            GuestEvent::Ended => {
                self.on_guest_ended(now);
                return;
            }
            GuestEvent::Built => Step::Build,
            GuestEvent::DirtyLogStarted => Step::StartDirtyLog,
            GuestEvent::DirtyLogHarvested => Step::HarvestDirtyLog,
            GuestEvent::DirtyLogStopped => Step::StopDirtyLog,
            GuestEvent::Throttled => Step::Throttle,
            GuestEvent::Paused(_) => Step::Pause,
            GuestEvent::StateSaved(_) => Step::SaveState,
            GuestEvent::StateRestored => Step::RestoreState,
            GuestEvent::Running | GuestEvent::RunFailed(..) => Step::Run,
            GuestEvent::Discarded => Step::Discard,
            GuestEvent::Settled => Step::Settle,
            GuestEvent::Forsaken => Step::Forsake,
            // Nothing of a source's is absent.
            GuestEvent::PageWanted(_) => return,
            GuestEvent::Failed(step, _) => *step,
        };
        if !self.endpoint.answered(step) {
            // An answer that nobody asked for. A permit must not get lost with it.
            if let GuestEvent::Paused(permit) | GuestEvent::RunFailed(permit, _) = event {
                self.held = Some(permit);
            }
            if self.is_before_commit() {
                self.abort(now, AbortReason::Contract);
            }
            return;
        }
        match event {
            GuestEvent::DirtyLogStarted => self.log_is_on = true,
            GuestEvent::DirtyLogStopped => self.log_is_on = false,
            GuestEvent::Throttled => self.throttle = self.throttle_wanted,
            _ => {}
        }
        match (event, &self.state) {
            (event, State::Aborting(..)) => self.on_undone(now, event),
            (event, _) if self.is_copied() => self.on_original(now, event),
            (GuestEvent::Discarded, State::Releasing) => self.complete(now),
            (GuestEvent::Failed(step, failure), State::Releasing) => {
                self.endpoint.tell(Event::CleanupFailed(step, failure));
                self.complete(now);
            }
            (GuestEvent::Failed(step, failure), _) => self.abort(now, AbortReason::Guest(step, failure)),
            (GuestEvent::Paused(permit), State::Pausing) => self.on_paused(now, permit),
            (GuestEvent::StateSaved(state), State::Stopped(..)) => self.on_saved(now, state),
            (GuestEvent::Running, State::Resuming(_)) => self.on_resumed(now),
            (GuestEvent::RunFailed(permit, failure), State::Resuming(_)) => {
                self.on_resume_failed(now, permit, failure);
            }
            (GuestEvent::DirtyLogHarvested, _) => self.on_harvested(now, ram),
            (GuestEvent::StateSaved(_), State::Resuming(_)) => self.resume(),
            (GuestEvent::DirtyLogStarted, State::StartingLog) => self.begin_first_round(now),
            (GuestEvent::Throttled, State::Throttling) => self.begin_round(now),
            // The step was asked for in another state: nothing is asked for without waiting for it.
            (GuestEvent::Paused(permit) | GuestEvent::RunFailed(permit, _), _) => self.held = Some(permit),
            _ => {}
        }
    }

    fn on_guest_ended(&mut self, now: Instant) {
        if self.is_before_commit() && self.marks.paused.is_none() {
            self.abort(now, AbortReason::GuestEnded);
        }
    }

    const fn is_before_commit(&self) -> bool {
        !matches!(
            self.state,
            State::Committing(_)
                | State::Unknown(..)
                | State::Serving(_)
                | State::Releasing
                | State::Settling
                | State::Finished
                | State::Aborting(..)
        )
    }

    /// Whether the guest's failure to do a step means that it is not there.
    fn is_gone(failure: &GuestFailure) -> bool {
        matches!(failure, GuestFailure::Gone)
    }
}

/// What a call of `stream` came to.
enum Streamed {
    /// So many bytes are in the buffer.
    Transmit(usize),
    /// The state has changed: look at the queues again.
    Changed,
    /// Nothing to send until then.
    Wait(Instant),
}
