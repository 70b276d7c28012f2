//! What the guest writes while the one round before a switch goes on. Sent in that round, a page that is written again goes
//! twice; and what is written once mostly is written again.
//!
//! So the round passes over what was written since it began. At its end it goes over those pages that have not been written
//! for a while. The others go after the switch, as they would have to in any case.

use crate::bitmap::PageBitmap;

/// Harvests in a generation: what has not been in one for as long as this is thought to be left alone.
const HARVESTS: u32 = 4;

/// See the module.
#[derive(Debug)]
pub(crate) struct Rewritten {
    pages: PageBitmap,
    /// What the harvests of this generation and of the one before brought.
    recent: [PageBitmap; 2],
    harvests: u32,
    /// The round has been at its end, and goes over what was left alone.
    is_revisiting: bool,
}

impl Rewritten {
    /// `None` if there is no memory for it.
    pub(crate) fn new(page_count: u32) -> Option<Self> {
        let empty = || PageBitmap::try_empty(page_count);
        Some(Self { pages: empty()?, recent: [empty()?, empty()?], harvests: 0, is_revisiting: false })
    }

    /// Sets of pages that it consists of.
    pub(super) const SETS: u64 = 3;

    /// Bytes of the heap that it has.
    pub(super) fn bytes(&self) -> u64 {
        self.pages.bytes() + self.recent.iter().map(PageBitmap::bytes).sum::<u64>()
    }

    /// How many there are.
    pub(crate) const fn len(&self) -> u32 {
        self.pages.len()
    }

    /// The guest has written these.
    pub(crate) fn take(&mut self, harvest: &PageBitmap) {
        if self.harvests == HARVESTS {
            self.recent.swap(0, 1);
            self.recent[0].clear();
            self.harvests = 0;
        }
        self.harvests += 1;
        self.recent[0].merge(harvest);
        self.pages.merge(harvest);
    }

    /// The round is at its end: adds those that have been left alone to `pending`, once in a round. Whether there are any.
    pub(crate) fn revisit(&mut self, pending: &mut PageBitmap) -> bool {
        if core::mem::replace(&mut self.is_revisiting, true) {
            return false;
        }
        let before = pending.len();
        pending.merge(&self.pages);
        self.recent.iter().for_each(|recent| pending.subtract(recent));
        self.pages.subtract(pending);
        pending.len() > before
    }

    /// Adds the others too.
    pub(crate) fn give_up(self, pending: &mut PageBitmap) {
        pending.merge(&self.pages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ram::Page;

    fn set(pages: &[u32]) -> PageBitmap {
        let mut set = PageBitmap::empty(100);
        pages.iter().for_each(|page| set.insert(Page(*page)));
        set
    }

    #[test]
    fn what_was_left_alone_goes_in_the_round_and_the_rest_behind_it() {
        let mut rewritten = Rewritten::new(100).unwrap();
        rewritten.take(&set(&[1, 2, 3]));
        for _ in 0..2 * HARVESTS {
            rewritten.take(&set(&[3, 50]));
        }
        assert_eq!(rewritten.len(), 4);
        let mut pending = set(&[]);
        assert!(rewritten.revisit(&mut pending));
        assert_eq!((&pending, rewritten.len()), (&set(&[1, 2]), 2));
        rewritten.take(&set(&[2]));
        pending.clear();
        assert!(!rewritten.revisit(&mut pending), "once");
        assert!(pending.is_empty());
        rewritten.give_up(&mut pending);
        assert_eq!(pending, set(&[2, 3, 50]));
    }

    #[test]
    fn what_is_written_all_the_time_waits_for_the_switch() {
        let mut rewritten = Rewritten::new(100).unwrap();
        for harvest in 0..3 * HARVESTS {
            rewritten.take(&set(&[harvest % 4]));
        }
        let mut pending = set(&[]);
        assert!(!rewritten.revisit(&mut pending));
        assert_eq!((pending.len(), rewritten.len()), (0, 4));
    }
}
