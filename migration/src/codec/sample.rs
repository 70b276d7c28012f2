//! A quick guess whether a page compresses: how many different values do 256 of its bytes have? Noise shows
//! about 162, text 40, code 110.

use crate::ram::{PAGE_BYTES, PageBytes};

const SAMPLES: usize = 256;
const STRIDE: usize = PAGE_BYTES / SAMPLES;
/// Most different values of a page that is worth a try.
const DISTINCT_MAX: u32 = 140;

/// Whether compressing the page is worth a try.
pub(crate) fn is_promising(page: &PageBytes) -> bool {
    // A byte for each value, not a bit: what is only stored waits for nothing that was stored before.
    let mut seen = [0u8; 256];
    for group in 0..SAMPLES {
        // The offset within the stride moves on, so that a record structure does not hide bytes.
        seen[usize::from(page[group * STRIDE + group % STRIDE])] = 1;
    }
    seen.iter().map(|&is_seen| u32::from(is_seen)).sum::<u32>() <= DISTINCT_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_promising_and_noise_is_not() {
        let mut page = [0; PAGE_BYTES];
        page.iter_mut()
            .zip(b"the quick brown fox jumps over the lazy dog 0123456789 ".iter().cycle())
            .for_each(|(to, from)| {
                *to = *from;
            });
        assert!(is_promising(&page));
        let mut state = 1u64;
        page.iter_mut().for_each(|byte| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 56) as u8;
        });
        assert!(!is_promising(&page));
    }
}
