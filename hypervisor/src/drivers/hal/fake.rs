//! A machine for driver tests: registers with a behaviour of the test's own, and memory that both sides see.
//!
//! [`FakeDma`] hands out regions of one small physical memory; the test plays the device through
//! [`FakeMemory`], by the addresses that the driver programmed. [`FakeMmio`] forwards every access to a
//! [`Registers`] model that the test keeps a handle to.

use alloc::{rc::Rc, vec::Vec};
use core::cell::RefCell;

use super::{Dma, DmaRegion, Mmio, OutOfDmaMemory};

/// Where the fake physical memory starts: not at zero, so that a forgotten base shows.
pub(crate) const BASE: u64 = 0x10_0000;

/// The fake physical memory, shared by driver and test.
#[derive(Clone)]
pub(crate) struct FakeMemory {
    bytes: Rc<RefCell<Vec<u8>>>,
}

impl FakeMemory {
    fn index(&self, address: u64, length: usize) -> core::ops::Range<usize> {
        let start = usize::try_from(address.checked_sub(BASE).expect("address below memory")).unwrap();
        assert!(start + length <= self.bytes.borrow().len(), "device access past the end of memory");
        start..start + length
    }

    /// Reads as the device does.
    pub(crate) fn read(&self, address: u64, length: usize) -> Vec<u8> {
        let range = self.index(address, length);
        self.bytes.borrow()[range].to_vec()
    }

    /// Writes as the device does.
    pub(crate) fn write(&self, address: u64, from: &[u8]) {
        let range = self.index(address, from.len());
        self.bytes.borrow_mut()[range].copy_from_slice(from);
    }

    /// Reads a little-endian `u64` as the device does.
    pub(crate) fn read_u64(&self, address: u64) -> u64 {
        u64::from_le_bytes(self.read(address, 8).try_into().unwrap())
    }

    /// Writes a little-endian `u64` as the device does.
    pub(crate) fn write_u64(&self, address: u64, value: u64) {
        self.write(address, &value.to_le_bytes());
    }
}

/// An allocator over [`FakeMemory`]; what is dropped is not used again.
#[derive(Clone)]
pub(crate) struct FakeDma {
    memory: FakeMemory,
    next: Rc<RefCell<u64>>,
}

impl FakeDma {
    /// An allocator over `length` bytes.
    pub(crate) fn new(length: usize) -> Self {
        let bytes = Rc::new(RefCell::new(alloc::vec![0; length]));
        Self { memory: FakeMemory { bytes }, next: Rc::new(RefCell::new(BASE)) }
    }

    /// The memory as the device sees it.
    pub(crate) fn memory(&self) -> FakeMemory {
        self.memory.clone()
    }
}

impl Dma for FakeDma {
    type Region = FakeRegion;

    fn allocate(&self, length: usize) -> Result<FakeRegion, OutOfDmaMemory> {
        let mut next = self.next.borrow_mut();
        let address = *next;
        let end = address + length.next_multiple_of(4096) as u64;
        if end - BASE > self.memory.bytes.borrow().len() as u64 {
            return Err(OutOfDmaMemory { length });
        }
        *next = end;
        Ok(FakeRegion { memory: self.memory.clone(), address, length })
    }
}

/// A region of [`FakeMemory`].
pub(crate) struct FakeRegion {
    memory: FakeMemory,
    address: u64,
    length: usize,
}

impl FakeRegion {
    fn at(&self, offset: usize, length: usize) -> u64 {
        assert!(offset + length <= self.length, "driver access past the end of its region");
        self.address + offset as u64
    }
}

impl DmaRegion for FakeRegion {
    fn device_address(&self) -> u64 {
        self.address
    }

    fn length(&self) -> usize {
        self.length
    }

