//! MC146818 real-time clock with 128 bytes of CMOS memory.
//!
//! The clock is the guest's own time on top of a wall-clock base, so it ticks with the time-stamp counter. Its
//! interrupt flags are brought up to date when somebody looks or when an enabled one is due.
//!
//! Reference: Motorola MC146818A data sheet; the century is in byte 0x32, as the guest's FADT says.

pub mod calendar;

use minicbor::{Decode, Encode};

use super::GuestTime;
use super::time::NANOS_PER_SECOND;
use calendar::{DateTime, UNIX_SECONDS_MAX, UNIX_SECONDS_MIN};

const BYTES: usize = 128;
const SECONDS: u8 = 0x00;
const SECONDS_ALARM: u8 = 0x01;
const MINUTES: u8 = 0x02;
const MINUTES_ALARM: u8 = 0x03;
const HOURS: u8 = 0x04;
const HOURS_ALARM: u8 = 0x05;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const A: u8 = 0x0a;
const B: u8 = 0x0b;
const C: u8 = 0x0c;
const D: u8 = 0x0d;
/// CMOS byte that holds the century.
pub const CENTURY: u8 = 0x32;

const A_UPDATING: u8 = 1 << 7;
const A_RATE: u8 = 0x0f;
/// 32.768 kHz time base, 1,024 Hz.
const A_AT_RESET: u8 = 0x26;
const B_SET: u8 = 1 << 7;
const B_BINARY: u8 = 1 << 2;
const B_24_HOURS: u8 = 1 << 1;
const HOUR_AFTERNOON: u8 = 1 << 7;
const D_VALID: u8 = 1 << 7;
const PERIODIC: u8 = 1 << 6;
const ALARM: u8 = 1 << 5;
const UPDATED: u8 = 1 << 4;
const CAUSES: u8 = PERIODIC | ALARM | UPDATED;
const C_REQUEST: u8 = 1 << 7;
/// An alarm byte from here up matches always.
const ALARM_ANY: u8 = 0xc0;
/// How long before the change the update-in-progress bit warns, in nanoseconds.
const UPDATING_NANOS: u64 = 244_000;
const TIME_BASE_HZ: u64 = 32_768;

/// The clock.
#[derive(Debug)]
pub struct Rtc {
    index: u8,
    memory: [u8; BYTES],
    /// Wall-clock time when the guest's time was zero, in seconds since 1970.
    base_unix_seconds: i64,
    /// Up to when the flags in register C are right.
    settled: GuestTime,
    deadline: GuestTime,
}

/// Saved state of an [`Rtc`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RtcState {
    #[n(0)]
    index: u8,
    #[cbor(n(1), with = "minicbor::bytes")]
    memory: [u8; BYTES],
    #[n(2)]
    base_unix_seconds: i64,
    #[n(3)]
    settled: GuestTime,
}

impl Rtc {
    /// A clock that shows `base_unix_seconds` (since 1970-01-01) when the guest's time is zero.
    #[must_use]
    pub fn new(base_unix_seconds: u64, now: GuestTime) -> Self {
        let base = i64::try_from(base_unix_seconds).unwrap_or(i64::MAX).min(UNIX_SECONDS_MAX);
        let mut memory = [0; BYTES];
        memory[usize::from(A)] = A_AT_RESET;
        memory[usize::from(B)] = B_24_HOURS;
        memory[usize::from(D)] = D_VALID;
        Self { index: 0, memory, base_unix_seconds: base, settled: now, deadline: GuestTime::NEVER }
    }

    /// The reset pin clears interrupt enables and flags; memory and time are on battery.
    pub fn reset(&mut self) {
        self.memory[usize::from(B)] &= !CAUSES;
        self.memory[usize::from(C)] = 0;
        self.deadline = GuestTime::NEVER;
    }

    /// When [`Self::advance`] has something to do.
    #[inline]
    #[must_use]
    pub const fn deadline(&self) -> GuestTime {
        self.deadline
    }

    /// Level of the interrupt line.
    #[inline]
    #[must_use]
    pub fn interrupt_level(&self) -> bool {
        self.get(C) & self.get(B) & CAUSES != 0
    }

