//! Driver of Intel's 82540EM ("e1000"), the card that every emulator has, and its close kin.
//!
//! [`E1000`] is written against the hal's traits. Sections are those of Intel's "PCI/PCI-X Family of Gigabit
//! Ethernet Controllers Software Developer's Manual", revision 4.0. The card completes the checksums of
//! outgoing TCP segments; the emulated ones leave incoming checksums to us and say so.

mod eeprom;
#[cfg(test)]
mod fake;
mod receive;
pub mod registers;
#[cfg(test)]
mod tests;
mod transmit;

use core::fmt;

use self::{
    receive::{ReceiveRing, Taken},
    registers::{Cause, Control, ReceiveChecksum, ReceiveControl, Status, TransmitControl},
    transmit::TransmitRing,
};
use super::{
    Counters, FRAME_LENGTH_MAX, Link, MacAddress, Nic, Offload, Received, TcpOffload, TransmitError,
};
use crate::drivers::hal::{Dma, DmaRegion, Mmio, OutOfDmaMemory};

/// Vendor and device identifiers of the cards that this driver knows.
pub const PCI_IDS: [(u16, u16); 3] = [(0x8086, 0x100e), (0x8086, 0x100f), (0x8086, 0x1004)];

/// Looks at CTRL before a reset is given up, and looks that let a reset settle. A look takes about a
/// microsecond on hardware.
const RESET_POLLS_MAX: u32 = 100_000;
const RESET_SETTLE_POLLS: u32 = 32;
/// Unusable frames skipped in one call of `receive`.
const BAD_FRAMES_PER_CALL_MAX: usize = receive::DESCRIPTORS;

/// What the card interrupts for. Room in the transmit ring is found by looking.
const CAUSES: Cause = Cause::RXT0.union(Cause::RXO).union(Cause::RXDMT0).union(Cause::LSC);

/// Why a card could not be brought up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The register window is shorter than the card's.
    WindowTooShort,
    /// The reset does not end.
    ResetStuck,
    /// Neither the EEPROM nor the receive address registers hold an address.
    NoAddress,
    /// No memory for the rings.
    OutOfDmaMemory(OutOfDmaMemory),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WindowTooShort => f.write_str("e1000: the register window is too short"),
            Self::ResetStuck => f.write_str("e1000: the card does not come out of reset"),
            Self::NoAddress => f.write_str("e1000: the card has no Ethernet address"),
            Self::OutOfDmaMemory(error) => write!(f, "e1000: {error}"),
        }
    }
}

impl core::error::Error for Error {}

impl From<OutOfDmaMemory> for Error {
    fn from(error: OutOfDmaMemory) -> Self {
        Self::OutOfDmaMemory(error)
    }
}

/// A running card.
pub struct E1000<M: Mmio, R> {
    registers: M,
    mac: MacAddress,
    receive: ReceiveRing<R>,
    transmit: TransmitRing<R>,
    counters: Counters,
}

impl<M: Mmio, R: DmaRegion> E1000<M, R> {
    /// Resets the card and starts it. Its function must have memory decoding and bus mastering enabled.
    ///
    /// # Errors
    /// [`Error`]; the card is then left in reset, or with its interrupts masked and its rings off.
    pub fn new(registers: M, dma: &impl Dma<Region = R>) -> Result<Self, Error> {
        if registers.length() < registers::WINDOW_LENGTH {
            return Err(Error::WindowTooShort);
        }
        reset(&registers)?;
        let mac = eeprom::mac(&registers).ok_or(Error::NoAddress)?;
        eeprom::program(&registers, mac);
        for word in 0..registers::MTA_WORDS {
            registers.write_u32(registers::MTA + 4 * word, 0);
        }
        for word in 0..registers::STATISTICS_WORDS {
            let _ = registers.read_u32(registers::STATISTICS + 4 * word);
        }
        let receive = ReceiveRing::new(&registers, dma)?;
        let mut transmit = TransmitRing::new(&registers, dma)?;
        start(&registers);
        transmit.start(&registers);
        Ok(Self { registers, mac, receive, transmit, counters: Counters::default() })
    }
}

