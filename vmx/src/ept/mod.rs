//! Extended page tables: one engine for mapping, splitting, collapsing and tracking.
//!
//! The tables are reached through [`FrameSource`], so the engine runs over plain memory in tests. Entries are
//! atomics because a processor may set accessed and dirty flags while software reads; changes other than
//! harvests are made while no vCPU of the guest runs, or only widen permissions.
//!
//! Every change that a processor might not see because it has cached the old mapping returns a [`Flush`], which cannot
//! be dropped silently: the caller runs INVEPT on each processor that may hold the mapping, before the next entry there.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::PhysAddr;

use crate::addr::{Gfn, PAGE_SIZE};

mod entry;
#[cfg(test)]
mod fake;
mod holes;
mod resize;
mod track;

use entry::Entry;
pub use entry::{Leaf, MemoryType, PageSize, Permissions};
pub use track::Touched;

/// One table.
pub type Table = [AtomicU64; 512];

/// Where tables live.
pub trait FrameSource {
    /// A zeroed frame for a table.
    fn allocate(&mut self) -> Option<PhysAddr>;
    /// Takes back a frame that [`FrameSource::allocate`] gave.
    fn free(&mut self, frame: PhysAddr);
    /// The table in a frame that [`FrameSource::allocate`] gave and that is not yet freed.
    fn table(&self, frame: PhysAddr) -> &Table;
}

/// The obligation to invalidate cached mappings before the guest runs again.
#[must_use = "a processor may still use the old mapping: run INVEPT before the next VM entry"]
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Flush {
    needed: bool,
}

impl Flush {
    const NEEDED: Self = Self { needed: true };
    const NOT_NEEDED: Self = Self { needed: false };

    /// The obligations of two changes in one.
    pub const fn and(self, other: Self) -> Self {
        Self { needed: self.needed || other.needed }
    }

    /// Passes the obligation on: if the result is true, whoever takes it runs INVEPT before the next VM
    /// entry on each processor that may have cached the mapping.
    #[must_use]
    pub const fn defer(self) -> bool {
        self.needed
    }
}

/// Why a mapping could not be made or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EptError {
    /// No frame for a table.
    OutOfFrames,
    /// An address is not a multiple of the page size.
    Misaligned,
    /// Something is mapped there already.
    Occupied(Gfn),
    /// Nothing is mapped there.
    NotMapped(Gfn),
    /// The guest frame is beyond the 48 bits that four levels reach.
    OutOfReach(Gfn),
}

impl fmt::Display for EptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfFrames => f.write_str("no memory for a guest page table"),
            Self::Misaligned => f.write_str("an address is not a multiple of the page size"),
            Self::Occupied(gfn) => write!(f, "guest frame {:#x} is mapped already", gfn.as_u64()),
            Self::NotMapped(gfn) => write!(f, "guest frame {:#x} is not mapped", gfn.as_u64()),
            Self::OutOfReach(gfn) => write!(f, "guest frame {:#x} is beyond 48 bits", gfn.as_u64()),
        }
    }
}

impl core::error::Error for EptError {}

/// Whether the processor keeps accessed and dirty flags in these tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessedDirty {
    /// It does (EPTP bit 6).
    Kept,
    /// It does not, or cannot.
    Ignored,
}

const LEVELS: u8 = 4;
const FRAMES_MAX: u64 = 1 << 36;

/// A guest's extended page tables.
#[derive(Debug)]
pub struct Ept {
    root: PhysAddr,
    accessed_dirty: AccessedDirty,
    /// Tables that are out of the tree but that a processor may still walk until the next INVEPT.
    retired: Vec<PhysAddr>,
}

const fn index(gfn: u64, level: u8) -> usize {
    (gfn >> (9 * (level - 1))) as usize & 511
}

fn load(slot: &AtomicU64) -> Entry {
    Entry(slot.load(Ordering::Relaxed))
}

