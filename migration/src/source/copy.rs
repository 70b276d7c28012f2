//! The end of a clone. Everything is as in a move until the seal has been said: then all that the copy consists of has been
//! handed to the network, the guest goes on here, and what follows is about the copy alone.
//!
//! The guest's permit never leaves this host: the target makes one of its own, for another guest. So nothing that becomes of
//! the copy can touch the guest, and the commit may be unknown for as long as it likes. It is said only once the guest is
//! known to run here, so that a guest that cannot be run again is the matter of an attempt that can still be undone.

use super::Source;
use super::state::{Awaited, Stake, State};
use crate::io::{GuestAction, GuestEvent, Step};
use crate::policy::Purpose;
use crate::reason::AbortReason;
use crate::time::Instant;
use crate::wire::control::Control;

impl Source {
    /// Whether a copy is made, and the guest itself stays.
    pub(super) const fn is_clone(&self) -> bool {
        matches!(self.purpose, Purpose::Clone(_))
    }

    /// Whether the copy has parted from the guest, which runs here again or is about to.
    pub(super) const fn is_copied(&self) -> bool {
        matches!(
            self.state,
            State::Copied(_)
                | State::Committing(Stake::Copy)
                | State::Unknown(_, Stake::Copy)
                | State::Settling
        )
    }

    /// The seal is said. If this is a clone nothing is read from the guest any more: it goes on.
    pub(super) fn part_from_copy(&mut self) {
        if !self.is_clone() {
            return;
        }
        match core::mem::replace(&mut self.state, State::Finished) {
            State::Stopped(_, permit) => {
                self.state = State::Copied(Awaited::Both);
                self.endpoint.act(GuestAction::Run(permit));
            }
            state => self.state = state,
        }
    }

    /// The target holds the whole copy.
    pub(super) fn on_copy_verified(&mut self, now: Instant) {
        match self.state {
            State::Copied(Awaited::Both) => self.state = State::Copied(Awaited::Running),
            State::Copied(Awaited::Verified) => self.commit(now),
            _ => {}
        }
    }

    /// A step at the guest that runs here again, or is about to, is done or has failed.
    pub(super) fn on_original(&mut self, now: Instant, event: GuestEvent) {
        match event {
            GuestEvent::Running => self.on_original_runs(now),
            GuestEvent::RunFailed(permit, failure) => {
                // Undoing the attempt tries again; the target has not been told to run the copy.
                self.held = Some(permit);
                return self.abort(now, AbortReason::Guest(Step::Run, failure));
            }
            GuestEvent::Failed(step, failure) => self.on_untidied(step, failure),
            _ => {}
        }
        self.settle(now);
    }

    /// The downtime is over.
    fn on_original_runs(&mut self, now: Instant) {
        self.marks.ended = Some(now);
        match self.state {
            State::Copied(Awaited::Both) => self.state = State::Copied(Awaited::Verified),
            State::Copied(Awaited::Running) => self.commit(now),
            _ => {}
        }
    }

    /// Takes the throttle off and stops the log, one step at a time; then, if the copy runs, nothing is left to do.
    fn settle(&mut self, now: Instant) {
        if self.endpoint.outstanding().is_some() || self.tidy() {
            return;
        }
        if matches!(self.state, State::Settling) {
            self.complete(now);
        }
    }

    /// The copy runs at the target and needs nothing from here.
    pub(super) fn let_go_of_copy(&mut self, now: Instant) {
        self.endpoint.say(Control::Release);
        self.endpoint.close();
        self.state = State::Settling;
        self.settle(now);
    }

    /// The attempt ends without knowing what becomes of the copy. The target runs it or drops it by itself.
    pub(super) fn give_up_copy(&mut self, now: Instant, reason: AbortReason) {
        self.endpoint.hang_up();
        self.unwind_with(now, reason);
    }
}
