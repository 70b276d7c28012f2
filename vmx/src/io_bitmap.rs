//! I/O bitmaps (SDM 25.6.4): a bit per port, set where the access exits.

use alloc::boxed::Box;

/// Both bitmaps: the first page is bitmap A, the second bitmap B.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoBitmaps {
    bits: Box<[u64]>,
}

const WORDS_PER_PAGE: usize = 512;

impl IoBitmaps {
    /// Every port exits.
    #[must_use]
    pub fn intercept_all() -> Self {
        // Two pages are too much for a stack.
        Self { bits: alloc::vec![!0; 2 * WORDS_PER_PAGE].into() }
    }

    /// Lets the guest reach `port` of the machine directly.
    pub fn pass_through(&mut self, port: u16) {
        self.bits[port as usize / 64] &= !(1 << (port % 64));
    }

    /// Bitmaps A and B as they lie in memory.
    #[must_use]
    pub fn pages(&self) -> [&[u64]; 2] {
        let (low, high) = self.bits.split_at(WORDS_PER_PAGE);
        [low, high]
    }

    /// Whether an access to `port` exits.
    #[must_use]
    pub fn intercepts(&self, port: u16) -> bool {
        self.bits[port as usize / 64] & (1 << (port % 64)) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_port_passes() {
        let mut bitmaps = IoBitmaps::intercept_all();
        bitmaps.pass_through(0x80);
        bitmaps.pass_through(0xffff);
        assert!(!bitmaps.intercepts(0x80) && !bitmaps.intercepts(0xffff));
        assert!(bitmaps.intercepts(0x7f) && bitmaps.intercepts(0x81) && bitmaps.intercepts(0x8080));
    }

    #[test]
    fn the_bitmaps_fill_two_pages() {
        let pages = IoBitmaps::intercept_all();
        assert_eq!(pages.pages().map(size_of_val), [4096, 4096]);
    }
}
