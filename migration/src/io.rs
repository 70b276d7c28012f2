//! What goes into an engine and what comes out.
//!
//! # The contract
//! - After every [`crate::Source::handle_input`] or [`crate::Target::handle_input`] drain `poll_output` until it
//!   returns [`Output::Timeout`]; call again at that moment with [`Input::Timeout`], or earlier with other input.
//! - [`Output::Transmit`] says that the first `len` bytes of the buffer are to be sent whole and in order on that
//!   channel. Until the network has taken them, poll with an empty buffer: then everything but `Transmit` comes.
//!   That is the back-pressure, and neither timeouts nor a cancellation can get stuck behind it.
//! - Each [`GuestAction`] is answered by exactly one [`GuestEvent`]: its own, or a failure. At most one action is
//!   outstanding.
//! - A new connection is told with [`Input::LinkUp`]; bytes of an earlier one that were not yet sent are dropped.
//! - Channels stand for themselves: each has its connection, its back-pressure and its losses. [`Channel::URGENT`] is
//!   never to wait for bytes of another channel: poll for it, with a buffer, also while the others are full. What is to be
//!   sent on [`Channel::SPOOL`] is asked for with `poll_spool`, whenever that channel takes bytes and `poll_output` has
//!   come to an end; if it gave any, drain `poll_output` again.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use crate::device::DeviceState;
use crate::guest::GuestDescription;
use crate::permit::{Generation, RunPermit};
use crate::policy::Policy;
use crate::ram::Page;
use crate::reason::{AbortReason, GuestFailure};
use crate::spool::SpoolEvent;
use crate::status::{Phase, Prediction, Recall, Report, Why};
use crate::time::Instant;

/// Least length of the buffer passed to `poll_output`, unless it is empty. 64 KiB or more is faster.
pub const OUTPUT_BYTES_MIN: usize = 16 * 1024;

/// One ordered byte stream between the two hosts (one TCP connection).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Channel(pub u8);

impl Channel {
    /// The first channel: control and bulk pages. The only one that pre-copy uses.
    pub const MAIN: Self = Self(0);
    /// Pages for which a guest waits at the target, and the asking for them. Nothing else, so that none of it ever
    /// waits behind bulk. Post-copy only.
    pub const URGENT: Self = Self(1);
    /// Between a [`crate::Spool`] and a source that leaves pages with it, and between a spool and a target that fetches
    /// them: at the source and at the target it is the third, at the spool the one to the source. Post-copy only.
    pub const SPOOL: Self = Self(2);
}

/// What happens to an engine.
#[derive(Debug)]
pub enum Input<'a> {
    /// Bytes that arrived, in any portion.
    Bytes(Channel, &'a [u8]),
    /// The moment of the last [`Output::Timeout`] has come.
    Timeout,
    /// A step of the guest's life cycle is done or has failed.
    Guest(GuestEvent),
    /// A person wants something.
    Command(Command),
    /// A connection stands.
    LinkUp(Channel),
    /// The connection is lost, or could not be made.
    LinkDown(Channel),
}

/// What an engine wants.
#[derive(Debug)]
pub enum Output {
    /// Send the first `len` bytes of the buffer.
    Transmit {
        /// On which connection.
        channel: Channel,
        /// How many bytes.
        len: usize,
    },
    /// Make a connection for this channel to the peer (source only); answer with [`Input::LinkUp`] or [`Input::LinkDown`].
    Connect(Channel),
    /// Close the connection once everything transmitted has been sent. No answer needed.
    Disconnect(Channel),
    /// Drop the connection at once, with what was transmitted and not yet sent: nobody takes it any more. No answer
    /// needed.
    HangUp(Channel),
    /// Do this to the guest.
    Guest(GuestAction),
    /// Tell whoever is interested.
    Event(Event),
    /// Nothing to do until then; [`Instant::NEVER`] if only input can change that.
    Timeout(Instant),
}

