//! One connection of a session, with what the network has not taken yet.

use alloc::vec::Vec;
use core::time::Duration;

use godwit_migration::Instant;

use super::streams::Streams;
use crate::net::stream::{Received, State, StreamId};

/// Bytes that an engine may produce at once.
pub const OUTPUT_BYTES: usize = 64 * 1024;
/// How long a peer may take to make room for the last words.
const CLOSING_PATIENCE: Duration = Duration::from_secs(10);

/// What happened to the connection since it was asked last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It stands.
    Up,
    /// It is lost, or could not be made.
    Down,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting,
    Up,
    /// Our side ends when everything was handed to the network, and at `until` in any case.
    Closing {
        until: Instant,
    },
}

/// See the module.
#[derive(Debug, Default)]
pub struct Wire {
    stream: Option<(StreamId, Stage)>,
    output: Vec<u8>,
    taken: usize,
}

impl Wire {
    /// Begins to use `stream`, giving up what was used before. [`Self::change`] tells when it stands.
    pub fn attach(&mut self, streams: &mut impl Streams, stream: StreamId) {
        self.drop_stream(streams);
        self.stream = Some((stream, Stage::Connecting));
    }

    /// Queues `bytes`, to be sent whole and in order.
    pub fn queue(&mut self, bytes: &[u8]) {
        // Never more than an engine produces at once, also after shorter ones.
        self.output.reserve_exact(bytes.len());
        self.output.extend_from_slice(bytes);
    }

    /// Whether everything queued has been handed to the network.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.taken == self.output.len()
    }

    /// Whether there is a connection, or one is being made.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.stream.is_some()
    }

    /// Hands as much as possible of what is queued to the network; whether anything moved.
    pub fn flush(&mut self, streams: &mut impl Streams) -> bool {
        let Some((id, stage)) = self.stream else {
            self.forget_output();
            return false;
        };
        let before = self.taken;
        if stage != Stage::Connecting && !self.is_flushed() {
            // A failure shows in `change`, after what arrived before it was received.
            self.taken += streams.send(id, &self.output[self.taken..]).unwrap_or(0);
        }
        let moved = self.taken > before;
        if self.is_flushed() {
            self.forget_output();
            if matches!(stage, Stage::Closing { .. }) {
                streams.close(id);
                self.stream = None;
            }
        }
        moved
    }

    /// Ends our side once everything queued has been handed over.
    pub fn close(&mut self, now: Instant) {
        if let Some((_, stage @ (Stage::Connecting | Stage::Up))) = &mut self.stream {
            *stage = Stage::Closing { until: now.after(CLOSING_PATIENCE) };
        }
    }

    /// When a connection that is being closed is given up; [`Instant::NEVER`] if none is.
    #[must_use]
    pub const fn deadline(&self) -> Instant {
        match self.stream {
            Some((_, Stage::Closing { until })) => until,
            _ => Instant::NEVER,
        }
    }

    /// Gives a connection up that has been closed for too long: its peer takes nothing any more.
    pub fn expire(&mut self, now: Instant, streams: &mut impl Streams) {
        if now >= self.deadline() {
            self.drop_stream(streams);
        }
    }

    /// Gives the connection up at once.
    pub fn drop_stream(&mut self, streams: &mut impl Streams) {
        if let Some((id, _)) = self.stream.take() {
            streams.abort(id);
        }
        self.forget_output();
    }

    /// What has arrived, copied to the start of `into`; how much.
    pub fn receive(&mut self, streams: &mut impl Streams, into: &mut [u8]) -> usize {
        match self.stream {
            Some((id, Stage::Up)) => match streams.receive(id, into) {
                Ok(Received::Bytes(count)) => count,
                Ok(Received::End) | Err(_) => 0,
            },
            _ => 0,
        }
    }

    /// Whether the connection came or went since it was asked last. Ask when nothing is left to receive: a loss
    /// must not overtake what arrived before it.
    pub fn change(&mut self, streams: &mut impl Streams) -> Option<Change> {
        let (id, stage) = self.stream?;
        match (streams.state(id), stage) {
            (Ok(State::Open | State::PeerEnded), Stage::Connecting) => {
                self.stream = Some((id, Stage::Up));
                Some(Change::Up)
            }
            (Ok(State::Connecting | State::Open), _) | (Ok(State::PeerEnded), Stage::Closing { .. }) => None,
            (Ok(State::PeerEnded | State::Failed(_)) | Err(_), _) => {
                self.drop_stream(streams);
                Some(Change::Down)
            }
        }
    }

    fn forget_output(&mut self) {
        self.output.clear();
        self.taken = 0;
    }
}
