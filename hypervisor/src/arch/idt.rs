#![expect(unsafe_code, reason = "filling and loading the interrupt descriptor table")]
//! The interrupt descriptor table, shared by all CPUs, and the handlers of interrupts.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use spin::Once;
use x86_64::structures::idt::{EntryOptions, InterruptDescriptorTable};

use super::exception::{FIRST_INTERRUPT, stub};
use super::gdt::{CODE, Stack};

/// Handles the interrupt with this vector, with interrupts off; short, and without waiting for anything.
pub type Handler = fn(u8);

const INTERRUPTS: usize = 256 - FIRST_INTERRUPT as usize;

static TABLE: Once<InterruptDescriptorTable> = Once::new();
static HANDLERS: [Once<Handler>; INTERRUPTS] = [const { Once::new() }; INTERRUPTS];
static NON_MASKABLE: AtomicU64 = AtomicU64::new(0);
static STOPPING: AtomicBool = AtomicBool::new(false);
static UNEXPECTED: AtomicU64 = AtomicU64::new(0);

/// Vectors that the hypervisor gives out, ascending by urgency.
pub mod vector {
    /// The serial port.
    pub const SERIAL: u8 = 0x30;
    /// The first of the lines of PCI devices.
    pub const LINES: u8 = 0x40;
    /// The local APIC's timer.
    pub const TIMER: u8 = 0xe0;
    /// Another CPU has work for this one.
    pub const KICK: u8 = 0xf0;
    /// The local APIC's spurious interrupt.
    pub const SPURIOUS: u8 = 0xff;
}

/// Loads the table into the running CPU.
pub fn load() {
    TABLE.call_once(build).load();
}

/// Sets what happens on interrupt `vector`. The first handler of a vector stays.
///
/// # Panics
/// If `vector` is that of an exception.
pub fn set_handler(vector: u8, handler: Handler) {
    HANDLERS[usize::from(vector - FIRST_INTERRUPT)].call_once(|| handler);
}

/// Non-maskable interrupts taken by all CPUs so far: they only wake a CPU or make it leave its guest.
pub fn non_maskable_count() -> u64 {
    NON_MASKABLE.load(Ordering::Relaxed)
}

/// Interrupts that nobody handles, so far.
pub fn unexpected_count() -> u64 {
    UNEXPECTED.load(Ordering::Relaxed)
}

/// Handles the interrupt `vector`, as its gate does; also for interrupts that made a guest exit and were
/// acknowledged by that. To be called with interrupts off.
///
/// # Panics
/// If `vector` is that of an exception.
pub fn dispatch(vector: u8) {
    match HANDLERS[usize::from(vector - FIRST_INTERRUPT)].get() {
        Some(handler) => handler(vector),
        None => {
            UNEXPECTED.fetch_add(1, Ordering::Relaxed);
        }
    }
    if vector != vector::SPURIOUS {
        super::apic::end_of_interrupt();
    }
}

/// Handles a non-maskable interrupt; also one that made a guest exit.
pub fn dispatch_non_maskable() {
    NON_MASKABLE.fetch_add(1, Ordering::Relaxed);
    if STOPPING.load(Ordering::Relaxed) {
        super::cpu::halt();
    }
}

/// Makes all other CPUs stop for good: the host is lost.
pub fn stop_others() {
    STOPPING.store(true, Ordering::Relaxed);
    let own = super::percpu::index();
    for other in super::percpu::all().filter(|block| block.index() != own) {
        super::apic::send(other.apic_id(), super::apic::Command::NonMaskable);
    }
}

fn gate(options: &mut EntryOptions, stack: Option<Stack>) {
    // SAFETY: CODE is the code segment of every CPU's table.
    unsafe { options.set_code_selector(CODE) };
    options.disable_interrupts(true);
    if let Some(stack) = stack {
        // SAFETY: every CPU's TSS holds a stack for each value of `Stack`.
        unsafe { options.set_stack_index(stack as u16) };
    }
}

/// Points one entry to its stub; a macro because each exception's entry has a type of its own.
macro_rules! point {
    ($entry:expr, $vector:expr, $stack:expr) => {{
        // SAFETY: the stub of this vector matches the frame that the processor pushes for it.
        let options = unsafe { $entry.set_handler_addr(stub($vector)) };
        gate(options, $stack);
    }};
}

fn build() -> InterruptDescriptorTable {
    let mut table = InterruptDescriptorTable::new();
    point!(table.divide_error, 0, None);
    point!(table.debug, 1, None);
    point!(table.non_maskable_interrupt, 2, Some(Stack::NonMaskable));
    point!(table.breakpoint, 3, None);
    point!(table.overflow, 4, None);
    point!(table.bound_range_exceeded, 5, None);
    point!(table.invalid_opcode, 6, None);
    point!(table.device_not_available, 7, None);
    point!(table.double_fault, 8, Some(Stack::DoubleFault));
    point!(table.invalid_tss, 10, None);
    point!(table.segment_not_present, 11, None);
    point!(table.stack_segment_fault, 12, None);
    point!(table.general_protection_fault, 13, None);
    point!(table.page_fault, 14, Some(Stack::PageFault));
    point!(table.x87_floating_point, 16, None);
    point!(table.alignment_check, 17, None);
    point!(table.machine_check, 18, Some(Stack::MachineCheck));
    point!(table.simd_floating_point, 19, None);
    point!(table.virtualization, 20, None);
    for vector in FIRST_INTERRUPT..=255 {
        point!(table[vector], vector, None);
    }
    table
}
