//! A seeded world around the engine: two hosts, a wire between them, a guest that keeps writing, and everything
//! that can go wrong. Time is virtual. After every event the invariants are checked: at most one host runs the
//! guest; where it runs, its RAM and devices are what it left.

pub(crate) mod clones;
pub(crate) mod disaster;
pub(crate) mod guest;
pub(crate) mod hosts;
pub(crate) mod link;
pub(crate) mod plan;
pub(crate) mod random;
pub(crate) mod third;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use godwit_migration::{
    Channel, Command, Event, GuestAction, GuestEvent, GuestId, Input, Instant, Judgement, Opening, Output,
    Page, Phase, RunPermit,
};

use guest::{Instance, Ram, Truth};
use hosts::{SourceHost, TargetHost, slot};
use link::Connection;
use plan::{Fault, Plan};
use random::Random;
use third::{SpoolHost, Third};

pub(crate) const GUEST: GuestId = GuestId([0x67; 16]);
pub(crate) const COPY: GuestId = GuestId([0x63; 16]);
/// Bytes that a sending host's socket takes before it pushes back.
const SOCKET_BYTES: usize = 96 * 1024;
/// A world that has not come to rest after so many events, the guest's writes not among them, is going in circles.
const EVENTS_MAX: u64 = 100_000;

/// Who.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    Source,
    /// An engine of the target, by its index.
    Target(usize),
}

/// What happens.
pub(crate) enum Happening {
    Deliver {
        connection: usize,
        to_target: bool,
    },
    Connected(usize),
    /// The connection that this attempt asked for.
    Refused(u8, Channel),
    LinkDown {
        connection: usize,
        at_target: bool,
    },
    Step {
        who: Who,
        incarnation: u64,
        action: GuestAction,
    },
    Timer(Who),
    Write,
    Reboot {
        is_source: bool,
    },
    Operator,
    Third(Third),
}

/// Happenings in the order of their time, then of their making.
struct Entry(Instant, u64, Happening);

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) random: Random,
    pub(crate) plan: Plan,
    pub(crate) source: SourceHost,
    pub(crate) target: TargetHost,
    pub(crate) spool: SpoolHost,
    pub(crate) truth: Truth,
    /// The same of a copy of it: what the guest was when it stood still, and what the copy has written since.
    pub(crate) copy: Option<Truth>,
    /// How often a copy began to run.
    pub(crate) copies: u32,
    pub(crate) connections: Vec<Connection>,
    pub(crate) messages: u64,
    pub(crate) guest_ended: bool,
    /// The pages that the guest waits for, one for each of its processors at most.
    pub(crate) waits_for: Vec<u32>,
    pub(crate) frozen_until: Instant,
    pub(crate) partitioned_until: Instant,
    /// Whether the world may still go wrong.
    pub(crate) is_peaceful: bool,
    pub(crate) trace: Vec<String>,
    heap: BinaryHeap<Reverse<Entry>>,
    made: u64,
    buffer: Vec<u8>,
}

impl World {
    pub(crate) fn new(plan: Plan) -> Self {
        let mut random = Random::new(plan.seed);
        let mut truth = Truth::new(plan.pages, plan.working_set, plan.drifts, plan.contents);
        truth.boot(&mut random);
        let mut ram = Ram::new(plan.pages, u32::MAX);
        ram.pages.clone_from(&truth.pages);
        let permit = Some(RunPermit::for_new_guest(GUEST));
        let guest = Instance { ram, permit, throttle: 0, restored: None };
        let mut world = Self {
            now: Instant::from_nanos(1_000_000),
            random,
            source: SourceHost::new(guest),
            target: TargetHost::new(),
            spool: SpoolHost::new(),
            truth,
            copy: None,
            copies: 0,
            connections: Vec::new(),
            messages: 0,
            guest_ended: false,
            waits_for: Vec::new(),
            frozen_until: Instant::ORIGIN,
            partitioned_until: Instant::ORIGIN,
            is_peaceful: false,
            trace: Vec::new(),
            heap: BinaryHeap::new(),
            made: 0,
            buffer: vec![0; plan.buffer_bytes],
            plan,
        };
        world.after(Duration::ZERO, Happening::Write);
        world
    }

