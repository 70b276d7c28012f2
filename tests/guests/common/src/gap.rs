//! The longest time between two events: what a guest sees of the time in which it was stopped.

/// Remembers the longest gap, over all time and since it was last asked, and how much came too late in all.
#[derive(Debug, Default)]
pub struct Gap {
    last: Option<u64>,
    longest: u64,
    recent: u64,
    pace: Option<u64>,
    lost: u64,
}

impl Gap {
    /// For events that should come every `pace`.
    pub fn paced(pace: u64) -> Self {
        Self { pace: Some(pace), ..Self::default() }
    }

    /// An event at `now`, in any unit.
    pub fn event(&mut self, now: u64) {
        if let Some(last) = self.last {
            let gap = now.saturating_sub(last);
            self.longest = self.longest.max(gap);
            self.recent = self.recent.max(gap);
            if let Some(pace) = self.pace
                && gap > 2 * pace
            {
                self.lost += gap - pace;
            }
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

    /// The time in all by which events came later than the pace, those aside that are late by less than one pace: the work
    /// that was not done meanwhile.
    pub fn lost(&self) -> u64 {
        self.lost
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
    fn what_is_late_by_more_than_a_pace_is_lost_work() {
        let mut gap = Gap::paced(10);
        [0, 10, 29, 60, 70].into_iter().for_each(|now| gap.event(now));
        assert_eq!(gap.lost(), 21);
        gap.restart();
        gap.event(1000);
        assert_eq!(gap.lost(), 21);
        let mut without_pace = Gap::default();
        [0, 1000].into_iter().for_each(|now| without_pace.event(now));
        assert_eq!(without_pace.lost(), 0);
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
