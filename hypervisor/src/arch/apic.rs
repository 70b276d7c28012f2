#![expect(unsafe_code, reason = "the local APIC's registers")]
//! The local APIC of the running CPU: x2APIC where the processor has it, xAPIC elsewhere (SDM volume 3, chapter 11).

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use spin::Once;
use x86_64::registers::model_specific::Msr;

use super::cpu::cpuid;
use super::idt::vector;
use super::percpu;
use crate::drivers::hal::Mmio;
use crate::mm::mmio::Window;

/// Physical address at which every processor's local APIC starts out.
pub const BASE: u64 = 0xfee0_0000;
/// Bytes of its register window.
pub const WINDOW_LENGTH: usize = 0x1000;

const IA32_APIC_BASE: u32 = 0x1b;
const IA32_TSC_DEADLINE: u32 = 0x6e0;
const ENABLED: u64 = 1 << 11;
const X2APIC_ENABLED: u64 = 1 << 10;

/// Registers by their offset in the xAPIC's window; the x2APIC's number is the offset / 16.
mod register {
    pub(super) const ID: u16 = 0x20;
    pub(super) const TASK_PRIORITY: u16 = 0x80;
    pub(super) const END_OF_INTERRUPT: u16 = 0xb0;
    pub(super) const SPURIOUS: u16 = 0xf0;
    pub(super) const COMMAND: u16 = 0x300;
    pub(super) const COMMAND_HIGH: u16 = 0x310;
    pub(super) const TIMER: u16 = 0x320;
    pub(super) const LINT0: u16 = 0x350;
    pub(super) const LINT1: u16 = 0x360;
    pub(super) const ERROR: u16 = 0x370;
    pub(super) const TIMER_INITIAL: u16 = 0x380;
    pub(super) const TIMER_CURRENT: u16 = 0x390;
    pub(super) const TIMER_DIVIDE: u16 = 0x3e0;
}

const SOFTWARE_ENABLED: u32 = 1 << 8;
const MASKED: u32 = 1 << 16;
const TSC_DEADLINE_MODE: u32 = 2 << 17;
const DELIVERY_PENDING: u32 = 1 << 12;
const ASSERTED: u32 = 1 << 14;
const DIVIDE_BY_1: u32 = 0b1011;

/// What an inter-processor interrupt does (delivery mode, SDM volume 3, section 11.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Delivers an interrupt with this vector.
    Fixed(u8),
    /// Delivers a non-maskable interrupt.
    NonMaskable,
    /// Resets the processor to wait for a start-up.
    Init,
    /// Starts the processor in real mode at this page.
    StartUp(u8),
}

impl Command {
    const fn low_bits(self) -> u32 {
        ASSERTED
            | match self {
                Self::Fixed(vector) => vector as u32,
                Self::NonMaskable => 4 << 8,
                Self::Init => 5 << 8,
                Self::StartUp(page) => 6 << 8 | page as u32,
            }
    }
}

enum Access {
    X2apic,
    Xapic(Window),
}

static ACCESS: Once<Access> = Once::new();
/// Timer ticks in 2^20 TSC ticks; 0 where the timer takes TSC deadlines.
static TIMER_RATIO: AtomicU64 = AtomicU64::new(0);
static HAS_DEADLINE: AtomicU32 = AtomicU32::new(0);

impl Access {
    fn read(&self, register: u16) -> u32 {
        match self {
            // SAFETY: reading an x2APIC register that exists has no side effect.
            Self::X2apic => unsafe { Msr::new(0x800 + u32::from(register >> 4)).read() as u32 },
            Self::Xapic(window) => window.read_u32(usize::from(register)),
        }
    }

    fn write(&self, register: u16, value: u32) {
        match self {
            // SAFETY: the registers written here affect interrupt delivery only.
            Self::X2apic => unsafe { Msr::new(0x800 + u32::from(register >> 4)).write(u64::from(value)) },
            Self::Xapic(window) => window.write_u32(usize::from(register), value),
        }
    }
}

fn access() -> &'static Access {
    ACCESS.get().expect("the local APIC is enabled during bring-up, before its first use")
}

/// Whether the processors have x2APIC mode.
#[must_use]
pub fn has_x2apic() -> bool {
    cpuid(1, 0).ecx & (1 << 21) != 0
}

/// Local APIC id of the running CPU, from CPUID: works before [`enable`].
#[must_use]
pub fn initial_id() -> u32 {
    // Leaf 0xb gives all 32 bits; where it is not supported its level type (ECX, bits 8 to 15) is 0.
    if cpuid(0, 0).eax >= 0xb {
        let topology = cpuid(0xb, 0);
        if topology.ecx >> 8 & 0xff != 0 {
            return topology.edx;
        }
    }
    cpuid(1, 0).ebx >> 24
}

