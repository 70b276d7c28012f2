//! How long waits take: a histogram that costs a kilobyte and no division.

use alloc::boxed::Box;
use core::time::Duration;

use crate::status::Waits;

/// Buckets of an octave: what is read from the histogram is too long by at most a quarter.
const SUB_BITS: u32 = 2;
const BUCKETS: usize = 64 << SUB_BITS;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Latency {
    buckets: Box<[u32; BUCKETS]>,
    count: u64,
    longest: Duration,
    total: Duration,
}

impl Default for Latency {
    fn default() -> Self {
        Self { buckets: Box::new([0; BUCKETS]), count: 0, longest: Duration::ZERO, total: Duration::ZERO }
    }
}

fn bucket(nanos: u64) -> usize {
    let octave = nanos.max(1 << SUB_BITS).ilog2();
    let within = (nanos >> (octave - SUB_BITS)) & ((1 << SUB_BITS) - 1);
    (octave << SUB_BITS) as usize | within as usize
}

/// The longest time that falls into a bucket, in nanoseconds.
fn longest_of(bucket: usize) -> u64 {
    let (octave, within) = (bucket as u32 >> SUB_BITS, bucket as u64 & ((1 << SUB_BITS) - 1));
    let step = 1u64 << octave.saturating_sub(SUB_BITS);
    (((1 << SUB_BITS) | within).saturating_mul(step)).saturating_add(step - 1)
}

impl Latency {
    /// A wait is over.
    pub(crate) fn add(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let slot = &mut self.buckets[bucket(nanos)];
        *slot = slot.saturating_add(1);
        self.count += 1;
        self.longest = self.longest.max(time);
        self.total = self.total.saturating_add(time);
    }

    /// The shortest time that at least `percent` of the waits did not exceed; too long by a quarter at most.
    fn percentile(&self, percent: u64) -> Duration {
        let wanted = (self.count * percent).div_ceil(100);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted && seen > 0 {
                return Duration::from_nanos(longest_of(index)).min(self.longest);
            }
        }
        self.longest
    }

    /// All of it in figures.
    pub(crate) fn waits(&self) -> Waits {
        Waits {
            count: self.count,
            median: self.percentile(50),
            p99: self.percentile(99),
            longest: self.longest,
            total: self.total,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_time_has_a_bucket_that_is_not_much_too_long(nanos: u64) {
            let longest = longest_of(bucket(nanos));
            prop_assert!(longest >= nanos);
            prop_assert!(longest <= nanos.saturating_add(nanos / 4).max(8));
        }
    }

    #[test]
    fn percentiles_are_those_of_what_was_added() {
        let mut latency = Latency::default();
        assert_eq!(latency.waits(), Waits::default());
        for micros in 1..=100 {
            latency.add(Duration::from_micros(micros));
        }
        let waits = latency.waits();
        let within = |time: Duration, micros: u64| {
            (micros..=micros * 5 / 4).contains(&(time.as_nanos().div_ceil(1000) as u64))
        };
        assert!(within(waits.median, 50) && within(waits.p99, 99), "{waits:?}");
        assert_eq!((waits.count, waits.longest), (100, Duration::from_micros(100)));
        assert_eq!(waits.total, Duration::from_micros(5050));
    }
}
