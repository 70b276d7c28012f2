//! The ACPI tables a guest finds: RSDP, XSDT, FADT, FACS, MADT and DSDT.
//!
//! They describe what [`crate::devices::board`] is. Tables lie at fixed addresses in the firmware area, so
//! that they can be written one after the other without knowing each other's lengths.
//!
//! Reference: ACPI specification 6.5, chapter 5.

mod dsdt;

use alloc::vec::Vec;

use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use godwit_vmx::addr::Gpa;

use super::layout::FIRMWARE_START;
use super::linux::LoadError;
use crate::devices::board::{VCPUS_MAX, ports};
use crate::devices::irq::Line;
use crate::devices::lapic::registers::DEFAULT_BASE as LAPIC_BASE;
use crate::devices::{acpi_pm, ioapic, rtc};
use crate::guest_memory::GuestMemory;

/// Where the root pointer is.
pub const RSDP: u64 = FIRMWARE_START;
/// The firmware control structure must be aligned to 64 bytes.
const FACS_ADDRESS: u64 = FIRMWARE_START + 0x40;
const XSDT_ADDRESS: u64 = FIRMWARE_START + 0x100;
const FADT_ADDRESS: u64 = FIRMWARE_START + 0x200;
const MADT_ADDRESS: u64 = FIRMWARE_START + 0x400;
const DSDT_ADDRESS: u64 = FIRMWARE_START + 0x1000;

const OEM: [u8; 6] = *b"GODWIT";
const OEM_TABLE: [u8; 8] = *b"GODWITVM";
const OEM_REVISION: u32 = 1;

/// FADT boot flags: there are user-visible devices on the ISA bus, no VGA, no 8042.
const BOOT_LEGACY_DEVICES: u16 = 1 << 0;
const BOOT_NO_VGA: u16 = 1 << 2;
/// Latencies above these mean that C2 and C3 do not exist.
const NO_C2_LATENCY_US: u16 = 0xfff;
const NO_C3_LATENCY_US: u16 = 0xfff;

/// The machine also has 8259s.
const MADT_PC_COMPATIBLE: u32 = 1 << 0;
const MADT_SOURCE_OVERRIDE: u8 = 2;
const MADT_LOCAL_NMI: u8 = 4;
const ALL_PROCESSORS: u8 = 0xff;
/// Polarity and trigger of an interrupt: as its bus has it, or active high and level-triggered.
const CONFORMS: u16 = 0;
const LEVEL_HIGH: u16 = 0x0d;

/// Writes the tables for `vcpus` processors.
///
/// # Errors
/// [`LoadError::Vcpus`] for more processors than a board has, [`LoadError::Memory`] if the firmware area is
/// not backed.
pub fn write_tables(memory: &impl GuestMemory, vcpus: usize) -> Result<(), LoadError> {
    if vcpus == 0 || vcpus > VCPUS_MAX {
        return Err(LoadError::Vcpus(vcpus));
    }
    let put = |address, table: &dyn Aml| {
        let mut bytes = Vec::new();
        table.to_aml_bytes(&mut bytes);
        memory.write(Gpa::new(address), &bytes)
    };
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(FADT_ADDRESS);
    xsdt.add_entry(MADT_ADDRESS);
    put(RSDP, &Rsdp::new(OEM, XSDT_ADDRESS))?;
    put(FACS_ADDRESS, &FACS::new())?;
    put(XSDT_ADDRESS, &xsdt)?;
    put(FADT_ADDRESS, &fadt().finalize())?;
    put(MADT_ADDRESS, &madt(vcpus))?;
    put(DSDT_ADDRESS, &table(*b"DSDT", 2, &dsdt::definition_block()))?;
    Ok(())
}

/// A table with header and checksum around `body`.
fn table(signature: [u8; 4], revision: u8, body: &[u8]) -> Sdt {
    const HEADER_BYTES: u32 = 36;
    let mut table = Sdt::new(signature, HEADER_BYTES, revision, OEM, OEM_TABLE, OEM_REVISION);
    table.append_slice(body);
    table
}

fn fadt() -> FADTBuilder {
    let port = |offset: u16| u32::from(acpi_pm::BASE + offset).into();
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(DSDT_ADDRESS)
        .firmware_ctrl_32(FACS_ADDRESS as u32)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        // Set, these two mean "not there as fixed hardware".
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup);
    // No SMI command port: the machine is always in ACPI mode.
    fadt.sci_int = u16::from(Line::SCI.gsi).into();
    fadt.pm1a_evt_blk = port(acpi_pm::EVENT_OFFSET);
    fadt.pm1_evt_len = 4;
    fadt.pm1a_cnt_blk = port(acpi_pm::CONTROL_OFFSET);
    fadt.pm1_cnt_len = 2;
    fadt.pm_tmr_blk = port(acpi_pm::TIMER_OFFSET);
    fadt.pm_tmr_len = 4;
    fadt.p_lvl2_lat = NO_C2_LATENCY_US.into();
    fadt.p_lvl3_lat = NO_C3_LATENCY_US.into();
    fadt.century = rtc::CENTURY;
    fadt.iapc_boot_arch = (BOOT_LEGACY_DEVICES | BOOT_NO_VGA).into();
    fadt.reset_reg =
        GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(ports::RESET_CONTROL));
    fadt.reset_value = ports::RESET_VALUE;
    fadt
}

fn madt(vcpus: usize) -> Sdt {
    let mut body = Vec::new();
    body.dword(LAPIC_BASE as u32);
    body.dword(MADT_PC_COMPATIBLE);
    // At most 64 processors, so the ids fit.
    for id in 0..vcpus as u8 {
        ProcessorLocalApic::new(id, id, EnabledStatus::Enabled).to_aml_bytes(&mut body);
    }
    IoApic::new(0, ioapic::BASE as u32, 0).to_aml_bytes(&mut body);
    for (line, flags) in [(Line::TIMER, CONFORMS), (Line::SCI, LEVEL_HIGH)] {
        body.vec(&[MADT_SOURCE_OVERRIDE, 10, 0, line.irq]);
        body.dword(u32::from(line.gsi));
        body.word(flags);
    }
    body.vec(&[MADT_LOCAL_NMI, 6, ALL_PROCESSORS]);
    body.word(CONFORMS);
    body.byte(1); // LINT1
    table(*b"APIC", 3, &body)
}

#[cfg(test)]
mod tests;
