//! Two hosts, the connections between them, a person, and what may befall them. Everything that the session of a host
//! does for its engines is here, once; who plays the engines is open ([`Cast`]).

pub(crate) mod actions;

use super::parts::{
    Attempt, Body, Cast, Generation, Input, Message, Outputs, Part, Parting, Step, Told, Work,
};
use super::source::{Asking, Mode, Source, State as SourceState};
use super::target::{State as TargetState, Target};

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// A person begins an attempt.
    Start(Mode),
    Connected,
    Refused,
    /// The next message of a connection arrives.
    ToTarget(usize),
    ToSource(usize),
    /// One end of a connection learns that it is lost, or closed by the other, or hears nothing for too long.
    SourceNotices(usize, Input),
    TargetNotices(usize, Input),
    /// The step that is outstanding is done, or fails.
    SourceStep(Outcome),
    TargetStep(Attempt, Outcome),
    /// Decisions of the engines, by what they measure or by time.
    Stop,
    Overrun,
    AskAgain,
    HoldExpires(Attempt),
    /// The target's session drops an engine that is finished.
    Drop(Attempt),
    /// Nothing that is under way on this connection, or will be said on it, is sure to arrive.
    Cut(usize),
    CrashSource,
    CrashTarget,
    /// A person cancels at either host.
    CancelSource,
    CancelTarget(Attempt),
    /// A person's word.
    Reclaim,
    Release,
    TakeOver(Attempt),
    /// A person has a target asked again that does not know, or another host.
    Retry,
    /// A person runs a guest that is left paused at the source.
    Resume,
}

/// What comes of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    Done,
    Fails,
}

impl Action {
    /// Whether it needs a person: for what no host can know.
    pub(crate) const fn is_word(self) -> bool {
        matches!(self, Self::Reclaim | Self::Release | Self::TakeOver(_) | Self::Retry | Self::Resume)
    }

    /// Whether something goes wrong, or is wanted, that need not be.
    pub(crate) const fn is_fault(self) -> bool {
        matches!(
            self,
            Self::Cut(_)
                | Self::CrashSource
                | Self::CrashTarget
                | Self::CancelSource
                | Self::CancelTarget(_)
                | Self::SourceStep(Outcome::Fails)
                | Self::TargetStep(_, Outcome::Fails)
                | Self::Overrun
                | Self::Start(_)
        )
    }
}

/// What may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Left {
    pub(crate) attempts: u8,
    pub(crate) crashes: u8,
    pub(crate) cuts: u8,
    pub(crate) failures: u8,
    pub(crate) cancels: u8,
    /// In each attempt.
    pub(crate) recalls: u8,
}

/// The right to run a guest, as far as its host has it and not the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Right {
    None,
    /// Left to a person.
    Paused(Generation),
    Running(Generation),
}

/// The guest at one host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Instance<G> {
    pub(crate) work: Work,
    pub(crate) right: Right,
    body: G,
}

/// The target's end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum End {
    /// It has not said what it is about.
    Waiting,
    Of(Attempt),
    Gone,
}

/// A connection. Broken: what is under way in either direction may arrive up to any point, each end learns of it at any
/// time, and what is said from now on is lost.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Connection<B> {
    to_target: Vec<(Message, B)>,
    to_source: Vec<(Message, B)>,
    is_broken: bool,
    source_is_up: bool,
    target: End,
}

/// Where the guest was run, and in which generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    Source,
    Target(Attempt),
}

/// Why the guest ran again at the source after it had stood still: a stop was called back, or an attempt undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Resumed {
    Never,
    Recalled,
    Aborted,
}

