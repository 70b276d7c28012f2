//! How much of what is pushed may be under way. Enough to keep the link busy; and no more, since a page that somebody
//! waits for comes over the same link, and waits behind it, on whichever connection.
//!
//! It is what the link carries in a round trip, and a little more: by that it grows where the link carries more than was
//! seen so far, quickly as long as each round trip shows that it does, and no more than that stands in a queue where it
//! does not. Single answers come late on a busy host; so the best of the last rates counts.
//!
//! What stands in a queue makes round trips longer, and a window that follows those is larger for it; so does what keeps the
//! hosts' processors busy. So only a frame that went alone tells how long a round trip takes: now and then all that is under
//! way is let arrive, and nothing more is sent until one short frame has been answered.
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
/// After so many round trips the next frame goes alone; after the fewest at first, and whenever it took another time than
/// those before it.
const PROBES_AFTER_MIN: u32 = 16;
const PROBES_AFTER_MAX: u32 = 256;
/// Of as many probes the one in the middle counts: a host may be busy once, or idle once.
const PROBES: usize = 3;
/// Round trips whose rates count.
const TRIPS: usize = 8;
/// Of them, those after which it does not grow quickly any more. What a larger window brings shows a round trip later.
const SAME_MAX: u32 = 3;

/// See the module.
#[derive(Debug)]
pub(crate) struct Window {
    bytes: u64,
    probes: Probes,
    /// With which byte of the connection the last frame ends.
    sent: u64,
    acknowledged: u64,
    /// The frame that is timed.
    timed: Option<Timed>,
    /// Bytes per second in the last round trips.
    rates: [u64; TRIPS],
    next_rate: usize,
    /// How many of them in a row were not much better than those before.
    same: u32,
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
    /// Nothing else was under way.
    is_probe: bool,
}

/// How long a round trip over an empty link takes.
#[derive(Debug)]
struct Probes {
    /// The last ones.
    times: [Option<Duration>; PROBES],
    next: usize,
    /// The next frame is to be one: it waits until nothing is under way.
    is_due: bool,
    /// Other round trips until then, and between the last two.
    left: u32,
    interval: u32,
}

impl Default for Probes {
    fn default() -> Self {
        let interval = PROBES_AFTER_MIN;
        Self { times: [None; PROBES], next: 0, is_due: true, left: interval, interval }
    }
}

impl Probes {
    /// A frame that went alone was answered after so long; whether that is about what was known.
    fn took(&mut self, time: Duration) -> bool {
        let is_as_before = self.round_trip().is_some_and(|before| time.abs_diff(before) <= before / 4);
        self.times[self.next] = Some(time);
        self.next = (self.next + 1) % PROBES;
        let longer = (self.interval * 4).min(PROBES_AFTER_MAX);
        self.interval = if is_as_before { longer } else { PROBES_AFTER_MIN };
        self.left = self.interval;
        is_as_before
    }

    /// A frame was answered that did not go alone.
    const fn passed(&mut self) {
        self.left = self.left.saturating_sub(1);
        self.is_due |= self.left == 0;
    }

    /// The one in the middle, or the shorter of two.
    fn round_trip(&self) -> Option<Duration> {
        let mut times = self.times.map(|time| time.unwrap_or(Duration::MAX));
        times.sort_unstable();
        let known = self.times.iter().flatten().count();
        (known > 0).then(|| times[(known - 1) / 2])
    }
}

impl Default for Window {
    fn default() -> Self {
        Self {
            bytes: FIRST,
            probes: Probes::default(),
            sent: 0,
            acknowledged: 0,
            timed: None,
            rates: [0; TRIPS],
            next_rate: 0,
            same: 0,
            was_full: false,
        }
    }
}

impl Window {
    /// How long the next frame may be: it ends with the page that reaches this.
    pub(crate) fn frame_bytes(&self) -> usize {
        let bytes = if self.probes.is_due { FRAME_MIN } else { self.bytes / 4 };
        bytes.clamp(FRAME_MIN, FRAME_MAX) as usize
    }

