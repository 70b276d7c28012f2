//! The transmit ring (3.3): descriptor `i` owns buffer `i`, and a frame takes one of them. The first descriptor
//! that the card ever sees is a context, which tells it where the TCP checksum of our frames is; it stays
//! valid for good.

use super::registers::{TDBAH, TDBAL, TDH, TDLEN, TDT};
use crate::drivers::{
    hal::{Dma, DmaRegion, Mmio, OutOfDmaMemory},
    net::{FRAME_LENGTH_MAX, FRAME_LENGTH_MIN, Offload, TransmitError},
};

/// Descriptors, each with its own buffer. TDLEN must be a multiple of 128 bytes: eight descriptors.
pub(super) const DESCRIPTORS: usize = 128;
/// Frames in the ring: head equal to tail means empty, so that one descriptor stays free, and one is kept for
/// the context.
const FRAMES_MAX: usize = DESCRIPTORS - 2;
/// Bytes per buffer.
const BUFFER_LENGTH: usize = 2048;
/// Bytes per descriptor.
const DESCRIPTOR_LENGTH: usize = 16;
/// Frames that are collected before the card is told without being asked to: a register write is dear where
/// it is emulated, but hardware should be kept busy.
const START_BATCH: usize = 32;

/// Where the IPv4 header, the TCP header and their checksum fields are in every frame that is off-loaded.
const IPV4_START: u64 = 14;
const IPV4_CHECKSUM: u64 = 24;
const IPV4_LAST: u64 = 33;
const TCP_START: u64 = 34;
const TCP_CHECKSUM: u64 = 50;
/// The TCP header that must be there.
const TCP_HEADER_MIN: usize = 20;

/// Extended descriptor (3.3.5 and later).
const EXTENDED: u64 = 1 << 29;
/// Report Status: set "descriptor done" when it is.
const REPORT_STATUS: u64 = 1 << 27;
/// Insert the Ethernet checksum.
const INSERT_FCS: u64 = 1 << 25;
/// End Of Packet.
const END_OF_PACKET: u64 = 1 << 24;
/// Data descriptor type of an extended descriptor.
const TYPE_DATA: u64 = 1 << 20;
/// Context: the packet is TCP.
const CONTEXT_TCP: u64 = 1 << 24;
/// Context: the packet is IPv4.
const CONTEXT_IPV4: u64 = 1 << 25;
/// Data: insert the TCP checksum.
const INSERT_TCP_CHECKSUM: u64 = 1 << 41;
/// Status: Descriptor Done.
const STATUS_DONE: u64 = 1 << 32;

/// The ring and its buffers.
pub(super) struct TransmitRing<R> {
    descriptors: R,
    buffers: R,
    /// The descriptor that is written next.
    next: usize,
    /// The oldest descriptor that may still be with the card.
    oldest: usize,
    /// Descriptors from `oldest` up to `next`.
    busy: usize,
    /// The youngest of them, which the card does not know of yet.
    unstarted: usize,
}

impl<R: DmaRegion> TransmitRing<R> {
    /// A ring that holds only the context, and the card told so; the card looks when it is switched on.
    pub(super) fn new<M: Mmio>(registers: &M, dma: &impl Dma<Region = R>) -> Result<Self, OutOfDmaMemory> {
        let descriptors = dma.allocate(DESCRIPTORS * DESCRIPTOR_LENGTH)?;
        let buffers = dma.allocate(DESCRIPTORS * BUFFER_LENGTH)?;
        let base = descriptors.device_address();
        registers.write_u32(TDBAL, base as u32);
        registers.write_u32(TDBAH, (base >> 32) as u32);
        registers.write_u32(TDLEN, (DESCRIPTORS * DESCRIPTOR_LENGTH) as u32);
        registers.write_u32(TDH, 0);
        registers.write_u32(TDT, 0);
        let mut ring = Self { descriptors, buffers, next: 0, oldest: 0, busy: 0, unstarted: 0 };
        let ip = IPV4_START | IPV4_CHECKSUM << 8 | IPV4_LAST << 16;
        let tcp = TCP_START | TCP_CHECKSUM << 8;
        ring.put_descriptor(ip | tcp << 32, EXTENDED | CONTEXT_TCP | CONTEXT_IPV4);
        // Not every card reports a context as done: it counts as taken back, and a place is kept for it.
        (ring.oldest, ring.busy) = (ring.next, 0);
        Ok(ring)
    }

    /// Whether a frame has room, after taking back what the card has finished.
    pub(super) fn has_room(&mut self) -> bool {
        if self.busy == FRAMES_MAX {
            self.reclaim();
        }
        self.busy < FRAMES_MAX
    }

    /// Puts a frame into the ring.
    pub(super) fn put<M: Mmio>(
        &mut self,
        registers: &M,
        frame: &[u8],
        offload: Offload,
    ) -> Result<(), TransmitError> {
        let (length_min, options) = match offload {
            Offload::None => (FRAME_LENGTH_MIN, 0),
            Offload::TcpChecksum => (TCP_START as usize + TCP_HEADER_MIN, INSERT_TCP_CHECKSUM),
        };
        if !(length_min..=FRAME_LENGTH_MAX).contains(&frame.len()) {
            return Err(TransmitError::BadFrame);
        }
        if !self.has_room() {
            self.start(registers);
            return Err(TransmitError::RingFull);
        }
        let offset = self.next * BUFFER_LENGTH;
        self.buffers.write(offset, frame);
        let flags = EXTENDED | TYPE_DATA | options | END_OF_PACKET | INSERT_FCS | REPORT_STATUS;
        self.put_descriptor(self.buffers.device_address() + offset as u64, flags | frame.len() as u64);
        if self.unstarted >= START_BATCH {
            self.start(registers);
        }
        Ok(())
    }

    /// Tells the card of every frame in the ring.
    pub(super) fn start<M: Mmio>(&mut self, registers: &M) {
        if self.unstarted > 0 {
            self.unstarted = 0;
            registers.write_u32(TDT, self.next as u32);
        }
    }

    fn put_descriptor(&mut self, low: u64, high: u64) {
        self.descriptors.write_u64(self.next * DESCRIPTOR_LENGTH, low);
        self.descriptors.write_u64(self.next * DESCRIPTOR_LENGTH + 8, high);
        self.next = (self.next + 1) % DESCRIPTORS;
        self.busy += 1;
        self.unstarted += 1;
    }

    /// Takes back the descriptors that the card has finished.
    fn reclaim(&mut self) {
        while self.busy > self.unstarted
            && self.descriptors.read_u64(self.oldest * DESCRIPTOR_LENGTH + 8) & STATUS_DONE != 0
        {
            self.oldest = (self.oldest + 1) % DESCRIPTORS;
            self.busy -= 1;
        }
    }
}
