//! Writes down what repeats.

use alloc::boxed::Box;

use super::halves::Alphabet;
use super::search::Search;
use super::{HEADER_BYTES, Plain, ROOM_BYTES, zeroed};

/// A compressor with the memory that it works in.
#[derive(Debug)]
pub(crate) struct Compressor {
    search: Search,
    escapes: Box<[u8; ROOM_BYTES]>,
}

impl Compressor {
    /// Bytes of the heap that it takes.
    pub(crate) const BYTES: usize = Search::BYTES + ROOM_BYTES;

    pub(crate) fn new() -> Self {
        Self { search: Search::new(), escapes: zeroed() }
    }

    /// Compresses plain bytes to the front of `into`; the length, `None` if it does not fit.
    pub(crate) fn compress(&mut self, plain: &Plain, into: &mut [u8]) -> Option<usize> {
        self.search.run(plain);
        self.write(into)
    }

    /// Header (lengths of tokens, offsets, literals, and of the escaped ones), then the parts.
    fn write(&mut self, into: &mut [u8]) -> Option<usize> {
        let (tokens, offsets, literals) =
            (self.search.tokens(), self.search.offsets(), self.search.literals());
        let mut writer = Writer { into, used: HEADER_BYTES };
        writer.put(tokens)?;
        writer.put(offsets.as_flattened())?;
        let escaped = match Alphabet::of(literals) {
            Some(alphabet) => {
                writer.put(alphabet.values())?;
                let halves = writer.room(literals.len().div_ceil(2))?;
                let escaped = alphabet.write(literals, halves, &mut self.escapes);
                writer.put(&self.escapes[..escaped])?;
                u16::try_from(escaped).ok().filter(|escaped| *escaped < u16::MAX)?
            }
            None => {
                writer.put(literals)?;
                u16::MAX
            }
        };
        // All of 65,536 literals would be no compression.
        let fields =
            [tokens.len() as u16, offsets.len() as u16, u16::try_from(literals.len()).ok()?, escaped];
        let Writer { into, used } = writer;
        for (field, value) in into.chunks_exact_mut(2).zip(fields) {
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
