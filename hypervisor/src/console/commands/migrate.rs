//! `migrate`: moves of guests.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write as _};

use godwit_migration::{PAGE_BYTES, Phase, Purpose};

use super::super::format::{Bytes, Rate, Span};
use super::super::help;
use super::super::host::{Host, Tuning};
use super::super::output::Output;
use super::super::progress::left_bytes;
use super::super::report::{InVain, Judged, SinceSwitch};
use super::super::view::{Decision, MigrationView, Side};
use super::super::{spool, suggest};
use super::clone::{as_copy, errand};
use super::{CommandError, Errand, Next, guest_named, known};

/// `migrate [estimate] GUEST HOST [OPTIONS]`.
pub(super) fn begin(
    (guest, peer, spool): (&str, &str, Option<&str>),
    tunings: &[Tuning],
    purpose: Purpose,
    host: &mut dyn Host,
    out: &mut Output,
) -> Result<Next, CommandError> {
    let guest = moving(guest, host).map_err(|error| or_a_word(error, guest))?;
    let names = || host.peers().into_iter().map(|peer| peer.name).collect();
    let peer = known("host", peer, names())?;
    if let Some(spool) = spool.filter(|spool| *spool == peer || *spool == host.name()) {
        return Err(CommandError::SpoolIsNoThird(String::from(spool)));
    }
    let spool = spool.map(|spool| known("host", spool, names())).transpose()?;
    host.migrate(&guest, &peer, tunings, purpose.clone(), spool.as_deref())?;
    match &purpose {
        Purpose::Move => {
            if let Some(spool) = &spool {
                writeln!(out, "{spool} keeps what goes after a switch, too")?;
            }
            writeln!(out, "moving {guest} to {peer}; Ctrl-C comes back to the prompt, the move goes on")?;
        }
        Purpose::Estimate => writeln!(out, "watching {guest} for two seconds, and the way to {peer}")?,
        // That has a command of its own.
        Purpose::Clone(_) => {}
    }
    Ok(Next::Watch { guest, peer, errand: Errand::Move })
}

/// The error, or if `typed` is nearly a word that `migrate` knows the same with that.
fn or_a_word(error: CommandError, typed: &str) -> CommandError {
    let words = help::entry("migrate").into_iter().flat_map(|entry| entry.first_words());
    match (error, suggest::nearest(typed, words)) {
        (CommandError::NoSuchName { kind, name, known, meant: None }, Some(word)) => {
            CommandError::NoSuchName { kind, name, known, meant: Some(format!("migrate {word}")) }
        }
        (error, _) => error,
    }
}

/// `migrate status [GUEST]`.
pub(super) fn status(guest: Option<&str>, host: &dyn Host, out: &mut Output) -> Result<(), CommandError> {
    let mut migrations = host.migrations();
    if let Some(name) = guest {
        let name = moving(name, host)?;
        migrations.retain(|migration| migration.guest == name);
        if migrations.is_empty() {
            writeln!(out, "{name} is not being moved")?;
            return Ok(());
        }
    }
    if migrations.is_empty() {
        writeln!(out, "no guest is being moved")?;
    }
    for migration in &migrations {
        show(migration, out)?;
    }
    Ok(())
}

/// The guest's name, if there is such a guest, or pages of one are kept here.
fn moving(name: &str, host: &dyn Host) -> Result<String, CommandError> {
    let is_kept = |migration: &MigrationView| migration.side == Side::Spool && migration.guest == name;
    if host.migrations().iter().any(is_kept) {
        return Ok(String::from(name));
    }
    guest_named(name, host)
}

/// `migrate cancel [GUEST]`.
pub(super) fn cancel(guest: Option<&str>, host: &mut dyn Host, out: &mut Output) -> Result<(), CommandError> {
    let guest = match guest {
        Some(name) => guest_named(name, host)?,
        None => {
            let mut moves = host.migrations();
            moves.retain(|migration| migration.side != Side::Spool);
            the_only(moves)?.ok_or(CommandError::NothingMoves)?
        }
    };
    let errand = errand(&guest, host);
    host.cancel(&guest)?;
    writeln!(out, "the {errand} of {guest} is being cancelled")?;
    Ok(())
}

/// `migrate recover GUEST [HOST]`.
pub(super) fn recover(
    guest: &str,
    peer: Option<&str>,
    host: &mut dyn Host,
    out: &mut Output,
) -> Result<(), CommandError> {
    let guest = guest_named(guest, host)?;
    let names = || host.peers().into_iter().map(|peer| peer.name).collect();
    let peer = peer.map(|peer| known("host", peer, names())).transpose()?;
    host.recover(&guest, peer.as_deref())?;
    writeln!(out, "asking again")?;
    Ok(())
}

