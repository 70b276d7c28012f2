#![expect(unsafe_code, reason = "volatile copies to and from memory that a device writes")]
//! Memory shared with a device, out of the frame allocator.
//!
//! SAFETY vocabulary: *the region* is `length` bytes of RAM that this value owns alone, seen through the direct
//! map; the device may write it at any time, so every access is volatile and no reference into it exists.

use core::sync::atomic::{Ordering, fence};

use x86_64::PhysAddr;

use super::direct;
use super::frames::{self, FRAME_SIZE};
use crate::drivers::hal::{Dma, DmaRegion, OutOfDmaMemory};

/// The host's RAM, for devices.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostDma;

/// See the module's vocabulary.
#[derive(Debug)]
pub struct Region {
    start: PhysAddr,
    length: usize,
}

impl Dma for HostDma {
    type Region = Region;

    fn allocate(&self, length: usize) -> Result<Region, OutOfDmaMemory> {
        let count = length.div_ceil(FRAME_SIZE as usize).max(1);
        let start = frames::get().allocate_for_device(count).ok_or(OutOfDmaMemory { length })?;
        let mut region = Region { start, length: count * FRAME_SIZE as usize };
        for offset in (0..region.length).step_by(8) {
            region.write_u64(offset, 0);
        }
        Ok(region)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        frames::get().free(self.start, self.length / FRAME_SIZE as usize);
    }
}

impl Region {
    fn pointer<T>(&self, offset: usize) -> *mut T {
        let size = size_of::<T>();
        assert!(offset.is_multiple_of(size), "unaligned access to DMA memory at {offset:#x}");
        self.check(offset, size);
        (direct::at(self.start) + offset as u64).as_mut_ptr()
    }

    fn check(&self, offset: usize, length: usize) {
        let end = offset.checked_add(length);
        assert!(end.is_some_and(|end| end <= self.length), "access beyond DMA memory at {offset:#x}");
    }
}

impl DmaRegion for Region {
    fn device_address(&self) -> u64 {
        self.start.as_u64()
    }

    fn length(&self) -> usize {
        self.length
    }

    fn read(&self, offset: usize, into: &mut [u8]) {
        self.check(offset, into.len());
        let from = (direct::at(self.start) + offset as u64).as_ptr::<u8>();
        fence(Ordering::Acquire);
        // SAFETY: within the region, which does not overlap `into`. The device is done with this part of it:
        // that is what the descriptor said that made the driver read it.
        unsafe { core::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
        fence(Ordering::Acquire);
    }

    fn write(&mut self, offset: usize, from: &[u8]) {
        self.check(offset, from.len());
        let to = (direct::at(self.start) + offset as u64).as_mut_ptr::<u8>();
        // SAFETY: within the region, which does not overlap `from`.
        unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
        fence(Ordering::Release);
    }

    fn read_u32(&self, offset: usize) -> u32 {
        let pointer = self.pointer::<u32>(offset);
        // SAFETY: an aligned word of the region.
        let value = unsafe { pointer.read_volatile() };
        fence(Ordering::Acquire);
        value
    }

    fn read_u64(&self, offset: usize) -> u64 {
        let pointer = self.pointer::<u64>(offset);
        // SAFETY: an aligned word of the region.
        let value = unsafe { pointer.read_volatile() };
        fence(Ordering::Acquire);
        value
    }

    fn write_u32(&mut self, offset: usize, value: u32) {
        fence(Ordering::Release);
        let pointer = self.pointer::<u32>(offset);
        // SAFETY: an aligned word of the region.
        unsafe { pointer.write_volatile(value) };
    }

    fn write_u64(&mut self, offset: usize, value: u64) {
        fence(Ordering::Release);
        let pointer = self.pointer::<u64>(offset);
        // SAFETY: an aligned word of the region.
        unsafe { pointer.write_volatile(value) };
    }
}
