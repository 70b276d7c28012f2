//! Building page tables (SDM volume 3, section 4.5): four levels, 4 KiB, 2 MiB and 1 GiB pages.
//!
//! Pure: tables are reached through [`Tables`], so that this runs on the host over a fake memory.

use core::fmt;

use bitflags::bitflags;
use x86_64::{PhysAddr, VirtAddr};

bitflags! {
    /// What a page may be used for. Readable always.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Access: u64 {
        /// Writes are allowed.
        const WRITE = 1 << 1;
        /// Accesses go to the device, uncached (PCD and PWT: entry 3 of the default PAT).
        const UNCACHED = 1 << 3 | 1 << 4;
        /// Instructions cannot be fetched from it.
        const NO_EXECUTE = 1 << 63;
    }
}

const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Memory that holds page tables.
pub trait Tables {
    /// A new table of 512 zero entries, or `None` if memory is out.
    fn allocate(&mut self) -> Option<PhysAddr>;
    /// Reads entry `index` of the table at `table`.
    fn read(&self, table: PhysAddr, index: usize) -> u64;
    /// Writes entry `index` of the table at `table`.
    fn write(&mut self, table: PhysAddr, index: usize, entry: u64);
}

/// Why a range cannot be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// No memory for a table.
    OutOfMemory,
    /// Something is mapped at this address already.
    AlreadyMapped(VirtAddr),
    /// An address or the length is not a multiple of 4 KiB.
    Unaligned,
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory => write!(f, "no memory is left for a page table"),
            Self::AlreadyMapped(address) => write!(f, "{:#x} is mapped already", address.as_u64()),
            Self::Unaligned => write!(f, "a mapping is not page-aligned"),
        }
    }
}

impl core::error::Error for MapError {}

/// Sizes of pages, from the largest that the processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LargestPage {
    /// 2 MiB.
    TwoMib,
    /// 1 GiB.
    OneGib,
}

/// Maps `length` bytes from `from` to physical memory at `to`, with the largest pages that fit.
///
/// # Errors
/// [`MapError`]; what was mapped until then stays.
pub fn map(
    tables: &mut impl Tables,
    root: PhysAddr,
    (from, to, length): (VirtAddr, PhysAddr, u64),
    access: Access,
    largest: LargestPage,
) -> Result<(), MapError> {
    if !(from.as_u64() | to.as_u64() | length).is_multiple_of(4096) {
        return Err(MapError::Unaligned);
    }
    let mut done = 0;
    while done < length {
        let (virt, phys) = (from + done, to + done);
        let level = level_for(virt, phys, length - done, largest);
        map_one(tables, root, virt, phys, access, level)?;
        done += page_size(level);
    }
    Ok(())
}

const fn page_size(level: u32) -> u64 {
    1 << (12 + 9 * (level - 1))
}

fn level_for(virt: VirtAddr, phys: PhysAddr, left: u64, largest: LargestPage) -> u32 {
    let highest = match largest {
        LargestPage::TwoMib => 2,
        LargestPage::OneGib => 3,
    };
    let fits = |level: &u32| {
        let size = page_size(*level);
        (virt.as_u64() | phys.as_u64()).is_multiple_of(size) && left >= size
    };
    (2..=highest).rev().find(fits).unwrap_or(1)
}

const fn index(virt: VirtAddr, level: u32) -> usize {
    (virt.as_u64() >> (12 + 9 * (level - 1))) as usize % 512
}

fn map_one(
    tables: &mut impl Tables,
    root: PhysAddr,
    virt: VirtAddr,
    phys: PhysAddr,
    access: Access,
    leaf: u32,
) -> Result<(), MapError> {
    let mut table = root;
    for level in (leaf + 1..=4).rev() {
        let entry = tables.read(table, index(virt, level));
        if entry & PRESENT != 0 && entry & LARGE != 0 {
            return Err(MapError::AlreadyMapped(virt));
        }
        table = if entry & PRESENT != 0 {
            PhysAddr::new(entry & ADDRESS)
        } else {
            let new = tables.allocate().ok_or(MapError::OutOfMemory)?;
            // Rights are granted by the leaf alone.
            tables.write(table, index(virt, level), new.as_u64() | PRESENT | Access::WRITE.bits());
            new
        };
    }
    if tables.read(table, index(virt, leaf)) & PRESENT != 0 {
        return Err(MapError::AlreadyMapped(virt));
    }
    let large = if leaf > 1 { LARGE } else { 0 };
    tables.write(table, index(virt, leaf), phys.as_u64() | access.bits() | large | PRESENT);
    Ok(())
}

