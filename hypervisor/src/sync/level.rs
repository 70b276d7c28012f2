//! The order in which locks may be taken.

/// What a lock protects. A CPU that holds a lock may take only locks of a higher level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// The list of guests and what is shared about one.
    Guest = 1,
    /// Free frames.
    Frames = 4,
    /// The hypervisor's page tables.
    Paging = 3,
    /// The heap.
    Heap = 5,
    /// Interrupt controllers and lines.
    Interrupts = 9,
    /// PCI configuration space through ports.
    Pci = 8,
    /// The log ring.
    Log = 6,
    /// The serial port.
    Serial = 7,
}

impl Level {
    /// This level's bit in a set of held levels.
    #[must_use]
    pub const fn bit(self) -> u32 {
        1 << self as u8
    }

    /// Whether a CPU that holds the levels in `held` may take this one.
    #[must_use]
    pub const fn may_follow(self, held: u32) -> bool {
        held < self.bit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_taken_in_ascending_order_only() {
        assert!(Level::Heap.may_follow(0));
        assert!(Level::Heap.may_follow(Level::Frames.bit() | Level::Guest.bit()));
        assert!(!Level::Heap.may_follow(Level::Heap.bit()), "not twice");
        assert!(!Level::Heap.may_follow(Level::Serial.bit()));
    }
}
