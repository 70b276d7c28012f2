//! What may happen next in a world.

use super::{Action, Connection, End, Outcome, Right, World};
use crate::handover::parts::{Cast, Input, Message, Step};
use crate::handover::source::{Asking, Mode, Source, State as SourceState};
use crate::handover::target::{State as TargetState, Target};

/// A person's word for what no host can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Reclaim,
    Release,
    TakeOver,
}

/// Which words a person says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Words {
    /// Those that are true.
    True,
    /// This one also when it is not.
    False(Word),
}

/// What an engine gets, and where it stands then.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Local {
    Source(Source, Input),
    Target(Target, Input),
}

impl<C: Cast> World<C> {
    /// Everything that may happen next.
    pub(crate) fn actions(&self, words: Words, actions: &mut Vec<Action>) {
        if self.source.is_some() {
            self.source_actions(actions);
        } else if self.source_guest_runs() && self.left.attempts > 0 {
            actions.extend([Action::Start(Mode::PreCopy), Action::Start(Mode::PostCopy)]);
        }
        self.target_actions(actions);
        for (index, connection) in self.connections.iter().enumerate() {
            self.connection_actions(index, connection, actions);
        }
        if self.left.crashes > 0 {
            if self.here.is_some() || self.source.is_some() {
                actions.push(Action::CrashSource);
            }
            if !self.targets.is_empty() || self.there.is_some() || !self.connections.is_empty() {
                actions.push(Action::CrashTarget);
            }
        }
        self.words(words, actions);
    }

    fn steps(&self, step: Step, must_fail: bool) -> impl Iterator<Item = Outcome> {
        let may_fail = must_fail || self.left.failures > 0 && step.may_fail();
        [(Outcome::Done, !must_fail), (Outcome::Fails, may_fail)]
            .into_iter()
            .filter_map(|(outcome, may)| may.then_some(outcome))
    }

    fn source_actions(&self, actions: &mut Vec<Action>) {
        let Some(source) = self.source_model() else { return };
        if self.connects {
            actions.extend([Action::Connected, Action::Refused]);
        }
        if let Some(step) = source.step {
            actions.extend(self.steps(step, false).map(Action::SourceStep));
        }
        match source.state {
            SourceState::PreCopy => actions.push(Action::Stop),
            SourceState::Unknown(Asking::Waiting) | SourceState::Serving(Some(Asking::Waiting)) => {
                actions.push(Action::AskAgain);
            }
            _ => {}
        }
        let may_ask = matches!(source.state, SourceState::Unknown(_) | SourceState::Serving(_));
        // Not again and again, before anybody has noticed: each leaves a connection behind.
        if may_ask && self.connections.len() < 2 {
            actions.push(Action::Retry);
        }
        if source.is_stopped() && source.recalls < self.left.recalls {
            actions.push(Action::Overrun);
        }
        let is_over = matches!(source.state, SourceState::Aborting | SourceState::Releasing);
        if self.left.cancels > 0 && !is_over {
            actions.push(Action::CancelSource);
        }
    }

    fn target_actions(&self, actions: &mut Vec<Action>) {
        for target in self.target_models() {
            let attempt = target.attempt;
            if let Some(step) = target.step {
                let is_taken = step == Step::Build && self.there.is_some();
                let steps = self.steps(step, is_taken);
                actions.extend(steps.map(|outcome| Action::TargetStep(attempt, outcome)));
            }
            // Also while the source is heard, and does not move on.
            if matches!(target.state, TargetState::Receiving | TargetState::Prepared | TargetState::Held) {
                actions.push(Action::HoldExpires(attempt));
            }
            if target.is_finished() && target.step.is_none() {
                actions.push(Action::Drop(attempt));
            }
            if self.left.cancels > 0 && !target.is_finished() && target.state != TargetState::Aborting {
                actions.push(Action::CancelTarget(attempt));
            }
        }
    }

    fn connection_actions<B>(&self, index: usize, connection: &Connection<B>, actions: &mut Vec<Action>) {
        let Connection { to_target, to_source, is_broken, source_is_up, target } = connection;
        let how = [Input::LinkDown, Input::Silence];
        if let Some((message, _)) = to_target.first()
            && self.is_awaited(*message, *target)
        {
            actions.push(Action::ToTarget(index));
        }
        if !to_source.is_empty() {
            actions.push(Action::ToSource(index));
        }
        if *source_is_up && (*is_broken || *target == End::Gone && to_source.is_empty()) {
            actions.extend(how.map(|how| Action::SourceNotices(index, how)));
        }
        let may_notice = *is_broken || !source_is_up && to_target.is_empty();
        match target {
            End::Of(_) if may_notice => actions.extend(how.map(|how| Action::TargetNotices(index, how))),
            End::Waiting if may_notice => actions.push(Action::TargetNotices(index, Input::LinkDown)),
            _ => {}
        }
        if self.left.cuts > 0 && !is_broken {
            actions.push(Action::Cut(index));
        }
    }

