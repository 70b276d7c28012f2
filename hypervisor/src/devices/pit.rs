//! 8254 timer: channel 0 drives IRQ 0, channel 2 the speaker and, through port 0x61, Linux's calibration.
//!
//! Counters are not counted: each is the tick at which it was loaded, from which count, output and the next
//! interrupt follow. Channel 1 refreshed memory on real machines; here it merely counts. BCD counting is
//! accepted and counts in binary, as nothing uses it.
//!
//! Reference: Intel 8254 data sheet (231164).

use minicbor::{Decode, Encode};

use super::time::PERIOD_NANOS_MIN;
use super::{GuestTime, TscClock};

/// Ticks in a second.
pub const FREQUENCY_HZ: u64 = 1_193_182;

const SPEAKER_GATE: u8 = 1 << 0;
const SPEAKER_DATA: u8 = 1 << 1;
const SPEAKER_REFRESH: u8 = 1 << 4;
const SPEAKER_OUTPUT: u8 = 1 << 5;
/// Half a period of the refresh bit in port 0x61, in nanoseconds.
const REFRESH_NANOS: u64 = 15_085;

/// Which byte of the count an access moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
enum Bytes {
    #[n(1)]
    Low,
    #[n(2)]
    High,
    #[n(3)]
    LowThenHigh,
}

/// One counter. Its state is its saved state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
struct Counter {
    /// 0 to 5.
    #[n(0)]
    mode: u8,
    #[n(1)]
    bytes: Bytes,
    /// 1 to 65,536.
    #[n(2)]
    count: u32,
    /// Tick at which counting began; none before the count is complete.
    #[n(3)]
    loaded_tick: Option<u64>,
    #[n(4)]
    gate: bool,
    /// Low byte of a count of which the high byte is awaited.
    #[n(5)]
    half_written: Option<u8>,
    /// The next read gives the high byte.
    #[n(6)]
    half_read: bool,
    #[n(7)]
    latched_count: Option<u16>,
    #[n(8)]
    latched_status: Option<u8>,
    /// BCD was asked for: shown in the status, without effect.
    #[n(9)]
    decimal: bool,
}

impl Counter {
    const fn new(gate: bool) -> Self {
        Self {
            mode: 0,
            bytes: Bytes::LowThenHigh,
            count: 0x1_0000,
            loaded_tick: None,
            gate,
            half_written: None,
            half_read: false,
            latched_count: None,
            latched_status: None,
            decimal: false,
        }
    }

    fn elapsed(&self, tick: u64) -> Option<u64> {
        self.loaded_tick.map(|loaded| tick.saturating_sub(loaded))
    }

    /// What the counting element holds.
    fn value(&self, tick: u64) -> u16 {
        let count = u64::from(self.count);
        let Some(elapsed) = self.elapsed(tick) else { return self.count as u16 };
        let value = match self.mode {
            2 => count - elapsed % count,
            3 => count - 2 * elapsed % count,
            _ => count.wrapping_sub(elapsed),
        };
        value as u16
    }

    /// Level of the output pin.
    fn output(&self, tick: u64) -> bool {
        let count = u64::from(self.count);
        let Some(elapsed) = self.elapsed(tick) else { return self.mode != 0 };
        match self.mode {
            0 | 1 => elapsed >= count,
            2 => elapsed % count != count - 1,
            3 => elapsed % count < count.div_ceil(2),
            _ => elapsed != count,
        }
    }

    fn load(&mut self, tick: u64, value: u16) {
        self.count = if value == 0 { 0x1_0000 } else { u32::from(value) };
        // In modes 1 and 5 the gate's next rise loads; elsewhere counting needs the gate.
        let starts = !matches!(self.mode, 1 | 5) && self.gate;
        self.loaded_tick = starts.then_some(tick);
    }

    fn write(&mut self, tick: u64, value: u8) {
        match (self.bytes, self.half_written.take()) {
            (Bytes::Low, _) => self.load(tick, u16::from(value)),
            (Bytes::High, _) => self.load(tick, u16::from(value) << 8),
            (Bytes::LowThenHigh, Some(low)) => self.load(tick, u16::from_le_bytes([low, value])),
            (Bytes::LowThenHigh, None) => {
                self.half_written = Some(value);
                if self.mode == 0 {
                    // Writing the first byte stops the count.
                    self.loaded_tick = None;
                }
            }
        }
    }

