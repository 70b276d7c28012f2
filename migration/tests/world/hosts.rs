//! The two hosts: sessions around the engines, and the life cycle of the guest.

use std::time::Duration;

use godwit_migration::guest::{CpuFeatures, CpuidRegister};
use godwit_migration::{
    AbortReason, Channel, Command, Event, Generation, GuestAction, GuestDescription, GuestEvent,
    GuestFailure, GuestRam, HostCapabilities, HostShare, Input, Instant, MigrationId, NoRam, Opening, Output,
    Page, Phase, Prediction, RamLayout, RamRange, Refusal, Room, RunPermit, Source, SourceConfig, Step,
    Target, TargetConfig, TscScaling,
};

use super::guest::{Instance, Ram};
use super::link::Connection;
use super::plan::Plan;
use super::third::{self, Client};
use super::{GUEST, Happening, Who, World};

/// Most outputs that one input may lead to.
const OUTPUTS_MAX: usize = 10_000;

pub(crate) struct SourceHost {
    pub(crate) is_alive: bool,
    pub(crate) incarnation: u64,
    pub(crate) guest: Option<Instance>,
    pub(crate) engine: Option<Source>,
    /// Of each channel.
    pub(crate) connection: [Option<usize>; 2],
    pub(crate) connecting: [Option<usize>; 2],
    pub(crate) wake: Instant,
    pub(crate) verdict: Option<Event>,
    pub(crate) target_forgot: bool,
    pub(crate) is_held: bool,
    /// Since when the guest stands still here, and whether for as long as it takes.
    pub(crate) still_since: Option<Instant>,
    pub(crate) is_overruled: bool,
    /// Stops that were called back.
    pub(crate) recalls: u32,
    /// How often the connection was lost after the switch, and stood again.
    pub(crate) interruptions: u32,
    pub(crate) prediction: Option<Prediction>,
    pub(crate) reconnections: u32,
    /// Taking the throttle off, or stopping the log, has failed.
    pub(crate) is_untidy: bool,
    /// The guest was lost with the target and goes on here.
    pub(crate) has_resurrected: bool,
    pub(crate) commands: Vec<Command>,
    pub(crate) events: Vec<GuestEvent>,
    pub(crate) attempt: u8,
}

pub(crate) struct Slot {
    pub(crate) engine: Option<Target>,
    /// Of each channel.
    pub(crate) connection: [Option<usize>; 2],
    pub(crate) wake: Instant,
}

impl Slot {
    pub(crate) fn phase(&self) -> Option<Phase> {
        self.engine.as_ref().map(|engine| engine.status(Instant::ORIGIN).phase)
    }
}

pub(crate) struct TargetHost {
    pub(crate) is_alive: bool,
    pub(crate) incarnation: u64,
    pub(crate) guest: Option<Instance>,
    /// The engine whose guest it is.
    pub(crate) guest_of: Option<usize>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) cancel_is_due: bool,
    /// The engine whose guest has ended by itself.
    pub(crate) ended: Option<usize>,
    /// A person has given up what had not come.
    pub(crate) has_lost_memory: bool,
}

/// Where the connection of a channel is kept.
pub(crate) fn slot(channel: Channel) -> usize {
    channel.0.into()
}

fn features(bits: u32) -> CpuFeatures {
    CpuFeatures { leaf: 1, subleaf: 0, register: CpuidRegister::Ecx, bits }
}

impl SourceHost {
    pub(crate) fn new(guest: Instance) -> Self {
        Self {
            is_alive: true,
            incarnation: 1,
            guest: Some(guest),
            engine: None,
            connection: [None; 2],
            connecting: [None; 2],
            wake: Instant::NEVER,
            verdict: None,
            target_forgot: false,
            is_held: false,
            still_since: None,
            is_overruled: false,
            recalls: 0,
            interruptions: 0,
            prediction: None,
            reconnections: 0,
            is_untidy: false,
            has_resurrected: false,
            commands: Vec::new(),
            events: Vec::new(),
            attempt: 0,
        }
    }

    pub(crate) fn begin(&mut self, attempt: u8, plan: &Plan) {
        let guest = GuestDescription {
            id: GUEST,
            generation: self
                .guest
                .as_ref()
                .and_then(|guest| guest.permit.as_ref())
                .map_or(Generation::FIRST, RunPermit::generation),
            name: "linux".into(),
            layout: RamLayout::new(&[RamRange { first_frame: 16, frames: plan.pages.into() }])
                .expect("a plan has pages"),
            vcpus: 1,
            features: vec![features(0b101)],
            tsc_hz: 1_000_000_000,
            configuration: vec![1, 2, 3],
        };
        let migration = MigrationId([attempt; 16]);
        let purpose = plan.purpose.clone();
        let engine = Source::new(SourceConfig { migration, guest, policy: plan.policy, purpose });
        self.engine = Some(if plan.spool.is_some() { engine.with_spool(third::order()) } else { engine });
        self.connection = [None; 2];
        self.connecting = [None; 2];
        self.verdict = None;
        self.target_forgot = false;
        self.is_overruled = false;
        self.commands.clear();
        self.events.clear();
        self.attempt = attempt;
    }
}

