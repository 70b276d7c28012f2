#![expect(unsafe_code, reason = "implements the virtio crate's traits of unsafe methods")]
//! What the virtio crate asks of the machine.
//!
//! SAFETY vocabulary: *shared pages* are frames that were allocated here for a device and are seen through the
//! direct map; every buffer and queue of this driver lies in some.

use core::ptr::{NonNull, write_bytes};

use pci_types::{ConfigRegionAccess, PciAddress};
use virtio_drivers::{
    BufferDirection, Hal, PhysAddr as DeviceAddress,
    transport::pci::bus::{ConfigurationAccess, DeviceFunction},
};
use x86_64::{PhysAddr, VirtAddr};

use crate::mm::{
    direct,
    frames::{self, FRAME_SIZE},
    mmio::Window,
};

/// The machine, for the virtio crate.
#[derive(Debug)]
pub(super) struct HostHal;

// SAFETY: shared pages are page-aligned, zeroed and nobody else's until they are given back; windows are mapped
// for good at addresses that nothing else uses; addresses are translated by the direct map alone.
unsafe impl Hal for HostHal {
    /// Address zero says that there is no memory.
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (DeviceAddress, NonNull<u8>) {
        let Some(start) = frames::get().allocate_for_device(pages) else {
            return (0, NonNull::dangling());
        };
        let at = direct::at(start).as_mut_ptr::<u8>();
        // SAFETY: the frames were just allocated, so they are RAM in the direct map that is nobody else's.
        unsafe { write_bytes(at, 0, pages * FRAME_SIZE as usize) };
        (start.as_u64(), NonNull::new(at).expect("the direct map does not begin at zero"))
    }

    unsafe fn dma_dealloc(start: DeviceAddress, _at: NonNull<u8>, pages: usize) -> i32 {
        frames::get().free(PhysAddr::new_truncate(start), pages);
        0
    }

    unsafe fn mmio_phys_to_virt(start: DeviceAddress, length: usize) -> NonNull<u8> {
        let window = Window::map(PhysAddr::new_truncate(start), length)
            .expect("memory for a few page tables is there during bring-up");
        NonNull::new(window.address().as_mut_ptr()).expect("windows are not mapped at zero")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> DeviceAddress {
        direct::physical(VirtAddr::from_ptr(buffer.as_ptr().cast::<u8>()))
            .expect("only shared pages are given to the device")
            .as_u64()
    }

    unsafe fn unshare(_address: DeviceAddress, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}

/// The configuration space of one function, whatever the crate calls it.
pub(super) struct Configuration<'a, C> {
    pub(super) access: &'a C,
    pub(super) address: PciAddress,
}

impl<C: ConfigRegionAccess> ConfigurationAccess for Configuration<'_, C> {
    fn read_word(&self, _function: DeviceFunction, offset: u8) -> u32 {
        // SAFETY: reading the configuration space of a function that a scan has found.
        unsafe { self.access.read(self.address, u16::from(offset)) }
    }

    fn write_word(&mut self, _function: DeviceFunction, offset: u8, value: u32) {
        // SAFETY: writing the configuration space of a function that this driver owns.
        unsafe { self.access.write(self.address, u16::from(offset), value) };
    }

    unsafe fn unsafe_clone(&self) -> Self {
        Self { access: self.access, address: self.address }
    }
}
