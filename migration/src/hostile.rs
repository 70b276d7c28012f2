//! Peers that know the protocol and mean harm: frames with right checks and wrong content, at any moment.

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use crate::bitmap::PageBitmap;
use crate::device::Section;
use crate::guest::{GuestDescription, HostCapabilities, TscScaling};
use crate::heap::{HostShare, Room};
use crate::identity::{Identities, Identity};
use crate::io::{Channel, Command, GuestAction, GuestEvent, Input, Output};
use crate::permit::{Generation, GuestId, MigrationId, RunPermit};
use crate::policy::{Policy, Purpose, TargetPolicy};
use crate::ram::{GuestRam, NoRam, PAGE_BYTES, Page, PageBytes, RamFailure, RamLayout, RamRange};
use crate::source::{Source, SourceConfig};
use crate::target::{Target, TargetConfig};
use crate::time::Instant;
use crate::wire::VERSION_MAX;
use crate::wire::absent::Walk;
use crate::wire::control::{
    Commit, Committed, Complete, Control, Fate, Outcome, Progress, Pushed, RoundEnd, Seal, SectionPart,
    Verified, Want, frame, guest_digest, section_digest,
};
use crate::wire::deposit::Spent;
use crate::wire::frame::{Header, Kind};
use crate::wire::hello::{Hello, Reply};
use crate::wire::opening::{Greeting, Opening};
use crate::wire::record::{Fold, Record};

mod claims;
mod clone;
mod urgent;

pub(crate) const PAGES: u32 = 40;
pub(crate) const GUEST: GuestId = GuestId([3; 16]);
pub(crate) const MIGRATION: MigrationId = MigrationId([4; 16]);

pub(crate) struct Ram(pub(crate) Vec<PageBytes>);

impl GuestRam for Ram {
    fn page_count(&self) -> u32 {
        self.0.len() as u32
    }
    fn read_page(&self, page: Page, into: &mut PageBytes) -> Result<(), RamFailure> {
        *into = *self.0.get(page.0 as usize).ok_or(RamFailure::OutOfRange(page))?;
        Ok(())
    }
    fn write_page(&mut self, page: Page, from: &PageBytes) -> Result<(), RamFailure> {
        *self.0.get_mut(page.0 as usize).ok_or(RamFailure::OutOfRange(page))? = *from;
        Ok(())
    }
    fn take_dirty(&mut self, into: &mut crate::bitmap::PageBitmap) {
        into.insert(Page(1));
    }
    fn set_absent(&mut self, _absent: &crate::bitmap::PageBitmap) -> Result<(), RamFailure> {
        Ok(())
    }
}

fn guest() -> GuestDescription {
    GuestDescription {
        id: GUEST,
        generation: Generation::FIRST,
        name: "g".into(),
        layout: RamLayout::new(&[RamRange { first_frame: 0, frames: PAGES.into() }]).unwrap(),
        vcpus: 1,
        features: vec![],
        tsc_hz: 1,
        configuration: vec![],
    }
}

/// Something that a hostile peer says.
#[derive(Clone, Debug)]
pub(crate) enum Said {
    Control(Control),
    Section {
        id: u32,
        total: u32,
        offset: u32,
        bytes: Vec<u8>,
    },
    /// A frame of any kind with any body, rightly checked.
    Any(u8, Vec<u8>),
    /// Records with any content, rightly checked as far as that is possible.
    Pages(Vec<(Record, u8, bool)>),
    Garbage(Vec<u8>),
}

fn pages() -> impl Strategy<Value = Said> {
    let page = || (0u32..PAGES + 4).prop_map(Page);
    let record = prop_oneof![
        (page(), 1u16..PAGES as u16 + 2).prop_map(|(first, count)| Record::Zero { first, count }),
        (page(), 1u16..6).prop_map(|(first, count)| Record::Raw { first, count }),
        (1u16..=16, 64u32..600).prop_map(|(count, bytes)| Record::Pack { count, bytes }),
        (page(), page(), 0u16..40).prop_map(|(page, reference, bytes)| Record::Similar {
            page,
            reference,
            bytes
        }),
    ];
    prop::collection::vec((record, any::<u8>(), prop::bool::weighted(0.9)), 0..6).prop_map(Said::Pages)
}