impl TargetHost {
    pub(crate) fn new() -> Self {
        Self {
            is_alive: true,
            incarnation: 1,
            guest: None,
            guest_of: None,
            slots: Vec::new(),
            cancel_is_due: false,
            ended: None,
            has_lost_memory: false,
        }
    }

    fn engine(&self, plan: &Plan) -> Target {
        let host = HostCapabilities {
            name: "b".into(),
            incarnation: self.incarnation,
            features: vec![features(0b111)],
            tsc_hz: 1_000_000_000,
            tsc_scaling: TscScaling::Unavailable,
            tsc_tolerance_ppm: 100,
            room: Room { ram_bytes: 1 << 40, heap_bytes: u64::MAX },
            share: HostShare::default(),
            vcpus_max: 1,
            closed: None,
            post_copy: plan.offers_post_copy,
        };
        Target::new(TargetConfig { host, policy: plan.target_policy })
    }
}

impl World {
    pub(crate) fn give_source(&mut self, input: Input<'_>) {
        let Some(mut engine) = self.source.engine.take() else { return };
        let (now, mut none) = (self.now, NoRam);
        let ram: &mut dyn GuestRam = match &mut self.source.guest {
            Some(guest) => &mut guest.ram,
            None => &mut none,
        };
        engine.handle_input(now, input, ram);
        self.source.engine = Some(engine);
        self.drain_source();
    }

    pub(crate) fn drain_source(&mut self) {
        for _ in 0..OUTPUTS_MAX {
            let connection = self.source.connection[0];
            let is_full = self.socket_is_full(connection, true);
            let Some(mut engine) = self.source.engine.take() else { return };
            let (now, mut none, mut buffer) = (self.now, NoRam, self.buffer());
            let room = if is_full { &mut [] } else { &mut buffer[..] };
            let ram: &mut dyn GuestRam = match &mut self.source.guest {
                Some(guest) => &mut guest.ram,
                None => &mut none,
            };
            let output = engine.poll_output(now, room, ram);
            self.source.engine = Some(engine);
            self.return_buffer(buffer);
            match output {
                Output::Transmit { len, .. } => self.transmit(connection, true, len),
                Output::Connect(Channel::SPOOL) => self.third_connect(Client::Source),
                Output::Disconnect(Channel::SPOOL) | Output::HangUp(Channel::SPOOL) => {
                    self.third_part(Client::Source, matches!(output, Output::HangUp(_)));
                }
                Output::Connect(channel) => self.connect(channel),
                ref output @ (Output::Disconnect(channel) | Output::HangUp(channel)) => {
                    if let Some(connection) = self.source.connection[slot(channel)].take() {
                        self.forget_sent(connection, output, true);
                        self.close(connection, false);
                    }
                    self.source.connecting[slot(channel)] = None;
                }
                Output::Guest(action) => self.begin_step(Who::Source, action),
                Output::Event(event) => self.on_source_event(event),
                Output::Timeout(at) => {
                    self.source.wake = at;
                    self.wake(Who::Source, at);
                    self.drain_urgent(Who::Source);
                    if !self.drain_to_spool(None) {
                        return self.give_what_waits();
                    }
                }
            }
        }
        panic!("the source never comes to rest: {}", self.state());
    }

    /// Sends what one end has to say on the urgent connection.
    fn drain_urgent(&mut self, who: Who) {
        for _ in 0..OUTPUTS_MAX {
            let (is_source, connection) = match who {
                Who::Source => (true, self.source.connection[1]),
                Who::Target(index) => (false, self.target.slots[index].connection[1]),
            };
            if self.socket_is_full(connection, is_source) {
                return;
            }
            let (now, mut none, mut buffer) = (self.now, NoRam, self.buffer());
            let len = match who {
                Who::Source => self.source.engine.as_mut().map_or(0, |engine| {
                    let ram: &mut dyn GuestRam = match &mut self.source.guest {
                        Some(guest) => &mut guest.ram,
                        None => &mut none,
                    };
                    engine.poll_urgent(now, &mut buffer, ram)
                }),
                Who::Target(index) => self.target.slots[index]
                    .engine
                    .as_mut()
                    .map_or(0, |engine| engine.poll_urgent(now, &mut buffer, &mut none)),
            };
            self.return_buffer(buffer);
            if len == 0 {
                return;
            }
            self.transmit(connection, is_source, len);
        }
        panic!("{who:?} has always something urgent to say: {}", self.state());
    }

