//! The two cascaded 8259A interrupt controllers of a PC, with the edge/level registers of a PIIX.
//!
//! The slave's output is the master's line 2. The pair's own output is kept up to date at every change.
//!
//! Reference: Intel 8259A data sheet (231468); 82371SB (PIIX3) for the edge/level registers.

use minicbor::{Decode, Encode};

/// The master's line that the slave drives.
const CASCADE: u8 = 2;
/// Vector offset of the spurious interrupt.
const SPURIOUS: u8 = 7;
/// Lines of each chip that can be level-triggered: not the timer, the keyboard, the cascade and the clock.
const LEVEL_CAPABLE: [u8; 2] = [0xf8, 0xde];

const ICW1: u8 = 1 << 4;
const ICW1_FOURTH_WORD: u8 = 1 << 0;
const ICW1_SINGLE: u8 = 1 << 1;
const ICW1_LEVEL: u8 = 1 << 3;
const ICW4_AUTOMATIC_END: u8 = 1 << 1;
const ICW4_FULLY_NESTED: u8 = 1 << 4;
const OCW3: u8 = 1 << 3;

/// Which initialisation word a chip expects next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
enum Setup {
    #[n(0)]
    Done,
    #[n(1)]
    Vector,
    #[n(2)]
    Cascade,
    #[n(3)]
    Mode,
}

/// One 8259A. Its state is its saved state: every field is a register or a latch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
struct Chip {
    #[n(0)]
    requested: u8,
    #[n(1)]
    in_service: u8,
    #[n(2)]
    masked: u8,
    /// Levels of the lines.
    #[n(3)]
    lines: u8,
    #[n(4)]
    vector_base: u8,
    /// Line that has the highest priority: not 0 after a rotation.
    #[n(5)]
    highest: u8,
    #[n(6)]
    level_triggered: u8,
    #[n(7)]
    setup: Setup,
    #[n(8)]
    wants_fourth_word: bool,
    #[n(9)]
    wants_third_word: bool,
    #[n(10)]
    automatic_end: bool,
    #[n(11)]
    rotate_on_automatic_end: bool,
    #[n(12)]
    fully_nested: bool,
    #[n(13)]
    special_mask: bool,
    #[n(14)]
    poll: bool,
    #[n(15)]
    reads_in_service: bool,
    #[n(16)]
    level_mode: bool,
}

impl Chip {
    /// Everything is masked until the chip is initialised, as firmware leaves it.
    const fn new() -> Self {
        Self {
            requested: 0,
            in_service: 0,
            masked: 0xff,
            lines: 0,
            vector_base: 0,
            highest: 0,
            level_triggered: 0,
            setup: Setup::Done,
            wants_fourth_word: false,
            wants_third_word: false,
            automatic_end: false,
            rotate_on_automatic_end: false,
            fully_nested: false,
            special_mask: false,
            poll: false,
            reads_in_service: false,
            level_mode: false,
        }
    }

    /// The line of highest priority in `set`.
    const fn first(&self, set: u8) -> Option<u8> {
        if set == 0 {
            return None;
        }
        let rotated = set.rotate_right(self.highest as u32);
        Some((rotated.trailing_zeros() as u8 + self.highest) & 7)
    }

    /// How far down `line` is in the order of priority.
    const fn rank(&self, line: u8) -> u8 {
        line.wrapping_sub(self.highest) & 7
    }

    /// The line to be served now, if its priority is above what is in service.
    const fn winner(&self, is_master: bool) -> Option<u8> {
        let Some(line) = self.first(self.requested & !self.masked) else { return None };
        let mut serving = self.in_service;
        if self.special_mask {
            serving &= !self.masked;
        }
        if self.fully_nested && is_master {
            // The slave may interrupt its own interrupt with a higher one.
            serving &= !(1 << CASCADE);
        }
        match self.first(serving) {
            Some(current) if self.rank(current) <= self.rank(line) => None,
            _ => Some(line),
        }
    }

    const fn is_level(&self, line: u8) -> bool {
        self.level_mode || self.level_triggered & 1 << line != 0
    }

    const fn set_line(&mut self, line: u8, asserted: bool) {
        let bit = 1 << line;
        if asserted {
            if self.is_level(line) || self.lines & bit == 0 {
                self.requested |= bit;
            }
            self.lines |= bit;
        } else {
            if self.is_level(line) {
                self.requested &= !bit;
            }
            self.lines &= !bit;
        }
    }

    const fn acknowledge(&mut self, line: u8) {
        if self.automatic_end {
            if self.rotate_on_automatic_end {
                self.highest = (line + 1) & 7;
            }
        } else {
            self.in_service |= 1 << line;
        }
        if !self.is_level(line) {
            self.requested &= !(1 << line);
        }
    }

