//! The guest's extended state: XSAVE images and XCR0 (SDM volume 1, chapter 13).
//!
//! The host uses no vector registers, so a guest's state stays in the processor until another vCPU takes it; only
//! then is it saved. Images are in the standard (not compacted) format, which does not depend on the processor that wrote them.
#![expect(unsafe_code, reason = "XSAVE, XRSTOR, XGETBV and XSETBV exist only as assembly")]

use core::arch::asm;
use core::fmt;

use bitflags::bitflags;

bitflags! {
    /// State components, as bits of XCR0.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Components: u64 {
        /// x87.
        const X87 = 1 << 0;
        /// XMM registers and MXCSR.
        const SSE = 1 << 1;
        /// Upper halves of YMM.
        const AVX = 1 << 2;
        /// AVX-512 mask registers.
        const OPMASK = 1 << 5;
        /// Upper halves of ZMM0–15.
        const ZMM_HIGH = 1 << 6;
        /// ZMM16–31.
        const HIGH_ZMM = 1 << 7;
        /// Protection-key rights.
        const PKRU = 1 << 9;
    }
}

/// Bytes of an image: room for every component in [`Components`] (PKRU, the last, ends at 2696).
pub const AREA_BYTES: usize = 2752;
const MXCSR_OFFSET: usize = 24;
const HEADER_OFFSET: usize = 512;
const HEADER_BYTES: usize = 64;
const MXCSR_VALID: u32 = 0xffff;
const MXCSR_RESET: u32 = 0x1f80;
const FCW_RESET: u16 = 0x037f;

impl Components {
    /// What this crate can save: the part of `offered` (CPUID.0DH.0) that an [`XsaveArea`] has room for.
    #[must_use]
    pub const fn supported(offered: u64) -> Self {
        Self::from_bits_truncate(offered)
    }

    /// Whether XSETBV accepts this value as XCR0 on a processor that supports `supported` (SDM volume 1, 13.3).
    #[must_use]
    pub const fn is_valid_xcr0(value: u64, supported: Self) -> bool {
        let Some(wanted) = Self::from_bits(value) else { return false };
        let wide = Self::OPMASK.union(Self::ZMM_HIGH).union(Self::HIGH_ZMM);
        let some_wide = wanted.intersects(wide);
        supported.contains(wanted)
            && wanted.contains(Self::X87)
            && (!wanted.contains(Self::AVX) || wanted.contains(Self::SSE))
            && (!some_wide || (wanted.contains(wide) && wanted.contains(Self::AVX)))
    }
}

/// Why an image cannot be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidImage {
    /// The image has another length than [`AREA_BYTES`].
    Length(usize),
    /// It holds components that are not supported here.
    Components(u64),
    /// It is compacted, or reserved bytes of its header are set.
    Header,
    /// MXCSR has reserved bits set.
    Mxcsr(u32),
}

impl fmt::Display for InvalidImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(bytes) => write!(f, "an XSAVE image of {bytes} bytes instead of {AREA_BYTES}"),
            Self::Components(bits) => write!(f, "XSAVE components {bits:#x} are not supported here"),
            Self::Header => f.write_str("the XSAVE header is compacted or has reserved bytes set"),
            Self::Mxcsr(value) => write!(f, "MXCSR {value:#x} has reserved bits set"),
        }
    }
}

impl core::error::Error for InvalidImage {}

/// An XSAVE image.
#[derive(Clone, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct XsaveArea {
    bytes: [u8; AREA_BYTES],
}

impl fmt::Debug for XsaveArea {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XsaveArea").finish_non_exhaustive()
    }
}

impl Default for XsaveArea {
    fn default() -> Self {
        Self::reset()
    }
}

impl XsaveArea {
    /// State after power-up: all components in their initial configuration.
    #[must_use]
    pub fn reset() -> Self {
        let mut bytes = [0; AREA_BYTES];
        bytes[..2].copy_from_slice(&FCW_RESET.to_le_bytes());
        bytes[MXCSR_OFFSET..MXCSR_OFFSET + 4].copy_from_slice(&MXCSR_RESET.to_le_bytes());
        Self { bytes }
    }

