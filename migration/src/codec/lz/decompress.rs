//! Replays what was written down.

use super::halves::Reader;
use super::{
    CONTINUED, COPY_BYTES, HEADER_BYTES, INDEX_MASK, MATCH_MIN, Malformed, PLAIN_MAX, Plain, ROOM_BYTES,
};

/// A decompressor with the memory that it works in.
#[derive(Debug)]
pub(crate) struct Decompressor {
    reader: Reader,
    plain: Plain,
}

impl Decompressor {
    /// Bytes of the heap that it takes.
    pub(crate) const BYTES: usize = Reader::BYTES + Plain::BYTES;

    pub(crate) fn new() -> Self {
        Self { reader: Reader::new(), plain: Plain::new() }
    }

    /// Decompresses exactly `length` bytes, at most [`PLAIN_MAX`].
    pub(crate) fn decompress(&mut self, packed: &[u8], length: usize) -> Result<&Plain, Malformed> {
        let (header, rest) = packed.split_first_chunk::<HEADER_BYTES>().ok_or(Malformed)?;
        let field = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let (tokens, rest) = rest.split_at_checked(usize::from(field(0))).ok_or(Malformed)?;
        let (offsets, rest) = rest.split_at_checked(usize::from(field(2)) * 2).ok_or(Malformed)?;
        let literals = self.reader.read(rest, field(4), field(6))?;
        if length > PLAIN_MAX {
            return Err(Malformed);
        }
        self.plain.length = length;
        let read = replay(tokens, offsets.as_chunks().0, literals, &mut self.plain.bytes, length)?;
        if read == usize::from(field(4)) { Ok(&self.plain) } else { Err(Malformed) }
    }
}

/// Replays all sequences; how many literals they took. They may take more than there are, anything that lies behind them:
/// the caller compares, once.
fn replay(
    mut tokens: &[u8],
    offsets: &[[u8; 2]],
    literals: &[u8; ROOM_BYTES],
    plain: &mut [u8; ROOM_BYTES],
    length: usize,
) -> Result<usize, Malformed> {
    let length = length.min(PLAIN_MAX);
    // As many literals as plain bytes at most were taken at any time.
    let (mut at, mut read) = (0, 0);
    for offset in offsets {
        let (token, rest) = tokens.split_first().ok_or(Malformed)?;
        tokens = rest;
        if at >= length {
            return Err(Malformed);
        }
        let count = usize::from(token >> 4);
        if count == CONTINUED {
            let count = extended(count, &mut tokens)?;
            copy_literals(plain, at, literals, read, count, length)?;
            (at, read) = (at + count, read + count);
        } else {
            // How many are meant cannot be predicted, so the most is copied. What lies behind `length` is nobody's.
            let stride: [u8; COPY_BYTES] = *chunk_at(literals, read & INDEX_MASK);
            *chunk_at_mut(plain, at) = stride;
            (at, read) = (at + count, read + count);
        }
        let offset = usize::from(u16::from_le_bytes(*offset));
        let match_length = usize::from(token & 15);
        if match_length < CONTINUED && offset >= COPY_BYTES && offset <= at && at < length {
            for part in [0, COPY_BYTES] {
                let stride: [u8; COPY_BYTES] = *chunk_at(plain, at - offset + part);
                *chunk_at_mut(plain, at + part) = stride;
            }
            at += match_length + MATCH_MIN;
        } else {
            let match_length = extended(match_length, &mut tokens)? + MATCH_MIN;
            copy_match(plain, at, offset, match_length, length)?;
            at += match_length;
        }
    }
    let (token, mut tokens) = tokens.split_first().ok_or(Malformed)?;
    let count = extended(usize::from(token >> 4), &mut tokens)?;
    extended(usize::from(token & 15), &mut tokens)?;
    copy_literals(plain, at, literals, read, count, length)?;
    if at + count == length && tokens.is_empty() { Ok(read + count) } else { Err(Malformed) }
}

/// A half of a token with what continues it.
fn extended(half: usize, tokens: &mut &[u8]) -> Result<usize, Malformed> {
    let mut sum = half;
    if half == CONTINUED {
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

fn chunk_at(bytes: &[u8; ROOM_BYTES], at: usize) -> &[u8; COPY_BYTES] {
    bytes[at..].first_chunk().expect("there is room behind what is asked for")
}

fn chunk_at_mut(bytes: &mut [u8; ROOM_BYTES], at: usize) -> &mut [u8; COPY_BYTES] {
    bytes[at..].first_chunk_mut().expect("there is room behind what is asked for")
}

fn copy_literals(
    plain: &mut [u8; ROOM_BYTES],
    at: usize,
    literals: &[u8; ROOM_BYTES],
    from: usize,
    count: usize,
    length: usize,
) -> Result<(), Malformed> {
    let to = plain[..length].get_mut(at..at + count).ok_or(Malformed)?;
    to.copy_from_slice(&literals[from..from + count]);
    Ok(())
}

/// Copies a match of any length from any place before `at`.
fn copy_match(
    plain: &mut [u8; ROOM_BYTES],
    at: usize,
    offset: usize,
    match_length: usize,
    length: usize,
) -> Result<(), Malformed> {
    if offset == 0 || offset > at || at + match_length > length {
        return Err(Malformed);
    }
    if offset < COPY_BYTES {
        for to in at..at + match_length {
            plain[to] = plain[to - offset];
        }
        return Ok(());
    }
    for to in (at..at + match_length).step_by(COPY_BYTES) {
        let stride: [u8; COPY_BYTES] = *chunk_at(plain, to - offset);
        *chunk_at_mut(plain, to) = stride;
    }
    Ok(())
}
