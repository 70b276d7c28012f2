//! One migration, on either side: an engine, its guest and its connection.

use alloc::vec::Vec;
use core::net::SocketAddrV4;

use godwit_migration::{
    Channel, Command, Event, GuestAction, GuestEvent, GuestFailure, GuestId, Input, Instant, MigrationId,
    Output, Status, Step,
};

use super::engine::Engine;
use super::guest::GuestHouse;
use super::streams::Streams;
use super::wire::{Change, OUTPUT_BYTES, Wire};
use crate::net::stream::StreamId;

/// Portions of work in one poll, so that the CPU's loop gets its turn.
const STEPS_MAX: usize = 16;

/// When a session is to be polled again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wakeup {
    /// At once: there was more to do, or a guest stands still until the peer answers.
    Now,
    /// At this moment, or earlier when something arrives.
    At(Instant),
}

/// See the module.
#[derive(Debug)]
pub struct Session<E, K> {
    engine: E,
    guest: K,
    wire: Wire,
    /// The name or address of the other host.
    peer: alloc::string::String,
    /// Where the source connects to.
    address: Option<SocketAddrV4>,
    migration: MigrationId,
    /// Who moves.
    subject: GuestId,
    /// The step that the guest has begun and not answered.
    outstanding: Option<Step>,
    deadline: Instant,
    buffer: Vec<u8>,
    events: Vec<Event>,
}

impl<E: Engine, K: Copy> Session<E, K> {
    /// A session that connects to `address` when its engine asks for it, if there is one.
    #[must_use]
    pub fn new(
        engine: E,
        guest: K,
        (migration, subject): (MigrationId, GuestId),
        peer: alloc::string::String,
        address: Option<SocketAddrV4>,
    ) -> Self {
        Self {
            engine,
            guest,
            wire: Wire::default(),
            peer,
            address,
            migration,
            subject,
            outstanding: None,
            deadline: Instant::ORIGIN,
            buffer: alloc::vec![0; OUTPUT_BYTES],
            events: Vec::new(),
        }
    }

    /// Which migration this is.
    #[must_use]
    pub const fn migration(&self) -> MigrationId {
        self.migration
    }

    /// The identity of the guest that moves.
    #[must_use]
    pub const fn subject(&self) -> GuestId {
        self.subject
    }

    /// The name or address of the other host.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Connects to another address from now on.
    pub fn redirect(&mut self, peer: alloc::string::String, address: SocketAddrV4) {
        self.peer = peer;
        self.address = Some(address);
    }

    /// The guest.
    #[must_use]
    pub const fn guest(&self) -> K {
        self.guest
    }

    /// Where the engine stands.
    #[must_use]
    pub fn status(&self, now: Instant) -> Status {
        self.engine.status(now)
    }

