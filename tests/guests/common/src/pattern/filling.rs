//! What stands between the stamps of a page and never changes. Each word follows from the page's index and its own, so
//! that it can be verified without a copy.

use super::page::{WORDS, mix};

/// What the pages hold besides their stamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filling {
    /// Nothing that compresses: the most that a migration can have to send.
    Noise,
    /// What memory in use holds: of six pages three are lines of a log, two noise, and one is an earlier page of noise with
    /// a few words changed. They come in runs, as allocations do.
    Mixed,
}

/// Pages of one kind that lie side by side, times one, two and three.
const RUN: u64 = 8;
const KINDS: u64 = 6;
/// How far before its copy the page lies of which one is made: five runs.
const TO_ORIGINAL: u64 = 5 * RUN;
/// One of so many words of a copy is another.
const WORDS_PER_CHANGE: u64 = 64;

/// A line of 128 bytes. Each `#` is a digit of its own in every line.
const LINE: &[u8; 128] = b"2024-03-17T##:##:##.###Z node-## postgres[####]: INFO request \
    id=######## path=/api/v1/orders/#### status=200 dur_us=######.###\n";
const LINE_WORDS: usize = LINE.len() / 8;
/// The same with `0` for each digit, and which bits of a word are the digits'. They are octal: one OR makes a word.
const TEXT: [(u64, u64); LINE_WORDS] = text();

const fn text() -> [(u64, u64); LINE_WORDS] {
    let mut words = [(0, 0); LINE_WORDS];
    let mut at = 0;
    while at < LINE.len() {
        let (byte, digit) = if LINE[at] == b'#' { (b'0', 7) } else { (LINE[at], 0) };
        let shift = at % 8 * 8;
        let (bytes, digits) = words[at / 8];
        words[at / 8] = (bytes | (byte as u64) << shift, digits | digit << shift);
        at += 1;
    }
    words
}

impl Filling {
    /// The word `word`, of 512, of page `page`.
    pub fn word(self, page: u64, word: usize) -> u64 {
        if self == Self::Noise {
            return noise(page, word);
        }
        match page / RUN % KINDS {
            0 | 1 => noise(page, word),
            2..=4 => {
                let (bytes, digits) = TEXT[word % LINE_WORDS];
                bytes | noise(page, word) & digits
            }
            _ => {
                let own = noise(page, word);
                if own.is_multiple_of(WORDS_PER_CHANGE) { own } else { noise(page - TO_ORIGINAL, word) }
            }
        }
    }
}

fn noise(page: u64, word: usize) -> u64 {
    mix(page * WORDS as u64 + word as u64 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;
    use std::vec::Vec;

    fn page(page: u64) -> Vec<u64> {
        (0..WORDS).map(|word| Filling::Mixed.word(page, word)).collect()
    }

    #[test]
    fn half_of_mixed_pages_are_lines_of_text() {
        let is_text = |index: &u64| page(*index).iter().all(|word| word.to_le_bytes().is_ascii());
        assert_eq!(
            (0..RUN * KINDS).filter(is_text).collect::<Vec<_>>(),
            (2 * RUN..5 * RUN).collect::<Vec<_>>()
        );
        let text =
            String::from_utf8(page(2 * RUN).iter().flat_map(|word| word.to_le_bytes()).collect()).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 32);
        assert!(lines.iter().all(|line| line.contains("Z node-") && line.contains(" postgres[")), "{text}");
        assert!(lines.windows(2).all(|pair| pair[0] != pair[1]), "{text}");
        assert!(!text.contains('#'), "{text}");
    }

    #[test]
    fn a_sixth_are_copies_with_a_few_words_changed() {
        for copy in 5 * RUN..6 * RUN {
            let original = page(copy - TO_ORIGINAL);
            let changed = page(copy).iter().zip(&original).filter(|(a, b)| a != b).count();
            assert!((1..=24).contains(&changed), "{changed} of page {copy}");
        }
    }
}
