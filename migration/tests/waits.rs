//! How long a guest waits for its pages after the switch, and how fast the rest comes meanwhile: both engines, in modelled
//! time, over wires from slow to fast. A wire has one queue for each direction, whatever the connection.

use std::collections::VecDeque;
use std::time::Duration;

use godwit_migration::{
    Channel, Command, Event, Generation, GuestAction, GuestDescription, GuestEvent, GuestId, GuestRam,
    HostCapabilities, HostShare, Input, Instant, MigrationId, Mode, Necessity, Output, PAGE_BYTES, Page,
    PageBitmap, PageBytes, Policy, Purpose, RamFailure, RamLayout, RamRange, Room, RunPermit, Section,
    Source, SourceConfig, Target, TargetConfig, TargetPolicy, TscScaling,
};

const GUEST: GuestId = GuestId([1; 16]);
const BUFFER_BYTES: usize = 64 * 1024;
/// What goes at one time: a segment of TCP.
const SEGMENT_BYTES: usize = 1460;
/// Bytes of a segment besides its content.
const HEADER_BYTES: usize = 54;
/// Pages that a guest touches which goes through all of its memory are so far from each other.
const FAR: u32 = 1049;

/// A wire, and who works on both ends of it.
#[derive(Clone, Copy, Debug)]
struct Case {
    bytes_per_second: u64,
    round_trip: Duration,
    pages: u32,
    /// Time between two pages that the guest touches.
    pace: Duration,
    /// How far these are from each other; they begin in the middle.
    stride: u32,
}

/// What came of it.
#[derive(Debug)]
struct Outcome {
    waits: Vec<Duration>,
    /// From the guest's first moment at the target to the last page.
    filling: Duration,
    /// What the target sent since then.
    segments_back: u64,
    /// Pages that the source sent, on whichever connection.
    sent: u64,
}

enum Item {
    Up(Channel),
    Bytes(Channel, Vec<u8>),
}

/// One direction.
#[derive(Default)]
struct Lane {
    free_at: u64,
    queue: VecDeque<(u64, Item)>,
    segments: u64,
}

impl Lane {
    fn enter(&mut self, now: u64, bytes: usize, item: Item, case: &Case) {
        let time = (bytes + HEADER_BYTES) as u64 * 1_000_000_000 / case.bytes_per_second;
        self.free_at = self.free_at.max(now) + time;
        self.segments += 1;
        self.queue.push_back((self.free_at + case.round_trip.as_nanos() as u64 / 2, item));
    }

    fn send(&mut self, now: u64, channel: Channel, bytes: &[u8], case: &Case) {
        for segment in bytes.chunks(SEGMENT_BYTES) {
            self.enter(now, segment.len(), Item::Bytes(channel, segment.to_vec()), case);
        }
    }
}

/// Memory without any order in it, which nobody writes at the source.
struct Ram {
    pages: u32,
    /// At the target, which pages are there.
    present: Vec<bool>,
    content: Vec<PageBytes>,
    published: Vec<Page>,
}

fn noise(page: Page, into: &mut PageBytes) {
    let mut word = u64::from(page.0) + 1;
    for eight in into.as_chunks_mut::<8>().0 {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        *eight = word.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
    }
}

impl GuestRam for Ram {
    fn page_count(&self) -> u32 {
        self.pages
    }
    fn read_page(&self, page: Page, into: &mut PageBytes) -> Result<(), RamFailure> {
        match self.content.get(page.0 as usize) {
            Some(content) => *into = *content,
            None => noise(page, into),
        }
        Ok(())
    }
    fn write_page(&mut self, page: Page, from: &PageBytes) -> Result<(), RamFailure> {
        self.content[page.0 as usize] = *from;
        Ok(())
    }
    fn take_dirty(&mut self, _into: &mut PageBitmap) {}
    fn set_absent(&mut self, absent: &PageBitmap) -> Result<(), RamFailure> {
        self.present = (0..self.pages).map(|page| !absent.contains(Page(page))).collect();
        Ok(())
    }
    fn publish(&mut self, page: Page) {
        if !std::mem::replace(&mut self.present[page.0 as usize], true) {
            self.published.push(page);
        }
    }
}