pub(crate) fn said() -> impl Strategy<Value = Said> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..60);
    let fate =
        prop::sample::select(vec![Fate::Prepared, Fate::Owned, Fate::Unknown, Fate::Starting, Fate::Served]);
    let reply = (0u16..3).prop_map(|version| {
        Control::Reply(Reply {
            version,
            refusals: vec![],
            incarnation: 1,
            peer_timeout_ms: 1,
            post_copy: true,
        })
    });
    let control = prop_oneof![
        (any::<u64>(), any::<u32>())
            .prop_map(|(bytes, rounds)| Control::Progress(Progress { bytes, rounds })),
        (0u64..9_000, 0u32..9).prop_map(|(bytes, rounds)| Control::Progress(Progress { bytes, rounds })),
        any::<u32>().prop_map(|round| Control::RoundEnd(RoundEnd { round })),
        (any::<u64>(), 0u32..3, 0u32..3, prop_oneof![Just(0), 0u32..50]).prop_map(
            |(digest, sections, stop, absent)| Control::Seal(Seal { digest, sections, stop, absent })
        ),
        any::<u32>().prop_map(|page| Control::Want(Want { page })),
        (0u32..50).prop_map(|page| Control::Want(Want { page })),
        any::<u64>().prop_map(|digest| Control::Pushed(Pushed { digest })),
        any::<bool>().prop_map(|is_ended| Control::Complete(complete(is_ended))),
        (any::<u64>(), 0u32..3)
            .prop_map(|(restore_ns, stop)| Control::Verified(Verified { restore_ns, stop })),
        Just(Control::Recall),
        (0u64..4).prop_map(|generation| Control::Commit(Commit { generation })),
        (0u64..4).prop_map(|generation| Control::Committed(Committed { generation, run_ns: u64::MAX })),
        fate.prop_map(|fate| Control::Outcome(Outcome { fate, incarnation: 7 })),
        reply,
        (1u32..50, 1u32..12).prop_map(|(pages, absent)| crate::spool::hostile::deposit(pages, absent)),
        any::<Option<u64>>().prop_map(|digest| Control::Spent(Spent { digest })),
        Just(Control::Release),
        Just(Control::Ping),
        Just(Control::Hello(Hello::new(&guest(), 0))),
    ];
    prop_oneof![
        5 => control.prop_map(Said::Control),
        3 => pages(),
        1 => (0u32..3, prop_oneof![0u32..80, any::<u32>()], prop_oneof![Just(0u32), any::<u32>()], bytes())
            .prop_map(|(id, total, offset, bytes)| Said::Section { id, total, offset, bytes }),
        1 => (0u8..32, bytes()).prop_map(|(kind, body)| Said::Any(kind, body)),
        1 => bytes().prop_map(Said::Garbage),
    ]
}

/// The last of the kinds of frames.
const KIND_MAX: u16 = Kind::Spent as u16;

pub(crate) fn encode(said: &Said, sequence: &mut u32) -> Vec<u8> {
    let mut buffer = vec![0; 64 * 1024];
    let this = *sequence;
    *sequence += 1;
    let length = match said {
        Said::Control(control) => control.encode(this, &mut buffer),
        Said::Section { id, total, offset, bytes } => {
            let (total_bytes, offset) = (*total, *offset);
            let part = SectionPart {
                id: *id,
                instance: 0,
                version: 1,
                is_mandatory: true,
                total_bytes,
                offset,
                bytes,
            };
            frame(Kind::Section, this, &part, &mut buffer)
        }
        Said::Any(kind, body) => {
            let kind = Kind::from_wire(1 + u16::from(*kind) % KIND_MAX).expect("they are numbered from 1");
            let body = if kind == Kind::Pages { &[] } else { &body[..] };
            return [&Header::encode(kind, this, body)[..], body].concat();
        }
        Said::Pages(records) => {
            let body = records.iter().flat_map(|(record, fill, is_right)| content(*record, *fill, *is_right));
            let body: Vec<u8> = body.collect();
            return [&Header::encode(Kind::Pages, this, &body)[..], &body].concat();
        }
        Said::Garbage(bytes) => {
            *sequence = this;
            return bytes.clone();
        }
    };
    buffer.truncate(length);
    buffer
}

