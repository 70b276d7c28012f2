//! Frames on their way to one port, each with the time it is due. Order is kept, whatever the due times say.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use crate::lock;

/// A port's buffer, in frames: a real switch drops beyond some bound as well.
pub(super) const FRAMES_MAX: usize = 4_096;

#[derive(Default)]
struct State {
    frames: VecDeque<(Instant, Vec<u8>)>,
    closed: bool,
}

#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

impl Queue {
    /// Appends a frame; false if the queue is full or closed.
    pub(super) fn push(&self, due: Instant, frame: &[u8]) -> bool {
        let mut state = lock(&self.state);
        if state.closed || state.frames.len() >= FRAMES_MAX {
            return false;
        }
        state.frames.push_back((due, frame.to_vec()));
        self.changed.notify_one();
        true
    }

    /// Takes the next frame when it is due; `None` once the queue is closed.
    pub(super) fn pop(&self) -> Option<Vec<u8>> {
        let mut state = lock(&self.state);
        loop {
            if state.closed {
                return None;
            }
            let now = Instant::now();
            let wait = match state.frames.front() {
                Some((due, _)) if *due <= now => return state.frames.pop_front().map(|(_, frame)| frame),
                Some((due, _)) => Some(*due - now),
                None => None,
            };
            state = match wait {
                Some(wait) => {
                    self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Ends every present and future `pop`.
    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.changed.notify_all();
    }
}
