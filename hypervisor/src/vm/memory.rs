#![expect(unsafe_code, reason = "copies to and from memory that a guest writes at the same time")]
//! A guest's RAM: blocks of 2 MiB of the host's.
//!
//! SAFETY vocabulary: *a block* is 2 MiB of RAM, mapped writable at its pointer, that this value owns until it is
//! dropped. Guests write to it at any time on any CPU, so no reference into it ever exists: it is copied by
//! instructions that the compiler cannot see through.
//!
//! Guest-physical layout: RAM from 0 to 3 GiB, the rest from 4 GiB. The 128 KiB of the VGA window below 1 MiB belong to
//! nobody. Pages are numbered without the gap between 3 and 4 GiB: that is how migration counts them.

use alloc::boxed::Box;
use core::arch::asm;
use core::fmt;

use godwit_vmx::addr::{Gfn, Gpa, PAGE_SIZE};
use x86_64::PhysAddr;

use super::absent::AbsentPages;
use super::dirty::DirtyBitmaps;
use crate::guest_memory::{GuestMemory, MemoryError};

/// Bytes of a block.
pub const BLOCK_BYTES: u64 = 2 << 20;
/// Most RAM of a guest, in bytes.
pub const RAM_BYTES_MAX: u64 = 1 << 40;
/// Bytes of a cache line, and how many of them are fetched of a page that is looked at next.
const LINE_BYTES: usize = 64;
const LINES_AHEAD: usize = 16;
const GAP_START: u64 = 3 << 30;
const GAP_END: u64 = 4 << 30;
const VGA_START: u64 = 0xa_0000;
const VGA_END: u64 = 0xc_0000;

mod raw;

pub use raw::{BITMAP_BYTES_PER_BLOCK, PIECE_BYTES, RawRam};

/// A block, see the module's vocabulary.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// Where the host sees it.
    pub pointer: *mut u8,
    /// Where it is.
    pub address: PhysAddr,
}

/// Where blocks come from and go to.
pub trait BlockSource {
    /// Blocks that there are now.
    fn blocks_free(&self) -> usize;
    /// Bytes that the host's heap has to spare for a guest's tables.
    fn table_bytes_free(&self) -> usize;
    /// A block, in it whatever its last owner left.
    fn allocate(&mut self) -> Option<Block>;
    /// Takes a block back.
    fn release(block: Block)
    where
        Self: Sized;
}

/// Why a guest cannot have that much RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RamError {
    /// Nothing, not a multiple of 2 MiB, or more than [`RAM_BYTES_MAX`].
    Size(u64),
    /// The host has too little.
    OutOfMemory {
        /// Bytes asked for.
        wanted: u64,
        /// Bytes that were free for it.
        available: u64,
    },
    /// The host has no memory for what it would have to note about so many bytes.
    NoTables(u64),
}

impl fmt::Display for RamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(bytes) => write!(f, "{bytes} bytes of RAM are not a multiple of 2 MiB up to 1 TiB"),
            Self::OutOfMemory { wanted, available } => {
                let (wanted, available) = (wanted >> 20, available >> 20);
                write!(f, "the host has {available} MiB left for a guest that needs {wanted} MiB")
            }
            Self::NoTables(bytes) => {
                write!(f, "the host has no memory left for the tables of a guest of {} MiB", bytes >> 20)
            }
        }
    }
}

impl core::error::Error for RamError {}

/// A guest's RAM. There is none that was not cleared since it was another's: it is made of [`RawRam`] alone.
#[derive(Debug)]
pub struct GuestRam {
    blocks: Box<[Block]>,
    release: fn(Block),
    dirty: DirtyBitmaps,
    absent: AbsentPages,
}

// SAFETY: blocks are owned by this value and touched only by copies that tolerate concurrent writes.
unsafe impl Send for GuestRam {}
// SAFETY: as above; the bitmaps are atomic.
unsafe impl Sync for GuestRam {}

