//! I/O bitmaps (SDM 25.6.4): a bit per port, set where the access exits.

/// Both bitmaps: the first page is bitmap A, the second bitmap B.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C, align(4096))]
pub struct IoBitmaps {
    bits: [u64; 1024],
}

impl IoBitmaps {
    /// Every port exits.
    #[must_use]
    pub const fn intercept_all() -> Self {
        Self { bits: [!0; 1024] }
    }

    /// Lets the guest reach `port` of the machine directly.
    pub const fn pass_through(&mut self, port: u16) {
        self.bits[port as usize / 64] &= !(1 << (port % 64));
    }

    /// Bitmaps A and B as they lie in memory.
    #[must_use]
    pub fn pages(&self) -> [&[u64]; 2] {
        let (low, high) = self.bits.split_at(512);
        [low, high]
    }

    /// Whether an access to `port` exits.
    #[must_use]
    pub const fn intercepts(&self, port: u16) -> bool {
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
        assert_eq!(size_of::<IoBitmaps>(), 8192);
    }
}
