//! Zero pages: half of an idle guest's RAM, so the test is hot.

use crate::ram::{PAGE_BYTES, PageBytes};

/// Bytes tested before the first look at the outcome.
const CHUNK_BYTES: usize = 256;

/// Whether all bytes of the page are zero. Ends at the first chunk that is not.
#[must_use]
pub fn is_zero(page: &PageBytes) -> bool {
    const { assert!(PAGE_BYTES.is_multiple_of(CHUNK_BYTES)) };
    let (chunks, _) = page.as_chunks::<CHUNK_BYTES>();
    chunks.iter().all(chunk_is_zero)
}

fn chunk_is_zero(chunk: &[u8; CHUNK_BYTES]) -> bool {
    let (words, _) = chunk.as_chunks::<8>();
    words.iter().fold(0, |all, word| all | u64::from_ne_bytes(*word)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_anywhere_makes_a_page_non_zero() {
        let mut page = [0; PAGE_BYTES];
        assert!(is_zero(&page));
        for position in 0..PAGE_BYTES {
            page[position] = 1 << (position % 8);
            assert!(!is_zero(&page), "byte {position}");
            page[position] = 0;
        }
    }
}
