//! What can be found wrong, in words.

use core::fmt;

use super::page::Stamp;

/// One thing that was found wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// A page does not hold what was last written to it.
    Page {
        /// Its index.
        page: u64,
        /// Which 512 bytes of it.
        place: usize,
        /// What was last written.
        expected: Stamp,
        /// What is there.
        found: Stamp,
        /// What that looks like.
        fault: Fault,
    },
    /// A word of a page that never changes has changed.
    Filling {
        /// The page's index.
        page: u64,
        /// Which of its 512 words.
        word: usize,
    },
    /// A record of the table contradicts itself.
    Record {
        /// The index of the page that it belongs to.
        page: u64,
        /// What it holds.
        sequence: u64,
    },
    /// The table's sum is not that of what was written to it: a part of the table is stale.
    Sum {
        /// The sum of what was written.
        expected: u64,
        /// The sum of what is there.
        found: u64,
    },
}

/// How a page went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is zero: never sent, or sent and not written.
    Zero,
    /// It holds what was written to it earlier: a lost write.
    Stale,
    /// It holds what was written to another page.
    Foreign,
    /// Its parts are of different writes.
    Torn,
    /// It holds a later write than its record says: the table is stale, or the page came from the future.
    NewerThanRecord,
    /// It holds what was never written.
    Damaged,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Zero => "zero",
            Self::Stale => "stale",
            Self::Foreign => "foreign",
            Self::Torn => "torn",
            Self::NewerThanRecord => "newer than its record",
            Self::Damaged => "damaged",
        })
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Page { page, place, expected, found, fault } => write!(
                f,
                "page {page} is {fault}: place {place} holds write {} to page {}, the last was write {}",
                found.sequence, found.page, expected.sequence
            ),
            Self::Filling { page, word } => write!(f, "page {page} is damaged at its word {word}"),
            Self::Record { page, sequence } => {
                write!(f, "the record of page {page} is damaged: it says write {sequence}")
            }
            Self::Sum { expected, found } => {
                write!(f, "the table is stale: its sum is {found}, that of what was written {expected}")
            }
        }
    }
}
