//! The guest runs here, and parts of its memory are still at the source: what it waits for is asked for at once, what
//! comes is handed to it page by page, and what does not come because a connection was lost is asked for again.
//!
//! A page is taken once: one that has come belongs to the guest, and whatever else comes for it is dropped.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use super::{State, Target};
use crate::endpoint::{Link, keepalive};
use crate::io::{Channel, Event, GuestAction, OUTPUT_BYTES_MIN};
use crate::latency::Latency;
use crate::progress::Told;
use crate::ram::{GuestRam, Page};
use crate::reason::{AbortReason, StreamFault};
use crate::status::{Phase, PostCopy};
use crate::time::Instant;
use crate::wire::VERSION_URGENT_PROGRESS;
use crate::wire::absent::Walk;
use crate::wire::assemble::{Assembler, Unit};
use crate::wire::control::{Complete, Control, Progress, Pushed, Want, guest_digest};
use crate::wire::frame::Kind;
use crate::wire::opening::Opening;

/// Most pages that are waited for at one time and asked for; others come when they are pushed.
const WANTED_MAX: usize = 1024;
/// Most ranges of lost pages that are named.
const RANGES_MAX: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Filling {
    /// Pages that are waited for, and since when.
    wanted: Vec<(Page, Instant)>,
    /// Those of them that are still to be asked for.
    to_ask: VecDeque<Page>,
    latency: Latency,
    /// What the source was told of the pages that it sends, and of those that somebody waited for.
    pub(super) told: Told,
    told_of_urgent: Told,
    /// Pages that were absent at first.
    pages: u32,
    began_at: Option<Instant>,
    /// How long it took until the last page had come.
    took: Option<Duration>,
    interruptions: u32,
    /// What we lack is being said, up to here.
    answer: Option<Walk>,
    /// The guest has ended meanwhile.
    is_ended: bool,
    /// A person has given up what had not come.
    is_forsaken: bool,
    /// Everything has come, and whether it is what it should be; `None` while that is not known.
    agrees: Option<bool>,
    /// The source has sent everything, and this is the digest of it. The last page may still be on the other connection.
    pushed: Option<u64>,
}

impl Filling {
    /// Whether somebody waits.
    pub(super) const fn is_waiting(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// The next page to be asked for.
    pub(super) fn next_to_ask(&mut self) -> Option<Page> {
        self.to_ask.pop_front()
    }

    /// Whether everything has come, and is what it should be.
    pub(super) const fn is_whole(&self) -> bool {
        matches!(self.agrees, Some(true))
    }

    fn is_waited_for(&self, page: Page) -> bool {
        self.wanted.iter().any(|(wanted, _)| *wanted == page)
    }

    /// Everything that is waited for is asked for again.
    pub(super) fn ask_again(&mut self) {
        self.to_ask = self.wanted.iter().map(|(page, _)| *page).collect();
    }
}

impl Target {
    /// The guest runs here; whether parts of its memory are absent.
    pub(super) fn begin_filling(&mut self, now: Instant) -> bool {
        let Some(receiver) = &mut self.receiver else { return false };
        if !receiver.go_live() {
            return false;
        }
        self.filling.pages = receiver.absent_pages().len();
        self.filling.began_at = Some(now);
        self.state = State::Filling;
        self.endpoint.enter(Phase::PostCopy);
        if self.endpoint.link.is_none() {
            // Lost while the guest was being started.
            self.on_interrupted();
        }
        true
    }

    /// Something of the guest's waits for a page. It may before we know that the guest runs.
    pub(super) fn on_wanted(&mut self, now: Instant, page: Page) {
        let is_absent = self.receiver.as_ref().is_some_and(|it| it.absent_pages().contains(page));
        let may = matches!(self.state, State::Filling | State::Starting { .. });
        if is_absent && may && !self.filling.is_waited_for(page) && self.filling.wanted.len() < WANTED_MAX {
            self.filling.wanted.push((page, now));
            self.filling.to_ask.push_back(page);
        }
    }

