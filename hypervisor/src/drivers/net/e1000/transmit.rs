//! The transmit ring (3.3): descriptor `i` owns buffer `i`, and a frame takes as many neighbouring
//! descriptors as it needs, after a context descriptor if the card shall work on it.

use super::registers::{TDBAH, TDBAL, TDH, TDLEN, TDT};
use crate::drivers::{
    hal::{Dma, DmaRegion, Mmio, OutOfDmaMemory},
    net::{FRAME_LENGTH_MAX, FRAME_LENGTH_MIN, Offload, TransmitError},
};

/// Descriptors, each with its own buffer. TDLEN must be a multiple of 128 bytes: eight descriptors.
pub(super) const DESCRIPTORS: usize = 128;
/// Bytes per buffer.
pub(super) const BUFFER_LENGTH: usize = 2048;
/// Bytes per descriptor.
const DESCRIPTOR_LENGTH: usize = 16;
/// Longest frame that the card is given to cut into segments.
pub(super) const SEGMENTED_FRAME_LENGTH_MAX: usize = 32 * 1024;

/// Where the IPv4 header, the TCP header and their checksum fields are in every frame that is off-loaded.
const IPV4_START: u64 = 14;
const IPV4_CHECKSUM: u64 = 24;
const IPV4_LAST: u64 = 33;
const TCP_START: u64 = 34;
const TCP_CHECKSUM: u64 = 50;

/// Extended descriptor (3.3.5 and later).
const EXTENDED: u64 = 1 << 29;
/// Report Status: set "descriptor done" when it is.
const REPORT_STATUS: u64 = 1 << 27;
/// Segmentation.
const SEGMENT: u64 = 1 << 26;
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
/// Data: insert the IPv4 checksum.
const INSERT_IPV4_CHECKSUM: u64 = 1 << 40;
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
    /// The first descriptor of the oldest frame that may still be with the card.
    oldest: usize,
    /// Descriptors from `oldest` up to `next`.
    busy: usize,
    /// For the first descriptor of each frame: how many the frame has.
    frame_descriptors: [u8; DESCRIPTORS],
    /// The context that the card holds, its length fields zero.
    context: Option<Offload>,
}

impl<R: DmaRegion> TransmitRing<R> {
    /// An empty ring, and the card told so.
    pub(super) fn new<M: Mmio>(
        registers: &M,
        dma: &impl Dma<Region = R>,
    ) -> Result<Self, OutOfDmaMemory> {
        let descriptors = dma.allocate(DESCRIPTORS * DESCRIPTOR_LENGTH)?;
        let buffers = dma.allocate(DESCRIPTORS * BUFFER_LENGTH)?;
        let base = descriptors.device_address();
        registers.write_u32(TDBAL, base as u32);
        registers.write_u32(TDBAH, (base >> 32) as u32);
        registers.write_u32(TDLEN, (DESCRIPTORS * DESCRIPTOR_LENGTH) as u32);
        registers.write_u32(TDH, 0);
        registers.write_u32(TDT, 0);
        let frame_descriptors = [0; DESCRIPTORS];
        Ok(Self { descriptors, buffers, next: 0, oldest: 0, busy: 0, frame_descriptors, context: None })
    }

    /// Whether a frame of `length` bytes has room, after taking back what the card has finished.
    pub(super) fn has_room(&mut self, length: usize) -> bool {
        // One for the context, and head equal to tail means empty.
        let needed = length.div_ceil(BUFFER_LENGTH) + 2;
        if self.busy + needed > DESCRIPTORS {
            self.reclaim();
        }
        self.busy + needed <= DESCRIPTORS
    }

