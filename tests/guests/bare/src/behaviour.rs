//! What the guest can do: a table from names to functions of two numbers.

use crate::console::line;
use crate::hardware as hw;
use crate::pattern;

type Run = fn(u64, u64);

const BEHAVIOURS: [(&str, Run); 13] = [
    ("hello", |_, _| {}),
    ("cpuid-loop", |count, _| measure("cpuid", count, hw::cpuid)),
    ("rdmsr-loop", |count, _| measure("rdmsr", count, || _ = hw::msr_read(hw::APIC_BASE))),
    ("port-loop", |count, _| measure("port", count, || hw::port_write(COM1_SCRATCH, 0x5a))),
    ("apic-loop", |count, _| measure("apic", count, || _ = hw::read(APIC_VERSION))),
    ("triple-fault", |_, _| hw::triple_fault()),
    ("wild-mmio", |_, _| wild_mmio()),
    ("wild-jump", |_, _| hw::jump(HOLE)),
    ("unknown-msr", |_, _| line!("msr: {:#x}", hw::msr_read(UNKNOWN_MSR))),
    ("unknown-exit", |_, _| hw::vmxon()),
    ("hlt-cli", |_, _| hw::stop()),
    ("spin", |_, _| hw::spin()),
    ("pattern", pattern::run),
];

/// A byte of the UART that only remembers.
const COM1_SCRATCH: u16 = 0x3ff;
const APIC_VERSION: u64 = 0xfee0_0030;
/// Below 4 GiB, above the RAM of any test guest, and no device's.
const HOLE: u64 = 0xd000_0000;
const UNKNOWN_MSR: u32 = 0xdead_0000;
const MEASURE_DEFAULT: u64 = 10_000;
const BATCH: u64 = 100;

/// The behaviour called `name`.
pub(crate) fn find(name: &str) -> Option<Run> {
    BEHAVIOURS.iter().find(|(known, _)| *known == name).map(|(_, run)| *run)
}

/// Prints the ticks that one `action` takes: mean of all, and of the quickest batch.
fn measure(name: &str, count: u64, action: impl Fn()) {
    let batches = if count == 0 { MEASURE_DEFAULT } else { count }.div_ceil(BATCH);
    let (mut total, mut best) = (0, u64::MAX);
    for _ in 0..batches {
        let start = hw::tsc();
        for _ in 0..BATCH {
            action();
        }
        let ticks = hw::tsc() - start;
        total += ticks;
        best = best.min(ticks);
    }
    let (count, mean) = (batches * BATCH, total / (batches * BATCH));
    line!("{name}: {count} exits, mean {mean} ticks, best {} ticks", best / BATCH);
}

fn wild_mmio() {
    line!("read {:#x}", hw::read(HOLE));
    hw::write(HOLE, 0);
    line!("written");
}
