//! What the model is made of: messages, steps, and the parts that may be played by the model or by the engines.

use std::fmt::Debug;

/// A generation of the guest.
pub(crate) type Generation = u8;
/// An attempt to move it: 1, 2 …
pub(crate) type Attempt = u8;
/// What the guest has done: more each time that it was run.
pub(crate) type Work = u8;

/// What one host says to the other. What decides nothing (signs of life, pages in rounds, sections) is left out: it goes
/// before the next message, or is lost with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Message {
    /// Opening and hello.
    Begin {
        attempt: Attempt,
        generation: Generation,
    },
    /// The first round of pages, up to its end.
    Round,
    Seal {
        stop: u8,
        work: Work,
        absent: bool,
    },
    Recall,
    Commit(Generation),
    Release,
    /// Opening that asks.
    Resolve(Attempt),
    /// The pages that were absent.
    Pages,
    Pushed,
    /// From either side.
    Abort,
    Reply {
        accepts: bool,
    },
    Progress,
    Verified {
        stop: u8,
    },
    Committed(Generation),
    Returned,
    Outcome(Fate),
    Complete,
}

/// What became of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fate {
    Prepared,
    Starting,
    Unknown,
    /// With the pages that are lacking, if any are.
    Owned {
        lacks: bool,
    },
}

/// A step of the guest's life cycle; whoever runs the guest does so in a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Build,
    StartLog,
    Harvest,
    StopLog,
    Pause,
    Save,
    Restore,
    Run(Generation),
    Discard,
    Settle,
    Forsake,
}

impl Step {
    /// Whether its failure is more than something to be told.
    pub(crate) const fn may_fail(self) -> bool {
        !matches!(self, Self::StopLog | Self::Discard | Self::Settle | Self::Forsake)
    }
}

/// What an engine tells a person, as far as it is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Told {
    Recalled,
    CommitUnknown,
    TargetForgot,
    TargetLost,
    Interrupted,
    Reconnected,
    Held,
    CancelTooLate,
    Arrived(Generation),
    MemoryLost,
    Completed,
    Aborted,
}

/// What happens to an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Input {
    Start,
    LinkUp,
    LinkDown,
    /// The other host was silent for too long.
    Silence,
    Message(Message),
    Done(Step),
    Failed(Step),
    Cancel,
    Reclaim,
    Release,
    TakeOver,
    /// The source decides to stop the guest.
    Stop,
    /// The stop overruns its limit.
    Overrun,
    /// The wait before the target is asked again is over.
    AskAgain,
    /// A person has a target asked again that does not know.
    Retry,
    /// The target has held long enough.
    HoldExpires,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Parting {
    /// Once all was sent.
    Close,
    /// At once.
    HangUp,
}

/// What an engine wants in answer to one input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outputs<Bytes> {
    pub(crate) says: Vec<(Message, Bytes)>,
    pub(crate) parting: Option<Parting>,
    pub(crate) connects: bool,
    pub(crate) asks: Option<Step>,
    pub(crate) tells: Vec<Told>,
}

impl<Bytes> Default for Outputs<Bytes> {
    fn default() -> Self {
        Self { says: Vec::new(), parting: None, connects: false, asks: None, tells: Vec::new() }
    }
}

/// Who plays the engines: the model of them alone, or with it the engines themselves.
pub(crate) trait Cast: Sized {
    type Source: Part<Model = super::source::Source, Bytes = Self::Bytes, Guest = Self::Guest>;
    type Target: Part<Model = super::target::Target, Bytes = Self::Bytes, Guest = Self::Guest>;
    /// What a message is on the wire.
    type Bytes;
    /// What a guest is besides what the model says of it.
    type Guest: Body;
}

/// One engine.
pub(crate) trait Part {
    type Model;
    type Bytes;
    type Guest;

    fn new(model: Self::Model) -> Self;
    fn model(&self) -> &Self::Model;
    /// Takes one input. A message comes with its bytes.
    fn take(
        &mut self,
        input: Input,
        bytes: Option<Self::Bytes>,
        guest: Option<&mut Self::Guest>,
    ) -> Outputs<Self::Bytes>;
    /// The generation of the permit that is left to a person when the attempt is over, now the guest's.
    fn leave_permit(&mut self, guest: &mut Self::Guest) -> Option<Generation>;
}

/// A guest's body at one host.
pub(crate) trait Body {
    /// Of a new guest, which runs.
    fn born() -> Self;
    /// Built and empty.
    fn built() -> Self;
    /// The guest runs and has done this since.
    fn works(&mut self, work: Work);
    /// Whether what it holds, where nothing is absent, is this.
    fn holds(&self, work: Work) -> bool;
    /// Whether it is run by the permit of this generation, or not.
    fn is_run_in(&self, generation: Option<Generation>) -> bool;
}

impl Body for () {
    fn born() -> Self {}
    fn built() -> Self {}
    fn works(&mut self, _: Work) {}
    fn holds(&self, _: Work) -> bool {
        true
    }
    fn is_run_in(&self, _: Option<Generation>) -> bool {
        true
    }
}

/// The model alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Abstract;

impl Cast for Abstract {
    type Source = super::source::Source;
    type Target = super::target::Target;
    type Bytes = ();
    type Guest = ();
}
