//! How much of what is pushed may be under way. Enough to keep the link busy; and no more, since a page that somebody
//! waits for comes over the same link, and waits behind it, on whichever connection.
//!
//! It is what the link carries in the shortest round trip, and a little more: by that it grows where the link carries more
//! than was seen so far, quickly as long as each round trip shows that it does, and no more than that stands in a queue
//! where it does not. Single answers come late on a busy host; so the best of the last rates counts. Answers that come late
//! as a rule belong to the round trip; so the shortest is forgotten, slowly.
//!
//! On a slow link all of that is little: a frame is then as short as a page, and each is answered ([`crate::progress`]).

use core::time::Duration;

use super::rate::per_second;
use crate::ram::PAGE_BYTES;
use crate::time::Instant;

/// Least and most bytes: at least two frames of a page each, so that one is under way while the other is answered.
const MIN: u64 = 9 * 1024;
/// Room for less than this is none.
const ROOM_MIN: u64 = 1024;
const MAX: u64 = 4 << 20;
/// With which it begins: nothing is known then, and a page that somebody waits for may come soon.
const FIRST: u64 = 16 * 1024;
/// What the link carries in this time is under way in any case: shorter frames would cost more processor time than waits
/// are shorter by.
const LEAST_TIME: Duration = Duration::from_micros(250);
/// At least so much more is under way than the link carries, or what it carries in the same time if that is less: answers
/// are no more regular than the hosts.
const GRAIN: u64 = 16 * 1024;
/// Least and most bytes of a frame. One that nobody waits for is to be a small part of what is under way, or it stands in
/// the way of others for as long as all of that.
const FRAME_MIN: u64 = PAGE_BYTES as u64;
const FRAME_MAX: u64 = 32 * 1024;
/// What counts as the shortest time is that of so many round trips, about.
const FORGETS: u32 = 64;
/// What stands in a queue makes the shortest time seem longer, and is more for it. So each time after so many round trips it
/// is let run empty.
const RUNS_EMPTY: u32 = 32;
/// Round trips whose rates count.
const TRIPS: usize = 8;
/// Of them, those after which it does not grow quickly any more. What a larger window brings shows a round trip later.
const SAME_MAX: u32 = 3;

/// See the module.
#[derive(Debug)]
pub(crate) struct Window {
    bytes: u64,
    /// The shortest time that a frame took to be taken in, of late.
    shortest: Option<Duration>,
    /// That of all times: the other is not much longer.
    shortest_ever: Option<Duration>,
    /// Frames that were timed.
    trips: u32,
    /// The frame that is timed.
    timed: Option<Timed>,
    /// Bytes per second in the last round trips in which there was something to wait for.
    rates: [u64; TRIPS],
    next_rate: usize,
    /// How many of them in a row were not much better than those before.
    same: u32,
    acknowledged: u64,
    /// Whether something had to wait for room since the frame was sent.
    was_full: bool,
}

#[derive(Clone, Copy, Debug)]
struct Timed {
    /// With which byte of the connection it ends.
    end: u64,
    since: Instant,
    /// What had been taken in by then.
    acknowledged: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            bytes: FIRST,
            shortest: None,
            shortest_ever: None,
            trips: 0,
            timed: None,
            rates: [0; TRIPS],
            next_rate: 0,
            same: 0,
            acknowledged: 0,
            was_full: false,
        }
    }
}

impl Window {
    /// How long the next frame may be: it ends with the page that reaches this.
    pub(crate) fn frame_bytes(&self) -> usize {
        (self.bytes / 4).clamp(FRAME_MIN, FRAME_MAX) as usize
    }

    /// Whether there is no room with so many bytes under way.
    pub(crate) const fn is_full(&mut self, in_flight: u64) -> bool {
        let is_full = in_flight + ROOM_MIN > self.bytes;
        self.was_full |= is_full;
        is_full
    }

    /// A frame ends with byte `end` of the connection.
    pub(crate) fn sent(&mut self, end: u64, now: Instant) {
        self.timed.get_or_insert(Timed { end, since: now, acknowledged: self.acknowledged });
    }

