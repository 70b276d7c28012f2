//! The processor's time-stamp counter, the one clock that guest and bench share.
#![expect(unsafe_code, reason = "instructions without a safe wrapper")]

use core::arch::x86_64;

/// Reads the counter.
pub(crate) fn now() -> u64 {
    // SAFETY: every x86-64 processor has RDTSC, and Linux leaves it to user programs.
    unsafe { x86_64::_rdtsc() }
}

/// Ticks that one CPUID takes: an exit to the hypervisor and back, if there is one.
pub(crate) fn cpuid_round_trip() -> u64 {
    let before = now();
    let _ = std::hint::black_box(x86_64::__cpuid(0));
    now().wrapping_sub(before)
}
