//! ACPI power-management hardware: the PM1a event and control blocks and the PM timer.
//!
//! The machine has no legacy mode, so SCI_EN is always set. Writing the sleep type of S5 with SLP_EN switches
//! it off.
//!
//! Reference: ACPI specification 6.5, sections 4.8.3 (fixed hardware) and 4.8.1.1 (PM timer).

use minicbor::{Decode, Encode};

use super::{GuestTime, TscClock, Width};

/// First port of the block.
pub const BASE: u16 = 0x600;
/// Offset of the PM1a event block: status, then enable, 16 bits each.
pub const EVENT_OFFSET: u16 = 0;
/// Offset of the PM1a control block, 16 bits.
pub const CONTROL_OFFSET: u16 = 4;
/// Offset of the PM timer, 32 bits.
pub const TIMER_OFFSET: u16 = 8;
/// Ports in the block.
pub const LENGTH: u16 = 12;
/// Sleep type that means S5 in the guest's DSDT.
pub const SLEEP_TYPE_S5: u16 = 5;
/// Ticks of the PM timer in a second.
pub const TIMER_HZ: u64 = 3_579_545;

const TIMER_STATUS: u16 = 1 << 0;
const POWER_BUTTON: u16 = 1 << 8;
/// Timer, global lock, power button, sleep button, clock, wake.
const EVENTS: u16 = 0x8721;
const SCI_ENABLE: u16 = 1 << 0;
const SLEEP_TYPE_SHIFT: u16 = 10;
const SLEEP_ENABLE: u16 = 1 << 13;
/// Bus-master reload and sleep type stick; global release and SLP_EN read as zero.
const CONTROL_WRITABLE: u16 = 1 << 1 | 7 << SLEEP_TYPE_SHIFT;
/// The timer's status is set whenever its top bit changes.
const TIMER_HALF: u64 = 1 << 31;

const CLOCK: TscClock = match TscClock::new(TIMER_HZ) {
    Ok(clock) => clock,
    Err(_) => panic!("the PM timer's frequency is out of range"),
};

/// What a write asks of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Power {
    /// Nothing.
    Stay,
    /// Switch off.
    Off,
}

/// The power-management block.
#[derive(Debug)]
pub struct AcpiPm {
    status: u16,
    enable: u16,
    control: u16,
    /// Half wraps of the timer that the status has seen.
    halves_seen: u64,
    deadline: GuestTime,
}

/// Saved state of an [`AcpiPm`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct AcpiPmState {
    #[n(0)]
    status: u16,
    #[n(1)]
    enable: u16,
    #[n(2)]
    control: u16,
    #[n(3)]
    halves_seen: u64,
}

impl AcpiPm {
    /// The block after reset.
    #[must_use]
    pub const fn new(now: GuestTime) -> Self {
        let halves_seen = CLOCK.ticks_at(now) / TIMER_HALF;
        Self { status: 0, enable: 0, control: SCI_ENABLE, halves_seen, deadline: GuestTime::NEVER }
    }

    /// When [`Self::advance`] has something to do.
    #[inline]
    #[must_use]
    pub const fn deadline(&self) -> GuestTime {
        self.deadline
    }

    /// Level of the system-control interrupt.
    #[inline]
    #[must_use]
    pub const fn interrupt_level(&self) -> bool {
        self.status & self.enable != 0
    }

    /// Brings the timer's status up to date.
    pub fn advance(&mut self, now: GuestTime) {
        if now >= self.deadline {
            self.settle(now);
            self.arm();
        }
    }

    /// The power button is pressed: a guest that listens shuts itself down.
    pub const fn press_power_button(&mut self) {
        self.status |= POWER_BUTTON;
    }

    /// Reads at `offset` from [`BASE`].
    #[inline]
    pub fn read(&mut self, now: GuestTime, offset: u16, width: Width) -> u32 {
        let register = match offset & !3 {
            TIMER_OFFSET => CLOCK.ticks_at(now) as u32,
            EVENT_OFFSET => {
                self.settle(now);
                u32::from(self.enable) << 16 | u32::from(self.status)
            }
            CONTROL_OFFSET => u32::from(self.control),
            _ => return width.mask() as u32,
        };
        register >> (8 * (offset & 3)) & width.mask() as u32
    }

    /// Writes at `offset` from [`BASE`].
    pub fn write(&mut self, now: GuestTime, offset: u16, width: Width, value: u32) -> Power {
        let shift = 8 * u32::from(offset & 3);
        let mask = (width.mask() as u32) << shift;
        let value = value << shift & mask;
        match offset & !3 {
            EVENT_OFFSET => {
                self.settle(now);
                self.status &= !(value as u16);
                let enable_mask = (mask >> 16) as u16;
                self.enable = (self.enable & !enable_mask | (value >> 16) as u16) & EVENTS;
                self.arm();
                Power::Stay
            }
            CONTROL_OFFSET => self.write_control(mask as u16, value as u16),
            // The timer cannot be written.
            _ => Power::Stay,
        }
    }

    fn write_control(&mut self, mask: u16, value: u16) -> Power {
        let merged = self.control & !mask | value;
        self.control = merged & CONTROL_WRITABLE | SCI_ENABLE;
        if merged & SLEEP_ENABLE != 0 && merged >> SLEEP_TYPE_SHIFT & 7 == SLEEP_TYPE_S5 {
            Power::Off
        } else {
            Power::Stay
        }
    }

    fn settle(&mut self, now: GuestTime) {
        let halves = CLOCK.ticks_at(now) / TIMER_HALF;
        if halves != self.halves_seen {
            self.halves_seen = halves;
            self.status |= TIMER_STATUS;
        }
    }

