//! Pages from a spool: while the source is lost, a third host sends what the source left with it. The source always comes
//! first: as long as its connection stands, and when it comes back.
//!
//! What comes is taken as from the source: checked record by record, each page once.

use super::{State, Target};
use crate::endpoint::{Endpoint, Link, PATIENCE_UNTOLD, keepalive};
use crate::io::{Channel, Event};
use crate::progress::Told;
use crate::ram::GuestRam;
use crate::reason::{AbortReason, StreamFault};
use crate::spool::SpoolEvent;
use crate::status::{self, Phase};
use crate::time::Instant;
use crate::wire::absent::Walk;
use crate::wire::assemble::{Assembler, Unit};
use crate::wire::control::{self, Control, Fate, Outcome, Progress, Want};
use crate::wire::deposit::Spent;
use crate::wire::frame::Kind;
use crate::wire::opening::{Greeting, Opening};

/// How far the spool's connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// There is none, or it has not said what it is.
    None,
    /// The spool is being told what we lack.
    Answering(Walk),
    /// Pages come from it.
    Taking,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Spooled {
    pub(super) line: Endpoint,
    stage: Stage,
    /// Pages that came from a spool.
    pages: u32,
    told: Told,
}

impl Default for Spooled {
    fn default() -> Self {
        let line = Endpoint::on(Channel::SPOOL, Phase::Idle);
        Self { line, stage: Stage::None, pages: 0, told: Told::default() }
    }
}

impl Spooled {
    /// Whether a spool does what is the source's to do.
    pub(super) const fn is_in_charge(&self) -> bool {
        !matches!(self.stage, Stage::None)
    }

    /// For people; `None` if there was never anything of a spool.
    pub(super) fn view(&self) -> Option<status::Spooled> {
        let is_connected = self.is_in_charge();
        (self.pages > 0 || is_connected).then_some(status::Spooled {
            pages: self.pages,
            left: 0,
            whole_after: None,
            is_connected,
        })
    }

    /// Says this as the last word.
    fn part_with(&mut self, word: Control) {
        self.line.say(word);
        self.line.close();
        self.stage = Stage::None;
    }
}

impl Target {
    /// Puts what is to be sent to the spool now into `buffer`, at least [`crate::OUTPUT_BYTES_MIN`] long, and says how much
    /// that is; 0 if there is nothing.
    pub fn poll_spool(&mut self, now: Instant, buffer: &mut [u8], _ram: &mut dyn GuestRam) -> usize {
        let said = self.spooled.line.poll_bytes(now, buffer);
        let (Some(link), Some(receiver)) = (&mut self.spooled.line.link, &self.receiver) else { return said };
        if said > 0 || !matches!(self.state, State::Filling) {
            return said;
        }
        let len = match &mut self.spooled.stage {
            Stage::None => 0,
            Stage::Answering(walk) => {
                let lacks = receiver.absent_pages();
                match walk.next(lacks, link.sequence, buffer) {
                    Some(len) => {
                        link.next_sequence();
                        len
                    }
                    None => {
                        let lacks = lacks.len();
                        self.adopt_spool(lacks);
                        return self.spooled.line.poll_bytes(now, buffer);
                    }
                }
            }
            Stage::Taking => self
                .filling
                .next_to_ask()
                .map_or(0, |page| Control::Want(Want { page: page.0 }).encode(link.next_sequence(), buffer)),
        };
        if len > 0 {
            self.spooled.line.transmitted(now, len);
        }
        len
    }

    /// The spool has heard what we lack: it may send that.
    fn adopt_spool(&mut self, lacks: u32) {
        let incarnation = self.host.incarnation;
        self.spooled.line.say(Control::Outcome(Outcome { fate: Fate::Owned, incarnation }));
        self.spooled.stage = Stage::Taking;
        self.filling.ask_again();
        self.endpoint.enter(Phase::PostCopy);
        self.endpoint.tell(Event::Spool(SpoolEvent::Filling { lacks }));
    }

    pub(super) fn on_spool_up(&mut self, now: Instant) {
        if self.spooled.is_in_charge() {
            self.spool_is_lost();
        }
        let keepalive = keepalive(self.policy.peer_timeout, PATIENCE_UNTOLD);
        self.spooled.line.link_up(Link::new(Assembler::for_target(), now, keepalive));
        self.spooled.told = Told::default();
        if let Some(receiver) = &mut self.receiver {
            receiver.link_is_new(Channel::SPOOL);
        }
    }

    /// The connection is gone.
    pub(super) fn on_spool_down(&mut self) {
        self.spooled.line.forget_link();
        self.spool_is_lost();
    }

    fn hang_up_on_spool(&mut self) {
        self.spooled.line.hang_up();
        self.spool_is_lost();
    }

