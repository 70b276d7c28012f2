//! Where the source stands. The permit lies in the states in which the guest stands still, and nowhere else.

use core::time::Duration;

use super::estimate::Estimate;
use crate::device::DeviceState;
use crate::io::Event;
use crate::permit::RunPermit;
use crate::reason::AbortReason;
use crate::status::Downtime;
use crate::time::Instant;

/// Where the source stands.
#[derive(Debug)]
pub(crate) enum State {
    /// Not started.
    Idle,
    /// Waiting for a connection.
    Connecting {
        /// When that is given up.
        until: Instant,
    },
    /// The hello is on its way.
    Negotiating,
    /// The dirty log is being started.
    StartingLog,
    /// The guest runs, a sample of its pages flows, its writes are watched.
    Probing(Estimate),
    /// The guest runs, pages flow.
    Sending,
    /// All pages of a round are on their way; the target is to say that it has them.
    Draining,
    /// A round is over; its harvest is awaited.
    Harvesting,
    /// The throttle is being changed between two rounds.
    Throttling,
    /// The rest is small enough, but the guest was stopped in vain not long ago: it runs for a while.
    Resting,
    /// The guest is being paused.
    Pausing,
    /// The guest stands still.
    Stopped(Stopped, RunPermit),
    /// The stop was called back: the guest is run again. The permit is here until that is asked for.
    Resuming(Option<RunPermit>),
    /// A clone whose copy is on its way to the end: the guest runs here again, or is about to.
    Copied(Awaited),
    /// The commit is on its way.
    Committing(Stake),
    /// The commit's reply was lost.
    Unknown(Asking, Stake),
    /// The guest runs at the target, which still lacks memory. Without a connection: how far asking has come.
    Serving(Option<Asking>),
    /// The guest runs at the target; our copy is being freed.
    Releasing,
    /// The copy runs at the target; the guest's log is being stopped here.
    Settling,
    /// Being undone.
    Aborting(AbortReason, Option<RunPermit>),
    /// Over.
    Finished,
}

/// What a commit gives away.
#[derive(Debug)]
pub(crate) enum Stake {
    /// The guest, which stands still here.
    Guest(RunPermit),
    /// A copy of it. The guest runs here, and does so whatever becomes of the commit.
    Copy,
}

/// What a clone's commit waits for: that the guest runs here again, and that the target has verified the copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// Both.
    Both,
    /// The guest's running.
    Running,
    /// The target's word.
    Verified,
}

/// What happens while the guest stands still.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// The last harvest is awaited.
    Harvesting,
    /// Devices are being saved; pages flow.
    Saving,
    /// The last pages flow, then the sections.
    Sending(Sections),
    /// The seal is on its way.
    Verifying,
}

/// Device sections on their way.
#[derive(Debug)]
pub(crate) struct Sections {
    pub(crate) state: DeviceState,
    /// The section and the offset in it that is next.
    pub(crate) index: usize,
    pub(crate) offset: usize,
    /// Whether all pages are on their way.
    pub(crate) pages_are_sent: bool,
}

/// How far asking the target has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asking {
    /// For the next try.
    Waiting(Instant),
    /// For a connection, until then.
    Connecting(Instant),
    /// For the answer.
    Asked,
    /// The target does not know: for a person.
    Forgotten,
}

/// When the steps of the downtime were over.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Marks {
    pub(crate) asked: Option<Instant>,
    pub(crate) paused: Option<Instant>,
    pub(crate) harvested: Option<Instant>,
    pub(crate) saved: Option<Instant>,
    pub(crate) pages: Option<Instant>,
    /// When the seal was said.
    pub(crate) sealed: Option<Instant>,
    pub(crate) verified: Option<Instant>,
    pub(crate) ended: Option<Instant>,
    /// The target's own time for restoring devices and for starting the guest.
    pub(crate) restore: Duration,
    pub(crate) start: Duration,
}

impl Marks {
    /// The downtime by cause; what still goes on counts up to `now`.
    pub(crate) fn downtime(&self, now: Instant) -> Downtime {
        let Some(asked) = self.asked else { return Downtime::default() };
        let end = self.ended.unwrap_or(now);
        let mut from = asked;
        let mut share = |mark: Option<Instant>| {
            let until = mark.unwrap_or(end).min(end);
            let share = until.since(from);
            from = from.max(until);
            share
        };
        Downtime {
            pause: share(self.paused),
            harvest: share(self.harvested),
            save: share(self.saved),
            pages: share(self.pages),
            verify: share(self.verified),
            restore: self.restore,
            commit: share(None),
            start: self.start,
            total: end.since(asked),
        }
    }
}

/// The last word, kept until everything else is told.
pub(crate) type LastWord = Option<Event>;
