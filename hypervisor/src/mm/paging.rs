#![expect(unsafe_code, reason = "volatile accesses to page tables, and the change to new ones")]
//! The hypervisor's own page tables, built by the engine in [`godwit_boot::paging`], on which no page is
//! writable and executable.

use godwit_boot::paging::{Access, AddressSpace, Caching, Largest, Mapping, PAGE, TableMemory};
use spin::Once;
use volatile::VolatilePtr;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::PhysFrame;
use x86_64::{PhysAddr, VirtAddr};

use super::{direct, frames};
use crate::sync::{Level, Lock};

pub use godwit_boot::paging::MapError;

/// Where windows and stacks are mapped, from here upwards.
const WINDOWS: u64 = 0xffff_c000_0000_0000;
/// Entries of a table.
const ENTRIES: usize = 512;

/// Page tables in RAM, reached through the direct map.
#[derive(Clone, Copy, Debug)]
pub struct DirectTables;

impl TableMemory for DirectTables {
    fn allocate(&mut self) -> Option<u64> {
        // Below 4 GiB, since processors that start in real mode load a 32-bit root.
        let table = frames::get().allocate_for_device(1)?.as_u64();
        (0..ENTRIES).for_each(|index| self.write(table, index, 0));
        Some(table)
    }

    fn read(&self, table: u64, index: usize) -> u64 {
        entry(table, index).read()
    }

    fn write(&mut self, table: u64, index: usize, value: u64) {
        entry(table, index).write(value);
    }
}

fn entry(table: u64, index: usize) -> VolatilePtr<'static, u64> {
    assert!(index < ENTRIES, "a page table has 512 entries");
    let at = direct::at(PhysAddr::new_truncate(table)) + 8 * index as u64;
    let at = core::ptr::NonNull::new(at.as_mut_ptr()).expect("the direct map is not at 0");
    // SAFETY: a word of a table, which is RAM in the direct map and never a Rust object.
    unsafe { VolatilePtr::new(at) }
}

/// The hypervisor's address space.
#[derive(Debug)]
struct Space {
    tables: AddressSpace,
    next_window: u64,
}

static SPACE: Once<Lock<Space>> = Once::new();

/// Makes `tables` the hypervisor's, on this CPU and on those to be started.
///
/// # Safety
/// They map the image, the stacks in use and the direct map as the present ones do.
pub unsafe fn switch_to(tables: AddressSpace) {
    SPACE.call_once(|| Lock::new(Level::Paging, Space { tables, next_window: WINDOWS }));
    let root = PhysFrame::containing_address(PhysAddr::new_truncate(tables.root()));
    // SAFETY: by the contract.
    unsafe { Cr3::write(root, Cr3Flags::empty()) };
}

/// Physical address of the root of the hypervisor's page tables.
///
/// # Panics
/// Before [`switch_to`].
pub fn root() -> PhysAddr {
    PhysAddr::new_truncate(space().lock().tables.root())
}

fn space() -> &'static Lock<Space> {
    SPACE.get().expect("the address space is set up during bring-up")
}

/// Maps `page`, an address below 1 MiB, at its own address and executable, for processors that start.
///
/// # Errors
/// [`MapError`] if it is mapped already or memory is out.
pub fn map_trampoline(page: PhysAddr) -> Result<(), MapError> {
    let at = page.as_u64();
    let (access, caching) = (Access::ReadExecute, Caching::WriteBack);
    let mapping = Mapping { linear: at, physical: at, length: PAGE, access, caching };
    space().lock().tables.map(&mut DirectTables, mapping, Largest::Large)
}

/// Undoes [`map_trampoline`]. Processors that run already forget it with their next change of tables or never
/// use it again.
///
/// # Panics
/// If `page` is not a page's address.
pub fn unmap_trampoline(page: PhysAddr) {
    let tables = space().lock().tables;
    tables.unmap(&mut DirectTables, page.as_u64(), PAGE).expect("it was mapped as one page");
    x86_64::instructions::tlb::flush(VirtAddr::new(page.as_u64()));
}

/// Maps the `length` bytes at `physical`, whole pages, as registers of a device.
///
/// # Errors
/// [`MapError`].
pub(super) fn map_device(physical: PhysAddr, length: u64) -> Result<VirtAddr, MapError> {
    let mut space = space().lock();
    let linear = space.next_window;
    // A page that is never mapped separates windows.
    space.next_window += length + PAGE;
    let (access, caching) = (Access::ReadWrite, Caching::Uncached);
    let mapping = Mapping { linear, physical: physical.as_u64(), length, access, caching };
    space.tables.map(&mut DirectTables, mapping, Largest::Large)?;
    Ok(VirtAddr::new(linear))
}

/// Maps `length` bytes of fresh RAM, frame by frame, with an unmapped page on either side.
///
/// # Errors
/// [`MapError::OutOfMemory`] if there is not enough; what was mapped until then stays.
pub fn map_private(length: u64) -> Result<VirtAddr, MapError> {
    let mut space = space().lock();
    let start = space.next_window + PAGE;
    space.next_window += length + 2 * PAGE;
    for linear in (start..start + length).step_by(PAGE as usize) {
        let physical = frames::get().allocate().ok_or(MapError::OutOfMemory)?.as_u64();
        let (access, caching) = (Access::ReadWrite, Caching::WriteBack);
        let mapping = Mapping { linear, physical, length: PAGE, access, caching };
        space.tables.map(&mut DirectTables, mapping, Largest::Large)?;
    }
    Ok(VirtAddr::new(start))
}

/// Whether the hypervisor can read at `address` right now. Takes no lock: the panic path needs it.
#[must_use]
pub fn is_mapped(address: VirtAddr) -> bool {
    let root = Cr3::read().0.start_address().as_u64();
    AddressSpace::at(root).translate(&DirectTables, address.as_u64()).is_some()
}
