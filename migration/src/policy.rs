//! How hard a migration tries: limits that a person can choose before and change during it.

use alloc::string::String;
use core::time::Duration;

use crate::permit::GuestId;

/// What a source engine is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Move the guest.
    Move,
    /// Find out what moving it would take ([`crate::Event::Estimated`]); nothing of the guest changes.
    Estimate,
    /// Make a copy of the guest, which runs at the target as a guest of its own; the guest itself goes on at the source.
    Clone(Identity),
}

/// Who a copy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Chosen at random, never used before.
    pub id: GuestId,
    /// Its name, 1 to [`crate::guest::NAME_BYTES_MAX`] bytes.
    pub name: String,
}

impl Purpose {
    /// `policy` as far as it goes with this purpose. A copy is complete before it runs, whatever the mode: after the switch
    /// the pages that it lacked would go on changing under the guest that it was made of.
    #[must_use]
    pub const fn bound(&self, policy: Policy) -> Policy {
        match self {
            Self::Clone(_) => Policy { mode: Mode::PreCopy, ..policy },
            Self::Move | Self::Estimate => policy,
        }
    }
}

/// How a guest's memory moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As pre-copy as long as rounds make the rest smaller; what would not fit the downtime limit then goes after the
    /// switch, if the target can do that. Without it as [`Self::PreCopy`].
    Auto,
    /// All of it before the switch: until then nothing that fails costs the guest more than a pause. A guest that writes
    /// faster than the link carries is throttled.
    PreCopy,
    /// All of it after the switch: the guest moves at once, and waits for each page that it needs before that has come.
    PostCopy,
    /// Each page once before the switch; what the guest has written meanwhile, after it.
    Hybrid,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Auto, Self::PreCopy, Self::PostCopy, Self::Hybrid];

    /// As a person writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::PreCopy => "precopy",
            Self::PostCopy => "postcopy",
            Self::Hybrid => "hybrid",
        }
    }
}

/// What to do when the guest cannot be moved within the downtime limit, even at the strongest throttle or after as
/// many stops as the policy allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Impatience {
    /// Give up: the guest goes on at the source.
    GiveUp,
    /// Stop the guest anyway, for longer than the limit.
    StopAnyway,
}

/// What becomes of a stop that takes longer than the downtime limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overrun {
    /// It is called back: the guest goes on at the source, pre-copy with it, and a better moment is waited for. That
    /// ends with the commit, after which the guest is the target's.
    Resume {
        /// After so many stops in vain (at least 1) [`Policy::impatience`] decides.
        stops_max: u32,
    },
    /// It is carried through: the limit is an estimate.
    CarryThrough,
}

/// Whether page content is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Zero pages and runs only.
    Off,
    /// Compress what pays, refer to similar pages that are at the target already.
    Adaptive,
}

/// Limits and choices for one outgoing migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What goes before the switch and what after it.
    pub mode: Mode,
    /// The guest is stopped only when the rest is expected to take no longer than this, and not for longer; see
    /// [`Self::overrun`].
    pub downtime_limit: Duration,
    /// What becomes of a stop that overruns the limit.
    pub overrun: Overrun,
    /// Most bytes per second on the link; `None` for no cap.
    pub bandwidth_bytes_per_second: Option<u64>,
    /// Strongest throttle, in percent of the guest's time taken away, 0 to 99. 0 never throttles.
    pub throttle_percent_max: u8,
    /// Most rounds of pre-copy.
    pub rounds_max: u32,
    /// Longest pre-copy.
    pub duration_max: Duration,
    /// What then.
    pub impatience: Impatience,
    /// Whether to compress.
    pub compression: Compression,
    /// Longest silence of the other host before it counts as lost.
    pub peer_timeout: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: Mode::Auto,
            downtime_limit: Duration::from_millis(300),
            overrun: Overrun::Resume { stops_max: 6 },
            bandwidth_bytes_per_second: None,
            throttle_percent_max: 90,
            rounds_max: 60,
            duration_max: Duration::from_secs(3600),
            impatience: Impatience::GiveUp,
            compression: Compression::Adaptive,
            peer_timeout: Duration::from_secs(30),
        }
    }
}

/// Limits and choices for one incoming migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetPolicy {
    /// Longest silence of the source, before the guest is complete here, before it counts as lost.
    pub peer_timeout: Duration,
    /// How long a complete guest whose source was lost is held, paused, for the source to come back and decide. So long a copy
    /// that runs is kept account of for a source that cannot be heard.
    pub hold: Duration,
}

/// Limits for pages that are kept for other hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpoolPolicy {
    /// Longest silence of another host before it counts as lost.
    pub peer_timeout: Duration,
    /// How long a source may be lost before the target is asked whether it needs the pages.
    pub grace: Duration,
    /// How long they are kept after the last word of source or target.
    pub hold: Duration,
}

impl Default for SpoolPolicy {
    fn default() -> Self {
        Self {
            peer_timeout: Duration::from_secs(30),
            grace: Duration::from_secs(3),
            hold: Duration::from_secs(600),
        }
    }
}

impl Default for TargetPolicy {
    fn default() -> Self {
        Self { peer_timeout: Duration::from_secs(30), hold: Duration::from_secs(600) }
    }
}
