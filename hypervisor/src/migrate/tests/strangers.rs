//! Connections that are not what they should be.

use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;

use godwit_migration::{AbortReason, Instant, Refusal};

use super::super::migrations::{SESSIONS_MAX, TURNED_AWAY_MAX};
use super::super::{Streams, Wakeup};
use super::{PORT, TARGET, World, forge};
use crate::net::stream::{Error, Received, State, StreamId};

/// A host that is no Godwit.
pub(super) const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 66);
/// Connections that may be undecided at one time.
const WAITING_MAX: usize = 4;

impl World {
    /// Connects to the target's port as a stranger.
    pub(super) fn knock(&mut self) -> StreamId {
        let stream = self.net.at(STRANGER).connect(SocketAddrV4::new(TARGET, PORT)).unwrap();
        self.pass(Duration::from_millis(5));
        assert_eq!(self.net.at(STRANGER).state(stream), Ok(State::Open));
        stream
    }

    pub(super) fn say(&mut self, stream: StreamId, bytes: &[u8]) {
        assert_eq!(self.net.at(STRANGER).send(stream, bytes), Ok(bytes.len()));
        self.pass(Duration::from_millis(50));
    }

    /// What the stranger has been told so far.
    pub(super) fn hear(&mut self, stream: StreamId) -> Vec<u8> {
        let (mut heard, mut bytes) = (Vec::new(), [0; 512]);
        while let Ok(Received::Bytes(count @ 1..)) = self.net.at(STRANGER).receive(stream, &mut bytes) {
            heard.extend_from_slice(&bytes[..count]);
        }
        heard
    }

    /// Nothing has come of it but a line for people.
    #[track_caller]
    fn assert_stranger(&mut self, stream: StreamId, why: &str) {
        assert_eq!(self.target.strangers(), [why]);
        assert_eq!(self.target.told.len(), 1);
        assert!(self.target.views(self.now).is_empty());
        assert_eq!((self.target.house.places(), self.target.house.steps.len()), (0, 0));
        assert_eq!(self.net.at(STRANGER).state(stream), Ok(State::Failed(Error::Reset)));
        self.net.at(STRANGER).abort(stream);
        self.assert_nothing_leaks();
        self.start("linux").unwrap();
        self.until_quiet();
        self.assert_moved("linux");
    }
}

#[test]
fn garbage_is_a_stranger() {
    let mut world = World::new();
    let stream = world.knock();
    world.say(stream, &[0xa5; 200]);
    world.assert_stranger(stream, "it is not a migration stream");
}

#[test]
fn a_browser_is_a_stranger() {
    let mut world = World::new();
    let stream = world.knock();
    world.say(
        stream,
        b"GET / HTTP/1.1\r\nHost: 10.0.0.2:7100\r\nUser-Agent: Mozilla/5.0\r\nAccept: */*\r\n\r\n",
    );
    world.assert_stranger(stream, "it is not a migration stream");
}

#[test]
fn a_damaged_opening_is_a_stranger() {
    let mut world = World::new();
    let stream = world.knock();
    let mut opening = forge::opening(1, 1);
    opening[20] ^= 1;
    world.say(stream, &opening);
    world.assert_stranger(stream, "a checksum is wrong");
}

#[test]
fn who_says_nothing_is_a_stranger_after_a_while() {
    for said in [&b""[..], b"GET / HTTP/1.0\r\n\r\n", &forge::opening(1, 1)[..63]] {
        let mut world = World::new();
        let stream = world.knock();
        world.say(stream, said);
        assert!(matches!(world.target.wakeup, Wakeup::At(at) if at < Instant::NEVER), "patience has an end");
        world.pass(Duration::from_secs(9));
        assert!(world.target.strangers().is_empty());
        world.pass(Duration::from_secs(1));
        world.assert_stranger(stream, "it did not say in time what it is about");
    }
}

#[test]
fn who_hangs_up_before_the_opening_is_a_stranger() {
    let mut world = World::new();
    let stream = world.knock();
    world.say(stream, b"Godwit");
    world.net.at(STRANGER).close(stream);
    world.pass(Duration::from_millis(20));
    assert_eq!(world.target.strangers(), ["the connection ended before it said what it is about"]);
    world.assert_nothing_leaks();
}

#[test]
fn strangers_in_any_number_use_few_connections_and_keep_no_guest_away_for_long() {
    let mut world = World::new();
    let to = SocketAddrV4::new(TARGET, PORT);
    let silent: Vec<_> = (0..20).map(|_| world.net.at(STRANGER).connect(to).unwrap()).collect();
    world.start("linux").unwrap();
    let mut most = 0;
    for _ in 0..600 {
        world.pass(Duration::from_millis(100));
        most = most.max(world.net.in_use(TARGET));
    }
    assert_eq!(most, WAITING_MAX);
    assert_eq!(world.target.strangers().len(), silent.len());
    silent.into_iter().for_each(|stream| world.net.at(STRANGER).abort(stream));
    world.until_quiet();
}

