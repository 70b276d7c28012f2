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
use alloc::vec::Vec;
use core::arch::asm;
use core::fmt;

use godwit_vmx::addr::{Gfn, Gpa, PAGE_SIZE};
use x86_64::PhysAddr;

use super::dirty::DirtyBitmaps;
use crate::guest_memory::{GuestMemory, NotRam};

/// Bytes of a block.
pub const BLOCK_BYTES: u64 = 2 << 20;
/// Most RAM of a guest, in bytes.
pub const RAM_BYTES_MAX: u64 = 1 << 40;
const GAP_START: u64 = 3 << 30;
const GAP_END: u64 = 4 << 30;
const VGA_START: u64 = 0xa_0000;
const VGA_END: u64 = 0xc_0000;

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
    /// A block of zeros.
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
}

impl fmt::Display for RamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(bytes) => write!(f, "{bytes} bytes of RAM are not a multiple of 2 MiB up to 1 TiB"),
            Self::OutOfMemory { wanted, available } => {
                let (wanted, available) = (wanted >> 20, available >> 20);
                write!(f, "the host has {available} MiB left for a guest that needs {wanted} MiB")
            }
        }
    }
}

impl core::error::Error for RamError {}

/// A guest's RAM.
#[derive(Debug)]
pub struct GuestRam {
    blocks: Box<[Block]>,
    release: fn(Block),
    dirty: DirtyBitmaps,
}

// SAFETY: blocks are owned by this value and touched only by copies that tolerate concurrent writes.
unsafe impl Send for GuestRam {}
// SAFETY: as above; the dirty bitmaps are atomic.
unsafe impl Sync for GuestRam {}

