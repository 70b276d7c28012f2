//! Guest RAM as one piece of ordinary memory.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use godwit_migration::{GuestRam, PAGE_BYTES, Page, PageBitmap, PageBytes, RamFailure, is_zero};
use memmap2::{Advice, MmapMut};
use xxhash_rust::xxh64::xxh64;

use super::Failure;

/// Anonymous memory in huge pages where the kernel has them, as hypervisors map guests' RAM.
pub(crate) struct Ram(MmapMut);

impl Ram {
    /// The content of an image file.
    pub(crate) fn from_file(path: &Path) -> Result<Self, Failure> {
        let mut file = File::open(path)?;
        let bytes = usize::try_from(file.metadata()?.len())? / PAGE_BYTES * PAGE_BYTES;
        let mut ram = Self::map(bytes)?;
        file.read_exact(&mut ram.0)?;
        Ok(ram)
    }

    /// So many zero bytes that have been touched.
    pub(crate) fn zero(bytes: usize) -> Result<Self, Failure> {
        let mut ram = Self::map(bytes)?;
        for pass in [1, 0] {
            ram.0.chunks_mut(PAGE_BYTES).for_each(|page| page[0] = std::hint::black_box(pass));
        }
        Ok(ram)
    }

    fn map(bytes: usize) -> Result<Self, Failure> {
        let map = MmapMut::map_anon(bytes)?;
        // Kernels without huge pages do without.
        let _ = map.advise(Advice::HugePage);
        Ok(Self(map))
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

    fn take_dirty(&mut self, _into: &mut PageBitmap) {}
}