    /// Whether there is no room with so many bytes under way.
    pub(crate) const fn is_full(&mut self, in_flight: u64) -> bool {
        let is_probing = match self.timed {
            // At first little is under way in any case.
            Some(timed) => timed.is_probe && self.probes.times[0].is_some(),
            None => false,
        };
        let waits = is_probing || self.probes.is_due && self.acknowledged < self.sent;
        let is_full = in_flight + ROOM_MIN > self.bytes;
        self.was_full |= is_full;
        is_full || waits
    }

    /// A frame ends with byte `end` of the connection.
    pub(crate) fn sent(&mut self, end: u64, now: Instant) {
        let is_alone = self.acknowledged >= self.sent;
        self.sent = end;
        if self.timed.is_none() {
            let is_probe = is_alone && core::mem::take(&mut self.probes.is_due);
            self.timed = Some(Timed { end, since: now, acknowledged: self.acknowledged, is_probe });
        }
    }

    /// The target has taken in so many bytes of the connection.
    pub(crate) fn took(&mut self, acknowledged: u64, now: Instant) {
        self.acknowledged = acknowledged;
        let Some(timed) = self.timed.take_if(|timed| timed.end <= acknowledged) else { return };
        let time = now.since(timed.since).max(Duration::from_nanos(1));
        if timed.is_probe {
            if !self.probes.took(time) {
                self.same = 0;
            }
            return;
        }
        self.probes.passed();
        let Some(round_trip) = self.probes.round_trip() else { return };
        let rate = per_second(acknowledged.saturating_sub(timed.acknowledged), time);
        let bytes = self.follow(rate, time, round_trip);
        // What was not used says nothing about more.
        self.bytes = if core::mem::take(&mut self.was_full) { bytes } else { bytes.min(self.bytes) };
    }

    /// How large it is to be after a round trip of so much `time` in which the link carried so many bytes per second.
    fn follow(&mut self, rate: u64, time: Duration, round_trip: Duration) -> u64 {
        let best_of = |rates: &[u64]| rates.iter().max().copied().unwrap_or(0);
        let before = best_of(&self.rates);
        self.rates[self.next_rate] = rate;
        self.next_rate = (self.next_rate + 1) % TRIPS;
        let best = best_of(&self.rates);
        self.same = if rate / 8 > before / 7 { 0 } else { self.same.saturating_add(1) };
        let carried_in = |time: Duration| {
            let bytes = u128::from(best) * time.as_nanos() / 1_000_000_000;
            u64::try_from(bytes).unwrap_or(MAX).min(MAX)
        };
        let carried = carried_in(round_trip.max(LEAST_TIME));
        let more = match self.same < SAME_MAX {
            true if time <= round_trip.saturating_mul(5) / 4 => carried,
            true => carried / 2,
            false => carried / 16,
        };
        (carried + more.max(carried_in(LEAST_TIME).min(GRAIN))).clamp(MIN, MAX)
    }

