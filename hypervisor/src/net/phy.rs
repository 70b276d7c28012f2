//! The port: a card as the stack's device. Every frame passes here once in each direction.
//!
//! Incoming frames are copied from the card to one buffer and judged before the stack sees them: fragments,
//! impossible lengths and what no host can have sent are dropped, and TCP checksums are verified here unless the card
//! vouches for them. Outgoing TCP segments get their checksum from the card if it can, else here.

use alloc::{boxed::Box, vec};

use arrayvec::ArrayVec;
use smoltcp::{
    phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken},
    time::Instant,
};

use super::frame::{self, Kind, Reset};
use crate::drivers::net::{FRAME_LENGTH_MAX, Nic, Offload, ReceivedChecksum, TcpOffload};

/// Frames taken from the card in one poll: a flood must not keep the loop from its other work.
const FRAMES_PER_POLL_MAX: usize = 64;
/// Resets remembered in one poll, for naming why a connection ended.
const RESETS_PER_POLL_MAX: usize = 16;

/// What the port has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Segments dropped because their TCP checksum was wrong.
    pub checksum_bad: u64,
    /// Frames dropped because their IPv4 lengths made no sense.
    pub malformed: u64,
    /// Fragments dropped: the stack puts none together.
    pub fragments: u64,
    /// Frames that the stack sent and the card refused.
    pub transmit_dropped: u64,
}

/// A card as the stack's device.
pub(super) struct Port {
    nic: Box<dyn Nic>,
    incoming: Box<[u8]>,
    outgoing: Box<[u8]>,
    budget: usize,
    resets: ArrayVec<Reset, RESETS_PER_POLL_MAX>,
    counters: PortCounters,
}

impl Port {
    pub(super) fn new(nic: Box<dyn Nic>) -> Self {
        Self {
            nic,
            incoming: vec![0; FRAME_LENGTH_MAX].into_boxed_slice(),
            outgoing: vec![0; FRAME_LENGTH_MAX].into_boxed_slice(),
            budget: 0,
            resets: ArrayVec::new(),
            counters: PortCounters::default(),
        }
    }

    /// Begins a poll: forgets the resets of the last one.
    pub(super) fn begin_poll(&mut self) {
        self.budget = FRAMES_PER_POLL_MAX;
        self.resets.clear();
    }

    /// Whether the last poll stopped before the card was empty.
    pub(super) fn is_behind(&self) -> bool {
        self.budget == 0
    }

    /// Whether the last poll took any frame from the card.
    pub(super) fn took_frames(&self) -> bool {
        self.budget < FRAMES_PER_POLL_MAX
    }

    /// Resets that came in during this poll.
    pub(super) fn resets(&self) -> &[Reset] {
        &self.resets
    }

    pub(super) fn counters(&self) -> PortCounters {
        self.counters
    }

    pub(super) fn nic(&mut self) -> &mut dyn Nic {
        &mut *self.nic
    }

    /// Whether the frame that was just received goes to the stack.
    fn admit(&mut self, length: usize, checksum: ReceivedChecksum) -> bool {
        let frame = &self.incoming[..length];
        match frame::classify(frame) {
            Kind::Other => true,
            // The stack remembers where a DHCP server's offer came from, and panics if it is to send to 0.0.0.0. Such
            // frames are no damage to be counted: whoever asks for an address by DHCP sends them.
            Kind::Sourceless => false,
            Kind::Fragment => {
                self.counters.fragments += 1;
                false
            }
            Kind::Malformed => {
                self.counters.malformed += 1;
                false
            }
            Kind::Tcp(segment) => {
                if checksum == ReceivedChecksum::Unknown && !segment.is_intact(frame) {
                    self.counters.checksum_bad += 1;
                    return false;
                }
                if let Some(reset) = segment.reset(frame) {
                    // Beyond the bound a reset is only not named as one.
                    let _ = self.resets.try_push(reset);
                }
                true
            }
        }
    }
}

impl Device for Port {
    type RxToken<'a> = Incoming<'a>;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _timestamp: Instant) -> Option<(Incoming<'_>, Outgoing<'_>)> {
        let length = loop {
            if self.budget == 0 {
                return None;
            }
            let received = self.nic.receive(&mut self.incoming)?;
            self.budget -= 1;
            if self.admit(received.length, received.tcp_checksum) {
                break received.length;
            }
        };
        let Self { nic, incoming, outgoing, counters, .. } = self;
        let outgoing = Outgoing { nic: &mut **nic, buffer: outgoing, counters };
        Some((Incoming(&incoming[..length]), outgoing))
    }

    fn transmit(&mut self, _timestamp: Instant) -> Option<Outgoing<'_>> {
        if !self.nic.can_transmit() {
            return None;
        }
        let Self { nic, outgoing, counters, .. } = self;
        Some(Outgoing { nic: &mut **nic, buffer: outgoing, counters })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME_LENGTH_MAX;
        // Both directions are done by the port or the card.
        capabilities.checksum.tcp = Checksum::None;
        capabilities
    }
}

/// A received frame on its way to the stack.
pub(super) struct Incoming<'a>(&'a [u8]);

impl RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// Room for one frame on its way to the card.
pub(super) struct Outgoing<'a> {
    nic: &'a mut dyn Nic,
    buffer: &'a mut [u8],
    counters: &'a mut PortCounters,
}

impl TxToken for Outgoing<'_> {
    /// # Panics
    /// If `length` exceeds the capabilities that were given to the stack: the stack's bug, not the wire's.
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let frame = &mut self.buffer[..length];
        let result = f(frame);
        let offload = complete(frame, self.nic.tcp_offload());
        if self.nic.transmit(frame, offload).is_err() {
            self.counters.transmit_dropped += 1;
        }
        result
    }
}

/// Finishes an outgoing frame, as far as the card does not.
fn complete(frame: &mut [u8], offered: TcpOffload) -> Offload {
    match (frame::classify(frame), offered) {
        (Kind::Tcp(segment), TcpOffload::None) => {
            segment.complete(frame);
            Offload::None
        }
        (Kind::Tcp(segment), TcpOffload::Checksum) => segment.prepare_checksum(frame),
        _ => Offload::None,
    }
}