impl GuestRam {
    /// RAM of `bytes` bytes, all zero.
    ///
    /// # Errors
    /// [`RamError`]; nothing is kept.
    pub fn new<S: BlockSource>(source: &mut S, bytes: u64) -> Result<Self, RamError> {
        if bytes == 0 || !bytes.is_multiple_of(BLOCK_BYTES) || bytes > RAM_BYTES_MAX {
            return Err(RamError::Size(bytes));
        }
        let count = (bytes / BLOCK_BYTES) as usize;
        let mut blocks = Vec::with_capacity(count);
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
        let dirty = DirtyBitmaps::new((bytes / PAGE_SIZE) as usize);
        Ok(Self { blocks: blocks.into_boxed_slice(), release: S::release, dirty })
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
    fn range(&self, address: Gpa, length: usize) -> Result<u64, NotRam> {
        let error = NotRam { address, length };
        let first = self.offset(address).ok_or(error)?;
        if length <= 1 {
            return Ok(first);
        }
        let end = address.checked_add(length as u64 - 1).ok_or(error)?;
        let last = self.offset(end).ok_or(error)?;
        // A hole inside shifts the end or is skipped over.
        let start = address.as_u64();
        let crosses_vga = start < VGA_START && end.as_u64() >= VGA_END;
        if last - first == length as u64 - 1 && !crosses_vga { Ok(first) } else { Err(error) }
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

    /// Reads what does not lie within one page.
    #[cold]
    fn read_across(&self, address: Gpa, into: &mut [u8]) -> Result<(), NotRam> {
        let mut offset = self.range(address, into.len())?;
        let mut rest = into;
        while !rest.is_empty() {
            let error = NotRam { address, length: rest.len() };
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
    fn write_across(&self, address: Gpa, from: &[u8]) -> Result<(), NotRam> {
        let start = self.range(address, from.len())?;
        let mut offset = start;
        let mut rest = from;
        while !rest.is_empty() {
            let error = NotRam { address, length: rest.len() };
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
    fn read(&self, address: Gpa, into: &mut [u8]) -> Result<(), NotRam> {
        // The common case: a few bytes within a page.
        if address.page_offset() + into.len() as u64 <= PAGE_SIZE
            && let Some(offset) = self.offset(address)
            && let Some((pointer, _)) = self.pointer(offset)
        {
            // SAFETY: the bytes lie within one page of a block.
            unsafe { copy(pointer, into.as_mut_ptr(), into.len()) };
            return Ok(());
        }
        self.read_across(address, into)
    }

    #[inline]
    fn write(&self, address: Gpa, from: &[u8]) -> Result<(), NotRam> {
        if address.page_offset() + from.len() as u64 <= PAGE_SIZE
            && let Some(offset) = self.offset(address)
            && let Some((pointer, _)) = self.pointer(offset)
        {
            // SAFETY: the bytes lie within one page of a block.
            unsafe { copy(from.as_ptr(), pointer, from.len()) };
            self.dirty.mark((offset / PAGE_SIZE) as usize);
            return Ok(());
        }
        self.write_across(address, from)
    }

    #[inline]
    fn read_u64(&self, address: Gpa) -> Result<u64, NotRam> {
        if address.as_u64().is_multiple_of(8)
            && let Some(offset) = self.offset(address)
            && let Some((pointer, _)) = self.pointer(offset)
        {
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
    use std::alloc::{Layout, alloc_zeroed, dealloc};

    use super::*;

    /// Blocks of the host's heap.
    pub(crate) struct HeapBlocks {
        pub(crate) left: usize,
    }

    fn layout() -> Layout {
        Layout::from_size_align(BLOCK_BYTES as usize, 4096).unwrap()
    }

    impl BlockSource for HeapBlocks {
        fn allocate(&mut self) -> Option<Block> {
            self.left = self.left.checked_sub(1)?;
            // SAFETY: the layout is not empty.
            let pointer = unsafe { alloc_zeroed(layout()) };
            Some(Block { pointer, address: PhysAddr::new(0x1_0000_0000) })
        }

        fn release(block: Block) {
            // SAFETY: allocated above with the same layout.
            unsafe { dealloc(block.pointer, layout()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec;

    use proptest::prelude::*;

    use super::testing::HeapBlocks;
    use super::*;

    fn ram(blocks: u64) -> GuestRam {
        GuestRam::new(&mut HeapBlocks { left: blocks as usize }, blocks * BLOCK_BYTES).unwrap()
    }

    #[test]
    fn what_is_written_is_read_across_blocks() {
        let ram = ram(2);
        let address = Gpa::new(BLOCK_BYTES - 3);
        ram.write(address, b"godwit").unwrap();
        let mut bytes = [0; 6];
        ram.read(address, &mut bytes).unwrap();
        assert_eq!(&bytes, b"godwit");
        assert_eq!(ram.read_u64(Gpa::new(BLOCK_BYTES - 8)).unwrap().to_le_bytes()[5..], *b"god");
        assert_eq!(ram.read_u64(Gpa::new(BLOCK_BYTES - 3)).unwrap().to_le_bytes()[..6], *b"godwit");
    }

    #[test]
    fn what_is_no_ram_is_refused_whole() {
        let ram = ram(1);
        let mut bytes = [0xaa; 16];
        for address in [VGA_START - 8, VGA_START, VGA_END - 1, BLOCK_BYTES - 8, BLOCK_BYTES, u64::MAX - 4] {
            assert!(ram.read(Gpa::new(address), &mut bytes).is_err());
            assert_eq!(bytes, [0xaa; 16]);
            assert!(ram.write(Gpa::new(address), &bytes).is_err());
        }
        let mut across = vec![0; 0x4_0000];
        assert!(ram.read(Gpa::new(VGA_START - 0x1_0000), &mut across).is_err());
        assert!(ram.read(Gpa::new(VGA_END), &mut across).is_ok());
        assert!(ram.read(Gpa::new(VGA_START), &mut []).is_err());
    }

    #[test]
    fn every_write_of_the_host_is_in_the_dirty_log() {
        let ram = ram(1);
        ram.dirty().enable();
        ram.write(Gpa::new(0x1fff), &[1, 2]).unwrap();
        assert!(ram.write_page(7, &[9; 4096]));
        ram.dirty().harvest(|_| {});
        assert_eq!(ram.dirty().take_word(0), 1 << 1 | 1 << 2 | 1 << 7);
        assert!(!ram.write_page(512, &[0; 4096]));
    }

    #[test]
    fn zero_pages_are_recognised() {
        let ram = ram(1);
        assert_eq!(ram.is_zero_page(3), Some(true));
        ram.write(Gpa::new(0x3fff), &[1]).unwrap();
        assert_eq!(ram.is_zero_page(3), Some(false));
        assert_eq!(ram.is_zero_page(4), Some(true));
        assert_eq!(ram.is_zero_page(512), None);
    }

    #[test]
    fn a_host_without_memory_keeps_nothing() {
        let mut source = HeapBlocks { left: 2 };
        let error = GuestRam::new(&mut source, 3 * BLOCK_BYTES).unwrap_err();
        assert_eq!(error, RamError::OutOfMemory { wanted: 3 * BLOCK_BYTES, available: 2 * BLOCK_BYTES });
        assert!(matches!(GuestRam::new(&mut source, 12345), Err(RamError::Size(12345))));
    }

    #[test]
    fn pages_above_the_gap_go_on_counting() {
        assert_eq!(GuestRam::frame_of(0xb_ffff), Gfn::new(0xb_ffff));
        assert_eq!(GuestRam::frame_of(0xc_0000), Gfn::new(0x10_0000));
    }

    proptest! {
        #[test]
        fn any_range_is_answered(address in 0_u64..3 * BLOCK_BYTES, length in 0_usize..5000) {
            let ram = ram(2);
            let data = vec![0x5a; length];
            let mut back = vec![0; length];
            if ram.write(Gpa::new(address), &data).is_ok() {
                ram.read(Gpa::new(address), &mut back).unwrap();
                prop_assert_eq!(back, data);
            } else {
                prop_assert!(ram.read(Gpa::new(address), &mut back).is_err());
            }
        }
    }
}
