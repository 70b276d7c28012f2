#![expect(unsafe_code, reason = "configuration space is read through a trait of unsafe methods")]
//! Finding the functions on the buses, from bus 0 through the bridges.

use alloc::vec::Vec;

use pci_types::{
    Bar, CommandRegister, ConfigRegionAccess, EndpointHeader, HeaderType, PciAddress, PciHeader,
};

use super::{BARS_MAX, Function};

/// Functions that are listed; a machine with more has the rest left alone.
const FUNCTIONS_MAX: usize = 512;
/// Vendor id that reads where there is no function.
const NOBODY: u16 = 0xffff;

/// Finds all functions in segment 0 that can be reached through configured bridges, in order of discovery.
pub fn scan(access: &impl ConfigRegionAccess) -> Vec<Function> {
    let mut functions = Vec::new();
    let mut buses = Vec::from([0u8]);
    let mut next = 0;
    while let Some(&bus) = buses.get(next) {
        next += 1;
        for device in 0..32 {
            scan_device(access, bus, device, &mut functions);
        }
        for bus in functions.iter().filter_map(|function| function.secondary_bus) {
            // A bridge that nobody configured names bus 0; one that names a bus twice must not loop.
            if !buses.contains(&bus) {
                buses.push(bus);
            }
        }
    }
    functions
}

fn scan_device(access: &impl ConfigRegionAccess, bus: u8, device: u8, functions: &mut Vec<Function>) {
    let first = PciHeader::new(PciAddress::new(0, bus, device, 0));
    if first.id(access).0 == NOBODY {
        return;
    }
    let count = if first.has_multiple_functions(access) { 8 } else { 1 };
    for number in 0..count {
        let header = PciHeader::new(PciAddress::new(0, bus, device, number));
        if header.id(access).0 != NOBODY && functions.len() < FUNCTIONS_MAX {
            functions.push(describe(access, header));
        }
    }
}

fn describe(access: &impl ConfigRegionAccess, header: PciHeader) -> Function {
    let address = header.address();
    let (vendor, device) = header.id(access);
    let (revision, class, subclass, interface) = header.revision_and_class(access);
    let header_type = header.header_type(access);
    // SAFETY: the function is there, and these registers are part of every header of the two kinds.
    let interrupt = unsafe { access.read(address, 0x3c) };
    let secondary_bus = match header_type {
        // SAFETY: as above; bus numbers of a bridge.
        HeaderType::PciPciBridge => Some((unsafe { access.read(address, 0x18) } >> 8) as u8),
        _ => None,
    };
    Function {
        address,
        vendor,
        device,
        class,
        subclass,
        interface,
        revision,
        header: header_type,
        bars: bars(access, header),
        pin: (interrupt >> 8) as u8,
        line: interrupt as u8,
        secondary_bus,
    }
}

