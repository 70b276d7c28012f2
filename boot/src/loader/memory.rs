//! Memory from the firmware, by the kind it will have for the hypervisor.
#![expect(unsafe_code, reason = "memory given out by the firmware is reached by its address")]

use core::{ptr::NonNull, slice};

use godwit_boot::{
    handoff::{PhysicalRange, RegionKind},
    paging::{PAGE, TableMemory},
};
use uefi::boot::{self, AllocateType, MemoryType};

/// Types for UEFI's memory map in the range that it leaves to operating systems' loaders.
const IMAGE: MemoryType = MemoryType::custom(0x8000_0001);
const FILES: MemoryType = MemoryType::custom(0x8000_0002);

/// Zeroed pages that belong to the loader from now on.
pub(crate) struct Pages {
    start: NonNull<u8>,
    length: usize,
}

impl Pages {
    /// Pages for at least `length` bytes, zeroed.
    pub(crate) fn allocate(length: u64, kind: RegionKind) -> Result<Self, uefi::Error> {
        let memory_type = match kind {
            RegionKind::IMAGE => IMAGE,
            RegionKind::FILES => FILES,
            _ => MemoryType::LOADER_DATA,
        };
        let length = usize::try_from(length.next_multiple_of(PAGE))
            .map_err(|_| uefi::Error::from(uefi::Status::OUT_OF_RESOURCES))?;
        let start = boot::allocate_pages(AllocateType::AnyPages, memory_type, length / PAGE as usize)?;
        // SAFETY: the firmware has just given these pages to us alone.
        unsafe { start.write_bytes(0, length) };
        Ok(Self { start, length })
    }

    /// Where they are.
    pub(crate) fn range(&self) -> PhysicalRange {
        PhysicalRange { start: self.start.as_ptr() as u64, length: self.length as u64 }
    }

    /// Their content.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the pages are initialized, ours alone, and borrowed through `self`.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }

    /// Their start, as a place for a `T`.
    ///
    /// # Panics
    /// If they are too small for one.
    pub(crate) fn place<T>(&self) -> NonNull<T> {
        assert!(self.length >= size_of::<T>() && align_of::<T>() <= PAGE as usize);
        self.start.cast()
    }
}

/// Page tables in the firmware's memory, which it maps one to one.
pub(crate) struct Tables;

impl Tables {
    fn entry(table: u64, index: usize) -> *mut u64 {
        assert!(index < 512);
        (table as *mut u64).wrapping_add(index)
    }
}

impl TableMemory for Tables {
    fn allocate(&mut self) -> Option<u64> {
        Pages::allocate(PAGE, RegionKind::LOADER).ok().map(|pages| pages.range().start)
    }

    fn read(&self, table: u64, index: usize) -> u64 {
        // SAFETY: tables come from `allocate` (or CR3), lie in memory mapped one to one, and have 512 entries.
        unsafe { Self::entry(table, index).read_volatile() }
    }

    fn write(&mut self, table: u64, index: usize, entry: u64) {
        // SAFETY: as for `read`; only tables from `allocate` are written.
        unsafe { Self::entry(table, index).write_volatile(entry) };
    }
}

/// What the type of a range in the firmware's memory map means to the hypervisor.
pub(crate) fn region_kind(memory_type: MemoryType) -> RegionKind {
    match memory_type {
        MemoryType::CONVENTIONAL | MemoryType::BOOT_SERVICES_CODE | MemoryType::BOOT_SERVICES_DATA => {
            RegionKind::USABLE
        }
        MemoryType::LOADER_CODE | MemoryType::LOADER_DATA => RegionKind::LOADER,
        IMAGE => RegionKind::IMAGE,
        FILES => RegionKind::FILES,
        MemoryType::ACPI_RECLAIM => RegionKind::ACPI_TABLES,
        MemoryType::ACPI_NON_VOLATILE
        | MemoryType::RUNTIME_SERVICES_CODE
        | MemoryType::RUNTIME_SERVICES_DATA => RegionKind::FIRMWARE,
        MemoryType::MMIO | MemoryType::MMIO_PORT_SPACE => RegionKind::MMIO,
        _ => RegionKind::RESERVED,
    }
}
