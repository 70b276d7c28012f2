#![expect(unsafe_code, reason = "reading the firmware's tables where they lie")]
//! What the firmware's ACPI tables say, as plain values.
//!
//! Only static tables are read; there is no AML interpreter, so power-off and the routing of PCI interrupts by
//! the firmware's methods are out of reach (see [`super::pci::interrupt`]).

use alloc::vec::Vec;
use core::fmt;
use core::ptr::NonNull;

use acpi::address::AddressSpace;
use acpi::fadt::Fadt;
use acpi::madt::{Madt, MadtEntry};
use acpi::mcfg::Mcfg;
use acpi::{AcpiError, AcpiHandler, AcpiTables, PhysicalMapping};
use x86_64::PhysAddr;

use crate::arch::apic;
use crate::arch::ioapic::{Polarity, Signal, Trigger};
use crate::mm::direct;
use crate::mm::mmio::Window;
use crate::mm::paging;

/// Entries of the MADT that are looked at: a bound against a broken table.
const MADT_ENTRIES_MAX: usize = 4096;
/// A processor that is there (MADT local APIC flags, bit 0).
const PROCESSOR_ENABLED: u32 = 1;

/// Where a PC's first I/O APIC is.
const IO_APIC: u64 = 0xfec0_0000;
/// Processors that are tried if the firmware names none.
const PROCESSORS_ASSUMED: u32 = 4;

/// What the firmware says about the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firmware {
    /// Local APIC ids of the processors that are enabled, in the firmware's order.
    pub processors: Vec<u32>,
    /// How far that list is to be believed.
    pub processors_are: Certainty,
    /// Physical address of the local APICs' registers.
    pub local_apic: u64,
    /// The I/O APICs.
    pub io_apics: Vec<IoApic>,
    /// ISA interrupts that do not arrive at the global interrupt of the same number, or signal differently.
    pub overrides: Vec<Override>,
    /// The power-management timer.
    pub pm_timer: Option<PmTimer>,
    /// How to reset the machine.
    pub reset: Option<Reset>,
    /// PCI configuration space in memory.
    pub configuration_spaces: Vec<ConfigurationSpace>,
}

/// How far a list is to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// The firmware's tables say so.
    Told,
    /// Nobody says so; it is what is usual.
    Assumed,
}

/// One I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// Physical address of its registers.
    pub address: u64,
    /// Global interrupt of its first line.
    pub first_interrupt: u32,
}

/// Where an ISA interrupt arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Override {
    /// The ISA interrupt.
    pub isa: u8,
    /// The global interrupt.
    pub interrupt: u32,
    /// How it signals.
    pub signal: Signal,
}

/// The power-management timer: counts at 3.579545 MHz.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PmTimer {
    /// Its I/O port, 32 bits wide.
    pub port: u16,
    /// Mask of the bits that count.
    pub mask: u32,
}

/// A write that resets the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// Where.
    pub register: ResetRegister,
    /// The byte to write.
    pub value: u8,
}

/// Where the write that resets the machine goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetRegister {
    /// An I/O port.
    Port(u16),
    /// A physical address.
    Memory(u64),
    /// A register in the configuration space of a device on bus 0.
    Pci {
        /// The device.
        device: u8,
        /// Its function.
        function: u8,
        /// The register.
        offset: u16,
    },
}

/// Where the configuration space of some PCI buses is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigurationSpace {
    /// Physical address of bus 0, whether that is covered or not.
    pub address: u64,
    /// PCI segment group.
    pub segment: u16,
    /// First bus covered.
    pub first_bus: u8,
    /// Last bus covered.
    pub last_bus: u8,
}

/// The firmware's tables are of no use.
#[derive(Debug)]
pub enum FirmwareError {
    /// The loader found no root pointer.
    NoRootPointer,
    /// A table that must be there is missing or broken.
    Table(AcpiError),
}

impl fmt::Display for FirmwareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRootPointer => f.write_str("the firmware gives no ACPI tables"),
            Self::Table(error) => write!(f, "the firmware's ACPI tables are broken: {error:?}"),
        }
    }
}

impl core::error::Error for FirmwareError {}

impl Default for Firmware {
    /// What every PC is taken to have if the firmware says nothing.
    fn default() -> Self {
        Self {
            processors: Vec::new(),
            processors_are: Certainty::Told,
            local_apic: apic::BASE,
            io_apics: Vec::new(),
            overrides: Vec::new(),
            pm_timer: None,
            reset: None,
            configuration_spaces: Vec::new(),
        }
    }
}

impl Firmware {
    /// What a PC is taken to have if its firmware says nothing, as some emulators' does: one I/O APIC where it
    /// always is, and a few processors. Those that are not there do not start.
    #[must_use]
    pub fn assumed() -> Self {
        Self {
            processors: (0..PROCESSORS_ASSUMED).collect(),
            processors_are: Certainty::Assumed,
            io_apics: Vec::from([IoApic { address: IO_APIC, first_interrupt: 0 }]),
            overrides: Vec::from([Override { isa: 0, interrupt: 2, signal: Signal::ISA }]),
            ..Self::default()
        }
    }

    /// Reads the tables under the root pointer at physical address `rsdp` through the direct map.
    ///
    /// # Errors
    /// [`FirmwareError`] if there is no MADT to be read; what else is missing is left at its default.
    ///
    /// # Safety
    /// `rsdp` is 0 or what the firmware gave as its root pointer, and the tables lie in the direct map.
    pub unsafe fn read(rsdp: u64) -> Result<Self, FirmwareError> {
        if rsdp == 0 {
            return Err(FirmwareError::NoRootPointer);
        }
        // SAFETY: by the contract.
        unsafe { Self::read_with(DirectMap, rsdp) }
    }

