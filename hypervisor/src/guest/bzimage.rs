//! The header of a Linux kernel image (bzImage).
//!
//! Reference: Linux Documentation/arch/x86/boot.rst, "The Linux/x86 Boot Protocol", versions 2.12 and later.

use core::fmt;
use core::ops::Range;

/// Offset of the setup header, the same in the image and in the zero page.
pub const HEADER_OFFSET: usize = 0x1f1;
/// The header may reach up to here in the zero page.
pub const HEADER_END_MAX: usize = 0x290;
/// Offset of the 64-bit entry point from where the kernel is loaded.
pub const ENTRY_OFFSET: u64 = 0x200;
/// Oldest version that has the 64-bit entry flag and the fields read here.
const VERSION_MIN: u16 = 0x020c;
const SECTOR: usize = 512;
const BOOT_FLAG: u16 = 0xaa55;
const MAGIC: &[u8; 4] = b"HdrS";
const LOADED_HIGH: u8 = 1 << 0;
const XLF_KERNEL_64: u16 = 1 << 0;
/// Longest command line that is passed, whatever the kernel says it can take.
pub const COMMAND_LINE_MAX: usize = 0x1_0000;

/// Why an image is not a kernel that can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// Shorter than its header says, or than a header is.
    Truncated {
        /// Bytes needed.
        needed: usize,
        /// Bytes there are.
        present: usize,
    },
    /// No boot flag or no "HdrS": not a bzImage.
    NotLinux,
    /// The boot protocol is older than 2.12.
    TooOld(u16),
    /// A zImage, which is loaded low.
    LoadedLow,
    /// Without a 64-bit entry point: a 32-bit kernel.
    Not64Bit,
    /// A field of the header holds what it cannot.
    Field(&'static str),
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { needed, present } => {
                write!(f, "the kernel image is cut short: {present} bytes of {needed}")
            }
            Self::NotLinux => f.write_str("the kernel is not a Linux bzImage"),
            Self::TooOld(version) => {
                let (major, minor) = (version >> 8, version & 0xff);
                write!(f, "the kernel's boot protocol is {major}.{minor:02}; 2.12 or later is needed")
            }
            Self::LoadedLow => f.write_str("the kernel is a zImage; a bzImage is needed"),
            Self::Not64Bit => f.write_str("the kernel has no 64-bit entry point"),
            Self::Field(field) => write!(f, "the kernel's setup header has an impossible {field}"),
        }
    }
}

impl core::error::Error for ImageError {}

/// What the loader needs of a kernel image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BzImage<'a> {
    image: &'a [u8],
    header: Range<usize>,
    payload: Range<usize>,
    /// Where the kernel would like to be loaded.
    pub preferred_address: u64,
    /// Whether it can be loaded elsewhere.
    pub relocatable: bool,
    /// Alignment it needs elsewhere, in bytes: a power of two.
    pub alignment: u64,
    /// Memory it needs from its load address on before it knows the memory map, in bytes.
    pub init_size: u64,
    /// Last address the initial RAM disk may occupy.
    pub initrd_address_max: u64,
    /// Longest command line it takes, in bytes, without the final zero.
    pub command_line_max: usize,
}

impl<'a> BzImage<'a> {
    /// Checks the header of `image`.
    ///
    /// # Errors
    /// [`ImageError`] saying what is wrong with it.
    pub fn parse(image: &'a [u8]) -> Result<Self, ImageError> {
        let fields = Fields(image);
        if fields.u16(0x1fe)? != BOOT_FLAG || fields.bytes::<4>(0x202)? != *MAGIC {
            return Err(ImageError::NotLinux);
        }
        let version = fields.u16(0x206)?;
        if version < VERSION_MIN {
            return Err(ImageError::TooOld(version));
        }
        if fields.u8(0x211)? & LOADED_HIGH == 0 {
            return Err(ImageError::LoadedLow);
        }
        if fields.u16(0x236)? & XLF_KERNEL_64 == 0 {
            return Err(ImageError::Not64Bit);
        }
        // The byte after the jump's opcode is how far the header reaches.
        let header_end = 0x202 + usize::from(fields.u8(0x201)?);
        if !(0x268..=HEADER_END_MAX).contains(&header_end) {
            return Err(ImageError::Field("length"));
        }
        let payload = payload(&fields)?;
        let alignment = u64::from(fields.u32(0x230)?);
        let relocatable = fields.u8(0x234)? != 0;
        if relocatable && !alignment.is_power_of_two() {
            return Err(ImageError::Field("kernel_alignment"));
        }
        let init_size = u64::from(fields.u32(0x260)?);
        let command_line_max = fields.u32(0x238)? as usize;
        Ok(Self {
            image,
            header: HEADER_OFFSET..header_end,
            // The kernel may claim to need less than it is; it is loaded whole all the same.
            init_size: init_size.max(payload.len() as u64),
            payload,
            preferred_address: fields.u64(0x258)?,
            relocatable,
            alignment,
            initrd_address_max: u64::from(fields.u32(0x22c)?),
            command_line_max: command_line_max.min(COMMAND_LINE_MAX - 1),
        })
    }

    /// The setup header, to be copied to [`HEADER_OFFSET`] of the zero page.
    #[must_use]
    pub fn header(&self) -> &'a [u8] {
        &self.image[self.header.clone()]
    }

    /// The protected-mode kernel, to be loaded.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        &self.image[self.payload.clone()]
    }
}

