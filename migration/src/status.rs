//! What a person is shown while a migration runs, and the report at its end.

use core::fmt;
use core::time::Duration;

/// Where a migration stands. One list for both roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Source: not started.
    Idle,
    /// Source: waiting for a connection.
    Connecting,
    /// Source: waiting for the target to accept. Target: waiting for the source's hello.
    Negotiating,
    /// Target: the guest is being built.
    Building,
    /// Pages are on their way while the guest runs.
    PreCopy,
    /// The guest is paused; its last pages and devices are on their way.
    StopAndCopy,
    /// The target compares digests and restores devices.
    Verifying,
    /// Source: the stop overran the limit, the guest is about to run here again.
    Resuming,
    /// Source: the commit has been sent and is not yet acknowledged. Target: complete, waiting for the commit.
    Committing,
    /// Source: the commit was sent and the link was lost; the guest is held until the target has been asked.
    /// Target: complete, but the source was lost before its commit arrived; the guest is held.
    CommitUnknown,
    /// The guest runs at the target, and what is left of its memory is on its way there.
    PostCopy,
    /// As [`Self::PostCopy`], but the connection is lost: the guest runs on the pages that it has, and the source tries to
    /// reach the target.
    Recovering,
    /// Spool: pages are kept for a target that lacks them.
    Spooling,
    /// The guest has moved.
    Completed,
    /// Being undone.
    Aborting,
    /// Undone: the guest is where it was.
    Aborted,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle",
            Self::Connecting => "connecting",
            Self::Negotiating => "negotiating",
            Self::Building => "building",
            Self::PreCopy => "pre-copy",
            Self::StopAndCopy => "stop-and-copy",
            Self::Verifying => "verifying",
            Self::Resuming => "resuming",
            Self::Committing => "committing",
            Self::CommitUnknown => "commit unknown",
            Self::PostCopy => "post-copy",
            Self::Recovering => "recovering",
            Self::Spooling => "spooling",
            Self::Completed => "completed",
            Self::Aborting => "aborting",
            Self::Aborted => "aborted",
        })
    }
}

/// Pages by the way they travelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageCounts {
    /// As a member of a run of zero pages.
    pub zero: u64,
    /// As they are.
    pub raw: u64,
    /// Compressed.
    pub compressed: u64,
    /// As a reference to an identical or similar page that is at the target already.
    pub referenced: u64,
    /// Not at all: marked dirty, but the target has that content already. Counted at the source only.
    pub unchanged: u64,
}

impl PageCounts {
    /// Pages that travelled.
    #[must_use]
    pub const fn sent(&self) -> u64 {
        self.zero + self.raw + self.compressed + self.referenced
    }
}

/// How long a guest waited for pages that had not come yet. Percentiles are too long by a quarter at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// How often.
    pub count: u64,
    /// Half of the waits were no longer.
    pub median: Duration,
    /// 99 of 100 were no longer.
    pub p99: Duration,
    /// The longest.
    pub longest: Duration,
    /// All together.
    pub total: Duration,
}

/// Why memory goes after the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The mode says so.
    Asked,
    /// Another round would not make the rest much smaller: so many pages were left after so many had been sent.
    Stalled {
        /// Left.
        left: u32,
        /// Sent in the round.
        sent: u32,
    },
    /// The most rounds, or the longest pre-copy, that the policy allows.
    RoundsOver(u32),
    /// The stop would have overrun the downtime limit with so many pages still to send.
    Overrun(u32),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => f.write_str("as was asked for"),
            Self::Stalled { left, sent } => {
                write!(f, "since rounds did not pay: {sent} sent, {left} dirty again")
            }
            Self::RoundsOver(rounds) => write!(f, "since {rounds} rounds were not enough"),
            Self::Overrun(left) => write!(f, "since {left} did not fit the downtime limit"),
        }
    }
}

