#![expect(unsafe_code, reason = "leaving one stack for another")]
//! Stacks with a guard page below, so that a stack that runs over is a page fault and not a mystery.

use core::arch::naked_asm;

use x86_64::VirtAddr;

use super::paging::{self, MapError};

/// Bytes of a CPU's stack. A host that restores a guest's devices needs more than 64 KiB: they pass through it by value, a UART
/// with its output of some kilobytes among them.
pub const SIZE: u64 = 256 * 1024;

/// Maps a new stack and returns its top. Stacks are never given back: a CPU keeps its own.
///
/// # Errors
/// [`MapError::OutOfMemory`] if there is no memory for it.
pub fn allocate() -> Result<VirtAddr, MapError> {
    paging::map_private(SIZE).map(|start| start + SIZE)
}

/// Goes on in `entry` with `argument` on the stack that ends at `top`.
///
/// # Safety
/// The stack is unused and mapped, and nothing on the present one is needed any more.
pub unsafe fn switch_to<T>(top: VirtAddr, entry: fn(&'static T) -> !, argument: &'static T) -> ! {
    // SAFETY: by the contract; `entry` takes one pointer, and function pointers have one representation.
    unsafe {
        godwit_switch_stack(top.as_u64(), entry as *const () as u64, core::ptr::from_ref(argument) as u64)
    }
}

#[unsafe(naked)]
unsafe extern "C" fn godwit_switch_stack(top: u64, entry: u64, argument: u64) -> ! {
    naked_asm!("mov rsp, rdi", "mov rdi, rdx", "xor ebp, ebp", "call rsi", "ud2")
}