    /// Takes note of the pages that have come; how many they are.
    pub(super) fn note_arrived(&mut self, now: Instant) -> u32 {
        let Some(receiver) = &mut self.receiver else { return 0 };
        let arrived = receiver.take_arrived();
        let count = arrived.len() as u32;
        for page in arrived {
            if let Some(index) = self.filling.wanted.iter().position(|(wanted, _)| *wanted == page) {
                let (_, since) = self.filling.wanted.swap_remove(index);
                self.filling.latency.add(now.since(since));
            }
        }
        if matches!(self.state, State::Filling) && receiver.absent_pages().is_empty() {
            let began_at = self.filling.began_at;
            self.filling
                .took
                .get_or_insert_with(|| began_at.map_or(Duration::ZERO, |began| now.since(began)));
            self.filling.wanted.clear();
            self.filling.to_ask.clear();
            self.complete_if_whole(now);
        }
        count
    }

    /// The source has sent everything.
    pub(super) fn on_pushed(&mut self, now: Instant, pushed: &Pushed) -> Result<(), AbortReason> {
        if self.filling.began_at.is_none() {
            return Err(AbortReason::Stream(StreamFault::Unexpected));
        }
        if matches!(self.state, State::Owner) {
            if !self.filling.is_ended && !self.filling.is_whole() {
                // It came from a spool that did not know this.
                self.compare(pushed.digest);
            }
            self.say_complete();
            return Ok(());
        }
        self.filling.pushed = Some(pushed.digest);
        self.complete_if_whole(now);
        Ok(())
    }

    /// If everything has been sent and has come, the guest is whole.
    fn complete_if_whole(&mut self, now: Instant) {
        let (Some(receiver), Some(pushed)) = (&self.receiver, self.filling.pushed) else { return };
        if !receiver.absent_pages().is_empty() {
            return;
        }
        self.compare(pushed);
        self.own_all(now);
    }

    /// Everything that a spool had of what was lacking has come; with it the digest, if the source had told the spool. If it
    /// had not, the guest is complete, and is not known to be what it was.
    pub(super) fn complete_with_spool(&mut self, now: Instant, digest: Option<u64>) {
        let is_complete = self.receiver.as_ref().is_some_and(|receiver| receiver.absent_pages().is_empty());
        if is_complete && matches!(self.state, State::Filling) {
            if let Some(digest) = digest {
                self.compare(digest);
            }
            self.own_all(now);
        }
    }

    /// Compares what has come in all with the source's digest of it.
    fn compare(&mut self, digest: u64) {
        let Some(receiver) = &self.receiver else { return };
        self.digest = guest_digest(receiver.ram_digest(), receiver.page_count(), 0);
        self.filling.agrees = Some(digest == self.digest);
        if !self.filling.is_whole() {
            // Each page was checked when it came. Asking again would end as this did.
            self.endpoint.tell(Event::DigestDiffers);
        }
    }

    /// Nothing is lacking any more.
    fn own_all(&mut self, now: Instant) {
        self.state = State::Owner;
        self.ended_at = Some(now);
        self.endpoint.enter(Phase::Completed);
        self.say_complete();
        self.endpoint.act(GuestAction::Settle);
    }

    fn say_complete(&mut self) {
        let waits = self.filling.latency.waits();
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.endpoint.say(Control::Complete(Complete {
            is_ended: self.filling.is_ended,
            differs: self.filling.agrees == Some(false),
            filling_ns: nanos(self.filling.took.unwrap_or_default()),
            waits: waits.count,
            median_ns: nanos(waits.median),
            p99_ns: nanos(waits.p99),
            longest_ns: nanos(waits.longest),
            total_ns: nanos(waits.total),
        }));
    }

    /// The guest stopped by itself: it needs no memory any more.
    pub(super) fn on_ended(&mut self, now: Instant) {
        if matches!(self.state, State::Owner) && self.filling.is_forsaken && self.endpoint.link.is_none() {
            // Nobody runs it now: what a source may still have is the best there is.
            return self.released(now);
        }
        if matches!(self.state, State::Forsaking) {
            self.filling.is_ended = true;
        }
        if !matches!(self.state, State::Filling) {
            return;
        }
        self.need_nothing(now);
        if self.filling.answer.is_none() {
            self.say_complete();
        }
    }

