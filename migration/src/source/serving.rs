//! After the switch: the guest runs at the target, and what it lacks of its memory is sent from here. Pages that it waits
//! for go first and on a connection of their own; the rest is pushed behind them, from the last of those on.
//!
//! Nothing here can take the guest back: the permit is gone. A lost connection is made again and again; the target says
//! then what it still lacks, so that nothing needs to be remembered of what was on its way.

use alloc::collections::VecDeque;
use core::time::Duration;

use super::batch::Batch;
use super::rate::DirtyMeter;
use super::sender::Filled;
use super::state::{Asking, Stake, State, Stopped};
use super::window::Window;
use super::{Source, Streamed};
use crate::bitmap::PageBitmap;
use crate::endpoint::{Link, keepalive};
use crate::io::{Channel, Event, GuestAction, OUTPUT_BYTES_MIN};
use crate::permit::RunPermit;
use crate::policy::Mode;
use crate::ram::{GuestRam, Page};
use crate::reason::{AbortReason, StreamFault};
use crate::status::{Phase, PostCopy, Stage, Waits, Why};
use crate::time::Instant;
use crate::wire::absent::{AbsentPart, Walk};
use crate::wire::assemble::{Assembler, Unit};
use crate::wire::control::{self, Complete, Control, Progress, Pushed, Want, guest_digest};
use crate::wire::frame::Kind;
use crate::wire::opening::{Greeting, Opening};
use crate::wire::{VERSION_MAX, VERSION_MIN};

/// Most pages in waiting; no guest has so many processors and devices.
const WANTED_MAX: usize = 4096;
/// Longest frame that is pushed.
const FRAME_BYTES: usize = 32 * 1024;

/// What there is to know about the part after the switch.
#[derive(Debug, Default)]
pub(super) struct Serving {
    /// Why there is one: the stop under way, or the last, is a switch.
    pub(super) why: Option<Why>,
    /// Whether the target can do it.
    pub(super) is_offered: bool,
    /// Whether the target says how far it has taken the urgent connection in.
    pub(super) is_urgent_answered: bool,
    /// How far the absent pages have been declared.
    pub(super) walk: Option<Walk>,
    /// How many they are.
    pub(super) absent: u32,
    /// Pages that the guest waits for.
    wanted: VecDeque<Page>,
    /// How much may be under way of what nobody waits for.
    pub(super) window: Window,
    /// What the target says that it lacks, while it answers.
    lacks: Option<PageBitmap>,
    /// That all has been sent has been said.
    is_pushed: bool,
    interruptions: u32,
    filling: Duration,
    waits: Waits,
    /// The target has everything.
    is_whole: bool,
}

/// What a target says on the urgent connection.
enum Urgently {
    Want(Want),
    Progress(Progress),
}

impl Serving {
    /// Bytes of the heap that it takes at most for so many pages: a set, and for a moment a copy of it.
    pub(super) const fn bytes_for(pages: u32) -> u64 {
        2 * PageBitmap::bytes_for(pages)
    }

    /// The target lacks these pages too; it says so before it answers what became of the migration.
    pub(super) fn on_absent(&mut self, state: &State, body: &[u8], pages: u32) -> Result<(), AbortReason> {
        let is_asked =
            matches!(state, State::Serving(Some(Asking::Asked)) | State::Unknown(Asking::Asked, _));
        if !is_asked || self.absent == 0 {
            return Err(AbortReason::Stream(StreamFault::Unexpected));
        }
        let part: AbsentPart<'_> = control::decode(body).map_err(AbortReason::Stream)?;
        let lacks = self.lacks.get_or_insert_with(|| PageBitmap::empty(pages));
        part.take(lacks).map_err(AbortReason::Stream)
    }

    /// A stop was called back: nothing is absent.
    pub(super) fn recalled(&mut self) {
        self.why = None;
        self.walk = None;
        self.absent = 0;
    }
}

