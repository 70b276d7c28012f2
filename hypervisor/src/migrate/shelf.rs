//! Memory of this host for the pages that it keeps for others.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

use godwit_migration::{GuestRam, PAGE_BYTES, Page, PageBitmap, PageBytes, RamFailure};

use crate::vm::memory::{self, BLOCK_BYTES, BlockSource};

const PAGES_PER_BLOCK: usize = BLOCK_BYTES as usize / PAGE_BYTES;

/// Pages in blocks of the host's, as many as were written. Everything goes back when it is dropped.
pub struct Shelf<S> {
    source: S,
    blocks: Vec<memory::GuestRam>,
    /// Where each page is, counted over all blocks and from one on, by the 2 MiB of the guest in which it lies.
    places: BTreeMap<u32, Box<Places>>,
    pages: u32,
}

type Places = [u32; PAGES_PER_BLOCK];

/// Bytes of the heap that are taken for each 2 MiB of the guest: the places of its pages, what finds those, and what a block of
/// pages takes (twice where a list of them has grown).
pub const HEAP_BYTES_PER_BLOCK: u64 =
    (size_of::<Places>() + 96 + 3 * size_of::<memory::GuestRam>() + memory::BITMAP_BYTES_PER_BLOCK + 64)
        as u64;

impl<S> fmt::Debug for Shelf<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shelf({} pages in {} blocks)", self.pages, self.blocks.len())
    }
}

impl<S: BlockSource> Shelf<S> {
    /// Nothing yet.
    #[must_use]
    pub const fn new(source: S) -> Self {
        Self { source, blocks: Vec::new(), places: BTreeMap::new(), pages: 0 }
    }

    /// The block and the page in it that `page` has.
    fn find(&self, page: Page) -> Option<(&memory::GuestRam, usize)> {
        let (group, within) = split(page);
        let place = self.places.get(&group)?[within].checked_sub(1)? as usize;
        Some((self.blocks.get(place / PAGES_PER_BLOCK)?, place % PAGES_PER_BLOCK))
    }

    /// Gives `page` a place, unless it has one.
    fn make_room(&mut self, page: Page) -> Result<(), RamFailure> {
        if self.find(page).is_some() {
            return Ok(());
        }
        if self.pages as usize == self.blocks.len() * PAGES_PER_BLOCK {
            let block = memory::GuestRam::new(&mut self.source, BLOCK_BYTES, 1);
            self.blocks.push(block.map_err(|_| RamFailure::OutOfMemory(page))?);
        }
        let (group, within) = split(page);
        self.pages += 1;
        self.places.entry(group).or_insert_with(|| Box::new([0; PAGES_PER_BLOCK]))[within] = self.pages;
        Ok(())
    }
}

/// The 2 MiB of the guest in which `page` lies, and which page of them it is.
const fn split(page: Page) -> (u32, usize) {
    (page.0 / PAGES_PER_BLOCK as u32, page.0 as usize % PAGES_PER_BLOCK)
}

impl<S: BlockSource> GuestRam for Shelf<S> {
    fn page_count(&self) -> u32 {
        self.pages
    }

    fn read_page(&self, page: Page, into: &mut PageBytes) -> Result<(), RamFailure> {
        let (block, index) = self.find(page).ok_or(RamFailure::OutOfRange(page))?;
        block.read_page(index, into).then_some(()).ok_or(RamFailure::OutOfRange(page))
    }

    fn write_page(&mut self, page: Page, from: &PageBytes) -> Result<(), RamFailure> {
        self.make_room(page)?;
        let (block, index) = self.find(page).ok_or(RamFailure::OutOfRange(page))?;
        block.write_page(index, from).then_some(()).ok_or(RamFailure::OutOfRange(page))
    }

    fn is_zero(&self, page: Page) -> Result<bool, RamFailure> {
        let (block, index) = self.find(page).ok_or(RamFailure::OutOfRange(page))?;
        block.is_zero_page(index).ok_or(RamFailure::OutOfRange(page))
    }

    fn take_dirty(&mut self, _into: &mut PageBitmap) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::memory::testing::HeapBlocks;

    #[test]
    fn pages_lie_close_together_wherever_they_belong_and_memory_has_an_end() {
        let mut shelf = Shelf::new(HeapBlocks { left: 2 });
        let mut bytes = [0; PAGE_BYTES];
        assert_eq!(shelf.read_page(Page(9), &mut bytes), Err(RamFailure::OutOfRange(Page(9))));
        for number in 0..2 * PAGES_PER_BLOCK as u32 {
            shelf.write_page(Page(number * 1000 + 7), &[number as u8; PAGE_BYTES]).unwrap();
        }
        assert_eq!(shelf.blocks.len(), 2);
        let full = shelf.write_page(Page(1), &bytes);
        assert_eq!(full, Err(RamFailure::OutOfMemory(Page(1))));
        for number in 0..2 * PAGES_PER_BLOCK as u32 {
            shelf.read_page(Page(number * 1000 + 7), &mut bytes).unwrap();
            assert_eq!(bytes, [number as u8; PAGE_BYTES]);
        }
        shelf.write_page(Page(7), &[0; PAGE_BYTES]).unwrap();
        assert_eq!(shelf.is_zero(Page(7)), Ok(true));
        assert_eq!(shelf.is_zero(Page(1007)), Ok(false));
    }
}