    /// What has not come is not waited for any more.
    fn need_nothing(&mut self, now: Instant) {
        self.filling.is_ended = true;
        self.filling.wanted.clear();
        self.filling.to_ask.clear();
        if let Some(receiver) = &mut self.receiver {
            receiver.need_nothing();
        }
        self.state = State::Owner;
        self.ended_at = Some(now);
        self.endpoint.enter(Phase::Completed);
        self.release_spool();
    }

    /// Whether this is a migration whose memory went after the switch.
    pub(super) const fn is_filled_later(&self) -> bool {
        self.filling.began_at.is_some()
    }

    /// The source asks: it is told what we lack, then that the guest is ours.
    pub(super) fn answer_with_lacks(&mut self) {
        self.filling.answer = Some(Walk::default());
    }

    /// Puts what is next to be said of what we lack, or wait for, into the buffer.
    pub(super) fn stream(&mut self, buffer: &mut [u8]) -> Option<usize> {
        let receiver = self.receiver.as_ref()?;
        let link = self.endpoint.link.as_mut()?;
        if let Some(walk) = &mut self.filling.answer {
            if let Some(len) = walk.next(receiver.absent_pages(), link.sequence, buffer) {
                link.next_sequence();
                return Some(len);
            }
            self.filling.answer = None;
            self.say_owned();
            if self.filling.is_ended {
                self.say_complete();
            }
            self.endpoint.enter(if matches!(self.state, State::Filling) {
                Phase::PostCopy
            } else {
                Phase::Completed
            });
            self.filling.ask_again();
            return Some(0);
        }
        if self.endpoint.urgent.link.is_some() || !matches!(self.state, State::Filling) {
            return None;
        }
        let page = self.filling.to_ask.pop_front()?;
        Some(Control::Want(Want { page: page.0 }).encode(link.next_sequence(), buffer))
    }

    /// See [`Target::poll_urgent`].
    pub(super) fn fill_urgent(&mut self, now: Instant, buffer: &mut [u8]) -> usize {
        let mut len = self.endpoint.urgent.poll(now, buffer);
        if matches!(self.state, State::Filling)
            && let Some(link) = &mut self.endpoint.urgent.link
        {
            let before = len;
            while buffer.len() - len >= OUTPUT_BYTES_MIN
                && let Some(page) = self.filling.to_ask.pop_front()
            {
                len += Control::Want(Want { page: page.0 }).encode(link.next_sequence(), &mut buffer[len..]);
                if buffer.len() - len < OUTPUT_BYTES_MIN {
                    break;
                }
            }
            let is_understood = self.version >= VERSION_URGENT_PROGRESS;
            if is_understood
                && self.filling.told_of_urgent.is_behind(link)
                && buffer.len() - len >= OUTPUT_BYTES_MIN
            {
                let bytes = self.filling.told_of_urgent.tell(link);
                let progress = Control::Progress(Progress { bytes, rounds: 0 });
                len += progress.encode(link.next_sequence(), &mut buffer[len..]);
            }
            self.endpoint.urgent.said(now, len - before);
        }
        len
    }

    /// An urgent connection was accepted.
    pub(super) fn on_urgent_up(&mut self, now: Instant) {
        let keepalive = keepalive(self.policy.peer_timeout, self.source_patience);
        self.endpoint.urgent.link_up(Link::new(Assembler::for_target(), now, keepalive), None);
        if self.endpoint.link.is_none() {
            // It is late: the source makes both anew.
            return self.endpoint.urgent.hang_up();
        }
        self.filling.told_of_urgent = Told::default();
        if let Some(receiver) = &mut self.receiver {
            receiver.link_is_new(Channel::URGENT);
        }
        self.filling.ask_again();
    }

    pub(super) fn on_urgent_down(&mut self, now: Instant) {
        let was_up = self.endpoint.urgent.link_down(now);
        // The next is the source's to make.
        self.endpoint.urgent.hang_up();
        if was_up {
            self.give_up_connections(now);
        }
    }

    /// What was on its way on one connection is lost: the source is to make both anew and ask what we lack.
    fn give_up_connections(&mut self, now: Instant) {
        if matches!(self.state, State::Filling) {
            self.endpoint.hang_up();
            self.on_link_down(now);
        }
    }

