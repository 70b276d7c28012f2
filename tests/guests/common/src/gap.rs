//! The longest time between two events: what a guest sees of the time in which it was stopped.

/// Remembers the longest gap, over all time and since it was last asked.
#[derive(Debug, Default)]
pub struct Gap {
    last: Option<u64>,
    longest: u64,
    recent: u64,
}

impl Gap {
    /// An event at `now`, in any unit.
    pub fn event(&mut self, now: u64) {
        if let Some(last) = self.last {
            let gap = now.saturating_sub(last);
            self.longest = self.longest.max(gap);
            self.recent = self.recent.max(gap);
        }
        self.last = Some(now);
    }

    /// The time until the next event does not count.
    pub fn restart(&mut self) {
        self.last = None;
    }

    /// The longest of all.
    pub fn longest(&self) -> u64 {
        self.longest
    }

    /// The longest since the last call.
    pub fn take_recent(&mut self) -> u64 {
        core::mem::take(&mut self.recent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_is_kept_and_the_recent_one_taken() {
        let mut gap = Gap::default();
        [10, 12, 42, 43].into_iter().for_each(|now| gap.event(now));
        assert_eq!((gap.longest(), gap.take_recent()), (30, 30));
        gap.event(48);
        assert_eq!((gap.longest(), gap.take_recent()), (30, 5));
    }

    #[test]
    fn a_restart_makes_no_gap() {
        let mut gap = Gap::default();
        gap.event(1);
        gap.restart();
        gap.event(100);
        assert_eq!(gap.longest(), 0);
    }

    #[test]
    fn one_event_makes_no_gap() {
        let mut gap = Gap::default();
        gap.event(1 << 40);
        assert_eq!(gap.longest(), 0);
    }
}
