//! Four-level page tables of the processor itself (SDM vol. 3A, 4.5).
//!
//! The engine works through [`TableMemory`], so that the loader runs it on identity-mapped memory, the
//! hypervisor through its direct map, and tests on a fake. A mapping has an [`Access`] that cannot be
//! writable and executable at once. Existing mappings are never changed by [`AddressSpace::map`]; whoever
//! unmaps flushes the TLB.

use core::fmt;

/// Bytes in a page.
pub const PAGE: u64 = 4096;
/// Bytes in a large page.
pub const LARGE_PAGE: u64 = 2 << 20;
/// Bytes in a huge page.
pub const HUGE_PAGE: u64 = 1 << 30;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const WRITE_THROUGH: u64 = 1 << 3;
const CACHE_DISABLE: u64 = 1 << 4;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const ENTRIES: usize = 512;
/// Bit of CR4: linear addresses of 57 bits.
const LA57: u64 = 1 << 12;

/// Where tables live.
pub trait TableMemory {
    /// A zeroed page for a table, by its physical address; `None` if there is no memory left.
    fn allocate(&mut self) -> Option<u64>;
    /// Reads an entry (of 512) of the table at the physical address `table`.
    fn read(&self, table: u64, index: usize) -> u64;
    /// Writes an entry (of 512) of the table at the physical address `table`.
    fn write(&mut self, table: u64, index: usize, entry: u64);
}

/// What may be done with a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read.
    Read,
    /// Read and write.
    ReadWrite,
    /// Read and execute.
    ReadExecute,
}

/// How a mapping is cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// As RAM is.
    WriteBack,
    /// Not at all: for device registers (PAT entry 3, UC, with the PAT as it is after reset).
    Uncached,
}

/// The largest pages that the processor offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Largest {
    /// 2 MiB: every x86-64 processor.
    Large,
    /// 1 GiB (CPUID leaf 0x8000_0001, EDX bit 26).
    Huge,
}

/// Which addresses are to be what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First linear address.
    pub linear: u64,
    /// What it is to be mapped to.
    pub physical: u64,
    /// Bytes.
    pub length: u64,
    /// What may be done there.
    pub access: Access,
    /// How it is cached.
    pub caching: Caching,
}

/// A mapping could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// No memory left for a table.
    OutOfMemory,
    /// Something is mapped there already.
    Taken {
        /// The first such address.
        address: u64,
    },
    /// An address or length is not a multiple of the page size, or past the end.
    Misaligned,
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory => f.write_str("no memory left for page tables"),
            Self::Taken { address } => write!(f, "address {address:#x} is mapped already"),
            Self::Misaligned => f.write_str("a mapping must consist of whole pages"),
        }
    }
}

impl core::error::Error for MapError {}

/// The processor walks five levels of tables, one more than there are here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FiveLevels;

impl fmt::Display for FiveLevels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the firmware uses 5-level paging, which is not supported: turn it off in its setup")
    }
}

impl core::error::Error for FiveLevels {}

/// Whether a processor with `cr4` takes CR3 for the root of tables as they are here. CR4.LA57 cannot be changed in long mode
/// (SDM vol. 3A, 4.1.2).
///
/// # Errors
/// [`FiveLevels`].
pub const fn check_levels(cr4: u64) -> Result<(), FiveLevels> {
    if cr4 & LA57 == 0 { Ok(()) } else { Err(FiveLevels) }
}

/// One set of page tables, by its root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressSpace {
    root: u64,
}

/// What is at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The physical address.
    pub physical: u64,
    /// What may be done there.
    pub access: Access,
    /// How it is cached.
    pub caching: Caching,
}

fn index(address: u64, level: u32) -> usize {
    (address >> (12 + 9 * level)) as usize % ENTRIES
}

const fn page_size(level: u32) -> u64 {
    PAGE << (9 * level)
}

/// Level of the largest page that fits addresses with the bits `addresses` and `length` bytes.
fn level_for(addresses: u64, length: u64, largest: Largest) -> u32 {
    let highest = match largest {
        Largest::Large => 1,
        Largest::Huge => 2,
    };
    let fits = |&level: &u32| addresses.is_multiple_of(page_size(level)) && length >= page_size(level);
    (1..=highest).rev().find(fits).unwrap_or(0)
}

fn leaf_bits(access: Access, caching: Caching) -> u64 {
    let access = match access {
        Access::Read => NO_EXECUTE,
        Access::ReadWrite => NO_EXECUTE | WRITABLE,
        Access::ReadExecute => 0,
    };
    let caching = match caching {
        Caching::WriteBack => 0,
        Caching::Uncached => WRITE_THROUGH | CACHE_DISABLE,
    };
    PRESENT | GLOBAL | access | caching
}

