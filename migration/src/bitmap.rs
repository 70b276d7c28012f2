//! A set of pages: one bit a page, and one summary bit per 64 words so that finding the next of few pages in
//! much RAM does not walk the RAM.

use alloc::vec;
use alloc::vec::Vec;

use crate::ram::Page;

/// A set of pages of one guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageBitmap {
    words: Vec<u64>,
    /// Bit `i % 64` of word `i / 64` is set if `words[i]` is not 0.
    summary: Vec<u64>,
    page_count: u32,
    members: u32,
}

impl PageBitmap {
    /// The empty set over `page_count` pages.
    #[must_use]
    pub fn empty(page_count: u32) -> Self {
        let words = (page_count as usize).div_ceil(64);
        Self { words: vec![0; words], summary: vec![0; words.div_ceil(64)], page_count, members: 0 }
    }

    /// Bytes of the heap that a set over so many pages takes.
    #[must_use]
    pub const fn bytes_for(page_count: u32) -> u64 {
        let words = page_count.div_ceil(64);
        (words as u64 + words.div_ceil(64) as u64) * size_of::<u64>() as u64
    }

    /// Bytes of the heap that it has.
    pub(crate) const fn bytes(&self) -> u64 {
        ((self.words.capacity() + self.summary.capacity()) * size_of::<u64>()) as u64
    }

    /// As [`Self::empty`]; `None` if there is no memory for it.
    pub(crate) fn try_empty(page_count: u32) -> Option<Self> {
        let zeros = |words: usize| {
            let mut zeros = Vec::new();
            zeros.try_reserve_exact(words).ok()?;
            zeros.resize(words, 0u64);
            Some(zeros)
        };
        let words = (page_count as usize).div_ceil(64);
        Some(Self { words: zeros(words)?, summary: zeros(words.div_ceil(64))?, page_count, members: 0 })
    }

    /// The set of all `page_count` pages.
    #[cfg(test)]
    pub(crate) fn full(page_count: u32) -> Self {
        let mut all = Self::empty(page_count);
        all.fill();
        all
    }

    /// Adds all pages that can be members.
    pub(crate) fn fill(&mut self) {
        for index in 0..self.words.len() {
            self.merge_word(index, u64::MAX);
        }
    }

    /// Number of pages that can be members.
    #[must_use]
    pub const fn page_count(&self) -> u32 {
        self.page_count
    }

