//! From "the target holds everything" to "the target runs it": the commit, and what is done when its reply is
//! lost. `docs/migration-protocol.md` has the whole story.

use alloc::boxed::Box;

use core::time::Duration;

use super::Source;
use super::state::{Asking, Stake, State};
use crate::io::{Command, Event};
use crate::permit::RunPermit;
use crate::reason::{AbortReason, StreamFault};
use crate::status::{Phase, Stage};
use crate::time::Instant;
use crate::wire::control::{Commit, Control, Fate, Outcome, Verified};
use crate::wire::opening::{Greeting, Opening};
use crate::wire::reasons::AbortBody;
use crate::wire::{VERSION_MAX, VERSION_MIN};

/// First and longest wait before a lost target is asked again.
pub(super) const ASK_AGAIN_MIN: Duration = Duration::from_millis(100);
pub(super) const ASK_AGAIN_MAX: Duration = Duration::from_secs(5);

impl Source {
    /// The target holds everything: it may have the guest, if what is left of the limit is enough for the way there
    /// and back.
    pub(super) fn on_verified(&mut self, now: Instant) {
        if let Some(sealed) = self.marks.sealed {
            self.bandwidth.saw_answer(now.since(sealed).saturating_sub(self.marks.restore));
        }
        if self.is_clone() {
            return self.on_copy_verified(now);
        }
        if now.after(self.bandwidth.round_trip_at_most()) <= self.ends_at() {
            return self.commit(now);
        }
        match core::mem::replace(&mut self.state, State::Finished) {
            State::Stopped(_, permit) => self.recall(Stage::Commit, permit),
            state => self.state = state,
        }
    }

    /// Whether it answers a seal that has been called back since. It may have been under way for long.
    pub(super) fn is_of_a_recalled_stop(&self, verified: &Verified) -> bool {
        let recalls = self.ceiling.stops.recalls();
        verified.stop < recalls || verified.stop == recalls && matches!(self.state, State::Resuming(_))
    }

    /// The target holds everything: it is told to run the guest, and from here on the guest runs here only if
    /// the target says that it never will there.
    pub(super) fn commit(&mut self, now: Instant) {
        self.marks.verified = self.marks.verified.or(Some(now));
        let stake = match core::mem::replace(&mut self.state, State::Finished) {
            State::Stopped(_, permit) => Stake::Guest(permit),
            State::Copied(_) => Stake::Copy,
            State::Unknown(_, stake) => stake,
            state => {
                self.state = state;
                return;
            }
        };
        self.endpoint.say(Control::Commit(Commit { generation: self.guest.generation.next().0 }));
        self.state = State::Committing(stake);
        self.endpoint.enter(Phase::Committing);
    }

    /// The guest runs at the target.
    pub(super) fn release(&mut self, now: Instant) {
        match core::mem::replace(&mut self.state, State::Finished) {
            State::Committing(Stake::Guest(permit)) | State::Unknown(_, Stake::Guest(permit)) => {
                permit.revoke();
                self.marks.ended = Some(now);
                self.let_go();
            }
            State::Committing(Stake::Copy) | State::Unknown(_, Stake::Copy) => self.let_go_of_copy(now),
            state => self.state = state,
        }
    }

    /// Our copy is gone.
    pub(super) fn complete(&mut self, now: Instant) {
        self.ended_at = Some(now);
        self.state = State::Finished;
        self.sender = self.sender.take().map(super::sender::Sender::into_summary);
        self.endpoint.enter(Phase::Completed);
        self.last_word = Some(Event::Completed(Box::new(self.report(now))));
    }

    /// The target will never run the guest, or a person says so.
    pub(super) fn reclaim(&mut self, now: Instant, reason: AbortReason) {
        self.endpoint.hang_up();
        self.unwind_with(now, reason);
    }

    /// A person says that the target does not run the guest and never will. It may have run it before it died: the guest
    /// goes on above the generation in which it did, so that what it owns is never open to two.
    pub(super) fn reclaim_by_word(&mut self, now: Instant) {
        if let State::Unknown(_, Stake::Guest(permit)) = &mut self.state {
            let above = RunPermit::after_loss(self.guest.id, self.guest.generation.next().next());
            core::mem::replace(permit, above).revoke();
            self.reclaim(now, AbortReason::LinkLost);
        }
    }

