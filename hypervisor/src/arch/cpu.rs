#![expect(unsafe_code, reason = "model-specific registers that may not exist")]
//! Questions to the processor that it may refuse to answer.

use core::arch::global_asm;

#[repr(C)]
struct Answer {
    value: u64,
    present: u64,
}

unsafe extern "C" {
    fn godwit_try_rdmsr(register: u32) -> Answer;
    fn godwit_try_wrmsr(register: u32, value: u64) -> Answer;
    safe static godwit_try_rdmsr_at: u8;
    safe static godwit_try_wrmsr_at: u8;
    safe static godwit_try_refused: u8;
}

// The answer comes back in RAX:RDX (System V ABI). A #GP at one of the two labels resumes at `refused`.
global_asm!(
    r#"
    .pushsection .text
    .global godwit_try_rdmsr
    .global godwit_try_wrmsr
    .global godwit_try_rdmsr_at
    .global godwit_try_wrmsr_at
    .global godwit_try_refused
godwit_try_rdmsr:
    mov ecx, edi
godwit_try_rdmsr_at:
    rdmsr
    shl rdx, 32
    or rax, rdx
    mov edx, 1
    ret
godwit_try_wrmsr:
    mov ecx, edi
    mov eax, esi
    mov rdx, rsi
    shr rdx, 32
godwit_try_wrmsr_at:
    wrmsr
    xor eax, eax
    mov edx, 1
    ret
godwit_try_refused:
    xor eax, eax
    xor edx, edx
    ret
    .popsection
    "#
);

/// Reads model-specific register `register`, or `None` if the processor has none of that number.
#[must_use]
pub fn try_read_msr(register: u32) -> Option<u64> {
    // SAFETY: reading a register has no side effect that the hypervisor relies on, and a refusal is fixed up.
    let answer = unsafe { godwit_try_rdmsr(register) };
    (answer.present != 0).then_some(answer.value)
}

/// Writes model-specific register `register`; `false` if the processor refuses.
///
/// # Safety
/// The value must not change what the hypervisor relies on: its mapping, its segments, its mode.
pub unsafe fn try_write_msr(register: u32, value: u64) -> bool {
    // SAFETY: by the caller's promise; a refusal is fixed up.
    let answer = unsafe { godwit_try_wrmsr(register, value) };
    answer.present != 0
}

/// Where to go on after a #GP at `rip`, if it struck one of the instructions above.
pub(super) fn fixup(rip: u64) -> Option<u64> {
    let at = |label: &u8| core::ptr::from_ref(label) as u64;
    (rip == at(&godwit_try_rdmsr_at) || rip == at(&godwit_try_wrmsr_at)).then(|| at(&godwit_try_refused))
}

/// Stops the running CPU for good.
pub fn halt() -> ! {
    loop {
        x86_64::instructions::interrupts::disable();
        x86_64::instructions::hlt();
    }
}

/// Resets the machine by an exception that cannot be delivered, since there is no table of handlers.
pub fn triple_fault() -> ! {
    let none = x86_64::structures::DescriptorTablePointer { limit: 0, base: x86_64::VirtAddr::zero() };
    // SAFETY: the machine does not get to the point of using what this breaks.
    unsafe { x86_64::instructions::tables::lidt(&none) };
    // SAFETY: raises an exception, which is the point.
    unsafe { core::arch::asm!("ud2", options(noreturn)) }
}

/// Answer of the CPUID instruction.
#[must_use]
pub fn cpuid(leaf: u32, subleaf: u32) -> core::arch::x86_64::CpuidResult {
    core::arch::x86_64::__cpuid_count(leaf, subleaf)
}
