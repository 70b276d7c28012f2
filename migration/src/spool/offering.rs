//! The target's side of a spool: once the source is lost, the pages are offered to the target, which says what it lacks of
//! them, or that it does not need them.

use alloc::collections::VecDeque;
use core::time::Duration;

use super::{Shelf, Spool, SpoolEnd, SpoolEvent};
use crate::bitmap::PageBitmap;
use crate::endpoint::{Link, PATIENCE_UNTOLD, keepalive};
use crate::io::OUTPUT_BYTES_MIN;
use crate::ram::{GuestRam, Page, RamFailure};
use crate::reason::{AbortReason, StreamFault};
use crate::source::batch::Batch;
use crate::source::window::Window;
use crate::time::Instant;
use crate::wire::absent::AbsentPart;
use crate::wire::assemble::{Assembler, Unit};
use crate::wire::control::{self, Control, Fate, Outcome, Progress, Want};
use crate::wire::deposit::Spent;
use crate::wire::frame::Kind;
use crate::wire::opening::{Greeting, Opening};
use crate::wire::{VERSION_MAX, VERSION_MIN};

/// First and longest wait before a target that was not reached, or that is served by its source, is asked again.
const ASK_AGAIN_MIN: Duration = Duration::from_secs(1);
const ASK_AGAIN_MAX: Duration = Duration::from_secs(5);
/// Longest frame, and most pages looked at for one: as few as a source does, since somebody may wait.
const FRAME_BYTES: usize = 32 * 1024;
const EXAMINED_MAX: u32 = 64;
/// Most pages in waiting.
const WANTED_MAX: usize = 4096;

/// How far the offer has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// The target has a source.
    #[default]
    Idle,
    /// For the next try.
    Waiting(Instant),
    /// For a connection, until then.
    Connecting(Instant),
    /// For the answer.
    Asked,
    /// The target takes pages.
    Giving,
    /// All that it lacked and is here has been sent.
    Spent,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Offering {
    stage: Stage,
    ask_again: Duration,
    /// Pages that the target lacks, then those of them that are here and have not been sent.
    give: PageBitmap,
    wanted: VecDeque<Page>,
    cursor: Page,
    window: Window,
    acknowledged: u64,
}

impl Default for Offering {
    fn default() -> Self {
        Self {
            stage: Stage::Idle,
            ask_again: ASK_AGAIN_MIN,
            give: PageBitmap::empty(0),
            wanted: VecDeque::new(),
            cursor: Page(0),
            window: Window::default(),
            acknowledged: 0,
        }
    }
}

impl Offering {
    /// Takes the set that is needed later.
    pub(super) fn make_room(&mut self, give: PageBitmap) {
        self.give = give;
    }

    /// Bytes of the heap that its set has.
    pub(super) const fn bytes(&self) -> u64 {
        self.give.bytes()
    }

    /// Whether the target takes pages, and waits for some of them, maybe.
    pub(super) fn is_giving(&self) -> bool {
        self.stage == Stage::Giving
    }

    /// Pages that the target is still to be sent.
    pub(super) fn pages_left(&self) -> u32 {
        if self.is_giving() { self.give.len() } else { 0 }
    }

    pub(super) const fn due_at(&self) -> Instant {
        match self.stage {
            Stage::Waiting(until) | Stage::Connecting(until) => until,
            Stage::Idle | Stage::Asked | Stage::Giving | Stage::Spent => Instant::NEVER,
        }
    }
}

impl Spool {
    /// The source is back: it serves the target.
    pub(super) fn withdraw_offer(&mut self) {
        self.target.hang_up();
        self.offering.stage = Stage::Idle;
    }

    /// The source is lost: it gets some time to come back. Whether that is new.
    pub(super) fn wait_with_offer(&mut self, now: Instant) -> bool {
        let is_new = self.offering.stage == Stage::Idle;
        if is_new {
            self.offering.stage = Stage::Waiting(now.after(self.config.policy.grace));
            self.offering.ask_again = ASK_AGAIN_MIN;
        }
        is_new
    }