    pub(crate) fn note(&mut self, what: String) {
        if self.trace.len() < 4000 {
            self.trace.push(format!("{} {what}", self.now));
        }
    }

    pub(crate) fn after(&mut self, delay: Duration, happening: Happening) {
        self.at(self.now.after(delay), happening);
    }

    fn at(&mut self, at: Instant, happening: Happening) {
        self.made += 1;
        self.heap.push(Reverse(Entry(at, self.made, happening)));
    }

    /// Begins an attempt and lets the world go on until the attempt is over at both ends.
    pub(crate) fn migrate(&mut self, attempt: u8) {
        self.source.begin(attempt, &self.plan);
        self.give_source(Input::Command(Command::Start));
        let patience = self.now.after(Duration::from_secs(600));
        self.after(Duration::from_secs(60), Happening::Operator);
        let mut events = 0;
        while !self.is_at_rest() {
            let Some(Reverse(Entry(at, _, happening))) = self.heap.pop() else {
                panic!("nothing more can happen, but it is not over: {}", self.state());
            };
            self.now = self.now.max(at);
            events += u64::from(!matches!(happening, Happening::Write));
            self.happen(happening);
            self.check();
            assert!(events < EVENTS_MAX && self.now < patience, "no end: {}", self.state());
        }
    }

    /// How many messages an attempt takes.
    pub(crate) fn messages_of(mut self, attempt: u8) -> u64 {
        self.migrate(attempt);
        self.messages
    }

    /// What the last source decided behind its last round.
    pub(crate) fn judgement(&self) -> Option<Judgement> {
        self.source.engine.as_ref()?.status(self.now).judgement
    }

    pub(crate) fn state(&self) -> String {
        let source = self.source.engine.as_ref().map(|engine| engine.status(self.now));
        let targets: Vec<_> = self.target.slots.iter().map(|slot| slot.phase()).collect();
        format!("source {source:?}, targets {targets:?}\n{}", self.trace.join("\n"))
    }

    /// Whether neither host has anything to do for the attempt.
    fn is_at_rest(&self) -> bool {
        let source = self.source.engine.as_ref().is_none_or(|engine| engine.is_finished());
        // A target whose source has died waits for it for ever; that is rest too.
        let target = self.target.slots.iter().all(|slot| {
            slot.engine.as_ref().is_none_or(|engine| {
                engine.is_finished() || (source && engine.status(self.now).phase == Phase::Completed)
            })
        });
        let steps = self.heap.iter().any(|Reverse(Entry(_, _, it))| matches!(it, Happening::Step { .. }));
        source && target && !steps && self.spool.is_at_rest()
    }

    fn check(&mut self) {
        let runs = |guest: &Option<Instance>| guest.as_ref().is_some_and(|guest| guest.permit.is_some());
        let both = runs(&self.source.guest) && runs(&self.target.guest);
        assert!(!both || self.are_apart(), "two hosts run the guest: {}", self.state());
        self.check_ceiling();
        self.check_heap();
    }

    /// No engine has more of its host's heap than it said that it needs: these make sure of it.
    fn check_heap(&self) {
        let source = self.source.engine.as_ref().map(|engine| engine.heap_owed());
        let targets = self.target.slots.iter().filter_map(|slot| slot.engine.as_ref());
        let spool = self.spool.engine.as_ref().map(|engine| engine.heap_owed());
        let owed = source.into_iter().chain(spool).chain(targets.map(|engine| engine.heap_owed()));
        assert!(owed.sum::<u64>() < 16 << 20, "they are small");
    }

    /// Before the commit the guest stands still no longer than the limit, and what the granularity is: the step of its
    /// life cycle that is under way when the limit is reached, and the one that lets it run.
    fn check_ceiling(&self) {
        let (Some(since), Some(engine)) = (self.source.still_since, &self.source.engine) else { return };
        let phase = engine.status(self.now).phase;
        let is_bound = matches!(phase, Phase::StopAndCopy | Phase::Verifying | Phase::Resuming);
        // Of a clone nothing that follows is downtime; that an attempt is undone may take a second step that lets it run.
        let (is_bound, steps) = if self.plan.is_clone() { (true, 2) } else { (is_bound, 1) };
        if is_bound && !self.source.is_overruled {
            let most = self.plan.policy.downtime_limit + self.granularity() * steps;
            let stood_still = self.now.since(since);
            assert!(stood_still <= most, "{stood_still:?} of {most:?} before the commit: {}", self.state());
        }
    }

