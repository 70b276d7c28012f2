//! What a host promises to one migration it gives to no other: memory, its heap, connections.

use alloc::string::ToString;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;

use godwit_migration::wire::opening::OPENING_BYTES;
use godwit_migration::{
    AbortReason, Event, HostShare, Mode, PAGE_BYTES, Phase, Policy, Purpose, Refusal, SpoolEvent,
    SpoolTrouble, Step,
};

use super::super::migrations::{SESSIONS_MAX, TURNED_AWAY_MAX};
use super::super::{Side, StartError, Streams};
use super::fake_guest::PAGES;
use super::strangers::{STRANGER, open};
use super::{Host, PORT, SOURCE, TARGET, World, forge};
use crate::net::stream::State;

const THIRD: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
const MIB: u64 = 1 << 20;
const GUEST_BYTES: u64 = PAGES as u64 * PAGE_BYTES as u64;

impl World {
    /// A second guest at the source, beside `linux`.
    fn with_another() -> Self {
        let mut world = Self::new();
        world.source.house.boot("other");
        world
    }

    /// Both begin to move, and both have connected before the target learns anything about either.
    fn start_both(&mut self) {
        self.net.portion_max = OPENING_BYTES;
        self.start("linux").unwrap();
        self.start("other").unwrap();
        self.until(|world| world.target.views(world.now).len() == 2);
        assert!(self.target.views(self.now).iter().all(|view| view.status.pages_total == 0));
        self.net.portion_max = 64 * 1024;
    }

    /// One of the two moves and the other stays; which.
    #[track_caller]
    fn one_moves(&mut self) -> &'static str {
        self.until_quiet();
        let (moved, refused) =
            if self.source.aborts("linux").is_empty() { ("linux", "other") } else { ("other", "linux") };
        self.assert_moved(moved);
        self.assert_stayed(refused);
        refused
    }

    fn builds(&self) -> usize {
        self.target.house.steps.iter().filter(|step| **step == Step::Build).count()
    }
}

