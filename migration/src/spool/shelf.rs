//! Where the pages are kept: RAM of the host's, of which a source gets no more than it was granted.

use crate::bitmap::PageBitmap;
use crate::ram::{GuestRam, PAGE_BYTES, Page, PageBytes, RamFailure};

/// A host's store, as the decoder of records sees it: pages that were never written read as zero and need no memory.
pub(super) struct Shelf<'a> {
    pub(super) store: &'a mut dyn GuestRam,
    /// Pages that take up memory of the store.
    pub(super) written: &'a mut PageBitmap,
    /// Most of them.
    pub(super) most: u32,
}

impl GuestRam for Shelf<'_> {
    fn page_count(&self) -> u32 {
        self.written.page_count()
    }

    fn read_page(&self, page: Page, into: &mut PageBytes) -> Result<(), RamFailure> {
        if self.written.contains(page) {
            return self.store.read_page(page, into);
        }
        *into = [0; PAGE_BYTES];
        Ok(())
    }

    fn write_page(&mut self, page: Page, from: &PageBytes) -> Result<(), RamFailure> {
        if !self.written.contains(page) {
            if self.written.len() >= self.most {
                return Err(RamFailure::OutOfMemory(page));
            }
            self.written.insert(page);
        }
        self.store.write_page(page, from)
    }

    fn is_zero(&self, page: Page) -> Result<bool, RamFailure> {
        if self.written.contains(page) { self.store.is_zero(page) } else { Ok(true) }
    }

    fn take_dirty(&mut self, _into: &mut PageBitmap) {}
}
