//! One end of one line, without its threads: what was sent and not confirmed, what may be sent, what has come.
//!
//! Each end tells the other by [`Frame::Ack`] how far the line's bytes have come and how far they may go. So nothing is
//! sent that finds no room, whoever is slow, and whatever is not confirmed for the line's patience is sent again. Places in
//! the stream are counted modulo 2^32.

use std::collections::VecDeque;
use std::time::Duration;

use crate::frame::{DATA_BYTES_MAX, Frame};

/// How many bytes to send an end keeps, confirmed ones excepted.
pub const QUEUE_BYTES_MAX: usize = 4096;

/// How an end behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// Whether it speaks first. The other end is silent until it has heard something: bytes that come while a machine
    /// looks for its serial ports confuse it.
    pub speaks_first: bool,
    /// How many bytes may come before they have been fetched.
    pub window: u16,
    /// How long nothing may go forward before it is sent again.
    pub patience: Duration,
}

/// One end of one line. Times are since some moment in the past.
#[derive(Debug)]
pub struct Line {
    number: u16,
    manner: Manner,
    outgoing: Outgoing,
    incoming: Incoming,
    /// The other end has said something.
    is_heard: bool,
    /// When something last went forward, or was sent again because nothing did.
    moved: Duration,
}

/// Bytes on their way to the other end.
#[derive(Debug, Default)]
struct Outgoing {
    /// From `acked` on.
    queue: VecDeque<u8>,
    acked: u32,
    /// What goes next.
    next: u32,
    /// The end of what was ever sent.
    sent: u32,
    /// Where the other end has room to.
    limit: u32,
    /// Asks for an [`Frame::Ack`], without bytes.
    asks: bool,
}

/// Bytes from the other end.
#[derive(Debug, Default)]
struct Incoming {
    ready: VecDeque<u8>,
    received: u32,
    /// Bytes before `received` that have not been fetched, or not got rid of.
    held: u32,
    /// The limit that the other end was told.
    told: Option<u32>,
    /// It is to be told anew.
    answers: bool,
}

impl Line {
    /// An end on which nothing has happened yet.
    #[must_use]
    pub fn new(number: u16, manner: Manner, now: Duration) -> Self {
        let incoming = Incoming { answers: manner.speaks_first, ..Incoming::default() };
        Self { number, manner, outgoing: Outgoing::default(), incoming, is_heard: false, moved: now }
    }

    /// How many bytes [`Self::push`] takes.
    #[must_use]
    pub fn room(&self) -> usize {
        QUEUE_BYTES_MAX.saturating_sub(self.outgoing.queue.len())
    }

    /// Takes bytes for the other end, [`Self::room`] at most; what is more is lost.
    pub fn push(&mut self, bytes: &[u8], now: Duration) {
        if self.outgoing.queue.is_empty() {
            self.moved = now;
        }
        self.outgoing.queue.extend(bytes.iter().take(self.room()));
    }

    /// Gives bytes from the other end, `at_most` so many. They count as held until [`Self::dispose`].
    pub fn fetch(&mut self, at_most: usize) -> Vec<u8> {
        let count = at_most.min(self.incoming.ready.len());
        self.incoming.ready.drain(..count).collect()
    }

    /// `count` bytes that were fetched have found their place, which makes room for others.
    pub fn dispose(&mut self, count: usize) {
        let incoming = &mut self.incoming;
        incoming.held = incoming.held.saturating_sub(count as u32);
        let window = u32::from(self.manner.window);
        let grown = incoming.told.is_some_and(|told| {
            let limit = incoming.received.wrapping_add(window).wrapping_sub(incoming.held);
            limit.wrapping_sub(told) >= window.div_ceil(2)
        });
        incoming.answers |= grown;
    }

    /// The next frame to send, if there is one.
    pub fn next_frame(&mut self, now: Duration) -> Option<Frame> {
        if self.incoming.answers {
            return Some(self.ack());
        }
        let outgoing = &mut self.outgoing;
        let begin = outgoing.next.wrapping_sub(outgoing.acked) as usize;
        let allowed = distance(outgoing.next, outgoing.limit);
        let count = outgoing.queue.len().saturating_sub(begin).min(allowed as usize).min(DATA_BYTES_MAX);
        if count == 0 && !outgoing.asks {
            return None;
        }
        outgoing.asks = false;
        let bytes: Vec<u8> = outgoing.queue.range(begin..begin + count).copied().collect();
        let offset = outgoing.next;
        outgoing.next = offset.wrapping_add(count as u32);
        if distance(outgoing.sent, outgoing.next) > 0 {
            outgoing.sent = outgoing.next;
            self.moved = now;
        }
        Some(Frame::Data { line: self.number, offset, bytes })
    }

