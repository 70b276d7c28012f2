//! The seam through which everything but the processor touches guest memory.
//!
//! No reference into guest memory exists anywhere: bytes are copied in and out, and every write is recorded
//! in the dirty log before it returns.

use core::fmt;

use godwit_vmx::addr::Gpa;

/// The range does not lie wholly in the guest's RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotRam {
    /// First byte asked for.
    pub address: Gpa,
    /// Length asked for, in bytes.
    pub length: usize,
}

impl fmt::Display for NotRam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at guest-physical {} are not in the guest's RAM", self.length, self.address)
    }
}

impl core::error::Error for NotRam {}

/// Guest RAM, by copies.
pub trait GuestMemory {
    /// Copies guest memory at `address` to the whole of `into`; nothing is copied on error.
    ///
    /// # Errors
    /// [`NotRam`] if any byte of the range is not RAM.
    fn read(&self, address: Gpa, into: &mut [u8]) -> Result<(), NotRam>;

    /// Copies the whole of `from` to guest memory at `address` and marks its pages dirty; nothing is written
    /// on error.
    ///
    /// # Errors
    /// [`NotRam`] if any byte of the range is not RAM.
    fn write(&self, address: Gpa, from: &[u8]) -> Result<(), NotRam>;

    /// Reads a little-endian `u64` at `address`, which need not be aligned.
    ///
    /// # Errors
    /// [`NotRam`] if any byte of it is not RAM.
    fn read_u64(&self, address: Gpa) -> Result<u64, NotRam> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{GuestMemory, NotRam};
    use core::cell::RefCell;
    use godwit_vmx::addr::Gpa;
    use std::vec::Vec;

    /// Guest memory for tests: RAM from 0 on.
    pub(crate) struct Ram(RefCell<Vec<u8>>);

    impl Ram {
        pub(crate) fn new(bytes: u64) -> Self {
            Self(RefCell::new(std::vec![0; usize::try_from(bytes).unwrap()]))
        }
    }

    impl GuestMemory for Ram {
        fn read(&self, address: Gpa, into: &mut [u8]) -> Result<(), NotRam> {
            let length = into.len();
            let start = usize::try_from(address.as_u64()).map_err(|_| NotRam { address, length })?;
            let ram = self.0.borrow();
            let end = start.checked_add(length).ok_or(NotRam { address, length })?;
            into.copy_from_slice(ram.get(start..end).ok_or(NotRam { address, length })?);
            Ok(())
        }

        fn write(&self, address: Gpa, from: &[u8]) -> Result<(), NotRam> {
            let length = from.len();
            let start = usize::try_from(address.as_u64()).map_err(|_| NotRam { address, length })?;
            let end = start.checked_add(length).ok_or(NotRam { address, length })?;
            let mut ram = self.0.borrow_mut();
            ram.get_mut(start..end).ok_or(NotRam { address, length })?.copy_from_slice(from);
            Ok(())
        }
    }
}