/// What must never be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Violation {
    /// It runs without something that it has done, and no person said so.
    Stale,
    /// It runs in a generation in which it ran elsewhere, or in a lower one.
    Generation,
    /// An attempt ended at the source as undone, and the guest is not there.
    Lost,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World<C: Cast> {
    pub(crate) source: Option<C::Source>,
    pub(crate) targets: Vec<C::Target>,
    pub(crate) here: Option<Instance<C::Guest>>,
    pub(crate) there: Option<(Attempt, Instance<C::Guest>)>,
    connections: Vec<Connection<C::Bytes>>,
    connects: bool,
    pub(crate) source_has_died: bool,
    pub(crate) left: Left,
    pub(crate) attempt: Attempt,
    /// What the guest has done, wherever it ran.
    work: Work,
    /// The highest generation in which it ran, and where.
    pub(crate) highest: (Generation, Place),
    pub(crate) resumed: Resumed,
    /// A person took over a guest that was older than the one that died: why it was.
    pub(crate) took_over_older: Option<Resumed>,
    pub(crate) violation: Option<Violation>,
}

impl<C: Cast> World<C> {
    pub(crate) fn new(left: Left) -> Self {
        let mut body = C::Guest::born();
        body.works(1);
        Self {
            source: None,
            targets: Vec::new(),
            here: Some(Instance { work: 1, right: Right::Running(1), body }),
            there: None,
            connections: Vec::new(),
            connects: false,
            source_has_died: false,
            left,
            attempt: 0,
            work: 1,
            highest: (1, Place::Source),
            resumed: Resumed::Never,
            took_over_older: None,
            violation: None,
        }
    }

    fn source_model(&self) -> Option<&Source> {
        self.source.as_ref().map(Part::model)
    }

    pub(crate) fn source_state(&self) -> Option<SourceState> {
        self.source_model().map(|source| source.state)
    }

    pub(crate) fn target_models(&self) -> impl Iterator<Item = &Target> {
        self.targets.iter().map(Part::model)
    }

    pub(crate) fn target(&self, attempt: Attempt) -> Option<&Target> {
        self.target_models().find(|target| target.attempt == attempt)
    }

    pub(crate) fn target_guest_runs(&self) -> bool {
        self.there.as_ref().is_some_and(|(_, guest)| matches!(guest.right, Right::Running(_)))
    }

    pub(crate) fn source_guest_runs(&self) -> bool {
        self.here.as_ref().is_some_and(|guest| matches!(guest.right, Right::Running(_)))
    }

    /// How many run the guest, or have been told to.
    pub(crate) fn runners(&self) -> usize {
        let is_told = |step: Option<Step>| matches!(step, Some(Step::Run(_)));
        usize::from(self.source_guest_runs())
            + usize::from(self.target_guest_runs())
            + usize::from(self.source_model().is_some_and(|source| is_told(source.step)))
            + self.target_models().filter(|target| is_told(target.step)).count()
    }

    pub(crate) fn guest_runs(&self) -> bool {
        self.source_guest_runs() || self.target_guest_runs()
    }

    /// Whether no host has a guest that could ever be run. What the source is freeing cannot.
    pub(crate) fn is_lost(&self) -> bool {
        let is_here = self.here.is_some() && self.source_state() != Some(SourceState::Releasing);
        !is_here && !self.guest_runs() && !self.target_models().any(Target::has_guest)
    }

    /// Whether a person has been told to decide.
    pub(crate) fn awaits_a_word(&self) -> bool {
        let forgotten = Some(Asking::Forgotten);
        match self.source_state() {
            Some(SourceState::Unknown(asking)) if Some(asking) == forgotten => true,
            Some(SourceState::Serving(asking)) if asking == forgotten => true,
            None if self.here.is_none() => self.target_models().any(|it| it.state == TargetState::Held),
            None => matches!(&self.here, Some(Instance { right: Right::Paused(_), .. })),
            Some(_) => false,
        }
    }