/// What was decided behind a round of pre-copy, and by what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Rounds that had ended.
    pub rounds: u32,
    /// Pages that the last of them sent.
    pub sent: u32,
    /// Pages that were left then.
    pub left: u32,
    /// Expected downtime if the guest had been stopped then; `None` if that was not known.
    pub downtime: Option<Duration>,
    /// The downtime limit then.
    pub limit: Duration,
    /// What was to be done.
    pub next: Next,
}

/// What follows a round of pre-copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another round.
    Round,
    /// What is under way is let arrive first.
    Drain,
    /// The guest runs for a while before it is stopped again.
    Rest,
    /// The guest is slowed by so many percent.
    Throttle(u8),
    /// The guest is stopped, and all that is left sent.
    Stop,
    /// The same, although that takes longer than the limit.
    StopAnyway,
    /// The guest is switched, and what is left goes behind that.
    Switch(Why),
}

/// What a migration is expected to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prediction {
    /// Whether it would come to an end at all under its policy.
    pub ends: bool,
    /// From its beginning until the guest is whole at the target.
    pub total: Duration,
    /// How long the guest stands still.
    pub downtime: Duration,
    /// Bytes on the wire.
    pub bytes: u64,
    /// Rounds before the switch.
    pub rounds: u32,
    /// Pages that go after it.
    pub after_switch: u32,
    /// Why they do.
    pub why: Option<Why>,
}

/// The part of a migration that comes after the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PostCopy {
    /// Why there is one; known to the source alone.
    pub why: Option<Why>,
    /// Pages that were absent when the guest began to run at the target.
    pub pages: u32,
    /// From then until the last page had come, or until now.
    pub filling: Duration,
    /// The guest's waits; the source learns of them at the end.
    pub waits: Waits,
    /// How often the connection was lost.
    pub interruptions: u32,
    /// Everything has come, and at the target its digest is what it should be. If not so at the end, the guest had ended, or
    /// a person gave up what was missing.
    pub is_whole: bool,
    /// What a third host has to do with it, if one has.
    pub spool: Option<Spooled>,
}

/// Pages that a third host keeps or kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spooled {
    /// Source and spool: pages that the spool has. Target: pages that came from it.
    pub pages: u32,
    /// Source: pages of which neither the target nor the spool has said that they are there. Spool: pages that the target
    /// is still to be sent from here.
    pub left: u32,
    /// Source: how long after the switch none was left any more, and the source could have died. `None` if it never came to that.
    pub whole_after: Option<Duration>,
    /// Whether the connection to it stands; at the spool, that from the source.
    pub is_connected: bool,
}

/// The guest's downtime by cause, as the source measured it. Causes follow one another and
/// add up to `total`, `restore` and `start` aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Downtime {
    /// From asking for the pause until the guest stood still.
    pub pause: Duration,
    /// Collecting the last dirty pages.
    pub harvest: Duration,
    /// Sending them.
    pub pages: Duration,
    /// Saving vCPUs and devices.
    pub save: Duration,
    /// Sending that state, and the target's verification and restoring of it.
    pub verify: Duration,
    /// How much of `verify` the target spent on restoring devices, by its own clock.
    pub restore: Duration,
    /// From sending the commit until the target said that the guest runs.
    pub commit: Duration,
    /// How much of `commit` the target spent on starting the guest, by its own clock.
    pub start: Duration,
    /// From asking for the pause until the guest was known to run again.
    pub total: Duration,
}

/// What a stop was at when it overran the downtime limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The guest was being paused.
    Pause,
    /// The last dirty pages were being collected.
    Harvest,
    /// vCPUs and devices were being saved.
    Save,
    /// The last pages were being sent.
    Pages,
    /// Device state was on its way, or the target verified and restored.
    Verify,
    /// The target was ready, but the rest of the time was too short for the commit's round trip.
    Commit,
}

impl Stage {
    /// All of them, in the order of a stop.
    pub const ALL: [Self; 6] =
        [Self::Pause, Self::Harvest, Self::Save, Self::Pages, Self::Verify, Self::Commit];
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pause => "while the guest was paused",
            Self::Harvest => "while dirty pages were collected",
            Self::Save => "while devices were saved",
            Self::Pages => "while the last pages were sent",
            Self::Verify => "while the target verified",
            Self::Commit => "too late for the commit",
        })
    }
}

