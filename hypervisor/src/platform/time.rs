//! The host's clock: the TSC, calibrated against a timer of known frequency.
//!
//! What CPUID says about the TSC's frequency is not believed: emulators and nested hosts give the frequency of
//! the machine they pretend to be.

use core::fmt;
use core::ops::{Add, Sub};
use core::time::Duration;

use spin::Once;

use super::acpi::PmTimer;
use crate::arch::{apic, port, tsc};

/// Frequency of the power-management timer, in Hz (ACPI 6.5, 4.8.2.1).
const PM_TIMER_HZ: u64 = 3_579_545;
/// Frequency of the programmable interval timer, in Hz.
const PIT_HZ: u64 = 1_193_182;
/// One measurement takes this part of a second.
const MEASUREMENTS_PER_SECOND: u64 = 100;
/// Polls of a timer before it is taken to stand still.
const POLLS_MAX: u32 = 20_000_000;

/// A moment, in nanoseconds since the loader handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

/// TSC ticks to nanoseconds and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// TSC at [`Instant`] zero.
    origin: u64,
    frequency_hz: u64,
    /// Nanoseconds per tick, in units of 2^-32.
    scale: u64,
}

/// Which timer the TSC was measured against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// The ACPI power-management timer.
    PmTimer,
    /// Channel 2 of the programmable interval timer.
    Pit,
    /// None of them runs: the frequency is a guess.
    Guess,
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PmTimer => "the ACPI timer",
            Self::Pit => "the interval timer",
            Self::Guess => "nothing: no timer runs",
        })
    }
}

static CLOCK: Once<Clock> = Once::new();

impl Instant {
    /// The handover.
    pub const ZERO: Self = Self(0);

    /// Now; [`Instant::ZERO`] until the clock is set up, and on the host.
    #[must_use]
    pub fn now() -> Self {
        CLOCK.get().map_or(Self::ZERO, |clock| clock.instant(tsc::read()))
    }

    /// The moment `nanoseconds` after the handover.
    #[must_use]
    pub const fn from_nanos(nanoseconds: u64) -> Self {
        Self(nanoseconds)
    }

    /// Nanoseconds since the handover.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time since `earlier`; zero if that is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// The moment `later` from here; the end of time if that is past it.
    fn add(self, later: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(later.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000_000, self.0 / 1000 % 1_000_000)
    }
}

impl Clock {
    /// A clock that shows zero when the TSC shows `origin`, at `frequency_hz` ticks per second.
    #[must_use]
    pub const fn new(origin: u64, frequency_hz: u64) -> Self {
        let frequency_hz = if frequency_hz == 0 { 1 } else { frequency_hz };
        Self { origin, frequency_hz, scale: ((1_000_000_000u128 << 32) / frequency_hz as u128) as u64 }
    }

    /// TSC ticks per second.
    #[must_use]
    pub const fn frequency_hz(&self) -> u64 {
        self.frequency_hz
    }

    /// The moment when the TSC shows `ticks`.
    #[inline]
    #[must_use]
    pub const fn instant(&self, ticks: u64) -> Instant {
        let ticks = ticks.saturating_sub(self.origin);
        Instant(((ticks as u128 * self.scale as u128) >> 32) as u64)
    }

    /// What the TSC shows at `instant`, rounded up; all ones if it never gets there.
    #[inline]
    #[must_use]
    pub const fn ticks(&self, instant: Instant) -> u64 {
        let ticks = (instant.0 as u128 * self.frequency_hz as u128).div_ceil(1_000_000_000);
        if ticks > u64::MAX as u128 { u64::MAX } else { self.origin.saturating_add(ticks as u64) }
    }
}

/// Makes the running CPU's timer interrupt at `instant`, and not before; replaces what was armed. At once if that
/// is past.
pub fn arm_wakeup(instant: Instant) {
    if let Some(clock) = CLOCK.get() {
        apic::arm_timer(clock.ticks(instant));
    }
}

/// Waits, busily, for at least `duration`.
pub fn pause(duration: Duration) {
    let end = Instant::now() + duration;
    while CLOCK.is_completed() && Instant::now() < end {
        core::hint::spin_loop();
    }
}

/// The clock, once set up.
#[must_use]
pub fn clock() -> Option<&'static Clock> {
    CLOCK.get()
}

/// Measures the TSC and sets the clock up; zero is when the TSC showed `origin`. Takes 10 to 60 ms.
pub fn initialise(origin: u64, pm_timer: Option<PmTimer>) -> Reference {
    let (frequency, reference) = calibrate(pm_timer);
    CLOCK.call_once(|| Clock::new(origin, frequency));
    reference
}