    /// Puts a frame into the ring and tells the card.
    pub(super) fn put<M: Mmio>(
        &mut self,
        registers: &M,
        frame: &[u8],
        offload: Offload,
    ) -> Result<(), TransmitError> {
        if !suits(frame.len(), offload) {
            return Err(TransmitError::BadFrame);
        }
        if !self.has_room(frame.len()) {
            return Err(TransmitError::RingFull);
        }
        let first = self.next;
        let mut used = self.put_context(frame.len(), offload);
        let (command, options) = match offload {
            Offload::None => (0, 0),
            Offload::TcpChecksum => (0, INSERT_TCP_CHECKSUM),
            Offload::TcpSegmentation { .. } => (SEGMENT, INSERT_TCP_CHECKSUM | INSERT_IPV4_CHECKSUM),
        };
        let pieces = frame.len().div_ceil(BUFFER_LENGTH);
        for (index, piece) in frame.chunks(BUFFER_LENGTH).enumerate() {
            let last = if index + 1 == pieces { END_OF_PACKET | INSERT_FCS | REPORT_STATUS } else { 0 };
            // The whole frame asks for the options: the card reads them from its first descriptor.
            self.put_data(piece, EXTENDED | TYPE_DATA | command | options | last);
            used += 1;
        }
        self.frame_descriptors[first] = used as u8;
        self.busy += used;
        registers.write_u32(TDT, self.next as u32);
        Ok(())
    }

    fn put_data(&mut self, piece: &[u8], flags: u64) {
        let index = self.next;
        self.buffers.write(index * BUFFER_LENGTH, piece);
        let address = self.buffers.device_address() + (index * BUFFER_LENGTH) as u64;
        self.put_descriptor(address, flags | piece.len() as u64);
    }

    /// Writes a context descriptor if the card does not hold the right one; returns how many were written.
    fn put_context(&mut self, frame_length: usize, offload: Offload) -> usize {
        let (segment, always) = match offload {
            Offload::None => return 0,
            Offload::TcpChecksum => (0, false),
            Offload::TcpSegmentation { header_length, segment_size } => {
                let payload = (frame_length - usize::from(header_length)) as u64;
                let sizes = u64::from(header_length) << 40 | u64::from(segment_size) << 48;
                (SEGMENT | payload | sizes, true)
            }
        };
        if !always && self.context == Some(offload) {
            return 0;
        }
        self.context = Some(offload);
        let ip = IPV4_START | IPV4_CHECKSUM << 8 | IPV4_LAST << 16;
        let tcp = TCP_START | TCP_CHECKSUM << 8;
        self.put_descriptor(ip | tcp << 32, EXTENDED | CONTEXT_TCP | CONTEXT_IPV4 | segment);
        1
    }

    fn put_descriptor(&mut self, low: u64, high: u64) {
        self.descriptors.write_u64(self.next * DESCRIPTOR_LENGTH, low);
        self.descriptors.write_u64(self.next * DESCRIPTOR_LENGTH + 8, high);
        self.next = (self.next + 1) % DESCRIPTORS;
    }

    /// Takes back the frames that the card has sent.
    fn reclaim(&mut self) {
        while self.busy > 0 {
            let count = usize::from(self.frame_descriptors[self.oldest]);
            let last = (self.oldest + count - 1) % DESCRIPTORS;
            if self.descriptors.read_u64(last * DESCRIPTOR_LENGTH + 8) & STATUS_DONE == 0 {
                return;
            }
            self.oldest = (self.oldest + count) % DESCRIPTORS;
            self.busy -= count;
        }
    }
}

fn suits(length: usize, offload: Offload) -> bool {
    match offload {
        Offload::None => (FRAME_LENGTH_MIN..=FRAME_LENGTH_MAX).contains(&length),
        Offload::TcpChecksum => (TCP_START as usize + 20..=FRAME_LENGTH_MAX).contains(&length),
        Offload::TcpSegmentation { header_length, segment_size } => {
            let header = usize::from(header_length);
            header >= TCP_START as usize + 20
                && (header + 1..=SEGMENTED_FRAME_LENGTH_MAX).contains(&length)
                && segment_size > 0
                && header + usize::from(segment_size) <= FRAME_LENGTH_MAX
        }
    }
}
