//! The source's side of a spool: what it leaves here is checked record by record and kept.

use super::{Shelf, Spool, SpoolEnd, SpoolEvent};
use crate::bitmap::PageBitmap;
use crate::endpoint::{Link, PATIENCE_UNTOLD, keepalive};
use crate::heap::Room;
use crate::io::Channel;
use crate::progress::Told;
use crate::ram::{GuestRam, PAGE_BYTES, RamFailure};
use crate::reason::{AbortReason, Refusal, StreamFault};
use crate::target::receiver::Receiver;
use crate::time::Instant;
use crate::wire::absent::Walk;
use crate::wire::assemble::{Assembler, Unit};
use crate::wire::control::{self, Control, Progress, Pushed};
use crate::wire::deposit::Deposit;
use crate::wire::frame::Kind;
use crate::wire::hello::Reply;
use crate::wire::opening::{Greeting, Opening};
use crate::wire::reasons::{AbortBody, refusals_to_wire};
use crate::wire::{VERSION_MAX, VERSION_MIN};

/// How far the source's connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Waiting for the opening.
    Opening,
    /// Waiting for what is to be kept.
    Deposit,
    /// The source is being told what is here already, then that it may go on.
    Answering(Walk),
    /// Pages come.
    Taking,
}

impl Spool {
    /// A connection from the source, new or once more. From here on the target is the source's to serve.
    pub(super) fn on_source_up(&mut self, now: Instant) {
        if self.is_over {
            return;
        }
        self.began_at = self.began_at.or(Some(now));
        self.heard_at = now;
        let theirs = self.deposit.as_ref().map_or(PATIENCE_UNTOLD, patience_of);
        let keepalive = keepalive(self.config.policy.peer_timeout, theirs);
        self.source.link_up(Link::new(Assembler::for_target(), now, keepalive));
        self.told = Told::default();
        self.stage = Stage::Opening;
        if let Some(receiver) = &mut self.receiver {
            receiver.link_is_new(Channel::SPOOL);
        }
        self.withdraw_offer();
    }

    pub(super) fn on_source_down(&mut self, now: Instant) {
        self.source.forget_link();
        if self.is_over {
            return;
        }
        if !self.has_something() {
            // It can come again; there is nothing to be offered.
            return self.end(SpoolEnd::NeverBegun);
        }
        if self.wait_with_offer(now) {
            self.tell(SpoolEvent::SourceLost { pages: self.held.len() });
        }
    }

    /// Whether there is anything that the target may lack: pages, or if it has all of them the word that these are right.
    fn has_something(&self) -> bool {
        !self.held.is_empty() || self.digest.is_some()
    }

    /// A person here does not want to keep the pages.
    pub(super) fn dismiss(&mut self) {
        if !self.is_over {
            self.source.say(Control::Abort(AbortBody::to_wire(&AbortReason::Cancelled)));
            self.end(SpoolEnd::ByWord);
        }
    }

    /// Takes what came from the source.
    pub(super) fn receive_source(&mut self, now: Instant, bytes: &[u8], store: &mut dyn GuestRam) {
        let Some(link) = &mut self.source.link else { return };
        link.heard_at = now;
        link.received += bytes.len() as u64;
        self.heard_at = now;
        let mut rest = bytes;
        loop {
            if self.source.is_closing() {
                return;
            }
            let Some(link) = &mut self.source.link else { return };
            let most = self.deposit.as_ref().map_or(0, |deposit| deposit.absent);
            let mut shelf = Shelf { store: &mut *store, written: &mut self.written, most };
            let result = match (link.assembler.next(&mut rest), &mut self.receiver, self.stage) {
                (Err(reason), ..) => Err(reason),
                (Ok(None), ..) => break,
                (Ok(Some(Unit::Record(record))), Some(receiver), Stage::Taking) => {
                    receiver.record(Channel::SPOOL, record, &mut shelf)
                }
                (Ok(Some(Unit::Content(bytes))), Some(receiver), Stage::Taking) => {
                    receiver.content(Channel::SPOOL, bytes, &mut shelf)
                }
                (Ok(Some(Unit::Opening(greeting))), ..) => self.on_opening(&greeting),
                (Ok(Some(Unit::Control(Kind::Deposit, body))), ..) => {
                    let deposit = control::decode(body).map_err(AbortReason::Stream);
                    deposit.and_then(|deposit| self.on_deposit(deposit))
                }
                (Ok(Some(Unit::Control(Kind::Pushed, body))), _, Stage::Taking) => {
                    let pushed = control::decode(body).map_err(AbortReason::Stream);
                    pushed.map(|pushed: Pushed| self.on_filled(&pushed))
                }
                (Ok(Some(Unit::Control(Kind::Release, _))), ..) => {
                    return self.end(SpoolEnd::ReleasedBySource);
                }
                (Ok(Some(Unit::Control(Kind::Ping, _))), ..) => Ok(()),
                (Ok(Some(_)), ..) => Err(AbortReason::Stream(StreamFault::Unexpected)),
            };
            if let Err(reason) = result {
                return self.on_bad_source(now, &reason);
            }
            if let Some(receiver) = &mut self.receiver {
                receiver.take_arrived().into_iter().for_each(|page| self.held.insert(page));
            }
        }
        self.tell_progress();
    }

    /// What came cannot be taken. What is here already is kept.
    pub(super) fn on_bad_source(&mut self, now: Instant, reason: &AbortReason) {
        self.tell(SpoolEvent::TurnedAway(reason.clone()));
        if matches!(reason, AbortReason::Ram(RamFailure::OutOfMemory(_))) {
            self.source.say(Control::Abort(AbortBody::to_wire(reason)));
            return self.part_with_source(now);
        }
        self.source.hang_up();
        self.on_source_down(now);
    }