    /// Does what the action says. It is one of [`Self::actions`].
    pub(crate) fn apply(&mut self, action: Action) {
        match action {
            Action::Start(mode) => self.start(mode),
            Action::Connected => self.connected(),
            Action::Refused => {
                self.connects = false;
                self.give_source(Input::LinkDown, None);
            }
            Action::ToTarget(index) => self.reach_target(index),
            Action::ToSource(index) => {
                let (message, bytes) = self.connections[index].to_source.remove(0);
                self.give_source(Input::Message(message), Some(bytes));
            }
            Action::SourceNotices(index, how) => {
                self.connections[index].part(Parting::HangUp, true);
                self.give_source(how, None);
            }
            Action::TargetNotices(index, how) => {
                let end = self.connections[index].target;
                self.connections[index].part(Parting::HangUp, false);
                if let End::Of(attempt) = end {
                    self.give_target(attempt, how, None);
                }
            }
            Action::SourceStep(outcome) => self.source_step(outcome),
            Action::TargetStep(attempt, outcome) => self.target_step(attempt, outcome),
            Action::Stop => self.give_source(Input::Stop, None),
            Action::Overrun => self.give_source(Input::Overrun, None),
            Action::AskAgain => self.give_source(Input::AskAgain, None),
            Action::Retry => self.give_source(Input::Retry, None),
            Action::HoldExpires(attempt) => self.give_target(attempt, Input::HoldExpires, None),
            Action::Drop(attempt) => self.drop_target(attempt),
            Action::Cut(index) => {
                self.left.cuts -= 1;
                self.connections[index].is_broken = true;
            }
            Action::CrashSource => self.crash_source(),
            Action::CrashTarget => self.crash_target(),
            Action::CancelSource => {
                self.left.cancels -= 1;
                self.give_source(Input::Cancel, None);
            }
            Action::CancelTarget(attempt) => {
                self.left.cancels -= 1;
                self.give_target(attempt, Input::Cancel, None);
            }
            Action::Reclaim => self.reclaim(),
            Action::Release => self.give_source(Input::Release, None),
            Action::TakeOver(attempt) => self.take_over(attempt),
            Action::Resume => self.resume(),
        }
        self.connections.retain(Connection::is_there);
    }

    fn start(&mut self, mode: Mode) {
        let Some(Instance { right: Right::Running(generation), .. }) = &self.here else { return };
        self.left.attempts -= 1;
        self.attempt += 1;
        self.source = Some(C::Source::new(Source::begin(self.attempt, *generation, mode)));
        self.give_source(Input::Start, None);
    }

    fn connected(&mut self) {
        self.connects = false;
        self.connections.push(Connection {
            to_target: Vec::new(),
            to_source: Vec::new(),
            is_broken: false,
            source_is_up: true,
            target: End::Waiting,
        });
        self.give_source(Input::LinkUp, None);
        if self.source_model().is_none_or(|source| !source.link) {
            // Nobody wants it any more.
            self.connections.iter_mut().for_each(|it| it.part(Parting::Close, true));
        }
    }

    /// Whether the earlier attempts to take the guest in leave room for this one; those that are held are cancelled.
    fn make_room(&mut self, attempt: Attempt) -> bool {
        let earlier = |target: &&Target| target.attempt != attempt;
        let is_in_the_way = |target: &Target| target.is_undecided() || target.is_undone();
        let waits = self.target_models().filter(earlier).any(is_in_the_way);
        let held = self.target_models().filter(earlier).find(|it| it.state == TargetState::Held);
        if let Some(attempt) = held.map(|target| target.attempt) {
            self.give_target(attempt, Input::Cancel, None);
        }
        !waits
    }

    fn reach_target(&mut self, index: usize) {
        let message = self.connections[index].to_target[0].0;
        let attempt = match (self.connections[index].target, message) {
            (End::Of(attempt), _) => attempt,
            (_, Message::Begin { attempt, .. }) if !self.make_room(attempt) => return,
            (_, Message::Begin { attempt, .. } | Message::Resolve(attempt)) => attempt,
            (end, message) => unreachable!("{message:?} at {end:?}"),
        };
        let (message, bytes) = self.connections[index].to_target.remove(0);
        if self.connections[index].target == End::Waiting {
            // Another connection of that migration is dropped for this one.
            for connection in &mut self.connections {
                if connection.target == End::Of(attempt) {
                    connection.part(Parting::HangUp, false);
                }
            }
            self.connections[index].target = End::Of(attempt);
            if self.target(attempt).is_none() {
                return self.admit(attempt, message, bytes);
            }
            self.give_target(attempt, Input::LinkUp, None);
        }
        self.give_target(attempt, Input::Message(message), Some(bytes));
    }

