//! Migrations as the console sees them: one under way, and the reports at the end.

use alloc::string::String;
use core::fmt;
use core::time::Duration;

/// Which end of a migration this host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The guest leaves this host.
    Source,
    /// The guest comes to this host.
    Target,
}

/// What a migration is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The stream to the peer is being opened.
    Connecting,
    /// Versions, capacity and CPU features are compared; nothing of the guest is sent yet.
    Negotiating,
    /// Memory is sent in rounds while the guest runs.
    PreCopy,
    /// The guest stands still; the last pages and its devices are sent.
    StopAndCopy,
    /// The target compares digests.
    Verifying,
    /// The right to run is handed over.
    Committing,
    /// It was cancelled or failed; the guest's dirty log is being completed and the target lets go.
    Cancelling,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Connecting => "connecting",
            Self::Negotiating => "negotiating",
            Self::PreCopy => "pre-copy",
            Self::StopAndCopy => "stop-and-copy",
            Self::Verifying => "verifying",
            Self::Committing => "committing",
            Self::Cancelling => "cancelling",
        })
    }
}

/// One migration under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationView {
    /// The guest that moves.
    pub guest: String,
    /// The other host.
    pub peer: String,
    /// Which end this host is.
    pub side: Side,
    /// What it is doing.
    pub phase: Phase,
    /// Round of pre-copy, from 1; 0 before the first.
    pub round: u32,
    /// Bytes on the wire so far, of everything (sent by a source, received by a target).
    pub sent_bytes: u64,
    /// Bytes of guest memory still to go in this round, before compression.
    pub remaining_bytes: u64,
    /// Guest memory newly dirtied, in bytes per second.
    pub dirty_bytes_per_second: u64,
    /// Bytes on the wire per second, lately.
    pub wire_bytes_per_second: u64,
    /// Time until the end, if it can be told: `None` while the guest dirties memory faster than the wire takes.
    pub estimate: Option<Duration>,
    /// Time since it began.
    pub elapsed: Duration,
    /// How much of its CPU time the guest is denied so that pre-copy converges, in percent.
    pub throttle_percent: u8,
    /// The cap on the wire, in bytes per second; `None`: no cap.
    pub bandwidth_limit: Option<u64>,
    /// The most downtime that the source may cause.
    pub downtime_limit: Duration,
}

/// Where the downtime went; the parts add up to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DowntimeView {
    /// From the decision to stop until every vCPU stood still.
    pub pause: Duration,
    /// Sending the last dirty pages.
    pub last_pages: Duration,
    /// Saving, sending and restoring device and CPU state.
    pub device_state: Duration,
    /// Computing and comparing digests.
    pub verify: Duration,
    /// Handing over the right to run, until the target's first instruction.
    pub commit: Duration,
}

impl DowntimeView {
    /// The whole downtime.
    #[must_use]
    pub fn total(&self) -> Duration {
        let Self { pause, last_pages, device_state, verify, commit } = *self;
        pause + last_pages + device_state + verify + commit
    }
}

/// Whether the target's digest over RAM and devices was compared with the source's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// Compared before the source gave up its right to run, and equal.
    Verified,
    /// Not compared.
    NotVerified,
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Verified => "verified",
            Self::NotVerified => "NOT VERIFIED",
        })
    }
}

/// The end of a migration, as its source saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationReport {
    /// The guest that moved.
    pub guest: String,
    /// Where it is now.
    pub peer: String,
    /// From the command to the release.
    pub total: Duration,
    /// The guest's standstill, by cause.
    pub downtime: DowntimeView,
    /// Rounds of pre-copy, with the last one.
    pub rounds: u32,
    /// Pages sent with their contents, counting each sending.
    pub pages_sent: u64,
    /// Pages sent as a mark only: zero or a duplicate.
    pub pages_marked: u64,
    /// Pages sent after the guest stood still.
    pub pages_stopped: u64,
    /// Bytes sent on the wire, of everything.
    pub sent_bytes: u64,
    /// Whether the target has what the source had.
    pub verification: Verification,
}

/// A migration that did not happen, as its source saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationFailure {
    /// The guest that stayed.
    pub guest: String,
    /// The other host.
    pub peer: String,
    /// Which end this host is.
    pub side: Side,
    /// Why, for a person: the rendering of the engine's typed reason.
    pub reason: String,
}

/// The end of a migration, as its target saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArrivalReport {
    /// The guest that came.
    pub guest: String,
    /// Where it came from.
    pub peer: String,
    /// From the first frame to the guest's first instruction here.
    pub total: Duration,
    /// The guest's standstill as far as the target can tell: from the last round's begin.
    pub downtime: Duration,
    /// Bytes received.
    pub received_bytes: u64,
    /// Whether this host has what the source had.
    pub verification: Verification,
}
