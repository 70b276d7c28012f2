//! A guest's RAM as the engine sees it.

use alloc::sync::Arc;

use godwit_migration::ram::BadLayout;
use godwit_migration::{
    GuestRam, NoRam, PAGE_BYTES, Page, PageBitmap, PageBytes, RamFailure, RamLayout, RamRange,
};

use crate::vm::handle::VmHandle;
use crate::vm::memory;

const PAGES_PER_BLOCK: usize = memory::BLOCK_BYTES as usize / PAGE_BYTES;

/// RAM that belongs to a machine, or none while there is no machine.
#[derive(Debug, Default)]
pub struct MachineRam(Option<(Arc<memory::GuestRam>, VmHandle)>);

impl MachineRam {
    /// The RAM of a machine; none if it has ended.
    #[must_use]
    pub fn of(machine: &VmHandle) -> Self {
        Self(machine.ram().map(|ram| (ram, Arc::clone(machine))))
    }

    /// The RAM itself.
    #[must_use]
    pub fn ram(&self) -> Option<&memory::GuestRam> {
        self.0.as_ref().map(|(ram, _)| &**ram)
    }
}

impl GuestRam for MachineRam {
    fn page_count(&self) -> u32 {
        // No guest has so many pages that the engine's numbers do not reach: its layout was checked.
        self.ram().map_or(NoRam.page_count(), |ram| u32::try_from(ram.pages()).unwrap_or(u32::MAX))
    }

    fn read_page(&self, page: Page, into: &mut PageBytes) -> Result<(), RamFailure> {
        let ram = self.ram().ok_or(RamFailure::OutOfRange(page))?;
        ram.read_page(page.0 as usize, into).then_some(()).ok_or(RamFailure::OutOfRange(page))
    }

    fn write_page(&mut self, page: Page, from: &PageBytes) -> Result<(), RamFailure> {
        let ram = self.ram().ok_or(RamFailure::OutOfRange(page))?;
        ram.write_page(page.0 as usize, from).then_some(()).ok_or(RamFailure::OutOfRange(page))
    }

    fn is_zero(&self, page: Page) -> Result<bool, RamFailure> {
        let ram = self.ram().ok_or(RamFailure::OutOfRange(page))?;
        ram.is_zero_page(page.0 as usize).ok_or(RamFailure::OutOfRange(page))
    }

    fn prefetch(&self, page: Page) {
        if let Some(ram) = self.ram() {
            ram.prefetch_page(page.0 as usize);
        }
    }

    fn take_dirty(&mut self, into: &mut PageBitmap) {
        let Some(ram) = self.ram() else {
            return;
        };
        for word in 0..ram.dirty().words() {
            let bits = ram.dirty().take_word(word);
            if bits != 0 {
                into.merge_word(word, bits);
            }
        }
    }

    /// The machine takes them out of its tables when it takes over its state; until then it does not run.
    fn set_absent(&mut self, absent: &PageBitmap) -> Result<(), RamFailure> {
        let Some(ram) = self.ram() else {
            return if absent.is_empty() { Ok(()) } else { Err(RamFailure::CannotWait) };
        };
        let mut next = Page(0);
        ram.absent().set(core::iter::from_fn(|| {
            let page = absent.next(next)?;
            next = Page(page.0 + 1);
            Some(page.0 as usize)
        }));
        Ok(())
    }

    fn publish(&mut self, page: Page) {
        if let Some((ram, machine)) = &self.0
            && ram.absent().publish(page.0 as usize)
        {
            machine.wake();
        }
    }
}

/// Where the `pages` pages of a machine's RAM lie.
///
/// # Errors
/// [`BadLayout`] if there are none, or more than the engine can number.
pub fn layout(pages: usize) -> Result<RamLayout, BadLayout> {
    if pages == 0 {
        return Err(BadLayout::RangeCount(0));
    }
    let blocks = (0..pages).step_by(PAGES_PER_BLOCK).take_while(|&page| is_contiguous(page)).count();
    let first_above = (blocks * PAGES_PER_BLOCK).min(pages);
    let low = RamRange { first_frame: 0, frames: first_above as u64 };
    if first_above == pages {
        return RamLayout::new(&[low]);
    }
    let high = RamRange {
        first_frame: memory::GuestRam::frame_of(first_above).as_u64(),
        frames: (pages - first_above) as u64,
    };
    RamLayout::new(&[low, high])
}