    /// Two steps of the guest's life cycle.
    pub(crate) fn granularity(&self) -> Duration {
        Duration::from_micros(self.plan.step_latency_us) * 2
    }

    /// What must hold where the guest is started.
    pub(crate) fn check_guest(&self, is_source: bool) {
        let guest = if is_source { &self.source.guest } else { &self.target.guest };
        let guest = guest.as_ref().expect("it was just started");
        let truth = if is_source { &self.truth } else { self.truth_there() };
        for (page, (is, should_be)) in guest.ram.pages.iter().zip(&truth.pages).enumerate() {
            if guest.ram.absent.contains(Page(page as u32)) {
                continue;
            }
            assert!(is == should_be, "page {page} is lost or stale where the guest runs: {}", self.state());
        }
    }

    /// What must hold of its devices where it is started after a move.
    pub(crate) fn check_devices(&self) {
        let restored = self.target.guest.as_ref().and_then(|guest| guest.restored.as_ref());
        assert_eq!(restored, Some(&self.truth_there().devices()), "devices are not what they were");
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Write => self.write(),
            Happening::Deliver { connection, to_target } => self.deliver(connection, to_target),
            Happening::Connected(connection) => self.connected(connection),
            Happening::Refused(attempt, channel) if attempt == self.source.attempt => {
                self.give_source(Input::LinkDown(channel))
            }
            Happening::Refused(..) => {}
            Happening::LinkDown { connection, at_target } => self.link_down(connection, at_target),
            Happening::Step { who, incarnation, action } => self.step(who, incarnation, action),
            Happening::Timer(who) => self.timer(who),
            Happening::Reboot { is_source } => self.reboot(is_source),
            Happening::Operator => self.operate(),
            Happening::Third(third) => self.third(third),
        }
    }

    fn write(&mut self) {
        if self.plan.is_clone() {
            return self.write_apart();
        }
        let mut period = self.plan.write_period;
        let guest = match (&mut self.source.guest, &mut self.target.guest) {
            (Some(guest), _) | (_, Some(guest)) if guest.permit.is_some() => Some(guest),
            (_, Some(guest)) if guest.permit.is_some() => Some(guest),
            _ => None,
        };
        if let Some(guest) = guest
            && !self.guest_ended
        {
            let come = self.waits_for.iter().position(|page| !guest.ram.absent.contains(Page(*page)));
            let page = match come {
                Some(index) => self.waits_for.swap_remove(index),
                None if self.waits_for.len() < self.plan.vcpus => self.truth.choose(&mut self.random),
                None => *self.random.pick(&self.waits_for),
            };
            if guest.ram.absent.contains(Page(page)) {
                if !self.waits_for.contains(&page) {
                    self.waits_for.push(page);
                }
                let index = self.target.guest_of.expect("only a target's guest waits");
                self.give_target(index, Input::Guest(GuestEvent::PageWanted(Page(page))));
            } else {
                assert!(
                    guest.ram.pages[page as usize] == self.truth.pages[page as usize],
                    "page {page} is stale"
                );
                let content = self.truth.write(&mut self.random, page);
                guest.ram.guest_writes(page, &content);
                period = period * 100 / u32::from(100 - guest.throttle);
            }
        }
        self.after(period, Happening::Write);
    }

    fn deliver(&mut self, connection: usize, to_target: bool) {
        if self.now < self.frozen_until {
            return self.at(self.frozen_until, Happening::Deliver { connection, to_target });
        }
        let wire = &mut self.connections[connection];
        let pipe = if to_target { &mut wire.to_target } else { &mut wire.to_source };
        if pipe.next_at().is_none_or(|at| at > self.now) {
            return;
        }
        let Some(bytes) = pipe.take() else { return };
        if to_target {
            self.arrive_at_target(connection, &bytes);
            if self.source.connection.contains(&Some(connection)) {
                self.drain_source();
            }
        } else if self.source.connection.contains(&Some(connection)) {
            let channel = self.connections[connection].channel;
            for part in self.portions(&bytes) {
                self.give_source(Input::Bytes(channel, part));
            }
        }
        if !to_target && let Some(engine) = self.connections[connection].engine {
            self.drain_target(engine);
        }
    }

    pub(crate) fn portions<'a>(&mut self, bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let mut parts = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() && parts.len() < 3 && self.random.one_in(2) {
            let (now, later) = rest.split_at(self.random.below(rest.len() as u64) as usize);
            parts.push(now);
            rest = later;
        }
        parts.push(rest);
        parts
    }

    fn arrive_at_target(&mut self, connection: usize, bytes: &[u8]) {
        if !self.target.is_alive || !self.connections[connection].target_thinks_up {
            return;
        }
        let Some(engine) = self.connections[connection].engine else {
            let early = &mut self.connections[connection].early;
            early.extend_from_slice(bytes);
            match Opening::peek(early) {
                Ok(None) => {}
                Ok(Some(opening)) => self.route(connection, &opening),
                Err(_) => {
                    self.connections[connection].target_thinks_up = false;
                    self.close(connection, true);
                }
            }
            return;
        };
        let channel = self.connections[connection].channel;
        for part in self.portions(bytes) {
            self.give_target(engine, Input::Bytes(channel, part));
        }
    }

    fn connected(&mut self, connection: usize) {
        let channel = self.connections[connection].channel;
        if self.source.is_alive && self.source.connecting[slot(channel)] == Some(connection) {
            self.source.connecting[slot(channel)] = None;
            self.source.connection[slot(channel)] = Some(connection);
            self.give_source(Input::LinkUp(channel));
        }
    }

    fn link_down(&mut self, connection: usize, at_target: bool) {
        let channel = self.connections[connection].channel;
        if at_target {
            self.connections[connection].target_thinks_up = false;
            if let Some(engine) = self.connections[connection].engine
                && self.target.slots[engine].connection[slot(channel)] == Some(connection)
            {
                self.target.slots[engine].connection[slot(channel)] = None;
                self.give_target(engine, Input::LinkDown(channel));
            }
        } else if self.source.connection[slot(channel)] == Some(connection) {
            self.source.connection[slot(channel)] = None;
            self.give_source(Input::LinkDown(channel));
        }
    }

    /// Ends a connection; the other end learns of it later, or never.
    pub(crate) fn close(&mut self, connection: usize, by_target: bool) {
        let wire = &mut self.connections[connection];
        if !wire.is_open {
            return;
        }
        wire.is_open = false;
        // What was sent before the close still arrives; what was on its way to the closer does not.
        if by_target {
            wire.to_target.clear();
        } else {
            wire.to_source.clear();
        }
        let behind = if by_target { &wire.to_source } else { &wire.to_target };
        let delay = self.plan.wire.latency
            + Duration::from_nanos(behind.queued_bytes() as u64 * self.plan.wire.ns_per_byte);
        self.after(delay * 2, Happening::LinkDown { connection, at_target: !by_target });
    }

    /// A connection that is dropped takes with it what was sent and has not arrived.
    pub(crate) fn forget_sent(&mut self, connection: usize, output: &Output, by_source: bool) {
        if matches!(output, Output::HangUp(_)) {
            let wire = &mut self.connections[connection];
            if by_source { wire.to_target.clear() } else { wire.to_source.clear() }
        }
    }

    /// Breaks a connection in the middle.
    fn cut(&mut self, connection: usize) {
        let wire = &mut self.connections[connection];
        wire.is_open = false;
        wire.to_target.clear();
        wire.to_source.clear();
        for at_target in [false, true] {
            if !self.random.one_in(4) {
                let delay = self.random.micros(0, 500_000);
                self.after(delay, Happening::LinkDown { connection, at_target });
            }
        }
    }

    /// Sends what an engine put into the buffer.
    pub(crate) fn transmit(&mut self, connection: Option<usize>, to_target: bool, len: usize) {
        self.messages += 1;
        if let Some(connection) = connection
            && self.connections[connection].is_open
        {
            let wire = &mut self.connections[connection];
            let pipe = if to_target { &mut wire.to_target } else { &mut wire.to_source };
            let mut conditions = self.plan.wire;
            if self.is_peaceful {
                conditions.noise = link::Noise::default();
            }
            let at = pipe.send(self.now, &self.buffer[..len], &conditions, &mut self.random);
            self.at(at, Happening::Deliver { connection, to_target });
            // A repeated message arrives at the same time.
            self.at(at, Happening::Deliver { connection, to_target });
        }
        self.befall();
    }

    /// Lets the faults happen that are due.
    pub(crate) fn befall(&mut self) {
        while let Some((at, fault)) = self.plan.faults.first().copied()
            && self.messages >= at
        {
            self.plan.faults.remove(0);
            self.note(format!("fault {fault:?}"));
            match fault {
                Fault::Cut => self.cut_all(),
                Fault::CutOne { is_urgent } => {
                    self.cut_those(|channel| (channel == Channel::URGENT) == is_urgent)
                }
                Fault::CutSpool => {
                    self.spool.was_hit = true;
                    self.third_cut(None);
                }
                Fault::CrashSpool(time) => {
                    self.spool.was_hit = true;
                    self.crash_spool(time);
                }
                Fault::PartitionSpool(time) => {
                    self.spool.was_hit = true;
                    self.spool.unreachable_until = self.now.after(time);
                    self.third_cut(None);
                }
                Fault::Freeze(time) => self.frozen_until = self.now.after(time),
                Fault::Partition(time) => {
                    self.partitioned_until = self.now.after(time);
                    self.cut_all();
                    self.third_cut(Some(third::Client::Spool));
                }
                Fault::CrashSource(time) => self.crash_source(time),
                Fault::CrashTarget(time) => self.crash_target(time),
                Fault::CancelAtSource => self.source.commands.push(Command::Cancel),
                Fault::Cap(rate) => {
                    let policy = godwit_migration::Policy {
                        bandwidth_bytes_per_second: Some(rate),
                        ..self.plan.policy
                    };
                    self.source.commands.push(Command::Tune(policy));
                }
                Fault::Mode(mode) => {
                    let policy = godwit_migration::Policy { mode, ..self.plan.policy };
                    self.source.commands.push(Command::Tune(policy));
                }
                Fault::CancelAtTarget => self.target.cancel_is_due = true,
                Fault::GuestEnds => self.end_guest(),
            }
        }
    }

    fn cut_all(&mut self) {
        self.cut_those(|_| true);
    }

    fn cut_those(&mut self, is_it: impl Fn(Channel) -> bool) {
        for connection in 0..self.connections.len() {
            if self.connections[connection].is_open && is_it(self.connections[connection].channel) {
                self.cut(connection);
            }
        }
    }

    fn end_guest(&mut self) {
        if self.source.guest.as_ref().is_some_and(|guest| guest.permit.is_some()) {
            self.guest_ended = true;
            self.source.events.push(GuestEvent::Ended);
        } else if self.target.guest.as_ref().is_some_and(|guest| guest.permit.is_some())
            && let Some(index) = self.target.guest_of
        {
            self.guest_ended = true;
            self.target.ended = Some(index);
        }
    }

    /// Polls one engine until it has nothing to do, or until the socket is full.
    pub(crate) fn buffer(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    pub(crate) fn return_buffer(&mut self, buffer: Vec<u8>) {
        self.buffer = buffer;
    }

    pub(crate) fn socket_is_full(&self, connection: Option<usize>, to_target: bool) -> bool {
        connection.is_some_and(|connection| {
            let wire = &self.connections[connection];
            let pipe = if to_target { &wire.to_target } else { &wire.to_source };
            wire.is_open && pipe.queued_bytes() >= SOCKET_BYTES
        })
    }

    pub(crate) fn wake(&mut self, who: Who, at: Instant) {
        if at < Instant::NEVER {
            self.at(at.max(self.now), Happening::Timer(who));
        }
    }

    /// How the attempt ended at the source, if it has.
    pub(crate) fn verdict(&self) -> Option<&Event> {
        self.source.verdict.as_ref()
    }
}