    /// Gives what came up while an engine was polled.
    fn give_what_waits(&mut self) {
        if let Some(command) = self.source.commands.pop() {
            self.note(format!("command {command:?}"));
            self.give_source(Input::Command(command));
        }
        if let Some(event) = self.source.events.pop() {
            self.give_source(Input::Guest(event));
        }
        if let Some(index) = self.target.ended.take() {
            self.give_target(index, Input::Guest(GuestEvent::Ended));
        }
        if std::mem::take(&mut self.target.cancel_is_due) {
            for engine in 0..self.target.slots.len() {
                self.give_target(engine, Input::Command(Command::Cancel));
            }
        }
    }

    fn on_source_event(&mut self, event: Event) {
        self.note(format!("source: {event:?}"));
        match event {
            Event::TargetForgot | Event::TargetLost => self.source.target_forgot = true,
            Event::Held(_) => self.source.is_held = true,
            Event::LimitOverruled => self.source.is_overruled = true,
            Event::Recalled(_) => self.source.recalls += 1,
            Event::Estimated(prediction) => self.source.prediction = Some(prediction),
            Event::Spool(event) => self.on_event_of_spool(&event),
            Event::Interrupted => self.source.interruptions += 1,
            Event::Reconnected => self.source.reconnections += 1,
            Event::Completed(_) | Event::Aborted(..) => {
                self.source.has_resurrected |= matches!(event, Event::Aborted(AbortReason::TargetLost, _));
                assert!(self.source.verdict.is_none(), "two last words: {}", self.state());
                self.source.verdict = Some(event);
            }
            _ => {}
        }
    }

    fn connect(&mut self, channel: Channel) {
        let delay = self.plan.wire.latency * 2;
        if !self.target.is_alive || self.now < self.partitioned_until {
            return self.after(delay, Happening::Refused(self.source.attempt, channel));
        }
        self.connections.push(Connection::new(channel));
        let connection = self.connections.len() - 1;
        self.source.connecting[slot(channel)] = Some(connection);
        self.after(delay, Happening::Connected(connection));
    }

    /// The session's work at a new connection, once its opening has come.
    pub(crate) fn route(&mut self, connection: usize, opening: &Opening) {
        let known = self.target.slots.iter().position(|slot| {
            slot.engine.as_ref().is_some_and(|engine| engine.migration() == Some(opening.migration()))
        });
        if let (Opening::Urgent { .. }, None) = (opening, known) {
            self.connections[connection].target_thinks_up = false;
            return self.close(connection, true);
        }
        if let Opening::Begin { .. } = opening {
            // By beginning anew the source says that the guest is its own.
            for engine in 0..self.target.slots.len() {
                if self.target.slots[engine].phase() == Some(Phase::CommitUnknown) {
                    self.give_target(engine, Input::Command(Command::Cancel));
                }
            }
        }
        let engine = known.unwrap_or_else(|| {
            let engine = Some(self.target.engine(&self.plan));
            self.target.slots.push(Slot { engine, connection: [None; 2], wake: Instant::NEVER });
            self.target.slots.len() - 1
        });
        let channel = self.connections[connection].channel;
        self.target.slots[engine].connection[slot(channel)] = Some(connection);
        self.connections[connection].engine = Some(engine);
        self.give_target(engine, Input::LinkUp(channel));
        let early = std::mem::take(&mut self.connections[connection].early);
        self.give_target(engine, Input::Bytes(channel, &early));
    }

    pub(crate) fn give_target(&mut self, index: usize, input: Input<'_>) {
        let Some(mut engine) = self.target.slots[index].engine.take() else { return };
        let (now, mut none) = (self.now, NoRam);
        let ram: &mut dyn GuestRam = match &mut self.target.guest {
            Some(guest) if self.target.guest_of == Some(index) => &mut guest.ram,
            _ => &mut none,
        };
        engine.handle_input(now, input, ram);
        self.target.slots[index].engine = Some(engine);
        self.drain_target(index);
    }

