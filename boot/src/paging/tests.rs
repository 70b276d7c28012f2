use std::{collections::HashMap, string::ToString, vec::Vec};

use super::*;

/// Tables by address, with a limit on how many there may be.
struct FakeMemory {
    tables: HashMap<u64, Vec<u64>>,
    limit: usize,
}

impl FakeMemory {
    fn new(limit: usize) -> Self {
        Self { tables: HashMap::new(), limit }
    }
}

impl TableMemory for FakeMemory {
    fn allocate(&mut self) -> Option<u64> {
        if self.tables.len() == self.limit {
            return None;
        }
        let address = 0x7_0000_0000 + self.tables.len() as u64 * PAGE;
        self.tables.insert(address, std::vec![0; ENTRIES]);
        Some(address)
    }
    fn read(&self, table: u64, index: usize) -> u64 {
        self.tables[&table][index]
    }
    fn write(&mut self, table: u64, index: usize, entry: u64) {
        self.tables.get_mut(&table).unwrap()[index] = entry;
    }
}

fn map(
    space: AddressSpace,
    memory: &mut FakeMemory,
    (linear, physical, length): (u64, u64, u64),
    access: Access,
) -> Result<(), MapError> {
    let mapping = Mapping { linear, physical, length, access, caching: Caching::WriteBack };
    space.map(memory, mapping, Largest::Large)
}

const HIGH: u64 = 0xffff_8000_0000_0000;

#[test]
fn pages_are_small_at_the_edges_and_large_between() {
    let mut memory = FakeMemory::new(16);
    let space = AddressSpace::new(&mut memory).unwrap();
    let (start, length) = (LARGE_PAGE - PAGE, 2 * LARGE_PAGE + 2 * PAGE);
    map(space, &mut memory, (HIGH + start, start, length), Access::ReadWrite).unwrap();
    // Root, one table of each level above, and page tables for the first and the last 2 MiB.
    assert_eq!(memory.tables.len(), 5);
    for address in [start, start + PAGE, 2 * LARGE_PAGE + 5, start + length - 1] {
        let translation = space.translate(&memory, HIGH + address).unwrap();
        assert_eq!(translation.physical, address);
        assert_eq!(translation.access, Access::ReadWrite);
    }
    assert_eq!(space.translate(&memory, HIGH + start - 1), None);
    assert_eq!(space.translate(&memory, HIGH + start + length), None);
}

#[test]
fn huge_pages_are_used_where_they_are_offered_and_fit() {
    let mut memory = FakeMemory::new(4);
    let space = AddressSpace::new(&mut memory).unwrap();
    let mapping = Mapping {
        linear: HIGH,
        physical: 0,
        length: 4 * HUGE_PAGE + LARGE_PAGE,
        access: Access::ReadWrite,
        caching: Caching::WriteBack,
    };
    space.map(&mut memory, mapping, Largest::Huge).unwrap();
    // Root, the level of huge pages, and one table for the last 2 MiB.
    assert_eq!(memory.tables.len(), 3);
    for address in [0, 0xfee0_0123, 4 * HUGE_PAGE + 5] {
        assert_eq!(space.translate(&memory, HIGH + address).unwrap().physical, address);
    }
}

#[test]
fn the_top_of_the_address_space_can_be_mapped() {
    let mut memory = FakeMemory::new(8);
    let space = AddressSpace::new(&mut memory).unwrap();
    let top = 0u64.wrapping_sub(PAGE);
    map(space, &mut memory, (top, 0x5000, PAGE), Access::ReadExecute).unwrap();
    let translation = space.translate(&memory, top + 3).unwrap();
    assert_eq!((translation.physical, translation.access), (0x5003, Access::ReadExecute));
}

#[test]
fn no_leaf_is_writable_and_executable() {
    for access in [Access::Read, Access::ReadWrite, Access::ReadExecute] {
        let bits = leaf_bits(access, Caching::WriteBack);
        assert!(bits & WRITABLE == 0 || bits & NO_EXECUTE != 0, "{access:?}");
    }
}

#[test]
fn device_memory_is_uncached() {
    let mut memory = FakeMemory::new(8);
    let space = AddressSpace::new(&mut memory).unwrap();
    let apic = 0xfee0_0000;
    let access = Access::ReadWrite;
    let mapping = Mapping { linear: HIGH, physical: apic, length: PAGE, access, caching: Caching::Uncached };
    space.map(&mut memory, mapping, Largest::Huge).unwrap();
    assert_eq!(space.translate(&memory, HIGH).unwrap().caching, Caching::Uncached);
}

#[test]
fn nothing_is_mapped_over() {
    let mut memory = FakeMemory::new(16);
    let space = AddressSpace::new(&mut memory).unwrap();
    let map = |memory: &mut _, linear, length| map(space, memory, (linear, 0, length), Access::Read);
    map(&mut memory, HIGH, LARGE_PAGE).unwrap();
    assert_eq!(map(&mut memory, HIGH + PAGE, PAGE), Err(MapError::Taken { address: HIGH + PAGE }));
    assert_eq!(map(&mut memory, HIGH, LARGE_PAGE), Err(MapError::Taken { address: HIGH }));
    map(&mut memory, HIGH + LARGE_PAGE, PAGE).unwrap();
    let taken = MapError::Taken { address: HIGH + LARGE_PAGE };
    assert_eq!(map(&mut memory, HIGH + LARGE_PAGE, LARGE_PAGE), Err(taken));
    assert_eq!(map(&mut memory, HIGH + 1, PAGE), Err(MapError::Misaligned));
}

#[test]
fn what_is_unmapped_is_gone_and_the_rest_stays() {
    let mut memory = FakeMemory::new(16);
    let space = AddressSpace::new(&mut memory).unwrap();
    let length = LARGE_PAGE + 2 * PAGE;
    map(space, &mut memory, (HIGH, 0, length), Access::ReadWrite).unwrap();
    assert_eq!(space.unmap(&mut memory, HIGH, PAGE), Err(MapError::Misaligned));
    space.unmap(&mut memory, HIGH + LARGE_PAGE, PAGE).unwrap();
    assert_eq!(space.translate(&memory, HIGH + LARGE_PAGE), None);
    assert!(space.translate(&memory, HIGH + LARGE_PAGE + PAGE).is_some());
    space.unmap(&mut memory, HIGH, LARGE_PAGE).unwrap();
    assert_eq!(space.translate(&memory, HIGH), None);
}

#[test]
fn running_out_of_memory_is_an_error() {
    let mut memory = FakeMemory::new(3);
    let space = AddressSpace::new(&mut memory).unwrap();
    let result = map(space, &mut memory, (HIGH, 0, PAGE), Access::Read);
    assert_eq!(result, Err(MapError::OutOfMemory));
}

#[test]
fn a_processor_that_walks_five_levels_is_refused_by_name() {
    // PAE, and what firmware sets beside it.
    assert_eq!(check_levels(0x668), Ok(()));
    assert_eq!(check_levels(!(1 << 12)), Ok(()));
    let refused = check_levels(0x668 | 1 << 12).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the firmware uses 5-level paging, which is not supported: turn it off in its setup"
    );
}
