//! What a migration would take: its rounds, played through with what was measured, by the code that decides after real
//! ones.

use core::time::Duration;

use super::convergence::{Convergence, Decision, Measured};
use super::rate::time_for;
use crate::policy::{Mode, Policy};
use crate::ram::PAGE_BYTES;
use crate::status::{Prediction, Why};

/// Decisions after which a migration that has come to no end is not expected to.
const DECISIONS_MAX: u32 = 400;
/// What devices and the framing of a stop come to.
const STATE_BYTES: u64 = 32 * 1024;

/// What a guest writes in this time it is thought to write all the time, by when it has been seen to
/// ([`super::rewritten`]).
const REWRITTEN_IN: Duration = Duration::from_secs(1);

/// What was measured of a guest and the way to a host.
#[derive(Clone, Debug)]
pub(super) struct Profile<'a> {
    /// Pages of the guest.
    pub(super) pages: u32,
    /// Pages of the sample, how many of them were not zero, and the bytes that they took on the wire.
    pub(super) sampled: u32,
    pub(super) not_zero: u32,
    pub(super) sample_bytes: u64,
    /// Bytes per second.
    pub(super) bandwidth: u64,
    pub(super) round_trip: Duration,
    pub(super) harvest_time: Duration,
    /// How many different pages had been written after so long, ascending in both.
    pub(super) written: &'a [(Duration, u32)],
    /// The target can run the guest before all of its memory is there.
    pub(super) can_switch: bool,
}

impl Profile<'_> {
    fn page_bytes(&self) -> u64 {
        let each = self.sample_bytes.checked_div(self.not_zero.into()).unwrap_or(PAGE_BYTES as u64);
        each.clamp(32, PAGE_BYTES as u64 + 64)
    }

    fn all_bytes(&self) -> u64 {
        let all = u128::from(self.sample_bytes) * u128::from(self.pages) / u128::from(self.sampled.max(1));
        u64::try_from(all).unwrap_or(u64::MAX)
    }

    /// Bytes of a round that passes over what the guest goes on writing, once that has been seen.
    fn only_round_bytes(&self, rate: u64) -> u64 {
        let all = self.all_bytes();
        let time = time_for(all, rate);
        let rewritten = u128::from(self.written_in(REWRITTEN_IN, 0)) * u128::from(self.page_bytes());
        let seen = time.saturating_sub(REWRITTEN_IN);
        let passed_over = rewritten * seen.as_nanos() / time.as_nanos().max(1);
        all.saturating_sub(u64::try_from(passed_over).unwrap_or(u64::MAX))
    }

    /// How many different pages the guest writes in `time` when it is slowed by `throttle` percent: between two points
    /// that were seen by their line, beyond the last by what was seen last.
    fn written_in(&self, time: Duration, throttle: u8) -> u32 {
        let time = time * u32::from(100 - throttle.min(99)) / 100;
        let mut before = (Duration::ZERO, 0);
        let mut slope = (Duration::from_secs(1), 0);
        for &(at, count) in self.written {
            slope = (at.saturating_sub(before.0), count - before.1.min(count));
            if at >= time {
                break;
            }
            before = (at, count);
        }
        let beyond =
            time.saturating_sub(before.0).as_nanos() * u128::from(slope.1) / slope.0.as_nanos().max(1);
        before.1.saturating_add(u32::try_from(beyond).unwrap_or(u32::MAX)).min(self.pages)
    }
}

/// Plays a migration under `policy` through.
pub(super) fn predict(profile: &Profile<'_>, policy: &Policy) -> Prediction {
    let rate = policy.bandwidth_bytes_per_second.map_or(profile.bandwidth, |cap| cap.min(profile.bandwidth));
    let least = profile.harvest_time.saturating_add(profile.round_trip).saturating_mul(2);
    let page_bytes = profile.page_bytes();
    let (mut convergence, mut throttle) = (Convergence::default(), 0);
    let mut all = Prediction::default();
    let (mut left, mut of_round) = (profile.pages, profile.pages);
    if policy.mode != Mode::PostCopy || !profile.can_switch {
        let is_only = policy.mode == Mode::Hybrid && profile.can_switch;
        let bytes = if is_only { profile.only_round_bytes(rate) } else { profile.all_bytes() };
        (left, of_round) = round(profile, &mut all, bytes, profile.pages, rate, 0);
    }
    for _ in 0..DECISIONS_MAX {
        let downtime = Some(time_for(u64::from(left) * page_bytes, rate).saturating_add(least));
        let measured = Measured {
            rounds: all.rounds,
            pages_left: left,
            pages_of_round: of_round,
            queued_bytes: 0,
            downtime,
            downtime_unqueued: downtime,
            least_downtime: least,
            throttle,
            recalls: 0,
            rest: Duration::ZERO,
            elapsed: all.total,
            can_switch: profile.can_switch,
        };
        match convergence.decide(&measured, policy) {
            Decision::Stop | Decision::StopAnyway => return stop(all, left, page_bytes, rate, least, None),
            Decision::Switch(why) => return stop(all, left, page_bytes, rate, least, Some(why)),
            Decision::GiveUp | Decision::LimitTooShort => return Prediction { ends: false, ..all },
            Decision::Throttle(percent) => throttle = percent,
            Decision::Round | Decision::Drain | Decision::Rest => {}
        }
        let bytes = u64::from(left) * page_bytes;
        (left, of_round) = round(profile, &mut all, bytes, left, rate, throttle);
    }
    Prediction { ends: false, ..all }
}

