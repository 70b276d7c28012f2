//! What both roles have in common: a connection, and queues of what is to be said, done and told.

use alloc::collections::VecDeque;
use core::time::Duration;

use crate::io::{Channel, Event, GuestAction, Output, Step};
use crate::status::Phase;
use crate::time::Instant;
use crate::urgent::Urgent;
use crate::wire::assemble::Assembler;
use crate::wire::control::Control;
use crate::wire::opening::{Greeting, OPENING_BYTES};

/// Most control frames in waiting. Each state adds at most two.
const CONTROLS_MAX: usize = 16;
/// How long a host is thought to wait for a sign of life as long as it has not said so: no longer than any does.
pub(crate) const PATIENCE_UNTOLD: Duration = Duration::from_secs(1);
/// Most events in waiting; further ones are dropped, except the last word.
const EVENTS_MAX: usize = 64;

/// A connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) assembler: Assembler,
    /// Sequence number of the next frame that we send.
    pub(crate) sequence: u32,
    /// Bytes sent on this connection.
    pub(crate) sent: u64,
    /// Bytes received on this connection.
    pub(crate) received: u64,
    pub(crate) heard_at: Instant,
    pub(crate) said_at: Instant,
    /// The longest that we may be silent.
    pub(crate) keepalive: Duration,
}

impl Link {
    pub(crate) fn new(assembler: Assembler, now: Instant, keepalive: Duration) -> Self {
        Self { assembler, sequence: 0, sent: 0, received: 0, heard_at: now, said_at: now, keepalive }
    }

    /// The number for the next frame.
    pub(crate) fn next_sequence(&mut self) -> u32 {
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        sequence
    }
}

/// The queues of an engine and its connection.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) link: Option<Link>,
    /// Bytes sent and received on earlier connections.
    earlier: (u64, u64),
    events: VecDeque<Event>,
    action: Option<GuestAction>,
    outstanding: Option<Step>,
    controls: VecDeque<Control>,
    greeting: Option<Greeting>,
    connect_is_due: bool,
    disconnect_is_due: bool,
    /// The connection was dropped here, and whoever has it is to be told.
    hang_up_is_due: bool,
    phase: Phase,
    channel: Channel,
    pub(crate) urgent: Urgent,
}

impl Endpoint {
    pub(crate) fn new(phase: Phase) -> Self {
        Self::on(Channel::MAIN, phase)
    }

    /// One whose connection is this channel's.
    pub(crate) fn on(channel: Channel, phase: Phase) -> Self {
        Self {
            link: None,
            earlier: (0, 0),
            events: VecDeque::new(),
            action: None,
            outstanding: None,
            controls: VecDeque::new(),
            greeting: None,
            connect_is_due: false,
            disconnect_is_due: false,
            hang_up_is_due: false,
            phase,
            channel,
            urgent: Urgent::default(),
        }
    }

    pub(crate) const fn phase(&self) -> Phase {
        self.phase
    }

    /// Changes the phase and tells of it.
    pub(crate) fn enter(&mut self, phase: Phase) {
        if self.phase != phase {
            self.phase = phase;
            self.tell(Event::Phase(phase));
        }
    }

    pub(crate) fn tell(&mut self, event: Event) {
        let is_last_word = matches!(event, Event::Completed(_) | Event::Aborted(..) | Event::Held(_));
        if self.events.len() < EVENTS_MAX || is_last_word {
            self.events.push_back(event);
        }
    }

    /// Asks for a step. There is none outstanding.
    pub(crate) fn act(&mut self, action: GuestAction) {
        debug_assert!(self.outstanding.is_none(), "one step at a time");
        self.outstanding = Some(action.step());
        self.action = Some(action);
    }

    pub(crate) const fn outstanding(&self) -> Option<Step> {
        self.outstanding
    }

    /// Takes the answer to a step; whether that step was asked for and handed out.
    pub(crate) fn answered(&mut self, step: Step) -> bool {
        if self.outstanding == Some(step) && self.action.is_none() {
            self.outstanding = None;
            return true;
        }
        false
    }

    /// Takes back a step that was not handed out yet.
    pub(crate) fn withdraw(&mut self) -> Option<GuestAction> {
        let action = self.action.take();
        if action.is_some() {
            self.outstanding = None;
        }
        action
    }

    /// Says something, if there is a connection. How far it has come is said once, as far as it has come then.
    pub(crate) fn say(&mut self, control: Control) {
        if let (Control::Progress(_), Some(last @ Control::Progress(_))) =
            (&control, self.controls.back_mut())
        {
            *last = control;
        } else if self.link.is_some() && self.controls.len() < CONTROLS_MAX {
            self.controls.push_back(control);
        }
    }

    /// Says how a connection begins.
    pub(crate) fn greet(&mut self, greeting: Greeting) {
        self.greeting = Some(greeting);
    }

    pub(crate) fn connect(&mut self) {
        self.connect_is_due = true;
    }

    /// Takes a new connection.
    pub(crate) fn link_up(&mut self, link: Link) {
        self.forget_link();
        self.hang_up_is_due = false;
        self.link = Some(link);
    }