#[test]
fn who_has_most_places_gives_one_up_and_only_if_it_is_wanted() {
    let mut world = World::new();
    let other = Ipv4Addr::new(10, 0, 0, 67);
    let alone = world.net.at(other).connect(SocketAddrV4::new(TARGET, PORT)).unwrap();
    world.pass(Duration::from_millis(5));
    let many = [0; WAITING_MAX - 1].map(|_| world.knock());
    world.pass(Duration::from_secs(5));
    assert!(world.target.strangers().is_empty(), "nobody else wants a place");
    let last = world.knock();
    assert_eq!(world.target.strangers(), ["it did not say in time what it is about"]);
    assert_eq!(world.net.at(STRANGER).state(many[0]), Ok(State::Failed(Error::Reset)));
    let open = Ok(State::Open);
    assert_eq!((world.net.at(other).state(alone), world.net.at(STRANGER).state(many[1])), (open, open));
    // A newcomer has its second: none of the others is younger than that by now, and one gives way for each.
    let _ = (last, world.knock());
    assert_eq!(world.net.at(STRANGER).state(many[1]), Ok(State::Failed(Error::Reset)));
    assert_eq!(world.net.at(STRANGER).state(last), open);
}

#[test]
fn an_opening_with_nothing_behind_it_takes_no_place_for_good() {
    let mut world = World::new();
    for number in 0..SESSIONS_MAX as u8 + 2 {
        let stream = world.knock();
        world.say(stream, &forge::opening_of(number, 1, 1));
        match number % 2 {
            0 => world.net.at(STRANGER).close(stream),
            _ => world.net.at(STRANGER).abort(stream),
        }
        world.pass(Duration::from_millis(20));
    }
    assert_eq!(world.target.aborts("").len(), SESSIONS_MAX + 2);
    assert!(world.target.aborts("").iter().all(|reason| *reason == AbortReason::LinkLost));
    world.assert_nothing_leaks();
}

#[test]
fn a_connection_that_is_lost_together_with_its_opening_takes_no_place() {
    let mut world = World::new();
    for number in 0..SESSIONS_MAX as u8 + 2 {
        let stream = world.knock();
        world.net.at(STRANGER).send(stream, &forge::opening_of(number, 1, 1)).unwrap();
        // All of it arrives, then the reset, before the target looks.
        (0..200).for_each(|_| world.net.deliver(world.now));
        world.net.at(STRANGER).abort(stream);
        (0..3).for_each(|_| world.net.deliver(world.now));
        world.pass(Duration::from_millis(50));
    }
    assert!(world.target.views(world.now).is_empty(), "{}", world.state());
    world.assert_nothing_leaks();
    world.start("linux").unwrap();
    world.until_quiet();
    world.assert_moved("linux");
}

#[test]
fn who_opens_a_migration_and_then_falls_silent_is_given_up() {
    let mut world = World::new();
    let stream = world.knock();
    world.say(stream, &forge::opening(1, 1));
    assert_eq!(world.target.views(world.now).len(), 1);
    world.pass(Duration::from_secs(45));
    assert!(world.target.views(world.now).is_empty());
    assert!(matches!(world.target.aborts("")[..], [AbortReason::PeerSilent(_)]));
    world.net.at(STRANGER).abort(stream);
    world.assert_nothing_leaks();
}

#[test]
fn a_guest_for_which_there_is_no_place_is_turned_away_with_the_reason() {
    let mut world = World::new();
    let streams = open(&mut world, SESSIONS_MAX);
    world.start("linux").unwrap();
    world.until(|world| world.source.views(world.now).is_empty());
    world.assert_stayed("linux");
    assert_eq!(world.source.aborts("linux"), [AbortReason::Refused([Refusal::Busy].into())]);
    streams.into_iter().for_each(|stream| world.net.at(STRANGER).abort(stream));
    world.until_quiet();
    world.start("linux").unwrap();
    world.until_quiet();
    world.assert_moved("linux");
}

#[test]
fn arrivals_that_only_open_are_cut_off_beyond_a_bound() {
    let mut world = World::new();
    let streams = open(&mut world, SESSIONS_MAX + TURNED_AWAY_MAX + 1);
    assert_eq!(world.target.views(world.now).len(), SESSIONS_MAX + TURNED_AWAY_MAX);
    let last = *streams.last().unwrap();
    assert_eq!(world.net.at(STRANGER).state(last), Ok(State::Failed(Error::Reset)));
    streams.into_iter().for_each(|stream| world.net.at(STRANGER).abort(stream));
    world.until_quiet();
}

/// So many connections that open the migration of a guest each, and say nothing more.
pub(super) fn open(world: &mut World, count: usize) -> Vec<StreamId> {
    // Not the numbers that the hosts of this world give to theirs.
    let numbers = 100..100 + u8::try_from(count).unwrap();
    let open = |number| {
        let stream = world.knock();
        world.say(stream, &forge::opening_of(number, 1, 1));
        stream
    };
    numbers.map(open).collect()
}

#[test]
fn a_host_that_takes_no_guests_answers_nobody() {
    let mut world = World::new();
    let settings = super::Settings { port: None, ..*world.target.migrations.settings() };
    world.target.migrations = super::Migrations::new(settings);
    let stream = world.knock();
    world.say(stream, &forge::opening(1, 1));
    world.pass(Duration::from_secs(20));
    assert!(world.target.told.is_empty() && world.hear(stream).is_empty());
}