    /// Whether the target lacks a source, and is not reached yet.
    pub(super) const fn is_asking(&self) -> bool {
        matches!(self.offering.stage, Stage::Waiting(_) | Stage::Connecting(_) | Stage::Asked)
    }

    /// A person wants the target to be asked now.
    pub(super) fn offer_now(&mut self, now: Instant) {
        if self.is_asking() {
            self.target.hang_up();
            self.offering.ask_again = ASK_AGAIN_MIN;
            self.offer(now);
        }
    }

    fn offer(&mut self, now: Instant) {
        self.offering.stage = Stage::Connecting(now.after(self.config.policy.peer_timeout));
        self.target.connect();
    }

    pub(super) fn offer_on_time(&mut self, now: Instant) {
        match self.offering.stage {
            Stage::Waiting(until) if now >= until => self.offer(now),
            Stage::Connecting(until) if now >= until => self.give_up_target(now),
            _ => {}
        }
    }

    pub(super) fn on_target_up(&mut self, now: Instant) {
        let (Stage::Connecting(_), Some(migration), Some(guest)) =
            (self.offering.stage, self.migration, self.guest)
        else {
            return;
        };
        let keepalive = keepalive(self.config.policy.peer_timeout, PATIENCE_UNTOLD);
        self.target.link_up(Link::new(Assembler::for_source(), now, keepalive));
        let opening = Opening::Offer { migration, guest };
        self.target.greet(Greeting { opening, version_min: VERSION_MIN, version_max: VERSION_MAX });
        self.offering.stage = Stage::Asked;
        self.offering.give.clear();
        self.offering.wanted.clear();
        self.offering.window.link_is_new();
        self.offering.acknowledged = 0;
    }

    /// Drops the connection to the target, to make another later.
    pub(super) fn give_up_target(&mut self, now: Instant) {
        self.target.hang_up();
        self.on_target_down(now);
    }

    pub(super) fn on_target_down(&mut self, now: Instant) {
        self.target.forget_link();
        if !matches!(self.offering.stage, Stage::Idle | Stage::Waiting(_)) {
            self.offering.stage = Stage::Waiting(now.after(self.offering.ask_again));
            self.offering.ask_again = (self.offering.ask_again * 2).min(ASK_AGAIN_MAX);
        }
    }

    /// Takes what came from the target.
    pub(super) fn receive_target(&mut self, now: Instant, bytes: &[u8]) {
        let Some(link) = &mut self.target.link else { return };
        link.heard_at = now;
        link.received += bytes.len() as u64;
        let mut rest = bytes;
        loop {
            let Some(link) = &mut self.target.link else { return };
            let result = match link.assembler.next(&mut rest) {
                Ok(None) => return,
                Ok(Some(Unit::Control(kind, body))) => match kind {
                    Kind::Release => return self.end(SpoolEnd::ReleasedByTarget),
                    kind => self.offering.take(kind, body, now),
                },
                Ok(Some(_)) => Err(AbortReason::Stream(StreamFault::Unexpected)),
                Err(reason) => Err(reason),
            };
            match result {
                // Nothing but the protocol counts as a sign of life.
                Ok(Answer::Nothing) => self.heard_at = now,
                Ok(Answer::Owned) => {
                    self.heard_at = now;
                    self.give();
                }
                Ok(Answer::Served) => {
                    self.heard_at = now;
                    return self.give_up_target(now);
                }
                Err(_) => return self.give_up_target(now),
            }
        }
    }

    /// The target has said what it lacks.
    fn give(&mut self) {
        self.offering.give.retain_in(&self.held);
        self.offering.stage = Stage::Giving;
        self.offering.ask_again = ASK_AGAIN_MIN;
        self.offering.cursor = Page(0);
        self.tell(SpoolEvent::Giving { pages: self.offering.give.len() });
    }

