#![expect(unsafe_code, reason = "frames are reached through the direct map")]
//! The host's frames, as guests' structures use them.
//!
//! SAFETY vocabulary: *an owned frame* came from the frame allocator and was not given back; it is mapped writable in the
//! direct map and nothing else in the hypervisor touches it.

use alloc::vec::Vec;

use godwit_vmx::ept::{FrameSource, Table};
use x86_64::PhysAddr;

use super::memory::{Block, BlockSource, zero};
use crate::mm::frames::{self, FRAME_SIZE, FRAMES_PER_BLOCK};
use crate::mm::{direct, heap};

/// An owned frame, given back when dropped.
#[derive(Debug)]
pub struct Frame {
    address: PhysAddr,
}

impl Frame {
    /// A frame of zeros.
    #[must_use]
    pub fn allocate() -> Option<Self> {
        let address = frames::get().allocate()?;
        // SAFETY: an owned frame.
        unsafe { zero(direct::at(address).as_mut_ptr(), FRAME_SIZE as usize) };
        Some(Self { address })
    }

    /// Its physical address.
    #[must_use]
    pub const fn address(&self) -> PhysAddr {
        self.address
    }

    /// Writes a word of 32 bits at index `index`.
    ///
    /// # Panics
    /// If the index is beyond the frame.
    pub fn write_u32(&self, index: usize, value: u32) {
        assert!(index < FRAME_SIZE as usize / 4, "index beyond a frame");
        let pointer: *mut u32 = direct::at(self.address).as_mut_ptr();
        // SAFETY: an aligned word of an owned frame.
        unsafe { pointer.wrapping_add(index).write_volatile(value) };
    }

    /// Reads a word of 64 bits at index `index`.
    ///
    /// # Panics
    /// If the index is beyond the frame.
    #[must_use]
    pub fn read_u64(&self, index: usize) -> u64 {
        assert!(index < FRAME_SIZE as usize / 8, "index beyond a frame");
        let pointer: *const u64 = direct::at(self.address).as_ptr();
        // SAFETY: an aligned word of an owned frame.
        unsafe { pointer.wrapping_add(index).read_volatile() }
    }

    /// Copies a page's worth of bytes into the frame.
    ///
    /// # Panics
    /// If there are more bytes than the frame has.
    pub fn fill(&self, words: &[u64]) {
        assert!(words.len() <= FRAME_SIZE as usize / 8, "more than a frame");
        let pointer: *mut u64 = direct::at(self.address).as_mut_ptr();
        for (index, word) in words.iter().enumerate() {
            // SAFETY: an aligned word of an owned frame.
            unsafe { pointer.wrapping_add(index).write_volatile(*word) };
        }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        frames::get().free(self.address, 1);
    }
}

/// Where the tables of one guest live: in the host's frames, some of which may be put by, so that tables that the guest's
/// own doing calls for can be had.
#[derive(Debug, Default)]
pub struct TableFrames {
    reserve: Vec<PhysAddr>,
}

impl TableFrames {
    /// Has at least `count` frames put by; whether that could be done. Those that were there before stay in any case.
    #[must_use]
    pub fn put_by(&mut self, count: usize) -> bool {
        let before = self.reserve.len();
        if self.reserve.try_reserve_exact(count.saturating_sub(before)).is_err() {
            return false;
        }
        while self.reserve.len() < count {
            match frames::get().allocate() {
                Some(frame) => self.reserve.push(frame),
                None => {
                    self.give_back(before);
                    return false;
                }
            }
        }
        true
    }

    /// Gives back what is put by, all but `kept` of it.
    pub fn give_back(&mut self, kept: usize) {
        for frame in self.reserve.drain(kept.min(self.reserve.len())..) {
            frames::get().free(frame, 1);
        }
    }
}

impl Drop for TableFrames {
    fn drop(&mut self) {
        self.give_back(0);
    }
}

impl FrameSource for TableFrames {
    fn allocate(&mut self) -> Option<PhysAddr> {
        let Some(address) = self.reserve.pop() else { return FrameSource::allocate(&mut HostFrames) };
        // SAFETY: an owned frame.
        unsafe { zero(direct::at(address).as_mut_ptr(), FRAME_SIZE as usize) };
        Some(address)
    }

    fn free(&mut self, frame: PhysAddr) {
        FrameSource::free(&mut HostFrames, frame);
    }

    #[inline]
    fn table(&self, frame: PhysAddr) -> &Table {
        table(frame)
    }
}

/// The host's frames, as EPT tables and as guests' RAM.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostFrames;

impl FrameSource for HostFrames {
    fn allocate(&mut self) -> Option<PhysAddr> {
        let frame = Frame::allocate()?;
        let address = frame.address;
        core::mem::forget(frame);
        Some(address)
    }

    fn free(&mut self, frame: PhysAddr) {
        frames::get().free(frame, 1);
    }

    #[inline]
    fn table(&self, frame: PhysAddr) -> &Table {
        table(frame)
    }
}

/// The table in `frame`: by the contract of [`FrameSource::table`], which alone calls this, an owned frame, which lives
/// as long as the tables that name it.
#[inline]
fn table<'a>(frame: PhysAddr) -> &'a Table {
    let table: *const Table = direct::at(frame).as_ptr();
    // SAFETY: see above; its words are atomics.
    unsafe { &*table }
}

impl BlockSource for HostFrames {
    fn blocks_free(&self) -> usize {
        frames::get().statistics().free_blocks as usize
    }

    fn table_bytes_free(&self) -> usize {
        heap::statistics().spare()
    }

    fn allocate(&mut self) -> Option<Block> {
        let address = frames::get().allocate_block()?;
        Some(Block { pointer: direct::at(address).as_mut_ptr(), address })
    }

    fn release(block: Block) {
        frames::get().free(block.address, FRAMES_PER_BLOCK);
    }
}

/// The same, for whoever was promised what is noted about the blocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct PromisedFrames;

impl BlockSource for PromisedFrames {
    fn blocks_free(&self) -> usize {
        HostFrames.blocks_free()
    }

    fn table_bytes_free(&self) -> usize {
        usize::MAX
    }

    fn allocate(&mut self) -> Option<Block> {
        BlockSource::allocate(&mut HostFrames)
    }

    fn release(block: Block) {
        HostFrames::release(block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_frames_than_can_be_noted_are_not_put_by() {
        let mut frames = TableFrames::default();
        assert!(!frames.put_by(usize::MAX));
        assert!(frames.put_by(0));
    }
}
