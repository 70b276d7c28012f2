//! Which pages of a guest's RAM were written: the part of the dirty log that every CPU may touch.
//!
//! Two bitmaps. Writes are marked in the *active* one, by the host's copies on any CPU and by the owner from
//! what the processor tells. A harvest, by the owner alone, moves it to the *published* one, from which the reader takes
//! what it likes, when it likes. A page marked while a harvest runs shows in this one or in the next, never in none.

use alloc::boxed::Box;
use alloc::collections::TryReserveError;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::words::zeroed;

/// Pages per word.
const BITS: usize = 64;

/// The two bitmaps, a bit per page of RAM.
#[derive(Debug)]
pub struct DirtyBitmaps {
    enabled: AtomicBool,
    active: Box<[AtomicU64]>,
    published: Box<[AtomicU64]>,
}

impl DirtyBitmaps {
    /// Bitmaps for `pages` pages, switched off.
    ///
    /// # Errors
    /// [`TryReserveError`] if there is no memory for them.
    pub fn new(pages: usize) -> Result<Self, TryReserveError> {
        let words = pages.div_ceil(BITS);
        Ok(Self { enabled: AtomicBool::new(false), active: zeroed(words)?, published: zeroed(words)? })
    }

    /// Whether writes are being recorded.
    #[inline]
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    /// Starts recording, with both bitmaps empty.
    pub fn enable(&self) {
        for word in self.active.iter().chain(&self.published) {
            word.store(0, Ordering::Relaxed);
        }
        self.enabled.store(true, Ordering::SeqCst);
    }

    /// Stops recording.
    pub fn disable(&self) {
        self.enabled.store(false, Ordering::SeqCst);
    }

    /// Records that `page` was written. A page beyond the end is ignored.
    #[inline]
    pub fn mark(&self, page: usize) {
        if self.is_enabled()
            && let Some(word) = self.active.get(page / BITS)
        {
            word.fetch_or(1 << (page % BITS), Ordering::AcqRel);
        }
    }

    /// Moves what was recorded to the published bitmap and calls `rearm` for each page of it.
    ///
    /// The owner does this while the guest does not run, and flushes cached translations before it runs again.
    pub fn harvest(&self, mut rearm: impl FnMut(usize)) {
        for (index, (active, published)) in self.active.iter().zip(&self.published).enumerate() {
            if active.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut bits = active.swap(0, Ordering::AcqRel);
            published.fetch_or(bits, Ordering::AcqRel);
            while bits != 0 {
                rearm(index * BITS + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
    }

    /// Takes the published bits of the 64 pages from `word × 64` on; they are forgotten.
    #[must_use]
    pub fn take_word(&self, word: usize) -> u64 {
        match self.published.get(word) {
            Some(bits) if bits.load(Ordering::Relaxed) != 0 => bits.swap(0, Ordering::AcqRel),
            _ => 0,
        }
    }

    /// Words that [`Self::take_word`] knows.
    #[must_use]
    pub fn words(&self) -> usize {
        self.published.len()
    }
}

/// How the processor tells which pages a guest writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirtySource {
    /// Page-modification logging: the processor lists them.
    Pml,
    /// EPT dirty flags: a walk finds them.
    DirtyFlags,
    /// Write protection: the first write of each page exits.
    WriteProtect,
}

impl DirtySource {
    /// The best one that the processor has.
    #[must_use]
    pub fn choose(capabilities: &godwit_vmx::capability::Capabilities) -> Self {
        if capabilities.has_pml() {
            Self::Pml
        } else if capabilities.has_ept_dirty() {
            Self::DirtyFlags
        } else {
            Self::WriteProtect
        }
    }

    /// A short name for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pml => "page-modification log",
            Self::DirtyFlags => "EPT dirty flags",
            Self::WriteProtect => "write protection",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::vec::Vec;

    use godwit_vmx::capability::EptCapabilities;
    use godwit_vmx::controls::SecondaryControls;
    use proptest::prelude::*;

    use super::*;

    fn take(bitmaps: &DirtyBitmaps) -> BTreeSet<usize> {
        let mut pages = BTreeSet::new();
        for index in 0..bitmaps.words() {
            let word = bitmaps.take_word(index);
            pages.extend((0..BITS).filter(|bit| word & 1 << bit != 0).map(|bit| index * BITS + bit));
        }
        pages
    }

    #[test]
    fn nothing_is_recorded_while_off_and_nothing_old_shows_when_on() {
        let bitmaps = DirtyBitmaps::new(100).unwrap();
        bitmaps.mark(3);
        bitmaps.enable();
        bitmaps.mark(4);
        bitmaps.mark(1_000_000);
        bitmaps.harvest(|_| {});
        assert_eq!(take(&bitmaps), BTreeSet::from([4]));
        bitmaps.mark(5);
        bitmaps.enable();
        bitmaps.harvest(|_| panic!("marked before recording began anew"));
    }

    /// KVM gives a nested hypervisor PML only if the VM's processor model has it.
    #[test]
    fn what_the_machine_below_withholds_is_done_without() {
        let mut capabilities = super::super::controls::tests::kvm();
        assert_eq!(DirtySource::choose(&capabilities), DirtySource::Pml);
        capabilities.secondary.may_be_1 &= !SecondaryControls::ENABLE_PML.bits();
        assert_eq!(DirtySource::choose(&capabilities), DirtySource::DirtyFlags);
        capabilities.ept -= EptCapabilities::ACCESSED_DIRTY;
        assert_eq!(DirtySource::choose(&capabilities), DirtySource::WriteProtect);
        capabilities.secondary.may_be_1 |= SecondaryControls::ENABLE_PML.bits();
        assert_eq!(DirtySource::choose(&capabilities), DirtySource::WriteProtect, "PML logs by dirty flags");
    }

    proptest! {
        #[test]
        fn every_mark_shows_in_exactly_one_harvest(rounds: Vec<Vec<u8>>) {
            let bitmaps = DirtyBitmaps::new(256).unwrap();
            bitmaps.enable();
            for marks in rounds {
                for page in &marks {
                    bitmaps.mark(usize::from(*page));
                }
                let mut rearmed = BTreeSet::new();
                bitmaps.harvest(|page| {
                    rearmed.insert(page);
                });
                let expected: BTreeSet<usize> = marks.into_iter().map(usize::from).collect();
                prop_assert_eq!(&rearmed, &expected);
                prop_assert_eq!(&take(&bitmaps), &expected);
                prop_assert!(take(&bitmaps).is_empty());
            }
        }
    }
}