/// Reads the resources of an endpoint. To learn their sizes all ones are written to them, so the function must
/// not answer meanwhile.
fn bars(access: &impl ConfigRegionAccess, mut header: PciHeader) -> [Option<Bar>; BARS_MAX] {
    let mut bars = [None; BARS_MAX];
    let decoding = CommandRegister::IO_ENABLE | CommandRegister::MEMORY_ENABLE;
    let command = header.command(access);
    let Some(endpoint) = EndpointHeader::from_header(PciHeader::new(header.address()), access) else {
        return bars;
    };
    // SAFETY: base address registers of an endpoint.
    let register = |number: u16| unsafe { access.read(header.address(), 0x10 + 4 * number) };
    let empty = |number: u16| {
        let value = register(number);
        // A 64-bit address may have nothing but zeros in its lower half.
        let is_wide = value & 0b111 == 0b100 && number < BARS_MAX as u16 - 1;
        let upper = if is_wide { register(number + 1) } else { 0 };
        // Nothing assigned, or a kind of register that does not exist (any more).
        (value & !0xf == 0 && upper == 0) || (value & 1 == 0 && value >> 1 & 1 != 0)
    };
    let used: [bool; BARS_MAX] = core::array::from_fn(|number| !empty(number as u16));
    if !used.contains(&true) {
        return bars;
    }
    header.update_command(access, |command| command.difference(decoding));
    let mut number = 0;
    while number < BARS_MAX {
        if used[number] {
            bars[number] = endpoint.bar(number as u8, access);
        }
        number += if matches!(bars[number], Some(Bar::Memory64 { .. })) { 2 } else { 1 };
    }
    header.update_command(access, |_| command);
    bars
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::RefCell;
    use std::collections::BTreeMap;

    /// Registers by function and offset; base address registers by the mask of bits that can be written.
    #[derive(Default)]
    struct Fake {
        registers: RefCell<BTreeMap<(PciAddress, u16), u32>>,
        masks: BTreeMap<(PciAddress, u16), u32>,
    }

    impl Fake {
        fn function(&mut self, address: PciAddress, registers: &[(u16, u32)]) {
            for &(offset, value) in registers {
                self.registers.borrow_mut().insert((address, offset), value);
            }
        }
    }

    impl ConfigRegionAccess for Fake {
        unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
            let registers = self.registers.borrow();
            let absent = if registers.contains_key(&(address, 0)) { 0 } else { u32::MAX };
            registers.get(&(address, offset)).copied().unwrap_or(absent)
        }
        unsafe fn write(&self, address: PciAddress, offset: u16, value: u32) {
            let mask = self.masks.get(&(address, offset)).copied().unwrap_or(0);
            let mut registers = self.registers.borrow_mut();
            if offset == 4 {
                registers.insert((address, 4), value);
            } else if offset >= 0x10 {
                assert_eq!(
                    registers.get(&(address, 4)).copied().unwrap_or(0) & 3,
                    0,
                    "sized while it answers"
                );
                let old = registers.get(&(address, offset)).copied().unwrap_or(0);
                registers.insert((address, offset), old & !mask | value & mask);
            }
        }
    }

    fn machine() -> Fake {
        let mut fake = Fake::default();
        let bridge = PciAddress::new(0, 0, 1, 0);
        fake.function(PciAddress::new(0, 0, 0, 0), &[(0, 0x1237_8086), (8, 0x0600_0002)]);
        fake.function(bridge, &[(0, 0x0001_1b36), (8, 0x0604_0000), (0xc, 0x0001_0000), (0x18, 0x0003_0300)]);
        let nic = PciAddress::new(0, 3, 2, 0);
        let registers =
            [(0, 0x100e_8086), (4, 0x0000_0007), (8, 0x0200_0003), (0x10, 0xfebc_0000), (0x14, 0xc001)];
        fake.function(nic, &registers);
        fake.function(nic, &[(0x18, 0x1_0004), (0x1c, 0x8), (0x3c, 0x010b)]);
        fake.masks.insert((nic, 0x10), 0xfffe_0000);
        fake.masks.insert((nic, 0x14), 0xffff_ffc0);
        fake.masks.insert((nic, 0x18), 0xffff_8000);
        fake.masks.insert((nic, 0x1c), 0xffff_ffff);
        fake
    }

    #[test]
    fn functions_behind_bridges_are_found_with_their_resources() {
        let fake = machine();
        let functions = scan(&fake);
        let ids: Vec<_> = functions.iter().map(|function| (function.vendor, function.device)).collect();
        assert_eq!(ids, [(0x8086, 0x1237), (0x1b36, 1), (0x8086, 0x100e)]);
        assert_eq!(functions[1].secondary_bus, Some(3));
        let nic = &functions[2];
        assert_eq!(nic.memory(0), Some((0xfebc_0000, 0x2_0000)));
        assert_eq!(nic.memory(1), None, "ports are not memory");
        assert_eq!(nic.memory(2), Some((0x8_0001_0000, 0x8000)));
        assert_eq!(nic.memory(3), None, "second half of a 64-bit register");
        assert_eq!((nic.pin, nic.line), (1, 0xb));
        assert_eq!(nic.kind(), "network controller");
    }

    #[test]
    fn memory_at_a_multiple_of_4_gib_is_found() {
        let mut fake = machine();
        let nic = PciAddress::new(0, 3, 2, 0);
        fake.function(nic, &[(0x18, 0xc), (0x1c, 0xe0)]);
        let functions = scan(&fake);
        assert_eq!(functions[2].memory(2), Some((0xe0_0000_0000, 0x8000)));
        assert_eq!(functions[2].memory(3), None);
    }

    #[test]
    fn a_scan_leaves_everything_as_it_was() {
        let fake = machine();
        let before = fake.registers.borrow().clone();
        let _ = scan(&fake);
        assert_eq!(*fake.registers.borrow(), before);
    }

    #[test]
    fn bridges_in_a_circle_do_not_trap_the_scan() {
        let mut fake = machine();
        let second = PciAddress::new(0, 3, 5, 0);
        fake.function(second, &[(0, 0x0001_1b36), (8, 0x0604_0000), (0xc, 0x0001_0000), (0x18, 0x0003_0300)]);
        assert_eq!(scan(&fake).len(), 4);
    }
}