impl Ept {
    /// Tables that map nothing.
    ///
    /// # Errors
    /// [`EptError::OutOfFrames`].
    pub fn new(frames: &mut impl FrameSource, accessed_dirty: AccessedDirty) -> Result<Self, EptError> {
        let root = frames.allocate().ok_or(EptError::OutOfFrames)?;
        Ok(Self { root, accessed_dirty, retired: Vec::new() })
    }

    /// The EPT pointer: four levels, write-back tables (SDM 25.6.11).
    #[must_use]
    pub fn pointer(&self) -> u64 {
        let flags = if self.accessed_dirty == AccessedDirty::Kept { 1 << 6 } else { 0 };
        self.root.as_u64() | flags | u64::from(LEVELS - 1) << 3 | MemoryType::WriteBack as u64
    }

    /// Maps one page of `size` at `first` to `address`.
    ///
    /// No flush is due: the processor caches no absent mappings.
    ///
    /// # Errors
    /// [`EptError`]; the tables then map what they mapped before.
    pub fn map(
        &mut self,
        frames: &mut impl FrameSource,
        first: Gfn,
        address: PhysAddr,
        size: PageSize,
        permissions: Permissions,
        memory_type: MemoryType,
    ) -> Result<(), EptError> {
        let gfn = first.as_u64();
        if !gfn.is_multiple_of(size.frames()) || !address.is_aligned(size.bytes()) {
            return Err(EptError::Misaligned);
        }
        if gfn >= FRAMES_MAX {
            return Err(EptError::OutOfReach(first));
        }
        let table = self.table_for(frames, first, size.level())?;
        let slot = &frames.table(table)[index(gfn, size.level())];
        if load(slot).is_present() {
            return Err(EptError::Occupied(first));
        }
        slot.store(Entry::leaf(address, size, permissions, memory_type).0, Ordering::Release);
        Ok(())
    }

    /// The table whose entries map pages at `level` around `gfn`; it and those above it are made if there are none.
    ///
    /// # Errors
    /// [`EptError::OutOfFrames`], or [`EptError::Occupied`] if a larger page maps `gfn`.
    fn table_for(
        &mut self,
        frames: &mut impl FrameSource,
        gfn: Gfn,
        level: u8,
    ) -> Result<PhysAddr, EptError> {
        let mut table = self.root;
        for above in (level + 1..=LEVELS).rev() {
            let position = index(gfn.as_u64(), above);
            let entry = load(&frames.table(table)[position]);
            table = if !entry.is_present() {
                let new = frames.allocate().ok_or(EptError::OutOfFrames)?;
                frames.table(table)[position].store(Entry::table(new).0, Ordering::Release);
                new
            } else if entry.is_leaf(above) {
                return Err(EptError::Occupied(gfn));
            } else {
                entry.address()
            };
        }
        Ok(table)
    }

    /// Unmaps the page that holds `gfn`, whatever its size, and returns what it was.
    ///
    /// # Errors
    /// [`EptError::NotMapped`].
    pub fn unmap(&mut self, frames: &impl FrameSource, gfn: Gfn) -> Result<(Leaf, Flush), EptError> {
        let (slot, level) = self.slot(frames, gfn).ok_or(EptError::NotMapped(gfn))?;
        let entry = Entry(slot.swap(0, Ordering::AcqRel));
        Ok((leaf(gfn, entry, level).ok_or(EptError::NotMapped(gfn))?, Flush::NEEDED))
    }

    /// The mapping of `gfn`, if there is one.
    #[must_use]
    pub fn lookup(&self, frames: &impl FrameSource, gfn: Gfn) -> Option<Leaf> {
        let (slot, level) = self.slot(frames, gfn)?;
        leaf(gfn, load(slot), level)
    }

