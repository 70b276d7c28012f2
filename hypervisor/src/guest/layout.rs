//! Where everything is in a guest's physical memory.
//!
//! ```text
//! 0          first page, left to the guest
//! 0x1000     GDT               ┐
//! 0x2000     zero page         │
//! 0x9000     page tables       │ RAM
//! 0x10000    command line      │
//! 0xa0000    end of low RAM    ┘
//! 0xe0000    ACPI tables       reserved
//! 0x100000   RAM, up to 3 GiB; kernel from its preferred address, initial RAM disk at the end
//! 0xc0000000 devices
//! 4 GiB      the rest of RAM
//! ```

use core::fmt;

use godwit_vmx::addr::Gpa;

/// End of conventional memory.
pub const LOW_END: u64 = 0xa_0000;
/// The area that firmware owns: ACPI tables.
pub const FIRMWARE_START: u64 = 0xe_0000;
/// Start of extended memory.
pub const EXTENDED_START: u64 = 0x10_0000;
/// Start of the hole below 4 GiB, where devices are.
pub const HOLE_START: u64 = 0xc000_0000;
/// Start of memory above the hole.
pub const HIGH_START: u64 = 0x1_0000_0000;
/// Least memory a guest can have, in bytes.
pub const MEMORY_MIN: u64 = 4 << 20;
/// Most memory a guest can have, in bytes.
pub const MEMORY_MAX: u64 = 1 << 40;
const PAGE: u64 = 4096;

/// A range of guest-physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub start: Gpa,
    /// Length in bytes.
    pub bytes: u64,
}

impl Range {
    const fn new(start: u64, end: u64) -> Self {
        Self { start: Gpa::new(start), bytes: end - start }
    }

    /// First byte after the range.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.start.as_u64() + self.bytes
    }
}

/// A memory size no guest can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadMemorySize(pub u64);

impl fmt::Display for BadMemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of memory: a guest has 4 MiB to 1 TiB, in whole pages", self.0)
    }
}

impl core::error::Error for BadMemorySize {}

/// How a guest's memory is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLayout {
    bytes: u64,
}

/// What an entry of the memory map is, as in E820.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MapKind {
    /// The guest may use it.
    Ram = 1,
    /// The guest must leave it alone.
    Reserved = 2,
}

impl MemoryLayout {
    /// The layout of `bytes` bytes of memory.
    ///
    /// # Errors
    /// [`BadMemorySize`] outside 4 MiB to 1 TiB or not a multiple of 4 KiB.
    pub const fn new(bytes: u64) -> Result<Self, BadMemorySize> {
        if bytes < MEMORY_MIN || bytes > MEMORY_MAX || !bytes.is_multiple_of(PAGE) {
            return Err(BadMemorySize(bytes));
        }
        Ok(Self { bytes })
    }

    /// Bytes of memory.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.bytes
    }

    /// End of the memory below the hole.
    #[must_use]
    pub const fn low_end(self) -> u64 {
        if self.bytes < HOLE_START { self.bytes } else { HOLE_START }
    }

    /// What must be backed by host memory: the part below the hole, in one piece from 0 (the firmware area
    /// included, as the ACPI tables lie there), and the part above 4 GiB, if any.
    #[must_use]
    pub const fn backed(self) -> (Range, Option<Range>) {
        let low = Range::new(0, self.low_end());
        if self.bytes > HOLE_START {
            (low, Some(Range::new(HIGH_START, HIGH_START + self.bytes - HOLE_START)))
        } else {
            (low, None)
        }
    }

    /// The memory map that the guest is told.
    pub fn map(self) -> impl Iterator<Item = (Range, MapKind)> {
        let (_, high) = self.backed();
        [
            Some((Range::new(0, LOW_END), MapKind::Ram)),
            Some((Range::new(FIRMWARE_START, EXTENDED_START), MapKind::Reserved)),
            Some((Range::new(EXTENDED_START, self.low_end()), MapKind::Ram)),
            high.map(|range| (range, MapKind::Ram)),
        ]
        .into_iter()
        .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn small_memory_lies_below_the_hole() {
        let layout = MemoryLayout::new(128 << 20).unwrap();
        assert_eq!(layout.backed(), (Range::new(0, 128 << 20), None));
        let map: Vec<_> = layout.map().collect();
        assert_eq!(map.len(), 3);
        assert_eq!(map[2], (Range::new(EXTENDED_START, 128 << 20), MapKind::Ram));
    }

    #[test]
    fn large_memory_goes_on_above_4_gib() {
        let layout = MemoryLayout::new(5 << 30).unwrap();
        let (low, high) = layout.backed();
        assert_eq!(low.end(), HOLE_START);
        assert_eq!(high.map(|range| (range.start.as_u64(), range.end())), Some((4 << 30, 6 << 30)));
        assert_eq!(layout.map().count(), 4);
        let exactly = MemoryLayout::new(HOLE_START).unwrap();
        assert_eq!(exactly.backed().1, None);
    }

    #[test]
    fn impossible_sizes_are_refused() {
        for bytes in [0, 1 << 20, (128 << 20) + 1, u64::MAX, (1 << 40) + 4096] {
            assert_eq!(MemoryLayout::new(bytes), Err(BadMemorySize(bytes)));
        }
    }
}
