//! MSR bitmap (SDM 25.6.9): which RDMSR and WRMSR exit.

use alloc::boxed::Box;

/// Direction of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// RDMSR.
    Read,
    /// WRMSR.
    Write,
}

/// The four 1 KiB bitmaps: read low, read high, write low, write high. MSRs outside both ranges always exit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MsrBitmap {
    bits: Box<[u64]>,
}

/// Words of the bitmap: one page.
const WORDS: usize = 512;

const LOW_FIRST: u32 = 0;
const HIGH_FIRST: u32 = 0xc000_0000;
const RANGE: u32 = 0x2000;

impl MsrBitmap {
    /// Every MSR exits.
    #[must_use]
    pub fn intercept_all() -> Self {
        // A page is too much for a stack.
        Self { bits: alloc::vec![!0; WORDS].into() }
    }

    const fn position(number: u32, access: Access) -> Option<usize> {
        let within = match number {
            LOW_FIRST..RANGE => number,
            HIGH_FIRST.. if number - HIGH_FIRST < RANGE => RANGE + (number - HIGH_FIRST),
            _ => return None,
        };
        let base = match access {
            Access::Read => 0,
            Access::Write => 2 * RANGE,
        };
        Some((base + within) as usize)
    }

    /// Lets the guest `access` the register directly; an MSR that no bitmap covers goes on exiting.
    pub fn pass_through(&mut self, number: u32, access: Access) {
        if let Some(position) = Self::position(number, access) {
            self.bits[position / 64] &= !(1 << (position % 64));
        }
    }

    /// The bitmap as it lies in memory.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.bits
    }

    /// Whether `access` to the register exits.
    #[must_use]
    pub fn intercepts(&self, number: u32, access: Access) -> bool {
        match Self::position(number, access) {
            Some(position) => self.bits[position / 64] & (1 << (position % 64)) != 0,
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::msr;

    #[test]
    fn ranges_and_directions_are_kept_apart() {
        let mut bitmap = MsrBitmap::intercept_all();
        bitmap.pass_through(msr::KERNEL_GS_BASE, Access::Read);
        bitmap.pass_through(msr::SYSENTER_CS, Access::Write);
        assert!(!bitmap.intercepts(msr::KERNEL_GS_BASE, Access::Read));
        assert!(bitmap.intercepts(msr::KERNEL_GS_BASE, Access::Write));
        assert!(!bitmap.intercepts(msr::SYSENTER_CS, Access::Write));
        assert!(bitmap.intercepts(msr::SYSENTER_CS, Access::Read));
        assert!(bitmap.intercepts(0x102, Access::Read));
    }

    #[test]
    fn registers_outside_the_ranges_always_exit() {
        let mut bitmap = MsrBitmap::intercept_all();
        bitmap.pass_through(0x4000_0000, Access::Read);
        bitmap.pass_through(0xc000_2000, Access::Write);
        assert_eq!(bitmap, MsrBitmap::intercept_all());
        assert!(bitmap.intercepts(0x2000, Access::Read) && bitmap.intercepts(u32::MAX, Access::Write));
    }

    #[test]
    fn the_layout_is_the_manuals() {
        let mut bitmap = MsrBitmap::intercept_all();
        bitmap.pass_through(msr::EFER, Access::Write);
        // Write bitmap for high MSRs begins at byte 3072; EFER is its bit 0x80.
        assert_eq!(bitmap.words()[(3072 + 0x80 / 8) / 8], !1);
        assert_eq!(size_of_val(bitmap.words()), 4096);
    }
}
