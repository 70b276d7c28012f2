//! One direction of a wire: loss, delay, bandwidth, cut. Pure: time is an argument, chance is seeded.

use std::time::{Duration, Instant};

/// How a wire treats frames. The default is a perfect wire.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Conditions {
    /// Chance of losing a frame, 0.0 to 1.0.
    pub loss: f64,
    /// Time on the wire.
    pub delay: Duration,
    /// Bits per second; `None`: no cap.
    pub bandwidth_bits: Option<u64>,
    /// Nothing passes.
    pub cut: bool,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It comes out at this time.
    At(Instant),
    /// It is lost.
    Drop,
}

/// One direction of a wire.
pub struct Link {
    conditions: Conditions,
    /// When the wire has finished with the frames already on it.
    free_at: Instant,
    chance: u64,
}

impl Link {
    /// A perfect wire; `seed` decides which frames are lost once it is not.
    pub fn new(seed: u64, now: Instant) -> Self {
        let chance = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self { conditions: Conditions::default(), free_at: now, chance }
    }

    /// Changes the wire.
    pub fn set(&mut self, conditions: Conditions, now: Instant) {
        self.conditions = conditions;
        self.free_at = now;
    }

    /// Puts a frame of `length` bytes on the wire at `now`.
    pub fn pass(&mut self, length: usize, now: Instant) -> Verdict {
        if self.conditions.cut || self.draw() < self.conditions.loss {
            return Verdict::Drop;
        }
        let start = self.free_at.max(now);
        self.free_at = match self.conditions.bandwidth_bits {
            Some(bits) => start + Duration::from_nanos(length as u64 * 8 * 1_000_000_000 / bits.max(1)),
            None => now,
        };
        Verdict::At(self.free_at + self.conditions.delay)
    }

    /// A number in 0.0..1.0 (xorshift64).
    fn draw(&mut self) -> f64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        (self.chance >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(conditions: Conditions) -> (Link, Instant) {
        let now = Instant::now();
        let mut link = Link::new(7, now);
        link.set(conditions, now);
        (link, now)
    }

    #[test]
    fn a_perfect_wire_takes_no_time() {
        let (mut link, now) = link(Conditions::default());
        assert_eq!(link.pass(1514, now), Verdict::At(now));
        assert_eq!(link.pass(1514, now), Verdict::At(now));
    }

    #[test]
    fn a_cut_wire_passes_nothing() {
        let (mut link, now) = link(Conditions { cut: true, ..Conditions::default() });
        assert_eq!(link.pass(60, now), Verdict::Drop);
    }

    #[test]
    fn delay_is_added_to_every_frame() {
        let delay = Duration::from_millis(30);
        let (mut link, now) = link(Conditions { delay, ..Conditions::default() });
        assert_eq!(link.pass(60, now), Verdict::At(now + delay));
        assert_eq!(link.pass(60, now + delay), Verdict::At(now + 2 * delay));
    }

    #[test]
    fn a_cap_queues_frames_behind_each_other_and_forgets_idle_time() {
        let (mut link, now) = link(Conditions { bandwidth_bits: Some(8_000_000), ..Conditions::default() });
        let millisecond = Duration::from_millis(1);
        assert_eq!(link.pass(1000, now), Verdict::At(now + millisecond));
        assert_eq!(link.pass(1000, now), Verdict::At(now + 2 * millisecond));
        let later = now + 100 * millisecond;
        assert_eq!(link.pass(1000, later), Verdict::At(later + millisecond));
    }

    #[test]
    fn loss_comes_close_to_its_rate_and_repeats_with_its_seed() {
        let count = || {
            let (mut link, now) = link(Conditions { loss: 0.1, ..Conditions::default() });
            (0..10_000).filter(|_| link.pass(60, now) == Verdict::Drop).count()
        };
        let lost = count();
        assert!((900..1100).contains(&lost), "{lost}");
        assert_eq!(lost, count());
    }
}