    /// Makes an engine for a connection that no engine here knows.
    fn admit(&mut self, attempt: Attempt, message: Message, bytes: C::Bytes) {
        let mut target = C::Target::new(Target::opening());
        target.take(Input::LinkUp, None, None);
        let outputs = target.take(Input::Message(message), Some(bytes), None);
        if target.model().state != TargetState::Stranger {
            self.targets.push(target);
        }
        self.target_wants(attempt, outputs);
        if self.target(attempt).is_none() {
            self.part_target(attempt, Parting::Close);
        }
    }

    fn give_source(&mut self, input: Input, bytes: Option<C::Bytes>) {
        let Some(source) = &mut self.source else { return };
        let body = self.here.as_mut().map(|guest| &mut guest.body);
        let outputs = source.take(input, bytes, body);
        let work = self.here.as_ref().map_or(0, |guest| guest.work);
        self.connects |= outputs.connects;
        if let Some(connection) = self.connections.iter_mut().find(|it| it.source_is_up) {
            for (mut message, bytes) in outputs.says {
                if let Message::Seal { work: sealed, .. } = &mut message {
                    *sealed = work;
                }
                if !connection.is_broken && connection.target != End::Gone {
                    connection.to_target.push((message, bytes));
                }
            }
            if let Some(parting) = outputs.parting {
                connection.part(parting, true);
            }
        }
        self.finish_source(&outputs.tells);
    }

    /// Lets go of an engine that is finished.
    fn finish_source(&mut self, tells: &[Told]) {
        if self.source_state() != Some(SourceState::Finished) {
            return;
        }
        let Some(mut source) = self.source.take() else { return };
        self.connects = false;
        if let Some(guest) = &mut self.here
            && let Some(generation) = source.leave_permit(&mut guest.body)
        {
            guest.right = Right::Paused(generation);
        }
        let is_here = self.here.as_ref().is_some_and(|guest| guest.right != Right::None);
        if tells.contains(&Told::Aborted) != is_here {
            self.violation = Some(Violation::Lost);
        }
        self.connections.iter_mut().for_each(|it| it.part(Parting::Close, true));
    }

    fn give_target(&mut self, attempt: Attempt, input: Input, bytes: Option<C::Bytes>) {
        let Some(target) = self.targets.iter_mut().find(|it| it.model().attempt == attempt) else { return };
        let mut guest = self.there.as_mut().filter(|(of, _)| *of == attempt).map(|(_, guest)| guest);
        if let (Input::Message(Message::Seal { work, .. }), Some(guest)) = (input, &mut guest)
            && target.model().state == TargetState::Receiving
        {
            guest.work = work;
        }
        let outputs = target.take(input, bytes, guest.map(|guest| &mut guest.body));
        self.target_wants(attempt, outputs);
    }

    fn target_wants(&mut self, attempt: Attempt, outputs: Outputs<C::Bytes>) {
        let connection = self.connections.iter_mut().find(|it| it.target == End::Of(attempt));
        if let Some(connection) = connection.filter(|it| !it.is_broken && it.source_is_up) {
            connection.to_source.extend(outputs.says);
        }
        if let Some(parting) = outputs.parting {
            self.part_target(attempt, parting);
        }
    }

    fn part_target(&mut self, attempt: Attempt, parting: Parting) {
        let connections = self.connections.iter_mut().filter(|it| it.target == End::Of(attempt));
        connections.for_each(|it| it.part(parting, false));
    }

    fn source_step(&mut self, outcome: Outcome) {
        let Some(step) = self.source_model().and_then(|source| source.step) else { return };
        if outcome == Outcome::Fails {
            self.left.failures -= 1;
            return self.give_source(Input::Failed(step), None);
        }
        match (step, &mut self.here) {
            (Step::Pause, Some(guest)) => guest.right = Right::None,
            (Step::Discard, here) => *here = None,
            (Step::Run(generation), Some(_)) => {
                let is_recalled = self.source_state() == Some(SourceState::Resuming);
                self.resumed = if is_recalled { Resumed::Recalled } else { Resumed::Aborted };
                self.give_source(Input::Done(step), None);
                return self.runs(Place::Source, generation);
            }
            _ => {}
        }
        self.give_source(Input::Done(step), None);
    }

