use super::*;
use crate::guest_memory::tests::Ram;
use std::vec::Vec;

fn table_at(ram: &Ram, address: u64) -> Vec<u8> {
    let mut length = [0; 4];
    ram.read(Gpa::new(address + 4), &mut length).unwrap();
    let mut bytes = std::vec![0; u32::from_le_bytes(length) as usize];
    ram.read(Gpa::new(address), &mut bytes).unwrap();
    bytes
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn written(vcpus: usize) -> Ram {
    let ram = Ram::new(2 << 20);
    write_tables(&ram, vcpus).unwrap();
    ram
}

#[test]
fn tables_are_found_from_the_root_and_add_up() {
    let ram = written(VCPUS_MAX);
    let mut root = [0; 36];
    ram.read(Gpa::new(RSDP), &mut root).unwrap();
    assert_eq!((sum(&root[..20]), sum(&root)), (0, 0));
    let xsdt = table_at(&ram, u64::from_le_bytes(root[24..32].try_into().unwrap()));
    assert_eq!((&xsdt[..4], sum(&xsdt), xsdt.len()), (&b"XSDT"[..], 0, 36 + 16));
    let signatures: Vec<_> = xsdt[36..]
        .chunks(8)
        .map(|entry| {
            let table = table_at(&ram, u64::from_le_bytes(entry.try_into().unwrap()));
            assert_eq!(sum(&table), 0);
            table[..4].to_vec()
        })
        .collect();
    assert_eq!(signatures, [b"FACP".to_vec(), b"APIC".to_vec()]);
    let fadt = table_at(&ram, FADT_ADDRESS);
    assert_eq!(fadt.len(), 276);
    let dsdt = table_at(&ram, u64::from_le_bytes(fadt[140..148].try_into().unwrap()));
    assert_eq!((&dsdt[..4], sum(&dsdt)), (&b"DSDT"[..], 0));
    let facs = table_at(&ram, u64::from(u32::from_le_bytes(fadt[36..40].try_into().unwrap())));
    assert_eq!((&facs[..4], facs.len()), (&b"FACS"[..], 64));
}

#[test]
fn no_table_reaches_into_the_next() {
    let ram = written(VCPUS_MAX);
    for (address, limit) in [
        (XSDT_ADDRESS, FADT_ADDRESS),
        (FADT_ADDRESS, MADT_ADDRESS),
        (MADT_ADDRESS, DSDT_ADDRESS),
        (DSDT_ADDRESS, super::super::layout::EXTENDED_START),
    ] {
        assert!(address + table_at(&ram, address).len() as u64 <= limit);
    }
}

#[test]
fn the_fadt_tells_where_power_management_is() {
    let fadt = table_at(&written(1), FADT_ADDRESS);
    let field = |offset: usize| u32::from_le_bytes(fadt[offset..offset + 4].try_into().unwrap());
    assert_eq!((field(56), field(64), field(76)), (0x600, 0x604, 0x608));
    assert_eq!((fadt[88], fadt[89], fadt[91]), (4, 2, 4));
    assert_eq!(u16::from_le_bytes([fadt[46], fadt[47]]), 9);
    assert_eq!(field(48), 0, "no SMI command port: always in ACPI mode");
    assert_eq!(fadt[108], 0x32);
    assert_eq!(u16::from_le_bytes([fadt[109], fadt[110]]) & 2, 0, "no 8042");
    assert_eq!(field(112) & 1 << 10, 1 << 10);
    assert_eq!(fadt[116..128], [1, 8, 0, 1, 0xf9, 0x0c, 0, 0, 0, 0, 0, 0]);
    assert_eq!(fadt[128], 6);
}

#[test]
fn the_madt_lists_every_processor_and_both_overrides() {
    let madt = table_at(&written(3), MADT_ADDRESS);
    let mut rest = &madt[44..];
    let mut entries = Vec::new();
    while let [_, length, ..] = rest {
        let (entry, after) = rest.split_at(usize::from(*length));
        entries.push(entry.to_vec());
        rest = after;
    }
    assert_eq!(
        entries[..3].iter().map(|entry| (entry[0], entry[3])).collect::<Vec<_>>(),
        [(0, 0), (0, 1), (0, 2)]
    );
    assert_eq!(entries[3], [1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
    assert_eq!(entries[4], [2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
    assert_eq!(entries[5], [2, 10, 0, 9, 9, 0, 0, 0, 0x0d, 0]);
    assert_eq!(entries[6], [4, 6, 0xff, 0, 0, 1]);
    assert_eq!(entries.len(), 7);
}

#[test]
fn impossible_processor_counts_are_refused() {
    let ram = Ram::new(2 << 20);
    assert_eq!(write_tables(&ram, 0), Err(LoadError::Vcpus(0)));
    assert_eq!(write_tables(&ram, 65), Err(LoadError::Vcpus(65)));
}
