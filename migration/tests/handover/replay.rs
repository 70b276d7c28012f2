//! Ways through the model, gone with the engines beside it: [`Live`] compares them at each step.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::graph::Graph;
use super::live::Live;
use super::world::actions::{Local, Words};
use super::world::{Action, Left, World};

/// Longest walk. Most end by themselves.
const STEPS_MAX: usize = 300;

/// What has been gone.
#[derive(Default)]
pub(crate) struct Gone {
    pub(crate) ways: u32,
    pub(crate) steps: u32,
    /// Different inputs in different states of an engine.
    pub(crate) local: usize,
}

/// Goes one way; where it leads.
pub(crate) fn go_way(left: Left, way: &[Action]) -> World<Live> {
    let mut world = World::new(left);
    way.iter().for_each(|action| world.apply(*action));
    world
}

/// Goes ways of `graph` until each input that an engine gets in any state of its own has been given to it.
pub(crate) fn go_everywhere(left: Left, graph: &Graph) -> Gone {
    let (mut known, mut gone) = (HashSet::<Local>::new(), Gone::default());
    let concerns = |edge: u32| {
        let edge = graph.edges[edge as usize];
        graph.states[edge.from as usize].concerns(edge.action)
    };
    // The longest first: each goes along many others.
    for last in (0..graph.edges.len() as u32).rev() {
        if concerns(last).is_none_or(|local| known.contains(&local)) {
            continue;
        }
        let mut way = graph.way_to(graph.edges[last as usize].from);
        way.push(last);
        known.extend(way.iter().filter_map(|edge| concerns(*edge)));
        let mut actions = way.iter().map(|edge| graph.edges[*edge as usize].action);
        gone.ways += 1;
        gone.steps += way.len() as u32;
        go(left, |_, _| actions.next());
    }
    Gone { local: known.len(), ..gone }
}

/// Goes on at random, in each of `walks`.
pub(crate) fn wander(left: Left, words: Words, walks: u32) -> Gone {
    let mut gone = Gone { ways: walks, ..Gone::default() };
    for walk in 0..walks {
        let mut random = u64::from(walk) + 1;
        let mut actions = Vec::new();
        gone.steps += go(left, |world, steps| {
            actions.clear();
            world.actions(words, &mut actions);
            // What goes wrong goes wrong now and then, or little would ever happen.
            let may_fail = next(&mut random).is_multiple_of(12);
            let is_wanted = |action: &&Action| may_fail || !is_misfortune(**action);
            let wanted: Vec<Action> = actions.iter().filter(is_wanted).copied().collect();
            let from = if wanted.is_empty() { &actions } else { &wanted };
            let is_over = from.is_empty() || steps >= STEPS_MAX;
            (!is_over).then(|| from[next(&mut random) as usize % from.len()])
        });
    }
    gone
}

fn is_misfortune(action: Action) -> bool {
    action.is_fault() && !matches!(action, Action::Start(_))
}

/// xorshift
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state >> 11
}

/// Does what `choose` says until it says no more; how many steps that were.
fn go(left: Left, mut choose: impl FnMut(&World<Live>, usize) -> Option<Action>) -> u32 {
    let mut taken = Vec::new();
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::<Live>::new(left);
        while let Some(action) = choose(&world, taken.len()) {
            taken.push(action);
            world.apply(action);
            assert!(world.runners() <= 1 && world.violation.is_none());
        }
    }));
    assert!(result.is_ok(), "engine and model differ after {taken:?}");
    taken.len() as u32
}
