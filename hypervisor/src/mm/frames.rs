//! Which frames of RAM are free.
//!
//! One [`Chunk`] describes 2 MiB. Single frames come from chunks that are already broken, so that whole chunks
//! stay available for guests' RAM. One pool serves all memory nodes for now; a pool per node is one `Frames`
//! per node.

use godwit_boot::handoff::Region;
use spin::Once;
use x86_64::PhysAddr;

use crate::sync::{Guard, Level, Lock};

/// Bytes of a frame.
pub const FRAME_SIZE: u64 = 4096;
/// Bytes of a block: what a large page maps.
pub const BLOCK_SIZE: u64 = 2 << 20;
/// Frames in a block.
pub const FRAMES_PER_BLOCK: usize = (BLOCK_SIZE / FRAME_SIZE) as usize;

const WORDS: usize = FRAMES_PER_BLOCK / 64;
const FOUR_GIB: u64 = 1 << 32;

/// Which frames of one block are free: a set bit is a free frame.
#[derive(Clone, Copy, Debug)]
pub struct Chunk {
    free: u16,
    bits: [u64; WORDS],
}

impl Chunk {
    /// A block without a free frame.
    pub const NONE: Self = Self { free: 0, bits: [0; WORDS] };

    /// A block with all its frames free.
    const WHOLE: Self = Self { free: FRAMES_PER_BLOCK as u16, bits: [u64::MAX; WORDS] };

    fn is_whole(&self) -> bool {
        usize::from(self.free) == FRAMES_PER_BLOCK
    }

    fn is_free(&self, frame: usize) -> bool {
        self.bits[frame / 64] & (1 << (frame % 64)) != 0
    }

    fn set_free(&mut self, frame: usize) {
        assert!(!self.is_free(frame), "frame freed twice");
        self.bits[frame / 64] |= 1 << (frame % 64);
        self.free += 1;
    }

    fn set_used(&mut self, frame: usize) {
        assert!(self.is_free(frame), "frame is not free");
        self.bits[frame / 64] &= !(1 << (frame % 64));
        self.free -= 1;
    }

    fn first_free(&self) -> Option<usize> {
        let word = self.bits.iter().position(|&word| word != 0)?;
        Some(word * 64 + self.bits[word].trailing_zeros() as usize)
    }
}

/// How much RAM there is, in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Frames that were ever given to the allocator.
    pub total: u64,
    /// Frames that are free.
    pub free: u64,
    /// Whole free blocks.
    pub free_blocks: u64,
}

/// The free frames of a range of physical addresses that starts at 0.
#[derive(Debug)]
pub struct Frames {
    chunks: &'static mut [Chunk],
    /// No chunk below this one is broken and has a free frame.
    broken_hint: usize,
    /// No chunk at or above this one is whole.
    whole_end: usize,
    total: u64,
    free: u64,
    /// Chunks that are whole.
    whole: u64,
}

impl Frames {
    /// No free frames; room to describe `chunks.len()` blocks from physical address 0.
    #[must_use]
    pub fn new(chunks: &'static mut [Chunk]) -> Self {
        chunks.fill(Chunk::NONE);
        Self { chunks, broken_hint: 0, whole_end: 0, total: 0, free: 0, whole: 0 }
    }

    /// Adds the whole frames of `start..end` as free. What lies beyond the range described is left out.
    pub fn add(&mut self, start: PhysAddr, end: PhysAddr) {
        let first = start.as_u64().div_ceil(FRAME_SIZE).max(1);
        let last = (end.as_u64() / FRAME_SIZE).min((self.chunks.len() * FRAMES_PER_BLOCK) as u64);
        let mut frame = first;
        while frame < last {
            let count = self.put_some(frame, last);
            self.total += count;
            frame += count;
        }
    }

