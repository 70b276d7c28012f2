//! The pattern finds what it promises to find, and nothing where nothing is wrong.

use core::sync::atomic::Ordering::Relaxed;
use std::string::ToString;
use std::vec::Vec;

use super::*;

const PAGES: usize = 37;

struct Memory {
    pages: Vec<Page>,
    records: Vec<Record>,
}

impl Memory {
    fn new() -> Self {
        Self {
            pages: (0..PAGES).map(|_| Page::default()).collect(),
            records: (0..PAGES).map(|_| Record::default()).collect(),
        }
    }

    fn pattern(&self) -> Pattern<'_> {
        self.filled_with(Filling::Noise)
    }

    fn filled_with(&self, filling: Filling) -> Pattern<'_> {
        Pattern::new(&self.pages, &self.records, filling)
    }

    fn save_page(&self, index: usize) -> Vec<u64> {
        (0..512).map(|word| self.pages[index].word(word).load(Relaxed)).collect()
    }

    fn load_page(&self, index: usize, words: &[u64]) {
        words
            .iter()
            .enumerate()
            .for_each(|(word, value)| self.pages[index].word(word).store(*value, Relaxed));
    }

    fn save_record(&self, index: usize) -> [u64; 2] {
        self.records[index].words().map(|word| word.load(Relaxed))
    }

    fn load_record(&self, index: usize, words: [u64; 2]) {
        self.records[index]
            .words()
            .into_iter()
            .zip(words)
            .for_each(|(word, value)| word.store(value, Relaxed));
    }
}

/// Runs `sweeps` sweeps and gives what was found.
fn sweeps(pattern: &mut Pattern, sweeps: usize) -> Vec<Violation> {
    (0..sweeps * PAGES).filter_map(|_| pattern.step().err()).collect()
}

fn fault(violation: &Violation) -> (u64, Fault) {
    match *violation {
        Violation::Page { page, fault, .. } => (page, fault),
        other => panic!("{other}"),
    }
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    let memory = Memory::new();
    let mut pattern = memory.pattern();
    assert_eq!(sweeps(&mut pattern, 100), []);
    assert_eq!(pattern.check(|violation| panic!("{violation}")), 0);
    let counts = pattern.counts();
    assert_eq!((counts.sweeps, counts.violations), (100, 0));
    assert_eq!((counts.writes, counts.verified), (101 * PAGES as u64, 100 * PAGES as u64));
}

#[test]
fn every_flipped_bit_of_a_page_is_found_by_a_check() {
    let memory = Memory::new();
    // Noise; noise and text.
    for (filling, page) in [(Filling::Noise, 5), (Filling::Mixed, 5), (Filling::Mixed, 36)] {
        let mut pattern = memory.filled_with(filling);
        sweeps(&mut pattern, 2);
        for bit in (0..4096 * 8).step_by(61) {
            let word = memory.pages[page].word(bit / 64);
            word.fetch_xor(1 << (bit % 64), Relaxed);
            assert_eq!(pattern.check(|_| ()), 1, "bit {bit} of page {page}, {filling:?}");
            word.fetch_xor(1 << (bit % 64), Relaxed);
            assert_eq!(pattern.check(|_| ()), 0);
        }
    }
}

#[test]
fn a_flipped_bit_of_a_stamp_is_found_once_by_the_next_sweep() {
    let memory = Memory::new();
    let mut pattern = memory.pattern();
    sweeps(&mut pattern, 1);
    memory.pages[9].word(0).fetch_xor(1 << 63, Relaxed);
    let found = sweeps(&mut pattern, 3);
    assert_eq!(found.iter().map(fault).collect::<Vec<_>>(), [(9, Fault::Damaged)]);
    assert_eq!(pattern.counts().violations, 1);
}

#[test]
fn a_lost_write_is_found() {
    let memory = Memory::new();
    let mut pattern = memory.pattern();
    for page in 0..PAGES {
        let old = memory.save_page(page);
        sweeps(&mut pattern, 1);
        memory.load_page(page, &old);
        let found = sweeps(&mut pattern, 1);
        assert_eq!(found.iter().map(fault).collect::<Vec<_>>(), [(page as u64, Fault::Stale)]);
    }
}

#[test]
fn a_page_that_was_never_sent_is_found() {
    let memory = Memory::new();
    let mut pattern = memory.pattern();
    memory.load_page(36, &[0; 512]);
    assert_eq!(sweeps(&mut pattern, 1).iter().map(fault).collect::<Vec<_>>(), [(36, Fault::Zero)]);
}

#[test]
fn a_page_of_two_writes_is_found() {
    let memory = Memory::new();
    let mut pattern = memory.pattern();
    let old = memory.save_page(3);
    sweeps(&mut pattern, 1);
    let mut mixed = memory.save_page(3);
    mixed[256..].copy_from_slice(&old[256..]);
    memory.load_page(3, &mixed);
    assert_eq!(sweeps(&mut pattern, 1).iter().map(fault).collect::<Vec<_>>(), [(3, Fault::Torn)]);
}

#[test]
fn two_swapped_pages_are_found() {
    let memory = Memory::new();
    let mut pattern = memory.pattern();
    let (one, other) = (memory.save_page(1), memory.save_page(2));
    memory.load_page(1, &other);
    memory.load_page(2, &one);
    let mut found: Vec<_> = sweeps(&mut pattern, 1).iter().map(fault).collect();
    found.sort_by_key(|found| found.0);
    assert_eq!(found, [(1, Fault::Foreign), (2, Fault::Foreign)]);
}

#[test]
fn a_stale_record_is_found() {
    let memory = Memory::new();
    let mut pattern = memory.pattern();
    let old = memory.save_record(7);
    sweeps(&mut pattern, 1);
    memory.load_record(7, old);
    let found = sweeps(&mut pattern, 1);
    assert_eq!(fault(&found[0]), (7, Fault::NewerThanRecord));
}

#[test]
fn a_damaged_record_is_found() {
    let memory = Memory::new();
    let mut pattern = memory.pattern();
    memory.records[7].words()[0].fetch_xor(4, Relaxed);
    assert!(matches!(sweeps(&mut pattern, 1)[0], Violation::Record { page: 7, .. }));
}

#[test]
fn a_page_and_its_record_that_fall_back_together_are_found_by_the_sum() {
    let memory = Memory::new();
    let mut pattern = memory.pattern();
    let (page, record) = (memory.save_page(11), memory.save_record(11));
    sweeps(&mut pattern, 1);
    memory.load_page(11, &page);
    memory.load_record(11, record);
    let found = sweeps(&mut pattern, 2);
    assert!(matches!(found[..], [Violation::Sum { .. }]), "{found:?}");
}

#[test]
fn a_violation_names_page_fault_and_writes() {
    let stamp = |sequence| Stamp { sequence, page: 4 };
    let violation =
        Violation::Page { page: 4, place: 2, expected: stamp(90), found: stamp(53), fault: Fault::Stale };
    let text = "page 4 is stale: place 2 holds write 53 to page 4, the last was write 90";
    assert_eq!(violation.to_string(), text);
}
