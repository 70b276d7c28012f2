#![expect(unsafe_code, reason = "the first steps of the other processors")]
//! Starts the other processors.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicUsize, Ordering};

use x86_64::PhysAddr;

use crate::arch::apic::{self, Command};
use crate::arch::percpu::{self, CPUS_MAX, PerCpu};
use crate::arch::smp::{self, Claim};
use crate::arch::{fpu, gdt, idt};
use crate::mm::{direct, frames, paging, stack};
use crate::platform::acpi::Certainty;

/// Real mode reaches the first mebibyte.
const REAL_MODE_END: u64 = 1 << 20;

/// Between INIT and the first start-up message. The 10 ms of the manual's example (SDM 9.4.4.1) are for processors with a
/// local APIC of its own chip; those with VMX are ready at once.
const INIT_US: u64 = 200;
/// Between two looks at whether the processor runs.
const LOOK_US: u64 = 200;
/// Looks after each of the two start-up messages at a processor that is said to be there, and at one that is on its way.
const LOOKS_TOLD: u32 = 100;
/// The same at one that may as well be missing.
const LOOKS_ASSUMED: u32 = 10;

static RUNNING: AtomicUsize = AtomicUsize::new(1);

/// What became of a processor that was to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It runs, under the number that it was given.
    Runs,
    /// It does not start, and the number is free.
    Silent,
    /// It began and did not arrive: it may still use what it was given, the trampoline included.
    Astray,
}

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
        let outcome = start_one(page, index, id, looks, run, &pause);
        match outcome {
            Outcome::Runs => {}
            Outcome::Silent => {
                log::debug!("the CPU with local APIC id {id} does not start and is left alone")
            }
            Outcome::Astray => {
                log::warn!("the CPU with local APIC id {id} got lost while it started: no more are")
            }
        }
        outcome
    });
    // SAFETY: the trampoline is there, and its page stays allocated.
    unsafe { smp::retire(direct::at(page)) };
    paging::unmap_trampoline(page);
    RUNNING.load(Ordering::Acquire)
}

/// Tries processors in order, each with the number that it gets if it runs. The running one is 0, and those that start
/// are numbered without gaps, so that every number below their count is a processor's. The first silence ends a list
/// that is only assumed; whoever went astray ends any.
fn try_each(
    ids: impl Iterator<Item = u32>,
    certainty: Certainty,
    mut start: impl FnMut(usize, u32) -> Outcome,
) {
    let mut index = 1;
    for id in ids {
        match start(index, id) {
            Outcome::Runs => index += 1,
            Outcome::Silent if certainty == Certainty::Told => {}
            Outcome::Silent | Outcome::Astray => return,
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
) -> Outcome {
    let Ok(top) = stack::allocate() else { return Outcome::Silent };
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
    let arrives = |looks| {
        (0..looks).any(|_| {
            let has_come = RUNNING.load(Ordering::Acquire) > before;
            if !has_come {
                pause(LOOK_US);
            }
            has_come
        })
    };
    for _ in 0..2 {
        apic::send(id, Command::StartUp(vector));
        if arrives(looks) {
            return Outcome::Runs;
        }
    }
    // Nobody may be on the way with a number that the next one gets.
    // SAFETY: the trampoline was placed there above.
    match unsafe { smp::claim(direct::at(page)) } {
        Claim::First => Outcome::Silent,
        Claim::Late if arrives(LOOKS_TOLD) => Outcome::Runs,
        Claim::Late => Outcome::Astray,
    }
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

    /// The processors of `ids` that are tried, with their numbers, if only those of `present` start.
    fn tried(ids: &[u32], present: &[u32], certainty: Certainty) -> Vec<(usize, u32)> {
        let mut tried = Vec::new();
        try_each(ids.iter().copied(), certainty, |index, id| {
            tried.push((index, id));
            if present.contains(&id) { Outcome::Runs } else { Outcome::Silent }
        });
        tried
    }

    #[test]
    fn only_a_list_that_is_assumed_ends_at_the_first_silence() {
        assert_eq!(tried(&[1, 5, 6], &[1], Certainty::Told), [(1, 1), (2, 5), (2, 6)]);
        assert_eq!(tried(&[1, 5, 6], &[1], Certainty::Assumed), [(1, 1), (2, 5)]);
    }

    #[test]
    fn those_that_start_are_numbered_without_gaps() {
        assert_eq!(tried(&[1, 2, 3], &[1, 3], Certainty::Told), [(1, 1), (2, 2), (2, 3)]);
        assert_eq!(tried(&[7, 8, 9, 10], &[9, 10], Certainty::Told), [(1, 7), (1, 8), (1, 9), (2, 10)]);
    }

    #[test]
    fn nobody_is_started_after_one_that_may_still_use_the_trampoline() {
        let mut tried = Vec::new();
        try_each([1, 2, 3].into_iter(), Certainty::Told, |index, id| {
            tried.push((index, id));
            if id == 2 { Outcome::Astray } else { Outcome::Runs }
        });
        assert_eq!(tried, [(1, 1), (2, 2)]);
    }
}
