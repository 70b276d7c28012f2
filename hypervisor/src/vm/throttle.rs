//! Keeping a guest from running for a part of the time, so that it writes less than a wire can carry. Pure.

/// Parts of a second that one period takes.
const PERIODS_PER_SECOND: u64 = 50;
/// Most of the time that a guest can be kept from running, in percent.
pub const PERCENT_MAX: u8 = 99;

/// A share of the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Throttle {
    percent: u8,
    period_ticks: u64,
}

/// Whether the guest may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Until this TSC.
    RunUntil(u64),
    /// Not before this TSC.
    WaitUntil(u64),
}

impl Throttle {
    /// No throttle, on a host whose TSC runs at `tsc_hz`.
    #[must_use]
    pub const fn new(tsc_hz: u64) -> Self {
        let period = tsc_hz / PERIODS_PER_SECOND;
        Self { percent: 0, period_ticks: if period == 0 { 1 } else { period } }
    }

    /// Takes away `percent` of the time, at most [`PERCENT_MAX`].
    pub const fn set(&mut self, percent: u8) {
        self.percent = if percent > PERCENT_MAX { PERCENT_MAX } else { percent };
    }

    /// Percentage of the time that is taken away.
    #[must_use]
    pub const fn percent(&self) -> u8 {
        self.percent
    }

    /// Whether the guest may run at `now`: the first part of each period is its own.
    #[must_use]
    pub const fn share(&self, now: u64) -> Share {
        if self.percent == 0 {
            return Share::RunUntil(u64::MAX);
        }
        let own = self.period_ticks - self.period_ticks / 100 * self.percent as u64;
        let into = now % self.period_ticks;
        if into < own {
            Share::RunUntil(now - into + own)
        } else {
            Share::WaitUntil(now - into + self.period_ticks)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_a_throttle_the_guest_always_runs() {
        assert_eq!(Throttle::new(1_000_000).share(77), Share::RunUntil(u64::MAX));
    }

    #[test]
    fn a_guest_is_never_stopped_altogether() {
        let mut throttle = Throttle::new(1_000_000);
        throttle.set(255);
        assert_eq!(throttle.percent(), PERCENT_MAX);
        assert_eq!(throttle.share(0), Share::RunUntil(200));
    }

    proptest! {
        #[test]
        fn the_share_is_what_was_asked(percent in 1_u8..100, start in 0_u64..1 << 40) {
            let mut throttle = Throttle::new(50_000_000);
            throttle.set(percent);
            let (mut now, mut ran) = (start - start % 1_000_000, 0);
            let begin = now;
            for _ in 0..20 {
                match throttle.share(now) {
                    Share::RunUntil(end) => {
                        ran += end - now;
                        now = end;
                    }
                    Share::WaitUntil(end) => now = end,
                }
            }
            let kept = 100 - ran * 100 / (now - begin);
            prop_assert!(kept.abs_diff(u64::from(percent)) <= 1);
        }
    }
}
