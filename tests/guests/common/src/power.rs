//! Finds out from ACPI how a machine is switched off.
//!
//! Reads physical memory through a function, so that it is tested on made-up tables. References: ACPI 6.5, sections
//! 5.2.5 (RSDP), 5.2.9 (FADT), 7.4.2 (`_S5`), 4.8.3.2 (PM1 control).

const BIOS_START: u64 = 0xe_0000;
const BIOS_END: u64 = 0x10_0000;
/// More tables than any machine has; a guard against garbage.
const TABLES_MAX: u64 = 64;
const TABLE_LENGTH_MAX: u64 = 1 << 20;
const HEADER_LENGTH: u64 = 36;

const SLEEP_ENABLE: u16 = 1 << 13;
const SLEEP_TYPE_SHIFT: u32 = 10;

/// Physical memory, one byte at a time.
pub trait Memory {
    /// The byte at `address`.
    fn byte(&self, address: u64) -> u8;
}

/// What to do to switch the machine off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PowerOff {
    /// The PM1a control register's port.
    pub port: u16,
    /// The word to write to it.
    pub value: u16,
}

/// Looks through the tables, beginning at `rsdp` or, if that is 0, with a search in the BIOS area.
pub fn power_off(memory: &impl Memory, rsdp: u64) -> Option<PowerOff> {
    let rsdp = if rsdp == 0 { find_rsdp(memory)? } else { rsdp };
    let fadt = find_fadt(memory, rsdp)?;
    let port = u16::try_from(read(memory, fadt + 64, 4)).ok().filter(|&port| port != 0)?;
    let dsdt = read(memory, fadt + 40, 4);
    let sleep_type = find_s5(memory, dsdt)?;
    Some(PowerOff { port, value: SLEEP_ENABLE | u16::from(sleep_type & 7) << SLEEP_TYPE_SHIFT })
}

/// A little-endian number of `size` bytes.
fn read(memory: &impl Memory, address: u64, size: u64) -> u64 {
    (0..size).fold(0, |value, index| value | u64::from(memory.byte(address + index)) << (8 * index))
}

fn is_at(memory: &impl Memory, address: u64, text: &[u8]) -> bool {
    (address..).zip(text).all(|(address, &byte)| memory.byte(address) == byte)
}

fn find_rsdp(memory: &impl Memory) -> Option<u64> {
    (BIOS_START..BIOS_END).step_by(16).find(|&address| {
        let sum = (address..address + 20).fold(0_u8, |sum, byte| sum.wrapping_add(memory.byte(byte)));
        is_at(memory, address, b"RSD PTR ") && sum == 0
    })
}

/// Searches the XSDT, or the RSDT of an ACPI 1.0 machine.
fn find_fadt(memory: &impl Memory, rsdp: u64) -> Option<u64> {
    let has_xsdt = memory.byte(rsdp + 15) >= 2 && read(memory, rsdp + 24, 8) != 0;
    let (table, entry_size) =
        if has_xsdt { (read(memory, rsdp + 24, 8), 8) } else { (read(memory, rsdp + 16, 4), 4) };
    let entries = read(memory, table + 4, 4).saturating_sub(HEADER_LENGTH) / entry_size;
    (0..entries.min(TABLES_MAX))
        .map(|index| read(memory, table + HEADER_LENGTH + index * entry_size, entry_size))
        .find(|&address| is_at(memory, address, b"FACP"))
}

/// The first element of the package `_S5`, found by its name without an interpreter for the rest.
fn find_s5(memory: &impl Memory, dsdt: u64) -> Option<u8> {
    const PACKAGE: u8 = 0x12;
    const BYTE_PREFIX: u8 = 0x0a;
    let length = read(memory, dsdt + 4, 4).min(TABLE_LENGTH_MAX);
    let name = (dsdt + HEADER_LENGTH..dsdt + length).find(|&address| is_at(memory, address, b"_S5_"))?;
    if memory.byte(name + 4) != PACKAGE {
        return None;
    }
    // The package's length has one to four bytes: the first one's two highest bits say how many more follow.
    let more = u64::from(memory.byte(name + 5) >> 6);
    let element = name + 7 + more;
    Some(match memory.byte(element) {
        BYTE_PREFIX => memory.byte(element + 1),
        small => small,
    })
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use super::*;

    impl Memory for Vec<u8> {
        fn byte(&self, address: u64) -> u8 {
            self.get(address as usize).copied().unwrap_or(0xff)
        }
    }

    const RSDP: usize = 0xf_5a40;
    const XSDT: usize = 0x1000;
    const FADT: usize = 0x2000;
    const DSDT: usize = 0x3000;

    fn machine(revision: u8, s5: &[u8]) -> Vec<u8> {
        let mut memory = vec![0; 0x10_0000];
        let mut put = |at: usize, bytes: &[u8]| memory[at..at + bytes.len()].copy_from_slice(bytes);
        put(RSDP, b"RSD PTR ");
        put(RSDP + 15, &[revision]);
        put(RSDP + 16, &(XSDT as u32).to_le_bytes());
        let entry = if revision >= 2 { 8 } else { 4 };
        put(RSDP + 24, &(XSDT as u64).to_le_bytes());
        put(XSDT + 4, &(36 + 2 * entry as u32).to_le_bytes());
        put(XSDT + 36, &0x4000_u32.to_le_bytes());
        put(XSDT + 36 + entry, &(FADT as u32).to_le_bytes());
        put(FADT, b"FACP");
        put(FADT + 40, &(DSDT as u32).to_le_bytes());
        put(FADT + 64, &0x604_u32.to_le_bytes());
        put(DSDT + 4, &200_u32.to_le_bytes());
        put(DSDT + 100, s5);
        let sum = memory[RSDP..RSDP + 20].iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        memory[RSDP + 8] = sum.wrapping_neg();
        memory
    }

    #[test]
    fn a_machine_with_an_xsdt_and_one_with_an_rsdt_are_understood() {
        for revision in [0, 2] {
            let memory = machine(revision, b"\x08_S5_\x12\x07\x04\x0a\x05\x0a\x05\x00\x00");
            let expected = PowerOff { port: 0x604, value: 0x2000 | 5 << 10 };
            assert_eq!(power_off(&memory, 0), Some(expected), "found by a search");
            assert_eq!(power_off(&memory, RSDP as u64), Some(expected), "told where it is");
        }
    }

    #[test]
    fn small_numbers_may_stand_without_a_prefix() {
        let memory = machine(2, b"\x08_S5_\x12\x06\x04\x00\x00\x00\x00");
        assert_eq!(power_off(&memory, 0).map(|power| power.value), Some(0x2000));
    }

    #[test]
    fn a_package_with_a_long_length_is_understood() {
        let memory = machine(2, b"\x08_S5_\x12\x47\x00\x04\x01\x00\x00\x00");
        assert_eq!(power_off(&memory, 0).map(|power| power.value), Some(0x2000 | 1 << 10));
    }

    #[test]
    fn without_tables_there_is_no_way() {
        assert_eq!(power_off(&vec![0; 0x10_0000], 0), None);
        assert_eq!(power_off(&vec![0xff; 0x10_0000], 0), None);
        let mut memory = machine(2, b"\x08_S5_\x12\x06\x04\x00\x00\x00\x00");
        memory[RSDP + 8] ^= 1;
        assert_eq!(power_off(&memory, 0), None, "a checksum that is wrong");
        assert_eq!(power_off(&machine(2, b""), 0), None, "no _S5");
    }
}
