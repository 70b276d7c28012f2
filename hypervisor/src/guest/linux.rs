//! Loading Linux: kernel, initial RAM disk, command line, zero page, ACPI tables.

use alloc::boxed::Box;
use core::fmt;

use godwit_vmx::addr::Gpa;

use super::boot_params::BootParams;
use super::bzimage::{BzImage, ENTRY_OFFSET, ImageError};
use super::entry::{self, COMMAND_LINE, EntryState, ZERO_PAGE};
use super::firmware;
use super::layout::{EXTENDED_START, MemoryLayout, Range};
use crate::guest_memory::{GuestMemory, MemoryError};

/// What to start.
#[derive(Clone, Copy, Debug)]
pub struct LinuxGuest<'a> {
    /// The kernel image (bzImage).
    pub kernel: &'a [u8],
    /// The initial RAM disk.
    pub initrd: Option<&'a [u8]>,
    /// The command line.
    pub command_line: &'a str,
    /// Number of processors.
    pub vcpus: usize,
}

/// Why a guest cannot be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// The kernel image is not usable.
    Image(ImageError),
    /// The memory is too small.
    MemoryTooSmall {
        /// What does not fit.
        what: &'static str,
        /// Bytes of guest memory below 3 GiB that would do.
        needed: u64,
        /// Bytes there are.
        present: u64,
    },
    /// The kernel cannot be loaded elsewhere, and where it wants to be is no memory.
    PreferredAddress(u64),
    /// The command line is longer than the kernel takes.
    CommandLineTooLong {
        /// Bytes it has.
        bytes: usize,
        /// Bytes the kernel takes.
        max: usize,
    },
    /// The command line has a zero byte in it.
    CommandLineHasZero,
    /// The guest's memory is not as its layout says.
    Memory(MemoryError),
    /// ACPI tables cannot describe this many processors.
    Vcpus(usize),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(error) => error.fmt(f),
            Self::MemoryTooSmall { what, needed, present } => write!(
                f,
                "{what} does not fit into the guest's memory: {} MiB are needed, it has {} MiB",
                needed.div_ceil(1 << 20),
                present >> 20
            ),
            Self::PreferredAddress(address) => {
                write!(f, "the kernel must be loaded at {address:#x}, where the guest has no memory")
            }
            Self::CommandLineTooLong { bytes, max } => {
                write!(f, "the command line has {bytes} bytes; the kernel takes {max}")
            }
            Self::CommandLineHasZero => f.write_str("the command line has a zero byte in it"),
            Self::Memory(error) => error.fmt(f),
            Self::Vcpus(count) => write!(f, "{count} processors cannot be described to the guest"),
        }
    }
}

impl core::error::Error for LoadError {}

impl From<ImageError> for LoadError {
    fn from(error: ImageError) -> Self {
        Self::Image(error)
    }
}

impl From<MemoryError> for LoadError {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error)
    }
}

const PAGE: u64 = 4096;

/// A guest of which all that could be wrong has been looked at, and where everything of it goes.
#[derive(Debug)]
pub struct Loading<'a> {
    kernel: (Gpa, &'a [u8]),
    initrd: Option<(Gpa, &'a [u8])>,
    params: Box<BootParams>,
    command_line: &'a [u8],
    vcpus: usize,
}

impl<'a> Loading<'a> {
    /// Decides where everything of `guest` goes in memory that is laid out as `layout` says.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn new(layout: MemoryLayout, guest: &LinuxGuest<'a>) -> Result<Self, LoadError> {
        let kernel = BzImage::parse(guest.kernel)?;
        let command_line = guest.command_line.as_bytes();
        if command_line.len() > kernel.command_line_max {
            return Err(LoadError::CommandLineTooLong {
                bytes: command_line.len(),
                max: kernel.command_line_max,
            });
        }
        if command_line.contains(&0) {
            return Err(LoadError::CommandLineHasZero);
        }
        let place = place_kernel(&kernel, layout)?;
        let mut params = Box::new(BootParams::new(&kernel));
        params.memory_map(layout.map());
        params.command_line(COMMAND_LINE as u32);
        params.acpi_rsdp(firmware::RSDP);
        let mut initrd = None;
        if let Some(content) = guest.initrd.filter(|initrd| !initrd.is_empty()) {
            let range = place_initrd(content.len() as u64, &kernel, place, layout)?;
            params.initrd(range);
            initrd = Some((range.start, content));
        }
        let kernel = (place.start, kernel.payload());
        Ok(Self { kernel, initrd, params, command_line, vcpus: guest.vcpus })
    }

    /// What is long: it is to be copied to where it goes before [`Self::finish`].
    pub fn contents(&self) -> impl Iterator<Item = (Gpa, &'a [u8])> {
        [Some(self.kernel), self.initrd].into_iter().flatten()
    }

    /// Writes all the rest into `memory`, which is zero but for the [contents](Self::contents); the registers to begin with.
    ///
    /// # Errors
    /// [`LoadError`]; the memory may then hold parts of the guest.
    pub fn finish(&self, memory: &impl GuestMemory) -> Result<EntryState, LoadError> {
        let end = COMMAND_LINE + self.command_line.len() as u64;
        memory.write(Gpa::new(COMMAND_LINE), self.command_line)?;
        memory.write(Gpa::new(end), &[0])?;
        memory.write(Gpa::new(ZERO_PAGE), self.params.bytes())?;
        entry::write_tables(memory)?;
        firmware::write_tables(memory, self.vcpus)?;
        Ok(EntryState::at(self.kernel.0.as_u64() + ENTRY_OFFSET))
    }
}