    fn write_command(&mut self, value: u8) {
        if value & ICW1 != 0 {
            // The edge detectors are reset: a line that stays high makes no new request.
            let Self { lines, level_triggered, .. } = *self;
            *self = Self { lines, level_triggered, masked: 0, ..Self::new() };
            self.level_mode = value & ICW1_LEVEL != 0;
            self.setup = Setup::Vector;
            self.wants_third_word = value & ICW1_SINGLE == 0;
            self.wants_fourth_word = value & ICW1_FOURTH_WORD != 0;
        } else if value & OCW3 != 0 {
            if value & 1 << 2 != 0 {
                self.poll = true;
            }
            if value & 1 << 1 != 0 {
                self.reads_in_service = value & 1 != 0;
            }
            if value & 1 << 6 != 0 {
                self.special_mask = value & 1 << 5 != 0;
            }
        } else {
            self.operate(value);
        }
    }

    /// OCW2: ends of interrupts and rotations.
    const fn operate(&mut self, value: u8) {
        let line = value & 7;
        match value >> 5 {
            0 | 4 => self.rotate_on_automatic_end = value >> 5 == 4,
            // Non-specific end, without and with rotation.
            1 | 5 => {
                if let Some(current) = self.first(self.in_service) {
                    self.in_service &= !(1 << current);
                    if value >> 5 == 5 {
                        self.highest = (current + 1) & 7;
                    }
                }
            }
            // Specific end, without and with rotation.
            3 | 7 => {
                self.in_service &= !(1 << line);
                if value >> 5 == 7 {
                    self.highest = (line + 1) & 7;
                }
            }
            6 => self.highest = (line + 1) & 7,
            _ => {}
        }
    }

    const fn write_data(&mut self, value: u8) {
        match self.setup {
            Setup::Done => self.masked = value,
            Setup::Vector => {
                self.vector_base = value & 0xf8;
                self.setup = match (self.wants_third_word, self.wants_fourth_word) {
                    (true, _) => Setup::Cascade,
                    (false, true) => Setup::Mode,
                    (false, false) => Setup::Done,
                };
            }
            // How the chips are wired is not programmable here.
            Setup::Cascade => {
                self.setup = if self.wants_fourth_word { Setup::Mode } else { Setup::Done };
            }
            Setup::Mode => {
                self.fully_nested = value & ICW4_FULLY_NESTED != 0;
                self.automatic_end = value & ICW4_AUTOMATIC_END != 0;
                self.setup = Setup::Done;
            }
        }
    }

    const fn is_possible(&self, level_capable: u8) -> bool {
        self.vector_base & 7 == 0 && self.highest < 8 && self.level_triggered & !level_capable == 0
    }
}

/// The pair.
#[derive(Debug)]
pub struct PicPair {
    chips: [Chip; 2],
    output: bool,
}

/// Saved state of a [`PicPair`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PicState {
    #[n(0)]
    master: Chip,
    #[n(1)]
    slave: Chip,
}

impl Default for PicPair {
    fn default() -> Self {
        Self::new()
    }
}

impl PicPair {
    /// Both chips after reset, everything masked.
    #[must_use]
    pub const fn new() -> Self {
        Self { chips: [Chip::new(); 2], output: false }
    }

    /// Resets the registers; the lines are whatever the devices make of them.
    pub const fn reset(&mut self) {
        let lines = [self.chips[0].lines, self.chips[1].lines];
        *self = Self::new();
        self.chips[0].lines = lines[0] & !(1 << CASCADE);
        self.chips[1].lines = lines[1];
    }

    /// Whether the pair asks the processor for an interrupt.
    #[inline]
    #[must_use]
    pub const fn output(&self) -> bool {
        self.output
    }

    /// The line `irq` (0 to 15) has become asserted or not.
    #[inline]
    pub fn set_line(&mut self, irq: u8, asserted: bool) {
        if irq >= 16 || irq == CASCADE {
            return;
        }
        self.chips[usize::from(irq >> 3)].set_line(irq & 7, asserted);
        self.update();
    }

    /// The processor takes the interrupt: its vector. The spurious one if the request has gone meanwhile.
    pub fn acknowledge(&mut self) -> u8 {
        let vector = match self.chips[0].winner(true) {
            Some(CASCADE) => {
                self.chips[0].acknowledge(CASCADE);
                let line = self.chips[1].winner(false);
                if let Some(line) = line {
                    self.chips[1].acknowledge(line);
                }
                self.chips[1].vector_base + line.unwrap_or(SPURIOUS)
            }
            Some(line) => {
                self.chips[0].acknowledge(line);
                self.chips[0].vector_base + line
            }
            None => self.chips[0].vector_base + SPURIOUS,
        };
        self.update();
        vector
    }

