//! The engines themselves in the model's place: each input goes to both, and both must want the same. Messages are the
//! bytes that the engines made.

use std::collections::VecDeque;
use std::time::Duration;

use godwit_migration as engine;
use godwit_migration::{
    Channel, Command, Compression, Event, GuestAction, GuestDescription, GuestEvent, GuestFailure, GuestRam,
    HostCapabilities, HostShare, Impatience, Instant, MigrationId, NoRam, OUTPUT_BYTES_MIN, Output, Overrun,
    Phase, Policy, Purpose, RamLayout, RamRange, Room, RunPermit, SourceConfig, TargetConfig, TargetPolicy,
    TscScaling,
};

use super::body::{GUEST, LiveGuest, PAGES};
use super::frames::Frames;
use super::parts::{Cast, Generation, Input, Message, Outputs, Part, Parting, Step, Told};
use super::source::{Mode, Source, State as SourceState};
use super::target::{State as TargetState, Target};

const BUFFER_BYTES: usize = 64 * 1024;
/// Between two inputs, and for each transmission.
const TICK: Duration = Duration::from_millis(5);
/// Each time-out is much longer than those before it, so that a test can let any of them pass alone.
const PEER_TIMEOUT: Duration = Duration::from_secs(1);
const ASK_AGAIN: Duration = Duration::from_secs(10);
const REST: Duration = Duration::from_secs(60);
const DOWNTIME_LIMIT: Duration = Duration::from_secs(1000);
const HOLD: Duration = Duration::from_secs(10_000);
const FOR_EVER: Duration = Duration::from_secs(10_000_000);

/// The engines, with the model beside them.
#[derive(Debug)]
pub(crate) struct Live;

impl Cast for Live {
    type Source = LivePart<Source>;
    type Target = LivePart<Target>;
    type Bytes = Vec<u8>;
    type Guest = LiveGuest;
}

/// Either engine.
trait Engine {
    fn handle_input(&mut self, now: Instant, input: engine::Input<'_>, ram: &mut dyn GuestRam);
    fn poll_output(&mut self, now: Instant, buffer: &mut [u8], ram: &mut dyn GuestRam) -> Output;
    fn phase(&self) -> Phase;
    fn is_finished(&self) -> bool;
    fn take_permit(&mut self) -> Option<RunPermit>;
}

macro_rules! engine {
    ($engine:ty) => {
        impl Engine for $engine {
            fn handle_input(&mut self, now: Instant, input: engine::Input<'_>, ram: &mut dyn GuestRam) {
                self.handle_input(now, input, ram);
            }
            fn poll_output(&mut self, now: Instant, buffer: &mut [u8], ram: &mut dyn GuestRam) -> Output {
                self.poll_output(now, buffer, ram)
            }
            fn phase(&self) -> Phase {
                self.status(Instant::ORIGIN).phase
            }
            fn is_finished(&self) -> bool {
                self.is_finished()
            }
            fn take_permit(&mut self) -> Option<RunPermit> {
                self.take_permit()
            }
        }
    };
}
engine!(engine::Source);
engine!(engine::Target);

/// What the model says of itself that can be seen of the engine.
pub(crate) trait Seen: Part<Model = Self, Bytes = (), Guest = ()> {
    /// `None` where the engine keeps the phase that it had.
    fn phase(&self) -> Option<Phase>;
    fn is_finished(&self) -> bool;
    fn has_link(&self) -> bool;
    /// Whether the guest runs and the engine's own harvests are not looked at.
    fn is_in_rounds(&self) -> bool;
    fn awaits(&self) -> Option<Step>;
}

impl Seen for Source {
    fn phase(&self) -> Option<Phase> {
        Some(match self.state {
            SourceState::Idle => Phase::Idle,
            SourceState::Connecting => Phase::Connecting,
            SourceState::Negotiating | SourceState::StartingLog => Phase::Negotiating,
            SourceState::Round | SourceState::PreCopy => Phase::PreCopy,
            SourceState::Pausing | SourceState::Harvesting | SourceState::Saving => Phase::StopAndCopy,
            SourceState::Verifying => Phase::Verifying,
            SourceState::Resuming => Phase::Resuming,
            SourceState::Committing => Phase::Committing,
            SourceState::Unknown(_) => Phase::CommitUnknown,
            SourceState::Serving(None) => Phase::PostCopy,
            SourceState::Serving(Some(_)) => Phase::Recovering,
            SourceState::Aborting => Phase::Aborting,
            SourceState::Releasing | SourceState::Finished => return None,
        })
    }