    /// A frame, its content undefined.
    #[must_use]
    pub fn allocate(&mut self) -> Option<PhysAddr> {
        let broken = (self.broken_hint..self.chunks.len())
            .find(|&chunk| self.chunks[chunk].free > 0 && !self.chunks[chunk].is_whole());
        self.broken_hint = broken.unwrap_or(self.chunks.len());
        let chunk = match broken {
            Some(chunk) => chunk,
            None => self.highest_whole()?,
        };
        let frame = self.chunks[chunk].first_free()?;
        self.broken_hint = chunk;
        self.take(chunk * FRAMES_PER_BLOCK + frame);
        Some(address(chunk * FRAMES_PER_BLOCK + frame))
    }

    /// A block, aligned to its size, its content undefined. The highest come first, since devices with 32-bit
    /// addressing need the low ones.
    #[must_use]
    pub fn allocate_block(&mut self) -> Option<PhysAddr> {
        let chunk = self.highest_whole()?;
        self.chunks[chunk] = Chunk::NONE;
        self.whole -= 1;
        self.free -= FRAMES_PER_BLOCK as u64;
        Some(address(chunk * FRAMES_PER_BLOCK))
    }

    /// `count` contiguous frames that end at or below `limit`, their content undefined.
    #[must_use]
    pub fn allocate_contiguous(&mut self, count: usize, limit: u64) -> Option<PhysAddr> {
        self.allocate_between(count, 0, limit)
    }

    /// `count` contiguous frames that no device needs to reach: above 4 GiB if there are such.
    #[must_use]
    pub fn allocate_for_host(&mut self, count: usize) -> Option<PhysAddr> {
        let high = self.allocate_between(count, FOUR_GIB, u64::MAX);
        high.or_else(|| self.allocate_contiguous(count, u64::MAX))
    }

    fn allocate_between(&mut self, count: usize, floor: u64, limit: u64) -> Option<PhysAddr> {
        let end = (limit / FRAME_SIZE).min((self.chunks.len() * FRAMES_PER_BLOCK) as u64) as usize;
        let mut run = 0;
        let mut frame = floor.div_ceil(FRAME_SIZE) as usize;
        while frame < end {
            let chunk = &self.chunks[frame / FRAMES_PER_BLOCK];
            if chunk.free == 0 {
                run = 0;
                frame = (frame / FRAMES_PER_BLOCK + 1) * FRAMES_PER_BLOCK;
                continue;
            }
            run = if chunk.is_free(frame % FRAMES_PER_BLOCK) { run + 1 } else { 0 };
            frame += 1;
            if run == count {
                (frame - count..frame).for_each(|frame| self.take(frame));
                return Some(address(frame - count));
            }
        }
        None
    }

    /// `count` contiguous frames below 4 GiB, where every device reaches them.
    #[must_use]
    pub fn allocate_for_device(&mut self, count: usize) -> Option<PhysAddr> {
        self.allocate_contiguous(count, FOUR_GIB)
    }

    /// Gives `count` frames from `start` back.
    ///
    /// # Panics
    /// If one of them is free already or was never added: the owner has lost track.
    pub fn free(&mut self, start: PhysAddr, count: usize) {
        let first = start.as_u64() / FRAME_SIZE;
        let end = first + count as u64;
        let mut frame = first;
        while frame < end {
            frame += self.put_some(frame, end);
        }
    }