    /// Brings flags and deadline up to date.
    pub fn advance(&mut self, now: GuestTime) {
        if now >= self.deadline {
            self.settle(now);
            self.arm();
        }
    }

    /// Reads port 0x70 (which nothing drives) or 0x71.
    pub fn read(&mut self, now: GuestTime, port: u16) -> u8 {
        if port & 1 == 0 {
            return 0xff;
        }
        let register = self.index;
        match register {
            SECONDS | MINUTES | HOURS | WEEKDAY | DAY | MONTH | YEAR | CENTURY if !self.is_set_mode() => {
                self.clock_register(register, DateTime::from_unix(self.wall_seconds(now)))
            }
            A => {
                let into_second = now.as_nanos() % NANOS_PER_SECOND;
                let updating = !self.is_set_mode() && into_second >= NANOS_PER_SECOND - UPDATING_NANOS;
                self.get(A) & !A_UPDATING | if updating { A_UPDATING } else { 0 }
            }
            C => {
                self.settle(now);
                let request = if self.interrupt_level() { C_REQUEST } else { 0 };
                let flags = core::mem::take(&mut self.memory[usize::from(C)]);
                self.arm();
                flags | request
            }
            _ => self.get(register),
        }
    }

    /// Writes port 0x70 (selects a byte; bit 7 masks NMI on a real board) or 0x71.
    pub fn write(&mut self, now: GuestTime, port: u16, value: u8) {
        if port & 1 == 0 {
            self.index = value & 0x7f;
            return;
        }
        let register = self.index;
        match register {
            SECONDS | MINUTES | HOURS | WEEKDAY | DAY | MONTH | YEAR | CENTURY => {
                self.settle(now);
                if !self.is_set_mode() {
                    self.show_clock(now);
                }
                self.memory[usize::from(register)] = value;
                if !self.is_set_mode() {
                    self.take_clock(now);
                }
                // When the alarm comes depends on what the clock shows.
                self.arm();
            }
            A | B | SECONDS_ALARM | MINUTES_ALARM | HOURS_ALARM => {
                self.settle(now);
                self.write_control(now, register, value);
                self.arm();
            }
            C | D => {}
            _ => self.memory[usize::from(register)] = value,
        }
    }

    fn write_control(&mut self, now: GuestTime, register: u8, value: u8) {
        let was_set = self.is_set_mode();
        let value = match register {
            A => value & !A_UPDATING,
            // Setting the clock disables the update-ended interrupt.
            B if value & B_SET != 0 => value & !UPDATED,
            _ => value,
        };
        if register == B && !was_set && value & B_SET != 0 {
            self.show_clock(now);
        }
        self.memory[usize::from(register)] = value;
        if register == B && was_set && value & B_SET == 0 {
            self.take_clock(now);
        }
    }

    fn get(&self, register: u8) -> u8 {
        self.memory[usize::from(register) & (BYTES - 1)]
    }

    fn is_set_mode(&self) -> bool {
        self.get(B) & B_SET != 0
    }

    fn wall_seconds(&self, now: GuestTime) -> i64 {
        let passed = (now.as_nanos() / NANOS_PER_SECOND) as i64;
        self.base_unix_seconds.saturating_add(passed)
    }

    /// One of the clock's bytes at `date`, in the format that register B asks for.
    fn clock_register(&self, register: u8, date: DateTime) -> u8 {
        match register {
            SECONDS => self.encode(date.second),
            MINUTES => self.encode(date.minute),
            HOURS => self.encode_hour(date.hour),
            WEEKDAY => self.encode(date.weekday()),
            DAY => self.encode(date.day),
            MONTH => self.encode(date.month),
            YEAR => self.encode((date.year % 100) as u8),
            _ => self.encode((date.year / 100) as u8),
        }
    }

    /// Puts the running clock into the registers, where the guest is about to set it.
    fn show_clock(&mut self, now: GuestTime) {
        let date = DateTime::from_unix(self.wall_seconds(now));
        for register in [SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY] {
            self.memory[usize::from(register)] = self.clock_register(register, date);
        }
    }

