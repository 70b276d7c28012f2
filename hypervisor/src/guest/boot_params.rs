//! The zero page: what a loader tells Linux.
//!
//! Reference: Linux Documentation/arch/x86/zero-page.rst and boot.rst.

use super::bzimage::{BzImage, HEADER_OFFSET};
use super::layout::{MapKind, Range};

/// Bytes of the zero page.
pub const BYTES: usize = 4096;

const ACPI_RSDP: usize = 0x070;
const EXT_RAMDISK_IMAGE: usize = 0x0c0;
const EXT_RAMDISK_SIZE: usize = 0x0c4;
const MAP_ENTRIES: usize = 0x1e8;
const VIDEO_MODE: usize = 0x1fa;
const LOADER_TYPE: usize = 0x210;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const COMMAND_LINE: usize = 0x228;
const MAP: usize = 0x2d0;
const MAP_ENTRY_BYTES: usize = 20;
const MAP_ENTRIES_MAX: usize = 128;
/// No assigned loader id.
const LOADER_UNKNOWN: u8 = 0xff;
const VIDEO_MODE_NORMAL: u16 = 0xffff;

/// A zero page being written.
#[derive(Debug)]
pub struct BootParams {
    bytes: [u8; BYTES],
}

impl BootParams {
    /// A zero page with the setup header of `kernel`.
    #[must_use]
    pub fn new(kernel: &BzImage<'_>) -> Self {
        let mut params = Self { bytes: [0; BYTES] };
        params.put(HEADER_OFFSET, kernel.header());
        params.put(LOADER_TYPE, &[LOADER_UNKNOWN]);
        params.put(VIDEO_MODE, &VIDEO_MODE_NORMAL.to_le_bytes());
        params
    }

    fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Tells where the command line is.
    pub fn command_line(&mut self, address: u32) {
        self.put(COMMAND_LINE, &address.to_le_bytes());
    }

    /// Tells where the initial RAM disk is.
    pub fn initrd(&mut self, range: Range) {
        let (address, bytes) = (range.start.as_u64().to_le_bytes(), range.bytes.to_le_bytes());
        self.put(RAMDISK_IMAGE, &address[..4]);
        self.put(EXT_RAMDISK_IMAGE, &address[4..]);
        self.put(RAMDISK_SIZE, &bytes[..4]);
        self.put(EXT_RAMDISK_SIZE, &bytes[4..]);
    }

    /// Tells where the ACPI tables begin.
    pub fn acpi_rsdp(&mut self, address: u64) {
        self.put(ACPI_RSDP, &address.to_le_bytes());
    }

    /// Tells the memory map; entries beyond what the page holds are left out.
    pub fn memory_map(&mut self, map: impl Iterator<Item = (Range, MapKind)>) {
        let mut count = 0;
        for (range, kind) in map.take(MAP_ENTRIES_MAX) {
            let offset = MAP + count * MAP_ENTRY_BYTES;
            self.put(offset, &range.start.as_u64().to_le_bytes());
            self.put(offset + 8, &range.bytes.to_le_bytes());
            self.put(offset + 16, &(kind as u32).to_le_bytes());
            count += 1;
        }
        self.put(MAP_ENTRIES, &[count as u8]);
    }

    /// The page.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; BYTES] {
        &self.bytes
    }
}
