#![expect(unsafe_code, reason = "the common entry of all exceptions and interrupts")]
//! What happens when the processor interrupts the hypervisor itself.
//!
//! One stub per vector pushes the vector (and a zero where the processor pushes no error code) and joins
//! `godwit_trap_common`, which saves the general registers as a [`TrapFrame`] and leaves RBP as it was, so that a
//! backtrace leads from the handler to what was interrupted. Exceptions of the hypervisor are
//! fatal, but for reads and writes of model-specific registers that may not exist (see [`super::cpu`]).

use core::arch::global_asm;
use core::fmt;

/// The interrupted state, as the entry code leaves it on the stack.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[expect(missing_docs, reason = "registers by their names")]
pub struct TrapFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error_code: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

const _: () = assert!(size_of::<TrapFrame>() == 22 * 8, "the entry code pushes 22 words");

impl fmt::Display for TrapFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  rip {:016x}  rsp {:016x}  flags {:08x}", self.rip, self.rsp, self.rflags)?;
        writeln!(f, "  rax {:016x}  rbx {:016x}  rcx {:016x}", self.rax, self.rbx, self.rcx)?;
        writeln!(f, "  rdx {:016x}  rsi {:016x}  rdi {:016x}", self.rdx, self.rsi, self.rdi)?;
        writeln!(f, "  rbp {:016x}  r8  {:016x}  r9  {:016x}", self.rbp, self.r8, self.r9)?;
        writeln!(f, "  r10 {:016x}  r11 {:016x}  r12 {:016x}", self.r10, self.r11, self.r12)?;
        write!(f, "  r13 {:016x}  r14 {:016x}  r15 {:016x}", self.r13, self.r14, self.r15)
    }
}

/// Name of exception `vector` (SDM volume 3, table 6-1).
#[must_use]
pub const fn name(vector: u8) -> &'static str {
    match vector {
        0 => "divide error (#DE)",
        1 => "debug exception (#DB)",
        2 => "non-maskable interrupt",
        3 => "breakpoint (#BP)",
        4 => "overflow (#OF)",
        5 => "bound range exceeded (#BR)",
        6 => "invalid opcode (#UD)",
        7 => "device not available (#NM)",
        8 => "double fault (#DF)",
        10 => "invalid TSS (#TS)",
        11 => "segment not present (#NP)",
        12 => "stack-segment fault (#SS)",
        13 => "general protection (#GP)",
        14 => "page fault (#PF)",
        16 => "x87 floating-point error (#MF)",
        17 => "alignment check (#AC)",
        18 => "machine check (#MC)",
        19 => "SIMD floating-point error (#XM)",
        20 => "virtualization exception (#VE)",
        21 => "control protection (#CP)",
        _ => "reserved exception",
    }
}

/// First vector that is not an exception.
pub const FIRST_INTERRUPT: u8 = 32;

/// Called by the entry code for every vector.
extern "C" fn trap(frame: &mut TrapFrame) {
    let vector = frame.vector as u8;
    if vector >= FIRST_INTERRUPT {
        super::idt::dispatch(vector);
    } else if vector == 2 {
        super::idt::dispatch_non_maskable();
    } else if vector == 13
        && let Some(fixup) = super::cpu::fixup(frame.rip)
    {
        frame.rip = fixup;
    } else {
        fatal(frame);
    }
}

fn fatal(frame: &TrapFrame) -> ! {
    use x86_64::registers::control::{Cr2, Cr3};
    panic!(
        "{} in the hypervisor, error code {:#x}\n{}\n  cr2 {:016x}  cr3 {:016x}",
        name(frame.vector as u8),
        frame.error_code,
        frame,
        Cr2::read_raw(),
        Cr3::read_raw().0.start_address().as_u64(),
    )
}

/// Bytes from one vector's stub to the next.
pub const STUB_SIZE: u64 = 16;

unsafe extern "C" {
    /// First of 256 entry stubs, [`STUB_SIZE`] bytes each.
    safe static godwit_trap_stubs: [u8; 256 * STUB_SIZE as usize];
}

global_asm!(
    r#"
    .pushsection .text
    .balign 16
    .global godwit_trap_stubs
godwit_trap_stubs:
    .set godwit_vector, 0
    .rept 256
    .balign 16
    .if (godwit_vector == 8) || ((godwit_vector >= 10) && (godwit_vector <= 14)) || (godwit_vector == 17) || (godwit_vector == 21)
    .else
    pushq $0
    .endif
    pushq $godwit_vector
    jmp godwit_trap_common
    .set godwit_vector, godwit_vector + 1
    .endr

    .balign 16
godwit_trap_common:
    pushq %rax
    pushq %rbx
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %rbp
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, %rdi
    movq %rsp, %rbx
    andq $-16, %rsp
    cld
    call {trap}
    movq %rbx, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rbp
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rbx
    popq %rax
    addq $16, %rsp
    iretq
    .popsection
    "#,
    trap = sym trap,
    options(att_syntax)
);

/// Address of the entry stub of `vector`.
#[must_use]
pub fn stub(vector: u8) -> x86_64::VirtAddr {
    x86_64::VirtAddr::from_ptr(&godwit_trap_stubs) + u64::from(vector) * STUB_SIZE
}