    fn ack(&mut self) -> Frame {
        let incoming = &mut self.incoming;
        let free = u32::from(self.manner.window).saturating_sub(incoming.held);
        let limit = incoming.received.wrapping_add(free);
        incoming.answers = false;
        incoming.told = Some(limit);
        Frame::Ack { line: self.number, received: incoming.received, limit }
    }

    /// Takes a frame of this line from the other end.
    pub fn take(&mut self, frame: &Frame, now: Duration) {
        self.is_heard = true;
        self.incoming.answers |= self.incoming.told.is_none();
        match frame {
            Frame::Data { offset, bytes, .. } => self.take_data(*offset, bytes),
            Frame::Ack { received, limit, .. } => self.take_ack(*received, *limit, now),
        }
    }

    /// Appends what is new of `bytes`. Behind a gap nothing is of use: the other end will begin at the gap.
    fn take_data(&mut self, offset: u32, bytes: &[u8]) {
        let incoming = &mut self.incoming;
        incoming.answers = true;
        let known = incoming.received.wrapping_sub(offset) as usize;
        let Some(new) = bytes.get(known..) else { return };
        let free = u32::from(self.manner.window).saturating_sub(incoming.held) as usize;
        let new = &new[..new.len().min(free)];
        incoming.ready.extend(new);
        incoming.received = incoming.received.wrapping_add(new.len() as u32);
        incoming.held += new.len() as u32;
    }

    fn take_ack(&mut self, received: u32, limit: u32, now: Duration) {
        let outgoing = &mut self.outgoing;
        let confirmed = received.wrapping_sub(outgoing.acked);
        // An old one, or not of this line's stream.
        if confirmed > outgoing.sent.wrapping_sub(outgoing.acked) || limit.wrapping_sub(received) > 0xffff {
            return;
        }
        let more = distance(outgoing.limit, limit);
        outgoing.queue.drain(..confirmed as usize);
        outgoing.acked = received;
        if distance(outgoing.next, received) > 0 {
            outgoing.next = received;
        }
        outgoing.limit = outgoing.limit.wrapping_add(more);
        if confirmed > 0 || more > 0 {
            self.moved = now;
        }
    }

    /// When [`Self::tick`] has something to do, unless something goes forward before.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let unanswered = self.manner.speaks_first && !self.is_heard;
        (unanswered || self.is_waiting()).then(|| self.moved + self.manner.patience)
    }

    /// Has bytes to send, and may: an end that was never heard is not spoken to.
    fn is_waiting(&self) -> bool {
        self.is_heard && !self.outgoing.queue.is_empty()
    }

    /// Looks at the time. Whether something will be sent again.
    pub fn tick(&mut self, now: Duration) -> bool {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return false;
        }
        self.moved = now;
        if !self.is_heard {
            self.incoming.answers = true;
            return true;
        }
        let outgoing = &mut self.outgoing;
        outgoing.next = outgoing.acked;
        // If there was no room: the frame that told of new room may have been lost.
        outgoing.asks = true;
        outgoing.sent != outgoing.acked
    }
}