/// What an address translates to and what is allowed there, or `None` if nothing is mapped.
#[must_use]
pub fn translate(tables: &impl Tables, root: PhysAddr, virt: VirtAddr) -> Option<(PhysAddr, Access)> {
    let mut table = root;
    for level in (1..=4).rev() {
        let entry = tables.read(table, index(virt, level));
        if entry & PRESENT == 0 {
            return None;
        }
        if level == 1 || entry & LARGE != 0 {
            let size = page_size(level);
            let base = entry & ADDRESS & !(size - 1);
            return Some((PhysAddr::new(base + virt.as_u64() % size), Access::from_bits_truncate(entry)));
        }
        table = PhysAddr::new(entry & ADDRESS);
    }
    None
}

/// Removes the 4 KiB mapping of `virt`, if there is one. The caller invalidates the translation.
pub fn unmap_page(tables: &mut impl Tables, root: PhysAddr, virt: VirtAddr) {
    let mut table = root;
    for level in (2..=4).rev() {
        let entry = tables.read(table, index(virt, level));
        if entry & PRESENT == 0 || entry & LARGE != 0 {
            return;
        }
        table = PhysAddr::new(entry & ADDRESS);
    }
    tables.write(table, index(virt, 1), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    struct Fake(Vec<[u64; 512]>, usize);

    impl Tables for Fake {
        fn allocate(&mut self) -> Option<PhysAddr> {
            if self.0.len() == self.1 {
                return None;
            }
            self.0.push([0; 512]);
            Some(PhysAddr::new(self.0.len() as u64 * 4096 - 4096))
        }
        fn read(&self, table: PhysAddr, index: usize) -> u64 {
            self.0[table.as_u64() as usize / 4096][index]
        }
        fn write(&mut self, table: PhysAddr, index: usize, entry: u64) {
            self.0[table.as_u64() as usize / 4096][index] = entry;
        }
    }

    fn fake(limit: usize) -> (Fake, PhysAddr) {
        let mut fake = Fake(Vec::new(), limit);
        let root = fake.allocate().unwrap();
        (fake, root)
    }

    const AT: VirtAddr = VirtAddr::new_truncate(0xffff_8000_0000_0000);

    #[test]
    fn what_is_mapped_translates_with_its_rights() {
        let (mut tables, root) = fake(64);
        let access = Access::WRITE | Access::NO_EXECUTE;
        let to = PhysAddr::new(0x20_0000 - 4096);
        let from = AT + 0x20_0000u64 - 4096u64;
        map(&mut tables, root, (from, to, 0x40_2000), access, LargestPage::TwoMib).unwrap();
        for offset in [0, 4095, 4096, 0x20_1234, 0x40_1fff] {
            assert_eq!(translate(&tables, root, from + offset), Some((to + offset, access)));
        }
        assert_eq!(translate(&tables, root, from + 0x40_2000u64), None);
        assert_eq!(tables.0.len(), 5, "root, two levels, and a table for each ragged end");
    }

    #[test]
    fn large_pages_are_used_where_both_sides_are_aligned() {
        let (mut tables, root) = fake(64);
        map(&mut tables, root, (AT, PhysAddr::zero(), 4 << 30), Access::WRITE, LargestPage::OneGib).unwrap();
        assert_eq!(tables.0.len(), 2);
        assert_eq!(translate(&tables, root, AT + 0xfee0_0123u64).unwrap().0, PhysAddr::new(0xfee0_0123));
    }

    #[test]
    fn nothing_is_mapped_over() {
        let (mut tables, root) = fake(64);
        let range = (AT, PhysAddr::zero(), 4096);
        map(&mut tables, root, range, Access::empty(), LargestPage::TwoMib).unwrap();
        let again = map(&mut tables, root, range, Access::WRITE, LargestPage::TwoMib);
        assert_eq!(again, Err(MapError::AlreadyMapped(AT)));
        unmap_page(&mut tables, root, AT);
        assert_eq!(translate(&tables, root, AT), None);
    }

    #[test]
    fn running_out_of_tables_is_an_error() {
        let (mut tables, root) = fake(2);
        let range = (AT, PhysAddr::zero(), 4096);
        let result = map(&mut tables, root, range, Access::empty(), LargestPage::TwoMib);
        assert_eq!(result, Err(MapError::OutOfMemory));
    }
}
