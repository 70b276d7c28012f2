//! From "everything is here" to "it runs here", and back to "it never will".

use alloc::boxed::Box;

use super::{Decider, State, Target, TargetConfig, permit_after_commit};
use crate::guest::GuestDescription;
use crate::io::{Command, Event, GuestAction, Step};
use crate::permit::{MigrationId, RunPermit};
use crate::reason::{AbortReason, GuestFailure, StreamFault};
use crate::status::Phase;
use crate::time::Instant;
use crate::wire::control::{Commit, Committed, Control, Fate, Outcome, Verified};
use crate::wire::reasons::AbortBody;

impl Target {
    /// Restores what waits for it, unless an earlier state is still being restored: one step at a time.
    pub(super) fn restore(&mut self) {
        if self.endpoint.outstanding().is_none()
            && let Some(state) = self.to_restore.take()
        {
            self.endpoint.act(GuestAction::RestoreState(state));
        }
    }

    /// The source has called its stop back: the guest goes on there and pages come again. Nothing was promised
    /// before the commit. Sections that have come are dropped; devices that were restored are replaced by the next
    /// stop's.
    pub(super) fn on_recall(&mut self) {
        if let Some(receiver) = &mut self.receiver {
            receiver.forget_sections();
        }
        self.to_restore = None;
        self.endpoint.withdraw();
        self.state = State::Receiving;
        self.endpoint.enter(Phase::PreCopy);
    }

    pub(super) fn on_restored(&mut self, now: Instant) {
        if self.to_restore.is_some() {
            // It was the state of a stop that was called back.
            return self.restore();
        }
        self.state = State::Prepared;
        self.endpoint.enter(Phase::Committing);
        let restore_ns = u64::try_from(now.since(self.restore_began_at).as_nanos()).unwrap_or(u64::MAX);
        self.endpoint.say(Control::Verified(Verified { restore_ns, stop: self.stop }));
    }

    /// The source gives the guest up: from here on it is ours, if it can be run.
    pub(super) fn on_commit(&mut self, now: Instant, commit: &Commit) -> Result<(), AbortReason> {
        let Some(guest) = &self.guest else { return Err(AbortReason::Contract) };
        if commit.generation != guest.generation.next().0 {
            return Err(AbortReason::Stream(StreamFault::Value));
        }
        self.run(now, Decider::Source);
        Ok(())
    }

    /// An engine that only answers the source of `migration`: an earlier one has dropped what had come, for `reason`, and is
    /// gone. Without it that source would hear that nobody knows, and a person had to decide.
    #[must_use]
    pub fn for_dropped(config: TargetConfig, migration: MigrationId, reason: AbortReason) -> Self {
        Self { migration: Some(migration), state: State::Disowned(reason), ..Self::new(config) }
    }

    /// The migration whose guest does not run here and never will, and why.
    #[must_use]
    pub const fn dropped(&self) -> Option<(MigrationId, &AbortReason)> {
        match (&self.state, self.migration) {
            (State::Disowned(reason), Some(migration)) => Some((migration, reason)),
            _ => None,
        }
    }

    /// Whether `command` would do something now; in every other phase it is ignored.
    #[must_use]
    pub const fn heeds(&self, command: Command) -> bool {
        match command {
            Command::Cancel => !self.is_ours() && !matches!(self.state, State::Disowned(_) | State::Stranger),
            Command::TakeOver => match self.state {
                State::Held(_) => true,
                State::Filling => self.is_alone(),
                _ => false,
            },
            Command::Release => matches!(self.state, State::Owner) && self.endpoint.link.is_none(),
            Command::Start | Command::Tune(_) | Command::Reclaim | Command::Retry => false,
        }
    }

    /// A person declares the source dead.
    pub(super) fn take_over(&mut self, now: Instant) {
        match self.state {
            State::Held(_) => self.run(now, Decider::Person),
            _ => self.forsake(),
        }
    }

