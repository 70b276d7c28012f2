//! Splitting pages for tracking, and collapsing them again after.

use core::ops::Range;
use core::sync::atomic::Ordering;

use super::entry::{ACCESSED, ADDRESS, DIRTY, Entry, LARGE};
use super::{Ept, EptError, Flush, FrameSource, PageSize, load};
use crate::addr::Gfn;

impl Ept {
    /// Replaces the large page that holds `gfn` by 512 pages of the next smaller size with the same
    /// attributes and flags. A 4 KiB page stays as it is.
    ///
    /// # Errors
    /// [`EptError::NotMapped`], or [`EptError::OutOfFrames`] with the page unchanged.
    pub fn split(&mut self, frames: &mut impl FrameSource, gfn: Gfn) -> Result<Flush, EptError> {
        let (_, level) = self.slot(frames, gfn).ok_or(EptError::NotMapped(gfn))?;
        if level == 1 {
            return Ok(Flush::NOT_NEEDED);
        }
        let new = frames.allocate().ok_or(EptError::OutOfFrames)?;
        let (slot, _) = self.slot(frames, gfn).ok_or(EptError::NotMapped(gfn))?;
        let old = load(slot);
        for (child, place) in (0..).zip(frames.table(new)) {
            place.store(old.child(level, child).0, Ordering::Relaxed);
        }
        slot.store(Entry::table(new).0, Ordering::Release);
        Ok(Flush::NEEDED)
    }

    /// Splits every large page in `range` down to 4 KiB.
    ///
    /// # Errors
    /// [`EptError::OutOfFrames`]: some pages may then be split and others not, which maps the same memory; the flush is due all
    /// the same, so the error carries it.
    pub fn split_all(
        &mut self,
        frames: &mut impl FrameSource,
        range: Range<Gfn>,
    ) -> Result<Flush, (EptError, Flush)> {
        let mut flush = Flush::NOT_NEEDED;
        let mut gfn = range.start.as_u64();
        while gfn < range.end.as_u64() {
            let Some(leaf) = self.lookup(frames, Gfn::new(gfn)) else {
                gfn = (gfn / PageSize::Size2M.frames() + 1) * PageSize::Size2M.frames();
                continue;
            };
            if leaf.size == PageSize::Size4K {
                gfn = (gfn / PageSize::Size2M.frames() + 1) * PageSize::Size2M.frames();
                continue;
            }
            match self.split(frames, Gfn::new(gfn)) {
                Ok(more) => flush = flush.and(more),
                Err(error) => return Err((error, flush)),
            }
        }
        Ok(flush)
    }

    /// Replaces the 512 pages of 4 KiB around `gfn` by one of 2 MiB if they map consecutive memory with equal
    /// attributes; the accessed and dirty flags are those of any of them. Returns `None` if they do not, or
    /// if there is nothing to collapse.
    pub fn collapse(&mut self, frames: &impl FrameSource, gfn: Gfn) -> Option<Flush> {
        const PAGE: u64 = 4096;
        let parent = self.entry_at(frames, gfn, 2)?;
        let entry = load(parent);
        if !entry.is_present() || entry.is_leaf(2) {
            return None;
        }
        let children = frames.table(entry.address());
        let first = load(&children[0]).0;
        if !Entry(first).is_present() || first & ADDRESS & (PageSize::Size2M.bytes() - 1) != 0 {
            return None;
        }
        let mut flags = 0;
        for (position, child) in (0..).zip(children) {
            let child = load(child).0;
            if child & !(ACCESSED | DIRTY) != (first & !(ACCESSED | DIRTY)) + position * PAGE {
                return None;
            }
            flags |= child & (ACCESSED | DIRTY);
        }
        parent.store(first | LARGE | flags, Ordering::Release);
        self.retired.push(entry.address());
        Some(Flush::NEEDED)
    }

