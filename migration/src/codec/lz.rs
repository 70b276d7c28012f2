//! The compressor: LZ77 over one pack, its parts kept apart, literals in half bytes where they come from few
//! values.
//!
//! A pack is `tokens`, `offsets` and `literals`, each whole. A token is `literal count << 4 | match length - 7`;
//! a half of 15 is continued by bytes behind it, each adding up to 255, the last less than 255. An offset is 16
//! bits. The last sequence has literals only. Text, logs and tables are full of digits: their literals come from
//! few values, and taking half a byte for each of the 15 most frequent ones saves what an entropy coder would at
//! a fraction of its time.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

/// Most bytes that can be compressed at once: an offset has 16 bits.
pub(crate) const PLAIN_MAX: usize = 1 << 16;

const HASH_BITS: u32 = 13;
/// Literals cost half a byte at best, a match three: a shorter one would not pay.
const MATCH_MIN: usize = 7;
/// No match begins so near the end, so that words can be read ahead.
const TAIL_BYTES: usize = 12;
/// The search steps over bytes; what it steps over is found again backwards. It starts with this step, and after
/// each `1 << SKIP_BITS` misses takes one byte more.
const STEP: usize = 3;
const SKIP_BITS: usize = 5;
/// More than the tokens of [`PLAIN_MAX`] bytes need.
const TOKENS_MAX: usize = 1 << 14;
const HEADER_BYTES: usize = 8;
/// Values that have a half byte of their own; the sixteenth says that a byte follows apart.
const FREQUENT: usize = 15;
const ESCAPE: u8 = 15;
/// What a decompressor may write behind the end of what it was asked for.
pub(crate) const COPY_BYTES: usize = 16;

/// More than a sequence writes whose token no byte continues.
const SHORT_ROOM: usize = 64;

/// A pack is not what a compressor wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// A compressor with the memory that it works in.
#[derive(Debug)]
pub(crate) struct Compressor {
    table: Box<[u16; 1 << HASH_BITS]>,
    tokens: Box<[u8; TOKENS_MAX]>,
    token_count: usize,
    offsets: Box<[[u8; 2]; TOKENS_MAX]>,
    offset_count: usize,
    literals: Vec<u8>,
    literal_count: usize,
}

impl Compressor {
    pub(crate) fn new() -> Self {
        Self {
            table: Box::new([0; 1 << HASH_BITS]),
            tokens: Box::new([0; TOKENS_MAX]),
            token_count: 0,
            offsets: Box::new([[0; 2]; TOKENS_MAX]),
            offset_count: 0,
            literals: vec![0; PLAIN_MAX + COPY_BYTES],
            literal_count: 0,
        }
    }

    /// Compresses at most [`PLAIN_MAX`] bytes to the front of `into`; the length, `None` if it does not fit.
    pub(crate) fn compress(&mut self, plain: &[u8], into: &mut [u8]) -> Option<usize> {
        if plain.len() > PLAIN_MAX {
            return None;
        }
        (self.token_count, self.offset_count, self.literal_count) = (0, 0, 0);
        self.find_matches(plain);
        self.write(into)
    }

    fn find_matches(&mut self, plain: &[u8]) {
        self.table.fill(0);
        let end = plain.len().saturating_sub(TAIL_BYTES);
        let (mut at, mut anchor, mut misses) = (1, 0, STEP << SKIP_BITS);
        while at < end {
            let word = word_at(plain, at);
            let slot = &mut self.table[hash(word)];
            let candidate = usize::from(*slot);
            *slot = at as u16;
            if candidate >= at || (word_at(plain, candidate) ^ word) << (64 - 8 * MATCH_MIN) != 0 {
                at += misses >> SKIP_BITS;
                misses += 1;
                continue;
            }
            let mut length = MATCH_MIN + common(plain, at + MATCH_MIN, candidate + MATCH_MIN);
            let back = common_before(plain, at, candidate).min(at - anchor);
            let (from, to) = (candidate - back, at - back);
            length += back;
            self.sequence(plain, anchor, to - anchor, length);
            self.offsets[self.offset_count] = ((to - from) as u16).to_le_bytes();
            self.offset_count += 1;
            at = to + length;
            anchor = at;
            misses = STEP << SKIP_BITS;
            if at < end {
                self.table[hash(word_at(plain, at - 2))] = (at - 2) as u16;
            }
        }
        self.sequence(plain, anchor, plain.len() - anchor, MATCH_MIN);
    }

