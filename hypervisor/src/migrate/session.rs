//! One migration, on either side: an engine, its guest and its connections.

use alloc::vec::Vec;
use core::net::SocketAddrV4;

use godwit_migration::{
    Channel, Command, Event, GuestAction, GuestEvent, GuestFailure, GuestId, Input, Instant, MigrationId,
    Output, Phase, Status, Step,
};

use super::engine::Engine;
use super::guest::Lodging;
use super::streams::Streams;
use super::wire::{Change, OUTPUT_BYTES, Wire};
use crate::net::stream::StreamId;

/// Portions of work in one poll, so that the CPU's loop gets its turn.
const STEPS_MAX: usize = 16;
/// The same while a page may be waited for: what asks for it, or brings it, may be in the card by now.
const STEPS_MAX_AFTER_SWITCH: usize = 4;

/// Portions of bytes that are produced before anything else is looked at.
const PORTIONS_MAX: usize = 16;
/// The channels, in the order in which they get their turn.
const CHANNELS: [Channel; 3] = [Channel::URGENT, Channel::MAIN, Channel::SPOOL];

/// Where `channel` is in [`CHANNELS`].
const fn place(channel: Channel) -> usize {
    match channel {
        Channel::URGENT => 0,
        Channel::SPOOL => 2,
        _ => 1,
    }
}