    /// Whether the target's session does something with this message now: what begins waits until an earlier attempt is
    /// undone.
    fn is_awaited(&self, message: Message, end: End) -> bool {
        let (Message::Begin { attempt, .. }, End::Waiting) = (message, end) else { return true };
        let mut earlier = self.target_models().filter(|target| target.attempt != attempt);
        let is_held = self.target_models().any(|it| it.attempt != attempt && it.state == TargetState::Held);
        is_held || !earlier.any(|it| it.is_undecided() || it.is_undone())
    }

    fn words(&self, words: Words, actions: &mut Vec<Action>) {
        let is_said = |word, is_true: bool| is_true || words == Words::False(word);
        if let Some(source) = self.source_model() {
            let is_unknown = matches!(source.state, SourceState::Unknown(_));
            let is_lost = matches!(source.state, SourceState::Serving(Some(_)));
            if (is_unknown || is_lost) && is_said(Word::Reclaim, self.never_will_run(source.attempt)) {
                actions.push(Action::Reclaim);
            }
            let is_whole = self.target(source.attempt).is_none_or(|target| !target.lacks);
            let is_true = self.target_guest_runs() && (is_unknown || is_whole);
            if (is_unknown || is_lost) && is_said(Word::Release, is_true) {
                actions.push(Action::Release);
            }
        }
        for target in self.target_models() {
            let may = match target.state {
                TargetState::Held => true,
                TargetState::Filling { .. } => !target.link,
                _ => false,
            };
            if may && is_said(Word::TakeOver, self.source_has_died) {
                actions.push(Action::TakeOver(target.attempt));
            }
        }
        if self.source.is_none() && matches!(&self.here, Some(it) if matches!(it.right, Right::Paused(_))) {
            actions.push(Action::Resume);
        }
    }

    /// Whether it is true that the target does not run the guest by this attempt, and will not.
    fn never_will_run(&self, attempt: u8) -> bool {
        let is_undone = self.target(attempt).is_none_or(Target::is_undone);
        is_undone && !self.target_guest_runs()
    }

    /// What an action is to the engine that it is for.
    pub(crate) fn concerns(&self, action: Action) -> Option<Local> {
        let source = |input| self.source_model().map(|source| Local::Source(source.clone(), input));
        let target = |attempt, input| self.target(attempt).map(|it| Local::Target(it.clone(), input));
        let step = |step: Option<Step>, outcome| match outcome {
            Outcome::Done => step.map(Input::Done),
            Outcome::Fails => step.map(Input::Failed),
        };
        match action {
            Action::Start(_) | Action::Cut(_) | Action::Drop(_) | Action::Resume => None,
            Action::CrashSource | Action::CrashTarget => None,
            Action::Connected => source(Input::LinkUp),
            Action::Refused => source(Input::LinkDown),
            Action::ToTarget(index) => {
                let message = self.connections[index].to_target[0].0;
                let end = self.connections[index].target;
                let held = self.target_models().find(|it| it.state == TargetState::Held);
                match (message, end, held) {
                    (_, End::Of(attempt), _) => target(attempt, Input::Message(message)),
                    (Message::Begin { .. }, _, Some(held)) => {
                        Some(Local::Target(held.clone(), Input::Cancel))
                    }
                    (Message::Resolve(attempt), ..) if self.target(attempt).is_some() => {
                        target(attempt, Input::Message(message))
                    }
                    _ => Some(Local::Target(Target::opening(), Input::Message(message))),
                }
            }
            Action::ToSource(index) => source(Input::Message(self.connections[index].to_source[0].0)),
            Action::SourceNotices(_, how) => source(how),
            Action::TargetNotices(index, how) => match self.connections[index].target {
                End::Of(attempt) => target(attempt, how),
                End::Waiting | End::Gone => None,
            },
            Action::SourceStep(outcome) => source(step(self.source_model()?.step, outcome)?),
            Action::TargetStep(attempt, outcome) => {
                target(attempt, step(self.target(attempt)?.step, outcome)?)
            }
            Action::Stop => source(Input::Stop),
            Action::Overrun => source(Input::Overrun),
            Action::AskAgain => source(Input::AskAgain),
            Action::Retry => source(Input::Retry),
            Action::HoldExpires(attempt) => target(attempt, Input::HoldExpires),
            Action::CancelSource => source(Input::Cancel),
            Action::CancelTarget(attempt) => target(attempt, Input::Cancel),
            Action::Reclaim => source(Input::Reclaim),
            Action::Release => source(Input::Release),
            Action::TakeOver(attempt) => target(attempt, Input::TakeOver),
        }
    }

    /// Whether this is under way.
    pub(crate) fn is_saying(&self, is_it: impl Fn(Message) -> bool) -> bool {
        let all = self.connections.iter().flat_map(|it| it.to_target.iter().chain(&it.to_source));
        all.into_iter().any(|(message, _)| is_it(*message))
    }
}
