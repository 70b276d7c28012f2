//! Memory of which parts are not mapped for a while: what post-copy needs.
//!
//! Everything goes by regions of 2 MiB. Taking parts of one away is quick, whatever it is mapped by, since a large page
//! is taken away whole ([`Ept::unmap_in_region`]); what of it may be touched comes back when it is first touched, all at
//! once ([`Ept::fill_region`]).

use core::sync::atomic::Ordering;

use x86_64::PhysAddr;

use super::entry::Entry;
use super::{Ept, EptError, Flush, FrameSource, MemoryType, PageSize, Permissions, load};
use crate::addr::Gfn;

/// Level of the entries that stand for a region.
const REGION: u8 = PageSize::Size2M.level();

/// The first frame of the region that holds `gfn`.
const fn region(gfn: Gfn) -> u64 {
    gfn.as_u64() & !(PageSize::Size2M.frames() - 1)
}

impl Ept {
    /// Unmaps of the region of 2 MiB that holds `gfn` at least the pages of 4 KiB that `is_hole` names: those exactly if
    /// it is mapped by such pages, all of it if it is mapped by one of 2 MiB. No table is made or given back.
    ///
    /// A page of 1 GiB is left as it is: split it first.
    pub fn unmap_in_region(
        &mut self,
        frames: &impl FrameSource,
        gfn: Gfn,
        mut is_hole: impl FnMut(Gfn) -> bool,
    ) -> Flush {
        let Some(slot) = self.entry_at(frames, gfn, REGION) else { return Flush::NOT_NEEDED };
        let entry = load(slot);
        if !entry.is_present() {
            return Flush::NOT_NEEDED;
        }
        let pages = (region(gfn)..).map(Gfn::new);
        if entry.is_leaf(REGION) {
            if !pages.take(PageSize::Size2M.frames() as usize).any(is_hole) {
                return Flush::NOT_NEEDED;
            }
            slot.store(0, Ordering::Release);
            return Flush::NEEDED;
        }
        let mut flush = Flush::NOT_NEEDED;
        for (page, slot) in pages.zip(frames.table(entry.address())) {
            if load(slot).is_present() && is_hole(page) {
                slot.store(0, Ordering::Release);
                flush = Flush::NEEDED;
            }
        }
        flush
    }

    /// Maps every page of 4 KiB that is not mapped of the region of 2 MiB that holds `gfn`, if `target` has an address
    /// for it; says how many that were. A region that a larger page maps is left as it is.
    ///
    /// No flush is due: the processor caches no absent mappings (SDM 29.4.3.1).
    ///
    /// # Errors
    /// [`EptError::OutOfFrames`] if a table is needed and there is no frame, or [`EptError::OutOfReach`]; nothing is
    /// mapped then.
    pub fn fill_region(
        &mut self,
        frames: &mut impl FrameSource,
        gfn: Gfn,
        (permissions, memory_type): (Permissions, MemoryType),
        mut target: impl FnMut(Gfn) -> Option<PhysAddr>,
    ) -> Result<u64, EptError> {
        if gfn.as_u64() >= super::FRAMES_MAX {
            return Err(EptError::OutOfReach(gfn));
        }
        let table = match self.table_for(frames, gfn, PageSize::Size4K.level()) {
            Ok(table) => table,
            Err(EptError::Occupied(_)) => return Ok(0),
            Err(error) => return Err(error),
        };
        let mut mapped = 0;
        for (page, slot) in (region(gfn)..).map(Gfn::new).zip(frames.table(table)) {
            if !load(slot).is_present()
                && let Some(address) = target(page)
            {
                let entry = Entry::leaf(address, PageSize::Size4K, permissions, memory_type);
                slot.store(entry.0, Ordering::Release);
                mapped += 1;
            }
        }
        Ok(mapped)
    }

