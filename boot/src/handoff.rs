//! What the loader tells the hypervisor.
//!
//! At entry (System V ABI, interrupts off, long mode, paging and NX on): RDI holds the address, in the direct
//! map, of a [`BootInfo`] that stays there for good. The page tables map
//!
//! - the hypervisor's segments at the addresses they are linked at, writable or executable but never both;
//! - all of RAM and what firmware tables lie in, at [`DIRECT_MAP`] + physical address, writable, not executable.
//!
//! Nothing else is promised: the hypervisor builds its own tables from this. CR0.WP and EFER.NXE are set.

use crate::{
    config::{Configuration, PATH_MAX},
    fixed::{List, Text},
};

/// First value of a handoff.
pub const MAGIC: u64 = u64::from_le_bytes(*b"GodwitBI");
/// Version of this structure; any change of layout or meaning changes it.
pub const VERSION: u32 = 2;
/// Where the image is linked at.
pub const IMAGE_BASE: u64 = 0xffff_ffff_8000_0000;
/// Where physical address 0 is in the direct map.
pub const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
/// Entries in the memory map. Neighbours of one kind are merged.
pub const REGIONS_MAX: usize = 512;
/// Files loaded.
pub const FILES_MAX: usize = 32;
/// Bytes in the text that says what is wrong.
pub const PROBLEM_MAX: usize = 1024;

/// The handoff. Physical addresses throughout; 0 where there is none.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct BootInfo {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`VERSION`].
    pub version: u32,
    /// Size of this structure in bytes.
    pub size: u32,
    /// TSC when the loader began.
    pub loader_entry_tsc: u64,
    /// TSC when the loader jumped to the hypervisor.
    pub handoff_tsc: u64,
    /// Physical address of the ACPI root pointer.
    pub rsdp: u64,
    /// Physical address of the 64-bit SMBIOS entry point, or else of the 32-bit one.
    pub smbios: u64,
    /// Where the hypervisor's image lies: from the first to past the last byte of its segments, contiguous.
    pub image: PhysicalRange,
    /// End of what the direct map covers, as a physical address.
    pub direct_map_end: u64,
    /// Physical addresses that the firmware reports, in ascending order, without overlaps.
    pub memory_map: List<Region, REGIONS_MAX>,
    /// Files loaded for guests.
    pub files: List<File, FILES_MAX>,
    /// What `godwit.toml` says, or defaults where it could not be read.
    pub configuration: Configuration,
    /// What is wrong with the configuration or a file it names; empty if all is well. One problem a line.
    pub problem: Text<PROBLEM_MAX>,
}

const _: () = assert!(size_of::<BootInfo>() == 67_344, "the layout changed: change VERSION and this size");
const _: () = assert!(align_of::<BootInfo>() == 8);

/// Physical addresses from `start`, `length` bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PhysicalRange {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub length: u64,
}

impl PhysicalRange {
    /// Past the last byte.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.start.saturating_add(self.length)
    }

    /// Whether `address` is one of its bytes.
    #[must_use]
    pub const fn contains(self, address: u64) -> bool {
        self.start <= address && address < self.end()
    }
}

/// A range of physical addresses and what it is; page-granular.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Which addresses.
    pub range: PhysicalRange,
    /// What they are.
    pub kind: RegionKind,
    reserved: u32,
}

impl Region {
    /// The addresses of `range` are `kind`.
    #[must_use]
    pub const fn new(range: PhysicalRange, kind: RegionKind) -> Self {
        Self { range, kind, reserved: 0 }
    }

    /// What it is worth where there is no room for all regions: the least goes.
    fn worth(&self) -> (bool, bool, u64) {
        (!self.kind.is_dispensable(), self.kind != RegionKind::USABLE, self.range.length)
    }
}

/// What a range of physical addresses is. Unknown values are to be left alone, as [`RegionKind::RESERVED`].
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionKind(pub u32);