/// The target's only reason.
#[track_caller]
fn refusal(host: &Host, guest: &str) -> Refusal {
    match &host.aborts(guest)[..] {
        [AbortReason::Refused(refusals)] if refusals.len() == 1 => refusals[0].clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_guest_does_not_leave_where_the_heap_cannot_spare_its_tables() {
    let mut world = World::new();
    world.source.poll(world.now, &mut world.net);
    // What is kept for strangers is promised, and less than a session's share is left.
    world.source.house.heap_bytes = world.source.house.promised_bytes + MIB;
    let Err(error @ StartError::Heap { needed_bytes, free_bytes: MIB, .. }) = world.start("linux") else {
        panic!("{}", world.state());
    };
    assert!(needed_bytes > MIB);
    let words = alloc::format!(
        "linux cannot be moved or cloned now: {} KiB of this host's heap needed for tables and connections, 1024 KiB to \
         spare: wait until other moves are over, or stop a guest",
        needed_bytes.div_ceil(1024)
    );
    assert_eq!(error.to_string(), words);
    world.assert_stayed("linux");
    world.assert_nothing_leaks();
    world.source.house.heap_bytes += needed_bytes - MIB;
    world.start("linux").unwrap();
    world.until_quiet();
    world.assert_moved("linux");
}

#[test]
fn a_guest_does_not_leave_on_what_another_was_promised() {
    let mut world = World::with_another();
    world.start("linux").unwrap();
    world.source.poll(world.now, &mut world.net);
    let free = MIB;
    world.source.house.heap_bytes = world.source.house.promised_bytes + free;
    assert!(matches!(world.start("other"), Err(StartError::Heap { free_bytes, .. }) if free_bytes <= free));
    world.assert_stayed("other");
    world.until_quiet();
    world.assert_moved("linux");
}

#[test]
fn a_guest_does_not_come_where_the_heap_cannot_spare_its_tables() {
    let mut world = World::new();
    world.target.house.share = HostShare { bytes: 64 * MIB, ..HostShare::default() };
    world.target.house.heap_bytes = 60 * MIB;
    world.start("linux").unwrap();
    world.until_quiet();
    world.assert_stayed("linux");
    let refusal = refusal(&world.source, "linux");
    assert!(matches!(refusal, Refusal::Heap { needed_bytes, free_bytes }
        if needed_bytes > 64 * MIB && free_bytes < 60 * MIB));
    assert!(refusal.to_string().contains("stop a guest there"), "{refusal}");
    assert_eq!(world.builds(), 0);
    world.target.house.heap_bytes = 80 * MIB;
    world.start("linux").unwrap();
    world.until_quiet();
    world.assert_moved("linux");
}

#[test]
fn a_host_without_any_heap_to_spare_still_says_so() {
    let mut world = World::new();
    world.target.house.heap_bytes = 0;
    world.start("linux").unwrap();
    world.until_quiet();
    world.assert_stayed("linux");
    assert!(matches!(refusal(&world.source, "linux"), Refusal::Heap { free_bytes: 0, .. }));
    // And no more than a few are told at one time: each takes some heap itself.
    let streams = open(&mut world, SESSIONS_MAX);
    assert_eq!(world.target.views(world.now).len(), TURNED_AWAY_MAX);
    streams.into_iter().for_each(|stream| world.net.at(STRANGER).abort(stream));
    world.until_quiet();
}

#[test]
fn two_guests_that_come_at_one_moment_are_not_promised_the_same_memory() {
    let mut world = World::with_another();
    world.target.house.ram_bytes = GUEST_BYTES * 3 / 2;
    world.start_both();
    let refused = world.one_moves();
    let memory = Refusal::Memory { needed_bytes: GUEST_BYTES, free_bytes: GUEST_BYTES / 2 };
    assert_eq!(refusal(&world.source, refused), memory);
    assert_eq!(world.builds(), 1, "the other is refused before anything is built");
}

#[test]
fn two_guests_that_come_at_one_moment_are_not_promised_the_same_heap() {
    let mut world = World::with_another();
    world.target.house.share = HostShare { bytes: 64 * MIB, ..HostShare::default() };
    world.target.house.heap_bytes = 100 * MIB;
    world.start_both();
    let refused = world.one_moves();
    let Refusal::Heap { free_bytes, .. } = refusal(&world.source, refused) else {
        panic!("{}", world.state());
    };
    assert!(free_bytes < 36 * MIB);
    assert_eq!(world.builds(), 1);
}

#[test]
fn what_was_promised_is_free_again_when_the_connection_is_lost_before_the_guest_is_built() {
    let mut world = World::with_another();
    (world.target.house.ram_bytes, world.target.house.heap_bytes) = (GUEST_BYTES * 3 / 2, 8 * MIB);
    world.poll_target();
    let before = world.target.house.promised_bytes;
    world.start_until(Phase::Negotiating);
    world.until(|world| world.phase(Side::Target) == Some(Phase::Building));
    assert!(world.target.house.promised_bytes > before);
    world.net.cut();
    world.until(|world| world.target.views(world.now).is_empty());
    world.mend();
    world.until_quiet();
    assert_eq!(world.target.house.promised_bytes, before);
    world.start("other").unwrap();
    world.until_quiet();
    world.assert_moved("other");
}

/// Its memory is taken at once and cleared for seconds; its devices and processors are made behind that.
#[test]
fn what_a_machine_takes_of_the_heap_is_promised_until_it_is_built() {
    let mut world = World::new();
    world.target.house.share = HostShare { bytes: 64 * MIB, ..HostShare::default() };
    world.target.house.builds = true;
    world.start_until(Phase::Negotiating);
    world.until(|world| world.phase(Side::Target) == Some(Phase::Building));
    world.pass(Duration::from_millis(100));
    assert!(world.target.house.promised_bytes > 64 * MIB);
    world.target.house.builds = false;
    world.until_quiet();
    world.assert_moved("linux");
    assert!(world.target.house.promised_bytes < 64 * MIB);
}

#[test]
fn pages_are_not_kept_where_the_heap_cannot_spare_their_sets() {
    let mut trio = Trio::new();
    trio.third.house.heap_bytes = 0;
    trio.start("linux");
    trio.until(|trio| trio.refusal().is_some());
    assert!(matches!(trio.refusal(), Some(Refusal::Heap { free_bytes: 0, .. })), "{:?}", trio.refusal());
}

#[test]
fn pages_are_not_kept_where_others_were_promised_the_memory_and_have_not_come() {
    let mut trio = Trio::new();
    trio.world.source.house.boot("other");
    trio.third.house.ram_bytes = GUEST_BYTES * 3 / 2;
    trio.start("linux");
    trio.start("other");
    trio.until(|trio| trio.refusal().is_some());
    let refusal = trio.refusal();
    let Some(Refusal::Memory { free_bytes, .. }) = refusal else { panic!("{refusal:?}") };
    assert!(free_bytes < GUEST_BYTES, "{free_bytes}");
}

/// A third host beside the two.
struct Trio {
    world: World,
    third: Host,
}

impl Trio {
    fn new() -> Self {
        let mut world = World::new();
        world.net.portion_max = 512;
        world.net.listen(THIRD, PORT);
        Self { world, third: Host::new(THIRD, 3) }
    }

    /// `guest` begins to move, and what goes after the switch goes to the third host, too.
    fn start(&mut self, guest: &str) {
        let to = ("b", SocketAddrV4::new(TARGET, PORT));
        let policy = Policy { mode: Mode::PostCopy, ..Policy::default() };
        let spool = Some(("c", SocketAddrV4::new(THIRD, PORT)));
        let (now, source) = (self.world.now, &mut self.world.source);
        source.migrations.start(now, &mut source.house, guest, to, (policy, Purpose::Move), spool).unwrap();
    }

    fn tick(&mut self) {
        self.world.tick();
        self.third.poll(self.world.now, &mut self.world.net);
    }

    #[track_caller]
    fn until(&mut self, is_there: impl Fn(&Self) -> bool) {
        for _ in 0..super::TICKS_MAX {
            if is_there(self) {
                return;
            }
            self.tick();
        }
        panic!("it never came to that: {}; third: {:#?}", self.world.state(), self.third.told);
    }

    /// Why the third host does not keep pages, as the source was told.
    fn refusal(&self) -> Option<Refusal> {
        let events = ["linux", "other"].into_iter().flat_map(|guest| self.world.source.events(guest));
        let mut refusals = events.filter_map(|event| match event {
            Event::Spool(SpoolEvent::Unavailable(SpoolTrouble::Refused(refusals))) => {
                refusals.first().cloned()
            }
            _ => None,
        });
        refusals.next()
    }
}

/// Strangers take all places that there are, and come again whenever one is taken from them.
#[test]
fn a_guest_finds_its_memory_again_whoever_else_knocks() {
    let mut world = World::new();
    *world.source.migrations.policy_mut() = Policy { mode: Mode::PostCopy, ..Policy::default() };
    world.net.portion_max = 512;
    world.start("linux").unwrap();
    world.until(|world| world.phase(Side::Source) == Some(Phase::PostCopy));
    world.pass(Duration::from_millis(20));
    world.net.cut();
    // The source asks seldom by now.
    world.pass(Duration::from_secs(20));
    world.mend();
    let to = SocketAddrV4::new(TARGET, PORT);
    let opened = open(&mut world, SESSIONS_MAX + TURNED_AWAY_MAX);
    let mut idle: Vec<_> = (0..12).map(|_| world.net.at(STRANGER).connect(to).unwrap()).collect();
    assert_eq!(world.phase(Side::Target), Some(Phase::Recovering), "the source has not come yet");
    let mut spent = Duration::ZERO;
    while world.phase(Side::Target) == Some(Phase::Recovering) {
        world.pass(Duration::from_millis(20));
        spent += Duration::from_millis(20);
        for stream in &mut idle {
            if !matches!(world.net.at(STRANGER).state(*stream), Ok(State::Connecting | State::Open)) {
                world.net.at(STRANGER).abort(*stream);
                *stream = world.net.at(STRANGER).connect(to).unwrap();
            }
        }
        // It asks at least every five seconds, and has at most a dozen before it then, of which four go each second.
        assert!(spent < Duration::from_secs(10), "{}", world.state());
    }
    opened.into_iter().chain(idle).for_each(|stream| world.net.at(STRANGER).abort(stream));
    world.until_quiet();
    assert_eq!(world.source.completed("linux"), 1);
}

/// The target was restarted and knows nothing; strangers have taken all of its places for guests, and for telling why there is
/// none.
#[test]
fn a_source_that_asks_what_became_of_its_guest_is_answered_whoever_else_has_come() {
    let mut world = World::new();
    *world.source.migrations.policy_mut() = Policy { mode: Mode::PostCopy, ..Policy::default() };
    world.net.portion_max = 512;
    world.start("linux").unwrap();
    world.until(|world| world.phase(Side::Source) == Some(Phase::PostCopy));
    world.net.cut();
    world.target = Host::new(TARGET, 9);
    world.pass(Duration::from_secs(20));
    world.mend();
    let opened = open(&mut world, SESSIONS_MAX + TURNED_AWAY_MAX);
    assert_eq!(world.target.views(world.now).len(), SESSIONS_MAX + TURNED_AWAY_MAX);
    world.pass(Duration::from_secs(6));
    assert_eq!(world.target.views(world.now).len(), SESSIONS_MAX + TURNED_AWAY_MAX, "they are still there");
    assert!(world.source.events("linux").any(|event| *event == Event::TargetLost), "{}", world.state());
    opened.into_iter().for_each(|stream| world.net.at(STRANGER).abort(stream));
}

#[test]
fn all_that_may_be_under_way_at_one_time_has_its_connections() {
    let mut trio = Trio::new();
    let world = &mut trio.world;
    *world.source.migrations.policy_mut() = Policy { mode: Mode::PostCopy, ..Policy::default() };
    world.net.portion_max = 512;
    let strangers: Vec<_> = (0..SESSIONS_MAX as u8 + 20)
        .map(|number| {
            let stream = world.net.at(STRANGER).connect(SocketAddrV4::new(SOURCE, PORT)).unwrap();
            world.pass(Duration::from_millis(5));
            if number < 20 {
                world.net.at(STRANGER).send(stream, &forge::opening_of(100 + number, 1, 1)).unwrap();
                world.pass(Duration::from_millis(20));
            }
            stream
        })
        .collect();
    for number in 0..SESSIONS_MAX {
        let guest = alloc::format!("guest{number}");
        trio.world.source.house.boot(&guest);
        trio.start(&guest);
    }
    let mut most = 0;
    for _ in 0..3000 {
        trio.tick();
        most = most.max(trio.world.net.in_use(SOURCE));
    }
    strangers.into_iter().for_each(|stream| trio.world.net.at(STRANGER).abort(stream));
    // Two for each guest, one for each of four that the third host keeps pages of, one for each stranger that has a place.
    assert!(most >= 2 * SESSIONS_MAX + 4 + SESSIONS_MAX, "{most} connections");
    for number in 0..SESSIONS_MAX {
        let guest = alloc::format!("guest{number}");
        let kept_off = |event: &&Event| match event {
            Event::Spool(SpoolEvent::Unavailable(why)) => !matches!(why, SpoolTrouble::Refused(_)),
            event => matches!(event, Event::Aborted(..)),
        };
        assert_eq!(trio.world.source.events(&guest).find(kept_off), None, "{guest}");
    }
}