    /// Whether nothing at all is mapped in the region of 2 MiB that holds `gfn`, and no table is there for it.
    #[must_use]
    pub fn is_region_empty(&self, frames: &impl FrameSource, gfn: Gfn) -> bool {
        match self.entry_at(frames, gfn, REGION) {
            Some(slot) => !load(slot).is_present(),
            None => self.lookup(frames, gfn).is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::AccessedDirty;
    use super::super::fake::{FakeFrames, RAM};
    use super::*;

    const BASE: u64 = 0x8000_0000;
    const WRITE_BACK: (Permissions, MemoryType) = (RAM, MemoryType::WriteBack);

    fn address(gfn: Gfn) -> PhysAddr {
        PhysAddr::new(BASE + gfn.as_u64() * 4096)
    }

    /// Two regions, each in one page.
    fn guest(limit: usize) -> (FakeFrames, Ept) {
        let mut frames = FakeFrames::new(limit);
        let mut ept = Ept::new(&mut frames, AccessedDirty::Kept).unwrap();
        for gfn in [0, 512].map(Gfn::new) {
            ept.map(&mut frames, gfn, address(gfn), PageSize::Size2M, RAM, MemoryType::WriteBack).unwrap();
        }
        (frames, ept)
    }

    #[test]
    fn a_large_page_with_a_hole_goes_whole_and_needs_no_frame_for_it() {
        let (frames, mut ept) = guest(3);
        assert!(!ept.unmap_in_region(&frames, Gfn::new(7), |_| false).defer());
        assert!(ept.unmap_in_region(&frames, Gfn::new(7), |gfn| gfn.as_u64() == 100).defer());
        assert!(ept.lookup(&frames, Gfn::new(0)).is_none() && ept.is_region_empty(&frames, Gfn::new(511)));
        assert_eq!(ept.lookup(&frames, Gfn::new(512)).unwrap().size, PageSize::Size2M);
        assert!(!ept.unmap_in_region(&frames, Gfn::new(7), |_| true).defer(), "nothing is left");
        assert!(!ept.unmap_in_region(&frames, Gfn::new(1 << 30), |_| true).defer(), "nothing was there");
    }

    #[test]
    fn what_may_be_touched_comes_back_at_once_and_the_rest_does_not() {
        let (mut frames, mut ept) = guest(8);
        let _ = ept.unmap_in_region(&frames, Gfn::new(0), |_| true).defer();
        let some = |gfn: Gfn| gfn.as_u64().is_multiple_of(2).then(|| address(gfn));
        assert_eq!(ept.fill_region(&mut frames, Gfn::new(77), WRITE_BACK, some), Ok(256));
        let leaf = ept.lookup(&frames, Gfn::new(510)).unwrap();
        assert_eq!((leaf.size, leaf.address), (PageSize::Size4K, address(Gfn::new(510))));
        assert!(ept.lookup(&frames, Gfn::new(511)).is_none());
        assert_eq!(ept.fill_region(&mut frames, Gfn::new(77), WRITE_BACK, some), Ok(0));
        let all = |gfn| Some(address(gfn));
        assert_eq!(ept.fill_region(&mut frames, Gfn::new(600), WRITE_BACK, all), Ok(0), "it is mapped");
        assert_eq!(ept.fill_region(&mut frames, Gfn::new(0), WRITE_BACK, all), Ok(256));
        assert!(ept.collapse(&frames, Gfn::new(0)).unwrap().defer());
        assert_eq!(ept.lookup(&frames, Gfn::new(0)).unwrap().size, PageSize::Size2M);
    }

    #[test]
    fn without_a_frame_nothing_changes() {
        let (mut frames, mut ept) = guest(3);
        let _ = ept.unmap_in_region(&frames, Gfn::new(0), |_| true).defer();
        let all = |gfn| Some(address(gfn));
        assert_eq!(ept.fill_region(&mut frames, Gfn::new(0), WRITE_BACK, all), Err(EptError::OutOfFrames));
        assert!(ept.is_region_empty(&frames, Gfn::new(0)));
        let beyond = Gfn::new(1 << 36);
        let refused = ept.fill_region(&mut frames, beyond, WRITE_BACK, all);
        assert_eq!(refused, Err(EptError::OutOfReach(beyond)));
    }

    #[test]
    fn a_gibibyte_is_left_whole() {
        let mut frames = FakeFrames::new(8);
        let mut ept = Ept::new(&mut frames, AccessedDirty::Kept).unwrap();
        let first = Gfn::new(0);
        ept.map(&mut frames, first, address(first), PageSize::Size1G, RAM, MemoryType::WriteBack).unwrap();
        assert!(!ept.unmap_in_region(&frames, Gfn::new(5), |_| true).defer());
        assert!(!ept.is_region_empty(&frames, Gfn::new(5)));
    }

    proptest! {
        #[test]
        fn pages_come_one_by_one_in_any_order_and_all_that_came_can_be_touched(
            split in any::<bool>(),
            holes in proptest::collection::btree_set(0_u64..1024, 1..40),
            touches in proptest::collection::vec((0_u64..1024, any::<bool>()), 0..60),
        ) {
            let (mut frames, mut ept) = guest(16);
            if split {
                let _ = ept.split(&mut frames, Gfn::new(0)).unwrap().defer();
            }
            let mut absent: BTreeSet<u64> = holes;
            for first in [0, 512] {
                let _ = ept.unmap_in_region(&frames, Gfn::new(first), |gfn| absent.contains(&gfn.as_u64())).defer();
            }
            for (touched, comes) in touches {
                if comes {
                    absent.remove(&touched);
                }
                if ept.lookup(&frames, Gfn::new(touched)).is_none() {
                    let target = |gfn: Gfn| (!absent.contains(&gfn.as_u64())).then(|| address(gfn));
                    ept.fill_region(&mut frames, Gfn::new(touched), WRITE_BACK, target).unwrap();
                }
                prop_assert_eq!(ept.lookup(&frames, Gfn::new(touched)).is_some(), !absent.contains(&touched));
                for page in &absent {
                    prop_assert!(ept.lookup(&frames, Gfn::new(*page)).is_none());
                }
            }
            for first in [0, 512].map(Gfn::new) {
                ept.fill_region(&mut frames, first, WRITE_BACK, |gfn| Some(address(gfn))).unwrap();
                let _ = ept.collapse(&frames, first).map(Flush::defer);
                let leaf = ept.lookup(&frames, first).unwrap();
                prop_assert_eq!((leaf.size, leaf.address), (PageSize::Size2M, address(first)));
            }
            ept.destroy(&mut frames);
            prop_assert_eq!(frames.allocated(), 0);
        }
    }
}