/// Whether page `page` lies where a guest without a hole in its RAM has it.
fn is_contiguous(page: usize) -> bool {
    memory::GuestRam::frame_of(page).as_u64() == page as u64
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicUsize, Ordering};
    use std::vec::Vec;

    use super::*;
    use crate::vm::handle::Shared;
    use crate::vm::lifecycle::State;
    use crate::vm::memory::BLOCK_BYTES;
    use crate::vm::memory::testing::HeapBlocks;

    static KICKS: AtomicUsize = AtomicUsize::new(0);

    fn ram() -> MachineRam {
        let ram = memory::GuestRam::new(&mut HeapBlocks { left: 1 }, BLOCK_BYTES, 1).unwrap();
        let kick = |_cpu| {
            KICKS.fetch_add(1, Ordering::Relaxed);
        };
        let state = State::MovingIn { paused: false };
        MachineRam::of(&Arc::new(Shared::new("linux", 1, Arc::new(ram), state, 0, kick)))
    }

    #[test]
    fn a_page_that_comes_wakes_the_machine_that_waits_for_it_and_is_not_marked_before() {
        let mut ram = ram();
        let mut absent = PageBitmap::empty(512);
        [0, 63, 64, 200, 511].into_iter().for_each(|page| absent.insert(Page(page)));
        ram.set_absent(&absent).unwrap();
        let marked = |ram: &MachineRam| {
            (0..512).filter(|page| ram.ram().unwrap().absent().is_absent(*page)).collect::<Vec<_>>()
        };
        assert_eq!(marked(&ram), [0, 63, 64, 200, 511]);
        ram.write_page(Page(200), &[3; 4096]).unwrap();
        assert_eq!(ram.is_zero(Page(200)), Ok(false), "the engine reads and writes what is absent");
        let _ = ram.ram().unwrap().absent().wait(0, 200);
        ram.publish(Page(64));
        assert_eq!(KICKS.load(Ordering::Relaxed), 0, "nobody waits for that");
        ram.publish(Page(200));
        ram.publish(Page(200));
        ram.publish(Page(7));
        ram.publish(Page(100_000));
        assert_eq!(KICKS.load(Ordering::Relaxed), 1);
        assert_eq!(marked(&ram), [0, 63, 511]);
        ram.set_absent(&PageBitmap::empty(512)).unwrap();
        assert_eq!(marked(&ram), []);
        assert!(MachineRam::default().set_absent(&absent).is_err());
    }

    #[test]
    fn pages_are_copied_and_bounds_are_errors() {
        let mut ram = ram();
        let mut bytes = [7; 4096];
        ram.write_page(Page(511), &bytes).unwrap();
        ram.read_page(Page(511), &mut bytes).unwrap();
        assert_eq!(bytes, [7; 4096]);
        assert_eq!(ram.is_zero(Page(0)), Ok(true));
        assert_eq!(ram.read_page(Page(512), &mut bytes), Err(RamFailure::OutOfRange(Page(512))));
        assert_eq!(MachineRam::default().page_count(), 0);
    }

    #[test]
    fn published_pages_are_taken_once() {
        let mut ram = ram();
        let machine = ram.0.as_ref().map(|(ram, _)| Arc::clone(ram)).unwrap();
        machine.dirty().enable();
        ram.write_page(Page(100), &[1; 4096]).unwrap();
        machine.dirty().harvest(|_| {});
        let mut dirty = PageBitmap::empty(512);
        ram.take_dirty(&mut dirty);
        assert!(dirty.contains(Page(100)) && dirty.len() == 1);
        let mut again = PageBitmap::empty(512);
        ram.take_dirty(&mut again);
        assert_eq!(again.len(), 0);
    }

    #[test]
    fn the_layout_has_the_hole_below_four_gib() {
        let small = layout(32768).unwrap();
        assert_eq!(small.ranges(), [RamRange { first_frame: 0, frames: 32768 }]);
        let large = layout(0xc_0000 + 512).unwrap();
        assert_eq!(large.ranges()[1], RamRange { first_frame: 0x10_0000, frames: 512 });
        assert!(layout(0).is_err());
    }
}
