//! A third host is sent what the target lacks, too: from the switch on, and from the other end than the push, so that each
//! page is soon at one of the two. When none is left that is at neither, the source may die.
//!
//! It is a help and nothing else: whatever becomes of the spool, the migration goes on as if there were none. What its
//! pages cost under a cap is half of it; what somebody waits for is not counted against that and has its own connection. A
//! page that went there is not sent to the spool, unless that connection is lost before the target has said that it has it, or
//! the target does not say so (version 1).

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use core::time::Duration;

use super::batch::Batch;
use super::rate::TokenBucket;
use super::sender::Sender;
use super::state::State;
use super::under_way::{Runs, UnderWay};
use super::window::Window;
use super::{Source, handover};
use crate::bitmap::PageBitmap;
use crate::endpoint::{Endpoint, Link, PATIENCE_UNTOLD, keepalive};
use crate::io::{Channel, Event, OUTPUT_BYTES_MIN, Output};
use crate::ram::{GuestRam, Page};
use crate::reason::{AbortReason, StreamFault};
use crate::spool::{SpoolEvent, SpoolTrouble};
use crate::status::{Phase, Spooled};
use crate::time::Instant;
use crate::wire::absent::AbsentPart;
use crate::wire::assemble::{Assembler, Unit};
use crate::wire::control::{self, Control, Progress, Pushed, guest_digest};
use crate::wire::deposit::{ADDRESS_BYTES_MAX, Deposit};
use crate::wire::frame::Kind;
use crate::wire::hello::Reply;
use crate::wire::opening::{Greeting, Opening};
use crate::wire::reasons::{AbortBody, refusals_from_wire};
use crate::wire::{VERSION_MAX, VERSION_MIN};

/// First wait before a spool is tried again; the longest is that of a lost target.
const TRY_AGAIN_MIN: Duration = Duration::from_secs(1);
/// Longest frame.
const FRAME_BYTES: usize = 32 * 1024;
/// Neighbours that go in their order, as one record where they go as they are.
const RUN_PAGES: u32 = 7;

/// What a source says of its target to a spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolOrder {
    /// The target's name, for people; cut to [`crate::guest::NAME_BYTES_MAX`] bytes.
    pub target: String,
    /// How the spool's session finds the target; at most 64 bytes, cut behind.
    pub address: Vec<u8>,
}

/// How far it has come with the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing is to be sent, not yet or not any more.
    Off,
    /// For the next try.
    Waiting(Instant),
    /// For a connection, until then.
    Connecting(Instant),
    /// For the answer.
    Asking,
    /// Pages go.
    Sending,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Spooling {
    order: SpoolOrder,
    line: Endpoint,
    stage: Stage,
    /// Pages that were absent at the switch: no more can ever come.
    absent: u32,
    /// Of them those of which the target has not said that it has them; of these, those of which the spool has not said
    /// it either; of these, those that are not under way to either.
    rest: PageBitmap,
    unsettled: PageBitmap,
    to_send: PageBitmap,
    /// While the spool says what it has.
    holds: PageBitmap,
    /// By the target's connection: the main one, the urgent one.
    to_target: [UnderWay; 2],
    to_spool: UnderWay,
    window: Window,
    acknowledged: u64,
    bucket: TokenBucket,
    pages: u32,
    whole_after: Option<Duration>,
    trouble: Option<SpoolTrouble>,
    try_again: Duration,
    /// The target is elsewhere than the spool was told.
    is_retargeted: bool,
}

impl Spooling {
    fn new(mut order: SpoolOrder) -> Self {
        let most = crate::guest::NAME_BYTES_MAX;
        let cut = (0..=most.min(order.target.len())).rev().find(|at| order.target.is_char_boundary(*at));
        order.target.truncate(cut.unwrap_or(0));
        order.address.truncate(ADDRESS_BYTES_MAX);
        let none = || PageBitmap::empty(0);
        Self {
            order,
            line: Endpoint::on(Channel::SPOOL, Phase::Idle),
            stage: Stage::Off,
            absent: 0,
            rest: none(),
            unsettled: none(),
            to_send: none(),
            holds: none(),
            to_target: Default::default(),
            to_spool: UnderWay::default(),
            window: Window::default(),
            acknowledged: 0,
            bucket: TokenBucket::new(None),
            pages: 0,
            whole_after: None,
            trouble: None,
            try_again: TRY_AGAIN_MIN,
            is_retargeted: false,
        }
    }