/// From `begin` to `end`; 0 if `end` lies before.
fn distance(begin: u32, end: u32) -> u32 {
    let distance = end.wrapping_sub(begin);
    if distance > i32::MAX as u32 { 0 } else { distance }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);
    const START: Duration = Duration::from_secs(1);

    /// Both ends of a line and the time; some frames do not arrive.
    struct Both {
        near: Line,
        far: Line,
        now: Duration,
        random: u64,
        /// Of 256.
        lost: u64,
        frames: usize,
    }

    impl Both {
        fn new(window: u16, lost: u64) -> Self {
            let manner = |speaks_first| Manner { speaks_first, window, patience: PATIENCE };
            let end = |speaks_first| Line::new(3, manner(speaks_first), START);
            Self { near: end(true), far: end(false), now: START, random: 1, lost, frames: 0 }
        }

        /// Carries frames to and fro until neither end has one.
        fn settle(&mut self) {
            loop {
                let frames = [self.near.next_frame(self.now), self.far.next_frame(self.now)];
                if frames == [None, None] {
                    return;
                }
                for (frame, to) in frames.into_iter().zip([&mut self.far, &mut self.near]) {
                    self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    if let Some(frame) = frame
                        && self.random >> 56 >= self.lost
                    {
                        to.take(&frame, self.now);
                    }
                    self.frames += 1;
                }
            }
        }

        fn wait(&mut self) {
            self.now += PATIENCE;
            self.near.tick(self.now);
            self.far.tick(self.now);
            self.settle();
        }
    }

    fn text(length: usize) -> Vec<u8> {
        (0..length).map(|index| (index * 7 + index / 256) as u8).collect()
    }

    /// Sends `length` bytes from the far end while the near one fetches `at_once` of them at a time.
    fn carry(both: &mut Both, length: usize, at_once: usize) {
        let (all, mut pushed, mut got) = (text(length), 0, Vec::<u8>::new());
        for _ in 0..1_000_000 {
            let count = both.far.room().min(length - pushed);
            both.far.push(&all[pushed..pushed + count], both.now);
            pushed += count;
            both.settle();
            let bytes = both.near.fetch(at_once);
            both.near.dispose(bytes.len());
            got.extend(&bytes);
            if bytes.is_empty() && got.len() < length {
                both.wait();
            }
            if got.len() == length && both.far.outgoing.queue.is_empty() {
                break;
            }
            if got.len() == length {
                both.wait();
            }
        }
        assert_eq!(got, all);
    }

    #[test]
    fn bytes_arrive_whole_in_order_and_once_whoever_is_slow() {
        for (window, at_once) in [(1, 1), (512, 1), (512, 4096), (2048, 100)] {
            let mut both = Both::new(window, 0);
            carry(&mut both, 20_000, at_once);
            assert_eq!(both.now, START, "nothing was lost, so nothing was waited for");
        }
    }

    #[test]
    fn bytes_arrive_although_a_third_of_the_frames_does_not() {
        for window in [1, 64, 2048] {
            carry(&mut Both::new(window, 85), 5_000, 100);
        }
    }

    #[test]
    fn places_in_the_stream_begin_anew_after_4_gib() {
        let mut both = Both::new(512, 60);
        both.settle();
        let last = u32::MAX - 1_000;
        for end in [&mut both.near, &mut both.far] {
            end.incoming.received = last;
            (end.outgoing.acked, end.outgoing.next, end.outgoing.sent, end.outgoing.limit) =
                (last, last, last, last);
            end.incoming.told = None;
            end.incoming.answers = true;
        }
        carry(&mut both, 10_000, 100);
    }

    #[test]
    fn no_more_is_sent_than_there_is_room_for() {
        let mut both = Both::new(100, 0);
        both.settle();
        both.far.push(&text(1_000), both.now);
        both.settle();
        assert_eq!(both.near.fetch(1_000).len(), 100);
        both.settle();
        assert_eq!(both.near.fetch(1_000), [], "what is fetched still takes its place");
        both.near.dispose(100);
        both.settle();
        assert_eq!(both.near.fetch(1_000).len(), 100);
    }

    #[test]
    fn the_end_that_is_spoken_to_is_silent_until_then_and_the_other_asks_again() {
        let mut both = Both::new(100, 0);
        both.far.push(b"x", both.now);
        assert_eq!(both.far.next_frame(both.now), None);
        assert_eq!(both.far.deadline(), None);
        assert!(both.near.next_frame(both.now).is_some());
        assert_eq!(both.near.next_frame(both.now), None);
        assert!(!both.near.tick(both.now));
        both.wait();
        assert_eq!(both.near.fetch(10), b"x");
        assert_eq!(both.near.deadline(), None, "it has been heard");
    }

    #[test]
    fn an_idle_line_sends_nothing() {
        let mut both = Both::new(100, 0);
        carry(&mut both, 1_000, 1_000);
        both.settle();
        let frames = both.frames;
        both.wait();
        assert_eq!((both.near.deadline(), both.far.deadline(), both.frames), (None, None, frames));
    }

    #[test]
    fn room_of_which_the_other_end_does_not_know_is_asked_for() {
        let mut both = Both::new(100, 0);
        both.settle();
        both.far.push(&text(200), both.now);
        both.settle();
        both.near.fetch(100);
        both.near.dispose(100);
        assert!(matches!(both.near.next_frame(both.now), Some(Frame::Ack { .. })), "and that one is lost");
        both.settle();
        assert_eq!(both.near.fetch(100), []);
        both.wait();
        assert_eq!(both.near.fetch(100), &text(200)[100..]);
    }

    #[test]
    fn frames_out_of_place_change_nothing() {
        let mut both = Both::new(100, 0);
        both.settle();
        both.far.push(&text(50), both.now);
        let ack = |received, limit| Frame::Ack { line: 3, received, limit };
        for (received, limit) in [(1, 100), (51, 90), (u32::MAX, 50), (0, 0x1_0000), (0, u32::MAX)] {
            both.far.take(&ack(received, limit), both.now);
        }
        let data = |offset| Frame::Data { line: 3, offset, bytes: text(200) };
        for offset in [1, 50, 200, u32::MAX / 2, u32::MAX - 500] {
            both.near.take(&data(offset), both.now);
        }
        assert_eq!(both.near.fetch(1_000), []);
        both.settle();
        assert_eq!(both.near.fetch(1_000), text(50));
        both.near.take(&data(0), both.now);
        assert_eq!(both.near.fetch(1_000).len(), 50, "no more than there was room for");
    }

    #[test]
    fn a_full_queue_takes_no_more() {
        let mut line = Both::new(1, 0).far;
        line.push(&text(2 * QUEUE_BYTES_MAX), START);
        assert_eq!(line.room(), 0);
        line.push(b"x", START);
        assert_eq!(line.outgoing.queue.len(), QUEUE_BYTES_MAX);
    }
}
