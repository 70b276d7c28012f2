//! The compressor: LZ77 over one pack, its parts kept apart, literals in half bytes where they come from few
//! values.
//!
//! A pack is `tokens`, `offsets` and `literals`, each whole. A token is `literal count << 4 | match length - 7`;
//! a half of 15 is continued by bytes behind it, each adding up to 255, the last less than 255. An offset is 16
//! bits. The last sequence has literals only. Text, logs and tables are full of digits: their literals come from
//! few values, and taking half a byte for each of the 15 most frequent ones saves what an entropy coder would at
//! a fraction of its time.
//!
//! [`search`] finds what repeats, [`compress`] writes it down with the help of [`halves`], [`decompress`] replays it. All
//! work in arrays whose length is known when they are compiled and leaves room behind what an index of 16 bits reaches:
//! in the loops that a byte's time is spent in, hardly an index has to be checked.

mod compress;
mod decompress;
mod halves;
mod search;

use alloc::boxed::Box;
use alloc::vec;

pub(crate) use compress::Compressor;
pub(crate) use decompress::Decompressor;

use crate::ram::{PAGE_BYTES, PageBytes};

/// Most bytes that can be compressed at once: an offset has 16 bits.
pub(crate) const PLAIN_MAX: usize = 1 << 16;

/// An index of 16 bits.
const INDEX_MASK: usize = PLAIN_MAX - 1;
/// Bytes copied at once.
const COPY_BYTES: usize = 16;
/// Length of an array of plain bytes or literals: it has room behind the last of them for what is copied or read ahead.
const ROOM_BYTES: usize = PLAIN_MAX + 4 * COPY_BYTES;
/// The least that a token can say. Literals cost half a byte at best, a match three: a shorter one would not pay.
const MATCH_MIN: usize = 7;
/// A half of a token that is continued.
const CONTINUED: usize = 15;
const HEADER_BYTES: usize = 8;

/// A pack is not what a compressor wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The plain bytes of one pack.
#[derive(Debug)]
pub(crate) struct Plain {
    bytes: Box<[u8; ROOM_BYTES]>,
    length: usize,
}

impl Plain {
    /// Bytes of the heap that it takes.
    pub(crate) const BYTES: usize = ROOM_BYTES;

    pub(crate) fn new() -> Self {
        Self { bytes: zeroed(), length: 0 }
    }

    /// Adds a page; there are fewer than [`PLAIN_MAX`] bytes.
    pub(crate) fn push(&mut self, page: &PageBytes) {
        let end = self.length + PAGE_BYTES;
        assert!(end <= PLAIN_MAX, "a pack has no room for another page");
        self.bytes[self.length..end].copy_from_slice(page);
        self.length = end;
    }

    pub(crate) fn clear(&mut self) {
        self.length = 0;
    }

    pub(crate) const fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn pages(&self) -> &[PageBytes] {
        self.bytes[..self.length].as_chunks().0
    }
}

/// An array of zeros that never lay on the stack.
fn zeroed<T: Clone + Default, const N: usize>() -> Box<[T; N]> {
    vec![T::default(); N].into_boxed_slice().try_into().unwrap_or_else(|_| unreachable!("it is so long"))
}

fn word_at(bytes: &[u8; ROOM_BYTES], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::format;
    use std::vec::Vec;

    fn plain(bytes: &[u8]) -> Plain {
        // What lies behind the end must not matter.
        let mut plain = Plain { bytes: Box::new([bytes.len() as u8; ROOM_BYTES]), length: bytes.len() };
        plain.bytes[..bytes.len()].copy_from_slice(bytes);
        plain
    }

    fn round_trip(bytes: &[u8]) -> Option<usize> {
        let mut packed = vec![0; bytes.len() + 4096];
        let length = Compressor::new().compress(&plain(bytes), &mut packed)?;
        let mut decompressor = Decompressor::new();
        let back = decompressor.decompress(&packed[..length], bytes.len()).unwrap();
        assert!(back.bytes[..back.length] == *bytes);
        Some(length)
    }

    fn text(bytes: usize) -> Vec<u8> {
        let lines = (0..).flat_map(|n: u32| {
            let n = n.wrapping_mul(0x9e37_79b9);
            format!("2024-03-17 node-{:02} request id={n:08x} status=200 dur_us={}\n", n % 16, n >> 12)
                .into_bytes()
        });
        lines.take(bytes).collect()
    }

    #[test]
    fn text_shrinks_to_less_than_two_fifths() {
        let length = round_trip(&text(PLAIN_MAX)).unwrap();
        assert!(length < PLAIN_MAX * 2 / 5, "{length}");
    }

    #[test]
    fn long_runs_shrink_to_almost_nothing() {
        assert!(round_trip(&[7; PLAIN_MAX]).unwrap() < 400);
        assert!(round_trip(&b"abcdefg".repeat(5000)).unwrap() < 200);
    }

    #[test]
    fn what_does_not_fit_is_given_up() {
        let mut state = 1u64;
        let noise: Vec<u8> = (0..4096)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        assert_eq!(Compressor::new().compress(&plain(&noise), &mut [0; 4000]), None);
        assert!(round_trip(&noise).is_some());
    }

    #[test]
    fn what_lies_behind_the_end_or_was_there_before_makes_no_difference() {
        let bytes = text(5000);
        let pack = |compressor: &mut Compressor, filler: u8| {
            let (mut plain, mut packed) = (plain(&bytes), vec![0; 5000]);
            plain.bytes[bytes.len()..].fill(filler);
            let length = compressor.compress(&plain, &mut packed).unwrap();
            packed.truncate(length);
            packed
        };
        let mut used = Compressor::new();
        used.compress(&plain(&text(PLAIN_MAX)), &mut vec![0; PLAIN_MAX]).unwrap();
        assert_eq!(pack(&mut used, 0), pack(&mut Compressor::new(), 0xff));
    }

    #[test]
    fn literals_that_a_pack_does_not_have_are_not_taken_from_an_earlier_one() {
        let mut decompressor = Decompressor::new();
        // One token, no match, five literals.
        assert!(decompressor.decompress(b"\x01\0\0\0\x05\0\xff\xff\x50other", 5).is_ok());
        for pack in [&b"\x01\0\0\0\0\0\xff\xff\x50"[..], b"\x01\0\0\0\x04\0\xff\xff\x50some"] {
            assert_eq!(decompressor.decompress(pack, 5).err(), Some(Malformed));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn what_was_compressed_comes_back(
            parts in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..40), 1usize..30), 0..60)
        ) {
            let mut plain = Vec::new();
            for (part, times) in parts {
                (0..times).for_each(|_| plain.extend_from_slice(&part));
            }
            plain.truncate(PLAIN_MAX - 1);
            prop_assert!(round_trip(&plain).is_some());
        }

        #[test]
        fn any_bytes_are_decompressed_without_panic(packed in prop::collection::vec(any::<u8>(), 0..300), length in 0usize..5000) {
            let _ = Decompressor::new().decompress(&packed, length);
        }

        #[test]
        fn damaged_packs_are_decompressed_without_panic(at in 0usize..2000, value in any::<u8>(), cut in 0usize..3000) {
            let mut packed = vec![0; 8192];
            let length = Compressor::new().compress(&plain(&text(8192)), &mut packed).unwrap();
            packed.truncate(length.saturating_sub(cut));
            if let Some(byte) = packed.get_mut(at) {
                *byte = value;
            }
            let _ = Decompressor::new().decompress(&packed, 8192);
        }
    }
}