    fn target_step(&mut self, attempt: Attempt, outcome: Outcome) {
        let Some(step) = self.target(attempt).and_then(|target| target.step) else { return };
        if outcome == Outcome::Fails {
            if step != Step::Build || self.there.is_none() {
                self.left.failures -= 1;
            }
            return self.give_target(attempt, Input::Failed(step), None);
        }
        match step {
            Step::Build => {
                let guest = Instance { work: 0, right: Right::None, body: C::Guest::built() };
                self.there = Some((attempt, guest));
            }
            Step::Discard => self.there = None,
            _ => {}
        }
        self.give_target(attempt, Input::Done(step), None);
        if let Step::Run(generation) = step {
            self.runs(Place::Target(attempt), generation);
        }
    }

    /// The guest begins to run, and does something.
    fn runs(&mut self, place: Place, generation: Generation) {
        let guest = match place {
            Place::Source => self.here.as_mut(),
            Place::Target(_) => self.there.as_mut().map(|(_, guest)| guest),
        };
        let Some(guest) = guest else { return };
        guest.right = Right::Running(generation);
        let (highest, at) = self.highest;
        if generation < highest || generation == highest && place != at {
            self.violation = Some(Violation::Generation);
        }
        if guest.work != self.work {
            self.violation = Some(Violation::Stale);
        }
        assert!(guest.body.is_run_in(Some(generation)), "the permit is another's");
        assert!(guest.body.holds(guest.work), "what the guest has done is not what its memory holds");
        self.work += 1;
        guest.work = self.work;
        guest.body.works(self.work);
        self.highest = (generation.max(highest), place);
    }

    fn drop_target(&mut self, attempt: Attempt) {
        self.targets.retain(|target| target.model().attempt != attempt);
        self.part_target(attempt, Parting::Close);
    }

    fn crash_source(&mut self) {
        self.left.crashes -= 1;
        self.source_has_died = true;
        self.source = None;
        self.here = None;
        self.connects = false;
        self.connections.iter_mut().for_each(|it| it.part(Parting::HangUp, true));
    }

    fn crash_target(&mut self) {
        self.left.crashes -= 1;
        self.targets.clear();
        self.there = None;
        self.connections.iter_mut().for_each(|it| it.part(Parting::HangUp, false));
    }

    /// What the guest did at the target is lost: a person says so.
    fn reclaim(&mut self) {
        if let Some(guest) = &self.here {
            self.work = guest.work;
        }
        self.give_source(Input::Reclaim, None);
    }

    /// What the guest did at the source after it was sealed is lost: a person says so.
    fn take_over(&mut self, attempt: Attempt) {
        let is_held = self.target(attempt).is_some_and(|it| it.state == TargetState::Held);
        if let Some((_, guest)) = &self.there
            && is_held
            && guest.work != self.work
        {
            self.took_over_older = Some(self.resumed);
            self.work = guest.work;
        }
        self.give_target(attempt, Input::TakeOver, None);
    }

    fn resume(&mut self) {
        if let Some(guest) = &self.here
            && let Right::Paused(generation) = guest.right
        {
            self.resumed = Resumed::Aborted;
            self.runs(Place::Source, generation);
        }
    }
}

impl<B> Connection<B> {
    /// One end lets go of it. What was on its way there is lost.
    fn part(&mut self, parting: Parting, is_source: bool) {
        if is_source && self.source_is_up {
            self.source_is_up = false;
            self.to_source.clear();
            self.is_broken |= parting == Parting::HangUp;
        }
        if !is_source && self.target != End::Gone {
            self.target = End::Gone;
            self.to_target.clear();
            self.is_broken |= parting == Parting::HangUp;
        }
    }

    fn is_there(&self) -> bool {
        let target_needs_it = match self.target {
            End::Waiting => !self.to_target.is_empty(),
            End::Of(_) => true,
            End::Gone => false,
        };
        self.source_is_up || target_needs_it
    }
}
