//! The round of pre-copy that is under way, and what its end tells of the wire.

use core::time::Duration;

use crate::time::Instant;

/// The round of pre-copy that is under way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Round {
    /// From 1; 0 before the first.
    pub(super) number: u32,
    /// Rounds whose ends have been said, that with the guest stopped included.
    pub(super) ends: u32,
    /// Pages to send at its beginning.
    pub(super) pages: u32,
    /// Bytes and non-zero pages sent before it.
    pub(super) bytes_before: u64,
    pub(super) pages_before: u64,
    /// The earliest end that was said and not answered.
    pub(super) end_said: Option<EndSaid>,
    /// The latest end that was answered.
    pub(super) ends_answered: u32,
    /// When the last harvest was asked for, and how long it took.
    pub(super) harvest_asked_at: Instant,
    pub(super) harvest_time: Duration,
    pub(super) first_began_at: Option<Instant>,
}

/// The end of a round on its way to the target.
#[derive(Clone, Copy, Debug)]
pub(super) struct EndSaid {
    pub(super) round: u32,
    pub(super) at: Instant,
    /// What was on its way before it.
    pub(super) queued_bytes: u64,
}
