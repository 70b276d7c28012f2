//! What a person is told when a migration has ended.
//!
//! The last line of each says all in one: it is what a script waits for.

use alloc::string::String;
use core::fmt::{self, Write};

use core::time::Duration;

use godwit_migration::{Downtime, PostCopy, Prediction, Report, Stage, Stops, Waits};

use super::format::{Bytes, Span, printable};
use super::host::Notice;
use super::spool;
use super::view::{Aftermath, MigrationEstimate, MigrationFailure, MigrationReport, Side};

mod clone;
mod judged;
mod remark;

pub(super) use judged::Judged;

/// Prints what happened, as lines.
pub(super) fn notice(notice: &Notice, out: &mut impl Write) -> fmt::Result {
    match notice {
        Notice::Moved(report) => match report.side {
            Side::Source if report.copy.is_some() => clone::cloned(report, out),
            Side::Source => moved(report, out),
            Side::Target | Side::Spool => arrived(report, out),
        },
        Notice::Estimated(estimate) => estimated(estimate, out),
        Notice::MigrationFailed(failure) => failed(failure, out),
        Notice::Migration { guest, peer, remark } => remark::told(guest, peer, *remark, out),
        Notice::Spool { guest, peer, event } => spool::told(guest, peer, event, out),
        Notice::MemoryLost { guest, peer, pages, ranges } => lost(guest, peer, *pages, ranges, out),
        Notice::GuestEnded { guest, reason } => {
            writeln!(out, "{guest} ended: {}", printable(reason).collect::<String>())
        }
    }
}

/// What went after the switch, as lines: why, how much, and how long the guest waited for it.
struct AfterSwitch<'a>(&'a PostCopy);

/// The same while it goes on. Of waits the source learns at the end.
pub(super) struct SinceSwitch<'a>(pub(super) &'a PostCopy);

impl fmt::Display for SinceSwitch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PostCopy { why, pages, filling, waits, interruptions, .. } = *self.0;
        write!(f, "  after the switch: {pages} pages")?;
        if let Some(why) = why {
            writeln!(f, ", {why}; for {} now", Span(filling))?;
        } else {
            writeln!(f, ", for {} now; the guest has waited {} times", Span(filling), waits.count)?;
        }
        write!(f, "{}", Waited(&waits))?;
        if interruptions > 0 {
            writeln!(f, "  the connection was lost, times: {interruptions}")?;
        }
        Ok(())
    }
}

/// How long the guest waited, if it did, as a line.
struct Waited<'a>(&'a Waits);

impl fmt::Display for Waited<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Waits { count, median, p99, longest, total } = *self.0;
        if count > 0 {
            write!(f, "  waits: p50 {}, p99 {}, ", Span(median), Span(p99))?;
            writeln!(f, "max {}, {} in all", Span(longest), Span(total))?;
        }
        Ok(())
    }
}

impl fmt::Display for AfterSwitch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PostCopy { why, pages, filling, waits, interruptions, is_whole: _, spool } = *self.0;
        if let Some(why) = why {
            writeln!(f, "after the switch: {pages} pages, {why}")?;
        } else {
            writeln!(f, "after the switch: {pages} pages")?;
        }
        if filling > Duration::ZERO {
            writeln!(f, "  last page after {}; the guest waited {} times", Span(filling), waits.count)?;
            write!(f, "{}", Waited(&waits))?;
        }
        if interruptions > 0 {
            writeln!(f, "  the connection was lost, times: {interruptions}")?;
        }
        if let Some(spool) = spool.filter(|_| why.is_some()) {
            writeln!(f, "  spool: {}", spool::At(Side::Source, &spool))?;
        } else if let Some(spool) = spool {
            writeln!(f, "  spool: {}", spool::At(Side::Target, &spool))?;
        }
        Ok(())
    }
}

/// What travelled.
fn travelled(report: &Report, out: &mut impl Write) -> fmt::Result {
    let pages = &report.pages;
    write!(out, "pages: {} zero, {} whole, {} compressed, ", pages.zero, pages.raw, pages.compressed)?;
    write!(out, "{} known, {} unchanged; ", pages.referenced, pages.unchanged)?;
    writeln!(out, "{} while stopped", report.pages_in_downtime)
}

fn moved(moved: &MigrationReport, out: &mut impl Write) -> fmt::Result {
    let MigrationReport { guest, peer, report, .. } = moved;
    let Report { downtime, stops, .. } = report;
    travelled(report, out)?;
    write!(out, "{}", Causes(downtime))?;
    if is_whole(report) {
        writeln!(out, "digest: {:016x} at both ends", report.digest)?;
    }
    if stops.recalls() > 0 {
        writeln!(out, "{}", InVain(stops))?;
    }
    if let Some(post_copy) = &report.post_copy {
        write!(out, "{}", AfterSwitch(post_copy))?;
    }
    if let Some(estimate) = &moved.estimate {
        expected(estimate, out)?;
    }
    write!(out, "{guest} moved to {peer}: ")?;
    figures(report, out)
}

