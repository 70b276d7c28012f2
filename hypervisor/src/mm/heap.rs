#![expect(unsafe_code, reason = "the global allocator")]
//! The heap: small things of the hypervisor. Guests' RAM and page tables come from [`super::frames`].

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

use linked_list_allocator::Heap;
use x86_64::PhysAddr;

use super::{direct, frames};
use crate::sync::{Level, Lock};

/// The image's allocator; usable after [`initialise`], and out of memory before.
#[derive(Debug)]
pub struct Allocator;

struct Arena(Heap);

static HEAP: Lock<Arena> = Lock::new(Level::Heap, Arena(Heap::empty()));

/// How full the heap is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Bytes of the heap.
    pub size: usize,
    /// Bytes in use.
    pub used: usize,
}

/// Gives the heap `length` bytes of RAM at `start`.
///
/// # Safety
/// The range is RAM in the direct map that nobody else uses, and this is called once.
pub unsafe fn initialise(start: PhysAddr, length: usize) {
    // SAFETY: by the contract.
    unsafe { HEAP.lock().0.init(direct::at(start).as_mut_ptr(), length) };
}

/// How full the heap is.
pub fn statistics() -> Statistics {
    let heap = HEAP.lock();
    Statistics { size: heap.0.size(), used: heap.0.used() }
}

/// Bytes that the heap of a host with `total_frames` frames gets: a sixteenth, within bounds. All streams that there may
/// be ([`crate::net::stream::STREAMS_MAX`]) and a port's backlog take less than 6 MB of it.
#[must_use]
pub fn size_for(total_frames: u64) -> usize {
    (total_frames * frames::FRAME_SIZE / 16).clamp(8 << 20, 24 << 20) as usize
}

// SAFETY: the heap hands out disjoint, aligned pieces of memory that is its own, under a lock.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HEAP.lock().0.allocate_first_fit(layout).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if let Some(pointer) = NonNull::new(pointer) {
            // SAFETY: the caller got `pointer` from `alloc` with the same layout.
            unsafe { HEAP.lock().0.deallocate(pointer, layout) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::size_for;

    #[test]
    fn the_heap_grows_with_the_host_within_bounds() {
        assert_eq!(size_for(1), 8 << 20);
        assert_eq!(size_for(65536), 16 << 20);
        assert_eq!(size_for(1 << 30), 24 << 20);
    }
}