impl RegionKind {
    /// RAM that nobody uses.
    pub const USABLE: Self = Self(1);
    /// RAM that holds the handoff and the loader's page tables and stack: free once these are not needed.
    pub const LOADER: Self = Self(2);
    /// RAM that holds the hypervisor's image.
    pub const IMAGE: Self = Self(3);
    /// RAM that holds loaded files.
    pub const FILES: Self = Self(4);
    /// RAM that holds ACPI tables: free once these are not needed.
    pub const ACPI_TABLES: Self = Self(5);
    /// RAM that the firmware keeps.
    pub const FIRMWARE: Self = Self(6);
    /// Device memory.
    pub const MMIO: Self = Self(7);
    /// Anything else: to be left alone.
    pub const RESERVED: Self = Self(8);

    /// Whether these addresses are RAM, and so in the direct map.
    #[must_use]
    pub const fn is_ram(self) -> bool {
        self.0 >= Self::USABLE.0 && self.0 <= Self::FIRMWARE.0
    }

    /// Whether nothing is missed if nobody knows of these addresses, but for memory.
    fn is_dispensable(self) -> bool {
        self == Self::USABLE || !self.is_ram()
    }
}

/// A file that the loader has put into memory, page-aligned.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File {
    /// Its path, as written in the configuration.
    pub path: Text<PATH_MAX>,
    reserved: u32,
    /// Where its content lies.
    pub content: PhysicalRange,
}

impl File {
    /// The file `path` lies at `content`.
    #[must_use]
    pub const fn new(path: Text<PATH_MAX>, content: PhysicalRange) -> Self {
        Self { path, reserved: 0, content }
    }
}

impl BootInfo {
    /// A handoff that says nothing.
    pub const EMPTY: Self = Self {
        magic: MAGIC,
        version: VERSION,
        size: size_of::<Self>() as u32,
        loader_entry_tsc: 0,
        handoff_tsc: 0,
        rsdp: 0,
        smbios: 0,
        image: PhysicalRange { start: 0, length: 0 },
        direct_map_end: 0,
        memory_map: List::new(Region::new(PhysicalRange { start: 0, length: 0 }, RegionKind::RESERVED)),
        files: List::new(File::new(Text::EMPTY, PhysicalRange { start: 0, length: 0 })),
        configuration: Configuration::DEFAULT,
        problem: Text::EMPTY,
    };

    /// Whether loader and hypervisor mean the same structure.
    ///
    /// # Errors
    /// [`Mismatch`] says what differs.
    pub const fn check(&self) -> Result<(), Mismatch> {
        if self.magic != MAGIC {
            return Err(Mismatch::Magic);
        }
        if self.version != VERSION {
            return Err(Mismatch::Version { found: self.version });
        }
        if self.size as usize != size_of::<Self>() {
            return Err(Mismatch::Size { found: self.size });
        }
        Ok(())
    }

    /// Appends to the memory map; a neighbour of the same kind grows instead. A map with more entries than fit
    /// loses its smallest usable ones, and when none is left what is no RAM: less memory, nothing wrong. RAM that
    /// something lies in must stay in it, since it must stay mapped and must not be given away.
    pub fn add_region(&mut self, range: PhysicalRange, kind: RegionKind) {
        if let Some(last) = self.memory_map.as_mut_slice().last_mut()
            && last.kind == kind
            && last.range.end() == range.start
        {
            last.range.length += range.length;
            return;
        }
        let region = Region::new(range, kind);
        if self.memory_map.push(region).is_ok() {
            return;
        }
        let regions = self.memory_map.as_slice().iter().enumerate();
        let Some((index, least)) = regions.min_by_key(|(_, region)| region.worth()) else {
            return;
        };
        if least.worth() < region.worth() && least.kind.is_dispensable() {
            self.memory_map.remove(index);
            // There is room now.
            let _ = self.memory_map.push(region);
        }
    }

    /// Where the content of the file that the configuration calls `path` lies.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<PhysicalRange> {
        self.files.as_slice().iter().find(|file| file.path.as_str() == path).map(|file| file.content)
    }
}

/// Loader and hypervisor are not of one version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// There is no handoff at that address.
    Magic,
    /// Another version.
    Version {
        /// The loader's.
        found: u32,
    },
    /// Another size.
    Size {
        /// The loader's, in bytes.
        found: u32,
    },
}

impl core::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Magic => f.write_str("there is no handoff where the loader said"),
            Self::Version { found } => write!(f, "the loader's handoff has version {found}, not {VERSION}"),
            Self::Size { found } => {
                write!(f, "the loader's handoff has {found} bytes, not {}", size_of::<BootInfo>())
            }
        }
    }
}