    /// How much there is and how much of it is free.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        Statistics { total: self.total, free: self.free, free_blocks: self.whole }
    }

    /// The highest chunk that is whole. Whoever takes from it leaves none at or above it, so that the blocks of a guest cost
    /// one pass over the chunks in all.
    fn highest_whole(&mut self) -> Option<usize> {
        let found = self.chunks[..self.whole_end].iter().rposition(Chunk::is_whole);
        self.whole_end = found.map_or(0, |chunk| chunk + 1);
        found
    }

    /// Gives the block from `frame` on back if it ends at or before `end`, else `frame` alone; returns how many.
    fn put_some(&mut self, frame: u64, end: u64) -> u64 {
        let block = FRAMES_PER_BLOCK as u64;
        if frame.is_multiple_of(block) && end - frame >= block {
            self.put_block(frame)
        } else {
            self.put(frame)
        }
    }

    /// Gives the block from `frame` on back, and returns its number of frames.
    fn put_block(&mut self, frame: u64) -> u64 {
        let chunk = &mut self.chunks[frame as usize / FRAMES_PER_BLOCK];
        assert_eq!(chunk.free, 0, "frame freed twice");
        *chunk = Chunk::WHOLE;
        self.whole += 1;
        self.whole_end = self.whole_end.max(frame as usize / FRAMES_PER_BLOCK + 1);
        self.free += FRAMES_PER_BLOCK as u64;
        FRAMES_PER_BLOCK as u64
    }

    /// Gives `frame` back, and returns 1.
    fn put(&mut self, frame: u64) -> u64 {
        let chunk = frame as usize / FRAMES_PER_BLOCK;
        self.chunks[chunk].set_free(frame as usize % FRAMES_PER_BLOCK);
        self.broken_hint = self.broken_hint.min(chunk);
        if self.chunks[chunk].is_whole() {
            self.whole += 1;
            self.whole_end = self.whole_end.max(chunk + 1);
        }
        self.free += 1;
        1
    }

    fn take(&mut self, frame: usize) {
        let chunk = &mut self.chunks[frame / FRAMES_PER_BLOCK];
        self.whole -= u64::from(chunk.is_whole());
        chunk.set_used(frame % FRAMES_PER_BLOCK);
        self.free -= 1;
    }
}

fn address(frame: usize) -> PhysAddr {
    PhysAddr::new_truncate(frame as u64 * FRAME_SIZE)
}

static FRAMES: Once<Lock<Frames>> = Once::new();

/// Chunks needed to describe all usable RAM in `map`.
#[must_use]
pub fn chunks_needed(map: &[Region]) -> usize {
    let end = map.iter().filter(|region| region.kind.is_ram()).map(|region| region.range.end()).max();
    end.unwrap_or(0).div_ceil(BLOCK_SIZE) as usize
}

/// Makes `frames` the host's free frames. Later calls change nothing.
pub fn initialise(frames: Frames) {
    FRAMES.call_once(|| Lock::new(Level::Frames, frames));
}

/// The host's free frames.
///
/// # Panics
/// Before [`initialise`].
pub fn get() -> Guard<'static, Frames> {
    FRAMES.get().expect("frames are set up first during bring-up").lock()
}

#[cfg(test)]
pub(super) mod testing {
    use std::boxed::Box;
    use std::vec;

    use super::*;

    /// The free frames of so many blocks.
    pub(in super::super) fn frames(blocks: usize) -> Frames {
        without(blocks, |_| false)
    }