/// Where the kernel goes, with all the memory that it needs at first: where it prefers, or else as low as it
/// can.
fn place_kernel(kernel: &BzImage<'_>, layout: MemoryLayout) -> Result<Range, LoadError> {
    let fits = |start: u64| {
        start >= EXTENDED_START
            && start.checked_add(kernel.init_size).is_some_and(|end| end <= layout.low_end())
    };
    let at = |start| Range { start: Gpa::new(start), bytes: kernel.init_size };
    if fits(kernel.preferred_address) {
        return Ok(at(kernel.preferred_address));
    }
    if !kernel.relocatable {
        return Err(LoadError::PreferredAddress(kernel.preferred_address));
    }
    // An alignment is a power of two below 2^32, so this does not overflow.
    let lowest = EXTENDED_START.next_multiple_of(kernel.alignment);
    if fits(lowest) {
        return Ok(at(lowest));
    }
    Err(LoadError::MemoryTooSmall {
        what: "the kernel",
        needed: lowest + kernel.init_size,
        present: layout.low_end(),
    })
}

/// Where the initial RAM disk goes: as high as the kernel allows, above the kernel.
fn place_initrd(
    bytes: u64,
    kernel: &BzImage<'_>,
    place: Range,
    layout: MemoryLayout,
) -> Result<Range, LoadError> {
    let top = layout.low_end().min(kernel.initrd_address_max.saturating_add(1));
    let start = top.saturating_sub(bytes) / PAGE * PAGE;
    if start < place.end() {
        return Err(LoadError::MemoryTooSmall {
            what: "the initial RAM disk",
            needed: place.end() + bytes.next_multiple_of(PAGE),
            present: layout.low_end(),
        });
    }
    Ok(Range { start: Gpa::new(start), bytes })
}

#[cfg(test)]
mod tests {
    use super::super::bzimage::tests::image;
    use super::*;
    use crate::guest_memory::tests::Ram;
    use proptest::prelude::*;
    use std::string::ToString;

    const MEBIBYTE: u64 = 1 << 20;

    fn guest<'a>(kernel: &'a [u8], initrd: Option<&'a [u8]>) -> LinuxGuest<'a> {
        LinuxGuest { kernel, initrd, command_line: "console=ttyS0 quiet", vcpus: 1 }
    }

    fn load(
        memory: &impl GuestMemory,
        layout: MemoryLayout,
        guest: &LinuxGuest<'_>,
    ) -> Result<EntryState, LoadError> {
        let loading = Loading::new(layout, guest)?;
        for (address, content) in loading.contents() {
            memory.write(address, content)?;
        }
        loading.finish(memory)
    }