    pub(crate) fn drain_target(&mut self, index: usize) {
        for _ in 0..OUTPUTS_MAX {
            let connection = self.target.slots[index].connection[0];
            let is_full = self.socket_is_full(connection, false);
            let Some(mut engine) = self.target.slots[index].engine.take() else { return };
            let (now, mut none, mut buffer) = (self.now, NoRam, self.buffer());
            let room = if is_full { &mut [] } else { &mut buffer[..] };
            let ram: &mut dyn GuestRam = match &mut self.target.guest {
                Some(guest) if self.target.guest_of == Some(index) => &mut guest.ram,
                _ => &mut none,
            };
            let output = engine.poll_output(now, room, ram);
            self.target.slots[index].engine = Some(engine);
            self.return_buffer(buffer);
            match output {
                Output::Transmit { len, .. } => self.transmit(connection, false, len),
                Output::Connect(_) => panic!("a target does not connect"),
                Output::Disconnect(Channel::SPOOL) | Output::HangUp(Channel::SPOOL) => {
                    self.third_leave(Client::Spool, matches!(output, Output::HangUp(_)));
                }
                ref output @ (Output::Disconnect(channel) | Output::HangUp(channel)) => {
                    if let Some(connection) = self.target.slots[index].connection[slot(channel)].take() {
                        self.forget_sent(connection, output, false);
                        self.connections[connection].target_thinks_up = false;
                        self.close(connection, true);
                    }
                }
                Output::Guest(action) => self.begin_step(Who::Target(index), action),
                Output::Event(event) => self.on_target_event(index, &event),
                Output::Timeout(at) => {
                    self.target.slots[index].wake = at;
                    self.wake(Who::Target(index), at);
                    self.drain_urgent(Who::Target(index));
                    if !self.drain_to_spool(Some(index)) {
                        return;
                    }
                }
            }
        }
        panic!("target {index} never comes to rest: {}", self.state());
    }

    fn on_target_event(&mut self, index: usize, event: &Event) {
        self.note(format!("target {index}: {event:?}"));
        if let Event::MemoryLost { pages, ranges } = event {
            let absent = self.target_guest().ram.absent.clone();
            assert_eq!(*pages, absent.len(), "what is lost is what has not come");
            let named = ranges.iter().flat_map(|(first, count)| first.0..first.0 + count);
            assert!(
                named.map(Page).eq((0..absent.page_count()).map(Page).filter(|page| absent.contains(*page)))
            );
            if let Some(inherited) = &self.spool.inherited
                && !self.plan.gives_up_early
            {
                let mut lost = (0..absent.page_count()).map(Page).filter(|page| absent.contains(*page));
                assert!(!lost.any(|page| inherited.contains(page)), "a spool had it: {}", self.state());
            }
            assert!(!self.spool.was_whole, "the source might die, and memory is lost: {}", self.state());
            self.target.has_lost_memory = true;
        }
        if let Event::Spool(event) = event {
            self.on_event_of_spool(event);
        }
        assert!(!matches!(event, Event::DigestDiffers), "{}", self.state());
    }

    fn begin_step(&mut self, who: Who, action: GuestAction) {
        let latency = self.random.micros(0, self.plan.step_latency_us);
        let incarnation = if who == Who::Source { self.source.incarnation } else { self.target.incarnation };
        self.note(format!("{who:?} asks for {:?}", action.step()));
        self.after(latency, Happening::Step { who, incarnation, action });
    }

    pub(crate) fn step(&mut self, who: Who, incarnation: u64, action: GuestAction) {
        let now_is = if who == Who::Source { self.source.incarnation } else { self.target.incarnation };
        if incarnation != now_is {
            return;
        }
        let step = action.step();
        let failing = self.plan.failing_steps.iter().position(|failing| *failing == step);
        if failing.is_some() && self.plan.failing_after > 0 {
            self.plan.failing_after -= 1;
        } else if let Some(index) = failing
            && !self.is_peaceful
        {
            self.plan.failing_steps.remove(index);
            self.note(format!("{who:?} fails {step:?}"));
            self.source.is_untidy |= matches!(action, GuestAction::Throttle(0) | GuestAction::StopDirtyLog);
            let failure = GuestFailure::Host("as planned".into());
            let event = match action {
                GuestAction::Run(permit) => GuestEvent::RunFailed(permit, failure),
                _ => GuestEvent::Failed(step, failure),
            };
            return self.give(who, event);
        }
        match who {
            Who::Source => self.source_step(action),
            Who::Target(index) => self.target_step(index, action),
        }
    }

    fn give(&mut self, who: Who, event: GuestEvent) {
        match who {
            Who::Source => self.give_source(Input::Guest(event)),
            Who::Target(index) => self.give_target(index, Input::Guest(event)),
        }
    }

