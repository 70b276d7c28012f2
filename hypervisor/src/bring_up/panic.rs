#![expect(unsafe_code, reason = "walking the stack of a broken host")]
//! The end: what is known goes to the serial port, and every CPU stops.

use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use x86_64::VirtAddr;

use crate::arch::serial::PanicWriter;
use crate::arch::{cpu, idt, interrupts, percpu};
use crate::mm::paging;

/// Most return addresses printed.
const FRAMES_MAX: usize = 32;

static PANICKING: AtomicBool = AtomicBool::new(false);

/// Prints the panic with a backtrace by address and stops the host. `llvm-symbolizer --obj=godwit` or
/// `addr2line -e godwit` turns the addresses into lines.
pub fn report(info: &PanicInfo<'_>) -> ! {
    interrupts::disable();
    if PANICKING.swap(true, Ordering::Relaxed) {
        cpu::halt();
    }
    idt::stop_others();
    let mut out = PanicWriter::new();
    // The writer cannot fail: it drops what the port does not take.
    let _ = writeln!(out, "\n*** Godwit has stopped: CPU {}: {info}", percpu::index());
    let _ = writeln!(out, "  backtrace:");
    for address in backtrace(frame_pointer(), read) {
        let _ = writeln!(out, "    {address:016x}");
    }
    let _ = writeln!(out, "*** The guests of this host have stopped with it. Reset the machine.");
    cpu::halt()
}

fn frame_pointer() -> u64 {
    let value;
    // SAFETY: copies a register.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

fn read(address: u64) -> Option<u64> {
    let address = VirtAddr::try_new(address).ok()?;
    if !address.is_aligned(8u64) || !paging::is_mapped(address) {
        return None;
    }
    // SAFETY: aligned and mapped; a word is all that is read.
    Some(unsafe { address.as_ptr::<u64>().read_volatile() })
}

/// Return addresses from the frame at `pointer` outwards, as far as the chain of frame pointers makes sense.
fn backtrace(pointer: u64, read: impl Fn(u64) -> Option<u64>) -> impl Iterator<Item = u64> {
    let mut pointer = pointer;
    core::iter::from_fn(move || {
        let address = read(pointer.checked_add(8)?)?;
        let next = read(pointer)?;
        if address == 0 {
            return None;
        }
        // The next frame may lie on another stack, above or below. Each stack's outermost has none.
        pointer = if next != pointer && next != 0 { next } else { u64::MAX };
        Some(address)
    })
    .take(FRAMES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn the_chain_of_frames_is_followed_to_its_end() {
        let stack = [0x20, 0x111, 0, 0, 0x30, 0x222, 0, 0x333];
        let read = |address: u64| stack.get(address as usize / 8).copied();
        let found: Vec<_> = backtrace(0, read).collect();
        assert_eq!(found, [0x111, 0x222, 0x333]);
    }

    #[test]
    fn a_loop_of_frames_ends() {
        let own_next = backtrace(16, |address| Some(if address == 24 { 0x111 } else { 16 })).count();
        assert_eq!(own_next, 1);
        let in_a_circle = backtrace(16, |address| Some(if address == 16 { 32 } else { 16 })).count();
        assert_eq!(in_a_circle, FRAMES_MAX);
    }
}
