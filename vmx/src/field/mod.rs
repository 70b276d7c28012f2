//! VMCS fields as typed constants (SDM appendix B): width and read-only class are checked against the
//! encoding when the constant is evaluated, that is, at compile time.

use core::marker::PhantomData;

mod table;

pub use table::*;

/// Width of a field: bits 14:13 of its encoding.
pub trait Width: sealed::Sealed {
    /// Code in the encoding.
    const CODE: u32;
    /// What a person calls it.
    type Value: Copy;
    /// Narrows what VMREAD delivers.
    fn from_raw(raw: u64) -> Self::Value;
    /// Widens to what VMWRITE takes.
    fn to_raw(value: Self::Value) -> u64;
}

/// Read-only or not: the type, bits 11:10 of the encoding, is 1 for read-only data.
pub trait Class: sealed::Sealed {
    /// Whether this class is the read-only one.
    const READ_ONLY: bool;
}

macro_rules! width {
    ($name:ident, $code:literal, $value:ty, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {}
        impl sealed::Sealed for $name {}
        impl Width for $name {
            const CODE: u32 = $code;
            type Value = $value;
            #[inline(always)]
            fn from_raw(raw: u64) -> $value {
                raw as $value
            }
            #[inline(always)]
            fn to_raw(value: $value) -> u64 {
                value.into()
            }
        }
    };
}

width!(Bits16, 0, u16, "16-bit fields.");
width!(Bits64, 1, u64, "64-bit fields.");
width!(Bits32, 2, u32, "32-bit fields.");
width!(Natural, 3, u64, "Natural-width fields: 64 bits in a 64-bit host.");

/// A field that VMWRITE may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadWrite {}
/// A field of the VM-exit information area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOnly {}

impl sealed::Sealed for ReadWrite {}
impl sealed::Sealed for ReadOnly {}
impl Class for ReadWrite {
    const READ_ONLY: bool = false;
}
impl Class for ReadOnly {
    const READ_ONLY: bool = true;
}

mod sealed {
    pub trait Sealed {}
}

/// A VMCS field.
#[derive(Debug, PartialEq, Eq)]
pub struct Field<W, C> {
    encoding: u32,
    marker: PhantomData<(W, C)>,
}

impl<W, C> Clone for Field<W, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W, C> Copy for Field<W, C> {}

impl<W: Width, C: Class> Field<W, C> {
    /// The field `encoding`.
    ///
    /// # Panics
    /// If the encoding's width or class is not that of the type: in a constant, a compile-time error.
    #[must_use]
    pub const fn new(encoding: u32) -> Self {
        assert!((encoding >> 13) & 3 == W::CODE, "the encoding has another width");
        assert!(((encoding >> 10) & 3 == 1) == C::READ_ONLY, "the encoding has another class");
        assert!(encoding & 0xffff_9000 == 0, "reserved bits of the encoding");
        assert!(encoding & 1 == 0, "access types other than full are not used");
        Self { encoding, marker: PhantomData }
    }

    /// The encoding, as VMREAD and VMWRITE take it.
    #[must_use]
    #[inline(always)]
    pub const fn encoding(self) -> u32 {
        self.encoding
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_carry_the_type_of_their_constant() {
        assert_eq!(GUEST_RIP.encoding(), 0x681e);
        assert_eq!(EXIT_REASON.encoding(), 0x4402);
        assert_eq!(EPT_POINTER.encoding(), 0x201a);
        assert_eq!(VPID.encoding(), 0);
    }

    #[test]
    #[should_panic(expected = "another width")]
    fn a_wrong_width_is_refused() {
        let _ = Field::<Bits32, ReadWrite>::new(0x681e);
    }

    #[test]
    #[should_panic(expected = "another class")]
    fn a_wrong_class_is_refused() {
        let _ = Field::<Bits32, ReadWrite>::new(0x4402);
    }
}
