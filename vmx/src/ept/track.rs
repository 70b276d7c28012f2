//! Finding out what the guest has touched: accessed and dirty flags, and write protection where there are none.

use core::ops::Range;
use core::sync::atomic::Ordering;

use super::entry::{ACCESSED, DIRTY, LOGGED, Permissions};
use super::{Ept, Flush, FrameSource};
use crate::addr::Gfn;

const WRITE: u64 = Permissions::WRITE.bits();

/// A run of frames that one leaf maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touched {
    /// First frame.
    pub first: Gfn,
    /// Number of frames.
    pub frames: u64,
}

impl Ept {
    /// Reports every page in `range` whose dirty flag is set, and clears the flag.
    pub fn harvest_dirty(
        &self,
        frames: &impl FrameSource,
        range: Range<Gfn>,
        report: impl FnMut(Touched),
    ) -> Flush {
        self.harvest(frames, range, DIRTY, report)
    }

    /// Reports every page in `range` whose accessed flag is set, and clears the flag.
    pub fn harvest_accessed(
        &self,
        frames: &impl FrameSource,
        range: Range<Gfn>,
        report: impl FnMut(Touched),
    ) -> Flush {
        self.harvest(frames, range, ACCESSED, report)
    }

    fn harvest(
        &self,
        frames: &impl FrameSource,
        range: Range<Gfn>,
        flag: u64,
        mut report: impl FnMut(Touched),
    ) -> Flush {
        let mut flush = Flush::NOT_NEEDED;
        self.for_each_leaf(frames, range, &mut |first, level, slot| {
            if slot.load(Ordering::Relaxed) & flag != 0 && slot.fetch_and(!flag, Ordering::AcqRel) & flag != 0
            {
                report(Touched { first: Gfn::new(first), frames: 1 << (9 * (level - 1)) });
                flush = Flush::NEEDED;
            }
        });
        flush
    }

    /// Clears the dirty flag of the page that holds `gfn`, so that the next write sets (and logs) it again.
    pub fn clear_dirty(&self, frames: &impl FrameSource, gfn: Gfn) -> Flush {
        match self.slot(frames, gfn) {
            Some((slot, _)) if slot.fetch_and(!DIRTY, Ordering::AcqRel) & DIRTY != 0 => Flush::NEEDED,
            _ => Flush::NOT_NEEDED,
        }
    }

    /// Withholds writes from the page that holds `gfn` if it is writable.
    pub fn protect(&self, frames: &impl FrameSource, gfn: Gfn) -> Flush {
        match self.slot(frames, gfn) {
            Some((slot, _)) => protect(slot),
            None => Flush::NOT_NEEDED,
        }
    }

    /// Withholds writes from every writable page in `range`.
    pub fn protect_all(&self, frames: &impl FrameSource, range: Range<Gfn>) -> Flush {
        let mut flush = Flush::NOT_NEEDED;
        self.for_each_leaf(frames, range, &mut |_, _, slot| {
            flush = Flush { needed: protect(slot).needed | flush.needed };
        });
        flush
    }

    /// Answers a write violation: allows the write again if it was withheld for logging, and reports the run of
    /// frames that the guest may now write. `None`: the violation has another cause.
    ///
    /// No flush is due: the violation itself has dropped the old mapping on that processor, and another
    /// processor that still has it takes one more violation (SDM 29.4.3.3).
    #[must_use]
    pub fn allow_write(&self, frames: &impl FrameSource, gfn: Gfn) -> Option<Touched> {
        let (slot, level) = self.slot(frames, gfn)?;
        let entry = slot.load(Ordering::Acquire);
        if entry & (LOGGED | WRITE) == 0 {
            return None;
        }
        if entry & LOGGED != 0 {
            slot.store(entry & !LOGGED | WRITE, Ordering::Release);
        }
        let span = 1 << (9 * (level - 1));
        Some(Touched { first: Gfn::new(gfn.as_u64() & !(span - 1)), frames: span })
    }

    /// Allows every withheld write in `range` again. A widened permission needs no flush.
    pub fn allow_all(&self, frames: &impl FrameSource, range: Range<Gfn>) {
        self.for_each_leaf(frames, range, &mut |_, _, slot| {
            let entry = slot.load(Ordering::Relaxed);
            if entry & LOGGED != 0 {
                slot.store(entry & !LOGGED | WRITE, Ordering::Release);
            }
        });
    }
}

