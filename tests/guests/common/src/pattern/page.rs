//! One page: stamps in several places, and a filling between them that never changes.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::filling::Filling;
use super::violation::{Fault, Violation};

pub(super) const WORDS: usize = 512;
/// One stamp in each 512 bytes: also a page of which only a part arrived is found.
const PLACES: usize = 8;
const WORDS_PER_PLACE: usize = WORDS / PLACES;
const WORDS_PER_STAMP: usize = 3;

/// A page of memory. Atomic, not for threads, but so that each access really is one: memory may change behind us.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Page([AtomicU64; WORDS]);

/// What identifies one write to one page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Which write it was, counted over all pages.
    pub sequence: u64,
    /// The page's index.
    pub page: u64,
}

impl Default for Page {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; WORDS])
    }
}

impl Stamp {
    /// A word that changes if either number or the place changes.
    fn check(self, place: usize) -> u64 {
        mix(self.sequence ^ self.page.rotate_left(40) ^ (place as u64).rotate_left(24))
    }
}

impl Page {
    /// Gives one word, for tests that damage a page.
    pub fn word(&self, index: usize) -> &AtomicU64 {
        &self.0[index]
    }

    pub(crate) fn fill(&self, page: u64, filling: Filling) {
        for (index, word) in self.0.iter().enumerate() {
            word.store(filling.word(page, index), Relaxed);
        }
    }

    pub(crate) fn write(&self, stamp: Stamp) {
        for place in 0..PLACES {
            let at = start(place);
            self.0[at].store(stamp.sequence, Relaxed);
            self.0[at + 1].store(stamp.page, Relaxed);
            self.0[at + 2].store(stamp.check(place), Relaxed);
        }
    }

    /// Compares all places with `expected`.
    pub(crate) fn verify(&self, expected: Stamp) -> Result<(), Violation> {
        for place in 0..PLACES {
            let (found, check) = self.read(place);
            if found != expected || check != expected.check(place) {
                let fault = self.classify(expected, place);
                return Err(Violation::Page { page: expected.page, place, expected, found, fault });
            }
        }
        Ok(())
    }

    /// Compares all words between the stamps.
    pub(crate) fn verify_filling(&self, page: u64, filling: Filling) -> Result<(), Violation> {
        for (index, word) in self.0.iter().enumerate() {
            let place = index / WORDS_PER_PLACE;
            let is_stamp = (start(place)..start(place) + WORDS_PER_STAMP).contains(&index);
            if !is_stamp && word.load(Relaxed) != filling.word(page, index) {
                return Err(Violation::Filling { page, word: index });
            }
        }
        Ok(())
    }

    fn read(&self, place: usize) -> (Stamp, u64) {
        let at = start(place);
        let [sequence, page, check] = [0, 1, 2].map(|word| self.0[at + word].load(Relaxed));
        (Stamp { sequence, page }, check)
    }

    /// Says how a page that is wrong at `place` came to be so.
    fn classify(&self, expected: Stamp, place: usize) -> Fault {
        let (found, check) = self.read(place);
        if found == (Stamp { sequence: 0, page: 0 }) && check == 0 {
            return Fault::Zero;
        }
        if check != found.check(place) {
            return Fault::Damaged;
        }
        let places_agree = (0..PLACES).all(|other| self.read(other).0 == found);
        match found {
            _ if !places_agree => Fault::Torn,
            _ if found.page != expected.page => Fault::Foreign,
            _ if found.sequence < expected.sequence => Fault::Stale,
            _ => Fault::NewerThanRecord,
        }
    }
}

/// Where the stamp of a place stands: at another offset in each.
fn start(place: usize) -> usize {
    place * WORDS_PER_PLACE + (place * 11) % (WORDS_PER_PLACE - WORDS_PER_STAMP)
}

/// Spreads every bit over the whole word (the finaliser of `SplitMix64`). Bijective.
pub(crate) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
