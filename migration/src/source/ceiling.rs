//! The downtime limit as a ceiling: a stop that overruns it is called back, the guest goes on here, and pre-copy with
//! it.
//!
//! It holds until the commit is said, and what comes after is budgeted for: from the moment at which only a round
//! trip is left of the limit, no commit is said any more. Counted from asking for the pause, the guest runs again at
//! the limit at the latest, plus the step of its life cycle that is under way then and the one that lets it run: steps
//! are answered, not broken off.

use core::time::Duration;

use super::Source;
use super::state::{Marks, State, Stopped};
use crate::io::{Event, GuestAction};
use crate::permit::RunPermit;
use crate::policy::{Impatience, Mode, Overrun};
use crate::reason::{AbortReason, GuestFailure};
use crate::status::{Phase, Recall, Stage, Stops};
use crate::time::Instant;
use crate::wire::control::Control;

/// Shortest and longest time that a guest runs between a stop that was called back and the next.
const REST_MIN: Duration = Duration::from_millis(250);
const REST_MAX: Duration = Duration::from_secs(30);

/// The stops so far, and what follows from them.
#[derive(Debug, Default)]
pub(super) struct Ceiling {
    /// Those that were called back.
    pub(super) stops: Stops,
    /// Whether the stop under way is carried through, however long it takes.
    pub(super) is_overruled: bool,
    /// Where the stop that is being called back had come to.
    stage: Option<Stage>,
    /// No stop before this moment.
    rest_until: Instant,
}

impl Ceiling {
    /// How long the guest is still left alone.
    pub(super) const fn rest(&self, now: Instant) -> Duration {
        self.rest_until.since(now)
    }

    /// When the rest is over.
    pub(super) const fn rest_until(&self) -> Instant {
        self.rest_until
    }
}

/// How long a guest runs after it stood still for `stopped`, the `recalls`th time in vain: twice that time, then four
/// times, so that many stops in vain never become one long one.
fn rest_after(stopped: Duration, recalls: u32) -> Duration {
    stopped.saturating_mul(1 << recalls.min(8)).clamp(REST_MIN, REST_MAX)
}

impl Source {
    /// When the guest is to run again. [`Instant::NEVER`] without a stop, or if it is to be carried through.
    pub(super) fn ends_at(&self) -> Instant {
        let is_bound = matches!(self.policy.overrun, Overrun::Resume { .. }) && !self.ceiling.is_overruled;
        match (&self.state, self.marks.asked) {
            (State::Stopped(..), Some(asked)) if is_bound => asked.after(self.policy.downtime_limit),
            _ => Instant::NEVER,
        }
    }

    /// From when on the stop under way can only overrun: not even the commit's round trip would fit the limit.
    pub(super) fn recall_at(&self) -> Instant {
        match self.ends_at() {
            Instant::NEVER => Instant::NEVER,
            // It waits for nobody.
            ends_at if self.is_clone() => ends_at,
            ends_at => ends_at.before(self.bandwidth.round_trip()),
        }
    }

    /// Calls the stop back if its time is up; whether it did.
    pub(super) fn recall_if_overrun(&mut self, now: Instant) -> bool {
        if now < self.recall_at() {
            return false;
        }
        match core::mem::replace(&mut self.state, State::Finished) {
            State::Stopped(stopped, permit) => {
                let stage = self.stage(&stopped);
                self.recall(stage, permit);
                true
            }
            state => {
                self.state = state;
                false
            }
        }
    }

    fn stage(&self, stopped: &Stopped) -> Stage {
        match stopped {
            // Nothing was asked for yet.
            Stopped::Harvesting if self.endpoint.outstanding().is_none() => Stage::Pause,
            Stopped::Harvesting => Stage::Harvest,
            Stopped::Saving => Stage::Save,
            Stopped::Sending(sections) if !sections.pages_are_sent => Stage::Pages,
            Stopped::Sending(_) | Stopped::Verifying => Stage::Verify,
        }
    }

    /// The guest is to go on here. What the target was told of this stop counts for nothing.
    pub(super) fn recall(&mut self, stage: Stage, permit: RunPermit) {
        // A step that was not handed out need not be waited for. It is never that of running the guest.
        self.endpoint.withdraw();
        self.endpoint.say(Control::Recall);
        self.ceiling.stage = Some(stage);
        self.serving.recalled();
        self.state = State::Resuming(Some(permit));
        self.endpoint.enter(Phase::Resuming);
        self.resume();
    }

    /// Runs the guest, unless a step of the stop is still to be answered.
    pub(super) fn resume(&mut self) {
        if let State::Resuming(permit) = &mut self.state
            && self.endpoint.outstanding().is_none()
            && let Some(permit) = permit.take()
        {
            self.endpoint.act(GuestAction::Run(permit));
        }
    }

    /// The guest runs here again. What was sent of its pages is at the target, the log has seen the rest.
    pub(super) fn on_resumed(&mut self, now: Instant) {
        let stood_still = self.marks.asked.map_or(Duration::ZERO, |asked| now.since(asked));
        self.marks = Marks::default();
        let stage = self.ceiling.stage.take().unwrap_or(Stage::Pause);
        self.ceiling.stops.recalled(stage, stood_still);
        let stops = self.ceiling.stops;
        self.ceiling.rest_until = now.after(rest_after(stood_still, stops.recalls()));
        self.endpoint.tell(Event::Recalled(Recall { stage, stood_still, recalls: stops.recalls() }));
        self.dirty.begin(now);
        if self.policy.impatience == Impatience::GiveUp && self.is_last_recall() {
            let (limit, stood_still) = (self.policy.downtime_limit, stops.total);
            let reason = AbortReason::LimitOverrun { limit, stops: stops.count, stood_still };
            return self.abort(now, reason);
        }
        self.endpoint.enter(Phase::PreCopy);
        if matches!(self.policy.mode, Mode::PostCopy | Mode::Hybrid) && self.can_switch() {
            // No more rounds: the next stop, once the guest has run for a while. Without the ends of rounds nothing else
            // would tell how long a round trip takes that waits for no pages.
            self.say_round_end(now, 0);
            self.state = State::Resting;
        } else {
            self.begin_round(now);
        }
    }

    fn is_last_recall(&self) -> bool {
        match self.policy.overrun {
            Overrun::Resume { stops_max } => self.ceiling.stops.recalls() >= stops_max.max(1),
            Overrun::CarryThrough => false,
        }
    }

    /// Not even here can it be run at once: the attempt is undone, which tries again.
    pub(super) fn on_resume_failed(&mut self, now: Instant, permit: RunPermit, failure: GuestFailure) {
        self.state = State::Resuming(Some(permit));
        self.abort(now, AbortReason::Guest(crate::io::Step::Run, failure));
    }

    /// The stops, that under way included.
    pub(super) fn stops(&self, now: Instant) -> Stops {
        let current = self.marks.asked.map(|_| self.marks.downtime(now).total);
        current.map_or(self.ceiling.stops, |time| self.ceiling.stops.with(time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_rests_longer_after_each_stop_in_vain_within_bounds() {
        let ms = Duration::from_millis;
        assert_eq!(rest_after(ms(300), 1), ms(600));
        assert_eq!(rest_after(ms(300), 3), ms(2400));
        assert_eq!(rest_after(ms(5), 1), REST_MIN);
        assert_eq!(rest_after(ms(300), u32::MAX), REST_MAX);
    }
}
