//! What a person is told when a migration has ended.
//!
//! The last line of each says all in one: it is what a script waits for.

use core::fmt::{self, Write};

use alloc::string::String;

use super::format::{Bytes, Span, printable};
use super::host::Notice;
use super::view::{ArrivalReport, DowntimeView, MigrationFailure, MigrationReport, Side};

/// Prints what happened, as lines.
pub(super) fn notice(notice: &Notice, out: &mut impl Write) -> fmt::Result {
    match notice {
        Notice::Moved(report) => moved(report, out),
        Notice::MigrationFailed(failure) => failed(failure, out),
        Notice::Arrived(report) => arrived(report, out),
        Notice::GuestEnded { guest, reason } => {
            writeln!(out, "{guest} ended: {}", printable(reason).collect::<String>())
        }
    }
}

fn moved(report: &MigrationReport, out: &mut impl Write) -> fmt::Result {
    let MigrationReport { guest, peer, total, downtime, rounds, .. } = report;
    let (sent, marked, stopped) = (report.pages_sent, report.pages_marked, report.pages_stopped);
    writeln!(out, "pages: {sent} sent, {marked} zero or duplicate, {stopped} of them while it stood still")?;
    let DowntimeView { pause, last_pages, device_state, verify, commit } = *downtime;
    write!(out, "downtime: pause {}, last pages {}", Span(pause), Span(last_pages))?;
    writeln!(out, ", devices {}, digest {}, commit {}", Span(device_state), Span(verify), Span(commit))?;
    let (total, downtime) = (Span(*total), Span(downtime.total()));
    write!(out, "{guest} moved to {peer}: total {total}, downtime {downtime}, rounds {rounds}, sent ")?;
    writeln!(out, "{}, {}", Bytes(report.sent_bytes), report.verification)
}

fn failed(failure: &MigrationFailure, out: &mut impl Write) -> fmt::Result {
    let MigrationFailure { guest, peer, side, reason } = failure;
    let reason = printable(reason).collect::<String>();
    match side {
        Side::Source => {
            writeln!(out, "migration of {guest} to {peer} failed: {reason}; the guest goes on here")
        }
        Side::Target => {
            writeln!(out, "migration of {guest} from {peer} failed: {reason}; what had arrived is discarded")
        }
    }
}

fn arrived(report: &ArrivalReport, out: &mut impl Write) -> fmt::Result {
    let ArrivalReport { guest, peer, .. } = report;
    let (total, downtime) = (Span(report.total), Span(report.downtime));
    write!(out, "{guest} arrived from {peer}: total {total}, downtime {downtime}, received ")?;
    writeln!(out, "{}, {}", Bytes(report.received_bytes), report.verification)
}
