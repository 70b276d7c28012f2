//! The machine: entry, page tables, interrupts, ports, registers. The only file with `unsafe`.
//!
//! The guest runs in ring 0 with all of the first 4 GiB mapped onto itself, so every address below is valid; that is
//! the "flat map" that the SAFETY comments mean.

#![expect(unsafe_code, reason = "a kernel without an operating system under it")]

use core::arch::{asm, global_asm, x86_64};
use core::sync::atomic::{AtomicU64, Ordering};

use godwit_guest_common::pattern::{Page, Record};
use godwit_guest_common::power::Memory;

use crate::console::line;

const MAPPED_END: u64 = 4 << 30;

/// IA32_APIC_BASE.
pub(crate) const APIC_BASE: u32 = 0x1b;
const COMMAND_LINE_POINTER: u64 = 0x228;
const COMMAND_LINE_BYTES_MAX: usize = 256;
const RSDP_POINTER: u64 = 0x70;
const FIRST_IRQ_VECTOR: u8 = 0x20;
const IRQ_VECTORS: core::ops::Range<u64> = 0x20..0x30;
const SLAVE_VECTORS: core::ops::Range<u64> = 0x28..0x30;
const END_OF_INTERRUPT: u8 = 0x20;
const TIMER_IRQ: u8 = 0;
const DEBUG_VECTOR: u64 = 1;
const PIC_MASTER: u16 = 0x20;
const PIC_SLAVE: u16 = 0xa0;
const PIT_CHANNEL_0: u16 = 0x40;
const PIT_COMMAND: u16 = 0x43;
const TSC_DEADLINE: u32 = 0x6e0;
const APIC_END_OF_INTERRUPT: u64 = 0xfee0_00b0;
const APIC_SPURIOUS: u64 = 0xfee0_00f0;
const APIC_COMMAND_LOW: u64 = 0xfee0_0300;
const APIC_COMMAND_HIGH: u64 = 0xfee0_0310;
const APIC_TIMER: u64 = 0xfee0_0320;
const APIC_ENABLE: u32 = 1 << 8;
const APIC_DEADLINE_MODE: u32 = 2 << 17;
/// INIT, level asserted; start-up.
const APIC_INIT: u32 = 0x4500;
const APIC_STARTUP: u32 = 0x4600;
const SECOND_APIC: u32 = 1;
/// RAM below 1 MiB that holds nothing of the loader's.
const SECOND_PAGE: u64 = 0x5_0000;
/// The last that the table has: that of a line which is never let through.
const DEADLINE_VECTOR: u8 = 0x2f;
/// Far behind the program and its stack.
pub(crate) const CLAIMABLE_START: u64 = 8 << 20;
/// 1 kHz.
const PIT_DIVISOR: u16 = 1_193;

/// Debug exceptions so far.
static DEBUG_EXCEPTIONS: AtomicU64 = AtomicU64::new(0);

global_asm!(
    include_str!("entry.s"),
    start = sym crate::start,
    trap = sym trap,
    second = sym crate::pattern::second,
    options(att_syntax)
);

unsafe extern "C" {
    fn load_tables();
    fn load_empty_idt();
    fn watch_own_delivery();
    fn lose_stack(stack: u64, buffer: u64) -> !;
    static second_begin: u8;
    static second_faults: u8;
    static second_end: u8;
}

/// Installs our own descriptor and page tables.
pub(crate) fn take_over() {
    // SAFETY: entry.s has built the tables; nothing else runs.
    unsafe { load_tables() };
}