    /// Bytes of the heap that it takes at most for so many pages: its sets, and for a moment a copy of one.
    pub(super) const fn bytes_for(pages: u32) -> u64 {
        5 * PageBitmap::bytes_for(pages)
    }

    /// Bytes of the heap that it has.
    pub(super) fn bytes(&self) -> u64 {
        [&self.rest, &self.unsettled, &self.to_send, &self.holds].map(PageBitmap::bytes).iter().sum()
    }

    /// What is to be done about the connection itself.
    pub(super) fn poll_line(&mut self, now: Instant) -> Option<Output> {
        self.line.poll(now, &mut [])
    }

    fn is_sending(&self) -> bool {
        self.stage == Stage::Sending && !self.to_send.is_empty()
    }

    /// What is under way to the target on one of its connections.
    fn way_to_target(&mut self, channel: Channel) -> &mut UnderWay {
        &mut self.to_target[usize::from(channel == Channel::URGENT)]
    }

    /// The target has so many bytes of its connection.
    fn target_took(&mut self, channel: Channel, bytes: u64) {
        while let Some(runs) = self.way_to_target(channel).took(bytes) {
            for page in runs.pages() {
                self.rest.remove(page);
                self.unsettled.remove(page);
            }
        }
    }

    /// The spool has so many bytes of its connection.
    fn spool_took(&mut self, bytes: u64, now: Instant) {
        self.acknowledged = bytes;
        self.window.took(bytes, now);
        while let Some(runs) = self.to_spool.took(bytes) {
            for page in runs.pages() {
                self.unsettled.remove(page);
                self.pages += 1;
            }
        }
    }

    /// What was under way to the target is lost.
    fn target_is_lost(&mut self) {
        for page in core::mem::take(&mut self.to_target).iter().flat_map(UnderWay::pages) {
            if self.unsettled.contains(page) {
                self.to_send.insert(page);
            }
        }
    }

    /// The spool has said what it has, and takes more.
    fn begin(&mut self) {
        let holds = core::mem::replace(&mut self.holds, PageBitmap::empty(0));
        self.pages = holds.len();
        self.unsettled.clone_from(&self.rest);
        self.unsettled.subtract(&holds);
        self.to_send.clone_from(&self.unsettled);
        self.to_target.iter().flat_map(UnderWay::pages).for_each(|page| {
            self.to_send.remove(page);
        });
        // One that has died since has forgotten that, too.
        self.whole_after = None;
        self.stage = Stage::Sending;
        self.trouble = None;
        self.try_again = TRY_AGAIN_MIN;
    }

    /// Fills a frame with the pages that the push reaches last.
    fn fill(
        &mut self,
        sender: &mut Sender,
        ram: &dyn GuestRam,
        batch: &mut Batch<'_>,
    ) -> Result<(), AbortReason> {
        let (cursor, enough) = (sender.cursor(), self.window.frame_bytes());
        let mut run = 0..0;
        let next = || {
            if run.is_empty() {
                run = last_run(&self.to_send, cursor)?;
            }
            let page = run.next().map(Page)?;
            self.to_send.remove(page);
            Some(page)
        };
        sender.fill_for_spool(ram, batch, enough, next).map_err(AbortReason::Ram)
    }

    fn take(
        &mut self,
        kind: Kind,
        body: &[u8],
        now: Instant,
        patience: Duration,
    ) -> Result<(), SpoolTrouble> {
        let lost = |_: StreamFault| SpoolTrouble::Lost;
        match (kind, self.stage) {
            (Kind::Ping, _) => Ok(()),
            (Kind::Holds, Stage::Asking) => {
                let part: AbsentPart<'_> = control::decode(body).map_err(lost)?;
                part.take(&mut self.holds).map_err(lost)
            }
            (Kind::Reply, Stage::Asking) => {
                let reply: Reply = control::decode(body).map_err(lost)?;
                if !reply.refusals.is_empty() {
                    return Err(SpoolTrouble::Refused(refusals_from_wire(&reply.refusals)));
                }
                let theirs = Duration::from_millis(reply.peer_timeout_ms.into());
                if let Some(link) = &mut self.line.link {
                    link.keepalive = keepalive(patience, theirs);
                }
                self.begin();
                Ok(())
            }
            (Kind::Progress, Stage::Sending) => {
                let progress: Progress = control::decode(body).map_err(lost)?;
                self.spool_took(progress.bytes, now);
                Ok(())
            }
            (Kind::Abort, _) => {
                let body: AbortBody = control::decode(body).map_err(lost)?;
                Err(match body.reason() {
                    AbortReason::Cancelled => SpoolTrouble::Dismissed,
                    AbortReason::PeerOutOfMemory => SpoolTrouble::OutOfMemory,
                    _ => SpoolTrouble::Lost,
                })
            }
            _ => Err(SpoolTrouble::Lost),
        }
    }
}