    /// The vector that [`Self::acknowledge`] would give.
    #[must_use]
    pub const fn vector(&self) -> u8 {
        match self.chips[0].winner(true) {
            Some(CASCADE) => match self.chips[1].winner(false) {
                Some(line) => self.chips[1].vector_base + line,
                None => self.chips[1].vector_base + SPURIOUS,
            },
            Some(line) => self.chips[0].vector_base + line,
            None => self.chips[0].vector_base + SPURIOUS,
        }
    }

    /// Reads 0x20, 0x21, 0xa0 or 0xa1.
    pub fn read(&mut self, port: u16) -> u8 {
        let index = usize::from(port >> 7 & 1);
        let chip = &mut self.chips[index];
        if core::mem::take(&mut chip.poll) {
            // A poll acknowledges like the processor does.
            let winner = chip.winner(index == 0);
            if let Some(line) = winner {
                chip.acknowledge(line);
            }
            self.update();
            return winner.map_or(0, |line| 0x80 | line);
        }
        match port & 1 {
            0 if chip.reads_in_service => chip.in_service,
            0 => chip.requested,
            _ => chip.masked,
        }
    }

    /// Writes 0x20, 0x21, 0xa0 or 0xa1.
    pub fn write(&mut self, port: u16, value: u8) {
        let chip = &mut self.chips[usize::from(port >> 7 & 1)];
        if port & 1 == 0 {
            chip.write_command(value);
        } else {
            chip.write_data(value);
        }
        self.update();
    }

    /// Reads the edge/level register 0x4d0 or 0x4d1.
    #[must_use]
    pub const fn read_trigger(&self, port: u16) -> u8 {
        self.chips[(port & 1) as usize].level_triggered
    }

    /// Writes the edge/level register 0x4d0 or 0x4d1.
    pub const fn write_trigger(&mut self, port: u16, value: u8) {
        let index = (port & 1) as usize;
        self.chips[index].level_triggered = value & LEVEL_CAPABLE[index];
    }

    /// Carries the slave's output to the master and the master's to the processor.
    fn update(&mut self) {
        let cascade = self.chips[1].winner(false).is_some();
        // The cascade is a level, whatever the master's mode.
        self.chips[0].set_line(CASCADE, cascade);
        if cascade {
            self.chips[0].requested |= 1 << CASCADE;
        } else {
            self.chips[0].requested &= !(1 << CASCADE);
        }
        self.output = self.chips[0].winner(true).is_some();
    }

    /// The state to carry to another host.
    #[must_use]
    pub const fn save(&self) -> PicState {
        let Self { chips: [master, slave], output: _ } = self;
        PicState { master: *master, slave: *slave }
    }

    /// A pair in the state `saved`; its lines are as they were, so restored devices make no edge.
    ///
    /// # Errors
    /// The name of the first chip whose state is impossible.
    pub fn restore(saved: &PicState) -> Result<Self, &'static str> {
        if !saved.master.is_possible(LEVEL_CAPABLE[0]) {
            return Err("pic.master");
        }
        if !saved.slave.is_possible(LEVEL_CAPABLE[1]) {
            return Err("pic.slave");
        }
        let mut pair = Self { chips: [saved.master, saved.slave], output: false };
        pair.update();
        Ok(pair)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As Linux programs the pair: vectors from 0x30, everything unmasked.
    fn initialised() -> PicPair {
        let mut pic = PicPair::new();
        for (port, value) in [
            (0x20, 0x11),
            (0x21, 0x30),
            (0x21, 0x04),
            (0x21, 0x01),
            (0xa0, 0x11),
            (0xa1, 0x38),
            (0xa1, 0x02),
            (0xa1, 0x01),
        ] {
            pic.write(port, value);
        }
        pic
    }

    #[test]
    fn reset_state_is_masked_and_quiet() {
        let mut pic = PicPair::new();
        assert_eq!((pic.read(0x21), pic.read(0xa1)), (0xff, 0xff));
        pic.set_line(0, true);
        assert!(!pic.output());
    }

    /// Linux's probe_8259A: the mask register holds what is written.
    #[test]
    fn linux_finds_it_by_its_mask_register() {
        let mut pic = PicPair::new();
        pic.write(0xa1, 0xff);
        pic.write(0x21, 0xfb);
        assert_eq!(pic.read(0x21), 0xfb);
    }

