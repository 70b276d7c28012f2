//! The zero page: what Linux is told by whoever enters it at its 64-bit entry point.
//!
//! Reference: Linux Documentation/arch/x86/boot.rst and zero-page.rst.

use uefi::mem::memory_map::{MemoryMap, MemoryType};

use crate::PAGE;

const SETUP_SECTORS: usize = 0x1f1;
const HEADER: usize = 0x1f1;
/// The byte here says how far the header reaches beyond 0x202.
const HEADER_REACH: usize = 0x201;
const SECTOR: usize = 512;
const ACPI_RSDP: usize = 0x070;
const MAP_ENTRIES: usize = 0x1e8;
const LOADER_TYPE: usize = 0x210;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const COMMAND_LINE: usize = 0x228;
const ALIGNMENT: usize = 0x230;
const PREFERRED_ADDRESS: usize = 0x258;
const INIT_SIZE: usize = 0x260;
const MAP: usize = 0x2d0;
const MAP_ENTRY_BYTES: usize = 20;
const MAP_ENTRIES_MAX: usize = 128;
const LOADER_UNKNOWN: u8 = 0xff;

/// A kernel image, which is taken to be one: the lab's own.
pub(crate) struct Kernel<'a>(pub(crate) &'a [u8]);

impl Kernel<'_> {
    fn word<const N: usize>(&self, offset: usize) -> [u8; N] {
        core::array::from_fn(|index| self.0[offset + index])
    }

    /// Where it would like to be.
    pub(crate) fn preferred_address(&self) -> u64 {
        u64::from_le_bytes(self.word(PREFERRED_ADDRESS))
    }

    /// What its address must be a multiple of elsewhere.
    pub(crate) fn alignment(&self) -> u64 {
        u32::from_le_bytes(self.word(ALIGNMENT)).into()
    }

    /// Bytes it needs from its address on.
    pub(crate) fn init_size(&self) -> usize {
        u32::from_le_bytes(self.word(INIT_SIZE)) as usize
    }

    /// What is loaded.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.0[(usize::from(self.0[SETUP_SECTORS]) + 1) * SECTOR..]
    }
}

/// The page.
pub(crate) struct ZeroPage<'a>(pub(crate) &'a mut [u8]);

impl ZeroPage<'_> {
    fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Says all but the memory map. Addresses are below 4 GiB.
    pub(crate) fn describe(
        &mut self,
        kernel: &Kernel<'_>,
        initrd: (u64, usize),
        command_line: u64,
        rsdp: u64,
    ) {
        let end = 0x202 + usize::from(kernel.0[HEADER_REACH]);
        self.put(HEADER, &kernel.0[HEADER..end]);
        self.put(LOADER_TYPE, &[LOADER_UNKNOWN]);
        self.put(RAMDISK_IMAGE, &(initrd.0 as u32).to_le_bytes());
        self.put(RAMDISK_SIZE, &(initrd.1 as u32).to_le_bytes());
        self.put(COMMAND_LINE, &(command_line as u32).to_le_bytes());
        self.put(ACPI_RSDP, &rsdp.to_le_bytes());
    }

    /// Says what memory there is, by the firmware's map, neighbours of a kind as one.
    pub(crate) fn map(&mut self, map: &impl MemoryMap) {
        let mut count = 0;
        let mut last = (0, 0, 0);
        for entry in map.entries() {
            let (start, kind) = (entry.phys_start, kind(entry.ty));
            let end = start + entry.page_count * PAGE as u64;
            if (last.1, last.2) == (start, kind) {
                last.1 = end;
                count -= 1;
            } else {
                last = (start, end, kind);
            }
            if count == MAP_ENTRIES_MAX {
                break;
            }
            let offset = MAP + count * MAP_ENTRY_BYTES;
            self.put(offset, &last.0.to_le_bytes());
            self.put(offset + 8, &(last.1 - last.0).to_le_bytes());
            self.put(offset + 16, &u32::to_le_bytes(last.2));
            count += 1;
        }
        self.put(MAP_ENTRIES, &[count as u8]);
    }
}

/// 1 RAM, 2 reserved, 3 ACPI tables, 4 memory that ACPI keeps.
fn kind(firmware: MemoryType) -> u32 {
    match firmware {
        MemoryType::CONVENTIONAL
        | MemoryType::LOADER_CODE
        | MemoryType::LOADER_DATA
        | MemoryType::BOOT_SERVICES_CODE
        | MemoryType::BOOT_SERVICES_DATA => 1,
        MemoryType::ACPI_RECLAIM => 3,
        MemoryType::ACPI_NON_VOLATILE => 4,
        _ => 2,
    }
}
