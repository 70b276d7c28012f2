//! The sections of a board.

use alloc::vec::Vec;

use super::{Kind, Need, Sections, SnapshotError, Writer};
use crate::devices::board::{BoardState, ChassisState, VCPUS_MAX};

const CHASSIS: Kind = Kind::new("chassis", 1);
const LAPIC: Kind = Kind::new("lapic", 1);
const PIC: Kind = Kind::new("pic", 1);
const IOAPIC: Kind = Kind::new("ioapic", 1);
const PIT: Kind = Kind::new("pit", 1);
const RTC: Kind = Kind::new("rtc", 1);
const ACPI_PM: Kind = Kind::new("acpi-pm", 1);
const UART: Kind = Kind::new("uart", 1);
const PCI: Kind = Kind::new("pci", 1);

/// Writes the sections of `state`.
///
/// # Errors
/// [`SnapshotError`] if one is too large.
pub fn write(writer: &mut Writer, state: &BoardState) -> Result<(), SnapshotError> {
    let BoardState { chassis, lapics, pic, ioapic, pit, rtc, pm, uart, pci } = state;
    writer.section(CHASSIS, 0, Need::Mandatory, chassis)?;
    for (instance, lapic) in (0..).zip(lapics) {
        writer.section(LAPIC, instance, Need::Mandatory, lapic)?;
    }
    writer.section(PIC, 0, Need::Mandatory, pic)?;
    writer.section(IOAPIC, 0, Need::Mandatory, ioapic)?;
    writer.section(PIT, 0, Need::Mandatory, pit)?;
    writer.section(RTC, 0, Need::Mandatory, rtc)?;
    writer.section(ACPI_PM, 0, Need::Mandatory, pm)?;
    writer.section(UART, 0, Need::Mandatory, uart)?;
    writer.section(PCI, 0, Need::Mandatory, pci)?;
    Ok(())
}

/// Takes the sections of a board. What is in them is checked by [`crate::devices::board::Board::restore`].
///
/// # Errors
/// [`SnapshotError`] if one is missing or malformed.
pub fn read(sections: &mut Sections<'_>) -> Result<BoardState, SnapshotError> {
    let chassis: ChassisState = sections.take(CHASSIS, 0)?;
    let vcpus = usize::try_from(chassis.vcpus).unwrap_or(usize::MAX);
    if vcpus > VCPUS_MAX {
        return Err(SnapshotError::Malformed(CHASSIS.name));
    }
    let mut lapics = Vec::with_capacity(vcpus);
    for instance in 0..vcpus as u16 {
        lapics.push(sections.take(LAPIC, instance)?);
    }
    Ok(BoardState {
        chassis,
        lapics,
        pic: sections.take(PIC, 0)?,
        ioapic: sections.take(IOAPIC, 0)?,
        pit: sections.take(PIT, 0)?,
        rtc: sections.take(RTC, 0)?,
        pm: sections.take(ACPI_PM, 0)?,
        uart: sections.take(UART, 0)?,
        pci: sections.take(PCI, 0)?,
    })
}
