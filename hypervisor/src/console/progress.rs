//! The line that shows a migration's progress, redrawn in place; one line per phase stays.

use alloc::format;
use alloc::string::String;
use core::fmt::Write as _;
use core::time::Duration;

use godwit_migration::{PAGE_BYTES, Phase};

use super::format::{Bytes, ShortRate, Span};
use super::output::Output;
use super::row::Row;
use super::view::MigrationView;

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
        let is_new = self.last.as_ref().is_none_or(|last| last.status.phase != migration.status.phase);
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
    let status = &migration.status;
    let mut text = format!("{}", status.phase);
    let _infallible = match status.phase {
        Phase::Idle | Phase::Connecting | Phase::Negotiating | Phase::Building => {
            write!(text, " with {}", migration.peer)
        }
        Phase::PreCopy => precopy(migration, &mut text),
        _ => write!(text, ": sent {}, left {}", Bytes(status.bytes_sent), Bytes(left_bytes(migration))),
    };
    text
}

fn precopy(migration: &MigrationView, text: &mut String) -> core::fmt::Result {
    let status = &migration.status;
    write!(text, " {}: sent {}, ", status.round, Bytes(status.bytes_sent))?;
    let dirty = ShortRate(status.dirty_pages_per_second.saturating_mul(PAGE_BYTES as u64));
    let wire = ShortRate(status.bytes_per_second);
    write!(text, "left {}, dirty {dirty}, wire {wire}, ", Bytes(left_bytes(migration)))?;
    match status.remaining_estimate {
        Some(left) if left.as_secs() >= 60 => write!(text, "{} min", left.as_secs().div_ceil(60)),
        Some(left) => write!(text, "{}", Span(left)),
        None => write!(text, "no end"),
    }
}

/// Guest memory still to be sent, in bytes.
pub(super) fn left_bytes(migration: &MigrationView) -> u64 {
    u64::from(migration.status.pages_left) * PAGE_BYTES as u64
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use godwit_migration::Phase;

    use super::line;
    use crate::console::row::COLUMNS;
    use crate::console::tests::fake::migration;

    #[test]
    fn the_line_says_all_that_matters() {
        let mut view = migration(Phase::PreCopy, 3, 38);
        assert_eq!(
            line(&view),
            "pre-copy 3: sent 38.0 MiB, left 12.0 MiB, dirty 400K/s, wire 9.00M/s, 1.3 s"
        );
        view.status.remaining_estimate = None;
        assert!(line(&view).ends_with(", no end"));
        view.status.phase = Phase::Connecting;
        assert_eq!(line(&view), "connecting with b");
        view.status.phase = Phase::StopAndCopy;
        assert_eq!(line(&view), "stop-and-copy: sent 38.0 MiB, left 12.0 MiB");
    }

    #[test]
    fn it_fits_a_row_also_with_large_figures() {
        let mut view = migration(Phase::PreCopy, 60, 999 << 10);
        view.status.pages_left = u32::MAX;
        view.status.dirty_pages_per_second = 99 << 18;
        view.status.bytes_per_second = 9 << 30;
        view.status.remaining_estimate = Some(Duration::from_secs(599));
        assert!(line(&view).len() <= COLUMNS, "{}", line(&view));
    }
}
