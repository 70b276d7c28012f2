//! Spreads a number of steps per second over time.

/// After a pause, for example while the machine was stopped, at most this much time is caught up.
const CATCH_UP_NS: u64 = 100_000_000;

const NS_PER_SECOND: u64 = 1_000_000_000;

/// How many steps are due.
#[derive(Debug)]
pub struct Pace {
    per_second: u64,
    last_ns: u64,
    /// Time that was not enough for a step, in steps times nanoseconds per second.
    remainder: u64,
}

impl Pace {
    /// `per_second` steps from `now_ns` on. More than 10^9 a second are taken for that many.
    pub fn new(per_second: u64, now_ns: u64) -> Self {
        Self { per_second: per_second.min(NS_PER_SECOND), last_ns: now_ns, remainder: 0 }
    }

    /// The number of steps to make now. A clock that went backwards makes none.
    pub fn due(&mut self, now_ns: u64) -> u64 {
        let elapsed_ns = now_ns.saturating_sub(self.last_ns).min(CATCH_UP_NS);
        self.last_ns = now_ns;
        let credit = elapsed_ns * self.per_second + self.remainder;
        self.remainder = credit % NS_PER_SECOND;
        credit / NS_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_met_exactly_over_a_second_of_odd_intervals() {
        for rate in [1, 7, 1000, 123_456] {
            let mut pace = Pace::new(rate, 50);
            let mut now_ns = 50;
            let mut steps = 0;
            for interval_ns in [9_999_999, 1, 33_333_333, 56_666_667].into_iter().cycle().take(40) {
                now_ns += interval_ns;
                steps += pace.due(now_ns);
            }
            assert_eq!(steps, rate);
        }
    }

    #[test]
    fn a_long_pause_is_not_caught_up() {
        let mut pace = Pace::new(1000, 0);
        assert_eq!(pace.due(60 * NS_PER_SECOND), 100);
        assert_eq!(pace.due(60 * NS_PER_SECOND), 0);
    }

    #[test]
    fn a_clock_that_goes_backwards_makes_no_step() {
        let mut pace = Pace::new(1000, NS_PER_SECOND);
        assert_eq!(pace.due(0), 0);
    }
}