    /// Collapses whatever can be collapsed in `range`.
    pub fn collapse_all(&mut self, frames: &impl FrameSource, range: Range<Gfn>) -> Flush {
        let step = PageSize::Size2M.frames();
        let mut flush = Flush::NOT_NEEDED;
        let mut gfn = range.start.as_u64() / step * step;
        while gfn < range.end.as_u64() {
            if let Some(more) = self.collapse(frames, Gfn::new(gfn)) {
                flush = flush.and(more);
            }
            gfn += step;
        }
        flush
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use x86_64::PhysAddr;

    use super::super::fake::{FakeFrames, RAM};
    use super::super::{AccessedDirty, MemoryType};
    use super::*;

    const BASE: u64 = 0x8000_0000;

    fn one_page(size: PageSize, limit: usize) -> (FakeFrames, Ept) {
        let mut frames = FakeFrames::new(limit);
        let mut ept = Ept::new(&mut frames, AccessedDirty::Kept).unwrap();
        let base = PhysAddr::new(BASE);
        ept.map(&mut frames, Gfn::new(0), base, size, RAM, MemoryType::WriteBack).unwrap();
        (frames, ept)
    }

    #[test]
    fn a_split_page_maps_the_same_memory_and_collapses_to_what_it_was() {
        let (mut frames, mut ept) = one_page(PageSize::Size2M, 8);
        let whole = ept.lookup(&frames, Gfn::new(0)).unwrap();
        let before = frames.allocated();
        assert!(ept.split(&mut frames, Gfn::new(5)).unwrap().defer());
        for gfn in 0..512 {
            let leaf = ept.lookup(&frames, Gfn::new(gfn)).unwrap();
            assert_eq!(leaf.size, PageSize::Size4K);
            assert_eq!(leaf.address.as_u64(), BASE + gfn * 4096);
            assert_eq!(leaf.permissions, RAM);
        }
        assert!(ept.collapse(&frames, Gfn::new(77)).unwrap().defer());
        assert_eq!(ept.lookup(&frames, Gfn::new(0)), Some(whole));
        ept.reclaim(&mut frames);
        assert_eq!(frames.allocated(), before);
    }

    #[test]
    fn a_gibibyte_splits_all_the_way_down() {
        let (mut frames, mut ept) = one_page(PageSize::Size1G, 1024);
        assert!(ept.split_all(&mut frames, Gfn::new(0)..Gfn::new(1 << 18)).unwrap().defer());
        for gfn in [0, 511, 512, 99_999, (1 << 18) - 1] {
            let leaf = ept.lookup(&frames, Gfn::new(gfn)).unwrap();
            assert_eq!((leaf.size, leaf.address.as_u64()), (PageSize::Size4K, BASE + gfn * 4096));
        }
        let flush = ept.split_all(&mut frames, Gfn::new(0)..Gfn::new(1 << 18)).unwrap();
        assert!(!flush.defer(), "nothing left to split");
    }

    #[test]
    fn a_split_without_frames_leaves_the_page() {
        let (mut frames, mut ept) = one_page(PageSize::Size2M, 3);
        assert_eq!(ept.split(&mut frames, Gfn::new(0)), Err(EptError::OutOfFrames));
        assert_eq!(ept.lookup(&frames, Gfn::new(0)).unwrap().size, PageSize::Size2M);
        let (error, _flush) = ept.split_all(&mut frames, Gfn::new(0)..Gfn::new(512)).unwrap_err();
        assert_eq!(error, EptError::OutOfFrames);
    }

    #[test]
    fn pages_that_differ_do_not_collapse() {
        let (mut frames, mut ept) = one_page(PageSize::Size2M, 8);
        assert_eq!(ept.collapse(&frames, Gfn::new(0)), None, "already large");
        let _ = ept.split(&mut frames, Gfn::new(0)).unwrap().defer();
        let _ = ept.unmap(&frames, Gfn::new(9)).unwrap().1.defer();
        assert_eq!(ept.collapse(&frames, Gfn::new(0)), None, "a hole");
        let elsewhere = PhysAddr::new(0x1000);
        ept.map(&mut frames, Gfn::new(9), elsewhere, PageSize::Size4K, RAM, MemoryType::WriteBack).unwrap();
        assert_eq!(ept.collapse(&frames, Gfn::new(0)), None, "not consecutive");
        assert_eq!(ept.collapse(&frames, Gfn::new(1 << 30)), None, "nothing there");
    }

    proptest! {
        #[test]
        fn splitting_and_collapsing_lose_no_dirty_flag(writes in proptest::collection::vec(0_u64..512, 0..20)) {
            let (mut frames, mut ept) = one_page(PageSize::Size2M, 8);
            let _ = ept.split(&mut frames, Gfn::new(0)).unwrap().defer();
            for gfn in &writes {
                prop_assert!(frames.guest_writes(&ept, *gfn));
            }
            let _ = ept.collapse(&frames, Gfn::new(0)).unwrap().defer();
            prop_assert_eq!(ept.lookup(&frames, Gfn::new(0)).unwrap().dirty, !writes.is_empty());
            let _ = ept.split(&mut frames, Gfn::new(0)).unwrap().defer();
            for gfn in 0..512 {
                prop_assert_eq!(ept.lookup(&frames, Gfn::new(gfn)).unwrap().dirty, !writes.is_empty());
            }
        }
    }
}
