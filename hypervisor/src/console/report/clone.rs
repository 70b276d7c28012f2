//! What a person is told of a clone.

use core::fmt::{self, Write};

use godwit_migration::Downtime;

use super::super::format::Span;
use super::super::view::MigrationReport;
use super::{InVain, figures, travelled};

pub(super) fn cloned(cloned: &MigrationReport, out: &mut impl Write) -> fmt::Result {
    let MigrationReport { guest, copy, peer, report, .. } = cloned;
    travelled(report, out)?;
    // The guest waits for nothing that comes after its state has been handed to the network.
    let Downtime { pause, harvest, pages, save, verify, total, .. } = report.downtime;
    write!(out, "downtime: {} = pause {} + dirty log {}", Span(total), Span(pause), Span(harvest))?;
    writeln!(out, " + last pages {}", Span(pages))?;
    writeln!(out, "  + devices {} + running again {}", Span(save), Span(verify))?;
    writeln!(out, "digest: {:016x} at both ends", report.digest)?;
    if report.stops.recalls() > 0 {
        writeln!(out, "{}", InVain(&report.stops))?;
    }
    write!(out, "{guest} cloned to {peer} as {}: ", copy.as_deref().unwrap_or_default())?;
    figures(report, out)
}

pub(super) fn unknown(guest: &str, peer: &str, out: &mut impl Write) -> fmt::Result {
    writeln!(out, "{guest}: {peer} was told to run the copy and did not answer; {guest} goes on here, and")?;
    writeln!(out, "  {peer} is asked until it does ('migrate cancel {guest}' ends that)")
}
