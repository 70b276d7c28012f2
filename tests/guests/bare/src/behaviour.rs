//! What the guest can do: a table from names to functions.

use godwit_guest_common::power;
use godwit_guest_common::samples::Summary;

use crate::console::line;
use crate::hardware as hw;
use crate::{echo, pattern};

/// What a behaviour is given.
pub(crate) struct Call {
    /// The first number behind the name; 0 if there is none.
    pub(crate) first: u64,
    /// The second number.
    pub(crate) second: u64,
    /// Where the RSDP is; 0 if nobody said.
    pub(crate) rsdp: u64,
}

type Run = fn(&Call);

const BEHAVIOURS: [(&str, Run); 22] = [
    ("hello", |_| {}),
    ("bench", |call| MEASURES.iter().for_each(|(name, action)| measure(name, call.first, *action))),
    ("cpuid", |call| measure(MEASURES[0].0, call.first, MEASURES[0].1)),
    ("rdmsr", |call| measure(MEASURES[1].0, call.first, MEASURES[1].1)),
    ("port", |call| measure(MEASURES[2].0, call.first, MEASURES[2].1)),
    ("apic", |call| measure(MEASURES[3].0, call.first, MEASURES[3].1)),
    ("triple-fault", |_| hw::triple_fault()),
    ("wild-mmio", |_| wild_mmio()),
    ("wild-jump", |_| hw::jump(HOLE)),
    ("unknown-msr", |_| line!("msr: {:#x}", hw::msr_read(UNKNOWN_MSR))),
    ("unknown-exit", |_| hw::vmxon()),
    ("single-step", |_| single_step()),
    ("real-mode", |_| real_mode()),
    ("debug-loop", |_| hw::debug_loop()),
    ("wild-stack", |_| hw::lose_stack_at(HOLE)),
    ("hlt-cli", |_| hw::stop()),
    ("spin", |_| hw::spin()),
    ("echo", |_| echo::run()),
    ("pattern", pattern::run),
    ("mixed", pattern::mixed),
    ("pair", pattern::pair),
    ("power-off", power_off),
];

/// What is measured: instructions that exit to a hypervisor.
const MEASURES: [(&str, fn()); 4] = [
    ("cpuid", hw::cpuid),
    ("rdmsr", || _ = hw::msr_read(hw::APIC_BASE)),
    ("port", || hw::port_write(COM1_SCRATCH, 0x5a)),
    ("apic", || _ = hw::read(APIC_VERSION)),
];

/// A byte of the UART that only remembers.
const COM1_SCRATCH: u16 = 0x3ff;
const APIC_VERSION: u64 = 0xfee0_0030;
/// Below 4 GiB, above the RAM of any test guest, and no device's.
const HOLE: u64 = 0xd000_0000;
const UNKNOWN_MSR: u32 = 0xdead_0000;
const SAMPLES_MAX: usize = 1000;
const SECOND_PATIENCE_TICKS: u64 = 1_000_000_000;
const POWER_OFF_PATIENCE_TICKS: u64 = 1_000_000_000;

/// The behaviour called `name`.
pub(crate) fn find(name: &str) -> Option<Run> {
    BEHAVIOURS.iter().find(|(known, _)| *known == name).map(|(_, run)| *run)
}

/// Prints the ticks from before to after `action`, reading the counter included. 0 samples: as many as there can be.
fn measure(name: &str, count: u64, action: fn()) {
    let mut samples = [0; SAMPLES_MAX];
    let count = usize::try_from(count).ok().filter(|count| (1..=SAMPLES_MAX).contains(count));
    let samples = &mut samples[..count.unwrap_or(SAMPLES_MAX)];
    for sample in samples.iter_mut() {
        let start = hw::tsc();
        action();
        *sample = hw::tsc().wrapping_sub(start);
    }
    if let Some(summary) = Summary::of(samples) {
        line!("bench {name} {summary}");
    }
}

fn wild_mmio() {
    line!("read {:#x}", hw::read(HOLE));
    hw::write(HOLE, 0);
    line!("written");
}

fn single_step() {
    let (exceptions, dr6) = hw::single_step();
    line!("single-step: {exceptions} traps of 7, dr6 {dr6:#x}");
}

/// The second processor of a machine that has two begins in real mode.
fn real_mode() {
    hw::start_second();
    let started = hw::tsc();
    while hw::exceptions_of_second() == 0 && hw::tsc().wrapping_sub(started) < SECOND_PATIENCE_TICKS {
        core::hint::spin_loop();
    }
    line!("real-mode: {} exceptions of 1", hw::exceptions_of_second());
}

fn power_off(call: &Call) {
    match power::power_off(&hw::PhysicalMemory, call.rsdp) {
        Some(power) => {
            line!("power-off: {:#x} to port {:#x}", power.value, power.port);
            hw::port_write_word(power.port, power.value);
            let written = hw::tsc();
            // A machine may take a moment to notice.
            while hw::tsc().wrapping_sub(written) < POWER_OFF_PATIENCE_TICKS {}
            line!("power-off: still here");
        }
        None => line!("power-off: the ACPI tables do not say how"),
    }
}
