//! How busy the CPUs were lately: shares of the last seconds, whoever looked when.
//!
//! What each CPU has spent so far is sampled every second; a look compares with the oldest sample kept. Pure.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use crate::arch::time_account::Spent;
use crate::console::view::LoadView;
use crate::platform::time::Instant;

/// How often it is sampled.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// Samples kept: a look sees the last four to five seconds.
const SAMPLES_MAX: usize = 5;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct LoadMeter {
    /// What each CPU had spent, with the CPU's index; oldest first.
    samples: VecDeque<Vec<(usize, Spent)>>,
    due: Instant,
}

impl LoadMeter {
    /// Takes a sample if one is due; when the next one is.
    pub(super) fn poll(&mut self, now: Instant, spent: impl FnOnce() -> Vec<(usize, Spent)>) -> Instant {
        if now >= self.due {
            self.due = now + SAMPLE_EVERY;
            if self.samples.len() == SAMPLES_MAX {
                self.samples.pop_front();
            }
            self.samples.push_back(spent());
        }
        self.due
    }

    /// The shares of CPU `cpu`'s time until now, when it has spent `spent`.
    pub(super) fn load(&self, cpu: usize, spent: Spent) -> Option<LoadView> {
        let (_, since) = self.samples.iter().flatten().find(|(index, _)| *index == cpu)?;
        shares(*since, spent)
    }
}

/// How the time from `before` to `after` was divided; `None` if none has passed.
fn shares(before: Spent, after: Spent) -> Option<LoadView> {
    let elapsed = after.tsc.checked_sub(before.tsc).filter(|ticks| *ticks > 0)?;
    // A slice of a guest counts when it is over, and CPUs' counters may be a little apart.
    let percent = |ticks: u64, most: u8| {
        let rounded = (u128::from(ticks) * 100 + u128::from(elapsed) / 2) / u128::from(elapsed);
        u8::try_from(rounded).unwrap_or(u8::MAX).min(most)
    };
    let guests_percent = percent(after.guests.saturating_sub(before.guests), 100);
    let idle_percent = percent(after.idle.saturating_sub(before.idle), 100 - guests_percent);
    Some(LoadView { guests_percent, host_percent: 100 - guests_percent - idle_percent, idle_percent })
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;

    const fn second(number: u64) -> Instant {
        Instant::from_nanos(number * 1_000_000_000)
    }

    #[test]
    fn shares_make_a_whole() {
        let before = Spent { tsc: 1_000, guests: 10, idle: 50 };
        let after = Spent { tsc: 2_000, guests: 610, idle: 405 };
        let view = LoadView { guests_percent: 60, host_percent: 4, idle_percent: 36 };
        assert_eq!(shares(before, after), Some(view));
        assert_eq!(shares(before, before), None);
    }

    #[test]
    fn a_slice_that_began_before_does_not_make_more_than_a_whole() {
        let after = Spent { tsc: 100, guests: 140, idle: 30 };
        let view = LoadView { guests_percent: 100, host_percent: 0, idle_percent: 0 };
        assert_eq!(shares(Spent::default(), after), Some(view));
    }

    #[test]
    fn only_the_last_seconds_count() {
        let mut meter = LoadMeter::default();
        let at = |number, guests| Spent { tsc: number * 1_000, guests, idle: 0 };
        assert_eq!(meter.load(0, at(1, 0)), None, "not measured yet");
        // Busy for ten seconds, and then not.
        for number in 0..=20 {
            let due = meter.poll(second(number), || vec![(0, at(number, number.min(10) * 1_000))]);
            assert_eq!(due, second(number + 1));
            meter.poll(second(number), || panic!("it was sampled this second"));
        }
        assert_eq!(meter.load(0, at(21, 10_000)).unwrap().guests_percent, 0);
        assert_eq!(meter.load(0, at(21, 15_000)).unwrap().guests_percent, 100);
        assert_eq!(meter.load(1, at(21, 0)), None, "there is no such CPU");
    }
}
