//! Memory that notices a single lost or stale page.
//!
//! Sweep s visits every page in order, first checks that the page is as sweep s − 1 left it, then writes the sweep's
//! number and a checksum of sweep and page, at the page's two ends. A page that is lost, stale, torn or misplaced is
//! found by the next sweep that comes by.

use crate::console::line;
use crate::hardware as hw;

const BASE: u64 = 16 << 20;
const PAGE_BYTES: u64 = 4096;
const CHECK_OFFSET: u64 = PAGE_BYTES - 8;
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
const PAGES_DEFAULT: u64 = 1_024;
const TICKS_DEFAULT: u64 = 20_000;
/// After a pause no more time than this is made good.
const BEHIND_TICKS_MAX: u64 = 2_000_000;
/// At least this many pages between two lines.
const PAGES_PER_LINE: u64 = 2_048;

/// Sweeps over `pages` pages for ever, one page every `ticks` ticks.
pub(crate) fn run(pages: u64, ticks: u64) {
    let pages = if pages == 0 { PAGES_DEFAULT } else { pages };
    let ticks = if ticks == 0 { TICKS_DEFAULT } else { ticks };
    hw::start_timer();
    let (mut due, mut errors, mut since_line) = (hw::tsc(), 0, 0);
    for sweep in 1_u64.. {
        for page in 0..pages {
            errors += u64::from(!visit(page, sweep));
            due += ticks;
            due = wait_until(due);
        }
        since_line += pages;
        if since_line >= PAGES_PER_LINE || sweep == 1 || errors > 0 {
            since_line = 0;
            line!("pattern: sweep {sweep} over {pages} pages, {errors} errors");
        }
    }
}

/// Checks and rewrites a page; false if it is not as the last sweep left it.
fn visit(page: u64, sweep: u64) -> bool {
    let address = BASE + page * PAGE_BYTES;
    let last = sweep - 1;
    let intact =
        last == 0 || (hw::read64(address) == last && hw::read64(address + CHECK_OFFSET) == check(last, page));
    hw::write64(address, sweep);
    hw::write64(address + CHECK_OFFSET, check(sweep, page));
    intact
}

fn check(sweep: u64, page: u64) -> u64 {
    sweep.wrapping_mul(MIX) ^ page
}

/// Sleeps until the TSC reaches `due`; returns `due`, or less of a debt if there is too much of one.
fn wait_until(due: u64) -> u64 {
    while hw::tsc() < due {
        hw::sleep();
    }
    due.max(hw::tsc().saturating_sub(BEHIND_TICKS_MAX))
}
