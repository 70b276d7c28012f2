//! After each harvest: another round, wait for what is under way, stop the guest, throttle it, or give up? A pure
//! function of what was measured.
//!
//! A harvest follows a round's last page at once, while much of the round is still queued on its way: waiting for that
//! first would leave the link idle for a while in each round, and what a busy guest dirties in such gaps can be more
//! than the rounds win. It is waited for when nothing but that queue stands between the rest and the limit, and when
//! rounds no longer make the rest smaller: what stalls is judged, and throttled, by what has arrived.

use core::time::Duration;

use crate::policy::{Impatience, Mode, Overrun, Policy};
use crate::status::{Judgement, Next, Why};

/// A set so small that another round would not make it smaller.
const FEW_PAGES: u32 = 16;
/// Most rounds made only because the set still shrinks although it is within the limit.
const POLISH_ROUNDS_MAX: u32 = 6;
/// Rounds without progress before the guest is throttled more, or given up.
const STALLED_ROUNDS: u32 = 2;
/// Further rounds without progress at the strongest throttle before it is given up.
const HOPELESS_ROUNDS: u32 = 4;
/// Rounds made only to learn whether the limit is really too short: the time that an answer takes is known too long
/// as long as it was only measured behind a queue of pages, and a small round has none.
const PROBE_ROUNDS_MAX: u32 = 4;
/// Stops in vain after which the next is no longer asked to be expected shorter.
const GOAL_STEPS_MAX: u32 = 8;
/// First throttle and the further steps, in percent.
const THROTTLE_FIRST: u8 = 20;
const THROTTLE_STEP: u8 = 15;

/// What was measured up to a harvest at the end of a round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// Rounds that have ended.
    pub(crate) rounds: u32,
    /// Pages to be sent now.
    pub(crate) pages_left: u32,
    /// Pages sent in the round that has just ended.
    pub(crate) pages_of_round: u32,
    /// Bytes of earlier rounds that have not arrived.
    pub(crate) queued_bytes: u64,
    /// Expected downtime if the guest were stopped now; `None` while unknown.
    pub(crate) downtime: Option<Duration>,
    /// The same if nothing were queued.
    pub(crate) downtime_unqueued: Option<Duration>,
    /// What a stop takes that has nothing to send.
    pub(crate) least_downtime: Duration,
    /// Throttle in percent.
    pub(crate) throttle: u8,
    /// Stops that overran the limit and were called back.
    pub(crate) recalls: u32,
    /// How long the guest is to run before it is stopped again.
    pub(crate) rest: Duration,
    /// Time since the first round began.
    pub(crate) elapsed: Duration,
    /// The target can run the guest before all of its memory is there.
    pub(crate) can_switch: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Another round.
    Round,
    /// Wait until what is queued has arrived, then harvest and decide again.
    Drain,
    /// The rest is within the limit, but the guest is to run for a while before it is stopped again.
    Rest,
    /// Stop the guest: the rest is within the limit.
    Stop,
    /// Stop the guest although the rest is not.
    StopAnyway,
    /// Stop the guest; what is left goes once it runs at the target.
    Switch(Why),
    /// Throttle the guest by this percentage, then another round.
    Throttle(u8),
    /// It does not converge.
    GiveUp,
    /// No guest at all could be stopped so shortly.
    LimitTooShort,
}

impl Decision {
    /// For people, if the migration goes on.
    pub(crate) const fn judgement(self, measured: &Measured, policy: &Policy) -> Option<Judgement> {
        let next = match self {
            Self::Round => Next::Round,
            Self::Drain => Next::Drain,
            Self::Rest => Next::Rest,
            Self::Stop => Next::Stop,
            Self::StopAnyway => Next::StopAnyway,
            Self::Switch(why) => Next::Switch(why),
            Self::Throttle(percent) => Next::Throttle(percent),
            Self::GiveUp | Self::LimitTooShort => return None,
        };
        let Measured { rounds, pages_left: left, pages_of_round: sent, downtime, .. } = *measured;
        Some(Judgement { rounds, sent, left, downtime, limit: policy.downtime_limit, next })
    }
}

/// What decisions remember of earlier rounds.
#[derive(Debug, Default)]
pub(crate) struct Convergence {
    stalled: u32,
    polished: u32,
    probed: u32,
    /// Fewest pages that were left after any round.
    least_left: Option<u32>,
}

impl Convergence {
    /// Why the guest is to be switched now because a person said so.
    const fn asked_switch(measured: &Measured, policy: &Policy) -> Option<Why> {
        let is_time = match policy.mode {
            Mode::PostCopy => true,
            Mode::Hybrid => measured.rounds > 0 && measured.pages_left > 0,
            Mode::Auto | Mode::PreCopy => false,
        };
        if measured.can_switch && is_time { Some(Why::Asked) } else { None }
    }

