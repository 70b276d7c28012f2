//! RAM that is kept out of a guest's tables because it has not come yet. Pure but for the tables' frames.
//!
//! While the guest stands still whole blocks are taken out ([`conceal`]), a store for each; what of them may be touched
//! is mapped when it is first touched ([`map_around`]), all that has come of the block at once. When everything has come
//! all is mapped again as it was ([`reveal`]).

use godwit_vmx::addr::{Gfn, PAGE_SIZE};
use godwit_vmx::ept::{Ept, EptError, Flush, FrameSource, MemoryType, PageSize, Permissions};
use x86_64::PhysAddr;

use super::memory::{BLOCK_BYTES, GuestRam};

/// How RAM is mapped.
pub(super) const RAM: (Permissions, MemoryType) = (Permissions::all(), MemoryType::WriteBack);

const BLOCK_PAGES: usize = (BLOCK_BYTES / PAGE_SIZE) as usize;
const WORDS_PER_BLOCK: usize = BLOCK_PAGES / 64;

/// Whether any page of block `block` is absent.
fn has_hole(ram: &GuestRam, block: usize) -> bool {
    let words = block * WORDS_PER_BLOCK..(block + 1) * WORDS_PER_BLOCK;
    words.into_iter().any(|word| ram.absent().word(word) != 0)
}

/// Number of blocks of which something is absent: as many tables may be needed to map the rest of them.
pub(super) fn blocks_with_holes(ram: &GuestRam) -> usize {
    if !ram.absent().is_on() {
        return 0;
    }
    (0..ram.pages() / BLOCK_PAGES).filter(|block| has_hole(ram, *block)).count()
}

/// Takes everything that is absent out of the tables. The guest stands still.
///
/// # Errors
/// [`EptError`] if something that an earlier call took out and that is there now cannot be put back.
pub(super) fn conceal(
    ept: &mut Ept,
    frames: &mut impl FrameSource,
    ram: &GuestRam,
) -> Result<Flush, EptError> {
    let mut flush = Flush::default();
    for (block, (first, address)) in ram.blocks().enumerate() {
        let frame = first.frame();
        flush = flush.and(if ram.absent().is_on() && has_hole(ram, block) {
            let page = |gfn: Gfn| block * BLOCK_PAGES + (gfn.as_u64() - frame.as_u64()) as usize;
            ept.unmap_in_region(frames, frame, |gfn| ram.absent().is_absent(page(gfn)))
        } else {
            reveal_block(ept, frames, ram, (block, frame, address))?
        });
    }
    Ok(flush)
}

/// Maps what has come and is not mapped of the block around page `page`.
///
/// # Errors
/// [`EptError::OutOfFrames`].
pub(super) fn map_around(
    ept: &mut Ept,
    frames: &mut impl FrameSource,
    ram: &GuestRam,
    page: usize,
) -> Result<(), EptError> {
    let first = page / BLOCK_PAGES * BLOCK_PAGES;
    let frame = GuestRam::frame_of(first);
    let target = |gfn: Gfn| {
        let page = first + (gfn.as_u64() - frame.as_u64()) as usize;
        ram.backing(page).filter(|_| !ram.absent().is_absent(page))
    };
    ept.fill_region(frames, frame, RAM, target).map(|_mapped| ())
}

/// Maps all of `ram` as if nothing had ever been absent; nothing is.
///
/// # Errors
/// [`EptError`]; what was mapped before is still mapped.
pub(super) fn reveal(
    ept: &mut Ept,
    frames: &mut impl FrameSource,
    ram: &GuestRam,
) -> Result<Flush, EptError> {
    let mut flush = Flush::default();
    for (block, (first, address)) in ram.blocks().enumerate() {
        flush = flush.and(reveal_block(ept, frames, ram, (block, first.frame(), address))?);
    }
    Ok(flush)
}

