//! A third host that keeps pages for the target, its connections, and what can go wrong with them.

use std::time::Duration;

use godwit_migration::{
    Channel, Event, HostShare, Input, Instant, NoRam, Opening, Output, PageBitmap, Refusal, Room, Spool,
    SpoolConfig, SpoolEvent, SpoolOrder,
};

use super::guest::Ram;
use super::link::{Noise, Pipe};
use super::plan::Fault;
use super::{Happening, World};

/// Most outputs that one input may lead to.
const OUTPUTS_MAX: usize = 10_000;
/// Bytes that a sending host's socket takes before it pushes back.
const SOCKET_BYTES: usize = 96 * 1024;

/// Who makes a connection: the source to the spool, or the spool to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    Source = 0,
    Spool = 1,
}

/// What happens on the connections of the third host.
pub(crate) enum Third {
    Connected(usize),
    /// A connection that was asked for in this life of its client.
    Refused(Client, u64),
    Deliver {
        cable: usize,
        to_server: bool,
    },
    Down {
        cable: usize,
        at_server: bool,
    },
    Timer,
    Reboot,
}

/// What a person wants of the third host, and what it has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpoolPlan {
    /// Pages for which it has memory.
    pub(crate) pages: u32,
    pub(crate) is_busy: bool,
}

struct Cable {
    client: Client,
    /// To the server, to the client.
    pipes: [Pipe; 2],
    is_open: bool,
    server_thinks_up: bool,
    /// The server knows what it is about; at the target, whose it is.
    is_routed: bool,
    slot: usize,
    early: Vec<u8>,
}

/// See the module.
pub(crate) struct SpoolHost {
    pub(crate) is_alive: bool,
    incarnation: u64,
    pub(crate) engine: Option<Spool>,
    store: Option<Ram>,
    wake: Instant,
    pub(crate) unreachable_until: Instant,
    cables: Vec<Cable>,
    /// Of each client: the connection that is being made, and the one that stands.
    connecting: [Option<usize>; 2],
    up: [Option<usize>; 2],
    /// The connection that the spool has from the source, and the target from the spool.
    served: [Option<usize>; 2],
    /// The source has said that it may die.
    pub(crate) is_whole: bool,
    /// Pages that were here when the source died, as long as this host lives.
    pub(crate) inherited: Option<PageBitmap>,
    /// The source died when it might.
    pub(crate) was_whole: bool,
    /// The target has taken pages from here.
    pub(crate) has_given: bool,
    /// It has died since the source came the last time.
    has_crashed: bool,
    /// Something befell this host or its connections.
    pub(crate) was_hit: bool,
    pub(crate) has_spent: bool,
    pub(crate) is_verified: bool,
    /// After how many messages the source was told that it may die.
    pub(crate) whole_at: Option<u64>,
}

impl SpoolHost {
    pub(crate) fn new() -> Self {
        Self {
            is_alive: true,
            incarnation: 1,
            engine: None,
            store: None,
            wake: Instant::NEVER,
            unreachable_until: Instant::ORIGIN,
            cables: Vec::new(),
            connecting: [None; 2],
            up: [None; 2],
            served: [None; 2],
            is_whole: false,
            inherited: None,
            was_whole: false,
            has_given: false,
            has_crashed: false,
            was_hit: false,
            has_spent: false,
            is_verified: false,
            whole_at: None,
        }
    }

    /// Whether it has nothing to do any more.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.engine.as_ref().is_none_or(Spool::is_finished)
    }
}

/// What a source says of its target.
pub(crate) fn order() -> SpoolOrder {
    SpoolOrder { target: "b".into(), address: vec![10, 0, 0, 2] }
}

impl World {
    fn third_after(&mut self, delay: Duration, third: Third) {
        self.after(delay, Happening::Third(third));
    }

    fn life_of(&self, client: Client) -> u64 {
        match client {
            Client::Source => self.source.incarnation * 1000 + u64::from(self.source.attempt),
            Client::Spool => self.spool.incarnation,
        }
    }