    /// Gives back the tables that changes have left over.
    ///
    /// # Panics
    /// Never; but call it only after INVEPT on each processor that ran the guest.
    pub fn reclaim(&mut self, frames: &mut impl FrameSource) {
        for frame in self.retired.drain(..) {
            frames.free(frame);
        }
    }

    /// Gives back all tables. No processor may use them any more.
    pub fn destroy(mut self, frames: &mut impl FrameSource) {
        self.reclaim(frames);
        free_table(frames, self.root, LEVELS);
    }

    /// The place of the leaf that maps `gfn`, and its level.
    fn slot<'a>(&self, frames: &'a impl FrameSource, gfn: Gfn) -> Option<(&'a AtomicU64, u8)> {
        if gfn.as_u64() >= FRAMES_MAX {
            return None;
        }
        let mut table = self.root;
        for level in (1..=LEVELS).rev() {
            let slot = &frames.table(table)[index(gfn.as_u64(), level)];
            let entry = load(slot);
            if !entry.is_present() {
                return None;
            }
            if entry.is_leaf(level) {
                return Some((slot, level));
            }
            table = entry.address();
        }
        None
    }

    /// The entry at `level` on the way to `gfn`, be it a leaf, a table or empty; `None` if the way ends above it.
    fn entry_at<'a>(&self, frames: &'a impl FrameSource, gfn: Gfn, level: u8) -> Option<&'a AtomicU64> {
        if gfn.as_u64() >= FRAMES_MAX {
            return None;
        }
        let mut table = self.root;
        for above in (level + 1..=LEVELS).rev() {
            let entry = load(&frames.table(table)[index(gfn.as_u64(), above)]);
            if !entry.is_present() || entry.is_leaf(above) {
                return None;
            }
            table = entry.address();
        }
        Some(&frames.table(table)[index(gfn.as_u64(), level)])
    }

    /// Calls `visit` with first frame, level and place of every leaf that overlaps `range`, in order.
    fn for_each_leaf(
        &self,
        frames: &impl FrameSource,
        range: Range<Gfn>,
        visit: &mut impl FnMut(u64, u8, &AtomicU64),
    ) {
        let range = range.start.as_u64()..range.end.as_u64().min(FRAMES_MAX);
        visit_table(frames, self.root, LEVELS, 0, &range, visit);
    }
}

fn leaf(gfn: Gfn, entry: Entry, level: u8) -> Option<Leaf> {
    let size = PageSize::at_level(level)?;
    let first = gfn.as_u64() & !(size.frames() - 1);
    Some(Leaf::new(Gfn::new(first), entry, size))
}

fn visit_table(
    frames: &impl FrameSource,
    table: PhysAddr,
    level: u8,
    base: u64,
    range: &Range<u64>,
    visit: &mut impl FnMut(u64, u8, &AtomicU64),
) {
    let span = 1_u64 << (9 * (level - 1));
    let first = range.start.saturating_sub(base) / span;
    let last = range.end.saturating_sub(base).div_ceil(span).min(512);
    for position in first..last {
        let slot = &frames.table(table)[position as usize];
        let entry = load(slot);
        let start = base + position * span;
        if !entry.is_present() {
            continue;
        }
        if entry.is_leaf(level) {
            visit(start, level, slot);
        } else {
            visit_table(frames, entry.address(), level - 1, start, range, visit);
        }
    }
}

fn free_table(frames: &mut impl FrameSource, table: PhysAddr, level: u8) {
    if level > 1 {
        for position in 0..512 {
            let entry = load(&frames.table(table)[position]);
            if entry.is_present() && !entry.is_leaf(level) {
                free_table(frames, entry.address(), level - 1);
            }
        }
    }
    frames.free(table);
}

const _: () = assert!(size_of::<Table>() as u64 == PAGE_SIZE);

#[cfg(test)]
mod tests {
    use super::fake::{FakeFrames, RAM};
    use super::*;