/// All in one: what a script looks for.
fn figures(report: &Report, out: &mut impl Write) -> fmt::Result {
    let Report { total, downtime, stops, rounds, .. } = report;
    write!(out, "total {}, downtime {}, ", Span(*total), Span(downtime.total))?;
    if stops.count > 1 {
        write!(out, "stops {}, ", stops.count)?;
    }
    write!(out, "rounds {rounds}, ")?;
    writeln!(out, "sent {}, {}", Bytes(report.bytes_sent), verdict(report))
}

/// The stops of which some were called back: how many, how long, and at what.
pub(super) struct InVain<'a>(pub(super) &'a Stops);

impl fmt::Display for InVain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stops { count, longest, total, recalled } = self.0;
        write!(f, "stops: {count}, {} in all, the longest {}; called back:", Span(*total), Span(*longest))?;
        let mut separator = "";
        for (stage, recalls) in Stage::ALL.iter().zip(recalled).filter(|(_, recalls)| **recalls > 0) {
            write!(f, "{separator} {recalls} {stage}")?;
            separator = ",";
        }
        Ok(())
    }
}

/// The downtime's causes, as lines that fit a terminal; the last tells what in it was work of the target's.
struct Causes<'a>(&'a Downtime);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Downtime { pause, harvest, pages, save, verify, commit, total, restore, start } = *self.0;
        write!(f, "downtime: {} = pause {} + dirty log {}", Span(total), Span(pause), Span(harvest))?;
        writeln!(f, " + last pages {}", Span(pages))?;
        writeln!(f, "  + devices {} + verify {} + commit {}", Span(save), Span(verify), Span(commit))?;
        writeln!(
            f,
            "  the target's part: restore {} of verify, start {} of commit",
            Span(restore),
            Span(start)
        )
    }
}

/// Whether all of the guest's memory has come and is what it was: a move that began without all of it may have ended so.
fn is_whole(report: &Report) -> bool {
    report.post_copy.is_none_or(|post_copy| post_copy.is_whole || post_copy.pages == 0)
}

/// What is known of the guest's memory at the end.
fn verdict(report: &Report) -> &'static str {
    if is_whole(report) { "verified" } else { "not whole" }
}

fn estimated(estimate: &MigrationEstimate, out: &mut impl Write) -> fmt::Result {
    let MigrationEstimate { guest, peer, prediction } = estimate;
    let Prediction { ends, total, downtime, bytes, rounds, after_switch, why } = *prediction;
    if !ends {
        writeln!(out, "{guest} to {peer}: it writes faster than the wire carries, and would come to no end")?;
        return writeln!(out, "  in this mode and with these limits ({rounds} rounds were looked at)");
    }
    if let Some(why) = why {
        writeln!(out, "after the switch: {after_switch} pages, {why}")?;
    }
    write!(out, "{guest} to {peer} would take: total {}, downtime {}, ", Span(total), Span(downtime))?;
    writeln!(out, "rounds {rounds}, sent {}", Bytes(bytes))
}

/// What had been estimated, as a line above what came of it.
fn expected(prediction: &Prediction, out: &mut impl Write) -> fmt::Result {
    let Prediction { ends, total, downtime, bytes, rounds, .. } = *prediction;
    if !ends {
        return writeln!(out, "estimated: no end ({rounds} rounds were looked at)");
    }
    write!(out, "estimated: total {}, downtime {}, ", Span(total), Span(downtime))?;
    writeln!(out, "rounds {rounds}, sent {}", Bytes(bytes))
}

fn lost(guest: &str, peer: &str, pages: u32, ranges: &[(u64, u32)], out: &mut impl Write) -> fmt::Result {
    writeln!(out, "{guest}: {pages} pages were still at {peer} and are lost; it stops if it touches one:")?;
    let mut named = 0;
    for (address, count) in ranges {
        writeln!(out, "  {address:#x}, {count} pages")?;
        named += count;
    }
    if named < pages {
        writeln!(out, "  and {} more", pages - named)?;
    }
    Ok(())
}

fn arrived(arrived: &MigrationReport, out: &mut impl Write) -> fmt::Result {
    let MigrationReport { guest, peer, report, .. } = arrived;
    if let Some(post_copy) = &report.post_copy {
        write!(out, "{}", AfterSwitch(post_copy))?;
    }
    write!(out, "{guest} arrived from {peer}: total {}, ", Span(report.total))?;
    writeln!(
        out,
        "received {}, digest {:016x}, {}",
        Bytes(report.bytes_received),
        report.digest,
        verdict(report)
    )
}

fn failed(failure: &MigrationFailure, out: &mut impl Write) -> fmt::Result {
    let MigrationFailure { guest, copy, peer, reason, advice, aftermath } = failure;
    let reason = printable(reason).collect::<String>();
    let way = if *aftermath == Aftermath::Discarded { "from" } else { "to" };
    match copy {
        Some(copy) => write!(out, "clone of {guest} {way} {peer} as {copy}")?,
        None => write!(out, "migration of {guest} {way} {peer}")?,
    }
    let outcome = match aftermath {
        Aftermath::GoesOn => "the guest goes on here",
        Aftermath::Held => "the guest is held here, paused",
        Aftermath::Discarded => "what had arrived is discarded",
    };
    write!(out, " failed: {reason}; {outcome}")?;
    if let Some(advice) = advice {
        write!(out, " ({advice})")?;
    }
    writeln!(out)
}