    /// Puts what the target gets next into the buffer; how many bytes.
    pub(super) fn stream(&mut self, now: Instant, buffer: &mut [u8], store: &mut dyn GuestRam) -> usize {
        if !self.offering.is_giving() {
            return 0;
        }
        let Some(link) = &mut self.target.link else { return 0 };
        let in_flight = link.sent.saturating_sub(self.offering.acknowledged);
        if self.offering.give.is_empty() {
            self.offering.stage = Stage::Spent;
            let spent = Control::Spent(Spent { digest: self.digest });
            return spent.encode(link.next_sequence(), buffer);
        }
        if self.offering.wanted.is_empty() && self.offering.window.is_full(in_flight) {
            return 0;
        }
        let longest = buffer.len().min(FRAME_BYTES);
        let mut batch = Batch::new(&mut buffer[..longest.max(OUTPUT_BYTES_MIN)]);
        let shelf = Shelf { store, written: &mut self.written, most: 0 };
        if self.offering.fill(&shelf, &mut batch).is_err() {
            // Our own memory cannot be read: trying again is all that can be done.
            self.give_up_target(now);
            return 0;
        }
        if batch.is_empty() {
            return 0;
        }
        let len = batch.finish(link.next_sequence());
        self.offering.window.sent(link.sent + len as u64, now);
        len
    }
}

/// What an answer of the target means.
enum Answer {
    Nothing,
    Owned,
    Served,
}

impl Offering {
    fn take(&mut self, kind: Kind, body: &[u8], now: Instant) -> Result<Answer, AbortReason> {
        let value = AbortReason::Stream;
        match (kind, self.stage) {
            (Kind::Ping, _) => Ok(Answer::Nothing),
            (Kind::Absent, Stage::Asked) => {
                let part: AbsentPart<'_> = control::decode(body).map_err(value)?;
                part.take(&mut self.give).map_err(value)?;
                Ok(Answer::Nothing)
            }
            (Kind::Outcome, Stage::Asked | Stage::Giving | Stage::Spent) => {
                let outcome: Outcome = control::decode(body).map_err(value)?;
                match outcome.fate {
                    Fate::Owned if self.stage == Stage::Asked => Ok(Answer::Owned),
                    Fate::Served => Ok(Answer::Served),
                    _ => Err(value(StreamFault::Unexpected)),
                }
            }
            (Kind::Want, Stage::Giving | Stage::Spent) => {
                let want: Want = control::decode(body).map_err(value)?;
                if self.wanted.len() >= WANTED_MAX {
                    return Err(value(StreamFault::Value));
                }
                if self.stage == Stage::Giving {
                    self.wanted.push_back(Page(want.page));
                }
                Ok(Answer::Nothing)
            }
            (Kind::Progress, Stage::Giving | Stage::Spent) => {
                let progress: Progress = control::decode(body).map_err(value)?;
                self.acknowledged = progress.bytes;
                self.window.took(progress.bytes, now);
                Ok(Answer::Nothing)
            }
            _ => Err(value(StreamFault::Unexpected)),
        }
    }

    /// Fills a frame: with what is waited for, then with what lies behind it.
    fn fill(&mut self, shelf: &dyn GuestRam, batch: &mut Batch<'_>) -> Result<(), RamFailure> {
        let mut is_waited_for = false;
        while batch.has_room_for_page()
            && let Some(page) = self.wanted.pop_front()
        {
            if self.give.remove(page) {
                batch.page(page, shelf)?;
                self.cursor = Page(page.0 + 1);
                is_waited_for = true;
            }
        }
        if is_waited_for {
            return Ok(());
        }
        for _ in 0..EXAMINED_MAX {
            let next = self.give.next(self.cursor).or_else(|| self.give.next(Page(0)));
            let Some(page) = next.filter(|_| batch.has_room_for_page()) else { break };
            self.give.remove(page);
            batch.page(page, shelf)?;
            self.cursor = Page(page.0 + 1);
        }
        Ok(())
    }
}