/// A guest of one processor.
#[derive(Default)]
struct Guest {
    /// When it touches the next page; never while it waits or does not run.
    touches_at: Option<u64>,
    waits_for: Option<(Page, u64)>,
    touched: u32,
}

/// Both hosts and all between them.
struct World {
    case: Case,
    now: u64,
    source: Source,
    target: Target,
    rams: [Ram; 2],
    /// To the target, and back.
    lanes: [Lane; 2],
    deadlines: [Instant; 2],
    guest: Guest,
    permit: Option<RunPermit>,
    waits: Vec<Duration>,
    published: u32,
    began: Option<u64>,
    segments_before: u64,
    filled: Option<u64>,
    /// Pages that the source has sent, when it is over.
    sent: Option<u64>,
}

const SOURCE: usize = 0;
const TARGET: usize = 1;

impl World {
    fn new(case: Case) -> Self {
        let guest = GuestDescription {
            id: GUEST,
            generation: Generation::FIRST,
            name: "waiting".into(),
            layout: RamLayout::new(&[RamRange { first_frame: 0, frames: case.pages.into() }])
                .expect("one range that has pages"),
            vcpus: 1,
            features: Vec::new(),
            tsc_hz: 1_000_000_000,
            configuration: Vec::new(),
        };
        let host = HostCapabilities {
            name: "target".into(),
            incarnation: 1,
            features: Vec::new(),
            tsc_hz: 1_000_000_000,
            tsc_scaling: TscScaling::Unavailable,
            tsc_tolerance_ppm: 0,
            room: Room { ram_bytes: u64::from(case.pages) * PAGE_BYTES as u64, heap_bytes: u64::MAX },
            share: HostShare::default(),
            vcpus_max: 1,
            closed: None,
            post_copy: true,
        };
        let policy = Policy { mode: Mode::PostCopy, ..Policy::default() };
        let config = SourceConfig { migration: MigrationId([2; 16]), guest, policy, purpose: Purpose::Move };
        let ram = |content| Ram { pages: case.pages, present: Vec::new(), content, published: Vec::new() };
        Self {
            case,
            now: 0,
            source: Source::new(config),
            target: Target::new(TargetConfig { host, policy: TargetPolicy::default() }),
            rams: [ram(Vec::new()), ram(vec![[0; PAGE_BYTES]; case.pages as usize])],
            lanes: [Lane::default(), Lane::default()],
            deadlines: [Instant::NEVER; 2],
            guest: Guest::default(),
            permit: Some(RunPermit::for_new_guest(GUEST)),
            waits: Vec::new(),
            published: 0,
            began: None,
            segments_before: 0,
            filled: None,
            sent: None,
        }
    }

    fn input(&mut self, side: usize, input: Input<'_>) {
        let now = Instant::from_nanos(self.now);
        match side {
            SOURCE => self.source.handle_input(now, input, &mut self.rams[SOURCE]),
            _ => self.target.handle_input(now, input, &mut self.rams[TARGET]),
        }
    }

    fn poll(&mut self, side: usize, buffer: &mut [u8]) -> Output {
        let now = Instant::from_nanos(self.now);
        match side {
            SOURCE => self.source.poll_output(now, buffer, &mut self.rams[SOURCE]),
            _ => self.target.poll_output(now, buffer, &mut self.rams[TARGET]),
        }
    }

    fn poll_urgent(&mut self, side: usize, buffer: &mut [u8]) -> usize {
        let now = Instant::from_nanos(self.now);
        match side {
            SOURCE => self.source.poll_urgent(now, buffer, &mut self.rams[SOURCE]),
            _ => self.target.poll_urgent(now, buffer, &mut self.rams[TARGET]),
        }
    }

