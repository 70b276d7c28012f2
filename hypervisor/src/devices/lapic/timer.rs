//! The local APIC's timer: one-shot, periodic and TSC-deadline.
//!
//! It counts whole ticks of the crystal (or of the time-stamp counter), so periods do not drift. An expiry
//! while the timer is masked is lost, as on the real part. Periods that passed while nobody looked are
//! coalesced into one.
//!
//! Reference: SDM 11.5.4.

use minicbor::{Decode, Encode};

use crate::devices::time::PERIOD_NANOS_MIN;
use crate::devices::{GuestTime, TscClock};

/// How the timer runs: bits 18:17 of its local vector table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    OneShot,
    Periodic,
    TscDeadline,
}

impl Mode {
    /// Mode of the table entry `lvt`; the reserved encoding counts as one-shot.
    pub(super) const fn of(lvt: u32) -> Self {
        match lvt >> 17 & 3 {
            1 => Self::Periodic,
            2 => Self::TscDeadline,
            _ => Self::OneShot,
        }
    }
}

/// Converters that a timer needs, the same for all on a board.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    /// The guest's time-stamp counter.
    pub tsc: TscClock,
    /// The crystal that clocks the count-down modes.
    pub crystal: TscClock,
}

/// The timer.
#[derive(Debug)]
pub(super) struct Timer {
    mode: Mode,
    masked: bool,
    /// Divide configuration register: bits 3, 1 and 0.
    divide: u32,
    initial_count: u32,
    /// Crystal tick at which the count reaches zero, if it runs.
    zero_tick: Option<u64>,
    /// IA32_TSC_DEADLINE as written; zero if not armed.
    tsc_deadline: u64,
    /// How far this processor's counter is ahead of the machine's.
    tsc_adjust: i64,
    /// When `expire` has to look next; [`GuestTime::NEVER`] if masked or not armed.
    deadline: GuestTime,
}

/// Saved state of a timer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct TimerState {
    #[n(0)]
    divide: u32,
    #[n(1)]
    initial_count: u32,
    #[n(2)]
    zero_tick: Option<u64>,
    #[n(3)]
    tsc_deadline: u64,
    #[n(4)]
    tsc_adjust: i64,
}

impl Timer {
    pub(super) const fn new() -> Self {
        Self {
            mode: Mode::OneShot,
            masked: true,
            divide: 0,
            initial_count: 0,
            zero_tick: None,
            tsc_deadline: 0,
            tsc_adjust: 0,
            deadline: GuestTime::NEVER,
        }
    }

    /// After INIT or reset: all but the processor's counter.
    pub(super) const fn reset(&mut self) {
        *self = Self { tsc_adjust: self.tsc_adjust, ..Self::new() };
    }

    #[inline]
    pub(super) const fn deadline(&self) -> GuestTime {
        self.deadline
    }

    pub(super) const fn initial_count(&self) -> u32 {
        self.initial_count
    }

    pub(super) const fn divide(&self) -> u32 {
        self.divide
    }

    /// Ticks of the crystal for one of the count: 2, 4, … 128, or 1 (SDM figure 11-10).
    const fn divisor_log2(&self) -> u32 {
        let encoded = self.divide >> 1 & 4 | self.divide & 3;
        (encoded + 1) & 7
    }

    /// Length of one run of the count, in crystal ticks.
    const fn period_ticks(&self) -> u64 {
        (self.initial_count as u64) << self.divisor_log2()
    }

    /// Takes over the timer's local vector table entry.
    pub(super) fn configure(&mut self, clocks: &Clocks, now: GuestTime, mode: Mode, masked: bool) {
        // What expired under the old mask is gone, whatever the new one says.
        self.settle(clocks, now);
        if (mode == Mode::TscDeadline) != (self.mode == Mode::TscDeadline) {
            self.zero_tick = None;
            self.initial_count = 0;
            self.tsc_deadline = 0;
        }
        self.mode = mode;
        self.masked = masked;
        self.arm(clocks);
    }

    pub(super) fn write_initial_count(&mut self, clocks: &Clocks, now: GuestTime, count: u32) {
        if self.mode == Mode::TscDeadline {
            return;
        }
        self.initial_count = count;
        self.zero_tick =
            (count != 0).then(|| clocks.crystal.ticks_at(now).saturating_add(self.period_ticks()));
        self.arm(clocks);
    }

    pub(super) fn write_divide(&mut self, clocks: &Clocks, now: GuestTime, value: u32) {
        let count = self.current_count(clocks, now);
        self.divide = value & 0xb;
        if self.zero_tick.is_some() {
            let rest = u64::from(count) << self.divisor_log2();
            self.zero_tick = Some(clocks.crystal.ticks_at(now).saturating_add(rest));
            self.arm(clocks);
        }
    }

