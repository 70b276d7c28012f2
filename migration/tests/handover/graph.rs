//! All states of a model and the ways between them, for what is asked of the whole: can it get there from everywhere?

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use stateright::Model;

use super::Handover;
use super::parts::Abstract;
use super::world::{Action, World};

/// A way from one state to another, by their numbers.
#[derive(Clone, Copy)]
pub(crate) struct Edge {
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) action: Action,
}

/// See the module.
pub(crate) struct Graph {
    pub(crate) states: Vec<World<Abstract>>,
    pub(crate) edges: Vec<Edge>,
    /// The edge by which each state was found first: the last of a shortest way to it.
    found_by: Vec<u32>,
}

impl Graph {
    pub(crate) fn explore(model: &Handover) -> Self {
        let mut graph = Self { states: model.init_states(), edges: Vec::new(), found_by: vec![u32::MAX] };
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        // By hash, to hold each state once.
        let mut known: HashMap<u64, Vec<u32>> = HashMap::new();
        known.insert(hasher.hash_one(&graph.states[0]), vec![0]);
        let mut actions = Vec::new();
        let mut from = 0;
        while from < graph.states.len() {
            model.actions(&graph.states[from], &mut actions);
            for action in actions.drain(..) {
                let Some(state) = model.next_state(&graph.states[from], action) else { continue };
                let same = known.entry(hasher.hash_one(&state)).or_default();
                let found = same.iter().copied().find(|&index| graph.states[index as usize] == state);
                let to = found.unwrap_or(graph.states.len() as u32);
                if found.is_none() {
                    same.push(to);
                    graph.states.push(state);
                    graph.found_by.push(graph.edges.len() as u32);
                }
                graph.edges.push(Edge { from: from as u32, to, action });
            }
            from += 1;
        }
        graph
    }

    /// A shortest way to the state, as edges.
    pub(crate) fn way_to(&self, state: u32) -> Vec<u32> {
        let mut way = Vec::new();
        let mut at = state;
        while let Some(&edge) = self.found_by.get(at as usize).filter(|&&edge| edge != u32::MAX) {
            way.push(edge);
            at = self.edges[edge as usize].from;
        }
        way.reverse();
        way
    }

    /// Of each state, whether one of `goals` can be reached by such actions alone.
    pub(crate) fn reaches(
        &self,
        goal: impl Fn(&World<Abstract>) -> bool,
        may: impl Fn(Action) -> bool,
    ) -> Vec<bool> {
        let mut before: Vec<Vec<u32>> = vec![Vec::new(); self.states.len()];
        for edge in self.edges.iter().filter(|edge| may(edge.action)) {
            before[edge.to as usize].push(edge.from);
        }
        let mut reaches: Vec<bool> = self.states.iter().map(goal).collect();
        let mut open: Vec<u32> = (0..self.states.len() as u32).filter(|&it| reaches[it as usize]).collect();
        while let Some(state) = open.pop() {
            for &from in &before[state as usize] {
                if !reaches[from as usize] {
                    reaches[from as usize] = true;
                    open.push(from);
                }
            }
        }
        reaches
    }

    /// The way to a state, for people.
    pub(crate) fn tell(&self, state: u32) -> String {
        let way = self.way_to(state).into_iter().map(|edge| self.edges[edge as usize].action);
        format!("{:?}\n{:?}", way.collect::<Vec<_>>(), self.states[state as usize])
    }
}
