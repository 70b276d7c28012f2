#![expect(unsafe_code, reason = "the first steps of each processor")]
//! From the loader's jump to a loop on every CPU.

pub mod memory;
pub mod panic;
pub mod processors;

use godwit_boot::handoff::BootInfo;

use crate::arch::{fpu, gdt, idt, percpu, serial};
use crate::mm::stack;

/// Brings the host up on the boot CPU and enters its loop.
///
/// # Safety
/// Called once, by the boot CPU, in the state that [`godwit_boot::handoff`] describes.
pub unsafe fn start(info: &'static BootInfo) -> ! {
    // SAFETY: the first thing that the boot CPU does.
    unsafe { percpu::install_boot(crate::arch::apic::initial_id()) };
    // SAFETY: the boot CPU's own tables, with interrupts off.
    unsafe { gdt::boot_tables().load(gdt::boot_stacks()) };
    idt::load();
    fpu::enable();
    serial::initialise();
    if let Err(mismatch) = info.check() {
        panic!("cannot start: {mismatch}");
    }
    // SAFETY: the handoff is checked, and this is the only call.
    unsafe { memory::initialise(info) };
    let stack = stack::allocate().expect("a host that cannot spare one stack cannot do anything");
    // SAFETY: the new stack is unused, and nothing on the old one is needed any more.
    unsafe { stack::switch_to(stack, crate::host::run, info) }
}