    fn sequence(&mut self, plain: &[u8], from: usize, count: usize, match_length: usize) {
        let length = match_length - MATCH_MIN;
        self.token(((count.min(15) << 4) | length.min(15)) as u8);
        self.extend(count);
        self.extend(length);
        let stride = plain.get(from..).and_then(|rest| rest.first_chunk::<COPY_BYTES>());
        let into = &mut self.literals[self.literal_count..];
        match (stride, into.first_chunk_mut::<COPY_BYTES>()) {
            (Some(stride), Some(into)) if count <= COPY_BYTES => *into = *stride,
            _ => into[..count].copy_from_slice(&plain[from..from + count]),
        }
        self.literal_count += count;
    }

    fn extend(&mut self, count: usize) {
        let Some(mut rest) = count.checked_sub(15) else { return };
        while rest >= 255 {
            self.token(255);
            rest -= 255;
        }
        self.token(rest as u8);
    }

    fn token(&mut self, byte: u8) {
        self.tokens[self.token_count] = byte;
        self.token_count += 1;
    }

    /// Header (lengths of tokens, offsets, literals, and of the escaped ones), then the parts.
    fn write(&self, into: &mut [u8]) -> Option<usize> {
        let mut writer = Writer { into, used: HEADER_BYTES };
        writer.put(&self.tokens[..self.token_count])?;
        writer.put(self.offsets[..self.offset_count].as_flattened())?;
        let literals = &self.literals[..self.literal_count];
        let escaped = match Alphabet::of(literals) {
            Some(alphabet) => alphabet.write(literals, &mut writer)?,
            None => {
                writer.put(literals)?;
                u16::MAX
            }
        };
        let (tokens, sequences) = (self.token_count as u16, self.offset_count as u16);
        // All of 65,536 literals would be no compression.
        let literals = u16::try_from(literals.len()).ok()?;
        let Writer { into, used } = writer;
        for (field, value) in into.chunks_exact_mut(2).zip([tokens, sequences, literals, escaped]) {
            field.copy_from_slice(&value.to_le_bytes());
        }
        Some(used)
    }
}

struct Writer<'a> {
    into: &'a mut [u8],
    used: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        self.room(bytes.len())?.copy_from_slice(bytes);
        Some(())
    }

    fn room(&mut self, length: usize) -> Option<&mut [u8]> {
        let room = self.into.get_mut(self.used..self.used + length)?;
        self.used += length;
        Some(room)
    }
}

/// The most frequent values among literals.
struct Alphabet {
    values: [u8; FREQUENT],
    /// Each value's half byte.
    codes: [u8; 256],
    escaped: usize,
}

impl Alphabet {
    /// The alphabet of these literals, `None` if half bytes would not pay.
    fn of(literals: &[u8]) -> Option<Self> {
        let mut counts = [0u32; 256];
        literals.iter().for_each(|&literal| counts[usize::from(literal)] += 1);
        let (mut values, mut codes, mut covered) = ([0; FREQUENT], [ESCAPE; 256], 0);
        for (code, value) in values.iter_mut().enumerate() {
            let (best, &count) = counts.iter().enumerate().max_by_key(|(_, count)| **count)?;
            covered += count as usize;
            (*value, codes[best], counts[best]) = (best as u8, code as u8, 0);
        }
        let escaped = literals.len() - covered;
        let bytes = FREQUENT + literals.len().div_ceil(2) + escaped;
        (bytes * 16 <= literals.len() * 15).then_some(Self { values, codes, escaped })
    }