    fn read(&mut self, tick: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self.latched_count.unwrap_or_else(|| self.value(tick)).to_le_bytes();
        let (byte, complete) = match self.bytes {
            Bytes::Low => (low, true),
            Bytes::High => (high, true),
            Bytes::LowThenHigh => {
                self.half_read = !self.half_read;
                if self.half_read { (low, false) } else { (high, true) }
            }
        };
        if complete {
            self.latched_count = None;
        }
        byte
    }

    fn control(&mut self, value: u8) {
        self.bytes = match value >> 4 & 3 {
            1 => Bytes::Low,
            2 => Bytes::High,
            _ => Bytes::LowThenHigh,
        };
        // Modes 6 and 7 are 2 and 3.
        let mode = value >> 1 & 7;
        self.mode = if mode > 5 { mode & 3 } else { mode };
        self.decimal = value & 1 != 0;
        self.loaded_tick = None;
        self.half_written = None;
        self.half_read = false;
        self.latched_count = None;
        self.latched_status = None;
    }

    fn latch_count(&mut self, tick: u64) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.value(tick));
        }
    }

    fn latch_status(&mut self, tick: u64) {
        if self.latched_status.is_none() {
            let output = u8::from(self.output(tick)) << 7;
            let null = u8::from(self.loaded_tick.is_none()) << 6;
            self.latched_status =
                Some(output | null | (self.bytes as u8 + 1) << 4 | self.mode << 1 | u8::from(self.decimal));
        }
    }

    fn set_gate(&mut self, tick: u64, gate: bool) {
        let rose = gate && !self.gate;
        self.gate = gate;
        match self.mode {
            // The rise starts a run.
            1 | 5 if rose => self.loaded_tick = Some(tick),
            2 | 3 if rose => self.loaded_tick = Some(tick),
            2 | 3 if !gate => self.loaded_tick = None,
            // A pause of modes 0 and 4 would need the rest of the count: they start over instead.
            0 | 4 if rose && self.loaded_tick.is_none() && self.half_written.is_none() => {
                self.loaded_tick = Some(tick);
            }
            _ => {}
        }
    }

    /// The first tick after `tick` at which the output makes an interrupt.
    fn next_interrupt(&self, tick: u64) -> Option<u64> {
        let loaded = self.loaded_tick?;
        let count = u64::from(self.count);
        match self.mode {
            2 | 3 => {
                let runs = tick.saturating_sub(loaded) / count;
                Some(loaded.saturating_add((runs + 1).saturating_mul(count)))
            }
            _ => {
                let end = loaded.saturating_add(count);
                (end > tick).then_some(end)
            }
        }
    }

    const fn is_possible(&self) -> bool {
        self.mode <= 5 && self.count >= 1 && self.count <= 0x1_0000
    }
}

/// The timer.
#[derive(Debug)]
pub struct Pit {
    counters: [Counter; 3],
    speaker: u8,
    clock: TscClock,
    deadline: GuestTime,
}

/// Saved state of a [`Pit`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PitState {
    #[n(0)]
    counters: [Counter; 3],
    #[n(1)]
    speaker: u8,
    /// When channel 0 interrupts next.
    #[n(2)]
    deadline: GuestTime,
}

/// The PIT's frequency is one that a clock can have: checked by evaluating this constant.
const CLOCK: TscClock = match TscClock::new(FREQUENCY_HZ) {
    Ok(clock) => clock,
    Err(_) => panic!("the PIT's frequency is out of range"),
};

impl Default for Pit {
    fn default() -> Self {
        Self::new()
    }
}

