//! The machine: entry, page tables, interrupts, ports, registers. The only file with `unsafe`.
//!
//! The guest runs in ring 0 with all of the first 4 GiB mapped onto itself, so every address below is valid; that is
//! the "flat map" that the SAFETY comments mean.

#![expect(unsafe_code, reason = "a kernel without an operating system under it")]

use core::arch::{asm, global_asm, x86_64};

use crate::console::line;

/// IA32_APIC_BASE.
pub(crate) const APIC_BASE: u32 = 0x1b;
const COMMAND_LINE_POINTER: u64 = 0x228;
const COMMAND_LINE_BYTES_MAX: usize = 256;
const FIRST_IRQ_VECTOR: u8 = 0x20;
const TIMER_VECTOR: u64 = 0x20;
const PIC_MASTER: u16 = 0x20;
const PIC_SLAVE: u16 = 0xa0;
const PIT_CHANNEL_0: u16 = 0x40;
const PIT_COMMAND: u16 = 0x43;
/// 1 kHz.
const PIT_DIVISOR: u16 = 1_193;

global_asm!(
    include_str!("entry.s"),
    start = sym crate::start,
    trap = sym trap,
    options(att_syntax)
);

unsafe extern "C" {
    fn load_tables();
    fn load_empty_idt();
}

/// Installs our own descriptor and page tables.
pub(crate) fn take_over() {
    // SAFETY: entry.s has built the tables; nothing else runs.
    unsafe { load_tables() };
}

/// Called by the interrupt stubs.
extern "C" fn trap(vector: u64, error: u64, rip: u64) {
    if vector == TIMER_VECTOR {
        port_write(PIC_MASTER, 0x20);
        return;
    }
    line!("bare: exception {vector}, error {error:#x}, at {rip:#x}");
    stop()
}

/// The kernel's command line, copied.
pub(crate) struct CommandLine {
    bytes: [u8; COMMAND_LINE_BYTES_MAX],
    length: usize,
}

impl CommandLine {
    /// Reads it through the boot parameters.
    pub(crate) fn read(boot_parameters: u64) -> Self {
        let address = u64::from(read(boot_parameters + COMMAND_LINE_POINTER));
        let mut bytes = [0; COMMAND_LINE_BYTES_MAX];
        let mut length = 0;
        while length < COMMAND_LINE_BYTES_MAX {
            let word = read64((address + length as u64) & !7);
            let byte = word.to_le_bytes()[(address as usize + length) % 8];
            if byte == 0 {
                break;
            }
            bytes[length] = byte;
            length += 1;
        }
        Self { bytes, length }
    }

    /// As text; empty if it is not UTF-8.
    pub(crate) fn text(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.length]).unwrap_or("")
    }
}

/// Starts a 1 kHz timer, so that [`sleep`] wakes.
pub(crate) fn start_timer() {
    let words = [(0, 0x11), (1, FIRST_IRQ_VECTOR), (1, 4), (1, 1), (1, 0xfe)];
    for (offset, value) in words {
        port_write(PIC_MASTER + offset, value);
    }
    let words = [(0, 0x11), (1, FIRST_IRQ_VECTOR + 8), (1, 2), (1, 1), (1, 0xff)];
    for (offset, value) in words {
        port_write(PIC_SLAVE + offset, value);
    }
    port_write(PIT_COMMAND, 0x34);
    for byte in PIT_DIVISOR.to_le_bytes() {
        port_write(PIT_CHANNEL_0, byte);
    }
}

/// Halts until the next interrupt.
pub(crate) fn sleep() {
    // SAFETY: the interrupt's stub saves what it uses.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
}

/// Halts for ever with interrupts off.
pub(crate) fn stop() -> ! {
    loop {
        // SAFETY: ends the guest, by intention.
        unsafe { asm!("cli", "hlt", options(nostack, nomem)) };
    }
}

/// Burns the processor for ever with interrupts off.
pub(crate) fn spin() {
    loop {
        core::hint::spin_loop();
    }
}

/// An exception without a way to handle it.
pub(crate) fn triple_fault() {
    // SAFETY: ends the guest, by intention.
    unsafe { load_empty_idt() };
    // SAFETY: as above.
    unsafe { asm!("ud2", options(nostack, nomem)) };
}

/// Goes on at `address`.
pub(crate) fn jump(address: u64) {
    // SAFETY: ends the guest, by intention.
    unsafe { asm!("jmp {}", in(reg) address, options(noreturn)) };
}

/// An instruction that exits and that no guest may use.
pub(crate) fn vmxon() {
    let region = 0_u64;
    // SAFETY: raises #UD, at most fails.
    unsafe { asm!("vmxon [{}]", in(reg) &region, options(nostack)) };
}

/// CPUID leaf 0.
pub(crate) fn cpuid() {
    core::hint::black_box(x86_64::__cpuid(0));
}

/// The time stamp counter.
pub(crate) fn tsc() -> u64 {
    // SAFETY: reading the counter changes nothing.
    unsafe { x86_64::_rdtsc() }
}

/// Reads an MSR.
pub(crate) fn msr_read(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: raises #GP at worst.
    unsafe { asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nostack, nomem)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Reads a byte from a port.
pub(crate) fn port_read(port: u16) -> u8 {
    let value;
    // SAFETY: no port of this machine touches memory.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack, nomem)) };
    value
}

/// Writes a byte to a port.
pub(crate) fn port_write(port: u16, value: u8) {
    // SAFETY: no port of this machine touches memory.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, nomem)) };
}

/// Reads 32 bits.
pub(crate) fn read(address: u64) -> u32 {
    // SAFETY: the flat map.
    unsafe { (address as *const u32).read_volatile() }
}

/// Writes 32 bits outside the program.
pub(crate) fn write(address: u64, value: u32) {
    // SAFETY: the flat map; callers stay outside the program.
    unsafe { (address as *mut u32).write_volatile(value) };
}

/// Reads 64 bits.
pub(crate) fn read64(address: u64) -> u64 {
    // SAFETY: the flat map.
    unsafe { (address as *const u64).read_volatile() }
}

/// Writes 64 bits outside the program.
pub(crate) fn write64(address: u64, value: u64) {
    // SAFETY: the flat map; callers stay outside the program.
    unsafe { (address as *mut u64).write_volatile(value) };
}
