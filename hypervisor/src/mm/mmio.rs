#![expect(unsafe_code, reason = "volatile accesses to device registers")]
//! Device registers, mapped uncached in a range of their own.
//!
//! SAFETY vocabulary: *the window* is a range of device registers mapped for good, uncached, at an address that
//! nothing else uses.

use core::ptr::NonNull;

use godwit_boot::paging::PAGE;
use volatile::VolatilePtr;
use x86_64::{PhysAddr, VirtAddr};

use super::paging::{self, MapError};
use crate::drivers::hal::Mmio;

/// See the module's vocabulary.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    start: VirtAddr,
    length: usize,
}

impl Window {
    /// Maps `length` bytes of device registers at `start`.
    ///
    /// # Errors
    /// [`MapError::OutOfMemory`] if there is no memory for page tables.
    pub fn map(start: PhysAddr, length: usize) -> Result<Self, MapError> {
        let offset = start.as_u64() % PAGE;
        let mapped = (offset + length as u64).next_multiple_of(PAGE);
        Ok(Self { start: paging::map_device(start - offset, mapped)? + offset, length })
    }

    /// Where it is mapped.
    #[must_use]
    pub const fn address(&self) -> VirtAddr {
        self.start
    }

    fn register<T>(&self, offset: usize) -> VolatilePtr<'_, T> {
        let size = size_of::<T>();
        let end = offset.checked_add(size);
        assert!(
            end.is_some_and(|end| end <= self.length),
            "access beyond a device's registers at {offset:#x}"
        );
        assert!(offset.is_multiple_of(size), "unaligned access to a device's registers at {offset:#x}");
        let at = NonNull::new((self.start + offset as u64).as_mut_ptr()).expect("no window is at 0");
        // SAFETY: an aligned word of the window, which is never a Rust object.
        unsafe { VolatilePtr::new(at) }
    }
}

macro_rules! access {
    ($read:ident, $write:ident, $word:ty) => {
        fn $read(&self, offset: usize) -> $word {
            self.register::<$word>(offset).read()
        }

        fn $write(&self, offset: usize, value: $word) {
            self.register::<$word>(offset).write(value);
        }
    };
}

impl Mmio for Window {
    fn length(&self) -> usize {
        self.length
    }

    access!(read_u8, write_u8, u8);
    access!(read_u16, write_u16, u16);
    access!(read_u32, write_u32, u32);
}