    fn read(&self, offset: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.memory.read(self.at(offset, into.len()), into.len()));
    }

    fn write(&mut self, offset: usize, from: &[u8]) {
        self.memory.write(self.at(offset, from.len()), from);
    }

    fn read_u32(&self, offset: usize) -> u32 {
        assert!(offset.is_multiple_of(4));
        u32::from_le_bytes(self.memory.read(self.at(offset, 4), 4).try_into().unwrap())
    }

    fn read_u64(&self, offset: usize) -> u64 {
        assert!(offset.is_multiple_of(8));
        self.memory.read_u64(self.at(offset, 8))
    }

    fn write_u32(&mut self, offset: usize, value: u32) {
        assert!(offset.is_multiple_of(4));
        self.memory.write(self.at(offset, 4), &value.to_le_bytes());
    }

    fn write_u64(&mut self, offset: usize, value: u64) {
        assert!(offset.is_multiple_of(8));
        self.memory.write_u64(self.at(offset, 8), value);
    }
}

/// A device's registers as the test models them; `size` is 1, 2 or 4 bytes.
pub(crate) trait Registers {
    /// The driver reads.
    fn read(&mut self, offset: usize, size: usize) -> u32;
    /// The driver writes.
    fn write(&mut self, offset: usize, size: usize, value: u32);
}

/// A register window over a model; the test keeps its own handle to the model.
pub(crate) struct FakeMmio<R> {
    model: Rc<RefCell<R>>,
    length: usize,
}

impl<R: Registers> FakeMmio<R> {
    /// A window of `length` bytes over `model`.
    pub(crate) fn new(model: Rc<RefCell<R>>, length: usize) -> Self {
        Self { model, length }
    }

    fn get(&self, offset: usize, size: usize) -> u32 {
        self.check(offset, size);
        self.model.borrow_mut().read(offset, size)
    }

    fn set(&self, offset: usize, size: usize, value: u32) {
        self.check(offset, size);
        self.model.borrow_mut().write(offset, size, value);
    }

    fn check(&self, offset: usize, size: usize) {
        assert!(offset.is_multiple_of(size) && offset + size <= self.length, "bad register access");
    }
}

impl<R: Registers> Mmio for FakeMmio<R> {
    fn length(&self) -> usize {
        self.length
    }

    fn read_u8(&self, offset: usize) -> u8 {
        self.get(offset, 1) as u8
    }

    fn read_u16(&self, offset: usize) -> u16 {
        self.get(offset, 2) as u16
    }

    fn read_u32(&self, offset: usize) -> u32 {
        self.get(offset, 4)
    }

    fn write_u8(&self, offset: usize, value: u8) {
        self.set(offset, 1, u32::from(value));
    }

    fn write_u16(&self, offset: usize, value: u16) {
        self.set(offset, 2, u32::from(value));
    }

    fn write_u32(&self, offset: usize, value: u32) {
        self.set(offset, 4, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn driver_and_device_see_the_same_memory() {
        let dma = FakeDma::new(8192);
        let mut region = dma.allocate(64).unwrap();
        region.write_u64(8, 0x1122_3344_5566_7788);
        assert_eq!(dma.memory().read_u64(region.device_address() + 8), 0x1122_3344_5566_7788);
        dma.memory().write(region.device_address(), &[1, 2, 3, 4]);
        assert_eq!(region.read_u32(0), 0x0403_0201);
        assert!(dma.allocate(8192).is_err());
    }

    struct Scratch(u32);

    impl Registers for Scratch {
        fn read(&mut self, _offset: usize, _size: usize) -> u32 {
            self.0
        }
        fn write(&mut self, _offset: usize, size: usize, value: u32) {
            self.0 = value | (size as u32) << 8;
        }
    }

    #[test]
    fn a_register_access_reaches_the_model() {
        let model = Rc::new(RefCell::new(Scratch(0)));
        let window = FakeMmio::new(model.clone(), 16);
        window.write_u16(2, 7);
        assert_eq!(window.read_u32(4), 0x207);
        window.write_u8(1, 9);
        assert_eq!((window.read_u8(0), window.read_u16(0)), (9, 0x109));
        window.write_u32(0, 1);
        assert_eq!(model.borrow().0, 0x401);
        assert_eq!(window.length(), 16);
    }
}