fn protect(slot: &core::sync::atomic::AtomicU64) -> Flush {
    let entry = slot.load(Ordering::Relaxed);
    if entry & WRITE == 0 {
        return Flush::NOT_NEEDED;
    }
    // Two steps, so that a flag that the processor sets in between is kept.
    slot.fetch_or(LOGGED, Ordering::AcqRel);
    slot.fetch_and(!WRITE, Ordering::AcqRel);
    Flush::NEEDED
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::vec::Vec;

    use proptest::prelude::*;
    use x86_64::PhysAddr;

    use super::super::fake::{FakeFrames, RAM};
    use super::super::{AccessedDirty, MemoryType, PageSize};
    use super::*;

    /// 4 MiB of RAM: first half in 4 KiB pages, second in one of 2 MiB.
    fn guest() -> (FakeFrames, Ept) {
        let mut frames = FakeFrames::new(16);
        let mut ept = Ept::new(&mut frames, AccessedDirty::Kept).unwrap();
        for gfn in [0, 512] {
            let address = PhysAddr::new(0x4000_0000 + gfn * 4096);
            ept.map(&mut frames, Gfn::new(gfn), address, PageSize::Size2M, RAM, MemoryType::WriteBack)
                .unwrap();
        }
        let _ = ept.split(&mut frames, Gfn::new(0)).unwrap().defer();
        (frames, ept)
    }

    const ALL: Range<Gfn> = Gfn::new(0)..Gfn::new(1024);

    #[test]
    fn a_write_is_harvested_once_and_again_after_the_next_write() {
        let (frames, ept) = guest();
        assert!(frames.guest_writes(&ept, 3));
        let mut seen = Vec::new();
        assert!(ept.harvest_dirty(&frames, ALL, |touched| seen.push(touched)).defer());
        assert_eq!(seen, [Touched { first: Gfn::new(3), frames: 1 }]);
        assert!(!ept.harvest_dirty(&frames, ALL, |_| panic!("harvested twice")).defer());
        assert!(frames.guest_writes(&ept, 3));
        assert!(ept.clear_dirty(&frames, Gfn::new(3)).defer());
        assert!(!ept.clear_dirty(&frames, Gfn::new(3)).defer());
    }

    #[test]
    fn a_large_page_is_reported_whole() {
        let (frames, ept) = guest();
        assert!(frames.guest_writes(&ept, 600));
        let mut seen = Vec::new();
        let _ =
            ept.harvest_dirty(&frames, Gfn::new(700)..Gfn::new(701), |touched| seen.push(touched)).defer();
        assert_eq!(seen, [Touched { first: Gfn::new(512), frames: 512 }]);
    }

    #[test]
    fn a_protected_page_faults_once_per_harvest() {
        let (frames, ept) = guest();
        assert!(ept.protect_all(&frames, ALL).defer());
        assert!(!ept.protect_all(&frames, ALL).defer(), "already protected");
        assert!(!frames.guest_writes(&ept, 7));
        assert!(ept.lookup(&frames, Gfn::new(7)).unwrap().logged);
        assert_eq!(ept.allow_write(&frames, Gfn::new(7)), Some(Touched { first: Gfn::new(7), frames: 1 }));
        assert!(frames.guest_writes(&ept, 7));
        assert!(!frames.guest_writes(&ept, 8));
        assert_eq!(ept.allow_write(&frames, Gfn::new(513)).unwrap().frames, 512);
        ept.allow_all(&frames, ALL);
        assert!(frames.guest_writes(&ept, 8));
    }

    #[test]
    fn a_page_that_was_never_writable_is_no_logged_write() {
        let mut frames = FakeFrames::new(8);
        let mut ept = Ept::new(&mut frames, AccessedDirty::Ignored).unwrap();
        let (read, base) = (Permissions::READ, PhysAddr::new(0x1000));
        ept.map(&mut frames, Gfn::new(1), base, PageSize::Size4K, read, MemoryType::WriteBack).unwrap();
        assert!(!ept.protect(&frames, Gfn::new(1)).defer());
        assert_eq!(ept.allow_write(&frames, Gfn::new(1)), None);
        assert_eq!(ept.allow_write(&frames, Gfn::new(2)), None);
        assert!(!ept.protect(&frames, Gfn::new(2)).defer());
    }

    proptest! {
        #[test]
        fn dirty_flags_and_write_protection_see_the_same_writes(
            rounds in proptest::collection::vec(proptest::collection::vec(0_u64..512, 0..30), 1..5),
        ) {
            let (frames, ept) = guest();
            let _ = ept.protect_all(&frames, ALL).defer();
            for writes in rounds {
                let mut by_fault = BTreeSet::new();
                for gfn in &writes {
                    if !frames.guest_writes(&ept, *gfn) {
                        by_fault.insert(ept.allow_write(&frames, Gfn::new(*gfn)).unwrap().first.as_u64());
                        prop_assert!(frames.guest_writes(&ept, *gfn));
                    }
                }
                let mut by_flag = BTreeSet::new();
                let _ = ept.harvest_dirty(&frames, ALL, |touched| {
                    by_flag.insert(touched.first.as_u64());
                }).defer();
                for gfn in &by_fault {
                    let _ = ept.protect(&frames, Gfn::new(*gfn)).defer();
                }
                let written: BTreeSet<u64> = writes.into_iter().collect();
                prop_assert_eq!(&by_fault, &written);
                prop_assert_eq!(&by_flag, &written);
            }
        }
    }
}