    pub(crate) fn third_connect(&mut self, client: Client) {
        let delay = self.plan.wire.latency * 2;
        let server_is_there = match client {
            Client::Source => self.spool.is_alive && self.plan.spool.is_some(),
            Client::Spool => self.target.is_alive && self.now >= self.partitioned_until,
        };
        if !server_is_there || self.now < self.spool.unreachable_until {
            let life = self.life_of(client);
            return self.third_after(delay, Third::Refused(client, life));
        }
        self.spool.cables.push(Cable {
            client,
            pipes: [Pipe::default(), Pipe::default()],
            is_open: true,
            server_thinks_up: true,
            is_routed: false,
            slot: 0,
            early: Vec::new(),
        });
        let cable = self.spool.cables.len() - 1;
        self.spool.connecting[client as usize] = Some(cable);
        self.third_after(delay, Third::Connected(cable));
    }

    pub(crate) fn third(&mut self, third: Third) {
        match third {
            Third::Connected(cable) => {
                let client = self.spool.cables[cable].client;
                if self.spool.connecting[client as usize] == Some(cable) {
                    self.spool.connecting[client as usize] = None;
                    self.spool.up[client as usize] = Some(cable);
                    self.give_client(client, Input::LinkUp);
                }
            }
            Third::Refused(client, life) if life == self.life_of(client) => {
                self.give_client(client, Input::LinkDown);
            }
            Third::Refused(..) => {}
            Third::Deliver { cable, to_server } => self.third_deliver(cable, to_server),
            Third::Down { cable, at_server } => self.third_down(cable, at_server),
            Third::Timer if self.spool.wake <= self.now => {
                self.spool.wake = Instant::NEVER;
                self.give_spool(Input::Timeout);
            }
            Third::Timer => {}
            Third::Reboot => self.spool.is_alive = true,
        }
    }

    fn give_client(&mut self, client: Client, input: fn(Channel) -> Input<'static>) {
        match client {
            Client::Source => self.give_source(input(Channel::SPOOL)),
            Client::Spool => self.give_spool(input(Channel::MAIN)),
        }
    }

    fn give_server(&mut self, cable: usize, input: fn(Channel) -> Input<'static>) {
        match self.spool.cables[cable].client {
            Client::Source => self.give_spool(input(Channel::SPOOL)),
            Client::Spool => self.give_target(self.spool.cables[cable].slot, input(Channel::SPOOL)),
        }
    }

    fn give_server_bytes(&mut self, cable: usize, bytes: &[u8]) {
        for part in self.portions(bytes) {
            match self.spool.cables[cable].client {
                Client::Source => self.give_spool(Input::Bytes(Channel::SPOOL, part)),
                Client::Spool => {
                    self.give_target(self.spool.cables[cable].slot, Input::Bytes(Channel::SPOOL, part));
                }
            }
        }
    }

    fn third_deliver(&mut self, cable: usize, to_server: bool) {
        if self.now < self.frozen_until {
            let at = self.frozen_until.since(self.now);
            return self.third_after(at, Third::Deliver { cable, to_server });
        }
        let client = self.spool.cables[cable].client;
        let pipe = &mut self.spool.cables[cable].pipes[usize::from(!to_server)];
        if pipe.next_at().is_none_or(|at| at > self.now) {
            return;
        }
        let Some(bytes) = pipe.take() else { return };
        let is_up = self.spool.up[client as usize] == Some(cable);
        if to_server {
            self.third_arrive(cable, &bytes);
            if is_up {
                match client {
                    Client::Source => self.drain_source(),
                    Client::Spool => self.drain_spool(),
                }
            }
        } else if is_up {
            for part in self.portions(&bytes) {
                match client {
                    Client::Source => self.give_source(Input::Bytes(Channel::SPOOL, part)),
                    Client::Spool => self.give_spool(Input::Bytes(Channel::MAIN, part)),
                }
            }
            if self.spool.served[client as usize] == Some(cable) {
                match client {
                    Client::Source => self.drain_spool(),
                    Client::Spool => self.drain_target(self.spool.cables[cable].slot),
                }
            }
        }
    }