    /// The image's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; AREA_BYTES] {
        &self.bytes
    }

    /// Takes an image over from elsewhere, checked so that XRSTOR accepts it on a processor that
    /// supports `supported`.
    ///
    /// # Errors
    /// [`InvalidImage`] says what XRSTOR would refuse.
    pub fn from_bytes(image: &[u8], supported: Components) -> Result<Self, InvalidImage> {
        let bytes: [u8; AREA_BYTES] = image.try_into().map_err(|_error| InvalidImage::Length(image.len()))?;
        let (present, rest) = bytes[HEADER_OFFSET..HEADER_OFFSET + HEADER_BYTES].split_at(size_of::<u64>());
        let present = present.iter().rev().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        if present & !supported.bits() != 0 {
            return Err(InvalidImage::Components(present & !supported.bits()));
        }
        if rest.iter().any(|byte| *byte != 0) {
            return Err(InvalidImage::Header);
        }
        let mxcsr = bytes[MXCSR_OFFSET..MXCSR_OFFSET + 4]
            .iter()
            .rev()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        if mxcsr & !MXCSR_VALID != 0 {
            return Err(InvalidImage::Mxcsr(mxcsr));
        }
        Ok(Self { bytes })
    }

    /// Saves the processor's state of `components`.
    ///
    /// # Safety
    /// CR4.OSXSAVE is set and XCR0 enables `components`.
    pub unsafe fn save(&mut self, components: Components) {
        let mask = components.bits();
        // SAFETY: the area is aligned and large enough for every component; XSAVE is enabled by the
        // caller's contract.
        unsafe {
            asm!(
                "xsave64 [{area}]",
                area = in(reg) self.bytes.as_mut_ptr(),
                in("eax") mask as u32,
                in("edx") (mask >> 32) as u32,
                options(nostack),
            );
        }
    }

    /// Loads the state of `components` into the processor.
    ///
    /// # Safety
    /// CR4.OSXSAVE is set, XCR0 enables `components`, and the host keeps nothing in those registers.
    pub unsafe fn restore(&self, components: Components) {
        let mask = components.bits();
        // SAFETY: the area is aligned and valid by construction; XRSTOR is enabled by the caller's contract.
        unsafe {
            asm!(
                "xrstor64 [{area}]",
                area = in(reg) self.bytes.as_ptr(),
                in("eax") mask as u32,
                in("edx") (mask >> 32) as u32,
                options(nostack, readonly),
            );
        }
    }
}

/// Writes XCR0.
///
/// # Safety
/// CR4.OSXSAVE is set and [`Components::is_valid_xcr0`] accepts the value on this processor.
pub unsafe fn set_xcr0(value: u64) {
    // SAFETY: by the caller's contract the value is one that the processor accepts.
    unsafe {
        asm!(
            "xsetbv",
            in("ecx") 0,
            in("eax") value as u32,
            in("edx") (value >> 32) as u32,
            options(nostack, nomem),
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: Components = Components::all();

    #[test]
    fn xcr0_keeps_the_manuals_dependencies() {
        assert!(Components::is_valid_xcr0(0x7, ALL));
        assert!(Components::is_valid_xcr0(0xe7, ALL));
        assert!(!Components::is_valid_xcr0(0x6, ALL), "x87 is always on");
        assert!(!Components::is_valid_xcr0(0x5, ALL), "AVX needs SSE");
        assert!(!Components::is_valid_xcr0(0x27, ALL), "AVX-512 comes as a whole");
        assert!(!Components::is_valid_xcr0(0x7, Components::X87 | Components::SSE));
        assert!(!Components::is_valid_xcr0(1 << 63 | 1, ALL));
    }

    #[test]
    fn a_reset_image_is_valid() {
        let image = XsaveArea::reset();
        assert_eq!(XsaveArea::from_bytes(image.as_bytes(), Components::X87), Ok(image));
    }

    #[test]
    fn images_that_xrstor_would_refuse_are_refused() {
        let mut bytes = *XsaveArea::reset().as_bytes();
        bytes[HEADER_OFFSET] = 4;
        let narrow = Components::X87 | Components::SSE;
        assert_eq!(XsaveArea::from_bytes(&bytes, narrow), Err(InvalidImage::Components(4)));
        bytes[HEADER_OFFSET + 15] = 0x80;
        assert_eq!(XsaveArea::from_bytes(&bytes, ALL), Err(InvalidImage::Header));
        bytes = *XsaveArea::reset().as_bytes();
        bytes[MXCSR_OFFSET + 3] = 1;
        assert!(matches!(XsaveArea::from_bytes(&bytes, ALL), Err(InvalidImage::Mxcsr(_))));
        assert_eq!(XsaveArea::from_bytes(&bytes[1..], ALL), Err(InvalidImage::Length(AREA_BYTES - 1)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_panic(image in proptest::collection::vec(any::<u8>(), 0..AREA_BYTES + 8)) {
            let _ = XsaveArea::from_bytes(&image, ALL);
        }
    }
}