    fn run(&mut self, now: Instant, by: Decider) {
        let Some(guest) = &self.guest else { return };
        let permit = permit_after_commit(guest);
        self.state = State::Starting { began_at: now, by };
        self.endpoint.act(GuestAction::Run(permit));
    }

    pub(super) fn on_running(&mut self, now: Instant, began_at: Instant) {
        let run_ns = u64::try_from(now.since(began_at).as_nanos()).unwrap_or(u64::MAX);
        if !self.begin_filling(now) {
            self.state = State::Owner;
            self.ended_at = Some(now);
            self.alone_since = self.endpoint.link.is_none().then_some(now);
            self.endpoint.enter(Phase::Completed);
        }
        if let Some(guest) = &self.guest {
            self.endpoint.tell(Event::Arrived(guest.generation.next()));
        }
        self.say_committed(run_ns);
    }

    fn say_committed(&mut self, run_ns: u64) {
        if let Some(guest) = &self.guest {
            let generation = guest.generation.next().0;
            self.endpoint.say(Control::Committed(Committed { generation, run_ns }));
        }
    }

    /// It cannot be run here: the right to run it goes back to the source. If that is dead, this is the last copy:
    /// it is held.
    pub(super) fn on_run_failed(
        &mut self,
        now: Instant,
        permit: RunPermit,
        failure: GuestFailure,
        by: Decider,
    ) {
        permit.revoke();
        if by == Decider::Person {
            self.state = State::Held(now);
            self.endpoint.tell(Event::Held(failure));
            // A source that lives after all, and has asked meanwhile, was told to wait.
            return self.say_outcome(Fate::Prepared);
        }
        self.endpoint.say(Control::Returned(AbortBody::step_to_wire(Step::Run, &failure)));
        self.endpoint.close();
        self.unwind(now, AbortReason::Guest(Step::Run, failure));
    }

    /// Until when a copy that runs here waits for its source to ask what became of it. The source holds nothing for its sake,
    /// and may have given up asking.
    pub(super) fn outwaits_source_at(&self) -> Instant {
        let is_copy = self.guest.as_ref().is_some_and(GuestDescription::is_copy);
        match (&self.state, self.alone_since) {
            (State::Owner, Some(since)) if is_copy => since.after(self.policy.hold),
            _ => Instant::NEVER,
        }
    }

    /// The source has let go of its copy.
    pub(super) fn released(&mut self, now: Instant) {
        self.state = State::Released;
        self.endpoint.close();
        let report = Box::new(self.report(now));
        self.receiver = None;
        self.last_word = Some(Event::Completed(report));
    }

    /// A person says that the source is gone for good: nobody will ask any more what became of the guest that runs here.
    pub(super) fn release_by_word(&mut self, now: Instant) {
        if self.heeds(Command::Release) {
            self.released(now);
        }
    }

    /// The source asks what became of a migration.
    pub(super) fn answer(&mut self, now: Instant, migration: MigrationId) {
        if self.migration != Some(migration) {
            self.say_outcome(Fate::Unknown);
            self.endpoint.close();
            if matches!(self.state, State::Opening) {
                self.state = State::Stranger;
            }
            return;
        }
        match &self.state {
            State::Prepared | State::Held(_) => {
                self.hold(now);
                self.say_outcome(Fate::Prepared);
            }
            State::Starting { .. } => self.say_outcome(Fate::Starting),
            State::Filling | State::Owner if self.is_filled_later() => self.answer_with_lacks(),
            State::Filling | State::Forsaking | State::Owner | State::Released => self.say_owned(),
            State::Aborting(reason) | State::Disowned(reason) => {
                let body = AbortBody::to_wire(reason);
                self.endpoint.say(Control::Abort(body));
                self.endpoint.close();
            }
            // It cannot be asked about before it is complete.
            State::Opening
            | State::Hello
            | State::Building
            | State::Receiving
            | State::Restoring
            | State::Stranger => self.endpoint.hang_up(),
        }
    }

    pub(super) fn say_owned(&mut self) {
        self.say_outcome(Fate::Owned);
    }

