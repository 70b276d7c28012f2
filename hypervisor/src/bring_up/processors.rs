#![expect(unsafe_code, reason = "the first steps of the other processors")]
//! Starts the other processors.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicUsize, Ordering};

use x86_64::PhysAddr;

use crate::arch::apic::{self, Command};
use crate::arch::percpu::{self, CPUS_MAX, PerCpu};
use crate::arch::{fpu, gdt, idt, smp};
use crate::mm::{direct, frames, paging, stack};
use crate::platform::acpi::Certainty;

/// Real mode reaches the first mebibyte.
const REAL_MODE_END: u64 = 1 << 20;

/// Between INIT and the first start-up message. The 10 ms of the manual's example (SDM 9.4.4.1) are for processors with a
/// local APIC of its own chip; those with VMX are ready at once.
const INIT_US: u64 = 200;
/// Between two looks at whether the processor runs.
const LOOK_US: u64 = 200;
/// Looks after each of the two start-up messages at a processor that is said to be there.
const LOOKS_TOLD: u32 = 100;
/// The same at one that may as well be missing.
const LOOKS_ASSUMED: u32 = 10;

static RUNNING: AtomicUsize = AtomicUsize::new(1);

/// What a processor that starts is given.
struct Start {
    block: &'static PerCpu,
    run: fn() -> !,
}

/// Starts the processors with local APIC ids `apic_ids`, other than the running one, each into `run`, and
/// returns how many run, this one included. `pause` waits for that many microseconds.
///
/// A processor that does not answer is left alone and said in the log.
pub fn start(apic_ids: &[u32], certainty: Certainty, run: fn() -> !, pause: impl Fn(u64)) -> usize {
    let own = apic::id();
    let Some(page) = frames::get().allocate_contiguous(1, REAL_MODE_END) else {
        log::warn!("no free page below 1 MiB: only one CPU is used");
        return 1;
    };
    if let Err(error) = paging::map_trampoline(page) {
        log::warn!("only one CPU is used: {error}");
        return 1;
    }
    let others = apic_ids.iter().copied().filter(|&id| id != own).take(CPUS_MAX - 1);
    let looks = match certainty {
        Certainty::Told => LOOKS_TOLD,
        Certainty::Assumed => LOOKS_ASSUMED,
    };
    try_each(others, certainty, |index, id| {
        let started = start_one(page, index, id, looks, run, &pause);
        if !started {
            log::debug!("the CPU with local APIC id {id} does not start and is left alone");
        }
        started
    });
    // SAFETY: the trampoline is there, and its page stays allocated.
    unsafe { smp::retire(direct::at(page)) };
    paging::unmap_trampoline(page);
    RUNNING.load(Ordering::Acquire)
}

/// Tries processors in order with their indices, the running one being 0. Who is there without being listed is numbered
/// without gaps, so that the first silence ends a list that is only assumed.
fn try_each(ids: impl Iterator<Item = u32>, certainty: Certainty, mut start: impl FnMut(usize, u32) -> bool) {
    for (index, id) in (1..).zip(ids) {
        if !start(index, id) && certainty == Certainty::Assumed {
            return;
        }
    }
}

fn start_one(
    page: PhysAddr,
    index: usize,
    id: u32,
    looks: u32,
    run: fn() -> !,
    pause: &impl Fn(u64),
) -> bool {
    let Ok(top) = stack::allocate() else {
        return false;
    };
    let start = Box::leak(Box::new(Start { block: Box::leak(Box::new(PerCpu::new(index, id))), run }));
    let parameters = smp::Parameters {
        page_tables: paging::root().as_u64(),
        stack: top.as_u64(),
        entry: enter as *const () as u64,
        argument: core::ptr::from_ref(start) as u64,
        claimed: 0,
    };
    // SAFETY: the page was allocated for this, and one processor at a time uses it.
    unsafe { smp::place(page, direct::at(page), &parameters) };
    let before = RUNNING.load(Ordering::Acquire);
    let vector = (page.as_u64() >> 12) as u8;
    apic::send(id, Command::Init);
    pause(INIT_US);
    for _ in 0..2 {
        apic::send(id, Command::StartUp(vector));
        for _ in 0..looks {
            if RUNNING.load(Ordering::Acquire) > before {
                return true;
            }
            pause(LOOK_US);
        }
    }
    false
}

extern "C" fn enter(start: &'static Start) -> ! {
    // SAFETY: the first thing that this processor does, with a block of its own.
    unsafe { percpu::install(start.block) };
    start.block.set_apic_id(apic::initial_id());
    let tables = Box::leak(Box::new(gdt::Tables::new()));
    // SAFETY: this processor's own tables, with interrupts off.
    unsafe { tables.load(alloc::vec![0; gdt::STACK_WORDS].leak()) };
    idt::load();
    fpu::enable();
    apic::enable_again();
    RUNNING.fetch_add(1, Ordering::Release);
    (start.run)()
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    #[test]
    fn only_a_list_that_is_assumed_ends_at_the_first_silence() {
        let tried = |certainty| {
            let mut tried = Vec::new();
            try_each([1, 5, 6].into_iter(), certainty, |index, id| {
                tried.push((index, id));
                id == 1
            });
            tried
        };
        assert_eq!(tried(Certainty::Told), [(1, 1), (2, 5), (3, 6)]);
        assert_eq!(tried(Certainty::Assumed), [(1, 1), (2, 5)]);
    }
}
