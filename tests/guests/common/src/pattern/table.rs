//! What was last written to each page.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::page::mix;
use super::violation::Violation;

/// The record of one page.
#[derive(Debug, Default)]
pub struct Record {
    sequence: AtomicU64,
    check: AtomicU64,
}

/// All records, and the sum of what they should hold.
#[derive(Debug)]
pub struct Table<'m> {
    records: &'m [Record],
    sum: u64,
}

impl Record {
    /// The two words, for tests that damage a record.
    pub fn words(&self) -> [&AtomicU64; 2] {
        [&self.sequence, &self.check]
    }
}

fn check(index: usize, sequence: u64) -> u64 {
    mix(sequence ^ (index as u64).rotate_left(32) ^ u64::MAX)
}

impl<'m> Table<'m> {
    /// Writes all records as "never written".
    pub(crate) fn new(records: &'m [Record]) -> Self {
        let mut table = Self { records, sum: 0 };
        for (index, record) in records.iter().enumerate() {
            record.sequence.store(0, Relaxed);
            table.set(index, 0);
        }
        table
    }

    /// Reads a record and compares it with its own check word.
    pub(crate) fn sequence(&self, index: usize) -> Result<u64, Violation> {
        let sequence = self.records[index].sequence.load(Relaxed);
        match self.records[index].check.load(Relaxed) {
            found if found == check(index, sequence) => Ok(sequence),
            _ => Err(Violation::Record { page: index as u64, sequence }),
        }
    }

    pub(crate) fn set(&mut self, index: usize, sequence: u64) {
        let record = &self.records[index];
        let before = record.sequence.swap(sequence, Relaxed);
        record.check.store(check(index, sequence), Relaxed);
        self.sum = self.sum.wrapping_add(sequence).wrapping_sub(before);
    }

    /// Adds up the table. After a violation goes on from what it holds, so that each is reported once.
    pub(crate) fn verify_sum(&mut self) -> Result<(), Violation> {
        let numbers = self.records.iter().map(|record| record.sequence.load(Relaxed));
        let found = numbers.fold(0_u64, u64::wrapping_add);
        let expected = core::mem::replace(&mut self.sum, found);
        if found == expected { Ok(()) } else { Err(Violation::Sum { expected, found }) }
    }
}
