//! An in-memory wire with two ends: it can lose, damage and cut, and what passes can be looked at.

use alloc::{boxed::Box, collections::VecDeque, rc::Rc, vec::Vec};
use core::cell::RefCell;

use super::super::checksum;
use crate::drivers::net::{
    Counters, Link, MacAddress, Nic, Offload, Received, ReceivedChecksum, TcpOffload, TransmitError,
};

/// Frames that one direction holds; more are dropped, as a switch does.
const HELD_MAX: usize = 92;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    A = 0,
    B = 1,
}

#[derive(Default)]
struct Shared {
    /// Frames on their way to each end.
    queues: [VecDeque<Vec<u8>>; 2],
    /// Every how many frames one is lost; zero for none.
    lose_every: usize,
    /// Every how many frames one has a bit flipped.
    damage_every: usize,
    passed: usize,
    is_cut: bool,
    is_full: bool,
}

/// The wire.
#[derive(Clone, Default)]
pub(in crate::net) struct Wire(Rc<RefCell<Shared>>);

impl Wire {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn lose_every(&self, frames: usize) {
        self.0.borrow_mut().lose_every = frames;
    }

    pub(super) fn damage_every(&self, frames: usize) {
        self.0.borrow_mut().damage_every = frames;
    }

    pub(super) fn cut(&self, is_cut: bool) {
        self.0.borrow_mut().is_cut = is_cut;
    }

    /// Every card on the wire refuses to send.
    pub(super) fn fill(&self, is_full: bool) {
        self.0.borrow_mut().is_full = is_full;
    }

    pub(super) fn inject(&self, to: End, frame: &[u8]) {
        self.0.borrow_mut().queues[to as usize].push_back(frame.to_vec());
    }

    /// Takes what is on its way to `end`.
    pub(super) fn take(&self, end: End) -> Option<Vec<u8>> {
        self.0.borrow_mut().queues[end as usize].pop_front()
    }

    pub(super) fn passed(&self) -> usize {
        self.0.borrow().passed
    }

    pub(super) fn nic(&self, end: End, offload: TcpOffload) -> Box<dyn Nic> {
        Box::new(FakeNic { wire: self.clone(), end, offload, counters: Counters::default() })
    }
}

struct FakeNic {
    wire: Wire,
    end: End,
    offload: TcpOffload,
    counters: Counters,
}

impl Nic for FakeNic {
    fn model(&self) -> &'static str {
        "fake"
    }

    fn mac(&self) -> MacAddress {
        MacAddress([2, 0, 0, 0, 0, 1 + self.end as u8])
    }

    fn tcp_offload(&self) -> TcpOffload {
        self.offload
    }

    fn link(&mut self) -> Link {
        if self.wire.0.borrow().is_cut { Link::Down } else { Link::Up { speed_mbit: None } }
    }

    fn can_transmit(&mut self) -> bool {
        !self.wire.0.borrow().is_full
    }

    fn transmit(&mut self, frame: &[u8], offload: Offload) -> Result<(), TransmitError> {
        let mut wire = self.wire.0.borrow_mut();
        if wire.is_full {
            return Err(TransmitError::RingFull);
        }
        let mut frame = frame.to_vec();
        if offload == Offload::TcpChecksum {
            let sum = !checksum::sum(&frame[34..]);
            frame[50..52].copy_from_slice(&sum.to_be_bytes());
        }
        self.counters.frames_sent += 1;
        wire.passed += 1;
        let nth = |every: usize| every != 0 && wire.passed.is_multiple_of(every);
        if nth(wire.damage_every) {
            let bit = wire.passed * 31 % (frame.len() * 8);
            frame[bit / 8] ^= 1 << (bit % 8);
        }
        let lost = nth(wire.lose_every);
        let queue = &mut wire.queues[1 - self.end as usize];
        if !lost && queue.len() < HELD_MAX {
            queue.push_back(frame);
        }
        if wire.is_cut {
            wire.queues.iter_mut().for_each(VecDeque::clear);
        }
        Ok(())
    }

    fn flush(&mut self) {}

    fn acknowledge_interrupt(&mut self) {}

    fn receive(&mut self, into: &mut [u8]) -> Option<Received> {
        let frame = self.wire.take(self.end)?;
        let length = frame.len().min(into.len());
        into[..length].copy_from_slice(&frame[..length]);
        self.counters.frames_received += 1;
        Some(Received { length, tcp_checksum: ReceivedChecksum::Unknown })
    }

    fn counters(&mut self) -> Counters {
        self.counters
    }
}
