//! What a person is told of pages that a third host keeps.

use core::fmt::{self, Write};

use godwit_migration::{SpoolEvent, Spooled};

use super::format::{Bytes, Span};
use super::view::{MigrationView, Side};
use godwit_migration::PAGE_BYTES;

/// Bytes of so many pages.
fn bytes(pages: u32) -> Bytes {
    Bytes(u64::from(pages) * PAGE_BYTES as u64)
}

/// Tells of `event` about `guest`; `peer` is the spool, and at the spool the target.
pub(super) fn told(guest: &str, peer: &str, event: &SpoolEvent, out: &mut impl Write) -> fmt::Result {
    match event {
        SpoolEvent::Unavailable(trouble) => {
            writeln!(out, "{guest}: {peer} cannot keep its pages: {trouble}")?;
            writeln!(out, "  the move goes on as without it; until it can, this host must not die")
        }
        SpoolEvent::Whole { pages } => {
            writeln!(out, "{guest}: all of it is at its new host or at {peer} ({pages} pages there);")?;
            writeln!(out, "  this host may die now")
        }
        SpoolEvent::Filling { lacks } => {
            writeln!(out, "{guest}: {peer} has pages that the lost host left with it: it sends what it has")?;
            writeln!(out, "  of {lacks} pages that are lacking")
        }
        SpoolEvent::Lost => {
            writeln!(out, "{guest}: the connection with {peer}, which had pages of it, is lost;")?;
            writeln!(out, "  it comes again by itself if it lives")
        }
        SpoolEvent::Spent { pages, left: 0, is_verified: true } => {
            writeln!(out, "{guest} is whole: {pages} pages came from {peer}, verified")
        }
        SpoolEvent::Spent { pages, left: 0, is_verified: false } => {
            writeln!(out, "{guest} is complete: {pages} pages came from {peer}; each was checked, but")?;
            writeln!(out, "  the source did not live to say the digest over all of them")
        }
        SpoolEvent::Spent { pages, left, .. } => {
            writeln!(out, "{guest}: {pages} pages came from {peer}, {left} are still lacking; if their")?;
            writeln!(out, "  host is gone for good: 'migrate takeover {guest}'")
        }
        SpoolEvent::Keeping { pages } => {
            writeln!(out, "{guest}: pages of it are kept here for {peer}, up to {}", bytes(*pages))
        }
        SpoolEvent::TurnedAway(why) => writeln!(out, "{guest}: pages of it were turned away: {why}"),
        SpoolEvent::Filled { pages } => {
            writeln!(out, "{guest}: all that {peer} could lack is at {peer} or here ({pages} pages)")
        }
        SpoolEvent::SourceLost { pages } => {
            writeln!(out, "{guest}: its old host is lost; {peer} is asked whether it needs the {pages} pages")
        }
        SpoolEvent::Giving { pages } => writeln!(out, "{guest}: {peer} takes {pages} pages from here"),
        SpoolEvent::Over(why) => writeln!(out, "{guest}: its pages are gone from here: {why}"),
    }
}

/// What a third host has to do with a move, as lines below it; nothing if there is none.
pub(super) fn status(migration: &MigrationView, out: &mut impl Write) -> fmt::Result {
    let spooled = migration.status.post_copy.as_ref().and_then(|post_copy| post_copy.spool);
    match (spooled, migration.third.as_deref()) {
        (Some(spooled), Some(third)) if migration.side == Side::Spool => {
            kept(third, migration, &spooled, out)
        }
        (Some(spooled), Some(third)) => writeln!(out, "  spool {third}: {}", At(migration.side, &spooled)),
        (None, Some(third)) => writeln!(out, "  spool {third}: used if memory goes after a switch"),
        (_, None) => Ok(()),
    }
}

/// At the spool.
fn kept(source: &str, migration: &MigrationView, spooled: &Spooled, out: &mut impl Write) -> fmt::Result {
    let Spooled { pages, left, is_connected, .. } = *spooled;
    write!(out, "  {pages} pages, {}, left by {source}", bytes(pages))?;
    let is_filled = migration.status.post_copy.is_some_and(|post_copy| post_copy.is_whole);
    write!(out, "{}", if is_filled { ", all that could be lacking" } else { "" })?;
    writeln!(out, "{}", if is_connected { "" } else { "; that is lost" })?;
    if left > 0 {
        writeln!(out, "  {left} of them still to be sent")?;
    }
    writeln!(out, "  'migrate release {}' lets them go", migration.guest)
}