impl Pit {
    /// The timer after reset: no channel counts.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            counters: [Counter::new(true), Counter::new(true), Counter::new(false)],
            speaker: 0,
            clock: CLOCK,
            deadline: GuestTime::NEVER,
        }
    }

    /// When [`Self::advance`] has something to do.
    #[inline]
    #[must_use]
    pub const fn deadline(&self) -> GuestTime {
        self.deadline
    }

    /// Whether channel 0 rose by `now`. Rises that were missed count as one.
    #[must_use]
    pub fn advance(&mut self, now: GuestTime) -> bool {
        if now < self.deadline {
            return false;
        }
        self.arm(now);
        true
    }

    /// Finds the next rise of channel 0 after `now`, and not so soon that a guest can be busy with nothing
    /// else.
    fn arm(&mut self, now: GuestTime) {
        let counter = &self.counters[0];
        let mut tick = self.clock.ticks_at(now);
        let shortest = self.clock.ticks_at(GuestTime::from_nanos(PERIOD_NANOS_MIN));
        if matches!(counter.mode, 2 | 3) && u64::from(counter.count) < shortest {
            tick = tick.saturating_add(shortest);
        }
        self.deadline = match counter.next_interrupt(tick) {
            Some(due) => self.clock.time_reached(due),
            None => GuestTime::NEVER,
        };
    }

    /// Reads 0x40 to 0x43.
    pub fn read(&mut self, now: GuestTime, port: u16) -> u8 {
        let tick = self.clock.ticks_at(now);
        match self.counters.get_mut(usize::from(port & 3)) {
            Some(counter) => counter.read(tick),
            // The control word cannot be read.
            None => 0xff,
        }
    }

    /// Writes 0x40 to 0x43.
    pub fn write(&mut self, now: GuestTime, port: u16, value: u8) {
        let tick = self.clock.ticks_at(now);
        let channel = usize::from(port & 3);
        if let Some(counter) = self.counters.get_mut(channel) {
            counter.write(tick, value);
            if channel == 0 {
                self.arm(now);
            }
            return;
        }
        let channel = usize::from(value >> 6);
        match self.counters.get_mut(channel) {
            Some(counter) if value & 0x30 == 0 => counter.latch_count(tick),
            Some(counter) => {
                counter.control(value);
                if channel == 0 {
                    self.arm(now);
                }
            }
            None => self.read_back(tick, value),
        }
    }

    fn read_back(&mut self, tick: u64, value: u8) {
        for (index, counter) in self.counters.iter_mut().enumerate() {
            if value & 2 << index == 0 {
                continue;
            }
            if value & 1 << 5 == 0 {
                counter.latch_count(tick);
            }
            if value & 1 << 4 == 0 {
                counter.latch_status(tick);
            }
        }
    }

    /// Reads port 0x61: gate, speaker, refresh and channel 2's output.
    #[must_use]
    pub fn read_speaker(&self, now: GuestTime) -> u8 {
        let mut value = self.speaker;
        if (now.as_nanos() / REFRESH_NANOS) & 1 != 0 {
            value |= SPEAKER_REFRESH;
        }
        if self.counters[2].output(self.clock.ticks_at(now)) {
            value |= SPEAKER_OUTPUT;
        }
        value
    }

    /// Writes port 0x61.
    pub fn write_speaker(&mut self, now: GuestTime, value: u8) {
        self.speaker = value & (SPEAKER_GATE | SPEAKER_DATA);
        self.counters[2].set_gate(self.clock.ticks_at(now), value & SPEAKER_GATE != 0);
    }

    /// The state to carry to another host.
    #[must_use]
    pub const fn save(&self) -> PitState {
        let Self { counters, speaker, clock: _, deadline } = self;
        PitState { counters: *counters, speaker: *speaker, deadline: *deadline }
    }

    /// A timer in the state `saved`.
    ///
    /// # Errors
    /// The name of the first field that no timer can have.
    pub fn restore(saved: &PitState) -> Result<Self, &'static str> {
        if !saved.counters.iter().all(Counter::is_possible) {
            return Err("pit.counters");
        }
        if saved.speaker & !(SPEAKER_GATE | SPEAKER_DATA) != 0 {
            return Err("pit.speaker");
        }
        Ok(Self { counters: saved.counters, speaker: saved.speaker, clock: CLOCK, deadline: saved.deadline })
    }
}

#[cfg(test)]
#[path = "pit_tests.rs"]
mod tests;