    /// The connection is lost.
    pub(super) fn on_link_down(&mut self, now: Instant) {
        self.endpoint.forget_link();
        // Without a migration to speak of nothing is urgent.
        self.endpoint.urgent.hang_up();
        match core::mem::replace(&mut self.state, State::Finished) {
            State::Committing(stake) => {
                self.state = State::Unknown(Asking::Waiting(now), stake);
                self.endpoint.enter(Phase::CommitUnknown);
                self.endpoint.tell(Event::CommitUnknown);
            }
            State::Unknown(Asking::Connecting(_) | Asking::Asked, stake) => {
                self.state = State::Unknown(Asking::Waiting(now.after(self.ask_again)), stake);
                self.ask_again = (self.ask_again * 2).min(ASK_AGAIN_MAX);
            }
            state @ State::Serving(_) => {
                self.state = state;
                self.on_serving_interrupted(now);
            }
            state @ (State::Idle
            | State::Unknown(..)
            | State::Releasing
            | State::Settling
            | State::Aborting(..)
            | State::Finished) => self.state = state,
            state => {
                self.state = state;
                self.abort(now, AbortReason::LinkLost);
            }
        }
    }

    /// Whether `command` would do something now; in every other phase it is ignored.
    #[must_use]
    pub const fn heeds(&self, command: Command) -> bool {
        match command {
            Command::Start => matches!(self.state, State::Idle),
            Command::Tune(_) => !matches!(self.state, State::Finished),
            Command::Cancel => !matches!(
                self.state,
                State::Committing(Stake::Guest(_))
                    | State::Unknown(_, Stake::Guest(_))
                    | State::Serving(_)
                    | State::Releasing
                    | State::Settling
                    | State::Finished
            ),
            Command::Reclaim | Command::Release => {
                matches!(self.state, State::Serving(Some(_)) | State::Unknown(_, Stake::Guest(_)))
            }
            Command::Retry => matches!(self.state, State::Unknown(..) | State::Serving(_)),
            Command::TakeOver => false,
        }
    }

    /// A person wants a lost target to be asked now, also one that has answered that it does not know: it may be another
    /// host than before, or may not have been the right one. So nothing that is under way is waited for.
    pub(super) fn retry(&mut self, now: Instant) {
        if matches!(self.state, State::Unknown(..) | State::Serving(_)) {
            self.endpoint.hang_up();
            self.on_link_down(now);
            self.ask_again = ASK_AGAIN_MIN;
            self.reconnect(now);
        }
    }

    pub(super) fn reconnect(&mut self, now: Instant) {
        let until = now.after(self.policy.peer_timeout);
        if let State::Unknown(asking, _) | State::Serving(Some(asking)) = &mut self.state {
            *asking = Asking::Connecting(until);
            self.endpoint.connect();
        }
    }

    /// Asks the target what became of the commit.
    pub(super) fn ask(&mut self) {
        if let State::Unknown(asking, _) | State::Serving(Some(asking)) = &mut self.state {
            *asking = Asking::Asked;
            let opening = Opening::Resolve { migration: self.migration, guest: self.guest.id };
            self.endpoint.greet(Greeting { opening, version_min: VERSION_MIN, version_max: VERSION_MAX });
        }
    }

    /// The target has answered.
    pub(super) fn on_outcome(&mut self, now: Instant, outcome: &Outcome) {
        match outcome.fate {
            Fate::Prepared => self.commit(now),
            Fate::Owned => self.on_owned(now),
            Fate::Starting => {}
            Fate::Unknown if self.is_copied() => self.give_up_copy(now, AbortReason::CopyUnknown),
            // Said to spools only.
            Fate::Served => self.on_bad_stream(now, AbortReason::Stream(StreamFault::Value)),
            Fate::Unknown => {
                self.endpoint.hang_up();
                let is_lost = self.is_serving();
                if let State::Unknown(asking, _) | State::Serving(Some(asking)) = &mut self.state {
                    *asking = Asking::Forgotten;
                }
                self.endpoint.tell(if is_lost { Event::TargetLost } else { Event::TargetForgot });
            }
        }
    }

    /// The target ends it. Whatever the state, it does not own the guest and never will by this migration.
    pub(super) fn on_peer_abort(&mut self, now: Instant, body: &AbortBody) {
        match self.state {
            State::Releasing | State::Settling | State::Finished | State::Aborting(..) => {
                self.endpoint.hang_up();
            }
            // It said that it runs the guest. What it says now cannot be.
            State::Serving(_) => {
                self.endpoint.hang_up();
                self.on_link_down(now);
            }
            _ => self.reclaim(now, body.reason()),
        }
    }
}