    /// Does what an engine wants, as the hypervisor does: what is urgent goes before each portion of the rest.
    fn drain(&mut self, side: usize) {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            while self.carry_out(side, &mut []) {}
            loop {
                let len = self.poll_urgent(side, &mut buffer);
                if len == 0 {
                    break;
                }
                self.lanes[side].send(self.now, Channel::URGENT, &buffer[..len], &self.case);
            }
            if !self.carry_out(side, &mut buffer) {
                return;
            }
        }
    }

    fn carry_out(&mut self, side: usize, buffer: &mut [u8]) -> bool {
        match self.poll(side, buffer) {
            Output::Transmit { channel, len } => {
                self.lanes[side].send(self.now, channel, &buffer[..len], &self.case);
            }
            Output::Connect(channel) => self.lanes[side].enter(self.now, 0, Item::Up(channel), &self.case),
            Output::Disconnect(_) | Output::HangUp(_) => {}
            Output::Guest(action) => {
                let event = self.act(action);
                self.input(side, Input::Guest(event));
            }
            Output::Event(Event::Completed(report)) if side == SOURCE => {
                self.sent = Some(report.pages.sent())
            }
            Output::Event(Event::Aborted(reason, _)) => panic!("{reason}"),
            Output::Event(_) => {}
            Output::Timeout(at) => {
                self.deadlines[side] = at;
                return false;
            }
        }
        true
    }

    fn act(&mut self, action: GuestAction) -> GuestEvent {
        match action {
            GuestAction::StartDirtyLog => GuestEvent::DirtyLogStarted,
            GuestAction::HarvestDirtyLog => GuestEvent::DirtyLogHarvested,
            GuestAction::StopDirtyLog => GuestEvent::DirtyLogStopped,
            GuestAction::Throttle(_) => GuestEvent::Throttled,
            GuestAction::Pause => {
                GuestEvent::Paused(self.permit.take().expect("whoever runs the guest has it"))
            }
            GuestAction::SaveState => {
                let (necessity, bytes) = (Necessity::Mandatory, vec![7; 256]);
                GuestEvent::StateSaved(vec![Section { id: 1, instance: 0, version: 1, necessity, bytes }])
            }
            GuestAction::Build(_) => GuestEvent::Built,
            GuestAction::RestoreState(_) => GuestEvent::StateRestored,
            GuestAction::Run(permit) => {
                self.permit = Some(permit);
                self.guest.touches_at = Some(self.now);
                self.began = Some(self.now);
                self.segments_before = self.lanes[TARGET].segments;
                GuestEvent::Running
            }
            GuestAction::Settle => GuestEvent::Settled,
            GuestAction::Discard => GuestEvent::Discarded,
            GuestAction::Forsake => GuestEvent::Forsaken,
        }
    }

    /// The guest touches the next page, and waits for it if it is not there.
    fn touch(&mut self) {
        let Case { pages, stride, .. } = self.case;
        let page = Page((pages / 2).wrapping_add(self.guest.touched.wrapping_mul(stride)) % pages);
        self.guest.touched += 1;
        if self.rams[TARGET].present[page.0 as usize] {
            self.guest.touches_at = Some(self.now + self.case.pace.as_nanos() as u64);
        } else {
            self.guest.touches_at = None;
            self.guest.waits_for = Some((page, self.now));
            self.input(TARGET, Input::Guest(GuestEvent::PageWanted(page)));
        }
    }

    fn end_waits(&mut self) {
        let published = std::mem::take(&mut self.rams[TARGET].published);
        if let Some((page, since)) = self.guest.waits_for
            && published.contains(&page)
        {
            self.guest.waits_for = None;
            self.guest.touches_at = Some(self.now + self.case.pace.as_nanos() as u64);
            self.waits.push(Duration::from_nanos(self.now - since));
        }
        self.published += published.len() as u32;
        if self.published == self.case.pages {
            self.filled.get_or_insert(self.now);
        }
    }

    /// When something happens next.
    fn next_at(&self) -> u64 {
        let arrivals = self.lanes.iter().filter_map(|lane| lane.queue.front().map(|(at, _)| *at));
        let deadlines = self.deadlines.iter().map(|at| at.as_nanos());
        arrivals
            .chain(deadlines)
            .chain(self.guest.touches_at)
            .min()
            .expect("there are two deadlines")
            .max(self.now)
    }

    fn step(&mut self) {
        self.now = self.next_at();
        for side in [SOURCE, TARGET] {
            if self.deadlines[side].as_nanos() <= self.now {
                self.deadlines[side] = Instant::NEVER;
                self.input(side, Input::Timeout);
            }
            let lane = &mut self.lanes[1 - side];
            match lane.queue.pop_front_if(|(at, _)| *at <= self.now) {
                Some((_, Item::Up(channel))) => {
                    self.input(side, Input::LinkUp(channel));
                    if side == TARGET {
                        self.lanes[TARGET].enter(self.now, 0, Item::Up(channel), &self.case);
                    }
                }
                Some((_, Item::Bytes(channel, bytes))) => self.input(side, Input::Bytes(channel, &bytes)),
                None => {}
            }
            if side == TARGET {
                self.end_waits();
                if self.guest.touches_at.is_some_and(|at| at <= self.now) {
                    self.touch();
                }
            }
            self.drain(side);
        }
    }

    fn run(mut self) -> Outcome {
        self.input(SOURCE, Input::Command(Command::Start));
        self.drain(SOURCE);
        while self.sent.is_none() {
            self.step();
        }
        self.waits.sort();
        let filled = self.filled.expect("all pages have come");
        let filling = filled - self.began.expect("the guest has run");
        let segments_back = self.lanes[TARGET].segments - self.segments_before;
        let sent = self.sent.expect("it is over");
        Outcome { waits: self.waits, filling: Duration::from_nanos(filling), segments_back, sent }
    }
}

