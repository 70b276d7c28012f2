#![expect(unsafe_code, reason = "the global allocator")]
//! The heap: small things of the hypervisor. Guests' RAM and page tables come from [`super::frames`].

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicUsize, Ordering};

use linked_list_allocator::Heap;
use x86_64::PhysAddr;

use super::direct;
use super::frames::{self, FRAME_SIZE, Frames};
use crate::sync::{Level, Lock};

/// Least bytes of a heap.
const SIZE_MIN: u64 = 8 << 20;
/// Bytes that are enough where guests are small.
const SIZE_ENOUGH: u64 = 24 << 20;
/// Bytes that a heap has beside those that grow with the host: for connections, for what finds pages that are alike, and what
/// nobody may take.
const SIZE_OF_LARGE: u64 = 16 << 20;

/// The image's allocator; usable after [`initialise`], and out of memory before.
#[derive(Debug)]
pub struct Allocator;

struct Arena(Heap);

static HEAP: Lock<Arena> = Lock::new(Level::Heap, Arena(Heap::empty()));

/// Bytes that migrations were promised and have not taken yet.
static PROMISED: AtomicUsize = AtomicUsize::new(0);

/// How full the heap is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Bytes of the heap.
    pub size: usize,
    /// Bytes in use.
    pub used: usize,
    /// Bytes that are free and promised to migrations under way.
    pub promised: usize,
}

impl Statistics {
    /// Bytes that one more guest's tables may take: most of the host's allocations end in a panic if they fail, so an eighth
    /// of the heap is for those alone, and what is promised is not given away twice.
    #[must_use]
    pub const fn spare(&self) -> usize {
        self.size.saturating_sub(self.used).saturating_sub(self.size / 8).saturating_sub(self.promised)
    }
}

/// From now on so many bytes are promised to migrations, all together.
pub fn promise(bytes: usize) {
    PROMISED.store(bytes, Ordering::Relaxed);
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
    Statistics { size: heap.0.size(), used: heap.0.used(), promised: PROMISED.load(Ordering::Relaxed) }
}

/// Bytes that the heap of a host with `total_frames` frames gets: a sixteenth, up to what is enough where guests are small, but
/// not less than 16 MiB and a 256th, or an eighth if that is less. What is noted about a guest that is being moved takes less than a 400th
/// of its RAM, most of it the identities of its pages, and up to 8 MiB more that find pages that are alike.
#[must_use]
pub fn size_for(total_frames: u64) -> usize {
    let bytes = total_frames * frames::FRAME_SIZE;
    let at_large = (SIZE_OF_LARGE + bytes / 256).min(bytes / 8);
    (bytes / 16).clamp(SIZE_MIN, SIZE_ENOUGH).max(at_large) as usize
}

/// A place for the heap in `frames`, and its length: of the size that is wanted, or half as often as need be.
#[must_use]
pub fn place(frames: &mut Frames) -> Option<(PhysAddr, usize)> {
    let wanted = size_for(frames.statistics().total).next_multiple_of(FRAME_SIZE as usize);
    let halves = core::iter::successors(Some(wanted), |length| {
        Some((length / 2).next_multiple_of(FRAME_SIZE as usize)).filter(|length| *length as u64 >= SIZE_MIN)
    });
    halves
        .into_iter()
        .find_map(|length| Some((frames.allocate_for_host(length / FRAME_SIZE as usize)?, length)))
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
    use super::*;
    use crate::mm::frames::testing;

    #[test]
    fn the_heap_grows_with_the_host_within_bounds() {
        assert_eq!(size_for(1), 8 << 20);
        assert_eq!(size_for(1 << 15), 16 << 20);
        assert_eq!(size_for(1 << 16), 17 << 20);
        assert_eq!(size_for(2 << 18), 24 << 20);
        assert_eq!(size_for(6 << 18), 40 << 20);
    }

    #[test]
    fn the_heap_of_a_large_host_has_room_for_what_is_noted_about_guests_of_its_size() {
        for gib in [64_u64, 256, 1024] {
            let size = size_for(gib << 18);
            let identities = (gib << 18) * 8;
            let bitmaps = (gib << 18) / 8 * 6;
            let heap = Statistics { size, used: 6 << 20, promised: 0 };
            assert!((identities + bitmaps) < heap.spare() as u64);
        }
    }

    #[test]
    fn some_of_the_heap_is_never_spared() {
        let spare = |size, used, promised| Statistics { size, used, promised }.spare();
        assert_eq!(spare(8 << 20, 1 << 20, 0), 6 << 20);
        assert_eq!(spare(8 << 20, 1 << 20, 5 << 20), 1 << 20);
        assert_eq!(spare(8 << 20, (7 << 20) + 1, 0), 0);
        assert_eq!(spare(8 << 20, 1 << 20, 7 << 20), 0);
        assert_eq!(spare(0, 0, 0), 0);
    }

    #[test]
    fn the_heap_is_as_large_as_contiguous_memory_allows() {
        let mut whole = testing::frames(64);
        assert_eq!(place(&mut whole), Some((PhysAddr::new(FRAME_SIZE), 16 << 20)));
        // 24 MiB are wanted, and no more than nine blocks are together.
        let mut broken = testing::without(256, |block| block % 10 == 9);
        assert_eq!(place(&mut broken).map(|(_, length)| length), Some(12 << 20));
        let mut shreds = testing::without(256, |block| block % 2 == 0);
        assert_eq!(place(&mut shreds), None);
    }
}
