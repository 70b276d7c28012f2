//! A connection: two byte streams with delay and rate, and the ways in which it can go wrong.

use std::collections::VecDeque;
use std::time::Duration;

use godwit_migration::{Channel, Instant};

use super::random::Random;

/// What may happen to what is sent, each to one in so many transmissions; 0 never.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Noise {
    pub(crate) corrupt: u64,
    pub(crate) drop: u64,
    pub(crate) repeat: u64,
    pub(crate) swap: u64,
    /// It, and all behind it, comes later by [`Wire::stall`]: a lost segment that waits for TCP's timer.
    pub(crate) stall: u64,
}

/// One direction.
#[derive(Default)]
pub(crate) struct Pipe {
    queue: VecDeque<(Instant, Vec<u8>)>,
    free_at: Instant,
}

impl Pipe {
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queue.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.queue.front().map(|(at, _)| *at)
    }

    pub(crate) fn take(&mut self) -> Option<Vec<u8>> {
        self.queue.pop_front().map(|(_, bytes)| bytes)
    }

    pub(crate) fn clear(&mut self) {
        self.queue.clear();
    }

    /// Sends; when the bytes arrive.
    pub(crate) fn send(&mut self, now: Instant, bytes: &[u8], wire: &Wire, random: &mut Random) -> Instant {
        let noise = wire.noise;
        let hits = |times: u64, random: &mut Random| times > 0 && random.one_in(times);
        self.free_at =
            self.free_at.max(now).after(Duration::from_nanos(bytes.len() as u64 * wire.ns_per_byte));
        if hits(noise.stall, random) {
            self.free_at = self.free_at.after(wire.stall);
        }
        let at = self.free_at.after(wire.latency);
        let mut bytes = bytes.to_vec();
        if hits(noise.drop, random) {
            return at;
        }
        if hits(noise.corrupt, random) {
            let bit = random.below(bytes.len() as u64 * 8) as usize;
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        if hits(noise.repeat, random) {
            self.queue.push_back((at, bytes.clone()));
        }
        self.queue.push_back((at, bytes));
        let count = self.queue.len();
        if count > 1 && hits(noise.swap, random) {
            let (a, b) = (self.queue[count - 1].1.clone(), self.queue[count - 2].1.clone());
            (self.queue[count - 1].1, self.queue[count - 2].1) = (b, a);
        }
        at
    }
}

/// The wire between the hosts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wire {
    pub(crate) latency: Duration,
    pub(crate) ns_per_byte: u64,
    pub(crate) stall: Duration,
    pub(crate) noise: Noise,
}

/// One connection.
pub(crate) struct Connection {
    pub(crate) channel: Channel,
    pub(crate) to_target: Pipe,
    pub(crate) to_source: Pipe,
    /// Bytes flow.
    pub(crate) is_open: bool,
    /// Index of the target's engine, once it is known whose it is.
    pub(crate) engine: Option<usize>,
    /// What came before that was known.
    pub(crate) early: Vec<u8>,
    /// The ends that think it is up.
    pub(crate) target_thinks_up: bool,
}

impl Connection {
    pub(crate) fn new(channel: Channel) -> Self {
        Self {
            channel,
            to_target: Pipe::default(),
            to_source: Pipe::default(),
            is_open: true,
            engine: None,
            early: Vec::new(),
            target_thinks_up: true,
        }
    }
}
