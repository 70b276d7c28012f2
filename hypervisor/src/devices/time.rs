//! The guest's time.
//!
//! The time-stamp counter is a guest's only clock: it stops while the guest is paused and goes on unbroken on
//! another host. Devices count in [`GuestTime`], the same instant in nanoseconds; [`TscClock`] converts
//! exactly in both directions.

use core::fmt;

use minicbor::{Decode, Encode};

/// Nanoseconds in a second.
pub const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Shortest period at which a periodic timer interrupts, in nanoseconds. Faster ones are served at this
/// pace: otherwise a guest would spend all its time entering and leaving.
pub const PERIOD_NANOS_MIN: u64 = 100_000;

/// An instant of the guest's life, in nanoseconds since its time-stamp counter was zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct GuestTime(#[n(0)] u64);

impl GuestTime {
    /// The instant at which the counter was zero.
    pub const ZERO: Self = Self(0);
    /// Later than anything that happens: the deadline of a timer that is not armed.
    pub const NEVER: Self = Self(u64::MAX);

    /// The instant `nanos` nanoseconds after zero.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since zero.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Nanoseconds from `earlier` to this instant; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This instant plus `nanos`, at most [`GuestTime::NEVER`].
    #[must_use]
    pub const fn saturating_add(self, nanos: u64) -> Self {
        Self(self.0.saturating_add(nanos))
    }

    /// The earlier of two instants.
    #[must_use]
    pub const fn earlier(self, other: Self) -> Self {
        if self.0 < other.0 { self } else { other }
    }
}

/// A frequency no time-stamp counter has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadFrequency(pub u64);

impl fmt::Display for BadFrequency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} Hz is not a usable clock frequency (1 kHz to 16 GHz)", self.0)
    }
}

impl core::error::Error for BadFrequency {}

/// Exact conversion between ticks of a counter and [`GuestTime`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TscClock {
    frequency_hz: u64,
}

/// Slowest frequency accepted.
const FREQUENCY_HZ_MIN: u64 = 1_000;
/// Fastest frequency accepted: with it, one second's remainder times 10^9 still fits 64 bits.
const FREQUENCY_HZ_MAX: u64 = 16_000_000_000;

impl TscClock {
    /// A clock that ticks `frequency_hz` times in a second.
    ///
    /// # Errors
    /// [`BadFrequency`] outside 1 kHz to 16 GHz.
    pub const fn new(frequency_hz: u64) -> Result<Self, BadFrequency> {
        if frequency_hz < FREQUENCY_HZ_MIN || frequency_hz > FREQUENCY_HZ_MAX {
            return Err(BadFrequency(frequency_hz));
        }
        Ok(Self { frequency_hz })
    }

    /// Ticks in a second.
    #[must_use]
    pub const fn frequency_hz(self) -> u64 {
        self.frequency_hz
    }

    /// The instant of tick `ticks`, rounded down to a nanosecond.
    #[must_use]
    pub const fn time_of(self, ticks: u64) -> GuestTime {
        let seconds = ticks / self.frequency_hz;
        let rest = ticks % self.frequency_hz;
        // `rest` is below 16e9, so the product is below 1.6e19 and fits.
        let nanos = rest * NANOS_PER_SECOND / self.frequency_hz;
        GuestTime(seconds.saturating_mul(NANOS_PER_SECOND).saturating_add(nanos))
    }

    /// The instant at which tick `ticks` has surely been reached: [`Self::time_of`] rounded up.
    #[must_use]
    pub const fn time_reached(self, ticks: u64) -> GuestTime {
        let seconds = ticks / self.frequency_hz;
        let rest = ticks % self.frequency_hz;
        let nanos = (rest * NANOS_PER_SECOND).div_ceil(self.frequency_hz);
        GuestTime(seconds.saturating_mul(NANOS_PER_SECOND).saturating_add(nanos))
    }

    /// The last tick at or before `time`, rounded down.
    #[must_use]
    pub const fn ticks_at(self, time: GuestTime) -> u64 {
        let seconds = time.0 / NANOS_PER_SECOND;
        let rest = time.0 % NANOS_PER_SECOND;
        let part = rest * self.frequency_hz / NANOS_PER_SECOND;
        seconds.saturating_mul(self.frequency_hz).saturating_add(part)
    }

    /// The first tick whose [`Self::time_of`] is `time` or later: when a timer for `time` is due.
    #[must_use]
    pub const fn ticks_reaching(self, time: GuestTime) -> u64 {
        let seconds = time.0 / NANOS_PER_SECOND;
        let rest = time.0 % NANOS_PER_SECOND;
        let part = (rest * self.frequency_hz).div_ceil(NANOS_PER_SECOND);
        seconds.saturating_mul(self.frequency_hz).saturating_add(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn conversion_is_the_exact_quotient(ticks: u64, hz in FREQUENCY_HZ_MIN..=FREQUENCY_HZ_MAX) {
            let clock = TscClock::new(hz).unwrap();
            let exact = u128::from(ticks) * u128::from(NANOS_PER_SECOND) / u128::from(hz);
            let expected = u64::try_from(exact).unwrap_or(u64::MAX);
            prop_assert_eq!(clock.time_of(ticks).as_nanos(), expected);
        }

        #[test]
        fn a_deadline_in_ticks_is_never_early(nanos in 0..1u64 << 60, hz in FREQUENCY_HZ_MIN..=FREQUENCY_HZ_MAX) {
            let clock = TscClock::new(hz).unwrap();
            let time = GuestTime::from_nanos(nanos);
            let due = clock.ticks_reaching(time);
            prop_assume!(due < u64::MAX);
            prop_assert!(clock.time_of(due) >= time);
            if due > 0 {
                prop_assert!(clock.time_of(due - 1) < time);
            }
        }

        #[test]
        fn a_tick_is_over_when_its_time_is_reached(ticks in 0..1u64 << 60, hz in FREQUENCY_HZ_MIN..=FREQUENCY_HZ_MAX) {
            let clock = TscClock::new(hz).unwrap();
            let reached = clock.time_reached(ticks);
            prop_assume!(reached < GuestTime::NEVER);
            prop_assert!(clock.ticks_at(reached) >= ticks);
        }
    }

    #[test]
    fn absurd_frequencies_are_refused() {
        assert_eq!(TscClock::new(0), Err(BadFrequency(0)));
        assert!(TscClock::new(u64::MAX).is_err());
        assert!(TscClock::new(2_000_000_000).is_ok());
    }
}