/// `migrate set [GUEST] mode|bandwidth|downtime VALUE`.
pub(super) fn set(
    guest: Option<&str>,
    tuning: Tuning,
    host: &mut dyn Host,
    out: &mut Output,
) -> Result<(), CommandError> {
    let mut outgoing = host.migrations();
    outgoing.retain(|migration| migration.side == Side::Source);
    let guest = match guest {
        Some(name) => Some(guest_named(name, host)?),
        None => the_only(outgoing)?,
    };
    host.tune(guest.as_deref(), tuning)?;
    match &guest {
        Some(guest) => write!(out, "the {} of {guest}: ", errand(guest, host))?,
        None => write!(out, "moves from now on: ")?,
    }
    match tuning {
        Tuning::Bandwidth(None) => writeln!(out, "no cap on bandwidth")?,
        Tuning::Bandwidth(Some(rate)) => writeln!(out, "at most {}", Rate(rate))?,
        Tuning::Downtime(limit) => writeln!(out, "a downtime of at most {}", Span(limit))?,
        Tuning::Mode(mode) => writeln!(out, "mode {}", mode.name())?,
    }
    Ok(())
}

/// The guest of the one move there is; `None` if there is none.
fn the_only(migrations: Vec<MigrationView>) -> Result<Option<String>, CommandError> {
    let mut guests: Vec<String> = migrations.into_iter().map(|migration| migration.guest).collect();
    match guests.len() {
        0 | 1 => Ok(guests.pop()),
        _ => Err(CommandError::WhichMove(guests)),
    }
}

/// `migrate reclaim|release|takeover GUEST`.
pub(super) fn decide(
    guest: &str,
    decision: Decision,
    host: &mut dyn Host,
    out: &mut Output,
) -> Result<(), CommandError> {
    let guest = moving(guest, host)?;
    host.decide(&guest, decision)?;
    match decision {
        Decision::Reclaim => writeln!(out, "{guest} goes on here")?,
        Decision::Release => writeln!(out, "what was kept here for the move of {guest} is let go of")?,
        Decision::TakeOver => writeln!(out, "{guest} goes on here without its source")?,
    }
    Ok(())
}

fn show(migration: &MigrationView, out: &mut Output) -> fmt::Result {
    let MigrationView { guest, copy, peer, side, status, .. } = migration;
    if *side == Side::Spool {
        writeln!(out, "{guest} for {peer}: {}, for {}", status.phase, Span(status.elapsed))?;
        return spool::status(migration, out);
    }
    let (way, moved) = match side {
        Side::Source => ("to", status.bytes_sent),
        Side::Target | Side::Spool => ("from", status.bytes_received),
    };
    write!(out, "{guest} {way} {peer}{}: ", as_copy(copy.as_deref()))?;
    if copy.is_some() {
        write!(out, "{}, ", Errand::Clone)?;
    }
    write!(out, "{}", status.phase)?;
    if status.phase == Phase::PreCopy {
        write!(out, ", round {}", status.round)?;
    }
    writeln!(out, ", for {}", Span(status.elapsed))?;
    let verb = if *side == Side::Source { "sent" } else { "received" };
    writeln!(out, "  {verb} {}, left {}", Bytes(moved), Bytes(left_bytes(migration)))?;
    if let Some(post_copy) = &status.post_copy {
        write!(out, "{}", SinceSwitch(post_copy))?;
    }
    spool::status(migration, out)?;
    if *side == Side::Target || status.phase == Phase::Recovering {
        return Ok(());
    }
    write!(out, "  wire {}", Rate(status.bytes_per_second))?;
    match migration.bandwidth_limit {
        Some(limit) => write!(out, " (at most {})", Rate(limit))?,
        None => write!(out, " (no cap)")?,
    }
    if status.phase == Phase::PostCopy {
        return writeln!(out);
    }
    let dirty = status.dirty_pages_per_second.saturating_mul(PAGE_BYTES as u64);
    write!(out, ", dirty rate {}", Rate(dirty))?;
    match status.throttle_percent {
        0 => writeln!(out)?,
        percent => writeln!(out, ", guest slowed by {percent} %")?,
    }
    write!(out, "  mode {}, downtime at most {}", migration.mode.name(), Span(migration.downtime_limit))?;
    if let Some(now) = status.downtime_estimate {
        write!(out, ", {} if it stopped now", Span(now))?;
    }
    match status.remaining_estimate {
        Some(left) => writeln!(out, "; about {} left", Span(left))?,
        None => writeln!(out, "; no end in sight yet")?,
    }
    if let Some(judgement) = &status.judgement {
        writeln!(out, "  {}", Judged(judgement))?;
    }
    if status.stops.recalls() > 0 {
        writeln!(out, "  {}", InVain(&status.stops))?;
    }
    Ok(())
}