fn content(record: Record, fill: u8, is_right: bool) -> Vec<u8> {
    let (length, pages) = match record {
        Record::Zero { .. } => (0, 0),
        Record::Raw { count, .. } => (usize::from(count) * PAGE_BYTES, count),
        Record::Pack { bytes, .. } => (bytes as usize, 0),
        Record::Similar { bytes, .. } => (bytes.into(), 0),
    };
    let mut fold = Fold::default();
    (0..pages).for_each(|_| fold.add(Identity::of(&[fill; PAGE_BYTES])));
    if !is_right {
        fold.add(Identity(9));
    }
    let mut all = record.encode(fold).to_vec();
    all.resize(all.len() + length, fill);
    all
}

fn complete(is_ended: bool) -> Complete {
    let ns = u64::MAX;
    Complete {
        is_ended,
        differs: false,
        filling_ns: ns,
        waits: ns,
        median_ns: ns,
        p99_ns: ns,
        longest_ns: ns,
        total_ns: ns,
    }
}

/// An engine with a guest at hand that does every step at once.
pub(crate) struct Host<T> {
    pub(crate) engine: T,
    pub(crate) ram: Option<Ram>,
    pub(crate) permit: Option<RunPermit>,
    pub(crate) now: u64,
    pub(crate) runs: u32,
}

pub(crate) trait Engine {
    fn input(&mut self, now: Instant, input: Input<'_>, ram: &mut dyn GuestRam);
    fn output(&mut self, now: Instant, buffer: &mut [u8], ram: &mut dyn GuestRam) -> Output;
}
impl Engine for Target {
    fn input(&mut self, now: Instant, input: Input<'_>, ram: &mut dyn GuestRam) {
        self.handle_input(now, input, ram);
    }
    fn output(&mut self, now: Instant, buffer: &mut [u8], ram: &mut dyn GuestRam) -> Output {
        self.poll_output(now, buffer, ram)
    }
}
impl Engine for Source {
    fn input(&mut self, now: Instant, input: Input<'_>, ram: &mut dyn GuestRam) {
        self.handle_input(now, input, ram);
    }
    fn output(&mut self, now: Instant, buffer: &mut [u8], ram: &mut dyn GuestRam) -> Output {
        self.poll_output(now, buffer, ram)
    }
}

impl<T: Engine> Host<T> {
    pub(crate) fn give(&mut self, input: Input<'_>) {
        self.now += 1_000_000;
        let (now, mut none) = (Instant::from_nanos(self.now), NoRam);
        let ram: &mut dyn GuestRam = match &mut self.ram {
            Some(ram) => ram,
            None => &mut none,
        };
        self.engine.input(now, input, ram);
        self.drain();
    }

    fn drain(&mut self) {
        let mut buffer = vec![0; crate::OUTPUT_BYTES_MIN];
        for _ in 0..300 {
            let (now, mut none) = (Instant::from_nanos(self.now), NoRam);
            let ram: &mut dyn GuestRam = match &mut self.ram {
                Some(ram) => ram,
                None => &mut none,
            };
            match self.engine.output(now, &mut buffer, ram) {
                Output::Timeout(_) => return,
                Output::Guest(action) => {
                    let event = self.act(action);
                    return self.give(Input::Guest(event));
                }
                Output::Connect(channel) => return self.give(Input::LinkUp(channel)),
                Output::Transmit { .. } | Output::Disconnect(_) | Output::HangUp(_) | Output::Event(_) => {}
            }
        }
        panic!("it never comes to rest");
    }

