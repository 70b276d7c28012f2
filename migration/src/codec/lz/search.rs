//! Finds what repeats in plain bytes.

use alloc::boxed::Box;

use super::{CONTINUED, COPY_BYTES, INDEX_MASK, MATCH_MIN, PLAIN_MAX, Plain, ROOM_BYTES, word_at, zeroed};

const HASH_BITS: u32 = 13;
/// What is looked for repeats in so many bytes at least, a word: of shorter matches there are many, and each costs a
/// sequence's time and saves next to nothing.
const FOUND_MIN: usize = 8;
/// No match is looked for so near the end, so that words can be read ahead.
const TAIL_BYTES: usize = FOUND_MIN + 16;
/// The search steps over bytes; what it steps over is found again backwards. It starts with this step, and after
/// each `1 << SKIP_BITS` misses takes one byte more.
const STEP: usize = 3;
const SKIP_BITS: usize = 5;
/// More than the tokens of [`PLAIN_MAX`] bytes need, and more than there are matches.
const TOKENS_MAX: usize = 1 << 14;
const TOKEN_MASK: usize = TOKENS_MAX - 1;

const _: () = assert!(PLAIN_MAX / FOUND_MIN + PLAIN_MAX / 255 + 2 < TOKENS_MAX);

/// A search's memory, and what it found: the parts of a pack.
#[derive(Debug)]
pub(super) struct Search {
    /// Where the last word with each hash was.
    table: Box<[u16; 1 << HASH_BITS]>,
    tokens: Box<[u8; TOKENS_MAX]>,
    token_count: usize,
    offsets: Box<[[u8; 2]; TOKENS_MAX]>,
    offset_count: usize,
    literals: Box<[u8; ROOM_BYTES]>,
    literal_count: usize,
}

impl Search {
    /// Bytes of the heap that it takes.
    pub(super) const BYTES: usize = 2 * (1 << HASH_BITS) + 3 * TOKENS_MAX + ROOM_BYTES;

    pub(super) fn new() -> Self {
        Self {
            table: zeroed(),
            tokens: zeroed(),
            token_count: 0,
            offsets: zeroed(),
            offset_count: 0,
            literals: zeroed(),
            literal_count: 0,
        }
    }

    pub(super) fn tokens(&self) -> &[u8] {
        &self.tokens[..self.token_count]
    }

    pub(super) fn offsets(&self) -> &[[u8; 2]] {
        &self.offsets[..self.offset_count]
    }

    pub(super) fn literals(&self) -> &[u8] {
        &self.literals[..self.literal_count]
    }

    /// Finds the sequences that these bytes consist of.
    pub(super) fn run(&mut self, plain: &Plain) {
        let (bytes, length) = (&*plain.bytes, plain.length.min(PLAIN_MAX));
        let Self { table, tokens, offsets, literals, .. } = self;
        let (table, offsets) = (&mut **table, &mut **offsets);
        let (mut parts, mut ends, mut offset_count) = (Parts { tokens, literals }, Ends::default(), 0);
        table.fill(0);
        let end = length.saturating_sub(TAIL_BYTES);
        let (mut at, mut anchor, mut misses) = (1, 0, STEP << SKIP_BITS);
        while at < end {
            let word = word_at(bytes, at);
            let slot = &mut table[hash(word)];
            // What the table says of a word that it has not seen, 0, is before `at` as well.
            let candidate = usize::from(*slot);
            *slot = at as u16;
            if word_at(bytes, candidate) != word {
                at += misses >> SKIP_BITS;
                misses += 1;
                continue;
            }
            let match_end = at + common(bytes, at, candidate, length);
            let start = at - common_before(bytes, at, candidate).min(at - anchor);
            offsets[offset_count & TOKEN_MASK] = ((at - candidate) as u16).to_le_bytes();
            offset_count += 1;
            let (count, more) = (start - anchor, match_end - start - MATCH_MIN);
            ends = if count < CONTINUED && more < CONTINUED + 255 {
                parts.short(ends, chunk_at(bytes, anchor), count, more)
            } else {
                // A value of its own: the address of `parts` given away, they would be read again for each sequence.
                Parts { tokens: parts.tokens, literals: parts.literals }.long(
                    ends,
                    &bytes[anchor..start],
                    more,
                )
            };
            (at, anchor) = (match_end, match_end);
            misses = STEP << SKIP_BITS;
        }
        ends = parts.long(ends, &bytes[anchor..length], 0);
        (self.token_count, self.offset_count, self.literal_count) =
            (ends.tokens, offset_count, ends.literals);
    }
}

