#![expect(unsafe_code, reason = "implements a trait of unsafe methods, and calls it")]
//! Configuration space through I/O ports (PCI Local Bus 3.0, 3.2.2.3.2).
//!
//! Every PC has them. What only memory-mapped configuration space reaches (offsets from 256, other segments)
//! nobody here needs, and it would cost half a megabyte of page tables.

use pci_types::{CommandRegister, ConfigRegionAccess, PciAddress, PciHeader};

use crate::arch::port;
use crate::sync::{Level, Lock};

const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;
/// Bytes of a function's configuration space that the ports reach.
const LENGTH: u16 = 256;

/// The two ports belong together.
static PORTS: Lock<()> = Lock::new(Level::Pci, ());

/// Configuration space of segment 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Access;

fn port_address(address: PciAddress, offset: u16) -> u32 {
    1 << 31
        | u32::from(address.bus()) << 16
        | u32::from(address.device()) << 11
        | u32::from(address.function()) << 8
        | u32::from(offset & 0xfc)
}

fn reachable(address: PciAddress, offset: u16) -> bool {
    address.segment() == 0 && offset < LENGTH
}

impl Access {
    /// Reads 32 bits at `offset`, rounded down to a multiple of 4; all ones where nobody answers.
    #[must_use]
    pub fn read_u32(self, address: PciAddress, offset: u16) -> u32 {
        if !reachable(address, offset) {
            return u32::MAX;
        }
        let _ports = PORTS.lock();
        port::write_u32(ADDRESS_PORT, port_address(address, offset));
        port::read_u32(DATA_PORT)
    }

    /// Writes 32 bits at `offset`, rounded down to a multiple of 4.
    pub fn write_u32(self, address: PciAddress, offset: u16, value: u32) {
        if reachable(address, offset) {
            let _ports = PORTS.lock();
            port::write_u32(ADDRESS_PORT, port_address(address, offset));
            port::write_u32(DATA_PORT, value);
        }
    }

    /// Writes a byte at `offset`, and nothing beside it.
    pub fn write_u8(self, address: PciAddress, offset: u16, value: u8) {
        if reachable(address, offset) {
            let _ports = PORTS.lock();
            port::write_u32(ADDRESS_PORT, port_address(address, offset));
            port::write_u8(DATA_PORT + (offset & 3), value);
        }
    }

    /// Lets the function at `address` answer at its addresses and reach memory by itself.
    pub fn enable(self, address: PciAddress) {
        PciHeader::new(address).update_command(self, |command| {
            command
                | CommandRegister::IO_ENABLE
                | CommandRegister::MEMORY_ENABLE
                | CommandRegister::BUS_MASTER_ENABLE
        });
    }
}

impl ConfigRegionAccess for Access {
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        self.read_u32(address, offset)
    }

    unsafe fn write(&self, address: PciAddress, offset: u16, value: u32) {
        self.write_u32(address, offset, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_address_has_the_fields_in_place() {
        let address = PciAddress::new(0, 0x12, 0x1f, 7);
        assert_eq!(port_address(address, 0x3e), 0x8012_ff3c);
    }
}