/// Maps a block of which nothing is absent: the first, which has the VGA window in it, in small pages.
fn reveal_block(
    ept: &mut Ept,
    frames: &mut impl FrameSource,
    ram: &GuestRam,
    (block, first, address): (usize, Gfn, PhysAddr),
) -> Result<Flush, EptError> {
    if block > 0 && ept.is_region_empty(frames, first) {
        ept.map(frames, first, address, PageSize::Size2M, RAM.0, RAM.1)?;
        return Ok(Flush::default());
    }
    let page = |gfn: Gfn| block * BLOCK_PAGES + (gfn.as_u64() - first.as_u64()) as usize;
    ept.fill_region(frames, first, RAM, |gfn| ram.backing(page(gfn)))?;
    Ok(ept.collapse(frames, first).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicU64;
    use std::boxed::Box;
    use std::collections::{BTreeSet, HashMap};
    use std::vec::Vec;

    use godwit_vmx::ept::{AccessedDirty, Table};
    use proptest::prelude::*;

    use super::super::memory::testing::HeapBlocks;
    use super::*;

    const BLOCKS: usize = 3;
    const PAGES: usize = BLOCKS * BLOCK_PAGES;

    #[derive(Default)]
    struct Frames {
        tables: HashMap<u64, Box<Table>>,
        next: u64,
        left: usize,
    }

    impl FrameSource for Frames {
        fn allocate(&mut self) -> Option<PhysAddr> {
            self.left = self.left.checked_sub(1)?;
            self.next += PAGE_SIZE;
            self.tables.insert(self.next, Box::new([const { AtomicU64::new(0) }; 512]));
            Some(PhysAddr::new(self.next))
        }

        fn free(&mut self, frame: PhysAddr) {
            self.tables.remove(&frame.as_u64()).unwrap();
        }

        fn table(&self, frame: PhysAddr) -> &Table {
            &self.tables[&frame.as_u64()]
        }
    }

    /// A guest whose tables map all of its RAM.
    fn guest() -> (Ept, Frames, GuestRam) {
        let ram = GuestRam::new(&mut HeapBlocks { left: BLOCKS }, BLOCKS as u64 * BLOCK_BYTES, 1).unwrap();
        let mut frames = Frames { left: 64, ..Frames::default() };
        let mut ept = Ept::new(&mut frames, AccessedDirty::Kept).unwrap();
        let _ = reveal(&mut ept, &mut frames, &ram).unwrap().defer();
        (ept, frames, ram)
    }

    /// The pages that the guest can touch, and the sizes in which they are mapped.
    fn mapped(ept: &Ept, frames: &Frames, ram: &GuestRam) -> (BTreeSet<usize>, Vec<Option<PageSize>>) {
        let leaf = |page: usize| ept.lookup(frames, GuestRam::frame_of(page));
        let pages = (0..PAGES).filter(|page| {
            leaf(*page).is_some_and(|leaf| {
                let within = GuestRam::frame_of(*page).as_u64() - leaf.first.as_u64();
                assert_eq!(Some(leaf.address + within * PAGE_SIZE), ram.backing(*page));
                true
            })
        });
        let sizes = (0..BLOCKS).map(|block| leaf(block * BLOCK_PAGES).map(|leaf| leaf.size));
        (pages.collect(), sizes.collect())
    }

    fn is_vga(page: usize) -> bool {
        (0xa0..0xc0).contains(&page)
    }

    #[test]
    fn what_is_absent_is_taken_out_without_a_frame_and_comes_back_as_it_was() {
        let (mut ept, mut frames, ram) = guest();
        let whole = mapped(&ept, &frames, &ram);
        assert_eq!(whole.1, [PageSize::Size4K, PageSize::Size2M, PageSize::Size2M].map(Some));
        assert!((0..PAGES).all(|page| whole.0.contains(&page) != is_vga(page)));
        ram.absent().set([3, 0xa5, BLOCK_PAGES + 7].into_iter());
        assert_eq!(blocks_with_holes(&ram), 2);
        let left = core::mem::take(&mut frames.left);
        assert!(conceal(&mut ept, &mut frames, &ram).unwrap().defer());
        let (pages, _) = mapped(&ept, &frames, &ram);
        assert!(!pages.contains(&3) && pages.contains(&4), "the first block is in small pages");
        assert!(!pages.contains(&(BLOCK_PAGES + 8)) && pages.contains(&(2 * BLOCK_PAGES)));
        assert_eq!(map_around(&mut ept, &mut frames, &ram, BLOCK_PAGES + 8), Err(EptError::OutOfFrames));
        frames.left = left;
        map_around(&mut ept, &mut frames, &ram, BLOCK_PAGES + 8).unwrap();
        let (pages, sizes) = mapped(&ept, &frames, &ram);
        assert!(!pages.contains(&(BLOCK_PAGES + 7)) && pages.contains(&(BLOCK_PAGES + 511)));
        assert_eq!(sizes[1], Some(PageSize::Size4K));
        ram.absent().clear();
        let _ = reveal(&mut ept, &mut frames, &ram).unwrap().defer();
        assert_eq!(mapped(&ept, &frames, &ram), whole);
    }

    #[test]
    fn another_set_of_absent_pages_replaces_the_one_before() {
        let (mut ept, mut frames, ram) = guest();
        let whole = mapped(&ept, &frames, &ram);
        ram.absent().set(0..PAGES);
        let _ = conceal(&mut ept, &mut frames, &ram).unwrap().defer();
        assert!(mapped(&ept, &frames, &ram).0.is_empty());
        ram.absent().set([2 * BLOCK_PAGES].into_iter());
        let _ = conceal(&mut ept, &mut frames, &ram).unwrap().defer();
        let (pages, sizes) = mapped(&ept, &frames, &ram);
        assert!((0..2 * BLOCK_PAGES).all(|page| pages.contains(&page) != is_vga(page)));
        assert_eq!(sizes, [Some(PageSize::Size4K), Some(PageSize::Size2M), None]);
        ram.absent().set(core::iter::empty());
        let _ = conceal(&mut ept, &mut frames, &ram).unwrap().defer();
        assert_eq!(mapped(&ept, &frames, &ram), whole);
    }

    proptest! {
        #[test]
        fn a_guest_reaches_exactly_what_has_come(
            absent in proptest::collection::btree_set(0_usize..PAGES, 1..60),
            steps in proptest::collection::vec((0_usize..PAGES, any::<bool>()), 0..60),
        ) {
            let (mut ept, mut frames, ram) = guest();
            let whole = mapped(&ept, &frames, &ram);
            ram.absent().set(absent.iter().copied());
            let spent = frames.left;
            let _ = conceal(&mut ept, &mut frames, &ram).unwrap().defer();
            for (page, comes) in steps {
                if comes {
                    let _ = ram.absent().publish(page);
                }
                if ept.lookup(&frames, GuestRam::frame_of(page)).is_none() && !ram.absent().is_absent(page) {
                    map_around(&mut ept, &mut frames, &ram, page).unwrap();
                    prop_assert!(ept.lookup(&frames, GuestRam::frame_of(page)).is_some() != is_vga(page));
                }
                let (pages, _) = mapped(&ept, &frames, &ram);
                prop_assert!(pages.iter().all(|page| !ram.absent().is_absent(*page)));
            }
            prop_assert!(spent - frames.left <= BLOCKS, "a table for each block with a hole is enough");
            ram.absent().clear();
            let _ = reveal(&mut ept, &mut frames, &ram).unwrap().defer();
            prop_assert_eq!(mapped(&ept, &frames, &ram), whole);
        }
    }
}
