//! The receive ring (3.2): the card fills buffers from head to tail, the driver empties them in order and
//! moves the tail up behind itself.

use super::registers::{RDBAH, RDBAL, RDH, RDLEN, RDT};
use crate::drivers::{
    hal::{Dma, DmaRegion, Mmio, OutOfDmaMemory},
    net::{FRAME_LENGTH_MIN, Received, ReceivedChecksum},
};

/// Descriptors, each with its own buffer. RDLEN must be a multiple of 128 bytes: eight descriptors.
pub(super) const DESCRIPTORS: usize = 128;
/// Bytes per buffer, as RCTL says.
pub(super) const BUFFER_LENGTH: usize = 2048;
/// Bytes per descriptor.
const DESCRIPTOR_LENGTH: usize = 16;
/// Emptied buffers that are collected before the card is told: a register write is dear where it is emulated.
const RETURN_BATCH: usize = 16;

/// Status: Descriptor Done.
const STATUS_DONE: u64 = 1 << 32;
/// Status: End Of Packet.
const STATUS_END: u64 = 1 << 33;
/// Status: Ignore Checksum indication.
const STATUS_IGNORE_CHECKSUM: u64 = 1 << 34;
/// Status: the TCP or UDP checksum was calculated.
const STATUS_TCP_CHECKED: u64 = 1 << 37;
/// Errors that mean a damaged frame: CRC, symbol, sequence, carrier extension, receive data.
const ERRORS_FRAME: u64 = (1 << 0 | 1 << 1 | 1 << 2 | 1 << 4 | 1 << 7) << 40;
/// Errors: TCP or UDP checksum, IP checksum.
const ERRORS_CHECKSUM: u64 = (1 << 5 | 1 << 6) << 40;

/// What was found in the ring.
pub(super) enum Taken {
    /// A frame, copied out.
    Frame(Received),
    /// A frame that is not usable; look again.
    Bad,
    /// Nothing.
    Empty,
}

/// The ring and its buffers.
pub(super) struct ReceiveRing<R> {
    descriptors: R,
    buffers: R,
    /// The descriptor that the card will finish next.
    next: usize,
    /// Emptied descriptors that the card does not know of yet.
    unreturned: usize,
    /// The frame that is being received did not end in its first buffer.
    in_long_frame: bool,
}

impl<R: DmaRegion> ReceiveRing<R> {
    /// A ring whose buffers are all with the card, and the card told so.
    pub(super) fn new<M: Mmio>(registers: &M, dma: &impl Dma<Region = R>) -> Result<Self, OutOfDmaMemory> {
        let descriptors = dma.allocate(DESCRIPTORS * DESCRIPTOR_LENGTH)?;
        let buffers = dma.allocate(DESCRIPTORS * BUFFER_LENGTH)?;
        let mut ring = Self { descriptors, buffers, next: 0, unreturned: 0, in_long_frame: false };
        for index in 0..DESCRIPTORS {
            ring.arm(index);
        }
        let base = ring.descriptors.device_address();
        registers.write_u32(RDBAL, base as u32);
        registers.write_u32(RDBAH, (base >> 32) as u32);
        registers.write_u32(RDLEN, (DESCRIPTORS * DESCRIPTOR_LENGTH) as u32);
        registers.write_u32(RDH, 0);
        // Head equal to tail means empty, so that one descriptor always stays with the driver.
        registers.write_u32(RDT, (DESCRIPTORS - 1) as u32);
        Ok(ring)
    }

    /// Takes the next frame out of the ring.
    pub(super) fn take<M: Mmio>(&mut self, registers: &M, into: &mut [u8]) -> Taken {
        let index = self.next;
        let status = self.descriptors.read_u64(index * DESCRIPTOR_LENGTH + 8);
        if status & STATUS_DONE == 0 {
            self.give_back(registers);
            return Taken::Empty;
        }
        let taken = self.copy_out(index, status, into);
        self.arm(index);
        self.next = (index + 1) % DESCRIPTORS;
        self.unreturned += 1;
        if self.unreturned >= RETURN_BATCH {
            self.give_back(registers);
        }
        taken
    }

    fn copy_out(&mut self, index: usize, status: u64, into: &mut [u8]) -> Taken {
        let continues = core::mem::replace(&mut self.in_long_frame, status & STATUS_END == 0);
        let length = status as u16 as usize;
        let fits = (FRAME_LENGTH_MIN..=into.len().min(BUFFER_LENGTH)).contains(&length);
        if continues || self.in_long_frame || !fits || status & ERRORS_FRAME != 0 {
            return Taken::Bad;
        }
        self.buffers.read(index * BUFFER_LENGTH, &mut into[..length]);
        let verified = status & (STATUS_TCP_CHECKED | STATUS_IGNORE_CHECKSUM) == STATUS_TCP_CHECKED
            && status & ERRORS_CHECKSUM == 0;
        let tcp_checksum = if verified { ReceivedChecksum::Verified } else { ReceivedChecksum::Unknown };
        Taken::Frame(Received { length, tcp_checksum })
    }

    fn arm(&mut self, index: usize) {
        let buffer = self.buffers.device_address() + (index * BUFFER_LENGTH) as u64;
        self.descriptors.write_u64(index * DESCRIPTOR_LENGTH + 8, 0);
        self.descriptors.write_u64(index * DESCRIPTOR_LENGTH, buffer);
    }

    fn give_back<M: Mmio>(&mut self, registers: &M) {
        if self.unreturned > 0 {
            self.unreturned = 0;
            registers.write_u32(RDT, ((self.next + DESCRIPTORS - 1) % DESCRIPTORS) as u32);
        }
    }
}