    /// Writes values, half bytes and escaped literals; how many of the last.
    fn write(&self, literals: &[u8], writer: &mut Writer<'_>) -> Option<u16> {
        writer.put(&self.values)?;
        let code = |literal: u8| self.codes[usize::from(literal)];
        let (pairs, last) = literals.as_chunks::<2>();
        let halves = writer.room(literals.len().div_ceil(2))?;
        for (byte, [low, high]) in halves.iter_mut().zip(pairs) {
            *byte = code(*low) | (code(*high) << 4);
        }
        if let ([last], Some(byte)) = (last, halves.last_mut()) {
            *byte = code(*last);
        }
        // Which literals are rare cannot be predicted: each is written where the next rare one belongs, the last
        // ones perhaps behind the end.
        let escapes = writer.room(self.escaped + 1)?;
        let mut next = 0;
        for literal in literals {
            escapes[next] = *literal;
            next += usize::from(code(*literal) == ESCAPE);
        }
        writer.used -= 1;
        u16::try_from(self.escaped).ok()
    }
}

/// A decompressor with the memory that it works in.
#[derive(Debug)]
pub(crate) struct Decompressor {
    literals: Vec<u8>,
}

impl Decompressor {
    pub(crate) fn new() -> Self {
        Self { literals: vec![0; PLAIN_MAX + COPY_BYTES] }
    }

    /// Decompresses exactly `length` bytes to the front of `plain`, which is longer by [`COPY_BYTES`] at least.
    pub(crate) fn decompress(
        &mut self,
        packed: &[u8],
        plain: &mut [u8],
        length: usize,
    ) -> Result<(), Malformed> {
        let (header, rest) = packed.split_first_chunk::<HEADER_BYTES>().ok_or(Malformed)?;
        let field = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
        let (tokens, rest) = rest.split_at_checked(field(0)).ok_or(Malformed)?;
        let (offsets, rest) = rest.split_at_checked(field(2) * 2).ok_or(Malformed)?;
        let literals = self.read_literals(rest, field(4), field(6))?;
        let plain = plain.get_mut(..length + COPY_BYTES).ok_or(Malformed)?;
        replay(tokens, offsets.as_chunks().0, literals, plain, length)
    }

    /// The literals, with [`COPY_BYTES`] of anything behind them.
    fn read_literals(&mut self, packed: &[u8], count: usize, escaped: usize) -> Result<&[u8], Malformed> {
        let into = &mut self.literals[..count + COPY_BYTES];
        if escaped == usize::from(u16::MAX) {
            into[..count].copy_from_slice(
                packed.get(..count).filter(|all| all.len() == packed.len()).ok_or(Malformed)?,
            );
            return Ok(into);
        }
        let (values, rest) = packed.split_first_chunk::<FREQUENT>().ok_or(Malformed)?;
        let (halves, escapes) = rest.split_at_checked(count.div_ceil(2)).ok_or(Malformed)?;
        if escapes.len() != escaped {
            return Err(Malformed);
        }
        let pairs = Pair::table(values);
        let mut next = 0;
        for (pair, byte) in into.as_chunks_mut::<2>().0.iter_mut().zip(halves) {
            let known = pairs[usize::from(*byte)];
            let escapes = match escapes.get(next..) {
                Some([low, high, ..]) => u16::from_le_bytes([*low, *high]),
                Some([last]) => u16::from(*last),
                _ => 0,
            };
            *pair = (known.values | ((escapes << known.shift) & known.mask)).to_le_bytes();
            next += usize::from(known.escapes);
        }
        if next > escaped {
            return Err(Malformed);
        }
        Ok(into)
    }
}

/// What one byte of half bytes says. Where the escaped literals are cannot be predicted, so nothing asks.
#[derive(Clone, Copy)]
struct Pair {
    /// The two literals, 0 for an escaped one.
    values: u16,
    /// Which of the two are escaped, as bits of `values`.
    mask: u16,
    /// Bits by which the next escaped literals are to be moved to where they belong.
    shift: u8,
    /// How many are.
    escapes: u8,
}