impl GuestRam {
    /// RAM of `bytes` bytes for a guest with `vcpus` processors, cleared before this returns: for a little of it, and see
    /// [`RawRam`] for much.
    ///
    /// # Errors
    /// [`RamError`]; nothing is kept.
    pub fn new<S: BlockSource>(source: &mut S, bytes: u64, vcpus: usize) -> Result<Self, RamError> {
        RawRam::take(source, bytes, vcpus).map(RawRam::cleared_at_once)
    }

    /// Size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blocks.len() as u64 * BLOCK_BYTES
    }

    /// Number of pages.
    #[must_use]
    pub fn pages(&self) -> usize {
        (self.bytes() / PAGE_SIZE) as usize
    }

    /// What was written.
    #[must_use]
    pub const fn dirty(&self) -> &DirtyBitmaps {
        &self.dirty
    }

    /// What has not come yet.
    #[must_use]
    pub const fn absent(&self) -> &AbsentPages {
        &self.absent
    }

    /// The blocks with their guest addresses, for mapping.
    pub fn blocks(&self) -> impl Iterator<Item = (Gpa, PhysAddr)> {
        (0_u64..).zip(&self.blocks).map(|(index, block)| {
            let offset = index * BLOCK_BYTES;
            let gap = if offset < GAP_START { 0 } else { GAP_END - GAP_START };
            (Gpa::new(offset + gap), block.address)
        })
    }

    /// One past the last guest-physical address that is RAM.
    #[must_use]
    pub fn end(&self) -> Gpa {
        let bytes = self.bytes();
        Gpa::new(if bytes <= GAP_START { bytes } else { bytes + (GAP_END - GAP_START) })
    }

    /// Number of the page that holds `address`, if that is RAM.
    #[must_use]
    #[inline]
    pub fn page_of(&self, address: Gpa) -> Option<usize> {
        self.offset(address).map(|offset| (offset / PAGE_SIZE) as usize)
    }

    /// The guest frame of page `page`.
    #[must_use]
    pub const fn frame_of(page: usize) -> Gfn {
        let first_above = GAP_START / PAGE_SIZE;
        let page = page as u64;
        Gfn::new(if page < first_above { page } else { page + (GAP_END - GAP_START) / PAGE_SIZE })
    }

    /// Whether `address` is one of the VGA window's, where a PC has no RAM.
    #[must_use]
    pub const fn is_vga_window(address: Gpa) -> bool {
        address.as_u64() >= VGA_START && address.as_u64() < VGA_END
    }

    /// Offset within the blocks of `address`, if that is RAM.
    #[inline]
    fn offset(&self, address: Gpa) -> Option<u64> {
        let address = address.as_u64();
        let offset = match address {
            VGA_START..VGA_END | GAP_START..GAP_END => return None,
            0..GAP_START => address,
            _ => address - (GAP_END - GAP_START),
        };
        (offset < self.bytes()).then_some(offset)
    }

    /// Offset of the first byte if all of `length` bytes from `address` on are RAM without a gap.
    #[inline]
    fn range(&self, address: Gpa, length: usize) -> Result<u64, MemoryError> {
        let error = MemoryError::NotRam { address, length };
        let first = self.offset(address).ok_or(error)?;
        if length <= 1 {
            self.check_range(first, first)?;
            return Ok(first);
        }
        let end = address.checked_add(length as u64 - 1).ok_or(error)?;
        let last = self.offset(end).ok_or(error)?;
        // A hole inside shifts the end or is skipped over.
        let start = address.as_u64();
        let crosses_vga = start < VGA_START && end.as_u64() >= VGA_END;
        if last - first != length as u64 - 1 || crosses_vga {
            return Err(error);
        }
        self.check_range(first, last)?;
        Ok(first)
    }

    /// Whether all pages from the one at offset `first` to the one at offset `last` have come.
    #[inline]
    fn check_range(&self, first: u64, last: u64) -> Result<(), MemoryError> {
        if !self.absent.is_on() {
            return Ok(());
        }
        let mut pages = (first / PAGE_SIZE..=last / PAGE_SIZE).map(|page| page as usize);
        match pages.find(|page| self.absent.is_absent(*page)) {
            Some(page) => Err(MemoryError::Absent(Self::address_of(page))),
            None => Ok(()),
        }
    }

    /// Guest-physical address of page `page`.
    #[must_use]
    pub const fn address_of(page: usize) -> Gpa {
        Gpa::new(Self::frame_of(page).as_u64() * PAGE_SIZE)
    }

    /// Where the host has page `page`, for mapping; `None` if there is no such page, or a PC has no RAM there.
    #[must_use]
    pub fn backing(&self, page: usize) -> Option<PhysAddr> {
        let offset = page as u64 * PAGE_SIZE;
        let block = self.blocks.get((offset / BLOCK_BYTES) as usize)?;
        let is_hidden = Self::is_vga_window(Self::address_of(page));
        (!is_hidden).then(|| PhysAddr::new(block.address.as_u64() + offset % BLOCK_BYTES))
    }

    /// The host's pointer to `offset` and how many bytes follow in the block.
    #[inline]
    fn pointer(&self, offset: u64) -> Option<(*mut u8, usize)> {
        let block = self.blocks.get((offset / BLOCK_BYTES) as usize)?;
        let within = (offset % BLOCK_BYTES) as usize;
        Some((block.pointer.wrapping_add(within), BLOCK_BYTES as usize - within))
    }

    /// Copies page `page` out; `false` if there is no such page.
    #[must_use]
    pub fn read_page(&self, page: usize, into: &mut [u8; PAGE_SIZE as usize]) -> bool {
        let Some((pointer, _)) = self.pointer(page as u64 * PAGE_SIZE) else { return false };
        // SAFETY: the page lies within a block; `into` is a page of the host's.
        unsafe { copy(pointer, into.as_mut_ptr(), into.len()) };
        true
    }

    /// Replaces page `page` and marks it dirty; `false` if there is no such page.
    #[must_use]
    pub fn write_page(&self, page: usize, from: &[u8; PAGE_SIZE as usize]) -> bool {
        let Some((pointer, _)) = self.pointer(page as u64 * PAGE_SIZE) else { return false };
        // SAFETY: the page lies within a block; `from` is a page of the host's.
        unsafe { copy(from.as_ptr(), pointer, from.len()) };
        self.dirty.mark(page);
        true
    }

    /// Whether page `page` is all zeros; `None` if there is no such page.
    #[must_use]
    pub fn is_zero_page(&self, page: usize) -> Option<bool> {
        let (pointer, _) = self.pointer(page as u64 * PAGE_SIZE)?;
        // SAFETY: the page lies within a block and is a multiple of 8 bytes, aligned.
        Some(unsafe { is_zero(pointer, PAGE_SIZE as usize) })
    }

    /// Has the processor fetch the beginning of page `page` into its caches, if there is such a page.
    pub fn prefetch_page(&self, page: usize) {
        let Some((pointer, _)) = self.pointer(page as u64 * PAGE_SIZE) else { return };
        for line in 0..LINES_AHEAD {
            let address = pointer.wrapping_add(line * LINE_BYTES);
            // SAFETY: a prefetch changes nothing that a program sees, and never faults.
            unsafe { asm!("prefetcht0 [{}]", in(reg) address, options(nostack, preserves_flags, readonly)) };
        }
    }

    /// Reads what does not lie within one page.
    #[cold]
    fn read_across(&self, address: Gpa, into: &mut [u8]) -> Result<(), MemoryError> {
        let mut offset = self.range(address, into.len())?;
        let mut rest = into;
        while !rest.is_empty() {
            let error = MemoryError::NotRam { address, length: rest.len() };
            let (pointer, room) = self.pointer(offset).ok_or(error)?;
            let (now, later) = rest.split_at_mut(room.min(rest.len()));
            // SAFETY: `now` is no longer than what follows `pointer` in its block.
            unsafe { copy(pointer, now.as_mut_ptr(), now.len()) };
            offset += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// Writes what does not lie within one page.
    #[cold]
    fn write_across(&self, address: Gpa, from: &[u8]) -> Result<(), MemoryError> {
        let start = self.range(address, from.len())?;
        let mut offset = start;
        let mut rest = from;
        while !rest.is_empty() {
            let error = MemoryError::NotRam { address, length: rest.len() };
            let (pointer, room) = self.pointer(offset).ok_or(error)?;
            let (now, later) = rest.split_at(room.min(rest.len()));
            // SAFETY: `now` is no longer than what follows `pointer` in its block.
            unsafe { copy(now.as_ptr(), pointer, now.len()) };
            offset += now.len() as u64;
            rest = later;
        }
        self.mark(start, from.len());
        Ok(())
    }

    /// Marks every page that the range touches.
    fn mark(&self, offset: u64, length: usize) {
        if !self.dirty.is_enabled() || length == 0 {
            return;
        }
        let first = offset / PAGE_SIZE;
        let last = (offset + length as u64 - 1) / PAGE_SIZE;
        for page in first..=last {
            self.dirty.mark(page as usize);
        }
    }
}

impl Drop for GuestRam {
    fn drop(&mut self) {
        for block in &self.blocks {
            (self.release)(*block);
        }
    }
}

impl GuestMemory for GuestRam {
    #[inline]
    fn read(&self, address: Gpa, into: &mut [u8]) -> Result<(), MemoryError> {
        // The common case: a few bytes within a page.
        if address.page_offset() + into.len() as u64 <= PAGE_SIZE
            && let Some(offset) = self.offset(address)
            && let Some((pointer, _)) = self.pointer(offset)
        {
            self.check_range(offset, offset)?;
            // SAFETY: the bytes lie within one page of a block.
            unsafe { copy(pointer, into.as_mut_ptr(), into.len()) };
            return Ok(());
        }
        self.read_across(address, into)
    }

    #[inline]
    fn write(&self, address: Gpa, from: &[u8]) -> Result<(), MemoryError> {
        if address.page_offset() + from.len() as u64 <= PAGE_SIZE
            && let Some(offset) = self.offset(address)
            && let Some((pointer, _)) = self.pointer(offset)
        {
            self.check_range(offset, offset)?;
            // SAFETY: the bytes lie within one page of a block.
            unsafe { copy(from.as_ptr(), pointer, from.len()) };
            self.dirty.mark((offset / PAGE_SIZE) as usize);
            return Ok(());
        }
        self.write_across(address, from)
    }

    #[inline]
    fn contains(&self, address: Gpa) -> bool {
        self.offset(address).is_some()
    }

    fn check_present(&self, address: Gpa) -> Result<(), MemoryError> {
        match self.offset(address) {
            Some(offset) => self.check_range(offset, offset),
            None => Ok(()),
        }
    }

    #[inline]
    fn read_u64(&self, address: Gpa) -> Result<u64, MemoryError> {
        if address.as_u64().is_multiple_of(8)
            && let Some(offset) = self.offset(address)
            && let Some((pointer, _)) = self.pointer(offset)
        {
            self.check_range(offset, offset)?;
            // SAFETY: eight aligned bytes of a block, read in one access.
            return Ok(unsafe { pointer.cast::<u64>().read_volatile() });
        }
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// Copies `length` bytes.
///
/// # Safety
/// Both ranges are mapped, the target is writable and they do not overlap; only one of them is a guest's.
#[inline]
unsafe fn copy(from: *const u8, to: *mut u8, length: usize) {
    // SAFETY: by the caller's contract; the direction flag is clear in the System V ABI.
    unsafe {
        asm!(
            "mov rax, rcx",
            "shr rcx, 3",
            "rep movsq",
            "mov ecx, eax",
            "and ecx, 7",
            "rep movsb",
            inout("rcx") length => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            out("rax") _,
            options(nostack),
        );
    }
}

/// Fills `length` bytes, a multiple of 8, with zeros.
///
/// # Safety
/// The range is mapped and writable.
pub unsafe fn zero(at: *mut u8, length: usize) {
    // SAFETY: by the caller's contract; the direction flag is clear in the System V ABI.
    unsafe {
        asm!(
            "rep stosq",
            inout("rcx") length / 8 => _,
            inout("rdi") at => _,
            in("rax") 0_u64,
            options(nostack),
        );
    }
}

/// Stores of 8 bytes in a row in [`clear`]: so many that the loop around them costs nothing, counted in instructions either.
const STORES: usize = 128;

/// Fills `length` bytes, a multiple of 1024 and not 0, with zeros, past the caches: for much memory that takes half the time
/// of `rep stos`, and the caches keep what they hold for others.
///
/// # Safety
/// The range is mapped, writable and aligned to 8.
unsafe fn clear(at: *mut u8, length: usize) {
    debug_assert!(length > 0 && length.is_multiple_of(8 * STORES));
    // SAFETY: by the caller's contract. The fence orders these stores before those that tell another CPU of them.
    unsafe {
        asm!(
            "2:",
            ".set godwit_offset, 0",
            ".rept {stores}",
            "movnti [{at} + godwit_offset], {zero}",
            ".set godwit_offset, godwit_offset + 8",
            ".endr",
            "add {at}, 8 * {stores}",
            "dec {left}",
            "jnz 2b",
            "sfence",
            stores = const STORES,
            at = inout(reg) at => _,
            left = inout(reg) length / (8 * STORES) => _,
            zero = in(reg) 0_u64,
            options(nostack),
        );
    }
}

/// Whether `length` bytes, a multiple of 8, are all zero.
///
/// # Safety
/// The range is mapped and `at` is aligned to 8.
unsafe fn is_zero(at: *const u8, length: usize) -> bool {
    let different: u8;
    // SAFETY: by the caller's contract; the direction flag is clear in the System V ABI.
    unsafe {
        asm!(
            "xor eax, eax",
            "repe scasq",
            "setne {different}",
            different = out(reg_byte) different,
            inout("rcx") length / 8 => _,
            inout("rdi") at => _,
            out("rax") _,
            options(nostack, readonly),
        );
    }
    different == 0
}

#[cfg(test)]
pub(crate) mod testing {
    use std::alloc::{Layout, alloc, dealloc};

    use super::*;

    /// What an earlier owner has left in each byte of a block.
    pub(crate) const LEFT_BEHIND: u8 = 0xa5;

    /// Blocks of the host's heap.
    pub(crate) struct HeapBlocks {
        pub(crate) left: usize,
    }

    fn layout() -> Layout {
        Layout::from_size_align(BLOCK_BYTES as usize, 4096).unwrap()
    }

    impl BlockSource for HeapBlocks {
        fn blocks_free(&self) -> usize {
            self.left
        }

        fn table_bytes_free(&self) -> usize {
            usize::MAX
        }

        fn allocate(&mut self) -> Option<Block> {
            self.left = self.left.checked_sub(1)?;
            // SAFETY: the layout is not empty.
            let pointer = unsafe { alloc(layout()) };
            assert!(!pointer.is_null());
            // SAFETY: all of it was just allocated.
            unsafe { pointer.write_bytes(LEFT_BEHIND, BLOCK_BYTES as usize) };
            Some(Block { pointer, address: PhysAddr::new(0x1_0000_0000) })
        }

        fn release(block: Block) {
            // SAFETY: allocated above with the same layout.
            unsafe { dealloc(block.pointer, layout()) };
        }
    }
}

#[cfg(test)]
mod tests;