    pub(super) fn urgent_on_time(&mut self, now: Instant) {
        if self.endpoint.urgent.is_silent(now, self.policy.peer_timeout) {
            self.endpoint.urgent.hang_up();
            self.give_up_connections(now);
        }
    }

    /// Takes what came on the urgent connection.
    pub(super) fn receive_urgent(&mut self, now: Instant, bytes: &[u8], ram: &mut dyn GuestRam) {
        let mut rest = bytes;
        loop {
            let Some(link) = &mut self.endpoint.urgent.link else { return };
            link.heard_at = now;
            let result = match (link.assembler.next(&mut rest), &mut self.receiver) {
                (Ok(None), _) => break,
                (Err(reason), _) => Err(reason),
                (Ok(Some(Unit::Opening(greeting))), _) => match greeting.opening {
                    Opening::Urgent { migration, .. } if self.migration == Some(migration) => Ok(()),
                    _ => Err(AbortReason::Stream(StreamFault::Unexpected)),
                },
                (Ok(Some(Unit::Control(Kind::Ping, _))), _) => Ok(()),
                (Ok(Some(Unit::Record(record))), Some(receiver)) if matches!(self.state, State::Filling) => {
                    receiver.record(Channel::URGENT, record, ram)
                }
                (Ok(Some(Unit::Content(bytes))), Some(receiver)) if matches!(self.state, State::Filling) => {
                    receiver.content(Channel::URGENT, bytes, ram)
                }
                (Ok(Some(_)), _) => Err(AbortReason::Stream(StreamFault::Unexpected)),
            };
            if result.is_err() {
                self.endpoint.urgent.hang_up();
                return self.give_up_connections(now);
            }
            self.note_arrived(now);
        }
        if let Some(link) = &mut self.endpoint.urgent.link {
            link.received += bytes.len() as u64;
        }
    }

    /// The source is lost. The guest goes on with what it has.
    pub(super) fn on_interrupted(&mut self) {
        self.filling.answer = None;
        self.filling.pushed = None;
        self.filling.to_ask.clear();
        if matches!(self.state, State::Filling) && self.endpoint.phase() != Phase::Recovering {
            self.filling.interruptions += 1;
            self.endpoint.enter(Phase::Recovering);
            self.endpoint.tell(Event::Interrupted);
        }
    }

    /// Whether nobody is there who could send what is absent.
    pub(super) const fn is_alone(&self) -> bool {
        self.endpoint.link.is_none() && !self.spooled.is_in_charge()
    }

    /// A person declares that the memory that has not come never will.
    pub(super) fn forsake(&mut self) {
        if matches!(self.state, State::Filling) && self.is_alone() {
            self.state = State::Forsaking;
            self.endpoint.act(GuestAction::Forsake);
        }
    }

    pub(super) fn on_forsaken(&mut self, now: Instant) {
        let Some(receiver) = &self.receiver else { return };
        let lost = receiver.absent_pages();
        let mut ranges: Vec<(Page, u32)> = Vec::new();
        let mut next = lost.next(Page(0));
        while let Some(page) = next {
            let is_full = ranges.len() == RANGES_MAX;
            match ranges.last_mut() {
                Some((first, count)) if first.0 + *count == page.0 => *count += 1,
                _ if is_full => break,
                _ => ranges.push((page, 1)),
            }
            next = lost.next(Page(page.0 + 1));
        }
        if !lost.is_empty() {
            self.endpoint.tell(Event::MemoryLost { pages: lost.len(), ranges });
        }
        // Should the source live after all, it is to hear that the guest is ours and needs nothing, and not to take it for
        // lost with a host that has forgotten it.
        self.filling.is_forsaken = true;
        let has_ended = self.filling.is_ended;
        self.need_nothing(now);
        if has_ended {
            self.on_ended(now);
        }
    }

    /// The part after the switch, for people.
    pub(super) fn post_copy(&self, now: Instant) -> Option<PostCopy> {
        let began_at = self.filling.began_at?;
        Some(PostCopy {
            why: None,
            pages: self.filling.pages,
            filling: self.filling.took.unwrap_or_else(|| now.since(began_at)),
            waits: self.filling.latency.waits(),
            interruptions: self.filling.interruptions,
            is_whole: self.filling.is_whole(),
            spool: self.spooled.view(),
        })
    }
}
