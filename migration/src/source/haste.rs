//! Whether compressing keeps frames from going as fast as a cap lets them.
//!
//! Frames that find the cap idle for longer than they take at it wait for something else: for being made, or for a link that
//! carries less than the cap. Only the former is a reason to send pages as they are, and which of the two it is shows when
//! a few go so: if that moves clearly more bytes in the same time, more do.

use core::time::Duration;

use super::rate::per_second;

/// Time of sending over which is judged.
const JUDGED: Duration = Duration::from_millis(2);
/// The most that one frame says of time in which nothing was sent: the rest was not spent on making it.
const IDLE_MAX: Duration = Duration::from_millis(1);
/// Shorter frames say nothing: they are of pages that needed no bytes, or end a round.
const JUDGED_BYTES: usize = 8 * 1024;
/// Sent as they are before it is looked again whether pages need to be: where the cap is reached, compressed ones take less
/// of it.
const HURRIED_BYTES: u64 = 16 << 20;
/// Sent compressed over a narrow link before it is tried again.
const NARROW_BYTES: u64 = 64 << 20;

/// See the module.
#[derive(Debug)]
pub(crate) struct Haste {
    course: Course,
    /// Of the frames that are judged: time in which the cap was idle, time that they take at it, and their bytes.
    idle: Duration,
    busy: Duration,
    bytes: u64,
}

#[derive(Clone, Copy, Debug)]
enum Course {
    /// Pages are compressed.
    Compressing,
    /// For a moment they go as they are; before that it was so many bytes per second.
    Trying(u64),
    /// They go as they are, for so many bytes more.
    Hurrying(u64),
    /// The link is what frames wait for: pages are compressed for so many bytes more, whatever the cap would allow.
    Narrow(u64),
}

impl Haste {
    pub(crate) const fn new() -> Self {
        Self { course: Course::Compressing, idle: Duration::ZERO, busy: Duration::ZERO, bytes: 0 }
    }

    /// Whether pages are to go as they are.
    pub(crate) const fn is_on(&self) -> bool {
        matches!(self.course, Course::Trying(_) | Course::Hurrying(_))
    }

    /// A frame was sent after the cap had been idle for so long, and takes `busy` at the cap.
    pub(crate) fn sent(&mut self, bytes: usize, idle: Duration, busy: Duration) {
        if bytes < JUDGED_BYTES {
            return;
        }
        let frame = bytes as u64;
        self.course = match self.course {
            Course::Hurrying(left) if left > frame => Course::Hurrying(left - frame),
            Course::Narrow(left) if left > frame => Course::Narrow(left - frame),
            Course::Hurrying(_) | Course::Narrow(_) => Course::Compressing,
            course => return self.judge(course, frame, idle, busy),
        };
    }

    fn judge(&mut self, course: Course, frame: u64, idle: Duration, busy: Duration) {
        self.idle += idle.min(IDLE_MAX);
        self.busy += busy;
        self.bytes += frame;
        let time = self.idle + self.busy;
        if time < JUDGED {
            return;
        }
        let rate = per_second(self.bytes, time);
        self.course = match course {
            Course::Trying(before) if rate / 5 > before / 4 => Course::Hurrying(HURRIED_BYTES),
            Course::Trying(_) => Course::Narrow(NARROW_BYTES),
            _ if self.idle > self.busy => Course::Trying(rate),
            course => course,
        };
        (self.idle, self.busy, self.bytes) = (Duration::ZERO, Duration::ZERO, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: u64 = 128 << 10;
    /// At 1 GB/s.
    const AT_CAP: Duration = Duration::from_micros(131);

    /// Sends for `millis`; how much of the time pages went as they are. A frame of compressed pages takes `make_us` to be
    /// made, one of pages as they are 50 us, and neither goes before `link_us` have passed.
    fn hurried(make_us: u64, link_us: u64, millis: u64) -> f64 {
        let mut haste = Haste::new();
        let (mut now, mut as_they_are) = (Duration::ZERO, Duration::ZERO);
        while now < Duration::from_millis(millis) {
            let make = Duration::from_micros(if haste.is_on() { 50 } else { make_us });
            let time = make.max(Duration::from_micros(link_us)).max(AT_CAP);
            if haste.is_on() {
                as_they_are += time;
            }
            now += time;
            haste.sent(FRAME as usize, time.saturating_sub(AT_CAP), AT_CAP);
        }
        as_they_are.as_secs_f64() / now.as_secs_f64()
    }

    #[test]
    fn pages_go_as_they_are_where_compressing_is_slower_than_the_cap() {
        assert!(hurried(400, 0, 1000) > 0.8);
        assert_eq!(hurried(180, 0, 1000), 0.0, "the cap is nearly reached");
        assert_eq!(hurried(100, 0, 1000), 0.0);
    }

    #[test]
    fn pages_are_compressed_where_the_link_is_slower_than_the_cap() {
        // 260 MB/s; 1 MB/s.
        assert!(hurried(400, 500, 10_000) < 0.1);
        assert!(hurried(400, 128_000, 100_000) < 0.1);
    }

    #[test]
    fn a_link_that_carries_somewhat_more_than_compressing_fills_is_worth_it() {
        assert!(hurried(600, 250, 1000) > 0.8);
    }

    #[test]
    fn short_frames_say_nothing() {
        let mut haste = Haste::new();
        for _ in 0..1000 {
            haste.sent(JUDGED_BYTES - 1, IDLE_MAX, Duration::ZERO);
        }
        assert!(!haste.is_on());
    }
}