/// Where the protected-mode kernel is in the image.
fn payload(fields: &Fields<'_>) -> Result<Range<usize>, ImageError> {
    let setup_sectors = match fields.u8(0x1f1)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (setup_sectors + 1) * SECTOR;
    let present = fields.0.len();
    // In 16-byte units; a signature may follow it in the file.
    let needed = (fields.u32(0x1f4)? as usize)
        .checked_mul(16)
        .and_then(|bytes| bytes.checked_add(start))
        .ok_or(ImageError::Field("syssize"))?;
    // The size is rounded up, the file is not: up to 15 bytes may be missing at the end.
    if needed.saturating_sub(15) > present {
        return Err(ImageError::Truncated { needed, present });
    }
    if needed <= start + ENTRY_OFFSET as usize {
        return Err(ImageError::Field("syssize"));
    }
    Ok(start..needed.min(present))
}

/// Little-endian fields at offsets that may lie outside.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, offset: usize) -> Result<[u8; N], ImageError> {
        let needed = offset + N;
        let field = self.0.get(offset..needed).and_then(|bytes| bytes.try_into().ok());
        field.ok_or(ImageError::Truncated { needed, present: self.0.len() })
    }

    fn u8(&self, offset: usize) -> Result<u8, ImageError> {
        self.bytes(offset).map(u8::from_le_bytes)
    }

    fn u16(&self, offset: usize) -> Result<u16, ImageError> {
        self.bytes(offset).map(u16::from_le_bytes)
    }

    fn u32(&self, offset: usize) -> Result<u32, ImageError> {
        self.bytes(offset).map(u32::from_le_bytes)
    }

    fn u64(&self, offset: usize) -> Result<u64, ImageError> {
        self.bytes(offset).map(u64::from_le_bytes)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// A small image with the header of a Debian 12 kernel.
    pub(crate) fn image() -> Vec<u8> {
        let mut image = std::vec![0; 2 * SECTOR];
        let payload_bytes = 0x4000u32;
        image[0x1f1] = 1;
        image[0x1f4..0x1f8].copy_from_slice(&(payload_bytes / 16).to_le_bytes());
        image[0x1fe..0x200].copy_from_slice(&0xaa55u16.to_le_bytes());
        image[0x200..0x202].copy_from_slice(&[0xeb, 0x6a]);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
        image[0x211] = 1;
        image[0x22c..0x230].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
        image[0x230..0x234].copy_from_slice(&0x20_0000u32.to_le_bytes());
        image[0x234] = 1;
        image[0x236..0x238].copy_from_slice(&0x7fu16.to_le_bytes());
        image[0x238..0x23c].copy_from_slice(&2047u32.to_le_bytes());
        image[0x258..0x260].copy_from_slice(&0x100_0000u64.to_le_bytes());
        image[0x260..0x264].copy_from_slice(&0x200_0000u32.to_le_bytes());
        image.extend((0..payload_bytes).map(|byte| byte as u8));
        image
    }

    #[test]
    fn a_kernel_tells_its_needs() {
        let image = image();
        let kernel = BzImage::parse(&image).unwrap();
        assert_eq!(kernel.preferred_address, 0x100_0000);
        assert_eq!(kernel.init_size, 0x200_0000);
        assert_eq!(kernel.alignment, 0x20_0000);
        assert_eq!(kernel.command_line_max, 2047);
        assert_eq!(kernel.payload().len(), 0x4000);
        assert_eq!(kernel.header().len(), 0x26c - 0x1f1);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let with = |offset: usize, bytes: &[u8]| {
            let mut image = image();
            image[offset..offset + bytes.len()].copy_from_slice(bytes);
            BzImage::parse(&image).map(|_| ()).unwrap_err()
        };
        assert_eq!(with(0x202, b"ELF!"), ImageError::NotLinux);
        assert_eq!(with(0x206, &[0x0b, 0x02]), ImageError::TooOld(0x020b));
        assert_eq!(with(0x211, &[0]), ImageError::LoadedLow);
        assert_eq!(with(0x236, &[0]), ImageError::Not64Bit);
        assert_eq!(with(0x230, &[3, 0, 0, 0]), ImageError::Field("kernel_alignment"));
        assert_eq!(with(0x201, &[0xff]), ImageError::Field("length"));
        assert_eq!(with(0x1f4, &[0; 4]), ImageError::Field("syssize"));
        assert!(matches!(with(0x1f4, &[0xff; 4]), ImageError::Truncated { .. }));
        assert!(matches!(BzImage::parse(&[]), Err(ImageError::Truncated { .. })));
        assert_eq!(
            std::format!("{}", ImageError::TooOld(0x020b)),
            "the kernel's boot protocol is 2.11; 2.12 or later is needed"
        );
    }

    proptest! {
        #[test]
        fn hostile_images_are_survived(
            changes in prop::collection::vec((0x1f0usize..0x270, any::<u8>()), 0..20),
            length in 0usize..0x4400,
        ) {
            let mut image = image();
            for (offset, byte) in changes {
                image[offset] = byte;
            }
            image.truncate(length);
            if let Ok(kernel) = BzImage::parse(&image) {
                prop_assert!(kernel.header().len() <= HEADER_END_MAX - HEADER_OFFSET);
                prop_assert!(kernel.payload().len() as u64 <= kernel.init_size);
            }
        }
    }
}
