//! Sums up measurements in one line.

use core::fmt;

/// What a set of measurements amounts to. Prints as `min=… median=… mean=… max=… n=…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// The least: what the thing costs when nothing gets in its way.
    pub min: u64,
    /// The upper median.
    pub median: u64,
    /// The mean, rounded down.
    pub mean: u64,
    /// The most.
    pub max: u64,
    /// How many there were.
    pub count: usize,
}

impl Summary {
    /// Sums up `samples`, which it sorts. `None` if there are none.
    pub fn of(samples: &mut [u64]) -> Option<Self> {
        samples.sort_unstable();
        let count = samples.len();
        let (min, max) = (*samples.first()?, *samples.last()?);
        let sum: u128 = samples.iter().map(|&sample| u128::from(sample)).sum();
        let mean = u64::try_from(sum / count as u128).unwrap_or(u64::MAX);
        Some(Self { min, median: samples[count / 2], mean, max, count })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { min, median, mean, max, count } = self;
        write!(f, "min={min} median={median} mean={mean} max={max} n={count}")
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn a_summary_is_one_line_of_named_numbers() {
        let summary = Summary::of(&mut [9, 1, 5, 100]).unwrap();
        assert_eq!(summary.to_string(), "min=1 median=9 mean=28 max=100 n=4");
    }

    #[test]
    fn no_samples_have_no_summary() {
        assert_eq!(Summary::of(&mut []), None);
    }
}