    /// # Safety
    /// As for [`Self::read`], seen through `handler`.
    unsafe fn read_with<H: AcpiHandler>(handler: H, rsdp: u64) -> Result<Self, FirmwareError> {
        // SAFETY: by the contract.
        let tables =
            unsafe { AcpiTables::from_rsdp(handler, rsdp as usize) }.map_err(FirmwareError::Table)?;
        let mut firmware = Self::default();
        let madt = tables.find_table::<Madt>().map_err(FirmwareError::Table)?;
        firmware.local_apic = u64::from(madt.get().local_apic_address);
        for entry in madt.get().entries().take(MADT_ENTRIES_MAX) {
            firmware.note(&entry);
        }
        if let Ok(fadt) = tables.find_table::<Fadt>() {
            firmware.pm_timer = pm_timer(&fadt);
            firmware.reset = reset(&fadt);
        }
        if let Ok(mcfg) = tables.find_table::<Mcfg>() {
            firmware.configuration_spaces.extend(mcfg.entries().iter().map(|entry| ConfigurationSpace {
                address: entry.base_address,
                segment: entry.pci_segment_group,
                first_bus: entry.bus_number_start,
                last_bus: entry.bus_number_end,
            }));
        }
        Ok(firmware)
    }

    fn note(&mut self, entry: &MadtEntry<'_>) {
        match entry {
            MadtEntry::LocalApic(cpu) if cpu.flags & PROCESSOR_ENABLED != 0 => {
                self.processors.push(u32::from(cpu.apic_id));
            }
            // Processors with a small id may be listed in both ways.
            MadtEntry::LocalX2Apic(cpu)
                if cpu.flags & PROCESSOR_ENABLED != 0 && !self.processors.contains(&{ cpu.x2apic_id }) =>
            {
                self.processors.push(cpu.x2apic_id);
            }
            MadtEntry::LocalApicAddressOverride(entry) => self.local_apic = entry.local_apic_address,
            MadtEntry::IoApic(io_apic) => self.io_apics.push(IoApic {
                address: u64::from(io_apic.io_apic_address),
                first_interrupt: io_apic.global_system_interrupt_base,
            }),
            MadtEntry::InterruptSourceOverride(entry) if entry.bus == 0 => self.overrides.push(Override {
                isa: entry.irq,
                interrupt: entry.global_system_interrupt,
                signal: signal(entry.flags),
            }),
            _ => {}
        }
    }

    /// The global interrupt that ISA interrupt `isa` arrives at, and how it signals.
    #[must_use]
    pub fn isa_interrupt(&self, isa: u8) -> (u32, Signal) {
        self.overrides
            .iter()
            .find(|entry| entry.isa == isa)
            .map_or((u32::from(isa), Signal::ISA), |entry| (entry.interrupt, entry.signal))
    }
}

/// MPS INTI flags of an override on the ISA bus (ACPI 6.5, table 5.26).
fn signal(flags: u16) -> Signal {
    Signal {
        polarity: if flags & 0b11 == 0b11 { Polarity::Low } else { Polarity::High },
        trigger: if flags >> 2 & 0b11 == 0b11 { Trigger::Level } else { Trigger::Edge },
    }
}

fn pm_timer(fadt: &Fadt) -> Option<PmTimer> {
    let block = fadt.pm_timer_block().ok()??;
    if block.address_space != AddressSpace::SystemIo {
        return None;
    }
    let flags = fadt.flags;
    let mask = if flags.pm_timer_is_32_bit() { u32::MAX } else { 0x00ff_ffff };
    Some(PmTimer { port: u16::try_from(block.address).ok()?, mask })
}

fn reset(fadt: &Fadt) -> Option<Reset> {
    let flags = fadt.flags;
    if !flags.supports_system_reset_via_fadt() {
        return None;
    }
    let register = fadt.reset_register().ok()?;
    let register = match register.address_space {
        AddressSpace::SystemIo => ResetRegister::Port(u16::try_from(register.address).ok()?),
        AddressSpace::SystemMemory if register.address != 0 => ResetRegister::Memory(register.address),
        AddressSpace::PciConfigSpace => ResetRegister::Pci {
            device: u8::try_from(register.address >> 32 & 0xffff).ok()?,
            function: u8::try_from(register.address >> 16 & 0xffff).ok()?,
            offset: register.address as u16,
        },
        _ => return None,
    };
    Some(Reset { register, value: fadt.reset_value })
}

/// Tables seen through the direct map, or through a window of their own.
#[derive(Clone, Copy, Debug)]
struct DirectMap;

impl AcpiHandler for DirectMap {
    unsafe fn map_physical_region<T>(&self, physical: usize, size: usize) -> PhysicalMapping<Self, T> {
        let physical_address = PhysAddr::new_truncate(physical as u64);
        let mut at = direct::at(physical_address);
        if !(paging::is_mapped(at) && paging::is_mapped(at + size as u64 - 1)) {
            // Firmware may keep tables in memory that it does not call RAM.
            at = Window::map(physical_address, size).map_or(at, |window| window.address());
        }
        let at = NonNull::new(at.as_mut_ptr()).expect("neither map is at 0");
        // SAFETY: both maps stay for good.
        unsafe { PhysicalMapping::new(physical, at, size, size, Self) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

#[cfg(test)]
mod tests;
