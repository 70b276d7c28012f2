#![expect(unsafe_code, reason = "leaving one stack for another, and looking at those of other CPUs")]
//! Stacks with a guard page below, so that a stack that runs over is a page fault and not a mystery.

use core::arch::naked_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::VirtAddr;

use super::paging::{self, MapError};
use crate::arch::percpu::CPUS_MAX;

/// Bytes of a CPU's stack: six times the deepest that was seen (`mem` shows it), when a guest was restored. That is code in which
/// a few inlined calls or a larger structure passed by value add tens of KiB unnoticed.
pub const SIZE: u64 = 256 * 1024;
const WORD: u64 = 8;

/// Where the stacks begin; 0: there are no more.
static STARTS: [AtomicU64; CPUS_MAX] = [const { AtomicU64::new(0) }; CPUS_MAX];

/// Maps a new stack, all zero, and returns its top. Stacks are never given back: a CPU keeps its own.
///
/// # Errors
/// [`MapError::OutOfMemory`] if there is no memory for it.
pub fn allocate() -> Result<VirtAddr, MapError> {
    let start = paging::map_private(SIZE)?;
    for word in words(start.as_u64()) {
        // SAFETY: it was mapped for us alone.
        unsafe { word.write_volatile(0) };
    }
    let (none, start_of_it, relaxed) = (0, start.as_u64(), Ordering::Relaxed);
    // There are as many places as CPUs.
    let _ = STARTS.iter().any(|place| place.compare_exchange(none, start_of_it, relaxed, relaxed).is_ok());
    Ok(start + SIZE)
}

/// How far any CPU's stack has been used so far, in bytes: up to the lowest word that is not as it was at first.
#[must_use]
pub fn deepest() -> u64 {
    let starts = STARTS.iter().map(|start| start.load(Ordering::Relaxed)).take_while(|start| *start != 0);
    let untouched = starts.map(|start| {
        // SAFETY: stacks stay mapped. Another CPU may be writing there: a word is read whole, and any value will do.
        words(start).take_while(|word| unsafe { word.read_volatile() } == 0).count() as u64
    });
    SIZE - untouched.min().unwrap_or(SIZE / WORD) * WORD
}

fn words(start: u64) -> impl Iterator<Item = *mut u64> {
    (start..start + SIZE).step_by(WORD as usize).map(|address| address as *mut u64)
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