    /// Number of members.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.members
    }

    /// Whether there is no member.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.members == 0
    }

    /// Whether `page` is a member.
    #[must_use]
    pub fn contains(&self, page: Page) -> bool {
        self.words.get(page.0 as usize / 64).is_some_and(|word| word >> (page.0 % 64) & 1 == 1)
    }

    /// Adds `page`; a page beyond the end is ignored.
    pub fn insert(&mut self, page: Page) {
        self.merge_word(page.0 as usize / 64, 1 << (page.0 % 64));
    }

    /// Removes `page`; says whether it was a member.
    pub fn remove(&mut self, page: Page) -> bool {
        if !self.contains(page) {
            return false;
        }
        let index = page.0 as usize / 64;
        self.words[index] &= !(1 << (page.0 % 64));
        self.members -= 1;
        if self.words[index] == 0 {
            self.summary[index / 64] &= !(1 << (index % 64));
        }
        true
    }

    /// Adds pages `64 * index ..` whose bits are set in `bits`, lowest bit first; bits beyond the end are
    /// ignored. How a dirty log in words is taken over.
    pub fn merge_word(&mut self, index: usize, bits: u64) {
        let Some(word) = self.words.get_mut(index) else { return };
        let beyond = (index as u64 * 64 + 64).saturating_sub(u64::from(self.page_count));
        let bits = bits & (u64::MAX >> beyond);
        self.members += (bits & !*word).count_ones();
        *word |= bits;
        if *word != 0 {
            self.summary[index / 64] |= 1 << (index % 64);
        }
    }

    /// Adds all members of `other`.
    pub fn merge(&mut self, other: &Self) {
        let mut from = 0;
        while let Some(index) = other.next_word(from) {
            self.merge_word(index, other.words[index]);
            from = index + 1;
        }
    }

    /// Removes all that are not members of `other`.
    pub(crate) fn retain_in(&mut self, other: &Self) {
        self.mask(|index| other.word(index));
    }

    /// Removes all that are members of `other`.
    pub(crate) fn subtract(&mut self, other: &Self) {
        self.mask(|index| !other.word(index));
    }

    /// Of each word only these bits stay.
    fn mask(&mut self, bits: impl Fn(usize) -> u64) {
        let mut from = 0;
        while let Some(index) = self.next_word(from) {
            let (before, after) = (self.words[index], self.words[index] & bits(index));
            self.words[index] = after;
            self.members -= (before & !after).count_ones();
            if after == 0 {
                self.summary[index / 64] &= !(1 << (index % 64));
            }
            from = index + 1;
        }
    }

    /// Removes all members.
    pub fn clear(&mut self) {
        let mut from = 0;
        while let Some(index) = self.next_word(from) {
            self.words[index] = 0;
            from = index + 1;
        }
        self.summary.fill(0);
        self.members = 0;
    }

    /// The first member at or after `from`.
    #[must_use]
    pub fn next(&self, from: Page) -> Option<Page> {
        let index = from.0 as usize / 64;
        let here = self.words.get(index)? & (u64::MAX << (from.0 % 64));
        let (index, word) = match here {
            0 => {
                let index = self.next_word(index + 1)?;
                (index, self.words[index])
            }
            word => (index, word),
        };
        u32::try_from(index * 64 + word.trailing_zeros() as usize).ok().map(Page)
    }

    /// The last member at or before `from`.
    pub(crate) fn previous(&self, from: Page) -> Option<Page> {
        let last = self.page_count.checked_sub(1)?.min(from.0) as usize;
        let here = self.words[last / 64] & (u64::MAX >> (63 - last % 64));
        let (index, word) = match here {
            0 => {
                let index = self.previous_word(last / 64)?;
                (index, self.words[index])
            }
            word => (last / 64, word),
        };
        u32::try_from(index * 64 + 63 - word.leading_zeros() as usize).ok().map(Page)
    }

    /// The last word before `end` that is not 0.
    fn previous_word(&self, end: usize) -> Option<usize> {
        let last = end.checked_sub(1)?;
        let here = self.summary[last / 64] & (u64::MAX >> (63 - last % 64));
        let (found, bits) = match here {
            0 => {
                let found = self.summary[..last / 64].iter().rposition(|&word| word != 0)?;
                (found, self.summary[found])
            }
            bits => (last / 64, bits),
        };
        Some(found * 64 + 63 - bits.leading_zeros() as usize)
    }

    /// Pages `64 * index ..` as bits, the lowest first; 0 beyond the end.
    pub(crate) fn word(&self, index: usize) -> u64 {
        self.words.get(index).copied().unwrap_or(0)
    }

    /// The first word at or after `from` that is not 0.
    pub(crate) fn next_word(&self, from: usize) -> Option<usize> {
        let first = from / 64;
        let here = self.summary.get(first)? & (u64::MAX << (from % 64));
        if here != 0 {
            return Some(first * 64 + here.trailing_zeros() as usize);
        }
        let found = self.summary[first + 1..].iter().position(|&word| word != 0)? + first + 1;
        Some(found * 64 + self.summary[found].trailing_zeros() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_full_set_has_exactly_its_pages() {
        for count in [0, 1, 63, 64, 65, 4096, 4097, 10_000] {
            let full = PageBitmap::full(count);
            assert_eq!(full.len(), count);
            assert!(!full.contains(Page(count)));
            assert_eq!(full.next(Page(count)), None);
            assert_eq!(full.next(Page(0)).is_some(), count > 0);
        }
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_set(count in 1u32..20_000, steps in prop::collection::vec((0u8..6, 0u32..20_100), 0..200)) {
            let (mut bitmap, mut model) = (PageBitmap::empty(count), BTreeSet::new());
            for (step, page) in steps {
                match step {
                    0 | 1 => {
                        bitmap.insert(Page(page));
                        if page < count { model.insert(page); }
                    }
                    2 => prop_assert_eq!(bitmap.remove(Page(page)), model.remove(&page)),
                    4 | 5 => {
                        let mut other = PageBitmap::try_empty(count).unwrap();
                        (page.min(count)..count.min(page + 700)).for_each(|page| other.insert(Page(page)));
                        if step == 4 { bitmap.subtract(&other) } else { bitmap.retain_in(&other) }
                        model.retain(|member| other.contains(Page(*member)) == (step == 5));
                    }
                    _ => {
                        let mut other = PageBitmap::empty(count);
                        other.insert(Page(page));
                        bitmap.merge(&other);
                        if page < count { model.insert(page); }
                    }
                }
            }
            prop_assert_eq!(bitmap.len() as usize, model.len());
            let mut seen = BTreeSet::new();
            let mut from = Page(0);
            while let Some(page) = bitmap.next(from) {
                seen.insert(page.0);
                from = Page(page.0 + 1);
            }
            prop_assert_eq!(&seen, &model);
            let (mut back, mut from) = (BTreeSet::new(), Some(Page(u32::MAX)));
            while let Some(page) = from.and_then(|from| bitmap.previous(from)) {
                back.insert(page.0);
                from = page.0.checked_sub(1).map(Page);
            }
            prop_assert_eq!(&back, &model);
            bitmap.clear();
            prop_assert!(bitmap.is_empty() && bitmap.next(Page(0)).is_none());
        }
    }
}