impl Source {
    /// The same engine, that leaves what goes after a switch with a spool, too. Its connection is that of
    /// [`Channel::SPOOL`].
    #[must_use]
    pub fn with_spool(mut self, order: SpoolOrder) -> Self {
        self.spooling = Some(Box::new(Spooling::new(order)));
        self
    }

    /// The target is somewhere else from now on; a spool is told.
    pub fn retarget(&mut self, order: SpoolOrder) {
        if let Some(spooling) = &mut self.spooling {
            spooling.order = Spooling::new(order).order;
            spooling.is_retargeted = true;
        }
        self.tell_spool_where();
    }

    /// Tells the spool of another address of the target, once it has answered: before that it takes no second word.
    fn tell_spool_where(&mut self) {
        let (pages, patience) = (self.guest.layout.page_count(), self.policy.peer_timeout);
        if let Some(spooling) = &mut self.spooling
            && spooling.is_retargeted
            && spooling.stage == Stage::Sending
        {
            spooling.is_retargeted = false;
            spooling.line.say(deposit(spooling, self.guest.name.clone(), pages, patience));
        }
    }

    /// Puts what is to be sent to the spool now into `buffer`, at least [`OUTPUT_BYTES_MIN`] long, and says how much that
    /// is; 0 if there is nothing. Call it after [`Self::poll_output`] has come to an end, whenever that channel takes bytes.
    pub fn poll_spool(&mut self, now: Instant, buffer: &mut [u8], ram: &mut dyn GuestRam) -> usize {
        self.share_the_cap(now);
        let is_serving = self.is_serving();
        let (Some(spooling), Some(sender)) = (&mut self.spooling, &mut self.sender) else { return 0 };
        let said = spooling.line.poll_bytes(now, buffer);
        if said > 0 || !is_serving || !spooling.is_sending() {
            return said;
        }
        let Some(sent) = spooling.line.link.as_ref().map(|link| link.sent) else { return 0 };
        let in_flight = sent.saturating_sub(spooling.acknowledged);
        if spooling.window.is_full(in_flight) || spooling.bucket.ready_at(now) > now {
            return 0;
        }
        let longest = spooling.bucket.frame_bytes(buffer.len().min(FRAME_BYTES), OUTPUT_BYTES_MIN);
        let mut batch = Batch::new(&mut buffer[..longest]);
        if spooling.fill(sender, ram, &mut batch).is_err() {
            // Our own copy cannot be read: it is no better the next time.
            self.spool_is_lost(now, SpoolTrouble::Lost);
            return 0;
        }
        let Some(link) = spooling.line.link.as_mut().filter(|_| !batch.is_empty()) else { return 0 };
        let len = batch.finish(link.next_sequence());
        spooling.bucket.spend(len, now);
        spooling.line.transmitted(now, len);
        spooling.window.sent(sent + len as u64, now);
        spooling.to_spool.add(sent + len as u64, Runs::of(&buffer[..len]));
        len
    }

    /// The cap holds for all that is sent: while both go, the push and the spool have half of it each.
    pub(super) fn share_the_cap(&mut self, now: Instant) {
        let Some(spooling) = &mut self.spooling else { return };
        let cap = self.policy.bandwidth_bytes_per_second;
        let half = cap.map(|cap| (cap / 2).max(1));
        let is_shared = spooling.is_sending();
        self.bucket.set(if is_shared { half } else { cap }, now);
        spooling.bucket.set(half, now);
    }

    /// The guest runs at the target for the first time, which lacks all that is pending; or it has said what it lacks.
    pub(super) fn spool_from_now_on(&mut self, now: Instant, lacks: Option<&PageBitmap>) {
        let (Some(spooling), Some(sender)) = (&mut self.spooling, &self.sender) else { return };
        if spooling.absent == 0 {
            spooling.rest = sender.pending().clone();
            spooling.unsettled = spooling.rest.clone();
            spooling.to_send = spooling.rest.clone();
            spooling.absent = spooling.rest.len();
            if spooling.absent > 0 {
                spooling.stage = Stage::Waiting(now);
            }
        } else if let Some(lacks) = lacks {
            spooling.rest.retain_in(lacks);
            spooling.unsettled.retain_in(lacks);
            spooling.to_send.retain_in(lacks);
        }
        self.look_if_spool_is_whole(now);
    }

