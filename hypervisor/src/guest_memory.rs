//! The seam through which everything but the processor touches guest memory.
//!
//! No reference into guest memory exists anywhere: bytes are copied in and out, and every write is recorded
//! in the dirty log before it returns.

use core::cell::Cell;
use core::fmt;

use godwit_vmx::addr::Gpa;

/// Why guest memory was not read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryError {
    /// The range does not lie wholly in the guest's RAM.
    NotRam {
        /// First byte asked for.
        address: Gpa,
        /// Length asked for, in bytes.
        length: usize,
    },
    /// It does, but a page of it has not come yet from the host that the guest came from: whoever acts for the guest
    /// waits, and then does the same again.
    Absent(Gpa),
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRam { address, length } => {
                write!(f, "{length} bytes at guest-physical {address} are not in the guest's RAM")
            }
            Self::Absent(page) => write!(f, "the page at guest-physical {page} has not come yet"),
        }
    }
}

impl core::error::Error for MemoryError {}

/// Guest RAM, by copies.
pub trait GuestMemory {
    /// Copies guest memory at `address` to the whole of `into`; nothing is copied on error.
    ///
    /// # Errors
    /// [`MemoryError`] if any byte of the range is not RAM, or has not come yet.
    fn read(&self, address: Gpa, into: &mut [u8]) -> Result<(), MemoryError>;

    /// Copies the whole of `from` to guest memory at `address` and marks its pages dirty; nothing is written
    /// on error.
    ///
    /// # Errors
    /// [`MemoryError`] if any byte of the range is not RAM, or has not come yet.
    fn write(&self, address: Gpa, from: &[u8]) -> Result<(), MemoryError>;

    /// Whether `address` is RAM, be its content there or not.
    fn contains(&self, address: Gpa) -> bool;

    /// Asks for the page that holds `address` before it is needed: so that nothing is begun that has to wait halfway.
    ///
    /// # Errors
    /// [`MemoryError::Absent`] if that is RAM that has not come yet. What is not RAM is no error.
    fn check_present(&self, address: Gpa) -> Result<(), MemoryError>;

    /// Reads a little-endian `u64` at `address`, which need not be aligned.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn read_u64(&self, address: Gpa) -> Result<u64, MemoryError> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// A guest's memory as one of its processors is served with it: remembers the page that was touched and is absent.
///
/// Whoever runs the processor looks at that after each exit's handler and makes the processor wait, whatever the handler
/// made of the error: there is no access for a guest that can forget to wait.
#[derive(Debug)]
pub struct CpuMemory<'a, M> {
    memory: &'a M,
    touched: Cell<Option<Gpa>>,
}

impl<'a, M: GuestMemory> CpuMemory<'a, M> {
    /// `memory`, of which nothing absent was touched.
    #[must_use]
    pub const fn new(memory: &'a M) -> Self {
        Self { memory, touched: Cell::new(None) }
    }

    /// Takes an address in the first absent page that was touched since this was asked last.
    #[inline]
    pub fn take_touched(&self) -> Option<Gpa> {
        self.touched.take()
    }

    #[inline]
    fn note<T>(&self, result: Result<T, MemoryError>) -> Result<T, MemoryError> {
        if let Err(MemoryError::Absent(page)) = result {
            self.touched.set(self.touched.get().or(Some(page)));
        }
        result
    }
}

