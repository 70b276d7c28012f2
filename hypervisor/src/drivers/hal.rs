//! What a driver may ask of the machine: registers and memory that the device can reach.
//!
//! Drivers are written against [`Mmio`] and [`Dma`] only, so that they run on the host against
//! `hal::fake`. No reference ever points into device memory or into memory that a device writes: registers are
//! read and written one at a time, DMA memory is copied in and out. On the metal both are implemented by
//! `mm::mmio` and `mm::dma`.
//!
//! Ordering: on x86, accesses to uncached registers and to DMA memory stay in program order as long as the
//! compiler keeps them so; every method here is a compiler barrier for the others (volatile, or fenced).

use core::fmt;

/// A device's register window. Offsets are in bytes from its start; an access must be naturally aligned.
///
/// # Panics
/// Every method panics if the access does not lie wholly within the window: a driver's offsets are constants.
pub trait Mmio {
    /// Length of the window in bytes.
    fn length(&self) -> usize;
    /// Reads a byte.
    fn read_u8(&self, offset: usize) -> u8;
    /// Reads 16 bits.
    fn read_u16(&self, offset: usize) -> u16;
    /// Reads 32 bits.
    fn read_u32(&self, offset: usize) -> u32;
    /// Writes a byte.
    fn write_u8(&self, offset: usize, value: u8);
    /// Writes 16 bits.
    fn write_u16(&self, offset: usize, value: u16);
    /// Writes 32 bits.
    fn write_u32(&self, offset: usize, value: u32);
}

/// No physically contiguous memory of that size is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfDmaMemory {
    /// Bytes asked for.
    pub length: usize,
}

impl fmt::Display for OutOfDmaMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this host has no {} contiguous bytes left for a device", self.length)
    }
}

impl core::error::Error for OutOfDmaMemory {}

/// Gives out memory that a device can reach.
pub trait Dma {
    /// What it gives; dropping it gives the memory back.
    type Region: DmaRegion;

    /// A physically contiguous, zeroed, page-aligned region of at least `length` bytes, below 4 GiB so that
    /// devices with 32-bit addressing reach it.
    ///
    /// # Errors
    /// [`OutOfDmaMemory`] if there is none.
    fn allocate(&self, length: usize) -> Result<Self::Region, OutOfDmaMemory>;
}

/// Memory shared with a device. Offsets are in bytes from its start.
///
/// # Panics
/// Every method panics if the access does not lie wholly within the region, and the word accesses if they are
/// not naturally aligned: offsets are the driver's own arithmetic, never the device's.
pub trait DmaRegion {
    /// The region's start as the device sees it.
    fn device_address(&self) -> u64;
    /// Length in bytes.
    fn length(&self) -> usize;
    /// Copies the region at `offset` to the whole of `into`.
    fn read(&self, offset: usize, into: &mut [u8]);
    /// Copies the whole of `from` to the region at `offset`.
    fn write(&mut self, offset: usize, from: &[u8]);
    /// Reads 32 bits in one access.
    fn read_u32(&self, offset: usize) -> u32;
    /// Reads 64 bits in one access.
    fn read_u64(&self, offset: usize) -> u64;
    /// Writes 32 bits in one access.
    fn write_u32(&mut self, offset: usize, value: u32);
    /// Writes 64 bits in one access.
    fn write_u64(&mut self, offset: usize, value: u64);
}

#[cfg(test)]
pub(crate) mod fake;
