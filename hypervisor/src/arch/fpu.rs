#![expect(unsafe_code, reason = "control registers")]
//! Makes the vector unit usable: by guests only, since the hypervisor is built without it.

use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags};

use super::cpu::cpuid;

/// CPUID leaf 1, ECX bit 26: XSAVE.
const XSAVE: u32 = 1 << 26;

/// Sets the running CPU up so that XSAVE, XRSTOR and XSETBV work for the hypervisor.
pub fn enable() {
    let cr0 = (Cr0::read() - Cr0Flags::EMULATE_COPROCESSOR - Cr0Flags::TASK_SWITCHED)
        | Cr0Flags::MONITOR_COPROCESSOR
        | Cr0Flags::NUMERIC_ERROR;
    // SAFETY: changes how floating-point instructions behave, which the hypervisor does not use itself.
    unsafe { Cr0::write(cr0) };
    let mut cr4 = Cr4::read() | Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE;
    if cpuid(1, 0).ecx & XSAVE != 0 {
        cr4 |= Cr4Flags::OSXSAVE;
    }
    // SAFETY: as above.
    unsafe { Cr4::write(cr4) };
}
