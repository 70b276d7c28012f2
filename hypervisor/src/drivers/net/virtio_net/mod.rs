#![expect(unsafe_code, reason = "lends buffers to the device through the virtio crate's unsafe methods")]
//! Driver of the virtio network card, over the crate `virtio-drivers` (virtio 1.2, section 5.1).
//!
//! The card is used through its modern interface, which transitional cards have too; a card that offers only
//! the interface from before virtio 1.0 is refused by name.
//!
//! SAFETY vocabulary: see `buffers`. A buffer is *lent* from `…_begin` to `…_complete` with the same token;
//! `lent` records which buffer went out under which token, so that each comes back as itself.

mod buffers;
mod hal;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use core::fmt;

use pci_types::{ConfigRegionAccess, PciAddress};
use virtio_drivers::{
    Hal,
    device::net::VirtIONetRaw,
    transport::{
        Transport,
        pci::{
            PciTransport, VirtioPciError,
            bus::{DeviceFunction, PciRoot},
        },
    },
};

use self::{
    buffers::Buffers,
    hal::{Configuration, HostHal},
};
use super::{
    Counters, FRAME_LENGTH_MAX, FRAME_LENGTH_MIN, Link, MacAddress, Nic, Offload, Received, ReceivedChecksum,
    TcpOffload, TransmitError,
};

/// Vendor and device identifiers of the cards that this driver knows: transitional and modern.
pub const PCI_IDS: [(u16, u16); 2] = [(0x1af4, 0x1000), (0x1af4, 0x1041)];

/// Descriptors per queue, each with a buffer.
const QUEUE_LENGTH: usize = 128;
/// Unusable frames skipped in one call of `receive`.
const BAD_FRAMES_PER_CALL_MAX: usize = QUEUE_LENGTH;
/// Why a card could not be brought up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The function is not a usable virtio card; a card without the modern interface misses its capabilities.
    Function(VirtioPciError),
    /// The device refused what the driver needs, or memory for the queues is out.
    Device(virtio_drivers::Error),
    /// No memory for the buffers.
    OutOfDmaMemory,
    /// The card names no address of one host.
    NoAddress,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Function(error) => write!(f, "virtio-net: {error}"),
            Self::Device(error) => write!(f, "virtio-net: {error}"),
            Self::OutOfDmaMemory => f.write_str("virtio-net: no memory for buffers"),
            Self::NoAddress => f.write_str("virtio-net: the card has no Ethernet address"),
        }
    }
}

impl core::error::Error for Error {}

/// A running card.
pub struct VirtioNet<H: Hal, T: Transport> {
    // First, so that the device is reset before its buffers go.
    card: Box<VirtIONetRaw<H, T, QUEUE_LENGTH>>,
    incoming: Buffers<H>,
    incoming_lent: [u8; QUEUE_LENGTH],
    outgoing: Buffers<H>,
    outgoing_lent: [u8; QUEUE_LENGTH],
    outgoing_free: heapless::Vec<u8, QUEUE_LENGTH>,
    counters: Counters,
}

/// Brings up the card at `address`, whose function must have memory decoding and bus mastering enabled.
///
/// # Errors
/// [`Error`].
pub fn attach(access: &impl ConfigRegionAccess, address: PciAddress) -> Result<Box<dyn Nic>, Error> {
    let function =
        DeviceFunction { bus: address.bus(), device: address.device(), function: address.function() };
    let mut root = PciRoot::new(Configuration { access, address });
    let transport = PciTransport::new::<HostHal, _>(&mut root, function).map_err(Error::Function)?;
    Ok(Box::new(VirtioNet::<HostHal, _>::new(transport)?))
}

impl<H: Hal, T: Transport> VirtioNet<H, T> {
    fn new(transport: T) -> Result<Self, Error> {
        let card = Box::new(VirtIONetRaw::new(transport).map_err(Error::Device)?);
        if !MacAddress(card.mac_address()).is_unicast() {
            return Err(Error::NoAddress);
        }
        let incoming = Buffers::new(QUEUE_LENGTH).ok_or(Error::OutOfDmaMemory)?;
        let outgoing = Buffers::new(QUEUE_LENGTH).ok_or(Error::OutOfDmaMemory)?;
        let mut nic = Self {
            card,
            incoming,
            incoming_lent: [0; QUEUE_LENGTH],
            outgoing,
            outgoing_lent: [0; QUEUE_LENGTH],
            outgoing_free: (0..QUEUE_LENGTH as u8).collect(),
            counters: Counters::default(),
        };
        for buffer in 0..QUEUE_LENGTH {
            nic.lend_incoming(buffer).map_err(Error::Device)?;
        }
        Ok(nic)
    }