impl AddressSpace {
    /// An empty address space.
    ///
    /// # Errors
    /// [`MapError::OutOfMemory`].
    pub fn new(memory: &mut impl TableMemory) -> Result<Self, MapError> {
        Ok(Self { root: memory.allocate().ok_or(MapError::OutOfMemory)? })
    }

    /// Physical address of the root table, for CR3.
    #[must_use]
    pub const fn root(&self) -> u64 {
        self.root
    }

    /// The address space whose root table is at the physical address `root`.
    #[must_use]
    pub const fn at(root: u64) -> Self {
        Self { root }
    }

    /// Makes `mapping`, in the largest pages that fit both addresses. On error what was mapped before the failing
    /// page stays mapped.
    ///
    /// # Errors
    /// [`MapError`].
    pub fn map(
        &self,
        memory: &mut impl TableMemory,
        mapping: Mapping,
        largest: Largest,
    ) -> Result<(), MapError> {
        let Mapping { linear, physical, length, access, caching } = mapping;
        let aligned = (linear | physical | length).is_multiple_of(PAGE);
        if !aligned || physical.checked_add(length).is_none() {
            return Err(MapError::Misaligned);
        }
        let mut done = 0;
        while done < length {
            let (at, to) = (linear.wrapping_add(done), physical + done);
            let level = level_for(at | to, length - done, largest);
            let table = self.table(memory, at, level)?;
            if memory.read(table, index(at, level)) & PRESENT != 0 {
                return Err(MapError::Taken { address: at });
            }
            let size_bit = if level > 0 { LARGE } else { 0 };
            memory.write(table, index(at, level), to | leaf_bits(access, caching) | size_bit);
            done += page_size(level);
        }
        Ok(())
    }

    /// Removes the mappings of the `length` bytes at `linear`; what is not mapped stays so. A large page must
    /// be removed as a whole.
    ///
    /// # Errors
    /// [`MapError::Misaligned`].
    pub fn unmap(&self, memory: &mut impl TableMemory, linear: u64, length: u64) -> Result<(), MapError> {
        if !(linear | length).is_multiple_of(PAGE) {
            return Err(MapError::Misaligned);
        }
        let mut done = 0;
        while done < length {
            let at = linear.wrapping_add(done);
            done += match self.leaf(memory, at) {
                Some((table, level))
                    if at.is_multiple_of(page_size(level)) && length - done >= page_size(level) =>
                {
                    memory.write(table, index(at, level), 0);
                    page_size(level)
                }
                Some(_) => return Err(MapError::Misaligned),
                None => PAGE,
            };
        }
        Ok(())
    }

    /// What is at the linear address `linear`.
    #[must_use]
    pub fn translate(&self, memory: &impl TableMemory, linear: u64) -> Option<Translation> {
        let (table, level) = self.leaf(memory, linear)?;
        let entry = memory.read(table, index(linear, level));
        let offset_mask = page_size(level) - 1;
        Some(Translation {
            physical: (entry & ADDRESS & !offset_mask) | (linear & offset_mask),
            access: match (entry & WRITABLE != 0, entry & NO_EXECUTE != 0) {
                (true, _) => Access::ReadWrite,
                (false, true) => Access::Read,
                (false, false) => Access::ReadExecute,
            },
            caching: if entry & CACHE_DISABLE == 0 { Caching::WriteBack } else { Caching::Uncached },
        })
    }

    /// The table and level that hold the leaf for `linear`.
    fn leaf(&self, memory: &impl TableMemory, linear: u64) -> Option<(u64, u32)> {
        let mut table = self.root;
        for level in (0..4).rev() {
            let entry = memory.read(table, index(linear, level));
            if entry & PRESENT == 0 {
                return None;
            }
            if level == 0 || (level < 3 && entry & LARGE != 0) {
                return Some((table, level));
            }
            table = entry & ADDRESS;
        }
        None
    }

    /// The table of `level` for `linear`, made on the way if need be.
    fn table(&self, memory: &mut impl TableMemory, linear: u64, level: u32) -> Result<u64, MapError> {
        let mut table = self.root;
        for above in (level + 1..4).rev() {
            let place = index(linear, above);
            let entry = memory.read(table, place);
            table = if entry & PRESENT == 0 {
                let new = memory.allocate().ok_or(MapError::OutOfMemory)?;
                memory.write(table, place, new | PRESENT | WRITABLE);
                new
            } else if above < 3 && entry & LARGE != 0 {
                return Err(MapError::Taken { address: linear });
            } else {
                entry & ADDRESS
            };
        }
        Ok(table)
    }
}

#[cfg(test)]
mod tests;