fn calibrate(pm_timer: Option<PmTimer>) -> (u64, Reference) {
    let with_pm_timer = pm_timer.and_then(|timer| median(|| measure_pm_timer(timer)));
    if let Some(frequency) = with_pm_timer {
        return (frequency, Reference::PmTimer);
    }
    match median(measure_pit) {
        Some(frequency) => (frequency, Reference::Pit),
        None => (1_000_000_000, Reference::Guess),
    }
}

/// The middle one of three measurements, so that one that was disturbed does no harm.
fn median(measure: impl Fn() -> Option<u64>) -> Option<u64> {
    let mut results = [measure()?, measure()?, measure()?];
    results.sort_unstable();
    Some(results[1])
}

/// Ticks per second, if `ticks` passed while a timer of `timer_hz` counted `counted`.
fn frequency(ticks: u64, counted: u64, timer_hz: u64) -> Option<u64> {
    let frequency = u128::from(ticks) * u128::from(timer_hz) / u128::from(counted.max(1));
    u64::try_from(frequency).ok().filter(|&frequency| counted > 0 && frequency > 0)
}

fn measure_pm_timer(timer: PmTimer) -> Option<u64> {
    let read = || port::read_u32(timer.port) & timer.mask;
    let (first, start) = (read(), tsc::read());
    for _ in 0..POLLS_MAX {
        let counted = u64::from(read().wrapping_sub(first) & timer.mask);
        if counted >= PM_TIMER_HZ / MEASUREMENTS_PER_SECOND {
            return frequency(tsc::read().wrapping_sub(start), counted, PM_TIMER_HZ);
        }
    }
    None
}

/// Lets channel 2 count down once, with its gate opened and the speaker off (ports 0x42, 0x43, 0x61).
fn measure_pit() -> Option<u64> {
    const COUNT: u16 = (PIT_HZ / MEASUREMENTS_PER_SECOND) as u16;
    const OUTPUT_HIGH: u8 = 1 << 5;
    let control = port::read_u8(0x61) & !0b11;
    port::write_u8(0x61, control);
    port::write_u8(0x43, 0b1011_0000);
    port::write_u8(0x42, COUNT as u8);
    port::write_u8(0x42, (COUNT >> 8) as u8);
    port::write_u8(0x61, control | 1);
    let start = tsc::read();
    for _ in 0..POLLS_MAX {
        if port::read_u8(0x61) & OUTPUT_HIGH != 0 {
            return frequency(tsc::read().wrapping_sub(start), u64::from(COUNT), PIT_HZ);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_and_moments_agree_within_a_nanosecond_and_a_tick() {
        for frequency in [10_000_000, 999_999_937, 3_500_000_000] {
            let clock = Clock::new(1000, frequency);
            for ticks in [1000, 1001, 1000 + frequency, 1000 + 86_400 * frequency] {
                let instant = clock.instant(ticks);
                let exact = u128::from(ticks - 1000) * 1_000_000_000 / u128::from(frequency);
                // The scale is exact to 2^-32 of a nanosecond per tick.
                let slack = 1 + u128::from(ticks >> 32);
                assert!(exact.abs_diff(u128::from(instant.as_nanos())) <= slack);
            }
        }
    }

    #[test]
    fn a_deadline_is_never_early() {
        let clock = Clock::new(7, 3_000_000_001);
        for nanos in [0, 1, 999, 1_000_000_007] {
            let instant = Instant::from_nanos(nanos);
            let ticks = clock.ticks(instant) - 7;
            assert!(u128::from(ticks) * 1_000_000_000 >= u128::from(nanos) * 3_000_000_001);
        }
        assert_eq!(clock.ticks(Instant::from_nanos(u64::MAX)), u64::MAX);
    }

    #[test]
    fn what_was_before_the_origin_is_zero() {
        assert_eq!(Clock::new(1000, 1_000_000).instant(1), Instant::ZERO);
        assert_eq!(Instant::ZERO - Instant::from_nanos(5), Duration::ZERO);
    }

    #[test]
    fn a_measurement_gives_the_frequency() {
        assert_eq!(frequency(100_000, 35_795, PM_TIMER_HZ), Some(10_000_125));
        assert_eq!(frequency(100_000, 0, PM_TIMER_HZ), None);
    }

    #[test]
    fn one_disturbed_measurement_does_no_harm() {
        let results = core::cell::RefCell::new(std::vec![10, 99, 11]);
        assert_eq!(median(|| results.borrow_mut().pop()), Some(11));
        assert_eq!(median(|| None), None);
    }
}
