//! Sets of pages on the wire: what the target lacks. A set goes in parts, each a piece of the bitmap, so that one over
//! much RAM needs neither a long frame nor a long queue.

use minicbor::{Decode, Encode};

use super::control::frame;
use super::frame::Kind;
use crate::bitmap::PageBitmap;
use crate::reason::StreamFault;

/// Bytes of a word of the bitmap.
const WORD_BYTES: usize = 8;
/// Most words of a part: 65,536 pages.
const PART_WORDS: usize = 1024;

/// A piece of a set: pages `64 * word ..`, a bit each, the lowest bit of the first byte first.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct AbsentPart<'a> {
    #[n(0)]
    word: u32,
    #[cbor(b(1), with = "minicbor::bytes")]
    bits: &'a [u8],
}

impl AbsentPart<'_> {
    /// Adds the pages to `set`.
    ///
    /// # Errors
    /// [`StreamFault`] if the piece is too long, not whole, or reaches beyond the guest's pages.
    pub(crate) fn take(&self, set: &mut PageBitmap) -> Result<(), StreamFault> {
        let (words, rest) = self.bits.as_chunks::<WORD_BYTES>();
        if !rest.is_empty() || words.len() > PART_WORDS {
            return Err(StreamFault::Length);
        }
        for (index, bytes) in (self.word as usize..).zip(words) {
            let bits = u64::from_le_bytes(*bytes);
            let before = set.len();
            let held = set.word(index);
            set.merge_word(index, bits);
            if set.len() - before != (bits & !held).count_ones() {
                return Err(StreamFault::Value);
            }
        }
        Ok(())
    }
}

/// How far a set has been said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Walk {
    word: usize,
}

impl Walk {
    /// Puts the next part of `set` into `buffer` as a frame with this sequence number; its length, `None` when all has
    /// been said. `set` is the same at every call, or has lost members.
    pub(crate) fn next(&mut self, set: &PageBitmap, sequence: u32, buffer: &mut [u8]) -> Option<usize> {
        self.next_as(Kind::Absent, set, sequence, buffer)
    }

    /// The same as a frame of this kind.
    pub(crate) fn next_as(
        &mut self,
        kind: Kind,
        set: &PageBitmap,
        sequence: u32,
        buffer: &mut [u8],
    ) -> Option<usize> {
        let first = set.next_word(self.word)?;
        let mut bytes = [0; PART_WORDS * WORD_BYTES];
        let mut used = 0;
        let (slots, _) = bytes.as_chunks_mut::<WORD_BYTES>();
        for (offset, slot) in slots.iter_mut().enumerate() {
            let word = set.word(first + offset);
            *slot = word.to_le_bytes();
            if word != 0 {
                used = offset + 1;
            }
        }
        self.word = first + PART_WORDS;
        let part = AbsentPart { word: first as u32, bits: &bytes[..used * WORD_BYTES] };
        Some(frame(kind, sequence, &part, buffer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::OUTPUT_BYTES_MIN;
    use crate::ram::Page;
    use crate::wire::control::decode;
    use crate::wire::frame::HEADER_BYTES;
    use proptest::prelude::*;
    use std::vec;

    proptest! {
        #[test]
        fn a_set_is_taken_as_it_was_said(count in 1u32..300_000, members in prop::collection::vec(any::<u32>(), 0..200), is_full: bool) {
            let mut set = if is_full { PageBitmap::full(count) } else { PageBitmap::empty(count) };
            members.iter().for_each(|member| set.insert(Page(member % count)));
            let (mut walk, mut taken, mut parts) = (Walk::default(), PageBitmap::empty(count), 0);
            let mut buffer = vec![0; OUTPUT_BYTES_MIN];
            while let Some(length) = walk.next(&set, 0, &mut buffer) {
                let part: AbsentPart<'_> = decode(&buffer[HEADER_BYTES..length]).unwrap();
                prop_assert_eq!(part.take(&mut taken), Ok(()));
                parts += 1;
            }
            prop_assert_eq!(taken, set);
            prop_assert!(parts <= count / (64 * PART_WORDS as u32) + 1);
        }

        #[test]
        fn any_part_stays_within_the_guest(word: u32, bits in prop::collection::vec(any::<u8>(), 0..40), count in 0u32..2000) {
            let mut set = PageBitmap::empty(count);
            let _ = AbsentPart { word, bits: &bits }.take(&mut set);
            prop_assert!(set.len() <= count);
        }
    }

    #[test]
    fn pages_that_the_guest_has_not_are_refused() {
        let mut set = PageBitmap::empty(70);
        let part = |word, bits| AbsentPart { word, bits };
        assert_eq!(part(1, &[0x40, 0, 0, 0, 0, 0, 0, 0]).take(&mut set), Err(StreamFault::Value));
        assert_eq!(part(7, &[1, 0, 0, 0, 0, 0, 0, 0]).take(&mut set), Err(StreamFault::Value));
        assert_eq!(part(0, &[1]).take(&mut set), Err(StreamFault::Length));
        assert_eq!(part(1, &[0x20, 0, 0, 0, 0, 0, 0, 0]).take(&mut set), Ok(()));
        assert_eq!(set.len(), 1);
    }
}