    fn is_finished(&self) -> bool {
        self.state == SourceState::Finished
    }

    fn has_link(&self) -> bool {
        self.link
    }

    fn is_in_rounds(&self) -> bool {
        matches!(self.state, SourceState::Round | SourceState::PreCopy)
    }

    fn awaits(&self) -> Option<Step> {
        self.step
    }
}

impl Seen for Target {
    fn phase(&self) -> Option<Phase> {
        Some(match self.state {
            TargetState::Opening => Phase::Negotiating,
            TargetState::Building => Phase::Building,
            TargetState::Receiving => Phase::PreCopy,
            TargetState::Restoring => Phase::Verifying,
            TargetState::Prepared | TargetState::Starting { was_held: false, .. } => Phase::Committing,
            TargetState::Held | TargetState::Starting { was_held: true, .. } => Phase::CommitUnknown,
            TargetState::Filling { recovers: false } => Phase::PostCopy,
            TargetState::Filling { recovers: true } | TargetState::Forsaking => Phase::Recovering,
            TargetState::Owner | TargetState::Released => Phase::Completed,
            TargetState::Aborting => Phase::Aborting,
            TargetState::Disowned => Phase::Aborted,
            TargetState::Stranger => return None,
        })
    }

    fn is_finished(&self) -> bool {
        self.is_finished()
    }

    fn has_link(&self) -> bool {
        self.link
    }

    fn is_in_rounds(&self) -> bool {
        false
    }

    fn awaits(&self) -> Option<Step> {
        self.step
    }
}

/// An engine and its model.
pub(crate) struct LivePart<M> {
    model: M,
    engine: Box<dyn Engine>,
    now: Instant,
    /// The right to run that a step under way carries.
    permit: Option<RunPermit>,
    /// What was sent and is part of the next message.
    noise: Frames,
    /// A harvest of a round is not answered before the model decides to stop.
    harvest_waits: bool,
    buffer: Vec<u8>,
}

/// What an engine wanted, before it is put beside what the model wants.
#[derive(Default)]
struct Wanted {
    frames: Frames,
    parting: Option<Parting>,
    connects: bool,
    asks: Option<Step>,
    tells: Vec<Told>,
}

fn description(generation: Generation) -> GuestDescription {
    GuestDescription {
        id: GUEST,
        generation: engine::Generation(generation.into()),
        name: "linux".into(),
        layout: RamLayout::new(&[RamRange { first_frame: 16, frames: PAGES.into() }]).expect("it has pages"),
        vcpus: 1,
        features: Vec::new(),
        tsc_hz: 1_000_000_000,
        configuration: Vec::new(),
    }
}

impl Part for LivePart<Source> {
    type Model = Source;
    type Bytes = Vec<u8>;
    type Guest = LiveGuest;

    fn new(model: Source) -> Self {
        let mode = match model.mode {
            Mode::PreCopy => engine::Mode::PreCopy,
            Mode::PostCopy => engine::Mode::PostCopy,
        };
        let policy = Policy {
            mode,
            downtime_limit: DOWNTIME_LIMIT,
            overrun: Overrun::Resume { stops_max: 6 },
            throttle_percent_max: 0,
            duration_max: FOR_EVER,
            impatience: Impatience::GiveUp,
            // All that is pushed is one frame, as in the model, however short frames are.
            compression: Compression::Adaptive,
            peer_timeout: PEER_TIMEOUT,
            ..Policy::default()
        };
        let (migration, guest) = (MigrationId([model.attempt; 16]), description(model.generation));
        Self::beside(
            model,
            engine::Source::new(SourceConfig { migration, guest, policy, purpose: Purpose::Move }),
        )
    }

    fn model(&self) -> &Source {
        &self.model
    }

    fn take(
        &mut self,
        input: Input,
        bytes: Option<Vec<u8>>,
        guest: Option<&mut LiveGuest>,
    ) -> Outputs<Vec<u8>> {
        self.take_both(input, bytes, guest)
    }

