//! The model of a hand-over, and what must hold in it.

mod body;
mod frames;
pub(crate) mod graph;
mod live;
pub(crate) mod parts;
pub(crate) mod replay;
pub(crate) mod source;
pub(crate) mod target;
pub(crate) mod world;

use stateright::{Model, Property};

use parts::{Abstract, Message};
use source::{Asking, State as SourceState};
use target::{Decider, State as TargetState};
use world::actions::Words;
use world::{Action, Left, Place, Resumed, Right, Violation, World};

/// How much may happen, and what a person says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handover {
    pub(crate) left: Left,
    pub(crate) words: Words,
}

type State = World<Abstract>;

impl Model for Handover {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![World::new(self.left)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        state.actions(self.words, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        next.apply(action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = must_be();
        properties.extend(may_be());
        properties
    }
}

/// What must hold in every state.
fn must_be() -> Vec<Property<Handover>> {
    vec![
        Property::always("at most one host runs the guest, or has been told to", |_, state: &State| {
            state.runners() <= 1
        }),
        Property::always(
            "no guest runs without what it has done, unless a person says so",
            |_, state: &State| state.violation != Some(Violation::Stale),
        ),
        Property::always("no generation runs at two places, or after a higher one", |_, state: &State| {
            state.violation != Some(Violation::Generation)
        }),
        Property::always("an attempt that is undone leaves the guest at the source", |_, state: &State| {
            state.violation != Some(Violation::Lost)
        }),
        Property::always("a guest is lost only with a host", |model: &Handover, state: &State| {
            !state.is_lost() || state.left.crashes < model.left.crashes
        }),
        Property::always("who takes over an older guest was told that it may be", |_, state: &State| {
            let is_as_documented = |why| why != Resumed::Never && state.source_has_died;
            state.took_over_older.is_none_or(is_as_documented)
        }),
    ]
}

/// What must be possible: a model in which it is not would prove nothing.
fn may_be() -> Vec<Property<Handover>> {
    fn is_target(state: &State, is_it: fn(TargetState) -> bool) -> bool {
        state.target_models().any(|it| is_it(it.state))
    }
    vec![
        Property::sometimes("the guest moves", |_, state: &State| {
            state.target_guest_runs() && state.here.is_none() && !state.source_has_died
        }),
        Property::sometimes("it moves after a stop was called back", |_, state: &State| {
            state.target_guest_runs() && state.resumed == Resumed::Recalled
        }),
        Property::sometimes("it moves by a second attempt", |_, state: &State| {
            state.target_guest_runs() && state.attempt == 2
        }),
        Property::sometimes("a commit is said again to a target that held", |_, state: &State| {
            is_target(state, |it| it == TargetState::Starting { by: Decider::Source, was_held: true })
        }),
        Property::sometimes("a target returns what it cannot run", |_, state: &State| {
            state.is_saying(|message| message == Message::Returned)
        }),
        Property::sometimes("a target forgot", |_, state: &State| {
            state.source_state() == Some(SourceState::Unknown(Asking::Forgotten))
        }),
        Property::sometimes("a target is lost that was being served", |_, state: &State| {
            state.source_state() == Some(SourceState::Serving(Some(Asking::Forgotten)))
        }),
        Property::sometimes("a guest goes on above the generation that was lost", |_, state: &State| {
            state.highest == (3, Place::Source)
        }),
        Property::sometimes("and moves again", |_, state: &State| {
            matches!(state.highest, (4, Place::Target(2)))
        }),
        Property::sometimes("a link is lost and found after the switch", |_, state: &State| {
            state.source_state() == Some(SourceState::Serving(Some(Asking::Asked)))
        }),
        Property::sometimes("a person takes over", |_, state: &State| {
            is_target(state, |it| matches!(it, TargetState::Starting { by: Decider::Person, .. }))
        }),
        Property::sometimes("a person gives lost memory up", |_, state: &State| {
            is_target(state, |it| it == TargetState::Forsaking)
        }),
        Property::sometimes("what is taken over is older, a recall being lost", |_, state: &State| {
            state.took_over_older == Some(Resumed::Recalled)
        }),
        Property::sometimes("what is taken over is older, an attempt being undone", |_, state: &State| {
            state.took_over_older == Some(Resumed::Aborted)
        }),
        Property::sometimes("a guest is left paused to a person", |_, state: &State| {
            state.here.as_ref().is_some_and(|guest| matches!(guest.right, Right::Paused(_)))
        }),
        Property::sometimes("both hosts die, and the guest with them", |_, state: &State| state.is_lost()),
    ]
}
