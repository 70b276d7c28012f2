//! The page-modification log (SDM 29.3.6): a page of guest-physical addresses that the processor fills from
//! the end.

use crate::addr::{Gfn, Gpa};

/// Entries of the log.
pub const ENTRIES: usize = 512;
/// The index of an empty log.
pub const EMPTY_INDEX: u16 = ENTRIES as u16 - 1;

/// The positions of the entries that the processor has written, given the PML index it left.
///
/// The index is that of the next entry, counting down from 511, and has wrapped to a value above 511 when the log is
/// full.
#[must_use]
pub const fn written(index: u16) -> core::ops::Range<usize> {
    if index as usize >= ENTRIES { 0..ENTRIES } else { index as usize + 1..ENTRIES }
}

/// The frame that a log entry names.
#[must_use]
pub const fn frame(entry: u64) -> Gfn {
    Gpa::new(entry).frame()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_a_partly_filled_and_a_full_log() {
        assert!(written(EMPTY_INDEX).is_empty());
        assert_eq!(written(509), 510..512);
        assert_eq!(written(0), 1..512);
        assert_eq!(written(0xffff), 0..512);
    }
}
