#![expect(unsafe_code, reason = "I/O port instructions")]
//! I/O ports.
//!
//! Reading or writing a port is not a memory access: what it can break is the device behind it. The functions
//! are safe for that reason, and crate-private so that only the platform's code and drivers say which ports.

use x86_64::instructions::port::Port;

/// Reads a byte.
#[inline]
pub(crate) fn read_u8(port: u16) -> u8 {
    // SAFETY: ring 0 may access any port; what the device does is the caller's business (see above).
    unsafe { Port::new(port).read() }
}

/// Writes a byte.
#[inline]
pub(crate) fn write_u8(port: u16, value: u8) {
    // SAFETY: as for `read_u8`; no device reached here writes to memory in answer.
    unsafe { Port::new(port).write(value) };
}

/// Reads 32 bits.
#[inline]
pub(crate) fn read_u32(port: u16) -> u32 {
    // SAFETY: as for `read_u8`.
    unsafe { Port::new(port).read() }
}

/// Writes 32 bits.
#[inline]
pub(crate) fn write_u32(port: u16, value: u32) {
    // SAFETY: as for `write_u8`.
    unsafe { Port::new(port).write(value) };
}