    /// The target has taken in so many bytes of the connection.
    pub(crate) fn took(&mut self, acknowledged: u64, now: Instant) {
        self.acknowledged = acknowledged;
        let Some(timed) = self.timed.filter(|timed| timed.end <= acknowledged) else { return };
        self.timed = None;
        let time = now.since(timed.since).max(Duration::from_nanos(1));
        let shortest = self.shortest.map_or(time, |shortest| match time.checked_sub(shortest) {
            Some(longer) => shortest + longer.min(shortest) / FORGETS,
            None => shortest - (shortest - time) / 2,
        });
        let ever = self.shortest_ever.map_or(time, |ever| ever.min(time));
        // Beyond that it is the queue.
        let shortest = shortest.min(ever * 3 / 2);
        (self.shortest, self.shortest_ever) = (Some(shortest), Some(ever));
        self.trips = self.trips.wrapping_add(1);
        // What was not used says nothing about more.
        if core::mem::take(&mut self.was_full) {
            let best_before = self.rates.iter().max().copied().unwrap_or(0);
            let rate = per_second(acknowledged.saturating_sub(timed.acknowledged), time);
            self.rates[self.next_rate] = rate;
            self.next_rate = (self.next_rate + 1) % TRIPS;
            let best = self.rates.iter().max().copied().unwrap_or(0);
            let carried = u128::from(best) * shortest.max(LEAST_TIME).as_nanos() / 1_000_000_000;
            let carried = u64::try_from(carried).unwrap_or(MAX).min(MAX);
            self.same = if rate / 8 > best_before / 7 { 0 } else { self.same.saturating_add(1) };
            let more = match self.same < SAME_MAX {
                true if time <= shortest.saturating_mul(5) / 4 => carried,
                true => carried / 2,
                false => carried / 16,
            };
            let grain = u128::from(best) * LEAST_TIME.as_nanos() / 1_000_000_000;
            let grain = u64::try_from(grain).map_or(GRAIN, |grain| grain.min(GRAIN));
            self.bytes = (carried + more.max(grain)).clamp(MIN, MAX);
            if self.trips.is_multiple_of(RUNS_EMPTY) {
                // For one round trip nothing stands in a queue: how long does it take now?
                self.bytes = (carried / 2).clamp(FRAME_MIN, MAX);
            }
        }
    }

    /// Bytes are counted from 0 again: the connection is another.
    pub(crate) const fn link_is_new(&mut self) {
        self.timed = None;
        self.was_full = false;
        self.acknowledged = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// Pushes for two seconds over a link of this rate and round trip; bytes carried, and the mean time in the queue.
    fn push(rate: u64, round_trip_us: u64) -> (u64, Duration) {
        let mut window = Window::default();
        let (mut sent, mut taken, mut free_at) = (0u64, 0u64, 0u64);
        let (mut queued, mut frames) = (0u64, 0u64);
        let mut answers: VecDeque<(u64, u64)> = VecDeque::new();
        for now in (0..2_000_000_000u64).step_by(10_000) {
            let at = Instant::from_nanos(now);
            while let Some((_, bytes)) = answers.pop_front_if(|(when, _)| *when <= now) {
                taken = bytes;
                window.took(taken, at);
            }
            while !window.is_full(sent - taken) {
                let bytes = window.frame_bytes() as u64;
                sent += bytes;
                window.sent(sent, at);
                queued += free_at.saturating_sub(now);
                frames += 1;
                free_at = free_at.max(now) + bytes * 1_000_000_000 / rate;
                answers.push_back((free_at + round_trip_us * 1000, sent));
            }
        }
        (taken, Duration::from_nanos(queued / frames.max(1)))
    }

    #[test]
    fn a_link_is_filled_and_its_queue_is_not() {
        for (rate, round_trip_us) in [
            (100_000_000, 2_000),
            (1_000_000_000, 2_000),
            (1_000_000_000, 200),
            (100_000_000, 200),
            (50_000_000, 20_000),
            (10_000_000, 2_000),
            (1_000_000, 5_200),
            (1_000_000, 500),
        ] {
            let (carried, queue) = push(rate, round_trip_us);
            assert!(carried * 10 > rate * 2 * 8, "{carried} bytes over {rate} B/s, {round_trip_us} us");
            let least = Duration::from_nanos(MIN * 1_000_000_000 / rate);
            let most = least.max(LEAST_TIME).max(Duration::from_micros(round_trip_us) / 4);
            assert!(queue <= most, "{queue:?} in the queue over {rate} B/s, {round_trip_us} us");
        }
    }

    #[test]
    fn a_window_that_something_else_keeps_empty_does_not_grow() {
        let mut window = Window::default();
        for step in 0..1000u64 {
            let at = Instant::from_nanos(step * 1_000_000);
            window.sent(step, at);
            assert!(!window.is_full(8_000));
            window.took(step, at.after(Duration::from_micros(300)));
        }
        assert_eq!(window.bytes, FIRST);
    }
}