    fn leave_permit(&mut self, guest: &mut LiveGuest) -> Option<Generation> {
        let permit = self.engine.take_permit();
        let generation = permit.as_ref().map(|permit| permit.generation().0 as Generation);
        assert_eq!(generation, self.model.held, "what is left to a person");
        guest.permit = guest.permit.take().or(permit);
        generation
    }
}

impl Part for LivePart<Target> {
    type Model = Target;
    type Bytes = Vec<u8>;
    type Guest = LiveGuest;

    fn new(model: Target) -> Self {
        let host = HostCapabilities {
            name: "b".into(),
            incarnation: 1,
            features: Vec::new(),
            tsc_hz: 1_000_000_000,
            tsc_scaling: TscScaling::Unavailable,
            tsc_tolerance_ppm: 100,
            room: Room { ram_bytes: 1 << 40, heap_bytes: u64::MAX },
            share: HostShare::default(),
            vcpus_max: 1,
            closed: None,
            post_copy: true,
        };
        let policy = TargetPolicy { peer_timeout: PEER_TIMEOUT, hold: HOLD };
        Self::beside(model, engine::Target::new(TargetConfig { host, policy }))
    }

    fn model(&self) -> &Target {
        &self.model
    }

    fn take(
        &mut self,
        input: Input,
        bytes: Option<Vec<u8>>,
        guest: Option<&mut LiveGuest>,
    ) -> Outputs<Vec<u8>> {
        self.take_both(input, bytes, guest)
    }

    fn leave_permit(&mut self, _: &mut LiveGuest) -> Option<Generation> {
        None
    }
}

impl<M: Seen> LivePart<M> {
    fn beside(model: M, engine: impl Engine + 'static) -> Self {
        Self {
            model,
            engine: Box::new(engine),
            now: Instant::from_nanos(1),
            permit: None,
            noise: Frames::default(),
            harvest_waits: false,
            buffer: vec![0; BUFFER_BYTES],
        }
    }

    /// Gives the input to model and engine, and compares.
    fn take_both(
        &mut self,
        input: Input,
        bytes: Option<Vec<u8>>,
        mut guest: Option<&mut LiveGuest>,
    ) -> Outputs<Vec<u8>> {
        let wants = self.model.take(input, None, None);
        let noise = std::mem::take(&mut self.noise);
        // What was to go before the next message on another connection is lost with that.
        let frames = if input == Input::LinkUp { Frames::default() } else { noise };
        let mut wanted = Wanted { frames, ..Wanted::default() };
        self.now = self.now.after(TICK);
        self.give_all(input, &bytes.unwrap_or_default(), &mut guest, &mut wanted);
        if self.harvest_waits && !self.model.is_in_rounds() {
            self.answer_harvest(&mut guest, &mut wanted);
        }
        wanted.tells.sort_by_key(|told| format!("{told:?}"));
        let mut tells = wants.tells.clone();
        tells.sort_by_key(|told| format!("{told:?}"));
        assert_eq!(wanted.asks, wants.asks, "asks after {input:?}");
        assert_eq!(wanted.parting, wants.parting, "parting after {input:?}");
        assert_eq!(wanted.connects, wants.connects, "connects after {input:?}");
        assert_eq!(wanted.tells, tells, "tells after {input:?}");
        if let Some(phase) = self.model.phase() {
            assert_eq!(self.engine.phase(), phase, "phase after {input:?}");
        }
        assert_eq!(self.engine.is_finished(), self.model.is_finished(), "finished after {input:?}");
        let messages: Vec<Message> = wants.says.iter().map(|(message, ())| *message).collect();
        let (says, rest) = wanted.frames.into_messages(&messages);
        if self.model.has_link() {
            self.noise = rest;
        }
        let Outputs { parting, connects, asks, tells, .. } = wants;
        Outputs { says, parting, connects, asks, tells }
    }