/// How far it is, on one line.
pub(super) struct At<'a>(pub(super) Side, pub(super) &'a Spooled);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spooled { pages, left, whole_after, is_connected } = *self.1;
        if self.0 == Side::Target {
            return write!(f, "{pages} pages came from it");
        }
        write!(f, "{pages} pages there, ")?;
        match whole_after {
            Some(after) => write!(f, "whole {} after the switch", Span(after))?,
            None => write!(f, "{left} at neither yet")?,
        }
        f.write_str(if is_connected || whole_after.is_some() { "" } else { "; not connected" })
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::String;
    use core::time::Duration;

    use godwit_migration::{Phase, PostCopy, Refusal, SpoolEnd, SpoolTrouble, Waits};
    use std::vec;

    use super::*;
    use crate::console::tests::fake::migration;

    #[test]
    fn every_word_fits_the_terminal_and_names_guest_and_host() {
        let memory = Refusal::Memory { needed_bytes: 64 << 20, free_bytes: 12 << 20 };
        let lacking = |left, is_verified| SpoolEvent::Spent { pages: 2048, left, is_verified };
        for event in [
            SpoolEvent::Unavailable(SpoolTrouble::Refused(vec![memory])),
            SpoolEvent::Unavailable(SpoolTrouble::Unreachable),
            SpoolEvent::Whole { pages: 4096 },
            SpoolEvent::Filling { lacks: 2000 },
            SpoolEvent::Lost,
            lacking(0, true),
            lacking(0, false),
            lacking(17, false),
            SpoolEvent::Keeping { pages: 8192 },
            SpoolEvent::Filled { pages: 4096 },
            SpoolEvent::SourceLost { pages: 4096 },
            SpoolEvent::Giving { pages: 2048 },
            SpoolEvent::Over(SpoolEnd::Expired),
        ] {
            let mut text = String::new();
            told("linux", "far", &event, &mut text).unwrap();
            assert!(text.starts_with("linux"), "{text}");
            assert!(text.contains("far") || matches!(event, SpoolEvent::Over(_)), "{text}");
            assert!(text.lines().all(|line| line.len() < 100), "{text}");
        }
    }

    #[test]
    fn the_status_says_how_much_is_where_at_each_host() {
        let mut view = migration(Phase::PostCopy, 0, 1);
        view.third = Some("far".into());
        let text = |view: &MigrationView| {
            let mut text = String::new();
            status(view, &mut text).unwrap();
            text
        };
        assert_eq!(text(&view), "  spool far: used if memory goes after a switch\n");
        let spool = Spooled { pages: 256, left: 40, whole_after: None, is_connected: false };
        let post_copy = PostCopy {
            why: None,
            pages: 512,
            filling: Duration::ZERO,
            waits: Waits::default(),
            interruptions: 0,
            is_whole: false,
            spool: Some(spool),
        };
        view.status.post_copy = Some(post_copy);
        assert_eq!(text(&view), "  spool far: 256 pages there, 40 at neither yet; not connected\n");
        let whole_after = Some(Duration::from_secs(2));
        let spool = Spooled { left: 0, whole_after, is_connected: true, ..spool };
        view.status.post_copy = Some(PostCopy { spool: Some(spool), ..post_copy });
        assert_eq!(text(&view), "  spool far: 256 pages there, whole 2.0 s after the switch\n");
        view.side = Side::Target;
        assert_eq!(text(&view), "  spool far: 256 pages came from it\n");
        view.side = Side::Spool;
        view.status.post_copy = Some(PostCopy { is_whole: true, spool: Some(spool), ..post_copy });
        let shown = text(&view);
        assert!(shown.contains("256 pages, 1.00 MiB, left by far, all that could be lacking"), "{shown}");
        assert!(shown.contains("'migrate release linux'"), "{shown}");
    }
}
