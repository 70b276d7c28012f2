//! `pattern PAGES TICKS`: the memory pattern of all test guests, one page every TICKS ticks, for ever. `mixed PAGES TICKS`: the
//! same in pages that compress as memory in use does. `pair PAGES TICKS`: the same on each of two processors, each with a
//! pattern of its own; lines are of both.

use core::sync::atomic::{AtomicU64, Ordering};

use godwit_guest_common::gap::Gap;
use godwit_guest_common::pattern::{Filling, Page, Pattern, Record, Violation};

use crate::behaviour::Call;
use crate::console::line;
use crate::hardware as hw;

const PAGE_BYTES: u64 = 4096;
const PAGES_DEFAULT: u64 = 1024;
const PAGES_MAX: u64 = 1 << 18;
const TICKS_DEFAULT: u64 = 20_000;
/// After a pause no more time than this is made good.
const BEHIND_TICKS_MAX: u64 = 2_000_000;
/// At least this many pages between two lines, and a sweep.
const PAGES_PER_LINE: u64 = 128;
/// Every so many lines each byte is verified, not only the stamps.
const LINES_PER_CHECK: u64 = 16;
/// A broken migration can damage every page: the count says how many, these lines say how.
const PRINTED_MAX: u64 = 20;
/// Between the patterns of two processors.
const APART: u64 = 2 << 20;

/// What the second processor is to do, and what it has done.
struct Second {
    pages: AtomicU64,
    ticks: AtomicU64,
    sweeps: AtomicU64,
    errors: AtomicU64,
}

static SECOND: Second = Second {
    pages: AtomicU64::new(0),
    ticks: AtomicU64::new(0),
    sweeps: AtomicU64::new(0),
    errors: AtomicU64::new(0),
};

/// The pattern that begins at `address`, its table behind it.
fn pattern_at(address: u64, pages: u64, filling: Filling) -> Pattern<'static> {
    let table = address + pages * PAGE_BYTES;
    let (pages, records) = (pages as usize, pages as usize);
    Pattern::new(hw::claim::<Page>(address, pages), hw::claim::<Record>(table, records), filling)
}

/// Runs for ever.
pub(crate) fn run(call: &Call) {
    sweep(call, Filling::Noise, None);
}

/// Runs for ever.
pub(crate) fn mixed(call: &Call) {
    sweep(call, Filling::Mixed, None);
}

/// Runs for ever, on two processors.
pub(crate) fn pair(call: &Call) {
    sweep(call, Filling::Noise, Some(&SECOND));
}

fn sweep(call: &Call, filling: Filling, second: Option<&Second>) {
    let pages = if call.first == 0 { PAGES_DEFAULT } else { call.first.min(PAGES_MAX) };
    let ticks = if call.second == 0 { TICKS_DEFAULT } else { call.second };
    let mut pattern = pattern_at(hw::CLAIMABLE_START, pages, filling);
    if let Some(second) = second {
        second.ticks.store(ticks, Ordering::Relaxed);
        second.pages.store(pages, Ordering::Release);
        hw::start_second();
    }
    line!("pattern: {pages} pages, one every {ticks} ticks");
    hw::start_timer();
    let (mut due, mut since_line, mut lines) = (hw::tsc(), 0, 0);
    let mut gap = Gap::paced(ticks);
    loop {
        for _ in 0..pages {
            if let Err(violation) = pattern.step() {
                report(pattern.counts().violations, violation);
            }
            gap.event(hw::tsc());
            due = wait_until(due + ticks);
        }
        since_line += pages;
        if since_line >= PAGES_PER_LINE || pattern.counts().sweeps == 1 {
            since_line = 0;
            lines += 1;
            if lines % LINES_PER_CHECK == 0 {
                let before = pattern.counts().violations;
                pattern.check(|violation| report(before + 1, violation));
                gap.restart();
            }
            let counts = pattern.counts();
            let (sweeps, errors) = second.map_or((u64::MAX, 0), |second| {
                (second.sweeps.load(Ordering::Relaxed), second.errors.load(Ordering::Relaxed))
            });
            line!(
                "pattern: sweep {} over {pages} pages, {} errors, recent gap {} ticks, longest {}, lost {}",
                counts.sweeps.min(sweeps),
                counts.violations + errors,
                gap.take_recent(),
                gap.longest(),
                gap.lost()
            );
        }
    }
}

/// What the second processor does, for ever; nothing if it was given no pages.
pub(crate) extern "C" fn second() -> ! {
    let pages = SECOND.pages.load(Ordering::Acquire);
    if pages == 0 {
        hw::stop();
    }
    let ticks = SECOND.ticks.load(Ordering::Relaxed);
    let end = hw::CLAIMABLE_START + pages * (PAGE_BYTES + size_of::<Record>() as u64);
    let mut pattern = pattern_at(end.next_multiple_of(APART), pages, Filling::Noise);
    hw::enable_deadline();
    let mut due = hw::tsc();
    loop {
        for _ in 0..pages {
            let _found = pattern.step();
            due = (due + ticks).max(hw::tsc().saturating_sub(BEHIND_TICKS_MAX));
            hw::sleep_until(due);
        }
        if pattern.counts().sweeps % LINES_PER_CHECK == 0 {
            pattern.check(|_violation| {});
        }
        SECOND.errors.store(pattern.counts().violations, Ordering::Relaxed);
        SECOND.sweeps.store(pattern.counts().sweeps, Ordering::Relaxed);
    }
}

fn report(number: u64, violation: Violation) {
    if number <= PRINTED_MAX {
        line!("pattern: VIOLATION: {violation}");
    }
}

/// Sleeps until the TSC reaches `due`; returns `due`, or less of a debt if there is too much of one.
fn wait_until(due: u64) -> u64 {
    while hw::tsc() < due {
        hw::sleep();
    }
    due.max(hw::tsc().saturating_sub(BEHIND_TICKS_MAX))
}
