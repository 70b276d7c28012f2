#![expect(unsafe_code, reason = "RDTSC is an intrinsic")]
//! The time-stamp counter.

/// The counter's present value, in ticks.
#[inline]
#[must_use]
pub fn read() -> u64 {
    // SAFETY: every x86-64 processor has RDTSC, and ring 0 may always use it.
    unsafe { core::arch::x86_64::_rdtsc() }
}