    fn third_arrive(&mut self, cable: usize, bytes: &[u8]) {
        let wire = &mut self.spool.cables[cable];
        let is_alive = match wire.client {
            Client::Source => self.spool.is_alive,
            Client::Spool => self.target.is_alive,
        };
        if !is_alive || !wire.server_thinks_up {
            return;
        }
        if wire.is_routed {
            return self.give_server_bytes(cable, bytes);
        }
        wire.early.extend_from_slice(bytes);
        match Opening::peek(&wire.early) {
            Ok(None) => {}
            Ok(Some(opening)) if self.third_route(cable, &opening) => {
                self.spool.cables[cable].is_routed = true;
                let client = self.spool.cables[cable].client;
                self.spool.served[client as usize] = Some(cable);
                self.give_server(cable, Input::LinkUp);
                let early = std::mem::take(&mut self.spool.cables[cable].early);
                self.give_server_bytes(cable, &early);
            }
            Ok(Some(_)) | Err(_) => {
                self.spool.cables[cable].server_thinks_up = false;
                self.third_close(cable, true);
            }
        }
    }

    /// The session's work at a new connection; whether somebody takes it.
    fn third_route(&mut self, cable: usize, opening: &Opening) -> bool {
        let migration = Some(opening.migration());
        match opening {
            Opening::Spool { .. } => {
                let plan = self.plan.spool.expect("there is a third host");
                if self.spool.engine.as_ref().is_some_and(|engine| !engine.is_finished()) {
                    return self.spool.engine.as_ref().is_some_and(|engine| engine.migration() == migration);
                }
                let config = SpoolConfig {
                    incarnation: self.spool.incarnation,
                    room: Room { ram_bytes: u64::from(plan.pages) * 4096 + 512, heap_bytes: u64::MAX },
                    share: HostShare::default(),
                    closed: plan.is_busy.then_some(Refusal::Busy),
                    policy: self.plan.spool_policy,
                };
                self.spool.has_crashed = false;
                self.spool.engine = Some(Spool::new(config));
                self.spool.store = Some(Ram::new(self.plan.pages, plan.pages));
                true
            }
            Opening::Offer { .. } => {
                let known = self.target.slots.iter().position(|slot| {
                    slot.engine.as_ref().is_some_and(|engine| engine.migration() == migration)
                });
                self.spool.cables[cable].slot = known.unwrap_or(0);
                known.is_some()
            }
            _ => false,
        }
    }

    pub(crate) fn give_spool(&mut self, input: Input<'_>) {
        let Some(engine) = &mut self.spool.engine else { return };
        match &mut self.spool.store {
            Some(store) => engine.handle_input(self.now, input, store),
            None => engine.handle_input(self.now, input, &mut NoRam),
        }
        self.drain_spool();
    }

    fn drain_spool(&mut self) {
        for _ in 0..OUTPUTS_MAX {
            let is_full = self.third_is_full(self.spool.up[Client::Spool as usize], true);
            let mut buffer = self.buffer();
            let room = if is_full { &mut [][..] } else { &mut buffer[..] };
            let (Some(engine), Some(store)) = (&mut self.spool.engine, &mut self.spool.store) else {
                return self.return_buffer(buffer);
            };
            let output = engine.poll_output(self.now, room, store);
            self.return_buffer(buffer);
            match output {
                Output::Transmit { len, .. } => {
                    self.third_transmit(self.spool.up[Client::Spool as usize], true, len)
                }
                Output::Connect(Channel::MAIN) => self.third_connect(Client::Spool),
                Output::HangUp(Channel::MAIN) | Output::Disconnect(Channel::MAIN) => {
                    self.third_part(Client::Spool, matches!(output, Output::HangUp(_)));
                }
                Output::HangUp(_) | Output::Disconnect(_) => {
                    self.third_leave(Client::Source, matches!(output, Output::HangUp(_)));
                }
                Output::Event(event) => self.on_spool_event(&event),
                Output::Timeout(at) => {
                    self.spool.wake = at;
                    if at < Instant::NEVER {
                        self.third_after(at.since(self.now), Third::Timer);
                    }
                    if !self.drain_answers() {
                        return;
                    }
                }
                output => panic!("not a spool's: {output:?}"),
            }
        }
        panic!("the spool never comes to rest: {}", self.state());
    }