    fn source_step(&mut self, action: GuestAction) {
        let devices = self.truth.devices();
        let is_gone = self.guest_ended;
        let guest = self.source.guest.as_mut().expect("only a discard takes the guest away");
        let step = action.step();
        let event = match action {
            _ if is_gone && matches!(step, Step::Pause | Step::Throttle) => {
                GuestEvent::Failed(step, GuestFailure::Gone)
            }
            GuestAction::StartDirtyLog => {
                guest.ram.start_log();
                GuestEvent::DirtyLogStarted
            }
            GuestAction::HarvestDirtyLog => {
                guest.ram.harvest();
                GuestEvent::DirtyLogHarvested
            }
            GuestAction::StopDirtyLog => {
                guest.ram.stop_log();
                GuestEvent::DirtyLogStopped
            }
            GuestAction::Throttle(percent) => {
                guest.throttle = percent;
                GuestEvent::Throttled
            }
            GuestAction::Pause => {
                self.source.still_since = Some(self.now);
                GuestEvent::Paused(guest.permit.take().expect("it is paused once, while it runs"))
            }
            GuestAction::SaveState => {
                assert!(guest.permit.is_none(), "devices are saved of a guest that stands still");
                // What a copy is to be.
                self.copy = self.plan.is_clone().then(|| self.truth.clone());
                GuestEvent::StateSaved(devices)
            }
            GuestAction::Run(permit) => {
                guest.permit = Some(permit);
                self.source.still_since = None;
                self.check_guest(true);
                GuestEvent::Running
            }
            GuestAction::Discard => {
                assert!(guest.permit.is_none(), "a running guest is not discarded");
                assert!(!self.plan.is_clone(), "a guest that is cloned stays");
                self.source.guest = None;
                GuestEvent::Discarded
            }
            action => panic!("not the source's: {action:?}"),
        };
        self.give_source(Input::Guest(event));
    }

    fn target_step(&mut self, index: usize, action: GuestAction) {
        let event = match action {
            GuestAction::Build(_) if self.target.guest.is_some() => {
                if self.target.guest_of != Some(index) && !self.target_guest_runs() {
                    // It is about to be discarded: a host waits for that.
                    let incarnation = self.target.incarnation;
                    let who = Who::Target(index);
                    return self
                        .after(Duration::from_millis(5), Happening::Step { who, incarnation, action });
                }
                GuestEvent::Failed(Step::Build, GuestFailure::Refused(vec![Refusal::AlreadyThere]))
            }
            GuestAction::Build(guest) => {
                let free = if self.is_peaceful { u32::MAX } else { self.plan.target_pages };
                let ram = Ram::new(guest.layout.page_count(), free);
                self.target.guest = Some(Instance { ram, permit: None, throttle: 0, restored: None });
                self.target.guest_of = Some(index);
                GuestEvent::Built
            }
            GuestAction::RestoreState(state) => {
                self.target_guest().restored = Some(state);
                GuestEvent::StateRestored
            }
            GuestAction::Run(permit) => {
                let before = self.source.engine.as_ref().map(|engine| engine.guest().generation);
                assert!(before.is_none_or(|before| permit.generation() == before.next()));
                self.target_guest().permit = Some(permit);
                self.copies += u32::from(self.plan.is_clone());
                self.check_guest(false);
                self.check_devices();
                GuestEvent::Running
            }
            GuestAction::Discard => {
                assert!(self.target_guest().permit.is_none(), "a running guest is not discarded");
                self.target.guest = None;
                self.target.guest_of = None;
                GuestEvent::Discarded
            }
            GuestAction::Settle => {
                assert!(self.target_guest().ram.absent.is_empty(), "not everything is here");
                GuestEvent::Settled
            }
            GuestAction::Forsake => GuestEvent::Forsaken,
            action => panic!("not the target's: {action:?}"),
        };
        self.give_target(index, Input::Guest(event));
    }

    fn target_guest(&mut self) -> &mut Instance {
        self.target.guest.as_mut().expect("it was built")
    }

    pub(crate) fn target_guest_runs(&self) -> bool {
        self.target.guest.as_ref().is_some_and(|guest| guest.permit.is_some())
    }

    pub(crate) fn timer(&mut self, who: Who) {
        match who {
            Who::Source if self.source.wake <= self.now => {
                self.source.wake = Instant::NEVER;
                self.give_source(Input::Timeout);
            }
            Who::Target(index) if self.target.slots.get(index).is_some_and(|slot| slot.wake <= self.now) => {
                self.target.slots[index].wake = Instant::NEVER;
                self.give_target(index, Input::Timeout);
            }
            _ => {}
        }
    }
}