    fn read<const N: usize>(ram: &Ram, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        ram.read(Gpa::new(address), &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn everything_is_where_the_boot_protocol_says() {
        let (ram, image) = (Ram::new(64 * MEBIBYTE), image());
        let layout = MemoryLayout::new(64 * MEBIBYTE).unwrap();
        let entry = load(&ram, layout, &guest(&image, Some(&[7; 5000]))).unwrap();
        assert_eq!(entry.rip, 0x100_0200);
        assert_eq!(read::<4>(&ram, 0x100_0200), [0, 1, 2, 3]);
        let zero_page: [u8; 4096] = read(&ram, entry.rsi);
        assert_eq!(&zero_page[0x202..0x206], b"HdrS");
        assert_eq!(zero_page[0x210], 0xff);
        assert_eq!(zero_page[0x1e8], 3);
        let field = |offset: usize| u32::from_le_bytes(zero_page[offset..offset + 4].try_into().unwrap());
        assert_eq!(field(0x21c), 5000);
        let initrd = u64::from(field(0x218));
        assert_eq!(initrd, 64 * MEBIBYTE - 8192);
        assert_eq!(read::<4>(&ram, initrd + 4996), [7; 4]);
        let command_line: [u8; 20] = read(&ram, u64::from(field(0x228)));
        assert_eq!(&command_line, b"console=ttyS0 quiet\0");
        assert_eq!(u64::from(field(0x070)), firmware::RSDP);
        assert_eq!(&read::<8>(&ram, firmware::RSDP), b"RSD PTR ");
    }

    #[test]
    fn the_first_4_gib_are_mapped_to_themselves() {
        let (ram, image) = (Ram::new(64 * MEBIBYTE), image());
        let layout = MemoryLayout::new(64 * MEBIBYTE).unwrap();
        let entry = load(&ram, layout, &guest(&image, None)).unwrap();
        for address in [0u64, 0x100_0200, 0xfee0_0000, 0xffff_ffff] {
            let mut table = entry.cr3;
            for level in [39, 30, 21] {
                let index = address >> level & 0x1ff;
                let value = ram.read_u64(Gpa::new(table + 8 * index)).unwrap();
                assert_eq!(value & 3, 3);
                table = value & 0x000f_ffff_ffff_f000;
            }
            assert_eq!(table, address & !0x1f_ffff);
        }
    }

    #[test]
    fn a_kernel_that_prefers_too_much_is_loaded_lower() {
        let mut image = image();
        image[0x258..0x260].copy_from_slice(&(1u64 << 40).to_le_bytes());
        let ram = Ram::new(64 * MEBIBYTE);
        let layout = MemoryLayout::new(64 * MEBIBYTE).unwrap();
        assert_eq!(load(&ram, layout, &guest(&image, None)).unwrap().rip, 0x20_0200);
        image[0x234] = 0;
        assert_eq!(load(&ram, layout, &guest(&image, None)), Err(LoadError::PreferredAddress(1 << 40)));
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let (ram, image) = (Ram::new(64 * MEBIBYTE), image());
        let small = MemoryLayout::new(32 * MEBIBYTE).unwrap();
        let error = load(&ram, small, &guest(&image, None)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the kernel does not fit into the guest's memory: 34 MiB are needed, it has 32 MiB"
        );
        let layout = MemoryLayout::new(64 * MEBIBYTE).unwrap();
        let initrd = std::vec![1; 17 << 20];
        let error = load(&ram, layout, &guest(&image, Some(&initrd))).unwrap_err();
        assert!(matches!(error, LoadError::MemoryTooSmall { what: "the initial RAM disk", .. }));
        let long = "x".repeat(2048);
        let wordy = LinuxGuest { command_line: &long, ..guest(&image, None) };
        assert_eq!(load(&ram, layout, &wordy), Err(LoadError::CommandLineTooLong { bytes: 2048, max: 2047 }));
        let broken = LinuxGuest { command_line: "a\0b", ..guest(&image, None) };
        assert_eq!(load(&ram, layout, &broken), Err(LoadError::CommandLineHasZero));
    }

    proptest! {
        #[test]
        fn hostile_images_stay_in_the_guest(
            changes in prop::collection::vec((0x1f0usize..0x270, any::<u8>()), 0..12),
            mebibytes in 4u64..64,
        ) {
            let mut image = image();
            for (offset, byte) in changes {
                image[offset] = byte;
            }
            let ram = Ram::new(mebibytes * MEBIBYTE);
            let layout = MemoryLayout::new(mebibytes * MEBIBYTE).unwrap();
            let result = load(&ram, layout, &guest(&image, Some(&[1; 100])));
            // Refused or loaded, but never outside of what the layout promised.
            prop_assert!(!matches!(result, Err(LoadError::Memory(_))), "{:?}", result);
        }
    }
}