    /// Sends what the spool has to say to the source; whether there was anything.
    fn drain_answers(&mut self) -> bool {
        let mut any = false;
        for _ in 0..OUTPUTS_MAX {
            let cable = self.spool.served[Client::Source as usize];
            if self.third_is_full(cable, false) {
                return any;
            }
            let mut buffer = self.buffer();
            let len = match &mut self.spool.engine {
                Some(engine) => engine.poll_spool(self.now, &mut buffer, &mut NoRam),
                None => 0,
            };
            self.return_buffer(buffer);
            if len == 0 {
                return any;
            }
            any = true;
            self.third_transmit(cable, false, len);
        }
        panic!("the spool always has an answer: {}", self.state());
    }

    /// Sends what source or target have to say to the spool; whether there was anything.
    pub(crate) fn drain_to_spool(&mut self, target: Option<usize>) -> bool {
        let mut any = false;
        for _ in 0..OUTPUTS_MAX {
            let (cable, is_client) = match target {
                None => (self.spool.up[Client::Source as usize], true),
                Some(slot) => {
                    let cable = self.spool.served[Client::Spool as usize];
                    (cable.filter(|cable| self.spool.cables[*cable].slot == slot), false)
                }
            };
            if cable.is_none() || self.third_is_full(cable, is_client) {
                return any;
            }
            let mut buffer = self.buffer();
            let len = match (target, &mut self.source.guest) {
                (None, Some(guest)) => self
                    .source
                    .engine
                    .as_mut()
                    .map_or(0, |engine| engine.poll_spool(self.now, &mut buffer, &mut guest.ram)),
                (None, None) => self
                    .source
                    .engine
                    .as_mut()
                    .map_or(0, |engine| engine.poll_spool(self.now, &mut buffer, &mut NoRam)),
                (Some(slot), _) => self.target.slots[slot]
                    .engine
                    .as_mut()
                    .map_or(0, |engine| engine.poll_spool(self.now, &mut buffer, &mut NoRam)),
            };
            self.return_buffer(buffer);
            if len == 0 {
                return any;
            }
            any = true;
            self.third_transmit(cable, is_client, len);
        }
        panic!("there is always something to say to the spool: {}", self.state());
    }

    fn on_spool_event(&mut self, event: &Event) {
        self.note(format!("spool: {event:?}"));
        if let Event::Spool(SpoolEvent::Over(_)) = event {
            self.spool.is_whole = false;
        }
    }

    fn third_is_full(&self, cable: Option<usize>, to_server: bool) -> bool {
        cable.is_some_and(|cable| {
            let cable = &self.spool.cables[cable];
            cable.is_open && cable.pipes[usize::from(!to_server)].queued_bytes() >= SOCKET_BYTES
        })
    }

    fn third_transmit(&mut self, cable: Option<usize>, to_server: bool, len: usize) {
        self.messages += 1;
        if let Some(index) = cable
            && self.spool.cables[index].is_open
        {
            let mut conditions = self.plan.wire;
            if self.is_peaceful {
                conditions.noise = Noise::default();
            }
            let (now, buffer) = (self.now, self.buffer());
            let pipe = &mut self.spool.cables[index].pipes[usize::from(!to_server)];
            let at = pipe.send(now, &buffer[..len], &conditions, &mut self.random);
            self.return_buffer(buffer);
            for _ in 0..2 {
                self.third_after(at.since(now), Third::Deliver { cable: index, to_server });
            }
        }
        self.befall();
    }

    /// A client closes its connection.
    pub(crate) fn third_part(&mut self, client: Client, is_hang_up: bool) {
        self.spool.connecting[client as usize] = None;
        if let Some(cable) = self.spool.up[client as usize].take() {
            if is_hang_up {
                self.spool.cables[cable].pipes[0].clear();
            }
            self.third_close(cable, false);
        }
    }

