//! Guest RAM as one piece of ordinary memory.

use std::path::Path;

use godwit_migration::{GuestRam, PAGE_BYTES, Page, PageBitmap, PageBytes, RamFailure, is_zero};
use memmap2::MmapMut;
use xxhash_rust::xxh64::xxh64;

use super::common::{Failure, memory};
use super::prefetch::prefetch;

pub(crate) struct Ram(MmapMut);

impl Ram {
    /// The content of an image file.
    pub(crate) fn from_file(path: &Path) -> Result<Self, Failure> {
        memory::load(path).map(Self)
    }

    /// So many zero bytes that have been touched.
    pub(crate) fn zero(bytes: usize) -> Result<Self, Failure> {
        memory::touched(bytes).map(Self)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// A hash of all of it, to compare both ends with, independent of the engine's digest.
    pub(crate) fn hash(&self) -> u64 {
        xxh64(&self.0, 42)
    }

    fn page(&self, page: Page) -> Result<&PageBytes, RamFailure> {
        let at = page.0 as usize * PAGE_BYTES;
        self.0.get(at..).and_then(|rest| rest.first_chunk()).ok_or(RamFailure::OutOfRange(page))
    }
}

impl GuestRam for Ram {
    fn page_count(&self) -> u32 {
        (self.0.len() / PAGE_BYTES) as u32
    }

    fn read_page(&self, page: Page, into: &mut PageBytes) -> Result<(), RamFailure> {
        *into = *self.page(page)?;
        Ok(())
    }

    fn write_page(&mut self, page: Page, from: &PageBytes) -> Result<(), RamFailure> {
        let at = page.0 as usize * PAGE_BYTES;
        let to = self.0.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<PAGE_BYTES>());
        *to.ok_or(RamFailure::OutOfRange(page))? = *from;
        Ok(())
    }

    fn is_zero(&self, page: Page) -> Result<bool, RamFailure> {
        self.page(page).map(is_zero)
    }

    fn prefetch(&self, page: Page) {
        if let Ok(page) = self.page(page) {
            prefetch(page);
        }
    }

    fn take_dirty(&mut self, _into: &mut PageBitmap) {}
}
