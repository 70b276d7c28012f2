//! Saved state of a board: each device's own, and the two frequencies.

use alloc::vec::Vec;
use core::fmt;

use minicbor::{Decode, Encode};

use super::requests::Requests;
use super::{Board, BoardError, GuestTime, VCPUS_MAX};
use crate::devices::acpi_pm::{AcpiPm, AcpiPmState};
use crate::devices::ioapic::{IoApic, IoApicState};
use crate::devices::lapic::{Clocks, Lapic, LapicState};
use crate::devices::pci::host::{PciHost, PciHostState};
use crate::devices::pic::{PicPair, PicState};
use crate::devices::pit::{Pit, PitState};
use crate::devices::rtc::{Rtc, RtcState};
use crate::devices::uart16550::{Uart16550, UartState};
use crate::devices::{TscClock, irq};

/// Saved state of what belongs to no device.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ChassisState {
    /// Frequency of the guest's time-stamp counter, in Hz. The new host must give the guest this one.
    #[n(0)]
    pub tsc_hz: u64,
    /// Frequency of the crystal, in Hz.
    #[n(1)]
    pub crystal_hz: u64,
    /// Number of processors.
    #[n(2)]
    pub vcpus: u32,
    /// The reset control register.
    #[n(3)]
    reset_control: u8,
}

/// Saved state of a [`Board`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoardState {
    /// What belongs to no device.
    pub chassis: ChassisState,
    /// Local APICs, in the order of the processors.
    pub lapics: Vec<LapicState>,
    /// The 8259s.
    pub pic: PicState,
    /// The I/O APIC.
    pub ioapic: IoApicState,
    /// The 8254.
    pub pit: PitState,
    /// The real-time clock.
    pub rtc: RtcState,
    /// ACPI power management.
    pub pm: AcpiPmState,
    /// The serial port.
    pub uart: UartState,
    /// The PCI host bridge.
    pub pci: PciHostState,
}

/// Why a saved state is not restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreError {
    /// The machine it describes cannot exist.
    Board(BoardError),
    /// It has another number of local APICs than processors.
    Lapics,
    /// A field holds what the device cannot hold.
    Field(&'static str),
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Board(error) => error.fmt(f),
            Self::Lapics => f.write_str("the saved state has another number of local APICs than processors"),
            Self::Field(field) => write!(f, "the saved state of {field} is impossible"),
        }
    }
}

impl core::error::Error for RestoreError {}

impl Board {
    /// The state to carry to another host. Requests must have been taken before.
    #[must_use]
    pub fn save(&self) -> BoardState {
        let Self {
            clocks: Clocks { tsc, crystal },
            // Caches that follow from the rest.
            deadline: _,
            lines: _,
            pic_output: _,
            lapics,
            pic,
            ioapic,
            pit,
            rtc,
            pm,
            uart,
            pci,
            reset_control,
            requests: _,
        } = self;
        BoardState {
            chassis: ChassisState {
                tsc_hz: tsc.frequency_hz(),
                crystal_hz: crystal.frequency_hz(),
                vcpus: lapics.len() as u32,
                reset_control: *reset_control,
            },
            lapics: lapics.iter().map(Lapic::save).collect(),
            pic: pic.save(),
            ioapic: ioapic.save(),
            pit: pit.save(),
            rtc: rtc.save(),
            pm: pm.save(),
            uart: uart.save(),
            pci: pci.save(),
        }
    }

    /// A board in the state `saved`, at the same guest time. Interrupt lines are as they were and make no
    /// edge.
    ///
    /// # Errors
    /// [`RestoreError`] if any part of it is impossible.
    pub fn restore(saved: &BoardState) -> Result<Self, RestoreError> {
        let BoardState { chassis, lapics: lapic_states, pic, ioapic, pit, rtc, pm, uart, pci } = saved;
        let clock = |hz| TscClock::new(hz).map_err(|bad| RestoreError::Board(BoardError::Frequency(bad)));
        let clocks = Clocks { tsc: clock(chassis.tsc_hz)?, crystal: clock(chassis.crystal_hz)? };
        let vcpus = chassis.vcpus as usize;
        if vcpus == 0 || vcpus > VCPUS_MAX {
            return Err(RestoreError::Board(BoardError::Vcpus(vcpus)));
        }
        if lapic_states.len() != vcpus {
            return Err(RestoreError::Lapics);
        }
        let mut lapics = Vec::with_capacity(vcpus);
        for (id, state) in (0..).zip(lapic_states) {
            lapics.push(Lapic::restore(state, id, &clocks).map_err(RestoreError::Field)?);
        }
        let mut board = Self {
            clocks,
            deadline: GuestTime::NEVER,
            lines: 0,
            pic_output: false,
            lapics,
            pic: PicPair::restore(pic).map_err(RestoreError::Field)?,
            ioapic: IoApic::restore(ioapic).map_err(RestoreError::Field)?,
            pit: Pit::restore(pit).map_err(RestoreError::Field)?,
            rtc: Rtc::restore(rtc).map_err(RestoreError::Field)?,
            pm: AcpiPm::restore(pm).map_err(RestoreError::Field)?,
            uart: Uart16550::restore(uart).map_err(RestoreError::Field)?,
            pci: PciHost::restore(pci).map_err(RestoreError::Field)?,
            reset_control: chassis.reset_control,
            requests: Requests::new(),
        };
        board.pic_output = board.pic.output();
        for (line, level) in [
            (irq::Line::COM1, board.uart.interrupt_level()),
            (irq::Line::CLOCK, board.rtc.interrupt_level()),
            (irq::Line::SCI, board.pm.interrupt_level()),
        ] {
            board.lines |= u16::from(level) << line.irq;
        }
        board.refresh_deadline();
        Ok(board)
    }
}