    /// Lets the clock run on from what the registers show.
    fn take_clock(&mut self, now: GuestTime) {
        let century = u16::from(self.decode(self.get(CENTURY)));
        let date = DateTime {
            year: century * 100 + u16::from(self.decode(self.get(YEAR))),
            month: self.decode(self.get(MONTH)),
            day: self.decode(self.get(DAY)),
            hour: self.decode_hour(self.get(HOURS)),
            minute: self.decode(self.get(MINUTES)),
            second: self.decode(self.get(SECONDS)),
        };
        let passed = self.wall_seconds(now).saturating_sub(self.base_unix_seconds);
        let base = date.to_unix().saturating_sub(passed);
        self.base_unix_seconds = base.clamp(UNIX_SECONDS_MIN, UNIX_SECONDS_MAX);
    }

    fn encode(&self, value: u8) -> u8 {
        if self.get(B) & B_BINARY != 0 { value } else { ((value / 10) << 4) | (value % 10) }
    }

    fn decode(&self, value: u8) -> u8 {
        // At most 15 * 10 + 15, which fits.
        if self.get(B) & B_BINARY != 0 { value } else { (value >> 4) * 10 + (value & 0xf) }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.get(B) & B_24_HOURS != 0 {
            return self.encode(hour);
        }
        let twelve = if hour.is_multiple_of(12) { 12 } else { hour % 12 };
        self.encode(twelve) | if hour >= 12 { HOUR_AFTERNOON } else { 0 }
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.get(B) & B_24_HOURS != 0 {
            return self.decode(value);
        }
        let twelve = self.decode(value & !HOUR_AFTERNOON) % 12;
        if value & HOUR_AFTERNOON != 0 { twelve + 12 } else { twelve }
    }

    /// Length of the periodic interrupt's period in ticks of the time base, if it is on.
    fn period_ticks(&self) -> Option<u64> {
        match self.get(A) & A_RATE {
            0 => None,
            // The two fastest encodings mean 256 and 128 Hz.
            rate @ 1..=2 => Some(1 << (rate + 6)),
            rate => Some(1 << (rate - 1)),
        }
    }

    /// Brings the flags up to `now`.
    fn settle(&mut self, now: GuestTime) {
        let from = self.settled;
        if now <= from {
            return;
        }
        self.settled = now;
        let mut flags = 0;
        if let Some(period) = self.period_ticks()
            && base_ticks(from) / period != base_ticks(now) / period
        {
            flags |= PERIODIC;
        }
        if !self.is_set_mode() && from.as_nanos() / NANOS_PER_SECOND != now.as_nanos() / NANOS_PER_SECOND {
            flags |= UPDATED;
            if let Some(due) = self.next_alarm(from)
                && due <= now
            {
                flags |= ALARM;
            }
        }
        self.memory[usize::from(C)] |= flags;
    }

    /// The first second after `from` at which the alarm bytes match.
    fn next_alarm(&self, from: GuestTime) -> Option<GuestTime> {
        let date = DateTime::from_unix(self.wall_seconds(from));
        let wanted = |register| Some(self.get(register)).filter(|value| *value < ALARM_ANY);
        let hour = match self.get(HOURS_ALARM) {
            any if any & ALARM_ANY == ALARM_ANY => None,
            value => Some(self.decode_hour(value)),
        };
        let minute = wanted(MINUTES_ALARM).map(|value| self.decode(value));
        let second = wanted(SECONDS_ALARM).map(|value| self.decode(value));
        let now = (date.hour, date.minute, date.second);
        let wait = seconds_until(now, (hour, minute, second))?;
        let second_began = from.as_nanos() - from.as_nanos() % NANOS_PER_SECOND;
        Some(GuestTime::from_nanos(second_began).saturating_add(wait * NANOS_PER_SECOND))
    }