    pub(super) fn current_count(&mut self, clocks: &Clocks, now: GuestTime) -> u32 {
        let Some(zero) = self.zero_tick else { return 0 };
        let tick = clocks.crystal.ticks_at(now);
        let period = self.period_ticks().max(1);
        let rest = if tick < zero {
            zero - tick
        } else if self.mode == Mode::Periodic {
            period - (tick - zero) % period
        } else {
            return 0;
        };
        let count = (rest >> self.divisor_log2()) + u64::from(rest & ((1 << self.divisor_log2()) - 1) != 0);
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// IA32_TSC_DEADLINE: what was written, or zero once it has passed or in another mode.
    pub(super) fn tsc_deadline(&mut self, clocks: &Clocks, now: GuestTime) -> u64 {
        if self.masked {
            self.settle(clocks, now);
        }
        self.tsc_deadline
    }

    pub(super) fn write_tsc_deadline(&mut self, clocks: &Clocks, value: u64) {
        if self.mode != Mode::TscDeadline {
            return;
        }
        self.tsc_deadline = value;
        self.arm(clocks);
    }

    pub(super) fn set_tsc_adjust(&mut self, clocks: &Clocks, adjust: i64) {
        self.tsc_adjust = adjust;
        self.arm(clocks);
    }

    /// Lets the timer expire if it is due; whether it is to interrupt.
    #[inline]
    pub(super) fn expire(&mut self, clocks: &Clocks, now: GuestTime) -> bool {
        if now < self.deadline {
            return false;
        }
        self.settle(clocks, now);
        self.arm(clocks);
        true
    }

    /// The instant at which the armed TSC deadline has passed.
    fn tsc_deadline_time(&self, clocks: &Clocks) -> GuestTime {
        let machine = i128::from(self.tsc_deadline) - i128::from(self.tsc_adjust);
        if machine <= 0 {
            return GuestTime::ZERO;
        }
        clocks.tsc.time_reached(u64::try_from(machine).unwrap_or(u64::MAX))
    }

    /// Brings the counters past everything that expired by `now`, without interrupting.
    fn settle(&mut self, clocks: &Clocks, now: GuestTime) {
        match self.mode {
            Mode::TscDeadline => {
                if self.tsc_deadline != 0 && self.tsc_deadline_time(clocks) <= now {
                    self.tsc_deadline = 0;
                }
            }
            Mode::OneShot | Mode::Periodic => {
                let Some(zero) = self.zero_tick else { return };
                if clocks.crystal.time_reached(zero) > now {
                    return;
                }
                self.zero_tick = match self.mode {
                    Mode::Periodic if self.initial_count != 0 => {
                        let period = self.period_ticks();
                        let passed = clocks.crystal.ticks_at(now).saturating_sub(zero) / period;
                        Some(zero.saturating_add((passed + 1).saturating_mul(period)))
                    }
                    _ => None,
                };
            }
        }
    }

    /// Computes the deadline from the counters.
    fn arm(&mut self, clocks: &Clocks) {
        self.deadline = GuestTime::NEVER;
        if self.masked {
            return;
        }
        match (self.mode, self.zero_tick) {
            (Mode::TscDeadline, _) if self.tsc_deadline != 0 => {
                self.deadline = self.tsc_deadline_time(clocks);
            }
            (Mode::TscDeadline, _) | (_, None) => {}
            (Mode::OneShot, Some(zero)) => self.deadline = clocks.crystal.time_reached(zero),
            (Mode::Periodic, Some(zero)) => {
                self.deadline = clocks.crystal.time_reached(self.slowed(clocks, zero));
            }
        }
    }

    /// A periodic guest may not ask for more interrupts than it could ever handle: the expiry is put off
    /// to the last one within the shortest period that is served.
    fn slowed(&self, clocks: &Clocks, zero: u64) -> u64 {
        let period = self.period_ticks().max(1);
        let shortest = clocks.crystal.ticks_at(GuestTime::from_nanos(PERIOD_NANOS_MIN));
        if period >= shortest { zero } else { zero.saturating_add((shortest / period) * period) }
    }

    pub(super) fn save(&self) -> TimerState {
        // Mode and mask are bits of the local vector table; the deadline follows from the rest.
        let Self {
            mode: _,
            masked: _,
            divide,
            initial_count,
            zero_tick,
            tsc_deadline,
            tsc_adjust,
            deadline: _,
        } = self;
        TimerState {
            divide: *divide,
            initial_count: *initial_count,
            zero_tick: *zero_tick,
            tsc_deadline: *tsc_deadline,
            tsc_adjust: *tsc_adjust,
        }
    }

    pub(super) fn restore(saved: &TimerState, clocks: &Clocks, lvt: u32) -> Result<Self, &'static str> {
        if saved.divide & !0xb != 0 {
            return Err("lapic.timer.divide");
        }
        if saved.zero_tick.is_some() && saved.initial_count == 0 {
            return Err("lapic.timer.zero_tick");
        }
        let mut timer = Self {
            mode: Mode::of(lvt),
            masked: lvt & super::registers::LVT_MASKED != 0,
            divide: saved.divide,
            initial_count: saved.initial_count,
            zero_tick: saved.zero_tick,
            tsc_deadline: saved.tsc_deadline,
            tsc_adjust: saved.tsc_adjust,
            deadline: GuestTime::NEVER,
        };
        timer.arm(clocks);
        Ok(timer)
    }
}