    /// Bytes are counted from 0 again: the connection is another.
    pub(crate) const fn link_is_new(&mut self) {
        self.timed = None;
        self.was_full = false;
        self.sent = 0;
        self.acknowledged = 0;
        self.probes.is_due = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// A link, and what else holds up what is pushed over it.
    #[derive(Clone, Copy, Debug)]
    struct Path {
        bytes_per_second: u64,
        round_trip_us: u64,
        /// Bytes that the connection takes before they are acknowledged.
        socket: u64,
        /// Answers are later by this,
        late_us: u64,
        /// in this time: the hosts are busy; but for one of 16.
        late_until: u64,
    }

    impl Path {
        const fn new(bytes_per_second: u64, round_trip_us: u64) -> Self {
            Self { bytes_per_second, round_trip_us, socket: u64::MAX, late_us: 0, late_until: 0 }
        }
    }

    const ONE_SECOND: u64 = 1_000_000_000;

    /// Pushes for four seconds; bytes carried in the last three, and the mean time in the queue in them.
    fn push(path: Path) -> (u64, Duration) {
        let mut window = Window::default();
        let (mut sent, mut taken, mut free_at, mut taken_before) = (0u64, 0u64, 0u64, 0u64);
        let (mut queued, mut frames, mut frames_ever, mut answered_at) = (0u64, 0u64, 0u64, 0u64);
        let mut answers: VecDeque<(u64, u64)> = VecDeque::new();
        for now in (0..4 * ONE_SECOND).step_by(10_000) {
            let at = Instant::from_nanos(now);
            while let Some((_, bytes)) = answers.pop_front_if(|(when, _)| *when <= now) {
                taken = bytes;
                window.took(taken, at);
            }
            while !window.is_full(sent - taken) && sent - taken + window.frame_bytes() as u64 <= path.socket {
                let bytes = window.frame_bytes() as u64;
                sent += bytes;
                window.sent(sent, at);
                if now >= ONE_SECOND {
                    queued += free_at.saturating_sub(now);
                    frames += 1;
                }
                free_at = free_at.max(now) + bytes * ONE_SECOND / path.bytes_per_second;
                let is_late = now < path.late_until && !frames_ever.is_multiple_of(16);
                let late = if is_late { path.late_us } else { 0 };
                frames_ever += 1;
                answered_at = answered_at.max(free_at + (path.round_trip_us + late) * 1000);
                answers.push_back((answered_at, sent));
            }
            if now < ONE_SECOND {
                taken_before = taken;
            }
        }
        (taken - taken_before, Duration::from_nanos(queued / frames.max(1)))
    }

    fn check(path: Path) {
        let Path { bytes_per_second: rate, round_trip_us, .. } = path;
        let (carried, queue) = push(path);
        assert!(carried * 10 > rate * 3 * 8, "{carried} bytes over {rate} B/s, {round_trip_us} us");
        let least = Duration::from_nanos(MIN * ONE_SECOND / rate);
        let most = least.max(LEAST_TIME).max(Duration::from_micros(round_trip_us) / 4);
        assert!(queue <= most, "{queue:?} in the queue over {rate} B/s, {round_trip_us} us");
    }

    #[test]
    fn a_link_that_seemed_longer_at_first_is_not_filled_up_for_ever() {
        for socket in [u64::MAX, 64 * 1024] {
            let late_until = ONE_SECOND * 3 / 10;
            check(Path { socket, late_us: 32_000, late_until, ..Path::new(1_400_000, 8_000) });
        }
    }

    #[test]
    fn a_link_whose_answers_are_late_as_a_rule_is_filled_as_well() {
        let path = Path { late_us: 20_000, late_until: u64::MAX, ..Path::new(100_000_000, 2_000) };
        let (carried, _) = push(path);
        assert!(carried * 10 > path.bytes_per_second * 3 * 8, "{carried} bytes");
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
            check(Path::new(rate, round_trip_us));
        }
    }

    #[test]
    fn a_frame_that_is_to_go_alone_waits_for_frames_only_and_others_wait_for_it() {
        let mut window = Window::default();
        let at = |milliseconds| Instant::from_nanos(milliseconds * 1_000_000);
        for trip in 1..=u64::from(PROBES_AFTER_MIN) {
            window.sent(trip * 5000, at(2 * trip));
            window.took(trip * 5000, at(2 * trip + 2));
        }
        assert!(!window.is_full(0));
        window.sent(90_000, at(100));
        window.sent(95_000, at(100));
        window.took(90_000, at(102));
        assert!(window.is_full(5000), "it waits for that");
        window.took(95_000, at(103));
        assert!(!window.is_full(300), "what else was said is not answered");
        assert_eq!(window.frame_bytes() as u64, FRAME_MIN);
        window.sent(100_000, at(104));
        assert!(window.is_full(5000), "it is alone");
        window.took(100_000, at(106));
        assert!(!window.is_full(5000));
    }

    #[test]
    fn a_window_that_something_else_keeps_empty_does_not_grow() {
        let mut window = Window::default();
        for step in 0..1000u64 {
            let at = Instant::from_nanos(step * 1_000_000);
            assert!(!window.is_full(0));
            window.sent(step, at);
            window.took(step, at.after(Duration::from_micros(300)));
            assert!(window.bytes <= FIRST);
        }
    }
}