    /// The connection is gone.
    pub(crate) fn forget_link(&mut self) {
        if let Some(link) = self.link.take() {
            self.earlier.0 += link.sent;
            self.earlier.1 += link.received;
        }
        self.connect_is_due = false;
        self.disconnect_is_due = false;
        self.greeting = None;
        self.controls.clear();
    }

    /// Drops both connections at once.
    pub(crate) fn hang_up(&mut self) {
        self.urgent.hang_up();
        if self.link.is_some() || self.connect_is_due {
            self.forget_link();
            // Apart from a goodbye: it is to be done also if what follows treats the connection as lost.
            self.hang_up_is_due = true;
        }
    }

    /// Closes the connection when everything has been said; the urgent one at once.
    pub(crate) fn close(&mut self) {
        self.urgent.hang_up();
        self.connect_is_due = false;
        self.disconnect_is_due = self.link.is_some();
    }

    pub(crate) const fn is_closing(&self) -> bool {
        self.disconnect_is_due || self.hang_up_is_due
    }

    /// Bytes sent and received in all.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let (sent, received) = self.link.as_ref().map_or((0, 0), |link| (link.sent, link.received));
        let urgent = self.urgent.bytes();
        (self.earlier.0 + sent + urgent.0, self.earlier.1 + received + urgent.1)
    }

    /// The next thing in the queues.
    pub(crate) fn poll(&mut self, now: Instant, buffer: &mut [u8]) -> Option<Output> {
        if let Some(event) = self.events.pop_front() {
            return Some(Output::Event(event));
        }
        if let Some(action) = self.action.take() {
            return Some(Output::Guest(action));
        }
        if core::mem::take(&mut self.hang_up_is_due) {
            return Some(Output::HangUp(self.channel));
        }
        if self.urgent.take_hang_up() {
            return Some(Output::HangUp(Channel::URGENT));
        }
        if self.urgent.take_connect() {
            return Some(Output::Connect(Channel::URGENT));
        }
        if core::mem::take(&mut self.connect_is_due) {
            return Some(Output::Connect(self.channel));
        }
        if let Some(output) = self.poll_controls(now, buffer) {
            return Some(output);
        }
        let is_said = self.controls.is_empty() && self.greeting.is_none();
        if self.disconnect_is_due && is_said {
            self.forget_link();
            return Some(Output::Disconnect(self.channel));
        }
        None
    }

    /// Puts what is to be said next into `buffer`; how many bytes.
    pub(crate) fn poll_bytes(&mut self, now: Instant, buffer: &mut [u8]) -> usize {
        match self.poll_controls(now, buffer) {
            Some(Output::Transmit { len, .. }) => len,
            _ => 0,
        }
    }

    fn poll_controls(&mut self, now: Instant, buffer: &mut [u8]) -> Option<Output> {
        let link = self.link.as_mut().filter(|_| !buffer.is_empty())?;
        let mut length = 0;
        if let Some(greeting) = self.greeting.take() {
            buffer[..OPENING_BYTES].copy_from_slice(&greeting.encode());
            length = OPENING_BYTES;
        }
        if let Some(control) = self.controls.pop_front() {
            length += control.encode(link.next_sequence(), &mut buffer[length..]);
        }
        (length > 0).then(|| self.transmitted(now, length))
    }

    /// Accounts for bytes that are in the buffer now.
    pub(crate) fn transmitted(&mut self, now: Instant, len: usize) -> Output {
        if let Some(link) = &mut self.link {
            link.sent += len as u64;
            link.said_at = now;
        }
        Output::Transmit { channel: self.channel, len }
    }

    /// Says that we are alive if it is time.
    pub(crate) fn keep_alive(&mut self, now: Instant) {
        if now >= self.ping_at() {
            self.say(Control::Ping);
        }
    }

    /// When the other host has been silent for `patience`, or when it will have been.
    pub(crate) fn silent_at(&self, patience: Duration) -> Instant {
        self.link.as_ref().map_or(Instant::NEVER, |link| link.heard_at.after(patience))
    }

    /// When we have to say something again; never if something is waiting to be said.
    pub(crate) fn ping_at(&self) -> Instant {
        match &self.link {
            Some(link) if !self.disconnect_is_due && self.controls.is_empty() => {
                link.said_at.after(link.keepalive)
            }
            _ => Instant::NEVER,
        }
    }
}

/// How often to give a sign of life to a peer that waits for `theirs` while we wait for `ours`.
pub(crate) fn keepalive(ours: Duration, theirs: Duration) -> Duration {
    (ours.min(theirs) / 4).max(Duration::from_millis(10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_is_given_up_is_dropped_also_when_it_counts_as_lost_then() {
        let mut endpoint = Endpoint::new(Phase::Committing);
        endpoint.link_up(Link::new(Assembler::for_source(), Instant::ORIGIN, Duration::MAX));
        endpoint.hang_up();
        endpoint.forget_link();
        let output = endpoint.poll(Instant::ORIGIN, &mut []);
        assert!(matches!(output, Some(Output::HangUp(Channel::MAIN))), "{output:?}");
        assert!(endpoint.poll(Instant::ORIGIN, &mut []).is_none());
    }
}
