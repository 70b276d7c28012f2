//! Watching a move or a clone until it is over, and which notices end what.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;
use core::time::Duration;

use godwit_migration::Phase;

use super::commands::Errand;
use super::host::{Host, Notice};
use super::output::Output;
use super::progress::Progress;
use super::row::Row;
use super::view::{Aftermath, MigrationView, Side};

/// Time after which a watched move that is in no list and in no notice is given up.
const LOST_AFTER: Duration = Duration::from_secs(5);

/// A move or a clone that is watched.
#[derive(Debug)]
pub(super) struct Watch {
    guest: String,
    peer: String,
    errand: Errand,
    progress: Progress,
    seen_at: Duration,
}

impl Watch {
    pub(super) fn new(
        (guest, peer): (String, String),
        errand: Errand,
        progress: Progress,
        now: Duration,
    ) -> Self {
        Self { guest, peer, errand, progress, seen_at: now }
    }

    /// When [`Self::proceed`] has something to do.
    pub(super) fn due(&self) -> Duration {
        self.progress.due()
    }

    /// Whether the notice ends what is watched.
    pub(super) fn ends_with(&self, notice: &Notice) -> bool {
        is_end_of(notice, &self.guest)
    }

    /// Leaves the last state as a line.
    pub(super) fn finish(&mut self, row: &mut Row, out: &mut Output) {
        self.progress.finish(row, out);
    }

    /// Shows the state again, below what came between.
    pub(super) fn redraw(&self, row: &mut Row, out: &mut Output) {
        self.progress.redraw(row, out);
    }

    /// A person does not want to watch any more.
    pub(super) fn leave(mut self, host: &dyn Host, row: &mut Row, out: &mut Output) {
        self.progress.finish(row, out);
        let Self { guest, peer, errand, .. } = self;
        let is_switched = |it: &MigrationView| {
            it.guest == guest && matches!(it.status.phase, Phase::PostCopy | Phase::Recovering)
        };
        let way_back = if host.migrations().iter().any(is_switched) {
            String::new()
        } else {
            format!(", 'migrate cancel {guest}' ends it")
        };
        let _infallible =
            writeln!(out, "the {errand} of {guest} to {peer} goes on: 'migrate status' shows it{way_back}");
    }

    /// Shows the move's state if it is time; whether there is still something to wait for.
    pub(super) fn proceed(
        &mut self,
        now: Duration,
        host: &dyn Host,
        row: &mut Row,
        out: &mut Output,
    ) -> bool {
        if now < self.progress.due() {
            return true;
        }
        let mut migrations: Vec<_> = host.migrations();
        migrations.retain(|migration| migration.side == Side::Source && migration.guest == self.guest);
        if let Some(migration) = migrations.pop() {
            self.seen_at = now;
            self.progress.sample(now, migration, row, out);
            return true;
        }
        self.progress.miss(now);
        if now.saturating_sub(self.seen_at) < LOST_AFTER {
            return true;
        }
        self.progress.finish(row, out);
        let _infallible =
            writeln!(out, "the {} of {} is over, and nothing says how: see 'log'", self.errand, self.guest);
        false
    }
}

/// The guest that is no longer here, if the notice says so.
pub(super) fn gone(notice: &Notice) -> Option<&str> {
    match notice {
        Notice::Moved(report) if report.side == Side::Source && report.copy.is_none() => Some(&report.guest),
        _ => None,
    }
}

/// The guest whose console has nothing more to show, if the notice says so.
pub(super) fn ended_here(notice: &Notice) -> Option<&str> {
    match notice {
        Notice::GuestEnded { guest, .. } => Some(guest),
        _ => gone(notice),
    }
}

/// Whether the notice ends a move or a clone of this guest from here.
fn is_end_of(notice: &Notice, guest: &str) -> bool {
    match notice {
        Notice::MigrationFailed(failure) => {
            failure.aftermath != Aftermath::Discarded && failure.guest == guest
        }
        Notice::Estimated(estimate) => estimate.guest == guest,
        Notice::Moved(report) => report.side == Side::Source && report.guest == guest,
        _ => gone(notice) == Some(guest),
    }
}
