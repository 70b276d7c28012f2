//! Page identities and the digest over all of RAM.
//!
//! A page's identity is a 64-bit hash of its content; that of a zero page is 0. The digest of RAM is the sum of
//! all identities, each mixed with its page number: replacing one page costs one subtraction and one addition,
//! so nothing proportional to RAM is left for the time in which the guest stands still.

use alloc::vec::Vec;

use rapidhash::v3::rapidhash_v3;

use crate::ram::{Page, PageBytes, RamFailure};

/// The identity of a page's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity(pub(crate) u64);

impl Identity {
    /// A zero page's.
    pub(crate) const ZERO: Self = Self(0);
    /// Of a page about which nothing is known; no content has it.
    pub(crate) const UNKNOWN: Self = Self(1);

    /// The identity of a page that is not zero.
    pub(crate) fn of(content: &PageBytes) -> Self {
        match rapidhash_v3(content) {
            hash @ 2.. => Self(hash),
            hash => Self(hash + 2),
        }
    }
}

/// The identities of all pages of a guest, and their sum.
#[derive(Debug)]
pub(crate) struct Identities {
    pages: Vec<u64>,
    sum: u64,
}

impl Identities {
    /// `initial` for each of `page_count` pages.
    pub(crate) fn new(page_count: u32, initial: Identity) -> Result<Self, RamFailure> {
        let mut pages = Vec::new();
        pages.try_reserve_exact(page_count as usize).map_err(|_| RamFailure::OutOfMemory(Page(0)))?;
        pages.resize(page_count as usize, initial.0);
        Ok(Self { pages, sum: 0 })
    }

    /// Bytes of the heap that those of so many pages take.
    pub(crate) const fn bytes_for(page_count: u32) -> u64 {
        page_count as u64 * size_of::<u64>() as u64
    }

    /// Bytes of the heap that they have.
    pub(crate) const fn bytes(&self) -> u64 {
        (self.pages.capacity() * size_of::<u64>()) as u64
    }

    /// Of a guest without pages.
    pub(crate) const fn empty() -> Self {
        Self { pages: Vec::new(), sum: 0 }
    }

    pub(crate) fn get(&self, page: Page) -> Identity {
        self.pages.get(page.0 as usize).map_or(Identity::UNKNOWN, |&identity| Identity(identity))
    }

    pub(crate) fn set(&mut self, page: Page, identity: Identity) {
        if let Some(old) = self.pages.get_mut(page.0 as usize) {
            self.sum = self.sum.wrapping_sub(mixed(page, Identity(*old))).wrapping_add(mixed(page, identity));
            *old = identity.0;
        }
    }

    /// The digest of RAM.
    pub(crate) const fn sum(&self) -> u64 {
        self.sum
    }
}

/// A page's share in the digest: 0 for zero and unknown pages.
fn mixed(page: Page, identity: Identity) -> u64 {
    if identity.0 <= Identity::UNKNOWN.0 {
        return 0;
    }
    let place = (u64::from(page.0) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut mix = identity.0 ^ place;
    mix = (mix ^ (mix >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mix = (mix ^ (mix >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mix ^ (mix >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ram::PAGE_BYTES;

    #[test]
    fn the_digest_depends_on_content_and_place_and_not_on_history() {
        let (a, b) = (Identity::of(&[1; PAGE_BYTES]), Identity::of(&[2; PAGE_BYTES]));
        let digest = |steps: &[(u32, Identity)]| {
            let mut identities = Identities::new(4, Identity::ZERO).unwrap();
            steps.iter().for_each(|&(page, identity)| identities.set(Page(page), identity));
            identities.sum()
        };
        assert_eq!(digest(&[(0, a), (1, b)]), digest(&[(1, a), (0, b), (1, b), (0, a)]));
        assert_ne!(digest(&[(0, a), (1, b)]), digest(&[(0, b), (1, a)]));
        assert_eq!(digest(&[(3, a), (3, Identity::ZERO)]), digest(&[]));
    }
}