/// A round of `bytes` in `pages` pages; the pages that are left after it, and those that it had.
fn round(
    profile: &Profile<'_>,
    all: &mut Prediction,
    bytes: u64,
    pages: u32,
    rate: u64,
    throttle: u8,
) -> (u32, u32) {
    let time = time_for(bytes, rate);
    all.rounds += 1;
    all.bytes = all.bytes.saturating_add(bytes);
    all.total = all.total.saturating_add(time).saturating_add(profile.round_trip);
    (profile.written_in(time.saturating_add(profile.harvest_time), throttle), pages)
}

fn stop(
    all: Prediction,
    left: u32,
    page_bytes: u64,
    rate: u64,
    least: Duration,
    why: Option<Why>,
) -> Prediction {
    let pages_bytes = u64::from(left) * page_bytes;
    let (in_stop, after) =
        if why.is_some() { (STATE_BYTES, pages_bytes) } else { (pages_bytes + STATE_BYTES, 0) };
    let downtime = time_for(in_stop, rate).saturating_add(least);
    Prediction {
        ends: true,
        total: all.total.saturating_add(downtime).saturating_add(time_for(after, rate)),
        downtime,
        bytes: all.bytes.saturating_add(in_stop).saturating_add(after),
        after_switch: if why.is_some() { left } else { 0 },
        why,
        ..all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// 256 MiB, half of it zero, over 100 MB/s.
    fn profile(written: &[(Duration, u32)]) -> Profile<'_> {
        Profile {
            pages: 65_536,
            sampled: 1000,
            not_zero: 500,
            sample_bytes: 500 * 4096,
            bandwidth: 100_000_000,
            round_trip: MS,
            harvest_time: MS,
            written,
            can_switch: true,
        }
    }

    #[test]
    fn what_is_written_is_read_off_the_curve() {
        let written = [(MS * 100, 1000), (MS * 1000, 2000)];
        let profile = profile(&written);
        assert_eq!(profile.written_in(MS * 50, 0), 500);
        assert_eq!(profile.written_in(MS * 550, 0), 1500);
        assert_eq!(profile.written_in(MS * 1900, 0), 3000, "as it was seen last");
        assert_eq!(profile.written_in(MS * 1100, 50), 1500, "as slow as that");
        assert_eq!(profile.written_in(Duration::from_secs(1_000_000), 0), 65_536);
    }

    #[test]
    fn an_idle_guest_takes_one_pass_over_what_is_not_zero() {
        let written = [(MS * 1000, 20)];
        let told = predict(&profile(&written), &Policy::default());
        assert!(told.ends && told.why.is_none(), "{told:?}");
        let once = 65_536 * 4096 / 2;
        assert!((once..once * 11 / 10).contains(&told.bytes), "{told:?}");
        assert!((1300..1600).contains(&told.total.as_millis()), "{told:?}");
        assert!(told.downtime < MS * 10, "{told:?}");
    }

    #[test]
    fn a_guest_that_writes_faster_than_the_wire_is_switched_or_does_not_end() {
        // 64 MiB written 40,000 times a second.
        let written = [(MS * 100, 4000), (MS * 500, 16_384), (MS * 2000, 16_384)];
        let told = predict(&profile(&written), &Policy::default());
        assert!(told.ends && matches!(told.why, Some(Why::Stalled { .. })), "{told:?}");
        assert!(told.after_switch > 10_000 && told.downtime < MS * 20, "{told:?}");
        let policy = Policy { mode: Mode::PreCopy, throttle_percent_max: 0, ..Policy::default() };
        assert!(!predict(&profile(&written), &policy).ends);
        let all_after = predict(&profile(&written), &Policy { mode: Mode::PostCopy, ..Policy::default() });
        assert_eq!((all_after.rounds, all_after.after_switch), (0, 65_536));
    }

    #[test]
    fn what_is_written_all_the_time_goes_once_in_a_hybrid_move_that_takes_long() {
        let written = [(MS * 500, 16_384), (MS * 2000, 16_384)];
        let slow = Profile { bandwidth: 10_000_000, ..profile(&written) };
        let told = predict(&slow, &Policy { mode: Mode::Hybrid, ..Policy::default() });
        assert_eq!((told.rounds, told.after_switch), (1, 16_384));
        let all = 65_536 * 4096 / 2;
        assert!((all..all + 16_384 * 4096 / 10).contains(&told.bytes), "{told:?}");
    }
}
