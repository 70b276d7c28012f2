//! An I/O APIC: which interrupt line goes to which CPU with which vector (82093AA data sheet).

use crate::drivers::hal::Mmio;

/// Bytes of the register window.
pub const WINDOW_LENGTH: usize = 0x20;

const SELECT: usize = 0x00;
const DATA: usize = 0x10;
const VERSION: u32 = 0x01;
const REDIRECTION: u32 = 0x10;
const MASKED: u32 = 1 << 16;
const LEVEL: u32 = 1 << 15;
const ACTIVE_LOW: u32 = 1 << 13;

/// How a line signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal {
    /// When the line interrupts.
    pub trigger: Trigger,
    /// Which level means "asserted".
    pub polarity: Polarity,
}

/// When a line interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// When it becomes asserted.
    Edge,
    /// As long as it is asserted.
    Level,
}

/// Which level means "asserted".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polarity {
    /// The high one.
    High,
    /// The low one.
    Low,
}

impl Signal {
    /// As ISA devices signal unless the firmware says otherwise.
    pub const ISA: Self = Self { trigger: Trigger::Edge, polarity: Polarity::High };
    /// As PCI devices signal.
    pub const PCI: Self = Self { trigger: Trigger::Level, polarity: Polarity::Low };

    const fn bits(self) -> u32 {
        (match self.trigger {
            Trigger::Edge => 0,
            Trigger::Level => LEVEL,
        }) | (match self.polarity {
            Polarity::High => 0,
            Polarity::Low => ACTIVE_LOW,
        })
    }
}

/// One I/O APIC, all lines masked.
#[derive(Debug)]
pub struct IoApic<M> {
    window: M,
    first: u32,
    lines: u32,
}

impl<M: Mmio> IoApic<M> {
    /// Takes the I/O APIC with registers in `window`, whose first line is global interrupt `first`, and masks
    /// all its lines. `None` if nobody answers there.
    pub fn new(window: M, first: u32) -> Option<Self> {
        let mut this = Self { window, first, lines: 0 };
        let version = this.read(VERSION);
        if version == u32::MAX || version == 0 {
            return None;
        }
        this.lines = (version >> 16 & 0xff) + 1;
        for line in 0..this.lines {
            this.write(REDIRECTION + 2 * line, MASKED);
        }
        Some(this)
    }

    /// Whether global interrupt `number` is one of this controller's lines.
    #[must_use]
    pub fn has(&self, number: u32) -> bool {
        number.checked_sub(self.first).is_some_and(|line| line < self.lines)
    }

    /// Delivers global interrupt `number` with `vector` to the CPU with local APIC id `target`; `false` if this
    /// controller has no such line or cannot name that CPU.
    #[must_use]
    pub fn route(&self, number: u32, signal: Signal, vector: u8, target: u32) -> bool {
        if !self.has(number) || target > 0xff {
            return false;
        }
        let entry = REDIRECTION + 2 * (number - self.first);
        self.write(entry, MASKED);
        self.write(entry + 1, target << 24);
        self.write(entry, signal.bits() | u32::from(vector));
        true
    }

    /// Masks global interrupt `number`, if it is one of this controller's lines.
    pub fn mask(&self, number: u32) {
        self.change(number, |entry| entry | MASKED);
    }

    /// Lets global interrupt `number` interrupt again, if it is one of this controller's lines.
    pub fn unmask(&self, number: u32) {
        self.change(number, |entry| entry & !MASKED);
    }

    fn change(&self, number: u32, change: impl FnOnce(u32) -> u32) {
        if self.has(number) {
            let entry = REDIRECTION + 2 * (number - self.first);
            self.write(entry, change(self.read(entry)));
        }
    }

    fn read(&self, register: u32) -> u32 {
        self.window.write_u32(SELECT, register);
        self.window.read_u32(DATA)
    }

    fn write(&self, register: u32, value: u32) {
        self.window.write_u32(SELECT, register);
        self.window.write_u32(DATA, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::RefCell;
    use std::collections::BTreeMap;

    #[derive(Default)]
    struct Fake {
        select: RefCell<u32>,
        registers: RefCell<BTreeMap<u32, u32>>,
    }

    impl Mmio for &Fake {
        fn length(&self) -> usize {
            WINDOW_LENGTH
        }
        fn read_u8(&self, _: usize) -> u8 {
            unreachable!("32-bit registers")
        }
        fn read_u16(&self, _: usize) -> u16 {
            unreachable!("32-bit registers")
        }
        fn read_u32(&self, offset: usize) -> u32 {
            assert_eq!(offset, DATA);
            self.registers.borrow().get(&self.select.borrow()).copied().unwrap_or(0)
        }
        fn write_u8(&self, _: usize, _: u8) {
            unreachable!("32-bit registers")
        }
        fn write_u16(&self, _: usize, _: u16) {
            unreachable!("32-bit registers")
        }
        fn write_u32(&self, offset: usize, value: u32) {
            match offset {
                SELECT => *self.select.borrow_mut() = value,
                DATA => drop(self.registers.borrow_mut().insert(*self.select.borrow(), value)),
                _ => unreachable!("no such register"),
            }
        }
    }

    fn fake() -> Fake {
        let fake = Fake::default();
        fake.registers.borrow_mut().insert(VERSION, 23 << 16 | 0x11);
        fake
    }

    #[test]
    fn all_lines_start_masked() {
        let fake = fake();
        let apic = IoApic::new(&fake, 0).unwrap();
        assert!(apic.has(23) && !apic.has(24));
        assert!((0..24).all(|line| fake.registers.borrow()[&(REDIRECTION + 2 * line)] == MASKED));
    }

    #[test]
    fn where_nobody_answers_there_is_none() {
        assert!(IoApic::new(&Fake::default(), 0).is_none());
    }

    #[test]
    fn a_route_names_vector_signal_and_target() {
        let fake = fake();
        let apic = IoApic::new(&fake, 0).unwrap();
        assert!(apic.route(17, Signal::PCI, 0x40, 1));
        assert_eq!(fake.registers.borrow()[&(REDIRECTION + 34)], LEVEL | ACTIVE_LOW | 0x40);
        assert_eq!(fake.registers.borrow()[&(REDIRECTION + 35)], 1 << 24);
        apic.mask(17);
        assert_eq!(fake.registers.borrow()[&(REDIRECTION + 34)], MASKED | LEVEL | ACTIVE_LOW | 0x40);
        apic.unmask(17);
        assert_eq!(fake.registers.borrow()[&(REDIRECTION + 34)], LEVEL | ACTIVE_LOW | 0x40);
        assert!(!apic.route(24, Signal::PCI, 0x40, 1));
        assert!(!apic.route(17, Signal::PCI, 0x40, 256));
    }
}