    /// The server of a client closes its connection.
    pub(crate) fn third_leave(&mut self, client: Client, is_hang_up: bool) {
        if let Some(cable) = self.spool.served[client as usize].take() {
            self.spool.cables[cable].server_thinks_up = false;
            if is_hang_up {
                self.spool.cables[cable].pipes[1].clear();
            }
            self.third_close(cable, true);
        }
    }

    fn third_close(&mut self, cable: usize, by_server: bool) {
        let wire = &mut self.spool.cables[cable];
        if !wire.is_open {
            return;
        }
        wire.is_open = false;
        // What was on its way to the closer is lost.
        wire.pipes[usize::from(!by_server)].clear();
        let behind = wire.pipes[usize::from(by_server)].queued_bytes() as u64;
        let delay = self.plan.wire.latency + Duration::from_nanos(behind * self.plan.wire.ns_per_byte);
        self.third_after(delay * 2, Third::Down { cable, at_server: !by_server });
    }

    fn third_down(&mut self, cable: usize, at_server: bool) {
        let client = self.spool.cables[cable].client;
        let place = client as usize;
        if at_server {
            self.spool.cables[cable].server_thinks_up = false;
            if self.spool.served[place] == Some(cable) {
                self.spool.served[place] = None;
                self.give_server(cable, Input::LinkDown);
            }
        } else if self.spool.up[place] == Some(cable) {
            self.spool.up[place] = None;
            self.give_client(client, Input::LinkDown);
        }
    }

    /// Breaks connections of the third host: all, or those of this client.
    pub(crate) fn third_cut(&mut self, of: Option<Client>) {
        for index in 0..self.spool.cables.len() {
            let cable = &mut self.spool.cables[index];
            if !cable.is_open || of.is_some_and(|of| of != cable.client) {
                continue;
            }
            cable.is_open = false;
            cable.pipes.iter_mut().for_each(Pipe::clear);
            for at_server in [false, true] {
                if !self.random.one_in(4) {
                    let delay = self.random.micros(0, 500_000);
                    self.third_after(delay, Third::Down { cable: index, at_server });
                }
            }
        }
    }

    pub(crate) fn crash_spool(&mut self, back_after: Duration) {
        self.spool.is_alive = false;
        self.spool.has_crashed = true;
        self.spool.incarnation += 1;
        (self.spool.engine, self.spool.store) = (None, None);
        self.spool.is_whole = false;
        self.spool.inherited = None;
        self.spool.was_whole = false;
        self.third_part(Client::Spool, false);
        self.third_leave(Client::Source, false);
        self.third_after(back_after, Third::Reboot);
    }

    /// What source and target say of the third host.
    pub(crate) fn on_event_of_spool(&mut self, event: &SpoolEvent) {
        match event {
            SpoolEvent::Whole { .. } => {
                self.spool.is_whole = !self.spool.has_crashed;
                self.spool.whole_at = self.spool.whole_at.or(Some(self.messages));
                if let Some((after, time)) = self.plan.dies_when_spooled.take() {
                    self.plan.faults.push((self.messages + after, Fault::CrashSource(time)));
                    self.plan.faults.sort_by_key(|(at, _)| *at);
                }
            }
            SpoolEvent::Unavailable(_) => self.spool.is_whole = false,
            SpoolEvent::Filling { .. } => self.spool.has_given = true,
            SpoolEvent::Spent { is_verified, .. } => {
                self.spool.has_spent = true;
                self.spool.is_verified |= is_verified;
            }
            _ => {}
        }
    }

    /// The source has died, and its ends with it.
    pub(crate) fn spool_inherits(&mut self) {
        if self.source.engine.as_ref().is_some_and(|engine| !engine.is_finished()) {
            self.spool.inherited = self.spool.engine.as_ref().map(|engine| engine.held().clone());
            self.spool.was_whole = self.spool.is_whole;
        }
        self.third_part(Client::Source, false);
    }
}