    /// What to do after a round.
    pub(crate) fn decide(&mut self, measured: &Measured, policy: &Policy) -> Decision {
        let Measured { rounds, pages_left, pages_of_round, least_downtime, throttle, elapsed, .. } =
            *measured;
        let shrinks = u64::from(pages_left) * 4 <= u64::from(pages_of_round) * 3;
        let is_queued = measured.queued_bytes > 0;
        let goal = goal(policy.downtime_limit, measured.recalls, least_downtime);
        let fits = |downtime: Option<Duration>| downtime.is_some_and(|it| it <= goal);
        let is_empty = pages_left == 0 && !is_queued;
        if let Some(why) = Self::asked_switch(measured, policy) {
            return switch(measured, policy, why);
        }
        // Once, a stop may show that the least was overestimated.
        if fits(measured.downtime) || (is_empty && measured.recalls == 0) {
            if pages_left > FEW_PAGES && shrinks && self.polished < POLISH_ROUNDS_MAX {
                self.polished += 1;
                return Decision::Round;
            }
            return stop(measured, policy);
        }
        let best = self.least_left.unwrap_or(u32::MAX);
        let progresses = u64::from(pages_left) * 10 < u64::from(best) * 9;
        let is_within_reach = measured.downtime_unqueued.is_none() || fits(measured.downtime_unqueued);
        if is_queued && (is_within_reach || !progresses) {
            return Decision::Drain;
        }
        if least_downtime > policy.downtime_limit && (!shrinks || is_empty) {
            // No throttle would help.
            if self.probed < PROBE_ROUNDS_MAX {
                self.probed += 1;
                return if is_queued { Decision::Drain } else { Decision::Round };
            }
            return match policy.impatience {
                Impatience::GiveUp => Decision::LimitTooShort,
                Impatience::StopAnyway => Decision::StopAnyway,
            };
        }
        let is_over = rounds >= policy.rounds_max || elapsed >= policy.duration_max;
        // A round of next to nothing says nothing about the next.
        let is_stalled = !shrinks && u64::from(pages_of_round) * 4 >= u64::from(pages_left);
        if measured.can_switch && policy.mode != Mode::PreCopy && (is_over || is_stalled) {
            let why = if is_over {
                Why::RoundsOver(rounds)
            } else {
                Why::Stalled { left: pages_left, sent: pages_of_round }
            };
            return switch(measured, policy, why);
        }
        if is_over {
            return give_up(policy);
        }
        self.least_left = Some(best.min(pages_left));
        if progresses {
            self.stalled = 0;
            return Decision::Round;
        }
        self.stalled += 1;
        if self.stalled < STALLED_ROUNDS {
            return Decision::Round;
        }
        if throttle < policy.throttle_percent_max {
            self.stalled = 0;
            self.least_left = None;
            let step = if throttle == 0 { THROTTLE_FIRST } else { throttle.saturating_add(THROTTLE_STEP) };
            return Decision::Throttle(step.min(policy.throttle_percent_max));
        }
        if self.stalled < STALLED_ROUNDS + HOPELESS_ROUNDS { Decision::Round } else { give_up(policy) }
    }
}

/// A stop after which what is left goes to a guest that runs at the target, or what has to come before it: what is queued
/// on its way would only make the stop longer.
fn switch(measured: &Measured, policy: &Policy, why: Why) -> Decision {
    if measured.queued_bytes > 0 {
        return Decision::Drain;
    }
    match stop(measured, policy) {
        Decision::Stop => Decision::Switch(why),
        decision => decision,
    }
}

/// The longest expected downtime with which a stop is tried: after each that overran three quarters of what it was
/// before, since the estimate was too good. A guest with nothing left to send reaches it as long as it could reach the
/// limit.
fn goal(limit: Duration, recalls: u32, least_downtime: Duration) -> Duration {
    let goal = (0..recalls.min(GOAL_STEPS_MAX)).fold(limit, |goal, _| goal * 3 / 4);
    goal.max(least_downtime.min(limit))
}

/// A stop, or the rest before it.
fn stop(measured: &Measured, policy: &Policy) -> Decision {
    if !measured.rest.is_zero() {
        return Decision::Rest;
    }
    match policy.overrun {
        // Those in vain were enough; with [`Impatience::GiveUp`] the last ended the attempt.
        Overrun::Resume { stops_max } if measured.recalls >= stops_max.max(1) => Decision::StopAnyway,
        Overrun::Resume { .. } | Overrun::CarryThrough => Decision::Stop,
    }
}

