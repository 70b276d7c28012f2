//! `pattern PAGES TICKS`: the memory pattern of all test guests, one page every TICKS ticks, for ever.

use godwit_guest_common::gap::Gap;
use godwit_guest_common::pattern::{Page, Pattern, Record, Violation};

use crate::behaviour::Call;
use crate::console::line;
use crate::hardware as hw;

const PAGE_BYTES: u64 = 4096;
const PAGES_DEFAULT: u64 = 1024;
const PAGES_MAX: u64 = 1 << 18;
const TICKS_DEFAULT: u64 = 20_000;
/// After a pause no more time than this is made good.
const BEHIND_TICKS_MAX: u64 = 2_000_000;
/// At least this many pages between two lines.
const PAGES_PER_LINE: u64 = 1024;
/// Every so many lines each byte is verified, not only the stamps.
const LINES_PER_CHECK: u64 = 16;
/// A broken migration can damage every page: the count says how many, these lines say how.
const PRINTED_MAX: u64 = 20;

/// Runs for ever.
pub(crate) fn run(call: &Call) {
    let pages = if call.first == 0 { PAGES_DEFAULT } else { call.first.min(PAGES_MAX) };
    let ticks = if call.second == 0 { TICKS_DEFAULT } else { call.second };
    let memory = hw::claim::<Page>(hw::CLAIMABLE_START, pages as usize);
    let table = hw::claim::<Record>(hw::CLAIMABLE_START + pages * PAGE_BYTES, pages as usize);
    let mut pattern = Pattern::new(memory, table);
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
            line!(
                "pattern: sweep {} over {pages} pages, {} errors, recent gap {} ticks, longest {}, lost {}",
                counts.sweeps,
                counts.violations,
                gap.take_recent(),
                gap.longest(),
                gap.lost()
            );
        }
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