/// Called by the interrupt stubs.
extern "C" fn trap(vector: u64, error: u64, rip: u64) {
    if vector == DEADLINE_VECTOR.into() {
        write(APIC_END_OF_INTERRUPT, 0);
        return;
    }
    if IRQ_VECTORS.contains(&vector) {
        if SLAVE_VECTORS.contains(&vector) {
            port_write(PIC_SLAVE, END_OF_INTERRUPT);
        }
        port_write(PIC_MASTER, END_OF_INTERRUPT);
        return;
    }
    if vector == DEBUG_VECTOR {
        DEBUG_EXCEPTIONS.fetch_add(1, Ordering::Relaxed);
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

/// The RSDP's address by the boot parameters; 0 if they do not say.
pub(crate) fn rsdp(boot_parameters: u64) -> u64 {
    read64(boot_parameters + RSDP_POINTER)
}

/// Lets one interrupt of the first controller through, so that [`sleep`] wakes on it.
pub(crate) fn enable_irq(irq: u8) {
    let words = [(0, 0x11), (1, FIRST_IRQ_VECTOR), (1, 4), (1, 1), (1, !(1 << irq))];
    for (offset, value) in words {
        port_write(PIC_MASTER + offset, value);
    }
    let words = [(0, 0x11), (1, FIRST_IRQ_VECTOR + 8), (1, 2), (1, 1), (1, 0xff)];
    for (offset, value) in words {
        port_write(PIC_SLAVE + offset, value);
    }
}

/// Starts a 1 kHz timer, so that [`sleep`] wakes.
pub(crate) fn start_timer() {
    enable_irq(TIMER_IRQ);
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

/// Has the second processor begin with [`crate::pattern::second`]: INIT, then two start-up messages, as every processor since
/// the Pentium understands them (SDM 9.4.4.1).
pub(crate) fn start_second() {
    let (begin, end) = (&raw const second_begin, &raw const second_end);
    let bytes = end as usize - begin as usize;
    // SAFETY: the flat map; what entry.s has put there, and a page of RAM that nothing else uses.
    unsafe { core::ptr::copy_nonoverlapping(begin, SECOND_PAGE as *mut u8, bytes) };
    let startup = APIC_STARTUP | (SECOND_PAGE >> 12) as u32;
    for command in [APIC_INIT, startup, startup] {
        write(APIC_COMMAND_HIGH, SECOND_APIC << 24);
        write(APIC_COMMAND_LOW, command);
    }
}

/// Exceptions that the second processor has had in real mode.
pub(crate) fn exceptions_of_second() -> u32 {
    let offset = &raw const second_faults as u64 - &raw const second_begin as u64;
    read(SECOND_PAGE + offset)
}

/// Lets [`sleep_until`] wake the processor that calls it.
pub(crate) fn enable_deadline() {
    write(APIC_SPURIOUS, APIC_ENABLE | 0xff);
    write(APIC_TIMER, APIC_DEADLINE_MODE | u32::from(DEADLINE_VECTOR));
}

/// Halts until the TSC reaches `due`.
pub(crate) fn sleep_until(due: u64) {
    while tsc() < due {
        msr_write(TSC_DEADLINE, due);
        sleep();
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

/// A debug exception whose delivery raises the next one, for ever (CVE-2015-8104).
pub(crate) fn debug_loop() {
    // SAFETY: the handler counts and returns; the tables that change are used by nothing else.
    unsafe { watch_own_delivery() };
}

/// Has the timer's interrupt find the stack at `address`.
pub(crate) fn lose_stack_at(address: u64) {
    start_timer();
    // SAFETY: ends the guest, by intention; until then it reads memory.
    unsafe { lose_stack(address, CLAIMABLE_START) };
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

/// Executes seven instructions with the trap flag set, one of which exits to a hypervisor. How many debug exceptions
/// they raised, and what DR6 holds afterwards.
pub(crate) fn single_step() -> (u64, u64) {
    let before = DEBUG_EXCEPTIONS.load(Ordering::Relaxed);
    // SAFETY: the handler counts and returns; the flags and RBX are afterwards what they were.
    unsafe {
        asm!(
            "mov {saved}, rbx",
            "pushfq",
            "or qword ptr [rsp], 0x100",
            "popfq",
            // The instruction that sets the flag does not trap yet, the one that clears it still does.
            "nop",
            "nop",
            "cpuid",
            "nop",
            "pushfq",
            "and qword ptr [rsp], -0x101",
            "popfq",
            "mov rbx, {saved}",
            saved = out(reg) _,
            inout("eax") 0 => _,
            inout("ecx") 0 => _,
            out("edx") _,
        );
    }
    let dr6: u64;
    // SAFETY: reading a debug register changes nothing.
    unsafe { asm!("mov {}, dr6", out(reg) dr6, options(nostack, nomem)) };
    (DEBUG_EXCEPTIONS.load(Ordering::Relaxed) - before, dr6)
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

/// Writes an MSR.
fn msr_write(msr: u32, value: u64) {
    // SAFETY: raises #GP at worst; the registers written here do not touch memory.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack));
    }
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

/// Writes a word to a port.
pub(crate) fn port_write_word(port: u16, value: u16) {
    // SAFETY: no port of this machine touches memory.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack, nomem)) };
}

/// All memory, byte by byte.
pub(crate) struct PhysicalMemory;

impl Memory for PhysicalMemory {
    fn byte(&self, address: u64) -> u8 {
        if address >= MAPPED_END {
            return 0xff;
        }
        // SAFETY: the flat map.
        unsafe { (address as *const u8).read_volatile() }
    }
}

/// `count` values in memory that nothing else uses.
///
/// # Panics
///
/// If `address` is not aligned for `T` or lies within the program.
pub(crate) fn claim<T: Shared>(address: u64, count: usize) -> &'static [T] {
    let start = address as *const T;
    assert!(start.is_aligned() && address >= CLAIMABLE_START);
    // SAFETY: the flat map; aligned, outside the program; any bytes make a `T`, and it is only changed through atomics.
    unsafe { core::slice::from_raw_parts(start, count) }
}

/// Types that consist of atomic integers only.
pub(crate) trait Shared {}

impl Shared for Page {}
impl Shared for Record {}

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

/// Reads 64 bits, aligned.
pub(crate) fn read64(address: u64) -> u64 {
    // SAFETY: the flat map.
    unsafe { (address as *const u64).read_volatile() }
}
