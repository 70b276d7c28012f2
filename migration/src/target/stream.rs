//! What comes from the source, piece by piece.

use super::{State, Target};
use crate::io::Channel;
use crate::ram::GuestRam;
use crate::reason::{AbortReason, StreamFault};
use crate::time::Instant;
use crate::wire::absent::AbsentPart;
use crate::wire::assemble::Unit;
use crate::wire::control::{self, Commit, Control, Progress, Pushed, RoundEnd, Seal};
use crate::wire::frame::Kind;
use crate::wire::hello::Hello;
use crate::wire::reasons::AbortBody;

/// The source is told how far we are at least after so many bytes or this time, before the guest runs here.
const PROGRESS_BYTES: u64 = 1 << 20;
const PROGRESS_TIME: core::time::Duration = core::time::Duration::from_millis(100);

/// What a source says, sections and pages aside.
#[derive(Debug)]
pub(super) enum Message {
    Hello(Hello),
    RoundEnd(RoundEnd),
    Seal(Seal),
    Commit(Commit),
    Release,
    Abort(AbortBody),
    Ping,
    Recall,
    Pushed(Pushed),
}

fn message(kind: Kind, body: &[u8]) -> Result<Message, StreamFault> {
    Ok(match kind {
        Kind::Hello => Message::Hello(control::decode(body)?),
        Kind::RoundEnd => Message::RoundEnd(control::decode(body)?),
        Kind::Seal => Message::Seal(control::decode(body)?),
        Kind::Commit => Message::Commit(control::decode(body)?),
        Kind::Release => Message::Release,
        Kind::Abort => Message::Abort(control::decode(body)?),
        Kind::Ping => Message::Ping,
        Kind::Recall => Message::Recall,
        Kind::Pushed => Message::Pushed(control::decode(body)?),
        Kind::Reply
        | Kind::Pages
        | Kind::Progress
        | Kind::Section
        | Kind::Verified
        | Kind::Committed
        | Kind::Returned
        | Kind::Outcome
        | Kind::Absent
        | Kind::Want
        | Kind::Complete
        | Kind::Deposit
        | Kind::Holds
        | Kind::Spent => return Err(StreamFault::Unexpected),
    })
}

impl Target {
    /// Takes what came on the main connection.
    pub(super) fn receive(&mut self, now: Instant, bytes: &[u8], ram: &mut dyn GuestRam) {
        // What follows a goodbye is not read, and does not put its end off.
        if self.endpoint.is_closing() {
            return;
        }
        let Some(link) = &mut self.endpoint.link else { return };
        link.heard_at = now;
        link.received += bytes.len() as u64;
        let mut rest = bytes;
        loop {
            if self.endpoint.is_closing() {
                return;
            }
            let Some(link) = &mut self.endpoint.link else { return };
            let unit = link.assembler.next(&mut rest);
            if !matches!(unit, Ok(None | Some(Unit::Control(Kind::Ping, _)))) {
                self.moved_on_at = now;
            }
            let takes_pages = matches!(self.state, State::Receiving | State::Filling);
            let result = match (unit, &mut self.receiver, &self.state) {
                (Err(reason), ..) => Err(reason),
                (Ok(None), ..) => break,
                (Ok(Some(Unit::Record(record))), Some(receiver), _) if takes_pages => {
                    receiver.record(Channel::MAIN, record, ram)
                }
                (Ok(Some(Unit::Content(bytes))), Some(receiver), _) if takes_pages => {
                    receiver.content(Channel::MAIN, bytes, ram)
                }
                (Ok(Some(Unit::Control(Kind::Section, body))), Some(receiver), State::Receiving) => {
                    control::decode(body)
                        .map_err(AbortReason::Stream)
                        .and_then(|part| receiver.section(&part))
                }
                (Ok(Some(Unit::Control(Kind::Absent, body))), Some(receiver), State::Receiving) => {
                    control::decode(body)
                        .and_then(|part: AbsentPart<'_>| receiver.absent(&part))
                        .map_err(AbortReason::Stream)
                }
                (Ok(Some(Unit::Opening(greeting))), ..) => self.on_opening(now, &greeting),
                (Ok(Some(Unit::Control(kind, body))), ..) => match message(kind, body) {
                    Ok(message) => self.on_message(now, message, ram),
                    Err(fault) => Err(AbortReason::Stream(fault)),
                },
                (Ok(Some(Unit::Record(_) | Unit::Content(_))), ..) => {
                    Err(AbortReason::Stream(StreamFault::Unexpected))
                }
            };
            if let Err(reason) = result {
                return self.on_bad_stream(now, reason);
            }
            self.note_arrived(now);
        }
        self.tell_progress(now);
    }

    fn tell_progress(&mut self, now: Instant) {
        let Some(link) = &self.endpoint.link else { return };
        let (bytes, at) = self.told;
        let new = link.received - bytes;
        let is_due = match self.state {
            State::Receiving => new >= PROGRESS_BYTES || new > 0 && now.since(at) >= PROGRESS_TIME,
            State::Filling => self.filling.told.is_behind(link),
            _ => false,
        };
        if is_due {
            self.say_progress(now);
        }
    }

    pub(super) fn say_progress(&mut self, now: Instant) {
        let Some(link) = &self.endpoint.link else { return };
        self.told = (self.filling.told.tell(link), now);
        self.endpoint.say(Control::Progress(Progress { bytes: self.told.0, rounds: self.rounds }));
    }

    fn on_message(
        &mut self,
        now: Instant,
        message: Message,
        ram: &mut dyn GuestRam,
    ) -> Result<(), AbortReason> {
        match (message, &self.state) {
            (Message::Ping, _) => Ok(()),
            (Message::Abort(body), _) => {
                self.on_peer_abort(now, &body);
                Ok(())
            }
            (Message::Hello(hello), State::Hello) => self.on_hello(now, &hello),
            (Message::RoundEnd(end), State::Receiving) => {
                self.rounds = end.round;
                self.say_progress(now);
                Ok(())
            }
            (Message::Seal(seal), State::Receiving) => self.on_seal(now, &seal, ram),
            (Message::Recall, State::Receiving | State::Restoring | State::Prepared) => {
                self.on_recall();
                Ok(())
            }
            (Message::Commit(commit), State::Prepared | State::Held(_)) => self.on_commit(now, &commit),
            (Message::Pushed(pushed), State::Filling | State::Owner) => self.on_pushed(now, &pushed),
            (Message::Release, State::Owner) => {
                self.released(now);
                Ok(())
            }
            _ => Err(AbortReason::Stream(StreamFault::Unexpected)),
        }
    }
}