/// Whether the engine may produce bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    /// It may not.
    None,
    /// If the network has taken what was produced before.
    IfFlushed,
}

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
    /// In the order of [`CHANNELS`].
    wires: [Wire; 3],
    /// The name or address of the other host.
    peer: alloc::string::String,
    /// Where the source connects to.
    address: Option<SocketAddrV4>,
    /// The third host, if there is one: at the source and the target its name or address, and at the source where it is.
    third: Option<(alloc::string::String, Option<SocketAddrV4>)>,
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
            wires: <[Wire; 3]>::default(),
            peer,
            address,
            third: None,
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

    /// The name or address of the third host, if there is one.
    #[must_use]
    pub fn third(&self) -> Option<&str> {
        self.third.as_ref().map(|(name, _)| name.as_str())
    }

    /// There is a third host; a source connects to it at this address.
    pub fn set_third(&mut self, name: alloc::string::String, address: Option<SocketAddrV4>) {
        self.third = Some((name, address));
    }

    /// The engine.
    pub(super) const fn engine(&self) -> &E {
        &self.engine
    }

    /// The engine; whoever changes it polls the session.
    pub(super) const fn engine_mut(&mut self) -> &mut E {
        &mut self.engine
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
            && !self.wires.iter().any(Wire::is_attached)
    }

    /// Connections that it has.
    pub(super) fn connections(&self) -> usize {
        self.wires.iter().filter(|wire| wire.is_attached()).count()
    }

    /// Takes what the engine told since it was asked last.
    pub fn take_events(&mut self) -> Vec<Event> {
        core::mem::take(&mut self.events)
    }

    /// Whether `command` would do something now.
    #[must_use]
    pub fn heeds(&self, command: Command) -> bool {
        self.engine.heeds(command)
    }

    /// A person wants something.
    pub fn command(&mut self, now: Instant, house: &mut impl Lodging<Key = K>, command: Command) {
        self.input(now, house, Input::Command(command));
    }

    /// Uses `stream` for `channel`; it was accepted, and its first bytes, `received`, were already taken.
    pub fn accept(
        &mut self,
        now: Instant,
        streams: &mut impl Streams,
        house: &mut impl Lodging<Key = K>,
        (channel, stream, received): (Channel, StreamId, &[u8]),
    ) {
        let wire = &mut self.wires[place(channel)];
        wire.attach(streams, stream);
        let change = wire.change(streams);
        self.input(now, house, Input::LinkUp(channel));
        self.input(now, house, Input::Bytes(channel, received));
        if change == Some(Change::Down) {
            // It was lost right behind its opening. An engine that is not told waits for it for ever.
            self.input(now, house, Input::LinkDown(channel));
        }
    }

    /// Does what can be done now.
    pub fn poll(
        &mut self,
        now: Instant,
        streams: &mut impl Streams,
        house: &mut impl Lodging<Key = K>,
    ) -> Wakeup {
        let steps = if self.engine.is_after_switch() { STEPS_MAX_AFTER_SWITCH } else { STEPS_MAX };
        for _ in 0..steps {
            let mut busy = false;
            for wire in &mut self.wires {
                wire.expire(now, streams);
                busy |= wire.flush(streams);
            }
            // Building takes seconds, and an attempt that has ended is not over before its steps are answered.
            if self.outstanding == Some(Step::Build) && self.engine.status(now).phase == Phase::Aborting {
                house.give_up(self.guest);
            }
            busy |= self.take_input(now, streams, house);
            if now >= self.deadline {
                self.deadline = Instant::NEVER;
                self.input(now, house, Input::Timeout);
                busy = true;
            }
            busy |= self.drain(now, streams, house);
            if !busy {
                self.finish(now, streams, house);
                let deadline = self.wires.iter().map(Wire::deadline).fold(self.deadline, Instant::min);
                return if self.is_urgent(house) { Wakeup::Now } else { Wakeup::At(deadline) };
            }
        }
        Wakeup::Now
    }

    /// Whether the network is polled: waking from a sleep would be downtime, or a processor's wait for a page.
    fn is_urgent(&self, house: &impl Lodging<Key = K>) -> bool {
        let [urgent, main, spool] = &self.wires;
        let answers_waits = urgent.is_attached() || spool.is_attached();
        let is_attached = answers_waits || main.is_attached();
        self.engine.is_urgent() && is_attached || answers_waits && house.is_waiting(self.guest)
    }

    fn input(&mut self, now: Instant, house: &mut impl Lodging<Key = K>, input: Input<'_>) {
        self.engine.handle_input(now, input, house.ram(self.guest));
    }

    /// Gives the engine the next thing that has come from the guest or from a connection; whether there was anything.
    fn take_input(
        &mut self,
        now: Instant,
        streams: &mut impl Streams,
        house: &mut impl Lodging<Key = K>,
    ) -> bool {
        if let Some(event) = house.poll(self.guest) {
            if !matches!(event, GuestEvent::Ended | GuestEvent::PageWanted(_)) {
                self.outstanding = None;
            }
            self.input(now, house, Input::Guest(event));
            return true;
        }
        for (channel, wire) in CHANNELS.into_iter().zip(&mut self.wires) {
            let count = wire.receive(streams, &mut self.buffer);
            if count > 0 {
                let input = Input::Bytes(channel, &self.buffer[..count]);
                self.engine.handle_input(now, input, house.ram(self.guest));
                return true;
            }
            let change = match wire.change(streams) {
                Some(Change::Up) => Input::LinkUp(channel),
                Some(Change::Down) => Input::LinkDown(channel),
                None => continue,
            };
            self.input(now, house, change);
            return true;
        }
        false
    }

    /// Carries out what the engine wants, until it wants nothing or the network is full; whether it wanted anything.
    /// What is urgent goes first, and is looked for again after each portion of the rest.
    fn drain(&mut self, now: Instant, streams: &mut impl Streams, house: &mut impl Lodging<Key = K>) -> bool {
        let mut wanted = false;
        // All but bytes, so that the engine has come to an end before it is asked for what is urgent.
        while self.carry_out(now, streams, house, Room::None) {
            wanted = true;
        }
        while self.send_beside(now, streams, house, Channel::URGENT) {
            wanted = true;
        }
        let [urgent, main, _] = &self.wires;
        let portions = if urgent.is_attached() { 1 } else { PORTIONS_MAX };
        if main.is_flushed() {
            for _ in 0..portions {
                if !self.carry_out(now, streams, house, Room::IfFlushed) {
                    break;
                }
                wanted = true;
            }
        }
        wanted | self.send_beside(now, streams, house, Channel::SPOOL)
    }

    /// Carries out the next thing that the engine wants; whether there was one.
    fn carry_out(
        &mut self,
        now: Instant,
        streams: &mut impl Streams,
        house: &mut impl Lodging<Key = K>,
        room: Room,
    ) -> bool {
        // While bytes wait for the network the engine is asked for everything but bytes.
        let has_room = room == Room::IfFlushed && self.wires[place(Channel::MAIN)].is_flushed();
        let buffer: &mut [u8] = if has_room { &mut self.buffer } else { &mut [] };
        match self.engine.poll_output(now, buffer, house.ram(self.guest)) {
            Output::Transmit { channel, len } => self.transmit(streams, channel, len),
            Output::Connect(channel) => self.connect(now, streams, house, channel),
            Output::Disconnect(channel) => {
                let wire = &mut self.wires[place(channel)];
                wire.close(now);
                wire.flush(streams);
            }
            Output::HangUp(channel) => self.wires[place(channel)].drop_stream(streams),
            Output::Guest(action) => self.begin(now, house, action),
            Output::Event(event) => self.events.push(event),
            Output::Timeout(deadline) => {
                self.deadline = deadline;
                return false;
            }
        }
        true
    }

    /// Sends what there is for a channel beside the main one, if its connection takes it; whether there was anything.
    fn send_beside(
        &mut self,
        now: Instant,
        streams: &mut impl Streams,
        house: &mut impl Lodging<Key = K>,
        channel: Channel,
    ) -> bool {
        let wire = &self.wires[place(channel)];
        if !wire.is_attached() || !wire.is_flushed() {
            return false;
        }
        let ram = house.ram(self.guest);
        let len = match channel {
            Channel::SPOOL => self.engine.poll_spool(now, &mut self.buffer, ram),
            _ => self.engine.poll_urgent(now, &mut self.buffer, ram),
        };
        if len > 0 {
            self.transmit(streams, channel, len);
        }
        len > 0
    }

    /// Sends the first `len` bytes of the buffer.
    fn transmit(&mut self, streams: &mut impl Streams, channel: Channel, len: usize) {
        let wire = &mut self.wires[place(channel)];
        wire.queue(&self.buffer[..len]);
        wire.flush(streams);
    }

    fn connect(
        &mut self,
        now: Instant,
        streams: &mut impl Streams,
        house: &mut impl Lodging<Key = K>,
        channel: Channel,
    ) {
        let address = match channel {
            Channel::SPOOL => self.third.as_ref().and_then(|(_, address)| *address),
            _ => self.address.or_else(|| self.engine.target_address()),
        };
        let stream = address.and_then(|address| streams.connect(address).ok());
        match stream {
            Some(stream) => self.wires[place(channel)].attach(streams, stream),
            None => self.input(now, house, Input::LinkDown(channel)),
        }
    }

    fn begin(&mut self, now: Instant, house: &mut impl Lodging<Key = K>, action: GuestAction) {
        let step = action.step();
        if self.outstanding.is_some() {
            // The engine's contract forbids it; a guest in two steps at once would be worse than a refusal.
            let failure = GuestFailure::Host("two steps at once".into());
            return self.input(now, house, Input::Guest(GuestEvent::Failed(step, failure)));
        }
        self.outstanding = Some(step);
        house.begin(self.guest, action);
    }

    /// Looks after what a finished engine leaves behind: a guest that stands still, and the connection. As long as
    /// bytes wait for the network the engine may have a goodbye to say behind them.
    fn finish(&mut self, now: Instant, streams: &mut impl Streams, house: &mut impl Lodging<Key = K>) {
        if !self.engine.is_finished() {
            return;
        }
        if let Some(permit) = self.engine.take_permit() {
            house.hold(self.guest, permit);
        }
        for wire in &mut self.wires {
            if wire.is_flushed() {
                wire.close(now);
                wire.flush(streams);
            }
        }
    }
}
