//! Data that compresses badly, kept in a tmpfs, and its checksum.
//!
//! Both are of our own making because everything here may run on an emulated processor: a few instructions per eight
//! bytes instead of the hundreds of a cryptographic hash. They guard against a faulty migration, not an attacker.

use std::fs::{self, File};
use std::io::{self, Read, Write};

const DATA: &str = "/data/data";
const SUM: &str = "/data/sum";

const PAGE: usize = 4096;
const PAGES_PER_MIB: u64 = 256;
/// Pages per read and write.
const BATCH: usize = 16;

/// Writes the data and remembers its checksum, which it gives.
pub(crate) fn create(mib: u64) -> io::Result<u64> {
    let mut file = File::create(DATA)?;
    let mut buffer = [0; PAGE * BATCH];
    let mut sum = Sum::default();
    for batch in 0..mib * PAGES_PER_MIB / BATCH as u64 {
        for (index, page) in buffer.chunks_exact_mut(PAGE).enumerate() {
            fill(page, batch * BATCH as u64 + index as u64);
        }
        sum.add(&buffer);
        file.write_all(&buffer)?;
    }
    let sum = sum.finish();
    fs::write(SUM, format!("{sum:016x}\n"))?;
    Ok(sum)
}

/// What a verification found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The data has the checksum that it had.
    Same(u64),
    /// It has another one.
    Different {
        /// The checksum remembered.
        expected: String,
        /// The checksum now.
        found: u64,
        /// How many pages differ from what was generated.
        pages: u64,
        /// The first of them.
        first: Option<u64>,
    },
}

/// Reads the data again and compares.
pub(crate) fn verify() -> io::Result<Verdict> {
    let expected = fs::read_to_string(SUM)?.trim().to_owned();
    compare(&mut File::open(DATA)?, expected)
}

fn compare(data: &mut impl Read, expected: String) -> io::Result<Verdict> {
    let mut buffer = [0; PAGE * BATCH];
    let mut page = [0; PAGE];
    let mut sum = Sum::default();
    let (mut index, mut pages, mut first) = (0, 0, None);
    while let Some(()) = read_batch(data, &mut buffer)? {
        sum.add(&buffer);
        for found in buffer.chunks_exact(PAGE) {
            fill(&mut page, index);
            if found != page {
                pages += 1;
                first = first.or(Some(index));
            }
            index += 1;
        }
    }
    let found = sum.finish();
    let is_same = format!("{found:016x}") == expected && pages == 0;
    Ok(if is_same { Verdict::Same(found) } else { Verdict::Different { expected, found, pages, first } })
}

/// Fills the buffer; `None` at the end of the data, an error if the data ends amid a batch.
fn read_batch(data: &mut impl Read, buffer: &mut [u8]) -> io::Result<Option<()>> {
    match data.read_exact(buffer) {
        Ok(()) => Ok(Some(())),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// Fills a page with what only its index says: an xorshift sequence.
fn fill(page: &mut [u8], index: u64) {
    let mut state = (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for word in page.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
}

/// A checksum of words: a change of one word always shows, and so does a change of their order.
#[derive(Default)]
struct Sum(u64);

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        for word in bytes.chunks_exact(8) {
            let word = word.try_into().map_or(0, u64::from_le_bytes);
            self.0 = (self.0.rotate_left(29) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }

    fn finish(self) -> u64 {
        (self.0 ^ (self.0 >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(pages: u64) -> Vec<u8> {
        let mut bytes = vec![0; pages as usize * PAGE];
        bytes.chunks_exact_mut(PAGE).zip(0..).for_each(|(page, index)| fill(page, index));
        bytes
    }

    fn sum(bytes: &[u8]) -> u64 {
        let mut sum = Sum::default();
        sum.add(bytes);
        sum.finish()
    }

    #[test]
    fn unchanged_data_is_the_same() {
        let bytes = data(32);
        let sum = sum(&bytes);
        assert_eq!(compare(&mut &bytes[..], format!("{sum:016x}")).unwrap(), Verdict::Same(sum));
    }

    #[test]
    fn one_flipped_bit_is_found_and_its_page_named() {
        let mut bytes = data(32);
        let expected = format!("{:016x}", sum(&bytes));
        bytes[19 * PAGE + 77] ^= 8;
        let verdict = compare(&mut &bytes[..], expected).unwrap();
        assert!(matches!(verdict, Verdict::Different { pages: 1, first: Some(19), .. }), "{verdict:?}");
    }

    #[test]
    fn two_swapped_pages_and_a_zero_page_are_found() {
        let mut bytes = data(16);
        let expected = format!("{:016x}", sum(&bytes));
        let (one, other) = bytes.split_at_mut(8 * PAGE);
        one[..PAGE].swap_with_slice(&mut other[..PAGE]);
        other[PAGE..2 * PAGE].fill(0);
        let verdict = compare(&mut &bytes[..], expected).unwrap();
        assert!(matches!(verdict, Verdict::Different { pages: 3, first: Some(0), .. }), "{verdict:?}");
    }

    #[test]
    fn missing_data_is_different() {
        let expected = format!("{:016x}", sum(&data(32)));
        let verdict = compare(&mut &data(16)[..], expected).unwrap();
        assert!(matches!(verdict, Verdict::Different { pages: 0, .. }), "{verdict:?}");
    }

    #[test]
    fn no_two_pages_are_equal_and_none_repeats_a_word() {
        let bytes = data(64);
        let mut words: Vec<_> = bytes.chunks_exact(8).collect();
        words.sort();
        words.dedup();
        assert_eq!(words.len(), 64 * 512);
    }
}
