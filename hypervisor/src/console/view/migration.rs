//! Migrations as the console sees them: one under way, and what is told at the end. The figures are the engine's
//! own ([`godwit_migration::Status`], [`godwit_migration::Report`]); what is added is who and where.

use alloc::string::String;
use core::time::Duration;

use godwit_migration::{Mode, Prediction, Recall, Report, Status, Why};

/// Which end of a migration this host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The guest leaves this host.
    Source,
    /// The guest comes to this host.
    Target,
    /// This host keeps pages of the guest for the other one.
    Spool,
}

/// One migration under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationView {
    /// What goes before the switch and what after it, at the source.
    pub mode: Mode,
    /// The guest that moves.
    pub guest: String,
    /// The name of the copy, if the guest stays and a copy of it is made.
    pub copy: Option<String>,
    /// The other host: its name, or its address if the configuration does not name it.
    pub peer: String,
    /// The third host, if there is one, as a name or an address: the spool, and at the spool the source.
    pub third: Option<String>,
    /// Which end this host is.
    pub side: Side,
    /// The engine's figures.
    pub status: Status,
    /// The cap on the wire, in bytes per second; `None`: no cap.
    pub bandwidth_limit: Option<u64>,
    /// The most downtime that the source may cause.
    pub downtime_limit: Duration,
}

/// A migration that came to its end: the guest runs at the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationReport {
    /// The guest that moved, or that was cloned.
    pub guest: String,
    /// The name of its copy, if that runs at the target and the guest goes on here.
    pub copy: Option<String>,
    /// The other host.
    pub peer: String,
    /// Which end this host is.
    pub side: Side,
    /// The engine's figures. That there is a report means that the target verified the digest.
    pub report: Report,
    /// What it was expected to take, if that was asked for before.
    pub estimate: Option<Prediction>,
}

/// What became of the guest when its migration failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aftermath {
    /// This host is the source, and the guest runs here as before.
    GoesOn,
    /// This host is the source and holds the guest, whole and paused: it could not be run again.
    Held,
    /// This host is the target, and has discarded what had arrived.
    Discarded,
}

/// A migration that did not happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationFailure {
    /// The guest that did not move, or was not cloned.
    pub guest: String,
    /// The name of the copy that was to be made of it, if one was.
    pub copy: Option<String>,
    /// The other host.
    pub peer: String,
    /// Why, for a person: the rendering of the engine's typed reason.
    pub reason: String,
    /// What a person can do about it.
    pub advice: Option<&'static str>,
    /// What became of the guest.
    pub aftermath: Aftermath,
}

/// Something about a migration under way that a person has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remark {
    /// It was to be cancelled, and is past the commit.
    CancelTooLate,
    /// A stop overran the downtime limit: the guest runs here again, and the move goes on.
    Recalled(Recall),
    /// The guest was stopped although the rest was expected to take longer than the downtime limit.
    LimitOverruled,
    /// The commit was sent and its answer lost: the guest is held until the other host has been asked.
    CommitUnknown,
    /// At the target: the guest is complete, and its source was lost before it said the commit: the guest is held.
    CommitAwaited,
    /// The commit of a clone was sent and its answer lost: the guest runs here, and the other host is asked whether the copy
    /// runs there.
    CopyUnknown,
    /// The other host was restarted since and does not know: a person has to decide.
    TargetForgot,
    /// The rest goes after the switch, and why.
    Switching(Why),
    /// At the source: the connection was lost after the switch.
    TargetCutOff,
    /// The same at the target.
    SourceCutOff,
    /// It stands again.
    Reconnected,
    /// The other host was restarted, and the guest was lost with it: a person has to decide.
    TargetLost,
    /// What came after the switch is not what was sent.
    DigestDiffers,
}

/// What moving a guest would take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationEstimate {
    /// The guest.
    pub guest: String,
    /// The other host.
    pub peer: String,
    /// The engine's figures.
    pub prediction: Prediction,
}

/// What a person decides when nobody can be asked who runs the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The other host does not and will not run it: it goes on here.
    Reclaim,
    /// The other host runs it: this one lets go of it.
    Release,
    /// The other host is gone for good: the guest goes on here with what has come.
    TakeOver,
}
