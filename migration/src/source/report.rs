//! What a person is shown: the snapshot and the final report.

use core::time::Duration;

use super::Source;
use super::sender::Sender;
use crate::status::{Phase, Report, Status};
use crate::time::Instant;

impl Source {
    /// Where it stands, in a word.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.endpoint.phase()
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
        }
    }

    pub(super) fn report(&self, now: Instant) -> Report {
        let (bytes_sent, bytes_received) = self.endpoint.bytes();
        Report {
            total: self.elapsed(now),
            downtime: self.marks.downtime(now),
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