fn give_up(policy: &Policy) -> Decision {
    match policy.impatience {
        Impatience::GiveUp => Decision::GiveUp,
        Impatience::StopAnyway => Decision::StopAnyway,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(pages_left: u32, pages_of_round: u32, downtime_ms: u64) -> Measured {
        let downtime = Some(Duration::from_millis(downtime_ms));
        Measured {
            rounds: 2,
            pages_left,
            pages_of_round,
            queued_bytes: 0,
            downtime,
            downtime_unqueued: downtime,
            least_downtime: Duration::ZERO,
            throttle: 0,
            recalls: 0,
            rest: Duration::ZERO,
            elapsed: Duration::ZERO,
            can_switch: false,
        }
    }

    #[test]
    fn a_guest_within_the_limit_is_stopped_once_it_shrinks_no_more() {
        let (mut convergence, policy) = (Convergence::default(), Policy::default());
        assert_eq!(convergence.decide(&measured(1000, 30_000, 200), &policy), Decision::Round);
        assert_eq!(convergence.decide(&measured(900, 1000, 180), &policy), Decision::Stop);
        assert_eq!(convergence.decide(&measured(3, 1000, 1), &policy), Decision::Stop);
    }

    #[test]
    fn a_decision_names_what_it_was_made_by() {
        let (measured, policy) = (measured(900, 1000, 180), Policy::default());
        let judgement = Decision::Stop.judgement(&measured, &policy).unwrap();
        let Judgement { rounds, sent, left, downtime, limit, next } = judgement;
        assert_eq!((rounds, sent, left, next), (2, 1000, 900, Next::Stop));
        assert_eq!((downtime, limit), (measured.downtime, policy.downtime_limit));
        assert_eq!(Decision::GiveUp.judgement(&measured, &policy), None, "there is a reason for that");
    }

    #[test]
    fn a_stalling_guest_is_throttled_step_by_step_and_then_given_up() {
        let (mut convergence, policy) = (Convergence::default(), Policy::default());
        let (mut throttle, mut steps) = (0, std::vec![]);
        for _ in 0..60 {
            let measured = Measured { throttle, ..measured(50_000, 50_000, 9000) };
            match convergence.decide(&measured, &policy) {
                Decision::Round => {}
                Decision::Throttle(percent) => {
                    throttle = percent;
                    steps.push(percent);
                }
                decision => {
                    assert_eq!(decision, Decision::GiveUp);
                    assert_eq!(steps, [20, 35, 50, 65, 80, 90]);
                    return;
                }
            }
        }
        panic!("it went on for ever");
    }

    #[test]
    fn a_limit_that_no_guest_could_meet_is_not_the_guests_fault() {
        let policy = Policy::default();
        let measured = Measured { least_downtime: Duration::from_millis(900), ..measured(5, 5, 901) };
        let last = |policy: &Policy| {
            let mut convergence = Convergence::default();
            for _ in 0..PROBE_ROUNDS_MAX {
                assert_eq!(convergence.decide(&measured, policy), Decision::Round);
            }
            convergence.decide(&measured, policy)
        };
        assert_eq!(last(&policy), Decision::LimitTooShort);
        assert_eq!(last(&Policy { impatience: Impatience::StopAnyway, ..policy }), Decision::StopAnyway);
    }

    #[test]
    fn an_answer_that_only_waited_in_a_queue_does_not_end_the_migration() {
        let (mut convergence, policy) = (Convergence::default(), Policy::default());
        let slow = Measured { least_downtime: Duration::from_millis(333), ..measured(40, 40, 340) };
        assert_eq!(convergence.decide(&slow, &policy), Decision::Round);
        let quick = Measured { least_downtime: Duration::from_millis(20), ..measured(40, 40, 30) };
        assert_eq!(convergence.decide(&quick, &policy), Decision::Stop);
    }

    #[test]
    fn a_queue_is_waited_for_only_if_nothing_else_is_in_the_way() {
        let (mut convergence, policy) = (Convergence::default(), Policy::default());
        let queued = |pages_left, with_ms, without_ms| Measured {
            queued_bytes: 100_000,
            downtime_unqueued: Some(Duration::from_millis(without_ms)),
            ..measured(pages_left, 10_000, with_ms)
        };
        assert_eq!(convergence.decide(&queued(5_000, 2_000, 1_500), &policy), Decision::Round);
        assert_eq!(convergence.decide(&queued(10, 400, 200), &policy), Decision::Drain);
        assert_eq!(convergence.decide(&queued(0, 400, 200), &policy), Decision::Drain);
        assert_eq!(convergence.decide(&queued(0, 250, 200), &policy), Decision::Stop);
        let unknown = Measured { downtime: None, downtime_unqueued: None, ..queued(10, 0, 0) };
        assert_eq!(convergence.decide(&unknown, &policy), Decision::Drain);
    }

    #[test]
    fn a_stop_in_vain_is_tried_again_after_a_rest_and_with_less_to_send() {
        let (mut convergence, policy) = (Convergence::default(), Policy::default());
        let after = |recalls, rest_ms, downtime_ms| Measured {
            recalls,
            rest: Duration::from_millis(rest_ms),
            ..measured(10, 10, downtime_ms)
        };
        assert_eq!(convergence.decide(&after(0, 0, 299), &policy), Decision::Stop);
        assert_eq!(convergence.decide(&after(1, 0, 299), &policy), Decision::Round);
        assert_eq!(convergence.decide(&after(1, 700, 220), &policy), Decision::Rest);
        assert_eq!(convergence.decide(&after(1, 0, 220), &policy), Decision::Stop);
        assert_eq!(Convergence::default().decide(&after(2, 0, 220), &policy), Decision::Round);
    }

    #[test]
    fn a_guest_with_nothing_to_send_reaches_what_is_asked_after_any_number_of_stops() {
        let idle = Measured { recalls: 5, least_downtime: Duration::from_millis(290), ..measured(0, 0, 290) };
        assert_eq!(Convergence::default().decide(&idle, &Policy::default()), Decision::Stop);
    }

    #[test]
    fn an_idle_guest_is_not_stopped_again_and_again_for_a_limit_that_none_could_meet() {
        let (mut convergence, policy) = (Convergence::default(), Policy::default());
        let idle =
            |recalls| Measured { recalls, least_downtime: Duration::from_millis(400), ..measured(0, 0, 400) };
        assert_eq!(convergence.decide(&idle(0), &policy), Decision::Stop);
        for _ in 0..PROBE_ROUNDS_MAX {
            assert_eq!(convergence.decide(&idle(1), &policy), Decision::Round);
        }
        assert_eq!(convergence.decide(&idle(1), &policy), Decision::LimitTooShort);
    }

    #[test]
    fn the_last_stop_is_carried_through_if_the_policy_says_so() {
        let overrun = Overrun::Resume { stops_max: 2 };
        let policy = Policy { overrun, impatience: Impatience::StopAnyway, ..Policy::default() };
        let after = |recalls| Measured { recalls, ..measured(10, 10, 5) };
        assert_eq!(Convergence::default().decide(&after(1), &policy), Decision::Stop);
        assert_eq!(Convergence::default().decide(&after(2), &policy), Decision::StopAnyway);
    }

    #[test]
    fn what_rounds_do_not_make_smaller_goes_after_the_switch() {
        let (mut convergence, policy) = (Convergence::default(), Policy::default());
        let can = |left, of, ms| Measured { can_switch: true, ..measured(left, of, ms) };
        assert_eq!(convergence.decide(&can(20_000, 60_000, 2000), &policy), Decision::Round);
        let stalled = can(18_000, 20_000, 1800);
        assert_eq!(
            convergence.decide(&Measured { queued_bytes: 9, ..stalled }, &policy),
            Decision::Drain,
            "what is on its way first"
        );
        let why = Why::Stalled { left: 18_000, sent: 20_000 };
        assert_eq!(convergence.decide(&stalled, &policy), Decision::Switch(why));
        // What was dirtied after a round of next to nothing is worth a round.
        assert_eq!(Convergence::default().decide(&can(2_049, 3, 900), &policy), Decision::Round);
        // And what fits goes before it.
        assert_eq!(Convergence::default().decide(&can(10, 10, 5), &policy), Decision::Stop);
    }

    #[test]
    fn a_mode_that_a_person_asks_for_is_what_happens() {
        let can = |rounds, left| Measured { rounds, can_switch: true, ..measured(left, 9_000, 9) };
        let decide = |mode, measured: &Measured| {
            Convergence::default().decide(measured, &Policy { mode, ..Policy::default() })
        };
        assert_eq!(decide(Mode::PostCopy, &can(0, 9_000)), Decision::Switch(Why::Asked));
        assert_eq!(decide(Mode::Hybrid, &can(1, 100)), Decision::Switch(Why::Asked));
        assert_eq!(decide(Mode::Hybrid, &can(1, 0)), Decision::Stop, "nothing is left");
        let stalled = Measured { can_switch: true, ..measured(9_000, 9_000, 9_000) };
        assert!(!matches!(decide(Mode::PreCopy, &stalled), Decision::Switch(_)));
    }

    #[test]
    fn progress_is_not_a_stall() {
        let (mut convergence, policy) = (Convergence::default(), Policy::default());
        let mut left = 100_000;
        while left > 1000 {
            assert_eq!(convergence.decide(&measured(left, left * 10 / 8, 9000), &policy), Decision::Round);
            left = left * 8 / 10;
        }
    }

    #[test]
    fn impatience_decides_at_the_last_round() {
        let policy = Policy { impatience: Impatience::StopAnyway, rounds_max: 2, ..Policy::default() };
        assert_eq!(Convergence::default().decide(&measured(5000, 9000, 9000), &policy), Decision::StopAnyway);
    }
}