    #[test]
    fn an_edge_is_served_once_and_ends() {
        let mut pic = initialised();
        pic.set_line(4, true);
        assert!(pic.output());
        assert_eq!(pic.vector(), 0x34);
        assert_eq!(pic.acknowledge(), 0x34);
        assert!(!pic.output());
        pic.write(0x20, 0x0b);
        assert_eq!(pic.read(0x20), 1 << 4);
        pic.write(0x20, 0x64);
        assert_eq!(pic.read(0x20), 0);
        assert!(!pic.output(), "the line stayed high: no new edge");
        pic.set_line(4, false);
        pic.set_line(4, true);
        assert_eq!(pic.acknowledge(), 0x34);
    }

    #[test]
    fn a_higher_line_interrupts_a_lower_one_only() {
        let mut pic = initialised();
        pic.set_line(4, true);
        pic.acknowledge();
        pic.set_line(5, true);
        assert!(!pic.output());
        pic.set_line(0, true);
        assert_eq!(pic.acknowledge(), 0x30);
        pic.write(0x20, 0x20);
        assert!(!pic.output());
        pic.write(0x20, 0x20);
        assert_eq!(pic.acknowledge(), 0x35);
    }

    #[test]
    fn the_slave_comes_through_the_cascade() {
        let mut pic = initialised();
        pic.set_line(8, true);
        assert_eq!(pic.acknowledge(), 0x38);
        pic.set_line(9, true);
        assert!(!pic.output());
        pic.write(0xa0, 0x20);
        assert!(!pic.output(), "the master still serves the cascade");
        pic.write(0x20, 0x20);
        assert_eq!(pic.acknowledge(), 0x39);
    }

    #[test]
    fn a_level_line_asks_until_it_falls() {
        let mut pic = initialised();
        pic.write_trigger(0x4d1, 0xff);
        assert_eq!(pic.read_trigger(0x4d1), 0xde);
        pic.set_line(9, true);
        assert_eq!(pic.acknowledge(), 0x39);
        pic.write(0xa0, 0x20);
        pic.write(0x20, 0x20);
        assert!(pic.output());
        pic.set_line(9, false);
        assert!(!pic.output());
        assert_eq!(pic.acknowledge(), 0x37, "gone meanwhile: spurious");
    }

    #[test]
    fn poll_mode_acknowledges_by_reading() {
        let mut pic = initialised();
        pic.set_line(3, true);
        pic.write(0x20, 0x0c);
        assert_eq!(pic.read(0x20), 0x83);
        assert!(!pic.output());
        pic.write(0x20, 0x0c);
        assert_eq!(pic.read(0x20), 0);
    }

    #[test]
    fn automatic_end_leaves_nothing_in_service() {
        let mut pic = initialised();
        for (port, value) in [(0x20, 0x11), (0x21, 0x30), (0x21, 0x04), (0x21, 0x03)] {
            pic.write(port, value);
        }
        pic.set_line(1, true);
        pic.acknowledge();
        pic.write(0x20, 0x0b);
        assert_eq!(pic.read(0x20), 0);
    }

    #[test]
    fn a_restored_line_makes_no_edge() {
        let mut pic = initialised();
        pic.set_line(4, true);
        pic.acknowledge();
        pic.write(0x20, 0x20);
        let mut copy = PicPair::restore(&pic.save()).unwrap();
        copy.set_line(4, true);
        assert!(!copy.output());
    }

    #[test]
    fn restore_refuses_what_no_chip_can_be() {
        let good = initialised().save();
        let mut bad = good.clone();
        bad.slave.highest = 9;
        assert_eq!(PicPair::restore(&bad).err(), Some("pic.slave"));
        let mut bad = good;
        bad.master.vector_base = 3;
        assert_eq!(PicPair::restore(&bad).err(), Some("pic.master"));
    }

    proptest! {
        #[test]
        fn any_script_is_survived_and_saved(script in prop::collection::vec((0u8..5, 0u8..4, any::<u8>()), 0..300)) {
            let mut pic = PicPair::new();
            for (kind, port, value) in script {
                let port = [0x20, 0x21, 0xa0, 0xa1][usize::from(port)];
                match kind {
                    0 => pic.write(port, value),
                    1 => { pic.read(port); }
                    2 => pic.set_line(value >> 1, value & 1 != 0),
                    3 => { pic.acknowledge(); }
                    _ => pic.write_trigger(port, value),
                }
            }
            let mut copy = PicPair::restore(&pic.save()).unwrap();
            prop_assert_eq!(copy.output(), pic.output());
            prop_assert_eq!(copy.vector(), pic.vector());
            prop_assert_eq!(copy.acknowledge(), pic.acknowledge());
        }
    }
}