    #[test]
    fn a_mapping_is_found_again_and_only_there() {
        let mut frames = FakeFrames::new(16);
        let mut ept = Ept::new(&mut frames, AccessedDirty::Kept).unwrap();
        let target = PhysAddr::new(0x4000_0000);
        ept.map(&mut frames, Gfn::new(512), target, PageSize::Size2M, RAM, MemoryType::WriteBack).unwrap();
        let found = ept.lookup(&frames, Gfn::new(700)).unwrap();
        assert_eq!((found.first, found.address, found.size), (Gfn::new(512), target, PageSize::Size2M));
        assert!(!found.dirty && !found.accessed && !found.logged);
        assert_eq!(ept.lookup(&frames, Gfn::new(511)), None);
        assert_eq!(ept.lookup(&frames, Gfn::new(1024)), None);
        assert_eq!(ept.lookup(&frames, Gfn::new(u64::MAX)), None);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut frames = FakeFrames::new(16);
        let mut ept = Ept::new(&mut frames, AccessedDirty::Kept).unwrap();
        let mut map = |gfn, address, size| {
            ept.map(&mut frames, Gfn::new(gfn), PhysAddr::new(address), size, RAM, MemoryType::WriteBack)
        };
        assert_eq!(map(1, 0, PageSize::Size2M), Err(EptError::Misaligned));
        assert_eq!(map(512, 0x1000, PageSize::Size2M), Err(EptError::Misaligned));
        assert_eq!(map(1 << 36, 0, PageSize::Size4K), Err(EptError::OutOfReach(Gfn::new(1 << 36))));
        map(512, 0x20_0000, PageSize::Size2M).unwrap();
        assert_eq!(map(513, 0, PageSize::Size4K), Err(EptError::Occupied(Gfn::new(513))));
        assert_eq!(map(512, 0, PageSize::Size2M), Err(EptError::Occupied(Gfn::new(512))));
        assert_eq!(map(0, 0, PageSize::Size1G), Err(EptError::Occupied(Gfn::new(0))));
    }

    #[test]
    fn running_out_of_frames_is_an_error() {
        let mut frames = FakeFrames::new(2);
        let mut ept = Ept::new(&mut frames, AccessedDirty::Kept).unwrap();
        let result =
            ept.map(&mut frames, Gfn::new(0), PhysAddr::new(0), PageSize::Size4K, RAM, MemoryType::WriteBack);
        assert_eq!(result, Err(EptError::OutOfFrames));
        assert_eq!(ept.lookup(&frames, Gfn::new(0)), None);
    }

    #[test]
    fn unmapping_owes_a_flush_and_destroying_returns_every_frame() {
        let mut frames = FakeFrames::new(16);
        let mut ept = Ept::new(&mut frames, AccessedDirty::Kept).unwrap();
        for gfn in [0, 1, 1 << 20] {
            let address = PhysAddr::new(0x10_0000 + gfn * 4096);
            ept.map(&mut frames, Gfn::new(gfn), address, PageSize::Size4K, RAM, MemoryType::WriteBack)
                .unwrap();
        }
        let (leaf, flush) = ept.unmap(&frames, Gfn::new(1)).unwrap();
        assert_eq!(leaf.address, PhysAddr::new(0x10_1000));
        assert!(flush.defer());
        assert_eq!(ept.unmap(&frames, Gfn::new(1)).unwrap_err(), EptError::NotMapped(Gfn::new(1)));
        ept.destroy(&mut frames);
        assert_eq!(frames.allocated(), 0);
    }

    #[test]
    fn the_pointer_says_four_levels_write_back_and_dirty_flags() {
        let mut frames = FakeFrames::new(2);
        let kept = Ept::new(&mut frames, AccessedDirty::Kept).unwrap();
        assert_eq!(kept.pointer() & 0xfff, 0x5e);
        let ignored = Ept::new(&mut frames, AccessedDirty::Ignored).unwrap();
        assert_eq!(ignored.pointer() & 0xfff, 0x1e);
    }
}