    /// Says goodbye to a source whose pages cannot be taken. Those that are here are offered once the target lacks a source.
    fn part_with_source(&mut self, now: Instant) {
        self.source.close();
        if self.has_something() {
            self.wait_with_offer(now);
        }
    }

    fn tell_progress(&mut self) {
        let Some(link) = &self.source.link else { return };
        if self.stage == Stage::Taking && self.told.is_behind(link) {
            let bytes = self.told.tell(link);
            self.source.say(Control::Progress(Progress { bytes, rounds: 0 }));
        }
    }

    fn on_opening(&mut self, greeting: &Greeting) -> Result<(), AbortReason> {
        let Opening::Spool { migration, guest } = greeting.opening else {
            return Err(AbortReason::Stream(StreamFault::Unexpected));
        };
        if self.migration.is_some_and(|known| known != migration) {
            return Err(AbortReason::Stream(StreamFault::Value));
        }
        (self.migration, self.guest) = (Some(migration), Some(guest));
        self.stage = Stage::Deposit;
        let (low, high) = (greeting.version_min, greeting.version_max);
        if high < VERSION_MIN || low > VERSION_MAX {
            let refusal = Refusal::Version { source: (low, high), target: (VERSION_MIN, VERSION_MAX) };
            self.refuse(refusal);
        }
        Ok(())
    }

    fn on_deposit(&mut self, deposit: Deposit) -> Result<(), AbortReason> {
        deposit.check().map_err(AbortReason::Stream)?;
        let is_new = match (self.stage, &self.deposit) {
            (Stage::Deposit, None) => true,
            (Stage::Deposit | Stage::Taking, Some(known)) => {
                if (known.pages, known.absent) != (deposit.pages, deposit.absent) {
                    // It is for something else: one spool keeps pages of one migration.
                    self.refuse(Refusal::AlreadyThere);
                    return Ok(());
                }
                false
            }
            _ => return Err(AbortReason::Stream(StreamFault::Unexpected)),
        };
        if is_new && let Err(refusal) = self.make_room(&deposit) {
            self.refuse(refusal);
            return Ok(());
        }
        if is_new {
            self.tell(SpoolEvent::Keeping { pages: deposit.absent });
        }
        if let Some(link) = &mut self.source.link {
            link.keepalive = keepalive(self.config.policy.peer_timeout, patience_of(&deposit));
        }
        self.deposit = Some(deposit);
        if self.stage == Stage::Deposit {
            self.stage = Stage::Answering(Walk::default());
        }
        Ok(())
    }

    /// Makes what is needed whatever comes; the pages themselves take memory as they come.
    fn make_room(&mut self, deposit: &Deposit) -> Result<(), Refusal> {
        if let Some(refusal) = self.config.closed.clone() {
            return Err(refusal);
        }
        let Room { ram_bytes, heap_bytes } = self.config.room;
        let (pages_bytes, tables_bytes) =
            (u64::from(deposit.absent) * PAGE_BYTES as u64, self.needs_of_heap(deposit.pages));
        if pages_bytes > ram_bytes {
            return Err(Refusal::Memory { needed_bytes: pages_bytes, free_bytes: ram_bytes });
        }
        let refusal = Refusal::Heap { needed_bytes: tables_bytes, free_bytes: heap_bytes };
        if tables_bytes > heap_bytes {
            return Err(refusal);
        }
        let set = || PageBitmap::try_empty(deposit.pages).ok_or(refusal.clone());
        let (written, held, give, mut absent) = (set()?, set()?, set()?, set()?);
        absent.fill();
        (self.written, self.held) = (written, held);
        self.offering.make_room(give);
        self.receiver = Some(Receiver::for_spool(absent));
        Ok(())
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.tell(SpoolEvent::TurnedAway(AbortReason::Refused([refusal.clone()].into())));
        self.say_reply(&[refusal]);
        if self.deposit.is_none() {
            self.end(SpoolEnd::NeverBegun);
        } else {
            self.part_with_source(self.heard_at);
        }
    }

    fn say_reply(&mut self, refusals: &[Refusal]) {
        let patience = self.config.policy.peer_timeout.as_millis();
        self.source.say(Control::Reply(Reply {
            version: VERSION_MAX,
            refusals: refusals_to_wire(refusals),
            incarnation: self.config.incarnation,
            peer_timeout_ms: u32::try_from(patience).unwrap_or(u32::MAX),
            post_copy: false,
        }));
    }

    fn on_filled(&mut self, pushed: &Pushed) {
        if self.digest != Some(pushed.digest) {
            self.digest = Some(pushed.digest);
            self.tell(SpoolEvent::Filled { pages: self.held.len() });
        }
    }

    /// Puts what is to be said to the source into the buffer; how many bytes.
    pub(super) fn answer_source(&mut self, now: Instant, buffer: &mut [u8]) -> usize {
        if let (Stage::Answering(walk), Some(link)) = (&mut self.stage, &mut self.source.link) {
            if let Some(len) = walk.next_as(Kind::Holds, &self.held, link.sequence, buffer) {
                link.next_sequence();
                self.source.transmitted(now, len);
                return len;
            }
            self.stage = Stage::Taking;
            self.say_reply(&[]);
        }
        self.source.poll_bytes(now, buffer)
    }
}

fn patience_of(deposit: &Deposit) -> core::time::Duration {
    core::time::Duration::from_millis(deposit.peer_timeout_ms.into())
}
