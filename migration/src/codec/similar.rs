//! Finds a page at the target that is like one to be sent: pages are indexed by the hashes of two small
//! blocks, so a copy with a few changed bytes is found by a block that has none. What is found is a guess; the
//! caller compares content.

use alloc::vec::Vec;

use crate::ram::{Page, PageBytes, RamFailure};

/// Bytes of a block.
const BLOCK_BYTES: usize = 64;
/// Where the blocks lie.
const BLOCKS: [usize; 2] = [1344, 2752];
const SLOTS_MIN: usize = 1 << 10;
const SLOTS_MAX: usize = 1 << 20;

/// The hashes of a page's blocks; 0 for one that says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Features([u64; BLOCKS.len()]);

impl Features {
    pub(crate) fn of(page: &PageBytes) -> Self {
        Self(BLOCKS.map(|at| hash(&page[at..at + BLOCK_BYTES])))
    }
}

/// The hash of a block, 0 if all its words are the same.
fn hash(block: &[u8]) -> u64 {
    let (words, _) = block.as_chunks::<8>();
    let first = u64::from_le_bytes(words[0]);
    let (mut mix, mut differences) = (first, 0);
    for word in &words[1..] {
        let word = u64::from_le_bytes(*word);
        differences |= word ^ first;
        mix = (mix.rotate_left(29) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    if differences == 0 { 0 } else { (mix ^ (mix >> 29)).wrapping_mul(0xd6e8_feb8_6659_fd93) | 1 }
}

/// Which pages at the target have which blocks. Bounded and forgetful: a newer page replaces an older one.
#[derive(Debug)]
pub(crate) struct SimilarIndex {
    /// Tag in the high half, page number + 1 in the low one; 0 is free.
    slots: Vec<u64>,
    shift: u32,
}

impl SimilarIndex {
    fn slots_for(page_count: u32) -> usize {
        (page_count as usize * 2).next_power_of_two().clamp(SLOTS_MIN, SLOTS_MAX)
    }

    /// Bytes of the heap that one of so many pages takes.
    pub(crate) fn bytes_for(page_count: u32) -> u64 {
        Self::slots_for(page_count) as u64 * size_of::<u64>() as u64
    }

    /// Bytes of the heap that it has.
    pub(crate) const fn bytes(&self) -> u64 {
        (self.slots.capacity() * size_of::<u64>()) as u64
    }

    pub(crate) fn new(page_count: u32) -> Result<Self, RamFailure> {
        let count = Self::slots_for(page_count);
        let mut slots = Vec::new();
        slots.try_reserve_exact(count).map_err(|_| RamFailure::OutOfMemory(Page(0)))?;
        slots.resize(count, 0);
        Ok(Self { slots, shift: 64 - count.trailing_zeros() })
    }

    /// A page at the target that shares a block, other than those in `not`.
    pub(crate) fn candidates(&self, features: &Features) -> impl Iterator<Item = Page> + use<'_> {
        let features = features.0;
        let mut last = None;
        features.into_iter().filter_map(move |hash| {
            let slot = self.slots[self.slot(hash)];
            let is_hit = hash != 0 && slot != 0 && slot >> 32 == hash & 0xffff_ffff;
            let page = is_hit.then_some(Page((slot as u32).wrapping_sub(1)));
            if page.is_none() || page == last {
                return None;
            }
            last = page;
            page
        })
    }

    /// `page` has these blocks at the target now.
    pub(crate) fn insert(&mut self, page: Page, features: &Features) {
        for hash in features.0 {
            if hash != 0 {
                let slot = self.slot(hash);
                self.slots[slot] = (hash << 32) | u64::from(page.0 + 1);
            }
        }
    }

    fn slot(&self, hash: u64) -> usize {
        (hash >> self.shift) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ram::PAGE_BYTES;

    fn noise(seed: u64) -> PageBytes {
        let mut state = seed;
        let mut page = [0; PAGE_BYTES];
        page.iter_mut().for_each(|byte| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (state >> 56) as u8;
        });
        page
    }

    #[test]
    fn a_page_with_few_changes_is_found_and_a_strange_one_is_not() {
        let mut index = SimilarIndex::new(100).unwrap();
        for seed in 0..50 {
            index.insert(Page(seed), &Features::of(&noise(seed.into())));
        }
        let mut near = noise(17);
        near[600] ^= 1;
        near[1400] ^= 1;
        assert_eq!(index.candidates(&Features::of(&near)).next(), Some(Page(17)));
        assert_eq!(index.candidates(&Features::of(&noise(99))).next(), None);
    }

    #[test]
    fn constant_blocks_say_nothing() {
        let mut index = SimilarIndex::new(100).unwrap();
        index.insert(Page(1), &Features::of(&[7; PAGE_BYTES]));
        assert_eq!(index.candidates(&Features::of(&[7; PAGE_BYTES])).next(), None);
    }
}