impl Pair {
    /// For each byte, `values` being the frequent ones.
    fn table(values: &[u8; FREQUENT]) -> [Self; 256] {
        let mut value_of = [0; 16];
        value_of[..FREQUENT].copy_from_slice(values);
        core::array::from_fn(|byte| {
            let codes = [byte as u8 & 15, byte as u8 >> 4];
            let is_escaped = codes.map(|code| code == ESCAPE);
            Self {
                values: u16::from_le_bytes(codes.map(|code| value_of[usize::from(code)])),
                mask: u16::from_le_bytes(is_escaped.map(|is_escaped| if is_escaped { 0xff } else { 0 })),
                shift: if is_escaped == [false, true] { 8 } else { 0 },
                escapes: is_escaped.map(u8::from).iter().sum(),
            }
        })
    }
}

fn replay(
    mut tokens: &[u8],
    offsets: &[[u8; 2]],
    literals: &[u8],
    plain: &mut [u8],
    length: usize,
) -> Result<(), Malformed> {
    let (mut at, mut read) = (0, 0);
    let literal_count = literals.len() - COPY_BYTES;
    for offset in offsets.iter().map(Some).chain([None]) {
        let (token, rest) = tokens.split_first().ok_or(Malformed)?;
        tokens = rest;
        if let Some(offset) = offset
            && length - at >= SHORT_ROOM
            && let Some((literals_end, end)) = replay_short(*token, *offset, literals, read, plain, at)
        {
            (read, at) = (literals_end, end);
            continue;
        }
        let count = extended(usize::from(token >> 4), &mut tokens)?;
        if count > literal_count - read || count > length - at {
            return Err(Malformed);
        }
        copy_literals(plain, at, literals, read, count);
        (at, read) = (at + count, read + count);
        let match_length = extended(usize::from(token & 15), &mut tokens)? + MATCH_MIN;
        let Some(offset) = offset else { break };
        let offset = usize::from(u16::from_le_bytes(*offset));
        if offset == 0 || offset > at || match_length > length - at {
            return Err(Malformed);
        }
        copy_match(plain, at, offset, match_length);
        at += match_length;
    }
    if at == length && read == literal_count && tokens.is_empty() { Ok(()) } else { Err(Malformed) }
}

/// Replays a sequence that no byte continues, if it is one of the usual kind: how far the literals and the plain bytes
/// then are. Lengths cannot be predicted, so the most is copied at once; there are [`SHORT_ROOM`] plain bytes to come.
fn replay_short(
    token: u8,
    offset: [u8; 2],
    literals: &[u8],
    read: usize,
    plain: &mut [u8],
    at: usize,
) -> Option<(usize, usize)> {
    let (count, match_length) = (usize::from(token >> 4), usize::from(token & 15));
    let offset = usize::from(u16::from_le_bytes(offset));
    let to = at + count;
    if count == 15 || match_length == 15 || offset < COPY_BYTES || offset > to {
        return None;
    }
    // Literals have COPY_BYTES of anything behind them: this many are there.
    let stride = *literals.get(read..)?.first_chunk::<COPY_BYTES>()?;
    *plain.get_mut(at..)?.first_chunk_mut()? = stride;
    for part in [0, COPY_BYTES] {
        let stride = *plain.get(to - offset + part..)?.first_chunk::<COPY_BYTES>()?;
        *plain.get_mut(to + part..)?.first_chunk_mut()? = stride;
    }
    let read = read + count;
    (read + COPY_BYTES <= literals.len()).then_some((read, to + match_length + MATCH_MIN))
}