impl Source {
    /// Whether memory may go after the switch.
    pub(super) fn can_switch(&self) -> bool {
        self.serving.is_offered && self.policy.mode != Mode::PreCopy
    }

    /// The stop under way becomes a switch.
    pub(super) fn decide_to_switch(&mut self, why: Why) {
        self.serving.why = Some(why);
        self.endpoint.tell(Event::Switching(why));
    }

    /// When a stop that was to send everything had better become a switch: half of its time is over, and pages are left.
    pub(super) fn switch_at(&self) -> Instant {
        let sends_pages = match &self.state {
            State::Stopped(Stopped::Saving, _) => true,
            State::Stopped(Stopped::Sending(sections), _) => !sections.pages_are_sent,
            _ => false,
        };
        if !sends_pages || self.serving.why.is_some() || !self.can_switch() || self.pages_left() == 0 {
            return Instant::NEVER;
        }
        match (self.ends_at(), self.marks.asked) {
            (Instant::NEVER, _) | (_, None) => Instant::NEVER,
            (_, Some(asked)) => asked.after(self.policy.downtime_limit / 2),
        }
    }

    /// Looks after the time of a stop that is under way.
    pub(super) fn mind_the_limit(&mut self, now: Instant) {
        if !self.recall_if_overrun(now) && now >= self.switch_at() {
            self.decide_to_switch(Why::Overrun(self.pages_left()));
            self.declare_absent(now);
        }
    }

    /// Devices are saved: the pages that are left will be absent at the target, if this stop is a switch.
    pub(super) fn declare_absent(&mut self, now: Instant) {
        if self.serving.why.is_some() && !self.can_switch() {
            // A person has said so meanwhile: the guest runs on here, and rounds make the rest small.
            match core::mem::replace(&mut self.state, State::Finished) {
                State::Stopped(_, permit) => self.recall(Stage::Save, permit),
                state => self.state = state,
            }
            return;
        }
        let (Some(sender), true) = (&mut self.sender, self.serving.why.is_some()) else { return };
        if let State::Stopped(Stopped::Sending(sections), _) = &mut self.state {
            sender.begin_round();
            self.serving.absent = sender.declare_absent();
            self.pages_in_downtime = 0;
            self.serving.walk = Some(Walk::default());
            sections.pages_are_sent = true;
            self.marks.pages = Some(now);
        }
    }

    /// Puts the next part of the set of absent pages into the buffer; `None` when all of it has been said.
    pub(super) fn stream_absent(&mut self, now: Instant, buffer: &mut [u8]) -> Option<usize> {
        let (Some(sender), Some(link)) = (&self.sender, &mut self.endpoint.link) else { return None };
        let len = self.serving.walk.as_mut()?.next(sender.pending(), link.sequence, buffer);
        match len {
            Some(_) => {
                link.next_sequence();
                self.bandwidth.sending(now);
            }
            None => self.serving.walk = None,
        }
        len
    }

    /// The guest runs at the target, and the target lacks memory.
    pub(super) fn serve(&mut self, now: Instant) {
        match core::mem::replace(&mut self.state, State::Finished) {
            State::Committing(Stake::Guest(permit)) | State::Unknown(_, Stake::Guest(permit)) => {
                permit.revoke();
                self.marks.ended = Some(now);
            }
            State::Serving(_) => self.endpoint.tell(Event::Reconnected),
            state => {
                self.state = state;
                return;
            }
        }
        self.state = State::Serving(None);
        // What the guest writes from now on is not written here.
        self.dirty = DirtyMeter::default();
        self.serving.is_pushed = false;
        self.ask_again = super::handover::ASK_AGAIN_MIN;
        let lacks = self.serving.lacks.take();
        if let Some(sender) = &mut self.sender {
            sender.begin_push(lacks.clone());
        }
        self.spool_from_now_on(now, lacks.as_ref());
        if let Some(link) = &self.endpoint.link {
            // The target has answered the last that was said. Otherwise it would say so only when more has come, and the push
            // would wait for that.
            self.bandwidth.all_arrived(link.sent);
            self.serving.window.took(link.sent, now);
        }
        self.endpoint.enter(Phase::PostCopy);
        self.endpoint.urgent.connect();
    }

