//! An estimate: everything that a migration does before it sends in earnest, and as much of the rest as it takes to know
//! what a migration would take. The target checks and builds the guest as for a real one; a sample of its pages is sent,
//! and for two seconds its writes are watched. Then all of it is undone.

use alloc::vec::Vec;
use core::time::Duration;

use super::predict::{Profile, predict};
use super::state::State;
use super::{Round, Source};
use crate::bitmap::PageBitmap;
use crate::io::Event;
use crate::ram::{GuestRam, Page, RamFailure};
use crate::reason::AbortReason;
use crate::status::Phase;
use crate::time::Instant;
use crate::wire::record::RECORD_BYTES;

/// Pages of the sample, spread over all of RAM.
const SAMPLE_PAGES: u32 = 4096;
/// How long the guest is watched, and how often its log is read.
const WATCH: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(250);
/// A sample that has not arrived by then tells enough about the wire.
const PATIENCE: Duration = Duration::from_secs(20);

/// What an estimate has seen.
#[derive(Debug)]
pub(super) struct Estimate {
    began_at: Instant,
    look_at: Instant,
    asked_at: Instant,
    longest_harvest: Duration,
    /// Pages that were written since it began.
    written: PageBitmap,
    curve: Vec<(Duration, u32)>,
}

impl Source {
    /// The log is on: the sample is sent, and the guest is watched.
    pub(super) fn begin_estimate(&mut self, now: Instant) {
        let pages = self.guest.layout.page_count();
        let (Some(sender), Some(written)) = (&mut self.sender, PageBitmap::try_empty(pages)) else {
            return self.abort(now, AbortReason::Ram(RamFailure::OutOfMemory(Page(0))));
        };
        sender.sample(pages.div_ceil(SAMPLE_PAGES).max(1));
        self.round = Round { number: 1, pages: sender.pending().len(), ..self.round };
        self.state = State::Probing(Estimate {
            began_at: now,
            look_at: now.after(LOOK),
            asked_at: now,
            longest_harvest: Duration::ZERO,
            written,
            curve: Vec::new(),
        });
    }

    /// When the estimate has something to do.
    pub(super) fn probe_due_at(&self) -> Instant {
        match &self.state {
            State::Probing(estimate) if self.endpoint.outstanding().is_none() => estimate.look_at,
            _ => Instant::NEVER,
        }
    }

    pub(super) fn probe_on_time(&mut self, now: Instant) {
        if now >= self.probe_due_at()
            && let State::Probing(estimate) = &mut self.state
        {
            estimate.look_at = now.after(LOOK);
            estimate.asked_at = now;
            self.harvest(now);
        }
    }

    /// A harvest of the watch is there; whether this is an estimate.
    pub(super) fn on_probe_harvested(&mut self, now: Instant, ram: &mut dyn GuestRam) -> bool {
        let State::Probing(estimate) = &mut self.state else { return false };
        ram.take_dirty(&mut estimate.written);
        let time = now.since(estimate.began_at);
        estimate.longest_harvest = estimate.longest_harvest.max(now.since(estimate.asked_at));
        estimate.curve.push((time, estimate.written.len()));
        let has_arrived = self.round.ends > 0 && self.round.ends_answered >= self.round.ends;
        if time >= WATCH && (has_arrived || time >= PATIENCE) {
            self.tell_estimate(now);
        }
        true
    }

    fn tell_estimate(&mut self, now: Instant) {
        let (State::Probing(estimate), Some(sender)) = (&self.state, &self.sender) else { return };
        let counts = sender.counts();
        let sampled = u32::try_from(counts.sent()).unwrap_or(u32::MAX);
        let sent = self.endpoint.link.as_ref().map_or(0, |link| link.sent);
        let pages = self.guest.layout.page_count();
        // In a sample each zero page has a record of its own; in a move they go in runs, next to nothing each.
        let apart = if sampled < pages { counts.zero * RECORD_BYTES as u64 } else { 0 };
        let sample_bytes = sent.saturating_sub(self.round.bytes_before).saturating_sub(apart);
        let profile = Profile {
            pages,
            sampled,
            not_zero: sampled.saturating_sub(u32::try_from(counts.zero).unwrap_or(u32::MAX)),
            sample_bytes,
            bandwidth: self.bandwidth.rate().unwrap_or(u64::MAX),
            round_trip: self.bandwidth.round_trip(),
            harvest_time: estimate.longest_harvest,
            written: &estimate.curve,
            can_switch: self.can_switch(),
        };
        let prediction = predict(&profile, &self.policy);
        self.endpoint.tell(Event::Estimated(prediction));
        self.endpoint.enter(Phase::Aborting);
        self.abort(now, AbortReason::OnlyEstimated);
    }
}