impl core::error::Error for Mismatch {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_refused_by_name() {
        assert_eq!(BootInfo::EMPTY.check(), Ok(()));
        let foreign = BootInfo { version: 9, ..BootInfo::EMPTY };
        assert_eq!(foreign.check(), Err(Mismatch::Version { found: 9 }));
    }

    #[test]
    fn neighbours_of_one_kind_are_one_region() {
        let mut info = BootInfo::EMPTY;
        let page = |number: u64| PhysicalRange { start: number * 4096, length: 4096 };
        info.add_region(page(1), RegionKind::USABLE);
        info.add_region(page(2), RegionKind::USABLE);
        info.add_region(page(3), RegionKind::LOADER);
        info.add_region(page(5), RegionKind::LOADER);
        let map: std::vec::Vec<_> = info
            .memory_map
            .as_slice()
            .iter()
            .map(|region| (region.range.start, region.range.length))
            .collect();
        assert_eq!(map, [(0x1000, 0x2000), (0x3000, 0x1000), (0x5000, 0x1000)]);
        (0..REGIONS_MAX as u64).for_each(|number| info.add_region(page(8 + 2 * number), RegionKind::USABLE));
        assert_eq!(info.memory_map.as_slice().len(), REGIONS_MAX);
    }

    #[test]
    fn a_map_that_is_too_long_loses_the_smallest_usable_regions_only() {
        let mut info = BootInfo::EMPTY;
        let pages = |start: u64, count: u64| PhysicalRange { start: start * 4096, length: count * 4096 };
        info.add_region(pages(0, 1), RegionKind::RESERVED);
        (1..REGIONS_MAX as u64)
            .for_each(|at| info.add_region(pages(16 * at, 1 + at % 9), RegionKind::USABLE));
        let high = 16 * REGIONS_MAX as u64;
        info.add_region(pages(high, 1), RegionKind::USABLE);
        let kept = [RegionKind::LOADER, RegionKind::IMAGE, RegionKind::FILES, RegionKind::ACPI_TABLES];
        for (at, kind) in (high + 2..).step_by(2).zip(kept) {
            info.add_region(pages(at, 1), kind);
        }
        info.add_region(pages(high + 100, 1000), RegionKind::USABLE);
        let map = info.memory_map.as_slice();
        assert_eq!(map.len(), REGIONS_MAX);
        assert!(map.is_sorted_by_key(|region| region.range.start));
        let kinds: std::vec::Vec<_> = map[REGIONS_MAX - 5..].iter().map(|region| region.kind).collect();
        assert_eq!(kinds, [&kept[..], &[RegionKind::USABLE]].concat());
        assert_eq!(map[0].kind, RegionKind::RESERVED);
        let usable = |pages: u64| {
            let is_it =
                |region: &&Region| region.kind == RegionKind::USABLE && region.range.length == pages * 4096;
            map.iter().filter(is_it).count()
        };
        let before = (1..REGIONS_MAX).filter(|at| at % 9 == 0).count();
        assert_eq!((usable(1), usable(1000)), (before - 5, 1));
        assert_eq!((2..=9).map(usable).sum::<usize>(), REGIONS_MAX - 1 - before);
    }

    #[test]
    fn a_map_without_usable_regions_loses_what_is_no_ram() {
        let mut info = BootInfo::EMPTY;
        let page = |number: u64| PhysicalRange { start: number * 4096, length: 4096 };
        info.add_region(page(0), RegionKind::MMIO);
        (1..=REGIONS_MAX as u64).for_each(|number| info.add_region(page(2 * number), RegionKind::FILES));
        info.add_region(page(4 + 2 * REGIONS_MAX as u64), RegionKind::USABLE);
        let map = info.memory_map.as_slice();
        assert!(map.len() == REGIONS_MAX && map.iter().all(|region| region.kind == RegionKind::FILES));
    }

    #[test]
    fn a_file_is_found_by_its_path() {
        let mut info = BootInfo::EMPTY;
        let content = PhysicalRange { start: 0x1000, length: 5 };
        info.files.push(File::new(Text::truncated("vmlinuz"), content)).unwrap();
        assert_eq!(info.file("vmlinuz"), Some(content));
        assert_eq!(info.file("initrd.img"), None);
    }
}
