//! The Godwit image: entry point, allocator, panic handler.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "the entry point")]

use core::arch::naked_asm;
use core::panic::PanicInfo;

use godwit_boot::handoff::BootInfo;
use godwit_hypervisor::{bring_up, mm};

#[global_allocator]
static ALLOCATOR: mm::heap::Allocator = mm::heap::Allocator;

const BOOT_STACK: usize = 64 * 1024;

#[repr(C, align(16))]
struct Stack([u8; BOOT_STACK]);

/// Used until the memory is set up and stacks with guard pages exist.
#[expect(non_upper_case_globals, reason = "named for the assembler")]
static mut boot_stack: Stack = Stack([0; BOOT_STACK]);

/// Where the loader jumps to, with the handoff's address in RDI.
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn _start() -> ! {
    naked_asm!(
        "lea rsp, [rip + {stack} + {size}]",
        "xor ebp, ebp",
        "call {start}",
        "ud2",
        stack = sym boot_stack,
        size = const BOOT_STACK,
        start = sym start,
    )
}

extern "C" fn start(info: &'static BootInfo) -> ! {
    // SAFETY: called once, by the boot CPU, as the loader promises in `godwit_boot::handoff`.
    unsafe { bring_up::start(info) }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    bring_up::panic::report(info)
}
