#![expect(unsafe_code, reason = "clears memory that nobody else has")]
//! RAM that a guest is to have and that still holds what its last owner left.
//!
//! [`GuestRam`] comes from here and from nowhere else, and only when every byte of it has been cleared: what one guest
//! leaves another never reads. That takes seconds for a large guest, so it is done in pieces, and whoever does it says
//! after each whether there is time for another.
//!
//! The SAFETY vocabulary is that of [`super`].

use alloc::vec::Vec;

use godwit_vmx::addr::PAGE_SIZE;

use super::{BLOCK_BYTES, Block, BlockSource, GuestRam, RAM_BYTES_MAX, RamError, clear};
use crate::vm::absent::AbsentPages;
use crate::vm::dirty::DirtyBitmaps;

/// Bytes that are cleared, or copied, between two looks at the clock: some ten microseconds. A block is a multiple.
pub const PIECE_BYTES: u64 = 64 << 10;

/// Bytes of the heap that the bitmaps over a block take: two of the dirty log, one of absent pages.
pub const BITMAP_BYTES_PER_BLOCK: usize = 3 * (BLOCK_BYTES / PAGE_SIZE / 8) as usize;

/// Bytes of the heap that [`GuestRam`] takes for `blocks` blocks.
const fn table_bytes(blocks: usize, vcpus: usize) -> usize {
    blocks * (BITMAP_BYTES_PER_BLOCK + size_of::<Block>()) + vcpus * size_of::<u64>()
}

/// See the module.
#[derive(Debug)]
pub struct RawRam {
    ram: GuestRam,
    /// Bytes from the beginning that are zero, a multiple of [`PIECE_BYTES`].
    cleared: u64,
}

impl RawRam {
    /// Takes `bytes` bytes for a guest with `vcpus` processors.
    ///
    /// # Errors
    /// [`RamError`]; nothing is kept.
    pub fn take<S: BlockSource>(source: &mut S, bytes: u64, vcpus: usize) -> Result<Self, RamError> {
        if bytes == 0 || !bytes.is_multiple_of(BLOCK_BYTES) || bytes > RAM_BYTES_MAX {
            return Err(RamError::Size(bytes));
        }
        let count = (bytes / BLOCK_BYTES) as usize;
        let pages = (bytes / PAGE_SIZE) as usize;
        // Nothing is allocated before it is known to be there: a peer may have chosen the size.
        if source.blocks_free() < count {
            let available = source.blocks_free() as u64 * BLOCK_BYTES;
            return Err(RamError::OutOfMemory { wanted: bytes, available });
        }
        if source.table_bytes_free() < table_bytes(count, vcpus) {
            return Err(RamError::NoTables(bytes));
        }
        let no_tables = |_| RamError::NoTables(bytes);
        let dirty = DirtyBitmaps::new(pages).map_err(no_tables)?;
        let absent = AbsentPages::new(pages, vcpus).map_err(no_tables)?;
        let mut blocks = Vec::new();
        blocks.try_reserve_exact(count).map_err(no_tables)?;
        for _ in 0..count {
            match source.allocate() {
                Some(block) => blocks.push(block),
                None => {
                    let available = blocks.len() as u64 * BLOCK_BYTES;
                    blocks.into_iter().for_each(S::release);
                    return Err(RamError::OutOfMemory { wanted: bytes, available });
                }
            }
        }
        let ram = GuestRam { blocks: blocks.into_boxed_slice(), release: S::release, dirty, absent };
        Ok(Self { ram, cleared: 0 })
    }

    /// Size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.ram.bytes()
    }

    /// Bytes that are cleared.
    #[must_use]
    pub const fn cleared(&self) -> u64 {
        self.cleared
    }

    /// Whether all of it is.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.cleared == self.bytes()
    }

    /// Clears a piece, and then others for as long as there are some and `is_over` says no.
    pub fn clear(&mut self, mut is_over: impl FnMut() -> bool) {
        while let Some((pointer, _)) = self.ram.pointer(self.cleared) {
            // SAFETY: a piece does not reach beyond its block, and nobody has seen the block since it was taken.
            unsafe { clear(pointer, PIECE_BYTES as usize) };
            self.cleared += PIECE_BYTES;
            if is_over() {
                return;
            }
        }
    }

    /// The guest's RAM, all zero.
    ///
    /// # Errors
    /// The same if not all of it is clear.
    pub fn into_clear(self) -> Result<GuestRam, Self> {
        if self.is_clear() { Ok(self.ram) } else { Err(self) }
    }

    /// The guest's RAM, of which all that is left is cleared now.
    pub(super) fn cleared_at_once(mut self) -> GuestRam {
        self.clear(|| false);
        self.ram
    }
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::super::testing::{HeapBlocks, LEFT_BEHIND};
    use super::*;

    fn raw(blocks: u64) -> RawRam {
        RawRam::take(&mut HeapBlocks { left: blocks as usize }, blocks * BLOCK_BYTES, 1).unwrap()
    }

    /// The byte in every page of `ram`, the VGA window's too, that is in the same place in all of them.
    fn bytes(ram: &GuestRam, offset: usize) -> vec::Vec<u8> {
        let mut page = [0; PAGE_SIZE as usize];
        let pages = 0..ram.pages();
        pages.map(|number| if ram.read_page(number, &mut page) { page[offset] } else { 1 }).collect()
    }

    #[test]
    fn no_byte_of_an_earlier_owner_is_left() {
        let mut raw = raw(2);
        assert!(bytes(&raw.ram, 0).iter().all(|byte| *byte == LEFT_BEHIND));
        while !raw.is_clear() {
            raw.clear(|| true);
        }
        let ram = raw.into_clear().unwrap();
        assert!((0..ram.pages()).all(|page| ram.is_zero_page(page) == Some(true)));
    }

    #[test]
    fn what_is_not_clear_is_nobody_s() {
        let mut raw = raw(1);
        raw.clear(|| true);
        assert_eq!(raw.cleared(), PIECE_BYTES);
        let mut raw = raw.into_clear().unwrap_err();
        assert_eq!(bytes(&raw.ram, 4095)[15..17], [0, LEFT_BEHIND], "as far as it said and no further");
        raw.clear(|| false);
        assert!(raw.into_clear().is_ok());
    }

    #[test]
    fn the_clock_is_looked_at_after_each_piece_and_a_portion_is_never_empty() {
        let mut raw = raw(1);
        let mut looks = 0;
        raw.clear(|| {
            looks += 1;
            looks == 3
        });
        assert_eq!((looks, raw.cleared()), (3, 3 * PIECE_BYTES));
        raw.clear(|| true);
        assert_eq!(raw.cleared(), 4 * PIECE_BYTES, "however late it is");
        raw.clear(|| false);
        raw.clear(|| panic!("there is nothing left to do"));
        assert_eq!(raw.cleared(), BLOCK_BYTES);
    }

    #[test]
    fn a_piece_fits_into_a_block() {
        assert!(BLOCK_BYTES.is_multiple_of(PIECE_BYTES) && PIECE_BYTES.is_multiple_of(PAGE_SIZE));
    }
}