    fn act(&mut self, action: GuestAction) -> GuestEvent {
        match action {
            GuestAction::Build(guest) => {
                self.ram = Some(Ram(vec![[0; PAGE_BYTES]; guest.layout.page_count() as usize]));
                GuestEvent::Built
            }
            GuestAction::StartDirtyLog => GuestEvent::DirtyLogStarted,
            GuestAction::HarvestDirtyLog => GuestEvent::DirtyLogHarvested,
            GuestAction::StopDirtyLog => GuestEvent::DirtyLogStopped,
            GuestAction::Throttle(_) => GuestEvent::Throttled,
            GuestAction::Pause => GuestEvent::Paused(self.permit.take().expect("the guest runs")),
            GuestAction::SaveState => GuestEvent::StateSaved(vec![]),
            GuestAction::RestoreState(_) => GuestEvent::StateRestored,
            GuestAction::Run(permit) => {
                assert!(self.permit.replace(permit).is_none(), "it runs already");
                self.runs += 1;
                GuestEvent::Running
            }
            GuestAction::Settle => GuestEvent::Settled,
            GuestAction::Forsake => GuestEvent::Forsaken,
            GuestAction::Discard => {
                assert!(self.permit.is_none(), "it runs");
                self.ram = None;
                GuestEvent::Discarded
            }
        }
    }
}

fn target() -> Host<Target> {
    target_that(true)
}

/// A target where a guest can wait for pages, or cannot.
fn target_that(post_copy: bool) -> Host<Target> {
    let host = HostCapabilities {
        name: "b".into(),
        incarnation: 1,
        features: vec![],
        tsc_hz: 1,
        tsc_scaling: TscScaling::Available,
        tsc_tolerance_ppm: 0,
        room: Room { ram_bytes: 1 << 20, heap_bytes: u64::MAX },
        share: HostShare::default(),
        vcpus_max: 1,
        closed: None,
        post_copy,
    };
    let engine = Target::new(TargetConfig { host, policy: TargetPolicy::default() });
    Host { engine, ram: None, permit: None, now: 0, runs: 0 }
}

fn source(policy: Policy) -> Host<Source> {
    source_for(policy, Purpose::Move)
}

fn source_for(policy: Policy, purpose: Purpose) -> Host<Source> {
    let engine = Source::new(SourceConfig { migration: MIGRATION, guest: guest(), policy, purpose });
    let ram = Some(Ram(vec![[0; PAGE_BYTES]; PAGES as usize]));
    Host { engine, ram, permit: Some(RunPermit::for_new_guest(GUEST)), now: 0, runs: 0 }
}

/// A target that has accepted the guest, and the number of the next frame to it.
fn receiving_target() -> (Host<Target>, u32) {
    receiving_target_of(VERSION_MAX)
}

/// The same, of a source that speaks up to this version.
fn receiving_target_of(version_max: u16) -> (Host<Target>, u32) {
    let (mut host, mut sequence) = (target(), 0);
    host.give(Input::LinkUp(Channel::MAIN));
    let opening = Opening::Begin { migration: MIGRATION, guest: GUEST };
    let mut first = Greeting { opening, version_min: 1, version_max }.encode().to_vec();
    first.extend(encode(&Said::Control(Control::Hello(Hello::new(&guest(), 1000))), &mut sequence));
    host.give(Input::Bytes(Channel::MAIN, &first));
    (host, sequence)
}

/// The right seal of RAM that is zero and of these sections.
fn seal(state: &[Section], stop: u32) -> Control {
    let ram = Identities::new(PAGES, Identity::ZERO).unwrap().sum();
    let digest = guest_digest(ram, PAGES, section_digest(state));
    Control::Seal(Seal { digest, sections: state.len() as u32, stop, absent: 0 })
}

fn say<T: Engine>(host: &mut Host<T>, control: Control, sequence: &mut u32) {
    host.give(Input::Bytes(Channel::MAIN, &encode(&Said::Control(control), sequence)));
}

#[test]
fn a_commit_behind_a_recall_runs_nothing() {
    let (mut host, mut sequence) = receiving_target();
    for control in [seal(&[], 0), Control::Recall, Control::Commit(Commit { generation: 2 })] {
        say(&mut host, control, &mut sequence);
    }
    assert!(host.runs == 0 && host.ram.is_none(), "it came out of turn: the attempt is over");
}

#[test]
fn a_recall_behind_the_commit_takes_nothing_back() {
    let (mut host, mut sequence) = receiving_target();
    for control in [seal(&[], 0), Control::Commit(Commit { generation: 2 }), Control::Recall] {
        say(&mut host, control, &mut sequence);
    }
    assert!(host.runs == 1 && host.permit.is_some());
    assert_eq!(host.engine.status(Instant::from_nanos(host.now)).phase, crate::Phase::Completed);
}

#[test]
fn sections_of_any_number_of_recalled_stops_are_dropped_and_a_half_one_too() {
    let (mut host, mut sequence) = receiving_target();
    let bytes = vec![7; 11_000];
    let whole = |total| Said::Section { id: 1, total, offset: 0, bytes: bytes.clone() };
    let section = Section {
        id: 1,
        instance: 0,
        version: 1,
        necessity: crate::Necessity::Mandatory,
        bytes: bytes.clone(),
    };
    // More than the bound on all sections together, if they added up.
    for stop in 0..20 * crate::device::state_bytes_max(1) as u32 / 11_000 {
        // A large one, of which little comes.
        host.give(Input::Bytes(Channel::MAIN, &encode(&whole(140 << 10), &mut sequence)));
        say(&mut host, Control::Recall, &mut sequence);
        host.give(Input::Bytes(Channel::MAIN, &encode(&whole(11_000), &mut sequence)));
        say(&mut host, seal(core::slice::from_ref(&section), stop), &mut sequence);
        let phase = host.engine.status(Instant::from_nanos(host.now)).phase;
        assert_eq!(phase, crate::Phase::Committing, "stop {stop} is prepared");
        say(&mut host, Control::Recall, &mut sequence);
    }
    assert!(host.ram.is_some() && host.runs == 0);
}

/// A target whose guest runs and lacks page 5.
pub(crate) fn filling_target() -> Host<Target> {
    committed_without_a_page(VERSION_MAX).0
}

fn committed_without_a_page(version_max: u16) -> (Host<Target>, u32) {
    let (mut host, mut sequence) = receiving_target_of(version_max);
    let (mut absent, mut identities) =
        (PageBitmap::empty(PAGES), Identities::new(PAGES, Identity::ZERO).unwrap());
    absent.insert(Page(5));
    identities.set(Page(5), Identity::UNKNOWN);
    let mut buffer = vec![0; 64 * 1024];
    let length = Walk::default().next(&absent, sequence, &mut buffer).unwrap();
    sequence += 1;
    host.give(Input::Bytes(Channel::MAIN, &buffer[..length]));
    let digest = guest_digest(identities.sum(), PAGES, section_digest(&[]));
    say(&mut host, Control::Seal(Seal { digest, sections: 0, stop: 0, absent: 1 }), &mut sequence);
    say(&mut host, Control::Commit(Commit { generation: 2 }), &mut sequence);
    (host, sequence)
}

fn phase(host: &Host<Source>) -> crate::Phase {
    host.engine.status(Instant::from_nanos(host.now)).phase
}

/// Lets the source send until it has sealed a stop.
fn until_sealed(host: &mut Host<Source>, sequence: &mut u32) {
    for _ in 0..200 {
        if phase(host) == crate::Phase::Verifying {
            return;
        }
        host.now += 10_000_000;
        host.give(Input::Timeout);
        let status = host.engine.status(Instant::from_nanos(host.now));
        let rounds = status.round + status.stops.count;
        say(host, Control::Progress(Progress { bytes: u64::MAX, rounds }), sequence);
    }
    panic!("it never stops the guest");
}

/// A source that has sealed its first stop, and the number of the next frame to it.
fn sealed_source(mode: crate::Mode) -> (Host<Source>, u32) {
    let (mut host, mut sequence) = accepted_source(mode, Purpose::Move);
    until_sealed(&mut host, &mut sequence);
    (host, sequence)
}

/// A source whose target has accepted and taken a part of a round, and the number of the next frame to it.
fn accepted_source(mode: crate::Mode, purpose: Purpose) -> (Host<Source>, u32) {
    let policy = Policy { mode, compression: crate::Compression::Off, ..Policy::default() };
    let host = source_for(policy, purpose);
    accepted(host)
}

/// A source whose guest runs at the target, and that has a spool.
pub(crate) fn serving_source() -> Host<Source> {
    serving_source_at().0
}

/// The same, and the number of the next frame to it.
pub(crate) fn serving_source_at() -> (Host<Source>, u32) {
    let policy =
        Policy { mode: crate::Mode::PostCopy, compression: crate::Compression::Off, ..Policy::default() };
    let order = crate::SpoolOrder { target: "b".into(), address: vec![1; 6] };
    let Host { engine, ram, permit, now, runs } = source_for(policy, Purpose::Move);
    let (mut host, mut sequence) =
        accepted(Host { engine: engine.with_spool(order), ram, permit, now, runs });
    until_sealed(&mut host, &mut sequence);
    say(&mut host, Control::Verified(Verified { restore_ns: 0, stop: 0 }), &mut sequence);
    let generation = Generation::FIRST.next().0;
    say(&mut host, Control::Committed(Committed { generation, run_ns: 0 }), &mut sequence);
    (host, sequence)
}

/// Lets the target accept and take a part of a round.
fn accepted(mut host: Host<Source>) -> (Host<Source>, u32) {
    let mut sequence = 0;
    host.ram = Some(Ram(vec![[7; PAGE_BYTES]; PAGES as usize]));
    host.give(Input::Command(Command::Start));
    let reply =
        Reply { version: 1, refusals: vec![], incarnation: 1, peer_timeout_ms: 1000, post_copy: true };
    say(&mut host, Control::Reply(reply), &mut sequence);
    // Without an answer to a part of a round it knows no rate, and stops nothing.
    say(&mut host, Control::Progress(Progress { bytes: 100_000, rounds: 0 }), &mut sequence);
    (host, sequence)
}

#[test]
fn a_target_that_verifies_too_late_and_then_talks_nonsense_costs_no_permit() {
    let (mut host, mut sequence) = sealed_source(crate::Mode::Auto);
    host.now += 400_000_000;
    let late = Control::Verified(Verified { restore_ns: 0, stop: 0 });
    let mut bytes = encode(&Said::Control(late), &mut sequence);
    bytes.extend(encode(&Said::Control(Control::Release), &mut sequence));
    host.give(Input::Bytes(Channel::MAIN, &bytes));
    assert_eq!(phase(&host), crate::Phase::Aborted);
    assert!(host.permit.is_some(), "the guest that was about to be run again runs");
}

#[test]
fn a_source_takes_a_verification_for_no_other_stop_than_its_own() {
    let (mut host, mut sequence) = sealed_source(crate::Mode::Auto);
    host.now += 400_000_000;
    host.give(Input::Timeout);
    assert!(host.permit.is_some() && host.runs == 1, "the stop was called back");
    let late = || Control::Verified(Verified { restore_ns: 0, stop: 0 });
    say(&mut host, late(), &mut sequence);
    assert!(host.permit.is_some() && host.runs == 1, "it commits nothing");
    until_sealed(&mut host, &mut sequence);
    say(&mut host, late(), &mut sequence);
    assert_eq!(phase(&host), crate::Phase::Verifying, "nor in the next stop");
    say(&mut host, Control::Verified(Verified { restore_ns: 0, stop: 9 }), &mut sequence);
    assert!(host.permit.is_some() && host.runs == 2, "of a stop that never was: the attempt is over");
    assert_eq!(phase(&host), crate::Phase::Aborted);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_target_survives_any_source(
        all in prop::collection::vec(said(), 0..40),
        versions in (0u16..3, 0u16..3),
        honest in prop::bool::weighted(0.9),
    ) {
        let mut host = target();
        host.give(Input::LinkUp(Channel::MAIN));
        let mut sequence = 0;
        if honest {
            let (version_min, version_max) = (versions.0.min(versions.1), versions.0.max(versions.1).max(1));
            let opening = Opening::Begin { migration: MIGRATION, guest: GUEST };
            let mut first = Greeting { opening, version_min, version_max }.encode().to_vec();
            first.extend(encode(&Said::Control(Control::Hello(Hello::new(&guest(), 1000))), &mut sequence));
            host.give(Input::Bytes(Channel::MAIN, &first));
        }
        for said in &all {
            let bytes = encode(said, &mut sequence);
            host.give(Input::Bytes(Channel::MAIN, &bytes));
        }
        host.give(Input::LinkDown(Channel::MAIN));
        host.give(Input::Command(Command::Cancel));
        prop_assert!(host.ram.is_none() || host.permit.is_some(), "a guest is left that does not run");
    }

    #[test]
    fn a_source_survives_any_target(all in prop::collection::vec(said(), 0..40)) {
        let mut host = source(Policy { rounds_max: 5, ..Policy::default() });
        host.give(Input::Command(Command::Start));
        let mut sequence = 0;
        let reply = Reply { version: 1, refusals: vec![], incarnation: 1, peer_timeout_ms: 1000, post_copy: true };
        host.give(Input::Bytes(Channel::MAIN, &encode(&Said::Control(Control::Reply(reply)), &mut sequence)));
        for said in &all {
            let bytes = encode(said, &mut sequence);
            host.give(Input::Bytes(Channel::MAIN, &bytes));
        }
        host.give(Input::Command(Command::Cancel));
        // Whatever the target said: either the guest runs here, or the target claimed it.
        let is_unknown = host.engine.status(Instant::from_nanos(host.now)).phase == crate::Phase::CommitUnknown
            || host.engine.status(Instant::from_nanos(host.now)).phase == crate::Phase::Committing;
        prop_assert!(host.permit.is_some() || host.ram.is_none() || is_unknown);
    }
}
