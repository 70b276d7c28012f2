//! The line that shows a migration's progress, redrawn in place; one line per phase stays.

use alloc::format;
use alloc::string::String;
use core::fmt::Write as _;
use core::time::Duration;

use super::format::{Bytes, ShortRate, Span};
use super::output::Output;
use super::row::Row;
use super::view::{MigrationView, Phase};

/// Time between two drawings of the line: often enough for a person, seldom enough for 115,200 baud.
const REDRAW: Duration = Duration::from_millis(250);

/// Time between two looks at the migration, so that the line that stays of a phase is its last state.
const SAMPLE: Duration = Duration::from_millis(20);

/// The line, and what it was made of.
#[derive(Debug, Default)]
pub(super) struct Progress {
    last: Option<MigrationView>,
    due: Duration,
    drawn_at: Duration,
}

impl Progress {
    /// When it wants to see the migration again.
    pub(super) fn due(&self) -> Duration {
        self.due
    }

    /// The migration is in no list at the moment.
    pub(super) fn miss(&mut self, now: Duration) {
        self.due = now + SAMPLE;
    }

    /// Takes the migration's state, and draws the line if it is time or the phase has changed. When the phase
    /// changes, the old phase's last line stays and a new one begins.
    pub(super) fn sample(
        &mut self,
        now: Duration,
        migration: MigrationView,
        row: &mut Row,
        out: &mut Output,
    ) {
        let is_new = self.last.as_ref().is_none_or(|last| last.phase != migration.phase);
        if is_new {
            self.finish(row, out);
        }
        self.due = now + SAMPLE;
        if is_new || now.saturating_sub(self.drawn_at) >= REDRAW {
            self.drawn_at = now;
            row.rewrite(out, &line(&migration));
        }
        self.last = Some(migration);
    }

    /// Draws the line again after something else took its row.
    pub(super) fn redraw(&self, row: &mut Row, out: &mut Output) {
        if let Some(last) = &self.last {
            row.rewrite(out, &line(last));
        }
    }

    /// Leaves the line where it is, in its last state, and goes to the next row.
    pub(super) fn finish(&mut self, row: &mut Row, out: &mut Output) {
        if let Some(last) = self.last.take() {
            let last = line(&last);
            if !row.shows(&last) {
                row.rewrite(out, &last);
            }
            row.finish(out);
        }
    }
}

/// The line: phase, round, sent, remaining, dirty rate, bandwidth, estimate.
fn line(migration: &MigrationView) -> String {
    let mut text = format!("{}", migration.phase);
    if migration.phase == Phase::PreCopy {
        let _infallible = write!(text, " {}", migration.round);
    }
    if matches!(migration.phase, Phase::Connecting | Phase::Negotiating) {
        let _infallible = write!(text, " with {}", migration.peer);
        return text;
    }
    let _infallible =
        write!(text, ": sent {}, left {}", Bytes(migration.sent_bytes), Bytes(migration.remaining_bytes));
    if migration.phase == Phase::PreCopy {
        let dirty = ShortRate(migration.dirty_bytes_per_second);
        let wire = ShortRate(migration.wire_bytes_per_second);
        let _infallible = write!(text, ", dirty {dirty}, wire {wire}");
        let _infallible = match migration.estimate {
            Some(left) if left.as_secs() >= 60 => write!(text, ", {} min", left.as_secs().div_ceil(60)),
            Some(left) => write!(text, ", {}", Span(left)),
            None => write!(text, ", no end"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::line;
    use crate::console::row::COLUMNS;
    use crate::console::view::{MigrationView, Phase, Side};

    fn view() -> MigrationView {
        MigrationView {
            guest: "linux".into(),
            peer: "b".into(),
            side: Side::Source,
            phase: Phase::PreCopy,
            round: 3,
            sent_bytes: 40_055_603,
            remaining_bytes: 12_700_000,
            dirty_bytes_per_second: 420_000,
            wire_bytes_per_second: 9_646_899,
            estimate: Some(Duration::from_millis(2_300)),
            elapsed: Duration::from_secs(5),
            throttle_percent: 0,
            bandwidth_limit: None,
            downtime_limit: Duration::from_millis(300),
        }
    }

    #[test]
    fn the_line_says_all_that_matters() {
        assert_eq!(
            line(&view()),
            "pre-copy 3: sent 38.2 MiB, left 12.1 MiB, dirty 410K/s, wire 9.20M/s, 2.3 s"
        );
        assert_eq!(line(&MigrationView { phase: Phase::Connecting, ..view() }), "connecting with b");
        assert_eq!(
            line(&MigrationView { phase: Phase::StopAndCopy, ..view() }),
            "stop-and-copy: sent 38.2 MiB, left 12.1 MiB"
        );
        assert!(line(&MigrationView { estimate: None, ..view() }).ends_with(", no end"));
    }

    #[test]
    fn it_fits_a_row_also_with_large_figures() {
        let large = MigrationView {
            round: 30,
            sent_bytes: 999 << 30,
            remaining_bytes: 99 << 30,
            dirty_bytes_per_second: 99 << 30,
            wire_bytes_per_second: 9 << 30,
            estimate: Some(Duration::from_secs(599)),
            ..view()
        };
        assert!(line(&large).len() <= COLUMNS, "{}", line(&large));
    }
}