/// Where sequences are put.
struct Parts<'a> {
    tokens: &'a mut [u8; TOKENS_MAX],
    literals: &'a mut [u8; ROOM_BYTES],
}

/// How many tokens and literals there are. Handed on by value, so that they stay in registers.
#[derive(Clone, Copy, Default)]
struct Ends {
    tokens: usize,
    literals: usize,
}

impl Parts<'_> {
    /// Adds a token for so many of these literals, no byte continuing it, and a match `more` than [`MATCH_MIN`] long, at
    /// most one byte continuing it.
    #[inline(always)]
    fn short(&mut self, ends: Ends, literals: &[u8; COPY_BYTES], count: usize, more: usize) -> Ends {
        // Counts stay within their arrays; the masks say so where the compiler cannot know.
        self.tokens[ends.tokens & TOKEN_MASK] = ((count << 4) | more.min(CONTINUED)) as u8;
        // Which lengths are continued cannot be predicted: the byte is written, and counts or not.
        self.tokens[(ends.tokens + 1) & TOKEN_MASK] = more.wrapping_sub(CONTINUED) as u8;
        let to = self.literals[ends.literals & INDEX_MASK..].first_chunk_mut();
        *to.expect("there is room behind the last one") = *literals;
        Ends { tokens: ends.tokens + 1 + usize::from(more >= CONTINUED), literals: ends.literals + count }
    }

    /// Adds a token for these literals and a match `more` than [`MATCH_MIN`] long.
    #[cold]
    #[inline(never)]
    fn long(&mut self, mut ends: Ends, literals: &[u8], more: usize) -> Ends {
        let halves = [literals.len(), more];
        let [count, length] = halves.map(|half| half.min(CONTINUED));
        let mut put = |byte| {
            self.tokens[ends.tokens] = byte;
            ends.tokens += 1;
        };
        put(((count << 4) | length) as u8);
        for mut rest in halves.into_iter().filter_map(|half| half.checked_sub(CONTINUED)) {
            while rest >= 255 {
                put(255);
                rest -= 255;
            }
            put(rest as u8);
        }
        let literals_end = ends.literals + literals.len();
        self.literals[ends.literals..literals_end].copy_from_slice(literals);
        Ends { literals: literals_end, ..ends }
    }
}

fn hash(word: u64) -> usize {
    (word.wrapping_mul(0x9e37_79b1_85eb_ca87) >> (64 - HASH_BITS)) as usize
}

fn chunk_at(bytes: &[u8; ROOM_BYTES], at: usize) -> &[u8; COPY_BYTES] {
    bytes[at & INDEX_MASK..].first_chunk().expect("there is room behind the last one")
}

/// How many bytes agree from `at` and from `other` on, which is earlier. The first [`FOUND_MIN`] do.
#[inline(always)]
fn common(bytes: &[u8; ROOM_BYTES], at: usize, other: usize, length: usize) -> usize {
    // Most matches end in the first of these words. That they do is predicted, and what follows begins before it is known.
    let [first, second] =
        [FOUND_MIN, FOUND_MIN + 8].map(|ahead| word_at(bytes, at + ahead) ^ word_at(bytes, other + ahead));
    if first != 0 {
        return FOUND_MIN + first.trailing_zeros() as usize / 8;
    }
    if second != 0 {
        return FOUND_MIN + 8 + second.trailing_zeros() as usize / 8;
    }
    long_common(bytes, at, other, length)
}

#[cold]
#[inline(never)]
fn long_common(bytes: &[u8; ROOM_BYTES], at: usize, other: usize, length: usize) -> usize {
    let (ahead, behind) = (&bytes[at..length], &bytes[other..length]);
    let (words, _) = ahead.as_chunks::<8>();
    let equal = words.iter().zip(behind.as_chunks::<8>().0).take_while(|(a, b)| a == b).count() * 8;
    equal + ahead[equal..].iter().zip(&behind[equal..]).take_while(|(a, b)| a == b).count()
}

/// How many bytes agree before `at` and before `other`, which is earlier; a word of them at most, since the search
/// steps over more only where it has long found nothing, and none where there is no whole word.
#[inline(always)]
fn common_before(bytes: &[u8; ROOM_BYTES], at: usize, other: usize) -> usize {
    let Some(before) = other.checked_sub(8) else { return 0 };
    (word_at(bytes, at.wrapping_sub(8) & INDEX_MASK) ^ word_at(bytes, before)).leading_zeros() as usize / 8
}
