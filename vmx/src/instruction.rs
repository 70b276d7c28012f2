//! The VMX instructions, one function each (SDM chapter 31).
#![expect(unsafe_code, reason = "VMX instructions exist only as assembly")]

use core::arch::asm;
use core::fmt;

use x86_64::PhysAddr;

/// How a VMX instruction says no (SDM 31.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmFail {
    /// There is no current VMCS to hold an error number.
    Invalid,
    /// The current VMCS's instruction-error field says why.
    Valid,
}

impl fmt::Display for VmFail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalid => "VMfailInvalid",
            Self::Valid => "VMfailValid",
        })
    }
}

impl core::error::Error for VmFail {}

#[inline(always)]
fn result(carry: u8, zero: u8) -> Result<(), VmFail> {
    match (carry, zero) {
        (0, 0) => Ok(()),
        (0, _) => Err(VmFail::Valid),
        _ => Err(VmFail::Invalid),
    }
}

macro_rules! with_address {
    ($name:ident, $instruction:literal, $doc:literal) => {
        #[doc = $doc]
        ///
        /// # Errors
        /// [`VmFail`] as the instruction reports it.
        ///
        /// # Safety
        /// The caller runs in ring 0 with VMX enabled and gives a 4 KiB frame that belongs to the processor
        /// as this instruction uses it, and that nothing else touches meanwhile.
        pub unsafe fn $name(region: PhysAddr) -> Result<(), VmFail> {
            let address = region.as_u64();
            let (carry, zero): (u8, u8);
            // SAFETY: by the caller's contract the frame is the processor's; the operand is read only.
            unsafe {
                asm!(
                    concat!($instruction, " [{address}]"),
                    "setc {carry}",
                    "setz {zero}",
                    address = in(reg) &raw const address,
                    carry = out(reg_byte) carry,
                    zero = out(reg_byte) zero,
                    options(nostack),
                );
            }
            result(carry, zero)
        }
    };
}

with_address!(vmxon, "vmxon", "Enters VMX root operation with `region` as VMXON region.");
with_address!(vmclear, "vmclear", "Writes back and forgets the VMCS in `region`; its launch state is clear.");
with_address!(vmptrld, "vmptrld", "Makes the VMCS in `region` active and current.");

/// Leaves VMX root operation.
///
/// # Errors
/// [`VmFail`] as the instruction reports it.
///
/// # Safety
/// The caller runs in VMX root operation and no VMCS is active on this processor.
pub unsafe fn vmxoff() -> Result<(), VmFail> {
    let (carry, zero): (u8, u8);
    // SAFETY: by the caller's contract the processor is in VMX root operation.
    unsafe {
        asm!("vmxoff", "setc {}", "setz {}", out(reg_byte) carry, out(reg_byte) zero, options(nostack));
    }
    result(carry, zero)
}

/// Reads field `encoding` of the current VMCS; 0 if the processor has no such field.
///
/// # Safety
/// A VMCS is current on this processor.
#[inline(always)]
pub unsafe fn vmread(encoding: u32) -> u64 {
    let mut value = 0_u64;
    // SAFETY: by the caller's contract a VMCS is current; on failure the register keeps its 0.
    unsafe {
        asm!(
            "vmread {value}, {encoding}",
            value = inout(reg) value,
            encoding = in(reg) u64::from(encoding),
            options(nostack, nomem),
        );
    }
    value
}

/// Writes field `encoding` of the current VMCS; a field that the processor lacks swallows the write.
///
/// # Safety
/// A VMCS is current on this processor, and the value is one that its user has validated: host-state fields
/// decide where the processor continues after a VM exit.
#[inline(always)]
pub unsafe fn vmwrite(encoding: u32, value: u64) {
    // SAFETY: by the caller's contract a VMCS is current and the value is sound.
    unsafe {
        asm!(
            "vmwrite {encoding}, {value}",
            encoding = in(reg) u64::from(encoding),
            value = in(reg) value,
            options(nostack, nomem),
        );
    }
}

/// What an INVEPT invalidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InveptScope {
    /// Mappings of one EPT pointer.
    Single(u64),
    /// All mappings.
    All,
}

/// Invalidates cached mappings derived from EPT.
///
/// # Errors
/// [`VmFail`] if the processor does not support the scope.
///
/// # Safety
/// The caller runs in VMX root operation on a processor that has INVEPT.
pub unsafe fn invept(scope: InveptScope) -> Result<(), VmFail> {
    let (kind, descriptor) = match scope {
        InveptScope::Single(pointer) => (1_u64, [pointer, 0]),
        InveptScope::All => (2, [0, 0]),
    };
    let (carry, zero): (u8, u8);
    // SAFETY: by the caller's contract INVEPT exists here; it reads 16 bytes of `descriptor`.
    unsafe {
        asm!(
            "invept {kind}, [{descriptor}]",
            "setc {carry}",
            "setz {zero}",
            kind = in(reg) kind,
            descriptor = in(reg) descriptor.as_ptr(),
            carry = out(reg_byte) carry,
            zero = out(reg_byte) zero,
            options(nostack),
        );
    }
    result(carry, zero)
}

/// What an INVVPID invalidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvvpidScope {
    /// All mappings of one virtual processor.
    Single(u16),
    /// Mappings of all virtual processors.
    All,
}

/// Invalidates cached mappings tagged with a virtual-processor identifier.
///
/// # Errors
/// [`VmFail`] if the processor does not support the scope.
///
/// # Safety
/// The caller runs in VMX root operation on a processor that has INVVPID.
pub unsafe fn invvpid(scope: InvvpidScope) -> Result<(), VmFail> {
    let (kind, descriptor) = match scope {
        InvvpidScope::Single(vpid) => (1_u64, [u64::from(vpid), 0]),
        InvvpidScope::All => (2, [0, 0]),
    };
    let (carry, zero): (u8, u8);
    // SAFETY: by the caller's contract INVVPID exists here; it reads 16 bytes of `descriptor`.
    unsafe {
        asm!(
            "invvpid {kind}, [{descriptor}]",
            "setc {carry}",
            "setz {zero}",
            kind = in(reg) kind,
            descriptor = in(reg) descriptor.as_ptr(),
            carry = out(reg_byte) carry,
            zero = out(reg_byte) zero,
            options(nostack),
        );
    }
    result(carry, zero)
}
