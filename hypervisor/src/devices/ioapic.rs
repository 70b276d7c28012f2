//! I/O APIC with 24 pins.
//!
//! A line that is asserted on an unmasked pin becomes a [`Message`]. A level-triggered pin sends again only
//! after the end of its interrupt has been broadcast (remote IRR). Lines are told as asserted or not, so the
//! polarity bit has no effect.
//!
//! Reference: 82093AA data sheet (290566); the end-of-interrupt register is of version 0x20.

use minicbor::{Decode, Encode};

use super::Width;
use super::irq::{DeliveryMode, Destination, Message, Trigger};

/// Pins.
pub const PINS: usize = 24;
/// Guest-physical address of the register page.
pub const BASE: u64 = 0xfec0_0000;

const SELECT: u16 = 0x00;
const WINDOW: u16 = 0x10;
const END_OF_INTERRUPT: u16 = 0x40;
const ID: u8 = 0;
const VERSION: u8 = 1;
const ARBITRATION: u8 = 2;
const FIRST_ENTRY: u8 = 0x10;
const LAST_ENTRY: u8 = FIRST_ENTRY + 2 * PINS as u8 - 1;
const VERSION_VALUE: u32 = (PINS as u32 - 1) << 16 | 0x20;

const ENTRY_LOGICAL: u64 = 1 << 11;
const ENTRY_REMOTE_IRR: u64 = 1 << 14;
const ENTRY_LEVEL: u64 = 1 << 15;
const ENTRY_MASKED: u64 = 1 << 16;
/// Destination, mask, trigger, polarity, destination mode, delivery mode, vector.
const ENTRY_WRITABLE: u64 = 0xff00_0000_0001_afff;

/// The I/O APIC.
#[derive(Debug)]
pub struct IoApic {
    id: u32,
    select: u8,
    entries: [u64; PINS],
    /// Asserted lines, one bit per pin.
    lines: u32,
    /// Pins that wait for an end of interrupt: a copy of the entries' remote IRR bits.
    waiting: u32,
}

/// Saved state of an [`IoApic`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct IoApicState {
    #[n(0)]
    id: u32,
    #[n(1)]
    select: u8,
    #[n(2)]
    entries: [u64; PINS],
    #[n(3)]
    lines: u32,
}

/// Pins whose line is asserted and that are to be looked at again, one bit per pin.
pub type Pins = u32;

impl Default for IoApic {
    fn default() -> Self {
        Self::new()
    }
}

impl IoApic {
    /// An I/O APIC after reset: every pin masked.
    #[must_use]
    pub const fn new() -> Self {
        Self { id: 0, select: 0, entries: [ENTRY_MASKED; PINS], lines: 0, waiting: 0 }
    }

    /// Resets the registers; the lines are whatever the devices make of them.
    pub const fn reset(&mut self) {
        *self = Self { lines: self.lines, ..Self::new() };
    }

    /// Reads at `offset` of the register page.
    #[must_use]
    pub fn read(&self, offset: u16, width: Width) -> u64 {
        let value = match offset {
            SELECT => u32::from(self.select),
            WINDOW => self.read_selected(),
            _ => 0,
        };
        u64::from(value) & width.mask()
    }

    fn read_selected(&self) -> u32 {
        match self.select {
            ID | ARBITRATION => self.id,
            VERSION => VERSION_VALUE,
            register @ FIRST_ENTRY..=LAST_ENTRY => {
                let entry = self.entries[usize::from(register - FIRST_ENTRY) / 2];
                if register & 1 == 0 { entry as u32 } else { (entry >> 32) as u32 }
            }
            _ => 0,
        }
    }

    /// Writes at `offset` of the register page; pins that [`Self::service`] should be asked about.
    #[must_use]
    pub fn write(&mut self, offset: u16, width: Width, value: u64) -> Pins {
        let value = (value & width.mask()) as u32;
        match offset {
            SELECT => {
                self.select = value as u8;
                0
            }
            WINDOW => self.write_selected(value),
            END_OF_INTERRUPT => self.end_of_interrupt(value as u8),
            _ => 0,
        }
    }

    fn write_selected(&mut self, value: u32) -> Pins {
        match self.select {
            ID => {
                self.id = value & 0x0f00_0000;
                0
            }
            register @ FIRST_ENTRY..=LAST_ENTRY => {
                let pin = usize::from(register - FIRST_ENTRY) / 2;
                let old = self.entries[pin];
                let written = if register & 1 == 0 {
                    old & !0xffff_ffff | u64::from(value)
                } else {
                    old & 0xffff_ffff | u64::from(value) << 32
                };
                self.write_entry(pin, written)
            }
            _ => 0,
        }
    }

