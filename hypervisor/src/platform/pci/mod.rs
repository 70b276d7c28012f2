//! PCI: configuration space, the functions there are, and their interrupts.
//!
//! [`Access`] reads and writes configuration space; [`scan`] finds [`Function`]s; [`interrupt`] says which
//! global interrupts a function's pin may raise.

use core::fmt;

use arrayvec::ArrayVec;
use pci_types::{Bar, HeaderType, PciAddress};

mod config;
pub mod interrupt;
mod scan;

pub use config::Access;
pub use scan::scan;

/// Base address registers of a function.
pub const BARS_MAX: usize = 6;

/// One function of a device.
#[derive(Clone, Debug)]
pub struct Function {
    /// Where it is.
    pub address: PciAddress,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Class code.
    pub class: u8,
    /// Subclass code.
    pub subclass: u8,
    /// Programming interface.
    pub interface: u8,
    /// Revision.
    pub revision: u8,
    /// Kind of header.
    pub header: HeaderType,
    /// Its resources, by number of the base address register; the second half of a 64-bit one is `None`.
    pub bars: [Option<Bar>; BARS_MAX],
    /// Interrupt pin: 1 for INTA to 4 for INTD, 0 for none.
    pub pin: u8,
    /// What the firmware has noted as its interrupt: a number of the legacy controllers, if the machine has them.
    pub line: u8,
    /// For a bridge: the bus behind it.
    pub secondary_bus: Option<u8>,
}

impl Function {
    /// Memory behind base address register `number`: physical address and length in bytes.
    #[must_use]
    pub fn memory(&self, number: usize) -> Option<(u64, u64)> {
        match (*self.bars.get(number)?)? {
            Bar::Memory32 { address, size, .. } => Some((u64::from(address), u64::from(size))),
            Bar::Memory64 { address, size, .. } => Some((address, size)),
            Bar::Io { .. } => None,
        }
    }

    /// What it is, for a person.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match (self.class, self.subclass) {
            (0x01, 0x01) => "IDE controller",
            (0x01, 0x06) => "AHCI controller",
            (0x01, 0x08) => "NVMe controller",
            (0x01, _) => "storage controller",
            (0x02, _) => "network controller",
            (0x03, _) => "display controller",
            (0x04, _) => "multimedia device",
            (0x05, _) => "memory controller",
            (0x06, 0x00) => "host bridge",
            (0x06, 0x01) => "ISA bridge",
            (0x06, 0x04) => "PCI bridge",
            (0x06, _) => "bridge",
            (0x07, _) => "communication controller",
            (0x08, _) => "system device",
            (0x09, _) => "input device",
            (0x0c, 0x03) => "USB controller",
            (0x0c, 0x05) => "SMBus controller",
            (0x0c, _) => "serial bus controller",
            _ => "device",
        }
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, vendor, device, .. } = self;
        write!(f, "{address} {vendor:04x}:{device:04x} {}", self.kind())
    }
}

/// Global interrupts that a pin may raise, most likely first.
pub type Candidates = ArrayVec<(u32, crate::arch::ioapic::Signal), 2>;