/// Resets the card (14.3) and leaves it with its interrupts masked and its link set up.
fn reset<M: Mmio>(registers: &M) -> Result<(), Error> {
    registers.write_u32(registers::IMC, u32::MAX);
    registers.write_u32(registers::RCTL, 0);
    registers.write_u32(registers::TCTL, 0);
    let control = Control::from_bits_retain(registers.read_u32(registers::CTRL));
    registers.write_u32(registers::CTRL, (control | Control::RST).bits());
    for _ in 0..RESET_SETTLE_POLLS {
        let _ = registers.read_u32(registers::STATUS);
    }
    let mut polls = 0;
    while Control::from_bits_retain(registers.read_u32(registers::CTRL)).contains(Control::RST) {
        polls += 1;
        if polls == RESET_POLLS_MAX {
            return Err(Error::ResetStuck);
        }
    }
    registers.write_u32(registers::IMC, u32::MAX);
    let _ = registers.read_u32(registers::ICR);
    let control = Control::from_bits_retain(registers.read_u32(registers::CTRL));
    let unwanted = Control::LRST | Control::ILOS | Control::VME | Control::PHY_RST;
    registers.write_u32(registers::CTRL, ((control - unwanted) | Control::SLU | Control::ASDE).bits());
    Ok(())
}

/// Switches receiver, transmitter and interrupts on (14.4, 14.5).
fn start<M: Mmio>(registers: &M) {
    registers.write_u32(registers::RXCSUM, (ReceiveChecksum::IPOFLD | ReceiveChecksum::TUOFLD).bits());
    registers.write_u32(registers::RDTR, 0);
    let receive = ReceiveControl::EN | ReceiveControl::BAM | ReceiveControl::SECRC;
    registers.write_u32(registers::RCTL, receive.bits());
    registers.write_u32(registers::TIPG, registers::TIPG_COPPER);
    let transmit = TransmitControl::EN
        | TransmitControl::PSP
        | TransmitControl::COLLISION_THRESHOLD_15
        | TransmitControl::COLLISION_DISTANCE_64;
    registers.write_u32(registers::TCTL, transmit.bits());
    registers.write_u32(registers::IMS, CAUSES.bits());
}

impl<M: Mmio, R: DmaRegion> Nic for E1000<M, R> {
    fn model(&self) -> &'static str {
        "e1000"
    }

    fn mac(&self) -> MacAddress {
        self.mac
    }

    fn tcp_offload(&self) -> TcpOffload {
        TcpOffload::Checksum
    }

    fn link(&mut self) -> Link {
        let status = Status::from_bits_retain(self.registers.read_u32(registers::STATUS));
        if !status.contains(Status::LU) {
            return Link::Down;
        }
        let speed = if status.contains(Status::SPEED_1000) {
            1000
        } else if status.contains(Status::SPEED_100) {
            100
        } else {
            10
        };
        Link::Up { speed_mbit: Some(speed) }
    }

    fn can_transmit(&mut self) -> bool {
        let room = self.transmit.has_room();
        self.counters.transmit_full += u64::from(!room);
        room
    }

    fn flush(&mut self) {
        self.transmit.start(&self.registers);
    }

    fn transmit(&mut self, frame: &[u8], offload: Offload) -> Result<(), TransmitError> {
        let result = self.transmit.put(&self.registers, frame, offload);
        match result {
            Ok(()) => {
                self.counters.frames_sent += 1;
                self.counters.bytes_sent += frame.len() as u64;
            }
            Err(TransmitError::RingFull) => self.counters.transmit_full += 1,
            Err(TransmitError::BadFrame) => {}
        }
        result
    }

    fn receive(&mut self, into: &mut [u8]) -> Option<Received> {
        let limit = into.len().min(FRAME_LENGTH_MAX);
        for _ in 0..BAD_FRAMES_PER_CALL_MAX {
            match self.receive.take(&self.registers, &mut into[..limit]) {
                Taken::Empty => return None,
                Taken::Bad => self.counters.frames_bad += 1,
                Taken::Frame(frame) => {
                    self.counters.frames_received += 1;
                    self.counters.bytes_received += frame.length as u64;
                    return Some(frame);
                }
            }
        }
        None
    }

    fn acknowledge_interrupt(&mut self) {
        let _ = self.registers.read_u32(registers::ICR);
    }

    fn request_interrupt(&mut self) {
        self.registers.write_u32(registers::ICS, Cause::RXT0.bits());
    }

    fn counters(&mut self) -> Counters {
        self.counters.receive_overruns += u64::from(self.registers.read_u32(registers::MPC));
        self.counters
    }
}

impl<M: Mmio, R> Drop for E1000<M, R> {
    /// The card must not write to memory that is no longer its own.
    fn drop(&mut self) {
        self.registers.write_u32(registers::IMC, u32::MAX);
        self.registers.write_u32(registers::RCTL, 0);
        self.registers.write_u32(registers::TCTL, 0);
        let _ = self.registers.read_u32(registers::STATUS);
    }
}