    fn say_outcome(&mut self, fate: Fate) {
        self.endpoint.say(Control::Outcome(Outcome { fate, incarnation: self.host.incarnation }));
    }

    /// Complete, and the source is lost: it may come back and commit.
    pub(super) fn hold(&mut self, now: Instant) {
        if matches!(self.state, State::Prepared) {
            self.state = State::Held(now);
            self.endpoint.enter(Phase::CommitUnknown);
            self.endpoint.tell(Event::CommitUnknown);
        }
    }

    pub(super) fn on_link_down(&mut self, now: Instant) {
        self.endpoint.forget_link();
        // Nobody hears what is asked for there.
        self.endpoint.urgent.hang_up();
        match self.state {
            State::Opening | State::Hello | State::Building | State::Receiving | State::Restoring => {
                self.abort(now, AbortReason::LinkLost);
            }
            State::Prepared => self.hold(now),
            State::Filling => self.on_interrupted(),
            State::Owner => self.alone_since = Some(now),
            State::Held(_)
            | State::Forsaking
            | State::Starting { .. }
            | State::Aborting(_)
            | State::Disowned(_)
            | State::Released
            | State::Stranger => {}
        }
    }

    /// What came is not the protocol: as long as nothing is complete that ends the attempt, then only the
    /// connection.
    pub(super) fn on_bad_stream(&mut self, now: Instant, reason: AbortReason) {
        match self.state {
            State::Opening | State::Hello | State::Building | State::Receiving | State::Restoring => {
                self.abort(now, reason);
            }
            _ => {
                self.endpoint.hang_up();
                self.on_link_down(now);
            }
        }
    }

    pub(super) fn cancel(&mut self, now: Instant) {
        if self.is_ours() {
            self.endpoint.tell(Event::CancelTooLate);
        } else {
            self.abort(now, AbortReason::Cancelled);
        }
    }

    /// Whether the guest runs here, or is about to.
    const fn is_ours(&self) -> bool {
        matches!(
            self.state,
            State::Starting { .. } | State::Filling | State::Forsaking | State::Owner | State::Released
        )
    }

    /// Ends the attempt before the commit has come.
    pub(super) fn abort(&mut self, now: Instant, reason: AbortReason) {
        match self.state {
            State::Starting { .. }
            | State::Filling
            | State::Forsaking
            | State::Owner
            | State::Aborting(_)
            | State::Disowned(_)
            | State::Released
            | State::Stranger => return,
            _ => {}
        }
        self.endpoint.say(Control::Abort(AbortBody::to_wire(&reason)));
        self.endpoint.close();
        self.unwind(now, reason);
    }

    /// The source ends it: only while it has not committed, so the guest is the source's.
    pub(super) fn on_peer_abort(&mut self, now: Instant, body: &AbortBody) {
        match self.state {
            State::Starting { .. }
            | State::Filling
            | State::Forsaking
            | State::Owner
            | State::Aborting(_)
            | State::Disowned(_)
            | State::Released
            | State::Stranger => {
                self.endpoint.hang_up();
                self.on_link_down(now);
            }
            _ => {
                self.endpoint.hang_up();
                self.unwind(now, body.reason());
            }
        }
    }

    /// Undoes what was done here.
    pub(super) fn unwind(&mut self, now: Instant, reason: AbortReason) {
        self.endpoint.withdraw();
        self.to_restore = None;
        self.endpoint.enter(Phase::Aborting);
        self.state = State::Aborting(reason);
        self.undo(now);
    }

    pub(super) fn undo(&mut self, now: Instant) {
        if self.endpoint.outstanding().is_some() {
            return;
        }
        if self.is_built {
            self.endpoint.act(GuestAction::Discard);
            return;
        }
        if let State::Aborting(reason) = &self.state {
            let reason = reason.clone();
            self.ended_at = Some(now);
            self.endpoint.enter(Phase::Aborted);
            let report = Box::new(self.report(now));
            self.last_word = Some(Event::Aborted(reason.clone(), report));
            self.receiver = None;
            self.state = State::Disowned(reason);
        }
    }
}