    fn write_entry(&mut self, pin: usize, written: u64) -> Pins {
        let mut entry = written & ENTRY_WRITABLE;
        if entry & ENTRY_LEVEL != 0 {
            entry |= self.entries[pin] & ENTRY_REMOTE_IRR;
        } else {
            // Edge mode has no remote IRR; Linux clears a stuck one by switching modes.
            self.waiting &= !(1 << pin);
        }
        self.entries[pin] = entry;
        if entry & ENTRY_LEVEL != 0 { self.lines & 1 << pin } else { 0 }
    }

    /// The line of `pin` has become asserted or not; the message this sends.
    #[inline]
    pub fn set_line(&mut self, pin: u8, asserted: bool) -> Option<Message> {
        if usize::from(pin) >= PINS {
            return None;
        }
        let bit = 1u32 << pin;
        let rose = asserted && self.lines & bit == 0;
        if asserted {
            self.lines |= bit;
        } else {
            self.lines &= !bit;
        }
        if !rose {
            return None;
        }
        let entry = self.entries.get_mut(usize::from(pin))?;
        if *entry & ENTRY_MASKED != 0 {
            // An edge under the mask is lost; a level is seen again when the mask goes.
            return None;
        }
        if *entry & ENTRY_LEVEL != 0 {
            return self.service(pin);
        }
        Some(message(*entry))
    }

    /// Sends the interrupt of a level-triggered pin if its line is asserted, it is not masked and its
    /// previous one is over.
    pub fn service(&mut self, pin: u8) -> Option<Message> {
        let entry = self.entries.get_mut(usize::from(pin))?;
        let asserted = self.lines & 1 << pin != 0;
        if !asserted || *entry & (ENTRY_MASKED | ENTRY_REMOTE_IRR) != 0 || *entry & ENTRY_LEVEL == 0 {
            return None;
        }
        // Only modes whose end is broadcast wait for it.
        if matches!(DeliveryMode::of(*entry as u32), DeliveryMode::Fixed | DeliveryMode::LowestPriority) {
            *entry |= ENTRY_REMOTE_IRR;
            self.waiting |= 1 << pin;
        }
        Some(message(*entry))
    }

    /// The end of the interrupt with `vector` is broadcast; pins that [`Self::service`] should be asked
    /// about.
    #[inline]
    #[must_use]
    pub fn end_of_interrupt(&mut self, vector: u8) -> Pins {
        let mut again = 0;
        let mut waiting = self.waiting;
        while waiting != 0 {
            let pin = waiting.trailing_zeros();
            waiting &= waiting - 1;
            let Some(entry) = self.entries.get_mut(pin as usize) else { break };
            if *entry as u8 == vector {
                *entry &= !ENTRY_REMOTE_IRR;
                self.waiting &= !(1 << pin);
                again |= self.lines & 1 << pin;
            }
        }
        again
    }

    /// The state to carry to another host.
    #[must_use]
    pub const fn save(&self) -> IoApicState {
        let Self { id, select, entries, lines, waiting: _ } = self;
        IoApicState { id: *id, select: *select, entries: *entries, lines: *lines }
    }

    /// An I/O APIC in the state `saved`; its lines are as they were, so restored devices make no edge.
    ///
    /// # Errors
    /// The name of the first field that no I/O APIC can have.
    pub fn restore(saved: &IoApicState) -> Result<Self, &'static str> {
        if saved.id & !0x0f00_0000 != 0 {
            return Err("ioapic.id");
        }
        if saved.lines >> PINS != 0 {
            return Err("ioapic.lines");
        }
        let mut waiting = 0;
        for (pin, entry) in saved.entries.iter().enumerate() {
            if entry & !(ENTRY_WRITABLE | ENTRY_REMOTE_IRR) != 0 {
                return Err("ioapic.entries");
            }
            if entry & ENTRY_REMOTE_IRR != 0 {
                if entry & ENTRY_LEVEL == 0 {
                    return Err("ioapic.entries");
                }
                waiting |= 1 << pin;
            }
        }
        Ok(Self { id: saved.id, select: saved.select, entries: saved.entries, lines: saved.lines, waiting })
    }
}

