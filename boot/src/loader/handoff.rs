//! Filling the handoff, while the firmware is still there to help.
#![expect(unsafe_code, reason = "the handoff lives in pages of its own")]

use core::{fmt::Write, ptr::NonNull};

use godwit_boot::{
    config::{Configuration, parse_bytes},
    fixed::Text,
    handoff::{BootInfo, File, PhysicalRange, RegionKind},
    image::Layout,
};
use uefi::{system, table::cfg::ConfigTableEntry};

use crate::{
    files::{LoadError, Volume},
    memory::Pages,
};

const CONFIGURATION: &str = "godwit.toml";
const IMAGE: &str = "godwit.elf";

/// The handoff in the making.
pub(crate) struct Preparation {
    info: NonNull<BootInfo>,
    /// How the image lies in memory, once it does.
    pub(crate) layout: Option<Layout>,
}

impl Preparation {
    pub(crate) fn new(entry_tsc: u64) -> Result<Self, LoadError> {
        let pages = Pages::allocate(size_of::<BootInfo>() as u64, RegionKind::LOADER)
            .map_err(|error| LoadError::Memory(error.status()))?;
        let info = pages.place::<BootInfo>();
        // SAFETY: the pages are ours, large and aligned enough, and never given back.
        unsafe { info.write(BootInfo::EMPTY) };
        let mut preparation = Self { info, layout: None };
        preparation.info().loader_entry_tsc = entry_tsc;
        Ok(preparation)
    }

    pub(crate) fn info(&mut self) -> &mut BootInfo {
        // SAFETY: `new` has initialized it, only `self` refers to it, and the borrow is tied to `self`.
        unsafe { self.info.as_mut() }
    }

    /// Physical address of the handoff.
    pub(crate) fn address(&self) -> u64 {
        self.info.as_ptr() as u64
    }

    fn complain(&mut self, problem: impl core::fmt::Display) {
        // A text of fixed capacity takes as much as fits and never fails.
        let _ = writeln!(self.info().problem, "{problem}");
    }

    /// Reads the configuration. If it is wrong, defaults stay, with the reason.
    pub(crate) fn configure(&mut self, volume: &mut Volume) {
        match volume.read(CONFIGURATION, RegionKind::LOADER) {
            Err(error) => self.complain(error),
            Ok((mut pages, length)) => match parse_bytes(CONFIGURATION, &pages.bytes()[..length as usize]) {
                Ok(configuration) => self.info().configuration = configuration,
                Err(error) => self.complain(error),
            },
        }
    }

    /// Loads the hypervisor.
    pub(crate) fn load_image(&mut self, volume: &mut Volume) -> Result<(), LoadError> {
        let (mut file, length) = volume.read(IMAGE, RegionKind::LOADER)?;
        let file = &file.bytes()[..length as usize];
        let layout = Layout::of(file).map_err(|error| LoadError::Image { path: IMAGE.into(), error })?;
        let mut pages = Pages::allocate(layout.length, RegionKind::IMAGE)
            .map_err(|error| LoadError::Memory(error.status()))?;
        let memory = pages.bytes();
        for segment in layout.segments.as_slice() {
            let content = &file[segment.file_start..][..segment.file_length];
            memory[segment.offset as usize..][..content.len()].copy_from_slice(content);
        }
        self.info().image = pages.range();
        self.layout = Some(layout);
        Ok(())
    }

    /// Loads the files that the configuration names. What cannot be loaded is said in the handoff.
    pub(crate) fn load_files(&mut self, volume: &mut Volume) {
        let configuration: Configuration = self.info().configuration;
        for guest in configuration.guests() {
            for path in [Some(guest.kernel.as_str()), guest.initrd()].into_iter().flatten() {
                if self.info().file(path).is_none() {
                    self.load_file(volume, path);
                }
            }
        }
    }

    fn load_file(&mut self, volume: &mut Volume, path: &str) {
        match volume.read(path, RegionKind::FILES) {
            Err(error) => self.complain(error),
            Ok((pages, length)) => {
                let content = PhysicalRange { start: pages.range().start, length };
                if let Err(error) = self.info().files.push(File::new(Text::truncated(path), content)) {
                    self.complain(format_args!("{path}: too many files: {error}"));
                }
            }
        }
    }

    /// Notes where the firmware's tables are.
    pub(crate) fn find_tables(&mut self) {
        let find = |wanted: [uefi::Guid; 2]| {
            system::with_config_table(|tables| {
                let address = |guid| tables.iter().find(|table| table.guid == guid).map(|t| t.address as u64);
                wanted.into_iter().find_map(address).unwrap_or(0)
            })
        };
        self.info().rsdp = find([ConfigTableEntry::ACPI2_GUID, ConfigTableEntry::ACPI_GUID]);
        self.info().smbios = find([ConfigTableEntry::SMBIOS3_GUID, ConfigTableEntry::SMBIOS_GUID]);
    }
}
