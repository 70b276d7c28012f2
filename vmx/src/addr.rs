//! Addresses as a guest sees them.
//!
//! Host addresses are [`x86_64::PhysAddr`] and [`x86_64::VirtAddr`]; these types exist so that the two
//! worlds cannot be mixed up. Arithmetic is checked: a guest chooses these numbers.

use core::fmt;

/// Bytes in the smallest page.
pub const PAGE_SIZE: u64 = 4096;

/// Guest-physical address, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Gpa(u64);

/// Guest-physical frame number: a [`Gpa`] divided by 4 KiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Gfn(u64);

/// Guest-linear (virtual) address, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Gva(u64);

impl Gpa {
    /// The address `bytes`.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The address in bytes.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The frame that holds this address.
    #[must_use]
    pub const fn frame(self) -> Gfn {
        Gfn(self.0 / PAGE_SIZE)
    }

    /// Offset within its 4 KiB page, in bytes.
    #[must_use]
    pub const fn page_offset(self) -> u64 {
        self.0 % PAGE_SIZE
    }

    /// This address plus `bytes`, or `None` past the end of the address space.
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }
}

impl Gfn {
    /// The frame with number `number`.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The frame's number.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// First byte of the frame, or `None` if the number has no address.
    #[must_use]
    pub const fn address(self) -> Option<Gpa> {
        match self.0.checked_mul(PAGE_SIZE) {
            Some(bytes) => Some(Gpa(bytes)),
            None => None,
        }
    }
}

impl Gva {
    /// The linear address `bytes`.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The address in bytes.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// This address plus `bytes`, wrapping at the end of the address space as the processor does.
    #[must_use]
    pub const fn wrapping_add(self, bytes: u64) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
}

impl fmt::Debug for Gpa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gpa({:#x})", self.0)
    }
}

impl fmt::Debug for Gfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gfn({:#x})", self.0)
    }
}

impl fmt::Debug for Gva {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gva({:#x})", self.0)
    }
}

impl fmt::Display for Gpa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_splits_into_frame_and_offset() {
        let address = Gpa::new(0x1234_5678);
        assert_eq!(address.frame(), Gfn::new(0x1_2345));
        assert_eq!(address.page_offset(), 0x678);
        assert_eq!(address.frame().address(), Some(Gpa::new(0x1234_5000)));
    }

    #[test]
    fn arithmetic_stops_at_the_end_of_the_address_space() {
        assert_eq!(Gpa::new(u64::MAX).checked_add(1), None);
        assert_eq!(Gfn::new(u64::MAX).address(), None);
    }
}
