//! A card for tests, written from the manual and not from the driver: it has registers, walks both rings in
//! the fake memory and does what the descriptors ask.

use alloc::{rc::Rc, vec::Vec};
use core::cell::RefCell;
use std::collections::BTreeMap;

use crate::drivers::hal::fake::{FakeDma, FakeMemory, FakeMmio, Registers};

pub(super) const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

/// What the card's EEPROM does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Eeprom {
    Holds([u8; 6]),
    Silent,
}

/// The card's insides; the test reaches them beside the driver.
pub(super) struct Card {
    memory: FakeMemory,
    registers: BTreeMap<usize, u32>,
    pub(super) eeprom: Eeprom,
    pub(super) reset_sticks: bool,
    pub(super) transmitter_stuck: bool,
    pub(super) register_writes: usize,
    context: Vec<u8>,
    frame: Vec<u8>,
    frame_options: u8,
    /// What went out on the wire.
    pub(super) sent: Vec<Vec<u8>>,
    /// Context descriptors seen.
    pub(super) contexts_seen: usize,
}

pub(super) type SharedCard = Rc<RefCell<Card>>;
pub(super) type Window = FakeMmio<Card>;

/// A card, its window and the memory it works on.
pub(super) fn card() -> (SharedCard, FakeDma) {
    let dma = FakeDma::new(4 * 1024 * 1024);
    let card = Card {
        memory: dma.memory(),
        registers: BTreeMap::new(),
        eeprom: Eeprom::Holds(MAC),
        reset_sticks: false,
        transmitter_stuck: false,
        register_writes: 0,
        context: Vec::new(),
        frame: Vec::new(),
        frame_options: 0,
        sent: Vec::new(),
        contexts_seen: 0,
    };
    (Rc::new(RefCell::new(card)), dma)
}

pub(super) fn window(card: &SharedCard) -> Window {
    FakeMmio::new(card.clone(), 0x2_0000)
}

impl Card {
    pub(super) fn register(&self, offset: usize) -> u32 {
        self.registers.get(&offset).copied().unwrap_or(0)
    }

    pub(super) fn set(&mut self, offset: usize, value: u32) {
        self.registers.insert(offset, value);
    }

    fn base(&self, low: usize) -> u64 {
        u64::from(self.register(low)) | u64::from(self.register(low + 4)) << 32
    }

    /// A frame arrives; false if the card has no buffer for it.
    pub(super) fn deliver(&mut self, frame: &[u8]) -> bool {
        self.deliver_with(frame, 0b111, 0)
    }

    /// A buffer's worth arrives with the given status and error bytes.
    pub(super) fn deliver_with(&mut self, bytes: &[u8], status: u8, errors: u8) -> bool {
        let (head, tail) = (self.register(0x2810), self.register(0x2818));
        if self.register(0x100) & 2 == 0 || head == tail {
            self.set(0x4010, self.register(0x4010) + 1);
            return false;
        }
        let descriptor = self.base(0x2800) + u64::from(head) * 16;
        let buffer = self.memory.read_u64(descriptor);
        self.memory.write(buffer, bytes);
        let word = bytes.len() as u64 | u64::from(status) << 32 | u64::from(errors) << 40;
        self.memory.write_u64(descriptor + 8, word);
        let count = self.register(0x2808) / 16;
        self.set(0x2810, (head + 1) % count);
        self.set(0xc0, self.register(0xc0) | 0x80);
        true
    }

    pub(super) fn run_transmitter(&mut self) {
        while !self.transmitter_stuck && self.register(0x3810) != self.register(0x3818) {
            let head = self.register(0x3810);
            let address = self.base(0x3800) + u64::from(head) * 16;
            let low = self.memory.read(address, 8);
            let high = self.memory.read_u64(address + 8);
            if high >> 20 & 0xf == 0 {
                self.contexts_seen += 1;
                self.context = [low, high.to_le_bytes().to_vec()].concat();
            } else {
                self.data(u64::from_le_bytes(low.try_into().unwrap()), high);
            }
            if high & 1 << 27 != 0 {
                self.memory.write_u64(address + 8, high | 1 << 32);
            }
            self.set(0x3810, (head + 1) % (self.register(0x3808) / 16));
        }
    }

    fn data(&mut self, buffer: u64, high: u64) {
        assert_eq!(high >> 29 & 1, 1, "only extended descriptors are expected");
        if self.frame.is_empty() {
            self.frame_options = (high >> 40) as u8;
        }
        self.frame.extend(self.memory.read(buffer, (high & 0xf_ffff) as usize));
        if high & 1 << 24 == 0 {
            return;
        }
        let frame = core::mem::take(&mut self.frame);
        self.send(frame, self.frame_options);
    }

    fn send(&mut self, mut frame: Vec<u8>, options: u8) {
        let byte = |index: usize| usize::from(self.context.get(index).copied().unwrap_or(0));
        if options & 1 != 0 {
            let (start, field, last) = (byte(0), byte(1), byte(2) | byte(3) << 8);
            let sum = !sum(&frame[start..=last]);
            frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        }
        if options & 2 != 0 {
            let (start, field) = (byte(4), byte(5));
            let sum = !sum(&frame[start..]);
            frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        }
        self.sent.push(frame);
    }
}

/// The ones' complement sum, slowly and plainly.
pub(super) fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

impl Registers for Card {
    fn read(&mut self, offset: usize, size: usize) -> u32 {
        assert_eq!(size, 4, "the card has 32-bit registers");
        match offset {
            0x14 => self.eeprom_word(),
            0xc0 | 0x4000..0x4100 => self.registers.remove(&offset).unwrap_or(0),
            _ => self.register(offset),
        }
    }

    fn write(&mut self, offset: usize, size: usize, value: u32) {
        assert_eq!(size, 4, "the card has 32-bit registers");
        self.register_writes += 1;
        match offset {
            0 if value & 1 << 26 != 0 => {
                let kept = [0x5400, 0x5404].map(|offset| (offset, self.register(offset)));
                self.registers.clear();
                self.registers.extend(kept);
                self.set(8, 0x83);
                self.set(0, if self.reset_sticks { 1 << 26 } else { 0 });
            }
            0xc8 => self.set(0xc0, self.register(0xc0) | value),
            0xd0 => self.set(0xd0, self.register(0xd0) | value),
            0xd8 => self.set(0xd0, self.register(0xd0) & !value),
            0x3818 => {
                self.set(0x3818, value);
                self.run_transmitter();
            }
            _ => self.set(offset, value),
        }
    }
}

impl Card {
    fn eeprom_word(&self) -> u32 {
        let Eeprom::Holds(mac) = self.eeprom else { return 0 };
        let request = self.register(0x14);
        assert_eq!(request & 1, 1, "a read that was not started");
        let index = (request >> 8) as usize & 0xff;
        let word = u16::from_le_bytes([mac[2 * index], mac[2 * index + 1]]);
        u32::from(word) << 16 | request | 1 << 4
    }
}