/// A half of a token with what continues it.
fn extended(half: usize, tokens: &mut &[u8]) -> Result<usize, Malformed> {
    let mut sum = half;
    if half == 15 {
        loop {
            let (byte, rest) = tokens.split_first().ok_or(Malformed)?;
            *tokens = rest;
            sum += usize::from(*byte);
            if *byte < 255 {
                break;
            }
        }
    }
    Ok(sum)
}

/// Copies in strides that may write up to [`COPY_BYTES`] behind the end: both sides have so much more.
fn copy_literals(plain: &mut [u8], at: usize, literals: &[u8], from: usize, count: usize) {
    let mut done = 0;
    while done < count {
        let stride: [u8; COPY_BYTES] = *literals[from + done..].first_chunk().unwrap_or(&[0; COPY_BYTES]);
        if let Some(to) = plain[at + done..].first_chunk_mut::<COPY_BYTES>() {
            *to = stride;
        }
        done += COPY_BYTES;
    }
}

fn copy_match(plain: &mut [u8], at: usize, offset: usize, length: usize) {
    if offset < COPY_BYTES {
        for to in at..at + length {
            plain[to] = plain[to - offset];
        }
        return;
    }
    let mut done = 0;
    while done < length {
        let stride: [u8; COPY_BYTES] = *plain[at + done - offset..].first_chunk().unwrap_or(&[0; COPY_BYTES]);
        if let Some(to) = plain[at + done..].first_chunk_mut::<COPY_BYTES>() {
            *to = stride;
        }
        done += COPY_BYTES;
    }
}

fn word_at(plain: &[u8], at: usize) -> u64 {
    plain[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Of the first [`MATCH_MIN`] bytes.
fn hash(word: u64) -> usize {
    ((word << (64 - 8 * MATCH_MIN)).wrapping_mul(0x9e37_79b1_85eb_ca87) >> (64 - HASH_BITS)) as usize
}

/// How many bytes agree before `at` and before `other`, which is earlier; a word of them at most, since the search
/// steps over more only where it has long found nothing.
fn common_before(plain: &[u8], at: usize, other: usize) -> usize {
    match other.checked_sub(8) {
        Some(start) => (word_at(plain, at - 8) ^ word_at(plain, start)).leading_zeros() as usize / 8,
        None => (1..=other).take_while(|back| plain[at - back] == plain[other - back]).count(),
    }
}

/// How many bytes agree from `at` and from `other`, which is earlier, on.
fn common(plain: &[u8], at: usize, other: usize) -> usize {
    let mut length = 0;
    while at + length + 8 <= plain.len() {
        let differences = word_at(plain, at + length) ^ word_at(plain, other + length);
        if differences != 0 {
            return length + differences.trailing_zeros() as usize / 8;
        }
        length += 8;
    }
    while at + length < plain.len() && plain[at + length] == plain[other + length] {
        length += 1;
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::format;

    fn round_trip(plain: &[u8]) -> Option<usize> {
        let mut packed = vec![0; plain.len() + 4096];
        let length = Compressor::new().compress(plain, &mut packed)?;
        let mut back = vec![1; plain.len() + COPY_BYTES];
        Decompressor::new().decompress(&packed[..length], &mut back, plain.len()).unwrap();
        assert!(back[..plain.len()] == *plain);
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
        assert_eq!(Compressor::new().compress(&noise, &mut [0; 4000]), None);
        assert!(round_trip(&noise).is_some());
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
            let _ = Decompressor::new().decompress(&packed, &mut vec![0; length + COPY_BYTES], length);
        }

        #[test]
        fn damaged_packs_are_decompressed_without_panic(at in 0usize..2000, value in any::<u8>(), cut in 0usize..3000) {
            let plain = text(8192);
            let mut packed = vec![0; 8192];
            let length = Compressor::new().compress(&plain, &mut packed).unwrap();
            packed.truncate(length.saturating_sub(cut));
            if let Some(byte) = packed.get_mut(at) {
                *byte = value;
            }
            let _ = Decompressor::new().decompress(&packed, &mut vec![0; 8192 + COPY_BYTES], 8192);
        }
    }
}