    /// The same, but for those blocks that are not there.
    pub(in super::super) fn without(blocks: usize, is_missing: impl Fn(usize) -> bool) -> Frames {
        let mut frames = Frames::new(Box::leak(vec![Chunk::NONE; blocks].into_boxed_slice()));
        for block in (0..blocks).filter(|block| !is_missing(*block)) {
            let start = block as u64 * BLOCK_SIZE;
            frames.add(PhysAddr::new(start), PhysAddr::new(start + BLOCK_SIZE));
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::testing::{frames, without};
    use super::*;

    #[test]
    fn the_host_leaves_to_devices_what_they_reach_if_there_is_more() {
        let low = (FOUR_GIB / BLOCK_SIZE) as usize;
        let mut large = without(low + 2, |block| (3..low).contains(&block));
        assert_eq!(large.allocate_for_host(1024), Some(PhysAddr::new(FOUR_GIB)));
        assert_eq!(large.allocate_for_host(1024), Some(PhysAddr::new(FRAME_SIZE)));
        assert_eq!(large.allocate_for_host(1024), None);
    }

    #[test]
    fn frame_zero_is_never_given_out() {
        let mut frames = frames(1);
        let given: BTreeSet<_> = core::iter::from_fn(|| frames.allocate()).collect();
        assert_eq!(given.len(), 511);
        assert!(!given.contains(&PhysAddr::zero()));
        assert_eq!(frames.statistics(), Statistics { total: 511, free: 0, free_blocks: 0 });
    }

    #[test]
    fn single_frames_leave_whole_blocks_alone() {
        let mut frames = frames(4);
        for _ in 0..511 {
            assert!(frames.allocate().is_some());
        }
        assert_eq!(frames.statistics().free_blocks, 3);
    }

    #[test]
    fn a_block_is_aligned_and_comes_back() {
        let mut frames = frames(3);
        let block = frames.allocate_block().unwrap();
        assert!(block.is_aligned(BLOCK_SIZE));
        assert_eq!(frames.statistics().free_blocks, 1);
        frames.free(block, FRAMES_PER_BLOCK);
        assert_eq!(frames.statistics().free_blocks, 2);
    }

    #[test]
    fn contiguous_frames_respect_the_limit_and_span_blocks() {
        let mut frames = frames(4);
        let start = frames.allocate_contiguous(600, 3 * BLOCK_SIZE).unwrap();
        assert!(start.as_u64() + 600 * FRAME_SIZE <= 3 * BLOCK_SIZE);
        assert!(frames.allocate_contiguous(600, 2 * BLOCK_SIZE).is_none());
        frames.free(start, 600);
        assert_eq!(frames.statistics().free, 4 * 512 - 1);
    }

    #[test]
    fn a_freed_frame_is_found_again() {
        let mut frames = frames(2);
        let all: Vec<_> = core::iter::from_fn(|| frames.allocate()).collect();
        frames.free(all[700], 1);
        assert_eq!(frames.allocate(), Some(all[700]));
        assert_eq!(frames.allocate(), None);
    }

    #[test]
    #[should_panic(expected = "freed twice")]
    fn freeing_twice_is_noticed() {
        let mut frames = frames(1);
        let frame = frames.allocate().unwrap();
        frames.free(frame, 1);
        frames.free(frame, 1);
    }

    /// Every block is looked at once, not once for each block above it.
    #[test]
    fn a_search_for_a_block_begins_below_the_one_before() {
        let mut frames = frames(64);
        for below in (1..64).rev() {
            assert_eq!(frames.allocate_block(), Some(PhysAddr::new(below * BLOCK_SIZE)));
            assert!(frames.whole_end <= below as usize + 1);
        }
        assert_eq!(frames.allocate_block(), None, "frame zero is missing from the lowest");
        assert_eq!(frames.whole_end, 0);
        frames.free(PhysAddr::new(40 * BLOCK_SIZE), FRAMES_PER_BLOCK);
        assert_eq!(frames.allocate_block(), Some(PhysAddr::new(40 * BLOCK_SIZE)));
    }

    proptest! {
        #[test]
        fn the_highest_whole_block_is_found_whatever_came_before(
            steps in proptest::collection::vec((0_u8..5, any::<prop::sample::Index>()), 0..200),
        ) {
            let mut frames = frames(6);
            let mut given: Vec<(PhysAddr, usize)> = Vec::new();
            for (kind, choice) in steps {
                let taken = match kind {
                    0 => {
                        let highest = frames.chunks.iter().rposition(Chunk::is_whole);
                        let block = frames.allocate_block();
                        prop_assert_eq!(block, highest.map(|chunk| address(chunk * FRAMES_PER_BLOCK)));
                        block.map(|block| (block, FRAMES_PER_BLOCK))
                    }
                    1 => frames.allocate().map(|frame| (frame, 1)),
                    2 => frames.allocate_contiguous(700, u64::MAX).map(|start| (start, 700)),
                    _ if given.is_empty() => None,
                    _ => {
                        let (start, count) = given.swap_remove(choice.index(given.len()));
                        frames.free(start, count);
                        None
                    }
                };
                given.extend(taken);
                let whole = frames.chunks.iter().filter(|chunk| chunk.is_whole()).count();
                prop_assert_eq!(frames.statistics().free_blocks, whole as u64);
                let out: usize = given.iter().map(|(_, count)| count).sum();
                prop_assert_eq!(frames.statistics().free, frames.statistics().total - out as u64);
            }
        }
    }
}