/// Enables the running CPU's local APIC, with everything but its timer masked. `window` maps the xAPIC's
/// registers and is used where there is no x2APIC.
pub fn enable(window: impl FnOnce() -> Window) {
    let mut base = Msr::new(IA32_APIC_BASE);
    // SAFETY: the register exists on every x86-64 processor.
    let mut value = unsafe { base.read() } | ENABLED;
    if has_x2apic() {
        value |= X2APIC_ENABLED;
    }
    // SAFETY: the transition to x2APIC from enabled xAPIC is architected; the base address stays.
    unsafe { base.write(value) };
    let apic = ACCESS.call_once(|| if has_x2apic() { Access::X2apic } else { Access::Xapic(window()) });
    apic.write(register::TASK_PRIORITY, 0);
    for line in [register::LINT0, register::LINT1, register::ERROR] {
        apic.write(line, MASKED);
    }
    apic.write(register::SPURIOUS, SOFTWARE_ENABLED | u32::from(vector::SPURIOUS));
    let deadline = cpuid(1, 0).ecx & (1 << 24) != 0;
    HAS_DEADLINE.store(deadline.into(), Ordering::Relaxed);
    apic.write(register::TIMER_DIVIDE, DIVIDE_BY_1);
    apic.write(register::TIMER, u32::from(vector::TIMER) | if deadline { TSC_DEADLINE_MODE } else { 0 });
}

/// Enables the local APIC of a CPU that is not the first: the way to its registers is known.
pub fn enable_again() {
    enable(|| unreachable!("the boot CPU has enabled its own before"));
}

/// Local APIC id of the running CPU.
#[must_use]
pub fn id() -> u32 {
    match access() {
        Access::X2apic => access().read(register::ID),
        Access::Xapic(window) => window.read_u32(usize::from(register::ID)) >> 24,
    }
}

/// Acknowledges the interrupt being handled.
#[inline]
pub fn end_of_interrupt() {
    if let Some(apic) = ACCESS.get() {
        apic.write(register::END_OF_INTERRUPT, 0);
    }
}

/// Sends `command` to the CPU with local APIC id `target`.
pub fn send(target: u32, command: Command) {
    match access() {
        Access::X2apic => {
            let value = u64::from(target) << 32 | u64::from(command.low_bits());
            // SAFETY: the interrupt command register; what it does to the other CPU is the caller's wish, and
            // every CPU has handlers for what is sent here.
            unsafe { Msr::new(0x830).write(value) };
        }
        Access::Xapic(window) => {
            while window.read_u32(usize::from(register::COMMAND)) & DELIVERY_PENDING != 0 {
                core::hint::spin_loop();
            }
            window.write_u32(usize::from(register::COMMAND_HIGH), target << 24);
            window.write_u32(usize::from(register::COMMAND), command.low_bits());
        }
    }
}

/// Wakes CPU number `index` if it waits, and makes it leave its guest if that has interrupts on.
pub fn kick(index: usize) {
    if let Some(block) = percpu::of(index) {
        send(block.apic_id(), Command::Fixed(vector::KICK));
    }
}

/// Makes CPU number `index` leave its guest, whatever that does.
pub fn kick_hard(index: usize) {
    if let Some(block) = percpu::of(index) {
        send(block.apic_id(), Command::NonMaskable);
    }
}

/// Measures the timer against the TSC for `ticks` TSC ticks, where the timer takes no TSC deadlines.
pub fn calibrate_timer(ticks: u64) {
    if HAS_DEADLINE.load(Ordering::Relaxed) != 0 {
        return;
    }
    let apic = access();
    apic.write(register::TIMER, MASKED);
    apic.write(register::TIMER_INITIAL, u32::MAX);
    let start = super::tsc::read();
    while super::tsc::read().wrapping_sub(start) < ticks {
        core::hint::spin_loop();
    }
    let passed = u32::MAX - apic.read(register::TIMER_CURRENT);
    apic.write(register::TIMER_INITIAL, 0);
    apic.write(register::TIMER, u32::from(vector::TIMER));
    let ratio = (u64::from(passed) << 20) / ticks.max(1);
    TIMER_RATIO.store(ratio.max(1), Ordering::Relaxed);
}

/// Makes the timer interrupt the running CPU once the TSC reaches `deadline`, in ticks. Replaces what was armed.
pub fn arm_timer(deadline: u64) {
    if HAS_DEADLINE.load(Ordering::Relaxed) != 0 {
        // SAFETY: arms the timer, whose handler exists. Zero would disarm it, so it becomes one.
        unsafe { Msr::new(IA32_TSC_DEADLINE).write(deadline.max(1)) };
        return;
    }
    let ticks = deadline.saturating_sub(super::tsc::read());
    let ratio = TIMER_RATIO.load(Ordering::Relaxed);
    let count = (u128::from(ticks) * u128::from(ratio)) >> 20;
    access().write(register::TIMER_INITIAL, count.clamp(1, u128::from(u32::MAX)) as u32);
}

/// Disarms the timer of the running CPU.
pub fn disarm_timer() {
    if HAS_DEADLINE.load(Ordering::Relaxed) != 0 {
        // SAFETY: zero disarms the timer.
        unsafe { Msr::new(IA32_TSC_DEADLINE).write(0) };
    } else {
        access().write(register::TIMER_INITIAL, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_encode_as_the_manual_says() {
        assert_eq!(Command::Fixed(0xf0).low_bits(), 0x40f0);
        assert_eq!(Command::NonMaskable.low_bits(), 0x4400);
        assert_eq!(Command::Init.low_bits(), 0x4500);
        assert_eq!(Command::StartUp(8).low_bits(), 0x4608);
    }
}