    /// A frame of pages went to the target. It will say when it has taken that in.
    pub(super) fn spool_sees_pages(&mut self, channel: Channel, end: u64, frame: &[u8]) {
        if let Some(spooling) = &mut self.spooling {
            let runs = Runs::of(frame);
            for page in runs.pages() {
                spooling.to_send.remove(page);
            }
            spooling.way_to_target(channel).add(end, runs);
        }
    }

    /// The target has taken so many bytes of a connection in.
    pub(super) fn spool_sees_progress(&mut self, now: Instant, channel: Channel, bytes: u64) {
        if let Some(spooling) = &mut self.spooling {
            spooling.target_took(channel, bytes);
        }
        self.look_if_spool_is_whole(now);
    }

    /// The connection to the target is lost.
    pub(super) fn spool_sees_interruption(&mut self) {
        if let Some(spooling) = &mut self.spooling {
            spooling.target_is_lost();
        }
    }

    /// Nothing is left that is neither at the target nor at the spool: the source may die.
    fn look_if_spool_is_whole(&mut self, now: Instant) {
        let (Some(spooling), Some(sender)) = (&mut self.spooling, &self.sender) else { return };
        let is_whole = spooling.stage == Stage::Sending && spooling.unsettled.is_empty();
        if !is_whole || spooling.whole_after.is_some() {
            return;
        }
        let switched_at = self.marks.ended.unwrap_or(now);
        spooling.whole_after = Some(now.since(switched_at));
        let digest = guest_digest(sender.digest(), self.guest.layout.page_count(), 0);
        spooling.line.say(Control::Pushed(Pushed { digest }));
        self.endpoint.tell(Event::Spool(SpoolEvent::Whole { pages: spooling.pages }));
    }

    /// The guest is let go of, or runs here again: nobody needs what the spool keeps.
    pub(super) fn spool_is_over(&mut self) {
        if let Some(spooling) = &mut self.spooling {
            spooling.stage = Stage::Off;
            if spooling.line.link.is_some() {
                spooling.line.say(Control::Release);
                spooling.line.close();
            } else {
                spooling.line.hang_up();
            }
            let none = || PageBitmap::empty(0);
            (spooling.rest, spooling.unsettled, spooling.to_send) = (none(), none(), none());
            (spooling.to_target, spooling.to_spool) = Default::default();
        }
    }

    pub(super) fn on_spool_up(&mut self, now: Instant) {
        let (pages, patience) = (self.guest.layout.page_count(), self.policy.peer_timeout);
        let opening = Opening::Spool { migration: self.migration, guest: self.guest.id };
        let name = self.guest.name.clone();
        let Some(spooling) = &mut self.spooling else { return };
        if !matches!(spooling.stage, Stage::Connecting(_)) {
            return;
        }
        let keepalive = keepalive(patience, PATIENCE_UNTOLD);
        spooling.line.link_up(Link::new(Assembler::for_source(), now, keepalive));
        spooling.line.greet(Greeting { opening, version_min: VERSION_MIN, version_max: VERSION_MAX });
        spooling.line.say(deposit(spooling, name, pages, patience));
        spooling.stage = Stage::Asking;
        spooling.holds = PageBitmap::empty(pages);
        spooling.window.link_is_new();
        spooling.acknowledged = 0;
    }

    pub(super) fn on_spool_down(&mut self, now: Instant) {
        let Some(spooling) = &mut self.spooling else { return };
        spooling.line.forget_link();
        let trouble = match spooling.stage {
            Stage::Connecting(_) | Stage::Asking => SpoolTrouble::Unreachable,
            Stage::Off | Stage::Waiting(_) | Stage::Sending => SpoolTrouble::Lost,
        };
        self.spool_is_lost(now, trouble);
    }

    /// The spool is out of reach. A person is told once, until it is there again.
    fn spool_is_lost(&mut self, now: Instant, trouble: SpoolTrouble) {
        let Some(spooling) = &mut self.spooling else { return };
        spooling.line.hang_up();
        if matches!(spooling.stage, Stage::Off | Stage::Waiting(_)) {
            return;
        }
        spooling.to_spool = UnderWay::default();
        spooling.to_send.clone_from(&spooling.unsettled);
        spooling.stage = match trouble {
            SpoolTrouble::Dismissed => Stage::Off,
            _ => Stage::Waiting(now.after(spooling.try_again)),
        };
        spooling.try_again = (spooling.try_again * 2).min(handover::ASK_AGAIN_MAX);
        let is_new = spooling.trouble.is_none() || trouble == SpoolTrouble::Dismissed;
        if is_new {
            spooling.trouble = Some(trouble.clone());
            self.endpoint.tell(Event::Spool(SpoolEvent::Unavailable(trouble)));
        }
    }