/// What a person can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Begin (source).
    Start,
    /// Stop and undo. Refused with [`Event::CancelTooLate`] once the commit has been sent, unless that is of a clone: then the
    /// attempt ends, and the copy may run at the target ([`AbortReason::CopyMayRun`]).
    Cancel,
    /// Change the limits of a source from now on.
    Tune(Policy),
    /// In [`Phase::CommitUnknown`] at the source, a person declares that the target does not and will not run the
    /// guest (it was rebooted, or is broken): the source takes the guest back. In [`Phase::Recovering`] the same, with
    /// or without the target having said so ([`Event::TargetLost`]): what the guest did there is lost, and it goes on here
    /// from where it was switched. Ignored in every other phase.
    Reclaim,
    /// In [`Phase::CommitUnknown`] at the source, a person declares that the target runs the guest: the source
    /// lets go of it. In [`Phase::Recovering`]: nobody needs the memory any more that is here. At a spool: what it keeps is
    /// not needed. At a target where the guest runs and is whole, and whose source cannot be heard: the source is gone for
    /// good and will not ask. Ignored in every other phase.
    Release,
    /// Ask a target that is lost again now ([`Phase::CommitUnknown`], [`Phase::Recovering`] at the source; a spool), rather
    /// than when it is time. A connection that is being made, or on which no answer has come, is given up for another; so is
    /// one that serves ([`Phase::PostCopy`]).
    Retry,
    /// In [`Phase::CommitUnknown`] at the target, a person declares that the source is gone for good and does not
    /// run the guest: it is run here. In [`Phase::Recovering`], that the memory that has not come never will: the guest
    /// runs on until it touches a page that is lost. Ignored in every other phase.
    TakeOver,
}

/// A step in a guest's life cycle, without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// [`GuestAction::Build`].
    Build,
    /// [`GuestAction::StartDirtyLog`].
    StartDirtyLog,
    /// [`GuestAction::HarvestDirtyLog`].
    HarvestDirtyLog,
    /// [`GuestAction::StopDirtyLog`].
    StopDirtyLog,
    /// [`GuestAction::Throttle`].
    Throttle,
    /// [`GuestAction::Pause`].
    Pause,
    /// [`GuestAction::SaveState`].
    SaveState,
    /// [`GuestAction::RestoreState`].
    RestoreState,
    /// [`GuestAction::Run`].
    Run,
    /// [`GuestAction::Discard`].
    Discard,
    /// [`GuestAction::Settle`].
    Settle,
    /// [`GuestAction::Forsake`].
    Forsake,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Build => "building the guest",
            Self::StartDirtyLog => "starting the dirty log",
            Self::HarvestDirtyLog => "harvesting the dirty log",
            Self::StopDirtyLog => "stopping the dirty log",
            Self::Throttle => "throttling the guest",
            Self::Pause => "pausing the guest",
            Self::SaveState => "saving device state",
            Self::RestoreState => "restoring device state",
            Self::Run => "running the guest",
            Self::Discard => "discarding the guest",
            Self::Settle => "settling the guest's memory",
            Self::Forsake => "giving lost memory up",
        })
    }
}

/// What the hypervisor is to do with the guest. Each is answered by one [`GuestEvent`].
#[derive(Debug)]
pub enum GuestAction {
    /// Target: build the guest, paused, with RAM that reads as zero. From the answer on, calls get its RAM.
    Build(GuestDescription),
    /// Source: record every page that is written from now on.
    StartDirtyLog,
    /// Source: collect what was written since the last harvest, re-arm, publish for
    /// [`crate::GuestRam::take_dirty`].
    HarvestDirtyLog,
    /// Source: stop recording.
    StopDirtyLog,
    /// Source: take away this percentage of the guest's time; 0 gives all of it back.
    Throttle(u8),
    /// Source: stop all vCPUs at a consistent point, and its devices; nothing writes its RAM any more. The answer
    /// hands over the permit.
    Pause,
    /// Source: save vCPUs and devices of the paused guest. It may run again afterwards, with its log on, and be paused
    /// and saved again.
    SaveState,
    /// Target: restore vCPUs and devices; the guest stays paused. Until it runs this may come again, when the source
    /// has called a stop back and made another: the new state replaces all of the earlier one.
    RestoreState(DeviceState),
    /// Let the guest run; whoever runs it keeps the permit.
    Run(RunPermit),
    /// Free the guest and all of its memory. After the answer calls get [`crate::NoRam`].
    Discard,
    /// Target, while the guest runs: every page has come, nothing can be absent any more
    /// ([`crate::GuestRam::set_absent`]). What only waiting needed can go.
    Settle,
    /// Target, while the guest runs: the pages that are absent will never come. A guest that touches one is stopped.
    Forsake,
}

impl GuestAction {
    /// The step without its data.
    #[must_use]
    pub const fn step(&self) -> Step {
        match self {
            Self::Build(_) => Step::Build,
            Self::StartDirtyLog => Step::StartDirtyLog,
            Self::HarvestDirtyLog => Step::HarvestDirtyLog,
            Self::StopDirtyLog => Step::StopDirtyLog,
            Self::Throttle(_) => Step::Throttle,
            Self::Pause => Step::Pause,
            Self::SaveState => Step::SaveState,
            Self::RestoreState(_) => Step::RestoreState,
            Self::Run(_) => Step::Run,
            Self::Discard => Step::Discard,
            Self::Settle => Step::Settle,
            Self::Forsake => Step::Forsake,
        }
    }
}

