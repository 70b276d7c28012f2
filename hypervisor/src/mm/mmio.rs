#![expect(unsafe_code, reason = "volatile accesses to device registers and to page tables")]
//! Device registers, mapped uncached in a range of their own, and the hypervisor's page tables.
//!
//! SAFETY vocabulary: *the window* is a range of device registers mapped for good, uncached, at an address that
//! nothing else uses.

use spin::Once;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::PhysFrame;
use x86_64::{PhysAddr, VirtAddr};

use super::paging::{self, Access, LargestPage, MapError, Tables};
use super::{direct, frames};
use crate::drivers::hal::Mmio;
use crate::sync::{Level, Lock};

/// Where windows are mapped, from here upwards.
const WINDOWS: u64 = 0xffff_c000_0000_0000;

/// Page tables in RAM, reached through the direct map.
#[derive(Clone, Copy, Debug)]
pub struct DirectTables;

impl Tables for DirectTables {
    fn allocate(&mut self) -> Option<PhysAddr> {
        // Below 4 GiB, since processors that start in real mode load a 32-bit root.
        let table = frames::get().allocate_for_device(1)?;
        (0..512).for_each(|index| self.write(table, index, 0));
        Some(table)
    }

    fn read(&self, table: PhysAddr, index: usize) -> u64 {
        // SAFETY: a word of a table, which is RAM in the direct map.
        unsafe { entry_at(table, index).read_volatile() }
    }

    fn write(&mut self, table: PhysAddr, index: usize, entry: u64) {
        // SAFETY: as above.
        unsafe { entry_at(table, index).write_volatile(entry) };
    }
}

fn entry_at(table: PhysAddr, index: usize) -> *mut u64 {
    assert!(index < 512, "a page table has 512 entries");
    (direct::at(table) + 8 * index as u64).as_mut_ptr()
}

/// The hypervisor's address space.
#[derive(Debug)]
struct Space {
    root: PhysAddr,
    next_window: u64,
}

static SPACE: Once<Lock<Space>> = Once::new();

/// Makes the tables under `root` the hypervisor's, on this CPU and on those to be started.
///
/// # Safety
/// They map the image, the stacks in use and the direct map as the present ones do.
pub unsafe fn switch_to(root: PhysAddr) {
    SPACE.call_once(|| Lock::new(Level::Paging, Space { root, next_window: WINDOWS }));
    // SAFETY: by the contract.
    unsafe { Cr3::write(PhysFrame::containing_address(root), Cr3Flags::empty()) };
}

/// Root of the hypervisor's page tables.
///
/// # Panics
/// Before [`switch_to`].
pub fn root() -> PhysAddr {
    space().lock().root
}

fn space() -> &'static Lock<Space> {
    SPACE.get().expect("the address space is set up during bring-up")
}

/// Maps `page`, an address below 1 MiB, at its own address and executable, for processors that start.
///
/// # Errors
/// [`MapError`] if it is mapped already or memory is out.
pub fn map_trampoline(page: PhysAddr) -> Result<(), MapError> {
    let space = space().lock();
    let at = VirtAddr::new(page.as_u64());
    paging::map(&mut DirectTables, space.root, (at, page, 4096), Access::empty(), LargestPage::TwoMib)
}

/// Undoes [`map_trampoline`]. Processors that run already forget it with their next change of tables or never
/// use it again.
pub fn unmap_trampoline(page: PhysAddr) {
    let space = space().lock();
    let at = VirtAddr::new(page.as_u64());
    paging::unmap_page(&mut DirectTables, space.root, at);
    x86_64::instructions::tlb::flush(at);
}

/// Maps `length` bytes of fresh RAM, frame by frame, with an unmapped page on either side.
///
/// # Errors
/// [`MapError::OutOfMemory`] if there is not enough; what was mapped until then stays.
pub fn map_private(tables: &mut DirectTables, length: u64) -> Result<VirtAddr, MapError> {
    let mut space = space().lock();
    let at = VirtAddr::new(space.next_window + 4096);
    space.next_window += length + 2 * 4096;
    for offset in (0..length).step_by(4096) {
        let frame = frames::get().allocate().ok_or(MapError::OutOfMemory)?;
        let access = Access::WRITE | Access::NO_EXECUTE;
        paging::map(tables, space.root, (at + offset, frame, 4096), access, LargestPage::TwoMib)?;
    }
    Ok(at)
}

/// Whether the hypervisor can read at `address` right now; for the panic path.
#[must_use]
pub fn is_mapped(address: VirtAddr) -> bool {
    let root = Cr3::read().0.start_address();
    paging::translate(&DirectTables, root, address).is_some()
}

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
        let offset = start.as_u64() % 4096;
        let mapped = (offset + length as u64).next_multiple_of(4096);
        let mut space = space().lock();
        let at = VirtAddr::new(space.next_window);
        let access = Access::WRITE | Access::UNCACHED | Access::NO_EXECUTE;
        let range = (at, start - offset, mapped);
        paging::map(&mut DirectTables, space.root, range, access, LargestPage::TwoMib)?;
        // A page that is never mapped separates windows.
        space.next_window += mapped + 4096;
        Ok(Self { start: at + offset, length })
    }

    /// Where it is mapped.
    #[must_use]
    pub const fn address(&self) -> VirtAddr {
        self.start
    }

    /// Where the window is mapped.
    #[must_use]
    pub const fn start(&self) -> VirtAddr {
        self.start
    }

    fn pointer<T>(&self, offset: usize) -> *mut T {
        let size = size_of::<T>();
        let end = offset.checked_add(size);
        assert!(
            end.is_some_and(|end| end <= self.length),
            "access beyond a device's registers at {offset:#x}"
        );
        assert!(offset.is_multiple_of(size), "unaligned access to a device's registers at {offset:#x}");
        (self.start + offset as u64).as_mut_ptr()
    }
}

macro_rules! access {
    ($read:ident, $write:ident, $word:ty) => {
        fn $read(&self, offset: usize) -> $word {
            let pointer = self.pointer::<$word>(offset);
            // SAFETY: an aligned word of the window.
            unsafe { pointer.read_volatile() }
        }

        fn $write(&self, offset: usize, value: $word) {
            let pointer = self.pointer::<$word>(offset);
            // SAFETY: an aligned word of the window.
            unsafe { pointer.write_volatile(value) };
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