    /// Finds when the next enabled interrupt is due.
    fn arm(&mut self) {
        let enabled = self.get(B) & CAUSES & !self.get(C);
        let mut deadline = GuestTime::NEVER;
        if enabled & PERIODIC != 0
            && let Some(period) = self.period_ticks()
        {
            let next = (base_ticks(self.settled) / period + 1) * period;
            deadline = deadline.earlier(time_of_base_tick(next));
        }
        if !self.is_set_mode() {
            if enabled & UPDATED != 0 {
                let next = self.settled.as_nanos() / NANOS_PER_SECOND + 1;
                deadline = deadline.earlier(GuestTime::from_nanos(next.saturating_mul(NANOS_PER_SECOND)));
            }
            if enabled & ALARM != 0
                && let Some(due) = self.next_alarm(self.settled)
            {
                deadline = deadline.earlier(due);
            }
        }
        self.deadline = deadline;
    }

    /// The state to carry to another host.
    #[must_use]
    pub const fn save(&self) -> RtcState {
        let Self { index, memory, base_unix_seconds, settled, deadline: _ } = self;
        RtcState { index: *index, memory: *memory, base_unix_seconds: *base_unix_seconds, settled: *settled }
    }

    /// A clock in the state `saved`.
    ///
    /// # Errors
    /// The name of the first field that no clock can have.
    pub fn restore(saved: &RtcState) -> Result<Self, &'static str> {
        if usize::from(saved.index) >= BYTES {
            return Err("rtc.index");
        }
        if !(UNIX_SECONDS_MIN..=UNIX_SECONDS_MAX).contains(&saved.base_unix_seconds) {
            return Err("rtc.base_unix_seconds");
        }
        let mut rtc = Self {
            index: saved.index,
            memory: saved.memory,
            base_unix_seconds: saved.base_unix_seconds,
            settled: saved.settled,
            deadline: GuestTime::NEVER,
        };
        rtc.arm();
        Ok(rtc)
    }
}

/// Ticks of the 32,768 Hz time base by `time`.
const fn base_ticks(time: GuestTime) -> u64 {
    let seconds = time.as_nanos() / NANOS_PER_SECOND;
    let rest = time.as_nanos() % NANOS_PER_SECOND;
    seconds * TIME_BASE_HZ + rest * TIME_BASE_HZ / NANOS_PER_SECOND
}

/// When tick `tick` of the time base has been reached.
const fn time_of_base_tick(tick: u64) -> GuestTime {
    let seconds = tick / TIME_BASE_HZ;
    let rest = tick % TIME_BASE_HZ;
    GuestTime::from_nanos(
        seconds
            .saturating_mul(NANOS_PER_SECOND)
            .saturating_add((rest * NANOS_PER_SECOND).div_ceil(TIME_BASE_HZ)),
    )
}

/// Seconds from `now` (hour, minute, second) to the next time of day that `wanted` matches, at least one;
/// `None` in `wanted` matches always. `None` if no time of day matches.
fn seconds_until(now: (u8, u8, u8), wanted: (Option<u8>, Option<u8>, Option<u8>)) -> Option<u64> {
    let in_range = |wanted: Option<u8>, limit| wanted.is_none_or(|wanted| wanted < limit);
    if !in_range(wanted.0, 24) || !in_range(wanted.1, 60) || !in_range(wanted.2, 60) {
        return None;
    }
    let at = |hour: u8, minute: u8, second: u8| {
        u64::from(hour) * 3_600 + u64::from(minute) * 60 + u64::from(second)
    };
    let matches = |value: u8, wanted: Option<u8>| wanted.is_none_or(|wanted| wanted == value);
    let start = at(now.0, now.1, now.2);
    let day = at(24, 0, 0);
    // The current hour, the 23 others, and the current one of the next day: a match lies in one of them or
    // nowhere.
    for step in 0..=24u8 {
        let hour = (now.0 + step) % 24;
        if !matches(hour, wanted.0) {
            continue;
        }
        for minute in (0..60).filter(|minute| matches(*minute, wanted.1)) {
            for second in (0..60).filter(|second| matches(*second, wanted.2)) {
                let mut time = at(hour, minute, second);
                if now.0 + step >= 24 {
                    time += day;
                }
                if time > start {
                    return Some(time - start);
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests;
