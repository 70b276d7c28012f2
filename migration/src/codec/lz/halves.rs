//! Literals in half bytes: the most frequent values have a code of their own, all others are escaped, each a byte apart.

use alloc::boxed::Box;

use super::{INDEX_MASK, Malformed, ROOM_BYTES, zeroed};

/// Values that have a half byte of their own; the sixteenth says that a byte follows apart.
const FREQUENT: usize = 15;
const ESCAPE: u8 = 15;
/// Of each so many literals in a row, [`SAMPLE_BYTES`] say which values are frequent.
const STRETCH_BYTES: usize = 64;
const SAMPLE_BYTES: usize = 16;

/// The most frequent values among literals.
pub(super) struct Alphabet([u8; FREQUENT]);

impl Alphabet {
    /// The alphabet of these literals, `None` if half bytes would not pay.
    pub(super) fn of(literals: &[u8]) -> Option<Self> {
        let mut counts = [0u16; 256];
        let mut samples = 0;
        for stretch in literals.chunks(STRETCH_BYTES) {
            let sample = &stretch[..stretch.len().min(SAMPLE_BYTES)];
            sample.iter().for_each(|&literal| counts[usize::from(literal)] += 1);
            samples += sample.len();
        }
        // Most frequent first; of values as frequent as each other the greatest.
        let mut best = [0u32; FREQUENT];
        for (value, &count) in counts.iter().enumerate() {
            let mut one = (u32::from(count) << 8) | value as u32;
            if one > best[FREQUENT - 1] {
                for other in &mut best {
                    (*other, one) = ((*other).max(one), (*other).min(one));
                }
            }
        }
        let covered: usize = best.iter().map(|one| (one >> 8) as usize).sum();
        // Half a byte each, a whole one for each that is not covered, and the alphabet: at most 15 of 16 of what they are.
        let pays = samples * 8 + (samples - covered) * 16 <= samples * 14 && literals.len() >= FREQUENT * 16;
        pays.then(|| Self(best.map(|one| one as u8)))
    }

    pub(super) const fn values(&self) -> &[u8; FREQUENT] {
        &self.0
    }

    /// Writes half bytes, and the escaped literals apart; how many of the last.
    pub(super) fn write(&self, literals: &[u8], halves: &mut [u8], escapes: &mut [u8; ROOM_BYTES]) -> usize {
        // A literal's half byte, and behind it whether it is escaped.
        let mut codes = [u16::from(ESCAPE) | 0x100; 256];
        for (code, value) in self.0.iter().enumerate() {
            codes[usize::from(*value)] = code as u16;
        }
        let (pairs, last) = literals.as_chunks::<2>();
        // Which literals are rare cannot be predicted: each is written where the next rare one belongs.
        let mut next = 0;
        for (byte, [low, high]) in halves.iter_mut().zip(pairs) {
            let codes = [codes[usize::from(*low)], codes[usize::from(*high)]];
            *byte = (codes[0] | (codes[1] << 4)) as u8;
            escapes[next & INDEX_MASK] = *low;
            next += usize::from(codes[0] >> 8);
            escapes[next & INDEX_MASK] = *high;
            next += usize::from(codes[1] >> 8);
        }
        if let ([last], Some(byte)) = (last, halves.last_mut()) {
            let code = codes[usize::from(*last)];
            *byte = code as u8;
            escapes[next & INDEX_MASK] = *last;
            next += usize::from(code >> 8);
        }
        next
    }
}

/// A reader of literals with the memory that it works in.
#[derive(Debug)]
pub(super) struct Reader {
    literals: Box<[u8; ROOM_BYTES]>,
    escapes: Box<[u8; ROOM_BYTES]>,
}

impl Reader {
    /// Bytes of the heap that it takes.
    pub(super) const BYTES: usize = 2 * ROOM_BYTES;

    pub(super) fn new() -> Self {
        Self { literals: zeroed(), escapes: zeroed() }
    }

    /// The literals, so many of them, with anything behind them; `escaped` are, [`u16::MAX`] says that none has a half
    /// byte.
    pub(super) fn read(
        &mut self,
        packed: &[u8],
        count: u16,
        escaped: u16,
    ) -> Result<&[u8; ROOM_BYTES], Malformed> {
        let (count, escaped) = (usize::from(count), usize::from(escaped));
        if escaped == usize::from(u16::MAX) {
            let all = packed.get(..count).filter(|all| all.len() == packed.len()).ok_or(Malformed)?;
            self.literals[..count].copy_from_slice(all);
            return Ok(&self.literals);
        }
        let (values, rest) = packed.split_first_chunk::<FREQUENT>().ok_or(Malformed)?;
        let (halves, escapes) = rest.split_at_checked(count.div_ceil(2)).ok_or(Malformed)?;
        if escapes.len() != escaped {
            return Err(Malformed);
        }
        self.escapes[..escaped].copy_from_slice(escapes);
        let pairs = Pair::table(values);
        let mut next = 0;
        for (pair, byte) in self.literals.as_chunks_mut::<2>().0.iter_mut().zip(halves) {
            let known = pairs[usize::from(*byte)];
            let escapes =
                self.escapes[next & INDEX_MASK..].first_chunk().map_or(0, |two| u16::from_le_bytes(*two));
            *pair = (known.values | ((escapes << known.shift) & known.mask)).to_le_bytes();
            next += usize::from(known.escapes);
        }
        if next > escaped { Err(Malformed) } else { Ok(&self.literals) }
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
    shift: u16,
    /// How many are.
    escapes: u16,
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
                escapes: is_escaped.map(u16::from).iter().sum(),
            }
        })
    }
}