impl Outcome {
    fn percentile(&self, percent: usize) -> Duration {
        self.waits[(self.waits.len() * percent).div_ceil(100) - 1]
    }
}

const MB: u64 = 1_000_000;

/// Runs a case, and looks at what came of it.
fn check(bytes_per_second: u64, round_trip_us: u64, pages: u32, pace_us: u64) {
    let (round_trip, pace) = (Duration::from_micros(round_trip_us), Duration::from_micros(pace_us));
    let case = Case { bytes_per_second, round_trip, pages, pace, stride: FAR };
    let outcome = World::new(case).run();
    let [half, most, longest] = [50, 99, 100].map(|percent| outcome.percentile(percent));
    let rate = u64::from(pages) * PAGE_BYTES as u64 * MB / outcome.filling.as_micros() as u64;
    let percent = rate * 100 / bytes_per_second;
    let text = format!(
        "{} kB/s, {round_trip:?}: {} waits, half up to {half:.2?}, 99 % up to {most:.2?}, all up to {longest:.2?}; filled in \
         {:.2?}, {percent} % of the rate; {} segments back",
        bytes_per_second / 1000,
        outcome.waits.len(),
        outcome.filling,
        outcome.segments_back,
    );
    println!("{text}");
    // A page's own time on the wire, and what little stands in front of it.
    let page = Duration::from_nanos(4_300 * 1_000_000_000 / bytes_per_second);
    let little = Duration::from_micros(500);
    assert!(half <= round_trip * 5 / 4 + page * 3 + little, "{text}");
    assert!(most <= round_trip * 2 + page * 6 + little, "{text}");
    assert!(percent >= 85, "{text}");
    assert_eq!(outcome.sent, u64::from(pages), "each page goes once: {text}");
    // The way back is not to fill up with what has come.
    assert!(outcome.segments_back <= u64::from(pages) * 5 / 4 + 64, "{text}");
}

#[test]
fn waits_are_short_on_slow_wires() {
    check(MB, 5_200, 3072, 8_000);
    check(MB, 5_200, 3072, 1_000);
    check(MB, 500, 1024, 1_000);
    check(MB, 50_000, 3072, 8_000);
    check(3 * MB, 5_000, 3072, 1_000);
    check(10 * MB, 2_000, 8192, 500);
    check(10 * MB, 20_000, 8192, 1_000);
}

#[test]
fn waits_are_short_on_fast_wires_and_the_wires_are_full() {
    check(50 * MB, 20_000, 32_768, 1_000);
    check(100 * MB, 2_000, 32_768, 100);
    check(100 * MB, 200, 16_384, 100);
    check(1_000 * MB, 200, 32_768, 100);
    check(1_000 * MB, 2_000, 65_536, 100);
}

/// The push goes on behind the page that was wanted last: who goes through its memory from there on has it come ahead.
#[test]
fn what_lies_behind_a_page_that_was_waited_for_comes_next() {
    let (round_trip, pace) = (Duration::from_millis(2), Duration::from_millis(1));
    let case = Case { bytes_per_second: 10 * MB, round_trip, pages: 8192, pace, stride: 1 };
    let outcome = World::new(case).run();
    println!("{} waits", outcome.waits.len());
    assert!((1..=4).contains(&outcome.waits.len()), "{:?}", outcome.waits);
    assert_eq!(outcome.sent, 8192);
}