const fn message(entry: u64) -> Message {
    let address = (entry >> 56) as u32;
    Message {
        destination: if entry & ENTRY_LOGICAL != 0 {
            Destination::Logical(address)
        } else {
            Destination::Physical(address)
        },
        mode: DeliveryMode::of(entry as u32),
        trigger: if entry & ENTRY_LEVEL != 0 { Trigger::Level } else { Trigger::Edge },
        vector: entry as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn program(ioapic: &mut IoApic, pin: u8, entry: u64) -> Pins {
        let mut pins = 0;
        for (register, value) in [(1, entry >> 32), (0, entry & 0xffff_ffff)] {
            assert_eq!(ioapic.write(SELECT, Width::Dword, u64::from(FIRST_ENTRY + 2 * pin + register)), 0);
            pins = ioapic.write(WINDOW, Width::Dword, value);
        }
        pins
    }

    fn entry(ioapic: &mut IoApic, pin: u8) -> u64 {
        assert_eq!(ioapic.write(SELECT, Width::Dword, u64::from(FIRST_ENTRY + 2 * pin)), 0);
        ioapic.read(WINDOW, Width::Dword)
    }

    #[test]
    fn reset_state_has_24_masked_pins() {
        let mut ioapic = IoApic::new();
        assert_eq!(ioapic.write(SELECT, Width::Dword, 1), 0);
        assert_eq!(ioapic.read(WINDOW, Width::Dword), 0x0017_0020);
        for pin in 0..24 {
            assert_eq!(entry(&mut ioapic, pin), ENTRY_MASKED);
            assert_eq!(ioapic.set_line(pin, true), None);
        }
    }

    #[test]
    fn an_edge_sends_once_per_rise() {
        let mut ioapic = IoApic::new();
        program(&mut ioapic, 4, 0x0100_0000_0000_0031);
        let sent = ioapic.set_line(4, true).unwrap();
        assert_eq!(sent.destination, Destination::Physical(1));
        assert_eq!((sent.vector, sent.trigger), (0x31, Trigger::Edge));
        assert_eq!(ioapic.set_line(4, true), None);
        assert_eq!(ioapic.set_line(4, false), None);
        assert!(ioapic.set_line(4, true).is_some());
    }

    #[test]
    fn a_level_waits_for_its_end_and_comes_again_while_asserted() {
        let mut ioapic = IoApic::new();
        program(&mut ioapic, 9, ENTRY_LEVEL | 0x51);
        assert!(ioapic.set_line(9, true).is_some());
        assert_eq!(entry(&mut ioapic, 9) & ENTRY_REMOTE_IRR, ENTRY_REMOTE_IRR);
        ioapic.set_line(9, false);
        assert_eq!(ioapic.set_line(9, true), None, "remote IRR is set");
        assert_eq!(ioapic.end_of_interrupt(0x50), 0);
        assert_eq!(ioapic.end_of_interrupt(0x51), 1 << 9);
        assert!(ioapic.service(9).is_some());
        ioapic.set_line(9, false);
        assert_eq!(ioapic.write(END_OF_INTERRUPT, Width::Dword, 0x51), 0);
        assert_eq!(ioapic.service(9), None);
    }

    #[test]
    fn unmasking_shows_a_level_but_not_an_edge() {
        let mut ioapic = IoApic::new();
        ioapic.set_line(5, true);
        ioapic.set_line(6, true);
        assert_eq!(program(&mut ioapic, 5, 0x35), 0);
        assert_eq!(program(&mut ioapic, 6, ENTRY_LEVEL | 0x36), 1 << 6);
        assert!(ioapic.service(6).is_some());
    }

    #[test]
    fn switching_to_edge_clears_a_stuck_remote_irr() {
        let mut ioapic = IoApic::new();
        program(&mut ioapic, 9, ENTRY_LEVEL | 0x51);
        ioapic.set_line(9, true);
        program(&mut ioapic, 9, ENTRY_MASKED | 0x51);
        assert_eq!(entry(&mut ioapic, 9) & ENTRY_REMOTE_IRR, 0);
        assert_eq!(program(&mut ioapic, 9, ENTRY_LEVEL | 0x51), 1 << 9);
        assert!(ioapic.service(9).is_some());
    }

    #[test]
    fn a_restored_line_makes_no_edge() {
        let mut ioapic = IoApic::new();
        program(&mut ioapic, 4, 0x31);
        ioapic.set_line(4, true);
        let mut copy = IoApic::restore(&ioapic.save()).unwrap();
        assert_eq!(copy.set_line(4, true), None);
    }

    #[test]
    fn restore_refuses_what_no_ioapic_can_be() {
        let good = IoApic::new().save();
        let bad = IoApicState { lines: 1 << 24, ..good.clone() };
        assert_eq!(IoApic::restore(&bad).err(), Some("ioapic.lines"));
        let mut bad = good;
        bad.entries[3] = ENTRY_REMOTE_IRR;
        assert_eq!(IoApic::restore(&bad).err(), Some("ioapic.entries"));
    }

    proptest! {
        #[test]
        fn any_script_is_survived_and_saved(
            script in prop::collection::vec((any::<u8>(), 0u16..0x50, any::<u64>()), 0..200),
        ) {
            let mut ioapic = IoApic::new();
            for (kind, offset, value) in script {
                match kind % 4 {
                    0 => { let _ = ioapic.write(offset & !0xf, Width::Dword, value); }
                    1 => { ioapic.set_line(value as u8, kind & 4 != 0); }
                    2 => { let _ = ioapic.end_of_interrupt(value as u8); }
                    _ => { ioapic.service(value as u8 % 24); }
                }
                let _ = ioapic.read(offset, Width::Dword);
            }
            let copy = IoApic::restore(&ioapic.save()).unwrap();
            prop_assert_eq!(copy.waiting, ioapic.waiting);
            prop_assert_eq!(copy.save(), ioapic.save());
        }
    }
}
