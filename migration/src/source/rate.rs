//! Rates: what the link carries, what the guest dirties, what a person allows.

use core::time::Duration;

use super::haste::Haste;
use crate::time::Instant;

const NANOS: u128 = 1_000_000_000;
/// Shortest time over which a rate is believed.
const WINDOW_MIN: Duration = Duration::from_millis(2);
/// Time after which half of what is known of the guest's dirty rate comes from what was seen since.
const DIRTY_MEMORY: Duration = Duration::from_millis(500);
/// What a capped link may send at once, as time at the cap.
const BURST: Duration = Duration::from_millis(20);

/// Amount per second.
pub(crate) fn per_second(amount: u64, time: Duration) -> u64 {
    let per_second = u128::from(amount) * NANOS / time.as_nanos().max(1);
    u64::try_from(per_second).unwrap_or(u64::MAX)
}

/// How long `amount` takes at `rate` per second.
pub(crate) fn time_for(amount: u64, rate: u64) -> Duration {
    let nanos = u128::from(amount) * NANOS / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Keeps the bytes sent under a cap: a token bucket that may go into debt by one frame.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    rate: Option<u64>,
    /// When the debt is paid.
    free_at: Instant,
    haste: Haste,
}

impl TokenBucket {
    pub(crate) const fn new(rate: Option<u64>) -> Self {
        Self { rate, free_at: Instant::ORIGIN, haste: Haste::new() }
    }

    /// Changes the cap.
    pub(crate) fn set(&mut self, rate: Option<u64>, now: Instant) {
        if self.rate != rate {
            // What was sent above the old cap is still owed, but for no longer than a burst is worth.
            let free_at = if rate.is_some() { self.free_at.clamp(now, now.after(BURST)) } else { now };
            *self = Self { free_at, ..Self::new(rate) };
        }
    }

    /// When the next frame may go.
    pub(crate) fn ready_at(&self, now: Instant) -> Instant {
        let burst = Instant::from_nanos(self.free_at.as_nanos().saturating_sub(BURST.as_nanos() as u64));
        if burst <= now { now } else { self.free_at }
    }

    /// Longest frame that keeps the rate smooth.
    pub(crate) fn frame_bytes(&self, longest: usize, shortest: usize) -> usize {
        let Some(rate) = self.rate else { return longest };
        let smooth = usize::try_from(rate / 50).unwrap_or(usize::MAX);
        smooth.clamp(shortest, longest)
    }

    /// Whether pages are to go as they are: compressed they do not reach the cap.
    pub(crate) const fn is_out_of_reach(&self) -> bool {
        self.haste.is_on()
    }

    /// Accounts for a frame.
    pub(crate) fn spend(&mut self, bytes: usize, now: Instant) {
        if let Some(rate) = self.rate {
            let at_cap = time_for(bytes as u64, rate);
            self.haste.sent(bytes, now.since(self.free_at), at_cap);
            let from = self.free_at.max(now);
            self.free_at = from.after(at_cap);
        }
    }
}

/// What the link carries, from what the target says it took in.
#[derive(Debug, Default)]
pub(crate) struct BandwidthMeter {
    /// Since when bytes have been under way without a pause, and how many had been taken in by then.
    window: Option<Window>,
    acknowledged: u64,
    rate: Option<u64>,
    round_trip: Option<Duration>,
    /// The quickest answer, with all that the question had to wait for.
    answer: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    since: Instant,
    acknowledged: u64,
    /// Whether the first byte of the window had the whole way before it.
    from_rest: bool,
}

impl BandwidthMeter {
    /// Bytes per second, `None` while unknown.
    pub(crate) const fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// The shortest round trip seen, without the time in queues; zero while unknown.
    pub(crate) fn round_trip(&self) -> Duration {
        self.round_trip.unwrap_or_default()
    }

    /// At least what a round trip takes without queues, where [`Self::round_trip`] may be less than that; zero while
    /// unknown.
    pub(crate) fn round_trip_at_most(&self) -> Duration {
        self.answer.unwrap_or_default()
    }

    /// An answer took `time`, with all that it had to wait for.
    pub(crate) fn saw_answer(&mut self, time: Duration) {
        self.answer = Some(self.answer.map_or(time, |least| least.min(time)));
    }

    /// Bytes are counted from 0 again: the connection is another.
    pub(crate) fn link_is_new(&mut self) {
        self.acknowledged = 0;
        self.window = None;
    }

    /// All that was sent has been taken in: what was said after it has been answered.
    pub(crate) const fn all_arrived(&mut self, sent: u64) {
        self.acknowledged = sent;
        self.window = None;
    }

    /// Bytes under way, of `sent`.
    pub(crate) const fn in_flight(&self, sent: u64) -> u64 {
        sent.saturating_sub(self.acknowledged)
    }