    /// Whether the guest's memory is on its way to where it runs.
    pub(super) const fn is_serving(&self) -> bool {
        matches!(self.state, State::Serving(_))
    }

    /// The target answers that the guest is its own.
    pub(super) fn on_owned(&mut self, now: Instant) {
        if self.serving.absent == 0 {
            return self.release(now);
        }
        // What it did not name it has.
        let count = self.guest.layout.page_count();
        self.serving.lacks.get_or_insert_with(|| PageBitmap::empty(count));
        self.serve(now);
    }

    /// The guest waits for a page. The urgent connection may be quicker than the main one with the word that it runs.
    pub(super) fn on_want(&mut self, want: &Want) -> Result<(), AbortReason> {
        let page = Page(want.page);
        let is_known = page.0 < self.guest.layout.page_count();
        let may_run_there =
            self.is_serving() || matches!(self.state, State::Committing(_)) && self.serving.absent > 0;
        if !is_known || !may_run_there || self.serving.wanted.len() >= WANTED_MAX {
            return Err(AbortReason::Stream(StreamFault::Value));
        }
        self.serving.wanted.push_back(page);
        Ok(())
    }

    /// The target needs nothing any more.
    pub(super) fn on_complete(&mut self, complete: &Complete) -> Result<(), AbortReason> {
        if !matches!(self.state, State::Serving(None)) || !(complete.is_ended || self.serving.is_pushed) {
            return Err(AbortReason::Stream(StreamFault::Unexpected));
        }
        let nanos = Duration::from_nanos;
        self.serving.is_whole = !complete.is_ended && !complete.differs;
        if complete.differs {
            self.endpoint.tell(Event::DigestDiffers);
        }
        self.serving.filling = nanos(complete.filling_ns);
        self.serving.waits = Waits {
            count: complete.waits,
            median: nanos(complete.median_ns),
            p99: nanos(complete.p99_ns),
            longest: nanos(complete.longest_ns),
            total: nanos(complete.total_ns),
        };
        self.let_go();
        Ok(())
    }

    /// Frees our copy: the guest is whole at the target, or a person says so.
    pub(super) fn let_go(&mut self) {
        self.spool_is_over();
        self.endpoint.say(Control::Release);
        self.endpoint.close();
        self.state = State::Releasing;
        self.endpoint.act(GuestAction::Discard);
    }

    /// A person says that the target is gone for good, and the guest with it: it goes on here from where it was switched.
    /// Its permit is of a generation above the one that was lost.
    pub(super) fn resurrect(&mut self, now: Instant) {
        self.spool_is_over();
        self.endpoint.hang_up();
        let permit = RunPermit::after_loss(self.guest.id, self.guest.generation.next().next());
        self.endpoint.enter(Phase::Aborting);
        self.state = State::Aborting(AbortReason::TargetLost, Some(permit));
        self.undo(now);
    }

    /// The connection that serves is lost.
    pub(super) fn on_serving_interrupted(&mut self, now: Instant) {
        self.serving.wanted.clear();
        self.serving.lacks = None;
        self.serving.window.link_is_new();
        self.bandwidth.link_is_new();
        self.spool_sees_interruption();
        if let State::Serving(asking) = &mut self.state {
            match asking {
                None => {
                    *asking = Some(Asking::Waiting(now));
                    self.serving.interruptions += 1;
                    self.endpoint.enter(Phase::Recovering);
                    self.endpoint.tell(Event::Interrupted);
                }
                Some(Asking::Connecting(_) | Asking::Asked) => {
                    *asking = Some(Asking::Waiting(now.after(self.ask_again)));
                    self.ask_again = (self.ask_again * 2).min(super::handover::ASK_AGAIN_MAX);
                }
                Some(Asking::Waiting(_) | Asking::Forgotten) => {}
            }
        }
    }

