#![expect(unsafe_code, reason = "makes slices of pages that are lent to a device")]
//! Buffers that are lent to the device and taken back, one page half each.
//!
//! SAFETY vocabulary: the buffers are pages from the hal's `dma_alloc`, seen through the pointer it gave, and
//! owned by [`Buffers`] alone. A slice is only made of a buffer that is not lent out, or for the length of the
//! call that lends it or takes it back, as the virtio crate's contract asks.

use core::{marker::PhantomData, ptr::NonNull, slice};

use virtio_drivers::{BufferDirection, Hal};

/// Bytes per buffer: a frame, its virtio header, and the crate's own minimum.
pub(super) const LENGTH: usize = 2048;
const PAGE: usize = 4096;

/// Equal buffers, and who has which.
pub(super) struct Buffers<H: Hal> {
    start: NonNull<u8>,
    device_start: u64,
    count: usize,
    hal: PhantomData<H>,
}

impl<H: Hal> Buffers<H> {
    /// `count` buffers; `None` if there is no memory for them.
    pub(super) fn new(count: usize) -> Option<Self> {
        let pages = (count * LENGTH).div_ceil(PAGE);
        let (device_start, start) = H::dma_alloc(pages, BufferDirection::Both);
        (device_start != 0).then_some(Self { start, device_start, count, hal: PhantomData })
    }

    /// Buffer `index`.
    ///
    /// # Panics
    /// If there is no such buffer: indices are the driver's own.
    pub(super) fn get(&mut self, index: usize) -> &mut [u8] {
        assert!(index < self.count, "no such buffer");
        // SAFETY: the offset lies within the allocation.
        let at = unsafe { self.start.add(index * LENGTH) };
        // SAFETY: `LENGTH` bytes within the allocation, which is zeroed RAM borrowed through `self`; see the
        // module's vocabulary for the device.
        unsafe { slice::from_raw_parts_mut(at.as_ptr(), LENGTH) }
    }
}

impl<H: Hal> Drop for Buffers<H> {
    fn drop(&mut self) {
        let pages = (self.count * LENGTH).div_ceil(PAGE);
        // SAFETY: exactly what `dma_alloc` gave for the same number of pages, given back once.
        unsafe { H::dma_dealloc(self.device_start, self.start, pages) };
    }
}