    /// Whether the session can be dropped: the engine is done, the guest has answered, everything is sent.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.engine.is_finished()
            && self.outstanding.is_none()
            && self.events.is_empty()
            && !self.wire.is_attached()
    }

    /// Takes what the engine told since it was asked last.
    pub fn take_events(&mut self) -> Vec<Event> {
        core::mem::take(&mut self.events)
    }

    /// A person wants something.
    pub fn command(&mut self, now: Instant, house: &mut impl GuestHouse<Key = K>, command: Command) {
        self.engine.handle_input(now, Input::Command(command), house.ram(self.guest));
    }

    /// Uses `stream`, which was accepted and whose first bytes, `received`, were already taken.
    pub fn accept(
        &mut self,
        now: Instant,
        streams: &mut impl Streams,
        house: &mut impl GuestHouse<Key = K>,
        (stream, received): (StreamId, &[u8]),
    ) {
        self.wire.attach(streams, stream);
        let change = self.wire.change(streams);
        self.engine.handle_input(now, Input::LinkUp(Channel::MAIN), house.ram(self.guest));
        self.engine.handle_input(now, Input::Bytes(Channel::MAIN, received), house.ram(self.guest));
        if change == Some(Change::Down) {
            // It was lost right behind its opening. An engine that is not told waits for it for ever.
            self.engine.handle_input(now, Input::LinkDown(Channel::MAIN), house.ram(self.guest));
        }
    }

    /// Does what can be done now.
    pub fn poll(
        &mut self,
        now: Instant,
        streams: &mut impl Streams,
        house: &mut impl GuestHouse<Key = K>,
    ) -> Wakeup {
        for _ in 0..STEPS_MAX {
            self.wire.expire(now, streams);
            let mut busy = self.wire.flush(streams);
            busy |= self.take_input(now, streams, house);
            if now >= self.deadline {
                self.deadline = Instant::NEVER;
                self.engine.handle_input(now, Input::Timeout, house.ram(self.guest));
                busy = true;
            }
            busy |= self.drain(now, streams, house);
            if !busy {
                self.finish(now, streams, house);
                let deadline = self.deadline.min(self.wire.deadline());
                return if self.is_urgent() { Wakeup::Now } else { Wakeup::At(deadline) };
            }
        }
        Wakeup::Now
    }

    /// Whether the network is polled: waking from a sleep would be downtime.
    fn is_urgent(&self) -> bool {
        self.engine.is_urgent() && self.wire.is_attached()
    }

    /// Gives the engine what has come from the guest and from the connection; whether there was anything.
    fn take_input(
        &mut self,
        now: Instant,
        streams: &mut impl Streams,
        house: &mut impl GuestHouse<Key = K>,
    ) -> bool {
        if let Some(event) = house.poll(self.guest) {
            if !matches!(event, GuestEvent::Ended) {
                self.outstanding = None;
            }
            self.engine.handle_input(now, Input::Guest(event), house.ram(self.guest));
            return true;
        }
        let count = self.wire.receive(streams, &mut self.buffer);
        if count > 0 {
            let input = Input::Bytes(Channel::MAIN, &self.buffer[..count]);
            self.engine.handle_input(now, input, house.ram(self.guest));
            return true;
        }
        let input = match self.wire.change(streams) {
            Some(Change::Up) => Input::LinkUp(Channel::MAIN),
            Some(Change::Down) => Input::LinkDown(Channel::MAIN),
            None => return false,
        };
        self.engine.handle_input(now, input, house.ram(self.guest));
        true
    }

    /// Carries out what the engine wants, until it wants nothing or the network is full; whether it wanted
    /// anything.
    fn drain(
        &mut self,
        now: Instant,
        streams: &mut impl Streams,
        house: &mut impl GuestHouse<Key = K>,
    ) -> bool {
        let mut wanted = false;
        loop {
            // While bytes wait for the network the engine is asked for everything but bytes.
            let room: &mut [u8] = if self.wire.is_flushed() { &mut self.buffer } else { &mut [] };
            match self.engine.poll_output(now, room, house.ram(self.guest)) {
                Output::Transmit { channel: _, len } => {
                    self.wire.queue(&self.buffer[..len]);
                    self.wire.flush(streams);
                }
                Output::Connect(_) => self.connect(now, streams, house),
                Output::Disconnect(_) => {
                    self.wire.close(now);
                    self.wire.flush(streams);
                }
                Output::HangUp(_) => self.wire.drop_stream(streams),
                Output::Guest(action) => self.begin(now, house, action),
                Output::Event(event) => self.events.push(event),
                Output::Timeout(deadline) => {
                    self.deadline = deadline;
                    return wanted;
                }
            }
            wanted = true;
        }
    }

    fn connect(&mut self, now: Instant, streams: &mut impl Streams, house: &mut impl GuestHouse<Key = K>) {
        let stream = self.address.and_then(|address| streams.connect(address).ok());
        match stream {
            Some(stream) => self.wire.attach(streams, stream),
            None => self.engine.handle_input(now, Input::LinkDown(Channel::MAIN), house.ram(self.guest)),
        }
    }

    fn begin(&mut self, now: Instant, house: &mut impl GuestHouse<Key = K>, action: GuestAction) {
        let step = action.step();
        if self.outstanding.is_some() {
            // The engine's contract forbids it; a guest in two steps at once would be worse than a refusal.
            let failure = GuestFailure::Host("two steps at once".into());
            self.engine.handle_input(
                now,
                Input::Guest(GuestEvent::Failed(step, failure)),
                house.ram(self.guest),
            );
            return;
        }
        self.outstanding = Some(step);
        house.begin(self.guest, action);
    }

    /// Looks after what a finished engine leaves behind: a guest that stands still, and the connection. As long as
    /// bytes wait for the network the engine may have a goodbye to say behind them.
    fn finish(&mut self, now: Instant, streams: &mut impl Streams, house: &mut impl GuestHouse<Key = K>) {
        if !self.engine.is_finished() {
            return;
        }
        if let Some(permit) = self.engine.take_permit() {
            house.hold(self.guest, permit);
        }
        if self.wire.is_flushed() {
            self.wire.close(now);
            self.wire.flush(streams);
        }
    }
}
