//! What a person is told of a migration while it goes on: above all, which word decides if a host is gone.

use core::fmt::{self, Write};

use godwit_migration::Recall;

use super::super::format::Span;
use super::super::view::Remark;
use super::clone;

pub(super) fn told(guest: &str, peer: &str, remark: Remark, out: &mut impl Write) -> fmt::Result {
    match remark {
        Remark::CancelTooLate => writeln!(out, "{guest}: too late to cancel, {peer} may run it already"),
        Remark::Recalled(Recall { stage, stood_still, recalls }) => {
            write!(out, "{guest}: stop {recalls} was called back after {}, {stage}; ", Span(stood_still))?;
            writeln!(out, "it runs here, the migration goes on")
        }
        Remark::LimitOverruled => {
            writeln!(out, "{guest}: stopped although the rest will take longer than the downtime limit")
        }
        Remark::CopyUnknown => clone::unknown(guest, peer, out),
        Remark::Switching(why) => {
            writeln!(out, "{guest}: switching to {peer} before all memory is there, {why}")
        }
        Remark::Reconnected => writeln!(out, "{guest}: {peer} is back, memory flows again"),
        Remark::DigestDiffers => {
            writeln!(out, "{guest}: what came after the switch is not what its source had; do not trust it")
        }
        Remark::CommitUnknown
        | Remark::CommitAwaited
        | Remark::TargetCutOff
        | Remark::SourceCutOff
        | Remark::TargetLost
        | Remark::TargetForgot => undecided(guest, peer, remark, out),
    }
}

/// The other host cannot be heard or does not know, and a person may have to decide.
fn undecided(guest: &str, peer: &str, remark: Remark, out: &mut impl Write) -> fmt::Result {
    match remark {
        Remark::CommitUnknown => {
            writeln!(out, "{guest}: {peer} was told to run it and did not answer; it is held here until")?;
            writeln!(out, "  {peer} has been asked, so that it never runs twice; if {peer} never answers:")?;
            who_runs_it(guest, out)
        }
        Remark::CommitAwaited => {
            writeln!(
                out,
                "{guest}: complete here, and {peer} was lost before it said to run it; it is held"
            )?;
            writeln!(out, "  for ten minutes, until {peer} is back; if {peer} is gone for good:")?;
            writeln!(out, "  'migrate takeover {guest}': it goes on here")
        }
        Remark::TargetCutOff => {
            writeln!(
                out,
                "{guest}: the connection with {peer} is lost before all memory was there; it goes on"
            )?;
            writeln!(out, "  there, and {peer} is tried again ('migrate recover {guest}': now)")?;
            writeln!(out, "  if {peer} is gone for good: 'migrate reclaim {guest}', to go on from the switch")
        }
        Remark::SourceCutOff => {
            writeln!(
                out,
                "{guest}: the connection with {peer} is lost before all memory was there; it goes on"
            )?;
            writeln!(out, "  with what has come, and waits for the rest until {peer} is back")?;
            writeln!(out, "  if {peer} is gone for good: 'migrate takeover {guest}', to go on without")
        }
        Remark::TargetLost => {
            writeln!(
                out,
                "{guest}: {peer} was restarted while it ran there, and it is lost with it, or is not"
            )?;
            writeln!(out, "  the host where it runs ('migrate recover {guest} HOST' asks another); decide:")?;
            writeln!(out, "  'migrate reclaim {guest}': it goes on here from where it was switched")?;
            writeln!(out, "  'migrate release {guest}': nobody wants that")
        }
        Remark::TargetForgot => {
            writeln!(
                out,
                "{guest}: {peer} does not know whether it ran it: it was restarted, or was not asked"
            )?;
            writeln!(out, "  before ('migrate recover {guest} HOST' asks another); decide:")?;
            who_runs_it(guest, out)
        }
        _ => Ok(()),
    }
}

fn who_runs_it(guest: &str, out: &mut impl Write) -> fmt::Result {
    writeln!(out, "  'migrate reclaim {guest}' if no other host runs it: it goes on here")?;
    writeln!(out, "  'migrate release {guest}' if another runs it: this host lets go of it")
}
