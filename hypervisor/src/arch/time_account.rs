//! Where a CPU's time went. Pure but for being written by one CPU and read by all.
//!
//! A CPU adds up what its guests took and what it idled, at the end of each; the host's own work is the rest. It may idle
//! for minutes on end, so that whoever looks meanwhile must see the part that is over: one word tells both how long it has
//! idled and whether it does.

use core::sync::atomic::{AtomicU64, Ordering};

/// The CPU idles; the other bits are then the ticks that it has idled less the TSC when it began to.
const IDLES: u64 = 1 << 63;
const TICKS: u64 = IDLES - 1;

/// See the module.
#[derive(Debug, Default)]
pub struct TimeAccount {
    guests: AtomicU64,
    idle: AtomicU64,
}

/// TSC ticks that were spent until a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// The moment, by the TSC.
    pub tsc: u64,
    /// In guests and in handling their exits.
    pub guests: u64,
    /// Halted.
    pub idle: u64,
}

impl TimeAccount {
    /// Nothing spent yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { guests: AtomicU64::new(0), idle: AtomicU64::new(0) }
    }

    /// A guest took `ticks`. For the CPU itself.
    pub fn add_guest(&self, ticks: u64) {
        self.guests.fetch_add(ticks, Ordering::Relaxed);
    }

    /// The CPU idles from TSC `now` on. For the CPU itself.
    pub fn begin_idle(&self, now: u64) {
        let ticks = idle_ticks(self.idle.load(Ordering::Relaxed), now);
        self.idle.store(IDLES | ticks.wrapping_sub(now) & TICKS, Ordering::Relaxed);
    }

    /// The CPU has idled until TSC `now`. For the CPU itself.
    pub fn end_idle(&self, now: u64) {
        self.idle.store(idle_ticks(self.idle.load(Ordering::Relaxed), now), Ordering::Relaxed);
    }

    /// What was spent until TSC `now`.
    #[must_use]
    pub fn spent(&self, now: u64) -> Spent {
        Spent {
            tsc: now,
            guests: self.guests.load(Ordering::Relaxed),
            idle: idle_ticks(self.idle.load(Ordering::Relaxed), now),
        }
    }
}

const fn idle_ticks(word: u64, now: u64) -> u64 {
    if word & IDLES == 0 { word } else { word.wrapping_add(now) & TICKS }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idling_is_seen_while_it_lasts() {
        let account = TimeAccount::new();
        account.begin_idle(1_000);
        assert_eq!(account.spent(1_500).idle, 500);
        account.end_idle(1_600);
        assert_eq!(account.spent(9_000).idle, 600);
        account.begin_idle(10_000);
        account.end_idle(10_001);
        account.begin_idle(20_000);
        assert_eq!(account.spent(20_010).idle, 611);
    }

    #[test]
    fn guests_add_up() {
        let account = TimeAccount::new();
        account.add_guest(7);
        account.add_guest(8);
        assert_eq!(account.spent(50), Spent { tsc: 50, guests: 15, idle: 0 });
    }
}