    /// Gives the engine what the input stands for.
    fn give_all(
        &mut self,
        input: Input,
        bytes: &[u8],
        guest: &mut Option<&mut LiveGuest>,
        wanted: &mut Wanted,
    ) {
        let mut give = |part: &mut Self, input| part.give(input, guest, wanted);
        match input {
            Input::Start => give(self, engine::Input::Command(Command::Start)),
            Input::LinkUp => give(self, engine::Input::LinkUp(Channel::MAIN)),
            Input::LinkDown => give(self, engine::Input::LinkDown(Channel::MAIN)),
            Input::Silence => {
                self.now = self.now.after(PEER_TIMEOUT);
                give(self, engine::Input::Timeout);
            }
            Input::Message(_) => give(self, engine::Input::Bytes(Channel::MAIN, bytes)),
            Input::Done(step) => {
                let event = self.done(step, guest);
                self.give(engine::Input::Guest(event), guest, wanted);
            }
            Input::Failed(step) => {
                let failure = GuestFailure::Host("as it may".into());
                let event = match self.permit.take() {
                    Some(permit) => GuestEvent::RunFailed(permit, failure),
                    None => GuestEvent::Failed(engine_step(step), failure),
                };
                give(self, engine::Input::Guest(event));
            }
            Input::Cancel => give(self, engine::Input::Command(Command::Cancel)),
            Input::Reclaim => give(self, engine::Input::Command(Command::Reclaim)),
            Input::Release => give(self, engine::Input::Command(Command::Release)),
            Input::TakeOver => give(self, engine::Input::Command(Command::TakeOver)),
            Input::Stop => {
                for _ in 0..8 {
                    if wanted.asks.is_some() {
                        break;
                    }
                    if self.harvest_waits {
                        self.answer_harvest(guest, wanted);
                    } else {
                        self.wait(REST, guest, wanted);
                    }
                }
            }
            Input::Overrun => self.wait(DOWNTIME_LIMIT, guest, wanted),
            Input::Retry => give(self, engine::Input::Command(Command::Retry)),
            Input::AskAgain => self.wait(ASK_AGAIN, guest, wanted),
            Input::HoldExpires => self.wait(HOLD, guest, wanted),
        }
    }

    /// Lets time pass in which the other host was heard.
    fn wait(&mut self, time: Duration, guest: &mut Option<&mut LiveGuest>, wanted: &mut Wanted) {
        self.now = self.now.after(time);
        self.give(engine::Input::Bytes(Channel::MAIN, &[]), guest, wanted);
        self.give(engine::Input::Timeout, guest, wanted);
    }

    fn answer_harvest(&mut self, guest: &mut Option<&mut LiveGuest>, wanted: &mut Wanted) {
        self.harvest_waits = false;
        if let Some(guest) = guest {
            guest.harvest();
        }
        self.give(engine::Input::Guest(GuestEvent::DirtyLogHarvested), guest, wanted);
    }

    /// What a step does to the guest.
    fn done(&mut self, step: Step, guest: &mut Option<&mut LiveGuest>) -> GuestEvent {
        match (step, guest) {
            (Step::StartLog, Some(guest)) => {
                guest.start_log();
                GuestEvent::DirtyLogStarted
            }
            (Step::Harvest, Some(guest)) => {
                guest.harvest();
                GuestEvent::DirtyLogHarvested
            }
            (Step::StopLog, Some(guest)) => {
                guest.stop_log();
                GuestEvent::DirtyLogStopped
            }
            (Step::Pause, Some(guest)) => {
                GuestEvent::Paused(guest.permit.take().expect("it is paused while it runs"))
            }
            (Step::Save, Some(guest)) => GuestEvent::StateSaved(guest.devices()),
            (Step::Run(_), Some(guest)) => {
                assert!(guest.permit.is_none(), "it has a permit already");
                guest.permit = self.permit.take();
                GuestEvent::Running
            }
            (Step::Build, Some(_)) => GuestEvent::Built,
            (Step::Restore, Some(_)) => GuestEvent::StateRestored,
            (Step::Settle, Some(_)) => GuestEvent::Settled,
            (Step::Forsake, Some(_)) => GuestEvent::Forsaken,
            (Step::Discard, None) => GuestEvent::Discarded,
            (step, _) => panic!("{step:?} of a guest that is not there, or of one that is"),
        }
    }