impl<M: GuestMemory> GuestMemory for CpuMemory<'_, M> {
    #[inline]
    fn read(&self, address: Gpa, into: &mut [u8]) -> Result<(), MemoryError> {
        self.note(self.memory.read(address, into))
    }

    #[inline]
    fn write(&self, address: Gpa, from: &[u8]) -> Result<(), MemoryError> {
        self.note(self.memory.write(address, from))
    }

    fn contains(&self, address: Gpa) -> bool {
        self.memory.contains(address)
    }

    #[inline]
    fn check_present(&self, address: Gpa) -> Result<(), MemoryError> {
        self.note(self.memory.check_present(address))
    }

    #[inline]
    fn read_u64(&self, address: Gpa) -> Result<u64, MemoryError> {
        self.note(self.memory.read_u64(address))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{CpuMemory, GuestMemory, MemoryError};
    use core::cell::{Cell, RefCell};
    use godwit_vmx::addr::{Gpa, PAGE_SIZE};
    use std::vec::Vec;

    /// Guest memory for tests: RAM from 0 on, of which one page may be absent.
    pub(crate) struct Ram {
        bytes: RefCell<Vec<u8>>,
        pub(crate) absent: Cell<Option<u64>>,
    }

    impl Ram {
        pub(crate) fn new(bytes: u64) -> Self {
            let bytes = RefCell::new(std::vec![0; usize::try_from(bytes).unwrap()]);
            Self { bytes, absent: Cell::new(None) }
        }

        /// Writes what is there from the beginning, to an absent page too.
        pub(crate) fn put(&self, address: u64, bytes: &[u8]) {
            let absent = self.absent.take();
            self.write(Gpa::new(address), bytes).unwrap();
            self.absent.set(absent);
        }

        pub(crate) fn put_u64(&self, address: u64, value: u64) {
            self.put(address, &value.to_le_bytes());
        }

        pub(crate) fn content(&self) -> Vec<u8> {
            self.bytes.borrow().clone()
        }

        fn range(&self, address: Gpa, length: usize) -> Result<core::ops::Range<usize>, MemoryError> {
            let error = MemoryError::NotRam { address, length };
            let start = usize::try_from(address.as_u64()).map_err(|_| error)?;
            let end = start.checked_add(length).ok_or(error)?;
            if end > self.bytes.borrow().len() {
                return Err(error);
            }
            match self.absent.get() {
                Some(page)
                    if length > 0
                        && (start as u64 / PAGE_SIZE..=(end as u64 - 1) / PAGE_SIZE).contains(&page) =>
                {
                    Err(MemoryError::Absent(Gpa::new(page * PAGE_SIZE)))
                }
                _ => Ok(start..end),
            }
        }
    }

    impl GuestMemory for Ram {
        fn read(&self, address: Gpa, into: &mut [u8]) -> Result<(), MemoryError> {
            let range = self.range(address, into.len())?;
            into.copy_from_slice(&self.bytes.borrow()[range]);
            Ok(())
        }

        fn write(&self, address: Gpa, from: &[u8]) -> Result<(), MemoryError> {
            let range = self.range(address, from.len())?;
            self.bytes.borrow_mut()[range].copy_from_slice(from);
            Ok(())
        }

        fn contains(&self, address: Gpa) -> bool {
            address.as_u64() < self.bytes.borrow().len() as u64
        }

        fn check_present(&self, address: Gpa) -> Result<(), MemoryError> {
            match self.range(address, 1) {
                Err(MemoryError::Absent(page)) => Err(MemoryError::Absent(page)),
                _ => Ok(()),
            }
        }
    }

    #[test]
    fn the_first_absent_page_that_was_touched_is_remembered_whatever_follows() {
        let ram = Ram::new(0x4000);
        ram.absent.set(Some(1));
        let memory = CpuMemory::new(&ram);
        assert!(memory.read(Gpa::new(0x2000), &mut [0; 8]).is_ok());
        assert!(memory.read(Gpa::new(0x4000), &mut [0; 8]).is_err() && !memory.contains(Gpa::new(0x4000)));
        assert!(memory.check_present(Gpa::new(0x4000)).is_ok());
        assert_eq!(memory.take_touched(), None);
        let absent = MemoryError::Absent(Gpa::new(0x1000));
        let touches: [&dyn Fn() -> Result<(), MemoryError>; 4] = [
            &|| memory.read(Gpa::new(0xfff), &mut [0; 2]),
            &|| memory.write(Gpa::new(0x1fff), &[1, 2]),
            &|| memory.read_u64(Gpa::new(0x1000)).map(|_| ()),
            &|| memory.check_present(Gpa::new(0x1abc)),
        ];
        for touch in touches {
            assert_eq!(touch(), Err(absent));
            ram.absent.set(Some(2));
            assert!(memory.read(Gpa::new(0x2000), &mut [0]).is_err());
            ram.absent.set(Some(1));
            assert_eq!(memory.take_touched(), Some(Gpa::new(0x1000)));
            assert_eq!(memory.take_touched(), None);
        }
        assert!(memory.contains(Gpa::new(0x1000)));
        assert_eq!(ram.content(), std::vec![0; 0x4000]);
    }
}