    /// An answer took `time`, after `queued_bytes` that had to arrive before the question.
    pub(crate) fn saw_round_trip(&mut self, time: Duration, queued_bytes: u64) {
        self.saw_answer(time);
        let queue = self.rate.map_or(Duration::ZERO, |rate| time_for(queued_bytes, rate));
        // The rate wanders: a queue does not explain away more than most of the time.
        let time = time.saturating_sub(queue).max(time / 4);
        self.round_trip = Some(self.round_trip.map_or(time, |least| least.min(time)));
    }

    /// Bytes are about to be sent.
    pub(crate) fn sending(&mut self, now: Instant) {
        if self.window.is_none() {
            self.window = Some(Window { since: now, acknowledged: self.acknowledged, from_rest: true });
        }
    }

    /// The target has taken in `acknowledged` of `sent` bytes.
    pub(crate) fn took(&mut self, acknowledged: u64, sent: u64, now: Instant) {
        let acknowledged = acknowledged.min(sent).max(self.acknowledged);
        self.acknowledged = acknowledged;
        let Some(window) = self.window else { return };
        let way = if window.from_rest { self.round_trip() } else { Duration::ZERO };
        let time = now.since(window.since).saturating_sub(way);
        let bytes = acknowledged - window.acknowledged;
        let is_over = self.in_flight(sent) == 0;
        if time >= WINDOW_MIN && bytes > 0 {
            let sample = per_second(bytes, time);
            // A short window counts little against what longer ones have shown.
            let weight = (time.as_millis() as u64).clamp(1, 64);
            self.rate = Some(match self.rate {
                None => sample,
                Some(rate) => {
                    let sum =
                        u128::from(rate) * u128::from(128 - weight) + u128::from(sample) * u128::from(weight);
                    u64::try_from(sum / 128).unwrap_or(u64::MAX)
                }
            });
            self.window = Some(Window { since: now, acknowledged, from_rest: false });
        }
        if is_over {
            self.window = None;
        }
    }
}

/// How fast the guest dirties pages, from harvest to harvest.
#[derive(Debug, Default)]
pub(crate) struct DirtyMeter {
    since: Option<Instant>,
    rate: u64,
}

impl DirtyMeter {
    /// Pages per second.
    pub(crate) const fn rate(&self) -> u64 {
        self.rate
    }

    /// Recording begins.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.since = Some(now);
    }

    /// A harvest brought `pages`.
    pub(crate) fn harvested(&mut self, pages: u32, now: Instant) {
        if let Some(since) = self.since {
            let time = now.since(since);
            if time >= WINDOW_MIN {
                let sample = per_second(pages.into(), time);
                // Pages come in bursts: a short window says little about the rate, however much was in it.
                let (seen, memory) = (time.as_nanos(), DIRTY_MEMORY.as_nanos());
                let sum = u128::from(self.rate) * memory + u128::from(sample) * seen;
                let weighted = u64::try_from(sum / (memory + seen)).unwrap_or(u64::MAX);
                self.rate = if self.rate == 0 { sample } else { weighted };
                self.since = Some(now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn a_capped_link_sends_its_rate_and_no_more() {
        let mut bucket = TokenBucket::new(Some(1_000_000));
        let (mut now, mut sent) = (at(5), 0u64);
        while now < at(2005) {
            let ready = bucket.ready_at(now);
            if ready > now {
                now = ready;
                continue;
            }
            bucket.spend(16_384, now);
            sent += 16_384;
        }
        assert!((1_980_000..2_080_000).contains(&sent), "{sent} bytes in 2 s");
    }

    #[test]
    fn what_was_sent_under_one_cap_is_owed_under_the_next() {
        let mut bucket = TokenBucket::new(Some(1_000_000));
        bucket.spend(100_000, at(0));
        bucket.set(Some(2_000_000), at(0));
        assert_eq!(bucket.ready_at(at(0)), at(0), "a burst at the most");
        bucket.spend(16_384, at(0));
        assert!(bucket.ready_at(at(0)) > at(20), "and that on top of it");
        bucket.set(None, at(0));
        assert_eq!(bucket.ready_at(at(0)), at(0));
    }

    #[test]
    fn a_burst_in_a_short_window_is_not_the_rate() {
        let mut meter = DirtyMeter::default();
        meter.begin(at(0));
        for step in 0..40u64 {
            // 5 pages in 5 ms, then 195 ms without any: 25 pages a second.
            meter.harvested(5, at(step * 200 + 5));
            meter.harvested(0, at(step * 200 + 200));
        }
        assert!((15..40).contains(&meter.rate()), "{}", meter.rate());
    }

    #[test]
    fn a_steady_link_is_measured_and_rests_do_not_count() {
        let mut meter = BandwidthMeter::default();
        let mut sent = 0;
        for step in 0..50u64 {
            let start = at(step * 1000);
            meter.sending(start);
            sent += 1_000_000;
            // 100 ms of sending at 10 MB/s, then 900 ms of rest.
            meter.took(sent, sent, start.after(Duration::from_millis(100)));
        }
        let rate = meter.rate().unwrap();
        assert!((9_500_000..10_500_000).contains(&rate), "{rate}");
    }
}