    /// Gives one input, and takes what the engine wants.
    fn give(&mut self, input: engine::Input<'_>, guest: &mut Option<&mut LiveGuest>, wanted: &mut Wanted) {
        let mut inputs = VecDeque::from([input]);
        // A round in two portions shows the engine a rate of the link; what is served goes in one.
        let room = if self.model.is_in_rounds() { OUTPUT_BYTES_MIN } else { BUFFER_BYTES };
        let mut none = NoRam;
        while let Some(input) = inputs.pop_front() {
            let ram: &mut dyn GuestRam = match guest {
                Some(guest) => *guest,
                None => &mut none,
            };
            self.engine.handle_input(self.now, input, ram);
            loop {
                match self.engine.poll_output(self.now, &mut self.buffer[..room], ram) {
                    Output::Timeout(_) => break,
                    Output::Transmit { len, .. } => {
                        wanted.frames.add(&self.buffer[..len]);
                        self.now = self.now.after(TICK);
                    }
                    Output::Connect(Channel::MAIN) => wanted.connects = true,
                    // There is no second connection in this world.
                    Output::Connect(channel) => inputs.push_back(engine::Input::LinkDown(channel)),
                    Output::Disconnect(Channel::MAIN) => wanted.parting = Some(Parting::Close),
                    Output::HangUp(Channel::MAIN) => wanted.parting = Some(Parting::HangUp),
                    Output::Disconnect(_) | Output::HangUp(_) => {}
                    Output::Event(event) => wanted.tells.extend(told(&event)),
                    Output::Guest(action) => self.begin(action, wanted),
                }
            }
        }
    }

    fn begin(&mut self, action: GuestAction, wanted: &mut Wanted) {
        let step = match action {
            GuestAction::HarvestDirtyLog if self.model.awaits() != Some(Step::Harvest) => {
                self.harvest_waits = true;
                return;
            }
            GuestAction::Run(permit) => {
                let generation = permit.generation().0 as Generation;
                self.permit = Some(permit);
                Step::Run(generation)
            }
            GuestAction::Build(_) => Step::Build,
            GuestAction::StartDirtyLog => Step::StartLog,
            GuestAction::HarvestDirtyLog => Step::Harvest,
            GuestAction::StopDirtyLog => Step::StopLog,
            GuestAction::Pause => Step::Pause,
            GuestAction::SaveState => Step::Save,
            GuestAction::RestoreState(_) => Step::Restore,
            GuestAction::Discard => Step::Discard,
            GuestAction::Settle => Step::Settle,
            GuestAction::Forsake => Step::Forsake,
            GuestAction::Throttle(_) => panic!("nothing is throttled here"),
        };
        assert_eq!(wanted.asks, None, "two steps at once");
        wanted.asks = Some(step);
    }
}

fn told(event: &Event) -> Option<Told> {
    Some(match event {
        Event::Recalled(_) => Told::Recalled,
        Event::CommitUnknown => Told::CommitUnknown,
        Event::TargetForgot => Told::TargetForgot,
        Event::TargetLost => Told::TargetLost,
        Event::Interrupted => Told::Interrupted,
        Event::Reconnected => Told::Reconnected,
        Event::Held(_) => Told::Held,
        Event::CancelTooLate => Told::CancelTooLate,
        Event::Arrived(generation) => Told::Arrived(generation.0 as Generation),
        Event::MemoryLost { .. } => Told::MemoryLost,
        Event::Completed(_) => Told::Completed,
        Event::Aborted(..) => Told::Aborted,
        Event::Phase(_) | Event::Round { .. } | Event::Switching(_) => return None,
        Event::Throttle(_)
        | Event::LimitOverruled
        | Event::Estimated(_)
        | Event::DigestDiffers
        | Event::Spool(_)
        | Event::CleanupFailed(..) => panic!("{event:?}"),
    })
}

fn engine_step(step: Step) -> engine::Step {
    match step {
        Step::Build => engine::Step::Build,
        Step::StartLog => engine::Step::StartDirtyLog,
        Step::Harvest => engine::Step::HarvestDirtyLog,
        Step::StopLog => engine::Step::StopDirtyLog,
        Step::Pause => engine::Step::Pause,
        Step::Save => engine::Step::SaveState,
        Step::Restore => engine::Step::RestoreState,
        Step::Run(_) => engine::Step::Run,
        Step::Discard => engine::Step::Discard,
        Step::Settle => engine::Step::Settle,
        Step::Forsake => engine::Step::Forsake,
    }
}