    /// Takes what came from the spool.
    pub(super) fn receive_spool(&mut self, now: Instant, bytes: &[u8]) {
        let patience = self.policy.peer_timeout;
        let mut rest = bytes;
        if let Some(link) = self.spooling.as_mut().and_then(|spooling| spooling.line.link.as_mut()) {
            link.heard_at = now;
            link.received += bytes.len() as u64;
        }
        loop {
            let Some(spooling) = self.spooling.as_mut().filter(|it| !it.line.is_closing()) else { return };
            let Some(link) = &mut spooling.line.link else { return };
            // What a spool says is short: a copy of it lets go of the connection.
            let said = match link.assembler.next(&mut rest) {
                Ok(None) => break,
                Ok(Some(Unit::Control(kind, body))) => Ok((kind, body.to_vec())),
                Ok(Some(_)) | Err(_) => Err(SpoolTrouble::Lost),
            };
            let result = said.and_then(|(kind, body)| spooling.take(kind, &body, now, patience));
            if let Err(trouble) = result {
                return self.spool_is_lost(now, trouble);
            }
        }
        self.tell_spool_where();
        self.look_if_spool_is_whole(now);
    }

    /// The spool's part of what is due.
    pub(super) fn spool_on_time(&mut self, now: Instant) {
        let patience = self.policy.peer_timeout;
        let Some(spooling) = &mut self.spooling else { return };
        spooling.line.keep_alive(now);
        match spooling.stage {
            Stage::Waiting(until) if now >= until && matches!(self.state, State::Serving(_)) => {
                spooling.stage = Stage::Connecting(now.after(patience));
                spooling.line.connect();
            }
            Stage::Connecting(until) if now >= until => self.spool_is_lost(now, SpoolTrouble::Unreachable),
            _ if now >= spooling.line.silent_at(patience) => self.spool_is_lost(now, SpoolTrouble::Lost),
            _ => {}
        }
    }

    /// When [`Self::spool_on_time`] has something to do, or the cap lets the next frame go.
    pub(super) fn spool_due_at(&self, now: Instant) -> Instant {
        let Some(spooling) = &self.spooling else { return Instant::NEVER };
        let line = spooling.line.silent_at(self.policy.peer_timeout).min(spooling.line.ping_at());
        let own = match spooling.stage {
            Stage::Waiting(until) | Stage::Connecting(until) => until,
            Stage::Sending if spooling.is_sending() => {
                let ready_at = spooling.bucket.ready_at(now);
                if ready_at > now { ready_at } else { Instant::NEVER }
            }
            Stage::Off | Stage::Asking | Stage::Sending => Instant::NEVER,
        };
        line.min(own)
    }

    /// What the spool has to do with it, for people.
    pub(super) fn spooled(&self) -> Option<Spooled> {
        let spooling = self.spooling.as_ref()?;
        Some(Spooled {
            pages: spooling.pages,
            left: spooling.unsettled.len(),
            whole_after: spooling.whole_after,
            is_connected: matches!(spooling.stage, Stage::Sending),
        })
    }
}

/// Neighbours among `pages` that a push from `cursor` on would come to last.
fn last_run(pages: &PageBitmap, cursor: Page) -> Option<Range<u32>> {
    let behind = cursor.0.checked_sub(1).and_then(|from| pages.previous(Page(from)));
    let last = behind.or_else(|| pages.previous(Page(u32::MAX)))?.0;
    let least = last.saturating_sub(RUN_PAGES - 1);
    let first = (least..=last).rev().take_while(|page| pages.contains(Page(*page))).last();
    Some(first.unwrap_or(last)..last + 1)
}

/// What is to be kept, and for whom.
fn deposit(spooling: &Spooling, guest: String, pages: u32, patience: Duration) -> Control {
    Control::Deposit(Deposit {
        guest,
        pages,
        absent: spooling.absent,
        target: spooling.order.target.clone(),
        address: spooling.order.address.clone(),
        peer_timeout_ms: u32::try_from(patience.as_millis()).unwrap_or(u32::MAX),
    })
}