    /// The urgent connection came, went, or could not be made.
    pub(super) fn on_urgent_up(&mut self, now: Instant) {
        let keepalive = keepalive(self.policy.peer_timeout, self.target_patience);
        let opening = Opening::Urgent { migration: self.migration, guest: self.guest.id };
        let greeting = Greeting { opening, version_min: VERSION_MIN, version_max: VERSION_MAX };
        self.endpoint.urgent.link_up(Link::new(Assembler::for_source(), now, keepalive), Some(greeting));
    }

    pub(super) fn on_urgent_down(&mut self, now: Instant) {
        if self.endpoint.urgent.link_down(now) && matches!(self.state, State::Serving(None)) {
            // What was on its way there is lost, and only the target knows what that was.
            self.endpoint.hang_up();
            self.on_link_down(now);
        }
    }

    /// The urgent connection's part of what is due.
    pub(super) fn urgent_on_time(&mut self, now: Instant) {
        if self.endpoint.urgent.is_silent(now, self.policy.peer_timeout) {
            self.endpoint.urgent.hang_up();
            self.on_urgent_down_by_us(now);
        }
        if self.endpoint.urgent.is_due(now) && !self.endpoint.is_closing() && self.endpoint.link.is_some() {
            self.endpoint.urgent.connect();
        }
    }

    /// Takes what came on the urgent connection.
    pub(super) fn receive_urgent(&mut self, now: Instant, bytes: &[u8]) {
        let mut rest = bytes;
        loop {
            let Some(link) = &mut self.endpoint.urgent.link else { return };
            link.heard_at = now;
            let said = match link.assembler.next(&mut rest) {
                Ok(None) => break,
                Ok(Some(Unit::Control(Kind::Ping, _))) => continue,
                Ok(Some(Unit::Control(Kind::Want, body))) => control::decode(body).ok().map(Urgently::Want),
                Ok(Some(Unit::Control(Kind::Progress, body))) => {
                    control::decode(body).ok().map(Urgently::Progress)
                }
                Ok(Some(_)) | Err(_) => None,
            };
            let is_good = match said {
                Some(Urgently::Want(want)) => self.on_want(&want).is_ok(),
                Some(Urgently::Progress(progress)) => {
                    self.spool_sees_progress(now, Channel::URGENT, progress.bytes);
                    true
                }
                None => false,
            };
            if !is_good {
                self.endpoint.urgent.hang_up();
                return self.on_urgent_down_by_us(now);
            }
        }
        if let Some(link) = &mut self.endpoint.urgent.link {
            link.received += bytes.len() as u64;
        }
    }

    fn on_urgent_down_by_us(&mut self, now: Instant) {
        if matches!(self.state, State::Serving(None)) {
            self.endpoint.hang_up();
            self.on_link_down(now);
        }
    }

    /// See [`Source::poll_urgent`].
    pub(super) fn fill_urgent(&mut self, now: Instant, buffer: &mut [u8], ram: &mut dyn GuestRam) -> usize {
        let said = self.endpoint.urgent.poll(now, buffer);
        if said > 0 || !matches!(self.state, State::Serving(None)) {
            return said;
        }
        if self.endpoint.urgent.link.is_none() {
            return 0;
        }
        let mut batch = Batch::new(&mut buffer[..OUTPUT_BYTES_MIN]);
        if self.fill_wanted(&mut batch, ram).is_err() {
            self.on_unreadable(now);
            return 0;
        }
        if batch.is_empty() {
            return 0;
        }
        let Some(link) = &mut self.endpoint.urgent.link else { return 0 };
        let len = batch.finish(link.next_sequence());
        let end = link.sent + len as u64;
        if self.serving.is_urgent_answered {
            self.spool_sees_pages(Channel::URGENT, end, &buffer[..len]);
        }
        self.bucket.spend(len, now);
        self.endpoint.urgent.said(now, len)
    }