    fn arm(&mut self) {
        let wanted = self.enable & !self.status & TIMER_STATUS != 0;
        self.deadline = if wanted {
            CLOCK.time_reached(self.halves_seen.saturating_add(1).saturating_mul(TIMER_HALF))
        } else {
            GuestTime::NEVER
        };
    }

    /// The state to carry to another host.
    #[must_use]
    pub const fn save(&self) -> AcpiPmState {
        let Self { status, enable, control, halves_seen, deadline: _ } = self;
        AcpiPmState { status: *status, enable: *enable, control: *control, halves_seen: *halves_seen }
    }

    /// A block in the state `saved`.
    ///
    /// # Errors
    /// The name of the first field that no block can have.
    pub fn restore(saved: &AcpiPmState) -> Result<Self, &'static str> {
        if saved.status & !EVENTS != 0 {
            return Err("acpi_pm.status");
        }
        if saved.enable & !EVENTS != 0 {
            return Err("acpi_pm.enable");
        }
        if saved.control & !(CONTROL_WRITABLE | SCI_ENABLE) != 0 {
            return Err("acpi_pm.control");
        }
        let mut pm = Self {
            status: saved.status,
            enable: saved.enable,
            control: saved.control,
            halves_seen: saved.halves_seen,
            deadline: GuestTime::NEVER,
        };
        pm.arm();
        Ok(pm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ZERO: GuestTime = GuestTime::ZERO;

    #[test]
    fn reset_state_is_acpi_mode_without_events() {
        let mut pm = AcpiPm::new(ZERO);
        assert_eq!(pm.read(ZERO, CONTROL_OFFSET, Width::Word), 1);
        assert_eq!(pm.read(ZERO, EVENT_OFFSET, Width::Dword), 0);
        assert!(!pm.interrupt_level());
    }

    #[test]
    fn the_timer_counts_at_its_frequency() {
        let mut pm = AcpiPm::new(ZERO);
        let second = GuestTime::from_nanos(1_000_000_000);
        assert_eq!(pm.read(second, TIMER_OFFSET, Width::Dword), 3_579_545);
        assert_eq!(pm.read(second, TIMER_OFFSET, Width::Byte), 3_579_545 & 0xff);
    }

    #[test]
    fn the_timers_top_bit_interrupts_if_asked() {
        let mut pm = AcpiPm::new(ZERO);
        assert_eq!(pm.write(ZERO, EVENT_OFFSET + 2, Width::Word, 1), Power::Stay);
        let due = pm.deadline();
        assert_eq!(due.as_nanos() / 1_000_000_000, 599);
        pm.advance(due);
        assert!(pm.interrupt_level());
        assert_eq!(pm.write(due, EVENT_OFFSET, Width::Word, 1), Power::Stay);
        assert!(!pm.interrupt_level());
        assert!(pm.deadline() > due);
    }

    #[test]
    fn the_power_button_interrupts_until_acknowledged() {
        let mut pm = AcpiPm::new(ZERO);
        assert_eq!(pm.write(ZERO, EVENT_OFFSET + 2, Width::Word, 0x100), Power::Stay);
        pm.press_power_button();
        assert!(pm.interrupt_level());
        assert_eq!(pm.write(ZERO, EVENT_OFFSET + 1, Width::Byte, 1), Power::Stay);
        assert!(!pm.interrupt_level());
        assert_eq!(pm.read(ZERO, EVENT_OFFSET + 2, Width::Word), 0x100, "enable is untouched");
    }

    /// Linux writes the sleep type first and SLP_EN in a second write.
    #[test]
    fn s5_switches_off_and_other_states_do_not() {
        let mut pm = AcpiPm::new(ZERO);
        let s5 = u32::from(SLEEP_TYPE_S5) << 10 | 1;
        assert_eq!(pm.write(ZERO, CONTROL_OFFSET, Width::Word, s5), Power::Stay);
        assert_eq!(pm.write(ZERO, CONTROL_OFFSET, Width::Word, s5 | 1 << 13), Power::Off);
        assert_eq!(pm.write(ZERO, CONTROL_OFFSET, Width::Word, 1 << 13), Power::Stay);
        assert_eq!(pm.read(ZERO, CONTROL_OFFSET, Width::Word) & 1 << 13, 0);
        assert_eq!(pm.read(ZERO, CONTROL_OFFSET, Width::Word) & 1, 1, "SCI_EN cannot be cleared");
    }

    #[test]
    fn restore_refuses_what_no_block_can_be() {
        let good = AcpiPm::new(ZERO).save();
        assert_eq!(AcpiPm::restore(&AcpiPmState { status: 2, ..good.clone() }).err(), Some("acpi_pm.status"));
        assert_eq!(AcpiPm::restore(&AcpiPmState { enable: 2, ..good.clone() }).err(), Some("acpi_pm.enable"));
        assert_eq!(AcpiPm::restore(&AcpiPmState { control: 1 << 13, ..good }).err(), Some("acpi_pm.control"));
    }

    proptest! {
        #[test]
        fn any_script_is_survived_and_saved(
            script in prop::collection::vec((0u8..3, 0u16..12, any::<u32>(), any::<u64>()), 0..100),
        ) {
            let mut pm = AcpiPm::new(ZERO);
            for (kind, offset, value, now) in script {
                let now = GuestTime::from_nanos(now);
                match kind {
                    0 => { let _ = pm.write(now, offset, Width::Word, value); }
                    1 => { pm.read(now, offset, Width::Dword); }
                    _ => pm.advance(now),
                }
            }
            let copy = AcpiPm::restore(&pm.save()).unwrap();
            prop_assert_eq!(copy.interrupt_level(), pm.interrupt_level());
            prop_assert_eq!(copy.save(), pm.save());
        }
    }
}
