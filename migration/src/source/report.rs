//! What a person is shown: the snapshot and the final report.

use core::time::Duration;

use super::Source;
use super::sender::Sender;
use super::state::{Awaited, Stake, State};
use crate::status::{Report, Status};
use crate::time::Instant;

impl Source {
    /// Whether the guest runs at the target and may wait for a page at any moment.
    #[must_use]
    pub const fn is_after_switch(&self) -> bool {
        matches!(self.state, State::Serving(None))
    }

    /// Whether an answer is waited for whose time is downtime: then a wait should end as soon as anything arrives,
    /// whatever that costs.
    #[must_use]
    pub const fn is_urgent(&self) -> bool {
        match self.state {
            State::Pausing
            | State::Stopped(..)
            | State::Resuming(_)
            | State::Copied(Awaited::Both | Awaited::Running)
            | State::Committing(Stake::Guest(_))
            | State::Serving(None) => true,
            State::Idle
            | State::Connecting { .. }
            | State::Negotiating
            | State::StartingLog
            | State::Probing(_)
            | State::Sending
            | State::Draining
            | State::Harvesting
            | State::Throttling
            | State::Resting
            | State::Copied(Awaited::Verified)
            | State::Committing(Stake::Copy)
            | State::Unknown(..)
            | State::Releasing
            | State::Settling
            | State::Serving(Some(_))
            | State::Aborting(..)
            | State::Finished => false,
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn status(&self, now: Instant) -> Status {
        let (bytes_sent, bytes_received) = self.endpoint.bytes();
        Status {
            phase: self.endpoint.phase(),
            round: self.round.number,
            pages_total: self.guest.layout.page_count(),
            pages_left: self.pages_left(),
            pages: self.sender.as_ref().map(Sender::counts).unwrap_or_default(),
            bytes_sent,
            bytes_received,
            dirty_pages_per_second: self.dirty.rate(),
            bytes_per_second: self.bandwidth.rate().unwrap_or(0),
            throttle_percent: self.throttle,
            downtime_estimate: self.downtime_estimate(),
            remaining_estimate: self.remaining_estimate(),
            elapsed: self.elapsed(now),
            downtime: self.marks.downtime(now),
            stops: self.stops(now),
            judgement: self.judgement,
            post_copy: self.post_copy(now),
        }
    }

    pub(super) fn report(&self, now: Instant) -> Report {
        let (bytes_sent, bytes_received) = self.endpoint.bytes();
        Report {
            total: self.elapsed(now),
            downtime: self.marks.downtime(now),
            stops: self.stops(now),
            post_copy: self.post_copy(now),
            rounds: self.round.number,
            pages: self.sender.as_ref().map(Sender::counts).unwrap_or_default(),
            pages_in_downtime: self.pages_in_downtime,
            bytes_sent,
            bytes_received,
            throttle_percent_peak: self.throttle_peak,
            digest: self.digest,
        }
    }

    fn elapsed(&self, now: Instant) -> Duration {
        self.started_at.map_or(Duration::ZERO, |started| self.ended_at.unwrap_or(now).since(started))
    }
}