/// A stop that overran the downtime limit and was called back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recall {
    /// What it was at.
    pub stage: Stage,
    /// From asking for the pause until the guest was known to run again.
    pub stood_still: Duration,
    /// Stops called back so far, this one included.
    pub recalls: u32,
}

/// All times that the source stopped the guest, each from asking for the pause until the guest was known to run again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stops {
    /// How many, that under way included.
    pub count: u32,
    /// The longest.
    pub longest: Duration,
    /// All together.
    pub total: Duration,
    /// How many were called back at each of [`Stage::ALL`].
    pub recalled: [u16; Stage::ALL.len()],
}

impl Stops {
    /// How many were called back.
    #[must_use]
    pub fn recalls(&self) -> u32 {
        self.recalled.iter().map(|count| u32::from(*count)).sum()
    }

    /// With one more that took `time` or has gone on for so long.
    #[must_use]
    pub(crate) fn with(self, time: Duration) -> Self {
        let Self { count, longest, total, recalled } = self;
        Self {
            count: count.saturating_add(1),
            longest: longest.max(time),
            total: total.saturating_add(time),
            recalled,
        }
    }

    /// Adds one that was called back at `stage`.
    pub(crate) fn recalled(&mut self, stage: Stage, time: Duration) {
        *self = self.with(time);
        self.recalled[stage as usize] = self.recalled[stage as usize].saturating_add(1);
    }
}

/// A snapshot of a migration, for progress lines and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Where it stands.
    pub phase: Phase,
    /// Round of pre-copy, from 1; 0 before the first.
    pub round: u32,
    /// Pages of the guest.
    pub pages_total: u32,
    /// Pages still to be sent, as far as is known.
    pub pages_left: u32,
    /// Pages by the way they travelled.
    pub pages: PageCounts,
    /// Bytes put on the link.
    pub bytes_sent: u64,
    /// Bytes taken from the link.
    pub bytes_received: u64,
    /// Pages that the guest dirties per second; 0 once it runs elsewhere.
    pub dirty_pages_per_second: u64,
    /// Bytes per second that the link was seen to carry; 0 while unknown.
    pub bytes_per_second: u64,
    /// Throttle in percent.
    pub throttle_percent: u8,
    /// Expected downtime if the guest were stopped now; `None` while unknown.
    pub downtime_estimate: Option<Duration>,
    /// Expected time until completion; `None` while unknown or if it does not converge.
    pub remaining_estimate: Option<Duration>,
    /// Time since the start.
    pub elapsed: Duration,
    /// Downtime by cause, as far as it has happened, of the stop under way or the last.
    pub downtime: Downtime,
    /// All stops.
    pub stops: Stops,
    /// What was decided behind the last round, if one has ended, and why.
    pub judgement: Option<Judgement>,
    /// What comes after the switch, once that is decided.
    pub post_copy: Option<PostCopy>,
}

/// The end of a migration in figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// From the start to the end.
    pub total: Duration,
    /// Of the last stop, by cause; zero if that was called back.
    pub downtime: Downtime,
    /// All stops.
    pub stops: Stops,
    /// What came after the switch, if anything did.
    pub post_copy: Option<PostCopy>,
    /// Rounds of pre-copy, the one with the guest stopped not counted.
    pub rounds: u32,
    /// Pages by the way they travelled.
    pub pages: PageCounts,
    /// Pages that were to be sent in the last stop.
    pub pages_in_downtime: u32,
    /// Bytes put on the link.
    pub bytes_sent: u64,
    /// Bytes taken from the link.
    pub bytes_received: u64,
    /// Strongest throttle that was used, in percent.
    pub throttle_percent_peak: u8,
    /// Digest over RAM and device state that both ends agreed on.
    pub digest: u64,
}
