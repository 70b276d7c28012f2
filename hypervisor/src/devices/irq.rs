//! Interrupt vocabulary: lines, messages to local APICs, and sets of vectors.
//!
//! Reference: Intel SDM volume 3, chapter 11 (revision 085); 82093AA data sheet.

use minicbor::{Decode, Encode};

/// Vectors below this are reserved for exceptions and illegal in a message.
pub const FIRST_LEGAL_VECTOR: u8 = 16;

/// What a message asks of the local APIC that gets it: the delivery-mode field of redirection entries,
/// local vector table and interrupt command register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryMode {
    /// Queue the vector.
    Fixed,
    /// Queue the vector at the one least busy of the addressed processors.
    LowestPriority,
    /// System-management interrupt: there is none here.
    SystemManagement,
    /// Non-maskable interrupt.
    NonMaskable,
    /// Reset the processor.
    Init,
    /// Start a processor that waits after INIT.
    StartUp,
    /// Take the vector from the 8259.
    External,
    /// Encoding 3 is reserved.
    Reserved,
}

impl DeliveryMode {
    /// The mode in bits 10:8 of `register`.
    #[inline]
    #[must_use]
    pub const fn of(register: u32) -> Self {
        match register >> 8 & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::SystemManagement,
            4 => Self::NonMaskable,
            5 => Self::Init,
            6 => Self::StartUp,
            7 => Self::External,
            _ => Self::Reserved,
        }
    }
}

/// How a line or a message signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// By becoming active.
    Edge,
    /// By being active; the end of the interrupt is broadcast.
    Level,
}

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The APIC with this id.
    Physical(u32),
    /// The APICs whose logical destination register matches.
    Logical(u32),
    /// The sender.
    Itself,
    /// Everyone.
    All,
    /// Everyone but the sender.
    AllOthers,
}

/// A message on the bus between the interrupt controllers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// For whom.
    pub destination: Destination,
    /// What is asked.
    pub mode: DeliveryMode,
    /// Edge or level.
    pub trigger: Trigger,
    /// The vector, where the mode has one.
    pub vector: u8,
}

/// A set of the 256 vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct VectorSet(#[n(0)] [u64; 4]);

impl VectorSet {
    /// No vector.
    pub const EMPTY: Self = Self([0; 4]);

    /// Every vector.
    pub const ALL: Self = Self([u64::MAX; 4]);

    /// Adds `vector`.
    #[inline]
    pub const fn insert(&mut self, vector: u8) {
        self.0[(vector >> 6) as usize] |= 1 << (vector & 63);
    }

    /// Removes `vector`.
    #[inline]
    pub const fn remove(&mut self, vector: u8) {
        self.0[(vector >> 6) as usize] &= !(1 << (vector & 63));
    }

    /// Whether `vector` is in the set.
    #[inline]
    #[must_use]
    pub const fn contains(&self, vector: u8) -> bool {
        self.0[(vector >> 6) as usize] & 1 << (vector & 63) != 0
    }

    /// The highest vector in the set, which is the one of highest priority.
    #[inline]
    #[must_use]
    pub const fn highest(&self) -> Option<u8> {
        let mut word = 4;
        while word > 0 {
            word -= 1;
            if self.0[word] != 0 {
                return Some((word as u8) << 6 | self.0[word].ilog2() as u8);
            }
        }
        None
    }

    /// Removes every vector above `highest`.
    pub const fn cut_above(&mut self, highest: u8) {
        let last = (highest >> 6) as usize;
        self.0[last] &= u64::MAX >> (63 - (highest & 63));
        let mut word = last + 1;
        while word < self.0.len() {
            self.0[word] = 0;
            word += 1;
        }
    }

    /// Whether no vector is in the set.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0[0] | self.0[1] | self.0[2] | self.0[3] == 0
    }

    /// The set, 64 vectors to a word, the lowest first.
    #[inline]
    #[must_use]
    pub const fn words(&self) -> [u64; 4] {
        self.0
    }

    /// 32 vectors from `32 * index` on, as the register file shows them.
    #[inline]
    #[must_use]
    pub const fn register(&self, index: usize) -> u32 {
        let word = self.0[index >> 1 & 3];
        if index & 1 == 0 { word as u32 } else { (word >> 32) as u32 }
    }

    /// Whether any exception vector is in the set, which no APIC accepts.
    #[must_use]
    pub const fn has_illegal(&self) -> bool {
        self.0[0] & 0xffff != 0
    }
}

/// An interrupt line: its number at the 8259s and its pin at the I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Input of the 8259 pair.
    pub irq: u8,
    /// Pin of the I/O APIC: the global system interrupt.
    pub gsi: u8,
}

impl Line {
    /// The PIT, which is wired to pin 2 as on every PC.
    pub const TIMER: Self = Self { irq: 0, gsi: 2 };
    /// COM1.
    pub const COM1: Self = Self { irq: 4, gsi: 4 };
    /// The real-time clock.
    pub const CLOCK: Self = Self { irq: 8, gsi: 8 };
    /// ACPI's system-control interrupt: level-triggered, active high.
    pub const SCI: Self = Self { irq: 9, gsi: 9 };
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_highest_vector_is_the_maximum(vectors in prop::collection::vec(any::<u8>(), 0..20)) {
            let mut set = VectorSet::EMPTY;
            for vector in &vectors {
                set.insert(*vector);
                prop_assert!(set.contains(*vector));
            }
            prop_assert_eq!(set.highest(), vectors.iter().copied().max());
            prop_assert_eq!(set.is_empty(), vectors.is_empty());
            for vector in &vectors {
                let bit = set.register(usize::from(*vector / 32)) >> (vector % 32) & 1;
                prop_assert_eq!(bit, 1);
            }
            for vector in vectors {
                set.remove(vector);
            }
            prop_assert_eq!(set, VectorSet::EMPTY);
        }

        #[test]
        fn what_is_cut_is_all_that_is_above(vectors in prop::collection::vec(any::<u8>(), 0..20), highest: u8) {
            let (mut cut, mut expected) = (VectorSet::EMPTY, VectorSet::EMPTY);
            for vector in vectors {
                cut.insert(vector);
                if vector <= highest {
                    expected.insert(vector);
                }
            }
            cut.cut_above(highest);
            prop_assert_eq!(cut, expected);
        }
    }
}
