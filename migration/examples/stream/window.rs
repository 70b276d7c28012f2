//! A buffer for the bytes of a stream that stays in step with it.

use std::ops::Range;

/// Bytes of a page: the period in which processors compare addresses.
const PERIOD: usize = 4096;

/// A buffer whose slice for byte `n` of a stream lies at an address that is `n` modulo 4096.
///
/// The kernel packs a stream's bytes into pages one behind another, and copies them with `rep movsb`. Processors (Zen 3
/// at least) copy at a tenth of their speed where the destination lies 1 to 31 bytes behind the source modulo 4096;
/// with a buffer at a fixed address, chance decides how much of a stream meets that. In step, nothing does.
pub(crate) struct Window {
    space: Vec<u8>,
    length: usize,
}

impl Window {
    pub(crate) fn new(length: usize) -> Self {
        Self { space: vec![0; length + 2 * PERIOD], length }
    }

    /// For the bytes from this position of the stream on.
    pub(crate) fn at(&mut self, position: u64) -> &mut [u8] {
        let range = self.range(position);
        &mut self.space[range]
    }

    fn range(&self, position: u64) -> Range<usize> {
        let start = self.space.as_ptr().align_offset(PERIOD) + position as usize % PERIOD;
        start..start + self.length
    }
}