    /// Puts pages that the guest waits for into a frame, as many as fit.
    fn fill_wanted(&mut self, batch: &mut Batch<'_>, ram: &dyn GuestRam) -> Result<(), AbortReason> {
        let Some(sender) = &mut self.sender else { return Ok(()) };
        while batch.has_room_for_page()
            && let Some(page) = self.serving.wanted.pop_front()
        {
            sender.urgent(page, ram, batch).map_err(AbortReason::Ram)?;
        }
        Ok(())
    }

    /// Puts what is pushed next into the buffer, behind what somebody waits for if that has no connection of its own.
    pub(super) fn stream_push(
        &mut self,
        now: Instant,
        buffer: &mut [u8],
        ram: &mut dyn GuestRam,
    ) -> Streamed {
        let longest = self.bucket.frame_bytes(buffer.len().min(FRAME_BYTES), OUTPUT_BYTES_MIN);
        let mut batch = Batch::new(&mut buffer[..longest]);
        if self.endpoint.urgent.link.is_none() && self.fill_wanted(&mut batch, ram).is_err() {
            return self.on_unreadable(now);
        }
        if batch.is_empty() {
            if let Some(wait) = self.push_waits_until(now) {
                return Streamed::Wait(wait);
            }
            let Some(sender) = &mut self.sender else { return Streamed::Wait(Instant::NEVER) };
            match sender.fill(ram, &mut batch, self.serving.window.frame_bytes()) {
                Err(_) => return self.on_unreadable(now),
                Ok(Filled::More | Filled::RoundDone) => {}
            }
        }
        let (is_empty, left) = (batch.is_empty(), self.pages_left());
        let Some(link) = self.endpoint.link.as_mut().filter(|_| !is_empty) else {
            return if left > 0 { Streamed::Wait(now) } else { self.say_pushed() };
        };
        let len = batch.finish(link.next_sequence());
        let end = link.sent + len as u64;
        self.serving.window.sent(end, now);
        self.bandwidth.sending(now);
        self.bucket.spend(len, now);
        self.spool_sees_pages(Channel::MAIN, end, &buffer[..len]);
        Streamed::Transmit(len)
    }

    /// Until when nothing is pushed: enough is under way, or the cap says so. `None`: now is fine.
    fn push_waits_until(&mut self, now: Instant) -> Option<Instant> {
        self.share_the_cap(now);
        let sent = self.endpoint.link.as_ref().map_or(0, |link| link.sent);
        if self.pages_left() > 0 && self.serving.window.is_full(self.bandwidth.in_flight(sent)) {
            return Some(Instant::NEVER);
        }
        let ready_at = self.bucket.ready_at(now);
        (ready_at > now).then_some(ready_at)
    }

    fn say_pushed(&mut self) -> Streamed {
        if self.serving.is_pushed {
            return Streamed::Wait(Instant::NEVER);
        }
        self.serving.is_pushed = true;
        let ram = self.sender.as_ref().map_or(0, super::sender::Sender::digest);
        let digest = guest_digest(ram, self.guest.layout.page_count(), 0);
        // That of the seal left out what was absent.
        self.digest = digest;
        self.endpoint.say(Control::Pushed(Pushed { digest }));
        Streamed::Changed
    }

    /// Our own copy cannot be read. The guest goes on with what it has; trying again is all that can be done.
    fn on_unreadable(&mut self, now: Instant) -> Streamed {
        self.endpoint.hang_up();
        self.on_link_down(now);
        Streamed::Changed
    }

    /// The part after the switch, for people.
    pub(super) fn post_copy(&self, now: Instant) -> Option<PostCopy> {
        let why = self.serving.why?;
        let Serving { absent, interruptions, filling, waits, is_whole, .. } = self.serving;
        let is_over = matches!(self.state, State::Releasing | State::Finished);
        let since = self.marks.ended.map_or(Duration::ZERO, |ended| now.since(ended));
        let filling = if is_over { filling } else { since };
        let spool = self.spooled();
        Some(PostCopy { why: Some(why), pages: absent, filling, waits, interruptions, is_whole, spool })
    }
}