    fn spool_is_lost(&mut self) {
        if core::mem::replace(&mut self.spooled.stage, Stage::None) == Stage::Taking
            && matches!(self.state, State::Filling)
        {
            self.endpoint.enter(Phase::Recovering);
            self.endpoint.tell(Event::Spool(SpoolEvent::Lost));
        }
    }

    /// The source is back.
    pub(super) fn yield_to_source(&mut self) {
        if self.spooled.line.link.is_some() {
            let incarnation = self.host.incarnation;
            self.spooled.part_with(Control::Outcome(Outcome { fate: Fate::Served, incarnation }));
        }
    }

    /// Nothing is lacking any more, or nobody would miss it.
    pub(super) fn release_spool(&mut self) {
        if self.spooled.is_in_charge() {
            self.spooled.part_with(Control::Release);
        }
    }

    /// A spool offers pages.
    fn on_offer(&mut self, greeting: &Greeting) -> Result<(), AbortReason> {
        let migration = greeting.opening.migration();
        if !matches!(greeting.opening, Opening::Offer { .. }) || self.migration != Some(migration) {
            return Err(AbortReason::Stream(StreamFault::Unexpected));
        }
        let incarnation = self.host.incarnation;
        match self.state {
            State::Filling if self.endpoint.link.is_none() => {
                self.spooled.stage = Stage::Answering(Walk::default());
            }
            State::Filling | State::Forsaking | State::Starting { .. } => {
                self.spooled.part_with(Control::Outcome(Outcome { fate: Fate::Served, incarnation }));
            }
            State::Owner | State::Released => self.spooled.part_with(Control::Release),
            _ => return Err(AbortReason::Stream(StreamFault::Unexpected)),
        }
        Ok(())
    }

    /// Takes what came from the spool.
    pub(super) fn receive_spool(&mut self, now: Instant, bytes: &[u8], ram: &mut dyn GuestRam) {
        let Some(link) = &mut self.spooled.line.link else { return };
        link.heard_at = now;
        link.received += bytes.len() as u64;
        let mut rest = bytes;
        loop {
            if self.spooled.line.is_closing() {
                return;
            }
            let Some(link) = &mut self.spooled.line.link else { return };
            let takes = self.spooled.stage == Stage::Taking && matches!(self.state, State::Filling);
            let result = match (link.assembler.next(&mut rest), &mut self.receiver) {
                (Ok(None), _) => break,
                (Err(reason), _) => Err(reason),
                (Ok(Some(Unit::Opening(greeting))), _) => self.on_offer(&greeting),
                (Ok(Some(Unit::Control(Kind::Ping, _))), _) => Ok(()),
                (Ok(Some(Unit::Record(record))), Some(receiver)) if takes => {
                    receiver.record(Channel::SPOOL, record, ram)
                }
                (Ok(Some(Unit::Content(bytes))), Some(receiver)) if takes => {
                    receiver.content(Channel::SPOOL, bytes, ram)
                }
                (Ok(Some(Unit::Control(Kind::Spent, body))), _) if takes => {
                    let spent = control::decode(body).map_err(AbortReason::Stream);
                    spent.map(|spent: Spent| self.on_spent(now, &spent))
                }
                (Ok(Some(_)), _) => Err(AbortReason::Stream(StreamFault::Unexpected)),
            };
            if result.is_err() {
                return self.hang_up_on_spool();
            }
            self.spooled.pages += self.note_arrived(now);
        }
        self.tell_spool_progress();
    }

    fn tell_spool_progress(&mut self) {
        let Some(link) = &self.spooled.line.link else { return };
        if self.spooled.stage == Stage::Taking && self.spooled.told.is_behind(link) {
            let bytes = self.spooled.told.tell(link);
            self.spooled.line.say(Control::Progress(Progress { bytes, rounds: 0 }));
        }
    }

    /// The spool has sent what it had of what we lacked.
    fn on_spent(&mut self, now: Instant, spent: &Spent) {
        self.complete_with_spool(now, spent.digest);
        let left = self.receiver.as_ref().map_or(0, |receiver| receiver.absent_pages().len());
        let (pages, is_verified) = (self.spooled.pages, self.filling.is_whole());
        if matches!(self.state, State::Filling) {
            self.endpoint.enter(Phase::Recovering);
        }
        self.spooled.part_with(Control::Release);
        self.endpoint.tell(Event::Spool(SpoolEvent::Spent { pages, left, is_verified }));
    }

    pub(super) fn spool_on_time(&mut self, now: Instant) {
        self.spooled.line.keep_alive(now);
        if now >= self.spooled.line.silent_at(self.policy.peer_timeout) {
            self.hang_up_on_spool();
        }
    }

    pub(super) fn spool_due_at(&self) -> Instant {
        self.spooled.line.silent_at(self.policy.peer_timeout).min(self.spooled.line.ping_at())
    }
}