/// What became of a [`GuestAction`], or of the guest.
#[derive(Debug)]
pub enum GuestEvent {
    /// [`GuestAction::Build`] is done.
    Built,
    /// [`GuestAction::StartDirtyLog`] is done.
    DirtyLogStarted,
    /// [`GuestAction::HarvestDirtyLog`] is done.
    DirtyLogHarvested,
    /// [`GuestAction::StopDirtyLog`] is done.
    DirtyLogStopped,
    /// [`GuestAction::Throttle`] is done.
    Throttled,
    /// [`GuestAction::Pause`] is done; the permit is the engine's until [`GuestAction::Run`].
    Paused(RunPermit),
    /// [`GuestAction::SaveState`] is done.
    StateSaved(DeviceState),
    /// [`GuestAction::RestoreState`] is done.
    StateRestored,
    /// [`GuestAction::Run`] is done.
    Running,
    /// [`GuestAction::Discard`] is done.
    Discarded,
    /// [`GuestAction::Settle`] is done.
    Settled,
    /// [`GuestAction::Forsake`] is done.
    Forsaken,
    /// The outstanding action failed; nothing has changed. For [`GuestAction::Run`] use
    /// [`GuestEvent::RunFailed`].
    Failed(Step, GuestFailure),
    /// [`GuestAction::Run`] failed: the guest stands still, the permit comes back.
    RunFailed(RunPermit, GuestFailure),
    /// Target, at any time while the guest runs and pages are absent: something of the guest's (a vCPU, or a device on
    /// its behalf) waits for this page. Told at least once for each page that is waited for.
    PageWanted(Page),
    /// At any time while the guest runs: it stopped for good by itself.
    Ended,
}

/// What a session tells a person or logs. No answer is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The phase has changed.
    Phase(Phase),
    /// A round of pre-copy begins.
    Round {
        /// From 1.
        round: u32,
        /// Pages to send in it.
        pages: u32,
    },
    /// The guest is throttled by this percentage from now on.
    Throttle(u8),
    /// A cancellation was asked for after the point of no return.
    CancelTooLate,
    /// The guest was stopped although the rest was expected to take longer than the limit
    /// ([`crate::Impatience::StopAnyway`]).
    LimitOverruled,
    /// A stop overran the limit: the guest runs at the source again, and pre-copy goes on.
    Recalled(Recall),
    /// What moving the guest would take ([`crate::Purpose::Estimate`]).
    Estimated(Prediction),
    /// What is left of the guest's memory goes once it runs at the target, and why.
    Switching(Why),
    /// The connection was lost after the switch: the guest runs at the target on the pages that it has, and the source
    /// tries to reach it.
    Interrupted,
    /// The connection stands again, and memory flows.
    Reconnected,
    /// Target: every page was checked when it came, and yet what has come in all after the switch is not what the source
    /// had: an error in one of the hosts.
    DigestDiffers,
    /// Target: pages of the guest are lost for good; ranges of them in ascending order, as many as fit, as first page and
    /// number of pages.
    MemoryLost {
        /// How many pages.
        pages: u32,
        /// Which.
        ranges: Vec<(Page, u32)>,
    },
    /// About pages that a third host keeps.
    Spool(SpoolEvent),
    /// The commit was sent and its reply lost: the guest is held at the source until the target has been asked. Of a clone
    /// nothing is held: the guest runs at the source, and whether the copy runs is asked.
    CommitUnknown,
    /// The target has been restarted since and does not know: a person has to decide with
    /// [`Command::Reclaim`] or [`Command::Release`].
    TargetForgot,
    /// The target does not know the guest any more that ran there and was not whole yet: the target was restarted, the guest
    /// is lost. A person has to decide with [`Command::Reclaim`] (it goes on from where it was switched) or
    /// [`Command::Release`] (nobody wants that).
    TargetLost,
    /// Not even the source could run the guest again; it is held there, whole and paused. The permit can be had
    /// from [`crate::Source::take_permit`].
    Held(GuestFailure),
    /// Cleaning up after an abort failed at this step; the rest was done.
    CleanupFailed(Step, GuestFailure),
    /// The guest has moved, or its copy runs.
    Completed(Box<Report>),
    /// The guest has not moved; it was not copied, unless the reason says otherwise.
    Aborted(AbortReason, Box<Report>),
    /// Target: the guest runs here now, in this generation.
    Arrived(Generation),
}