    fn lend_incoming(&mut self, buffer: usize) -> Result<(), virtio_drivers::Error> {
        let bytes = self.incoming.get(buffer);
        // SAFETY: the buffer is not lent out now, and is left alone until `receive_complete`.
        let token = unsafe { self.card.receive_begin(bytes) }?;
        self.incoming_lent[usize::from(token)] = buffer as u8;
        Ok(())
    }

    /// Takes the next filled buffer, copies its frame and lends it again.
    fn take(&mut self, token: u16, into: &mut [u8]) -> Option<usize> {
        let buffer = usize::from(self.incoming_lent[usize::from(token)]);
        let bytes = self.incoming.get(buffer);
        // SAFETY: `bytes` is the buffer that went out under this token.
        let completed = unsafe { self.card.receive_complete(token, bytes) };
        let length = completed.ok().and_then(|(header, length)| {
            let frame = self.incoming.get(buffer).get(header..header.checked_add(length)?)?;
            let fits = (FRAME_LENGTH_MIN..=into.len().min(FRAME_LENGTH_MAX)).contains(&length);
            fits.then(|| {
                into[..length].copy_from_slice(frame);
                length
            })
        });
        if completed.is_ok()
            && let Err(error) = self.lend_incoming(buffer)
        {
            log::warn!("virtio-net: a receive buffer is lost: {error}");
        }
        length
    }

    /// Takes back the buffers of frames that were sent.
    fn reclaim(&mut self) {
        while let Some(token) = self.card.poll_transmit().filter(|token| usize::from(*token) < QUEUE_LENGTH) {
            let buffer = self.outgoing_lent[usize::from(token)];
            let bytes = self.outgoing.get(usize::from(buffer));
            let length = bytes.len();
            // SAFETY: `bytes` is the buffer that went out under this token.
            let completed = unsafe { self.card.transmit_complete(token, &bytes[..length]) };
            if completed.is_err() {
                return;
            }
            // There are as many places as buffers.
            let _ = self.outgoing_free.push(buffer);
        }
    }
}

impl<H: Hal, T: Transport> Nic for VirtioNet<H, T> {
    fn model(&self) -> &'static str {
        "virtio-net"
    }

    fn mac(&self) -> MacAddress {
        MacAddress(self.card.mac_address())
    }

    fn tcp_offload(&self) -> TcpOffload {
        TcpOffload::None
    }

    fn link(&mut self) -> Link {
        Link::Up { speed_mbit: None }
    }

    fn can_transmit(&mut self) -> bool {
        if self.outgoing_free.is_empty() {
            self.reclaim();
        }
        let room = !self.outgoing_free.is_empty();
        self.counters.transmit_full += u64::from(!room);
        room
    }

    fn transmit(&mut self, frame: &[u8], offload: Offload) -> Result<(), TransmitError> {
        let suits = (FRAME_LENGTH_MIN..=FRAME_LENGTH_MAX).contains(&frame.len());
        if offload != Offload::None || !suits {
            return Err(TransmitError::BadFrame);
        }
        if !self.can_transmit() {
            return Err(TransmitError::RingFull);
        }
        let Some(buffer) = self.outgoing_free.pop() else { return Err(TransmitError::RingFull) };
        let bytes = self.outgoing.get(usize::from(buffer));
        let header = self.card.fill_buffer_header(bytes).map_err(|_| TransmitError::BadFrame)?;
        bytes[header..header + frame.len()].copy_from_slice(frame);
        // SAFETY: the buffer is not lent out now, and is left alone until `transmit_complete`.
        match unsafe { self.card.transmit_begin(&bytes[..header + frame.len()]) } {
            Ok(token) => self.outgoing_lent[usize::from(token)] = buffer,
            Err(_) => {
                let _ = self.outgoing_free.push(buffer);
                return Err(TransmitError::RingFull);
            }
        }
        self.counters.frames_sent += 1;
        self.counters.bytes_sent += frame.len() as u64;
        Ok(())
    }

    fn flush(&mut self) {}

    fn receive(&mut self, into: &mut [u8]) -> Option<Received> {
        for _ in 0..BAD_FRAMES_PER_CALL_MAX {
            let token = self.card.poll_receive().filter(|token| usize::from(*token) < QUEUE_LENGTH)?;
            let Some(length) = self.take(token, into) else {
                self.counters.frames_bad += 1;
                continue;
            };
            self.counters.frames_received += 1;
            self.counters.bytes_received += length as u64;
            return Some(Received { length, tcp_checksum: ReceivedChecksum::Unknown });
        }
        None
    }

    fn acknowledge_interrupt(&mut self) {
        let _ = self.card.ack_interrupt();
    }

    fn counters(&mut self) -> Counters {
        self.counters
    }
}
