//! The urgent channel of a session: a connection of its own, which waits for nothing. The engine is a script.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::net::SocketAddrV4;

use godwit_migration::{
    Channel, Command, GuestAction, GuestId, GuestRam, Input, Instant, MigrationId, Output, Page, PageBitmap,
    Purpose, RunPermit, Source, SourceConfig, Status,
};

use super::super::engine::Engine;
use super::super::session::Session;
use super::super::{GuestHouse, Lodging, Streams, Wakeup};
use super::fake_guest::{Key, PAGES};
use super::fake_house::House;
use super::fake_streams::Net;
use super::{PORT, SOURCE, TARGET, TICK, World, forge};
use crate::net::stream::{Error, Received, State, StreamId};

/// What the engine is to do, and what it was told.
#[derive(Debug, Default)]
struct Script {
    outputs: VecDeque<Output>,
    urgent: VecDeque<&'static [u8]>,
    /// Bulk has no end.
    has_bulk: bool,
    is_finished: bool,
    is_after_switch: bool,
    told: Vec<String>,
    received: [Vec<u8>; 2],
    /// Calls in their order.
    asked: Vec<&'static str>,
}

#[derive(Clone, Debug, Default)]
struct Scripted(Rc<RefCell<Script>>);

impl Engine for Scripted {
    fn heeds(&self, _command: Command) -> bool {
        false
    }
    fn handle_input(&mut self, _now: Instant, input: Input<'_>, _ram: &mut dyn GuestRam) {
        let mut script = self.0.borrow_mut();
        match input {
            Input::Bytes(channel, bytes) => script.received[usize::from(channel.0)].extend(bytes),
            Input::Timeout => {}
            other => script.told.push(alloc::format!("{other:?}")),
        }
    }

    fn poll_output(&mut self, _now: Instant, buffer: &mut [u8], _ram: &mut dyn GuestRam) -> Output {
        let mut script = self.0.borrow_mut();
        if let Some(output) = script.outputs.pop_front() {
            return output;
        }
        if script.has_bulk && !buffer.is_empty() {
            script.asked.push("bulk");
            buffer.fill(b'b');
            return Output::Transmit { channel: Channel::MAIN, len: buffer.len() };
        }
        Output::Timeout(Instant::NEVER)
    }

    fn poll_urgent(&mut self, _now: Instant, buffer: &mut [u8], _ram: &mut dyn GuestRam) -> usize {
        let mut script = self.0.borrow_mut();
        script.asked.push("urgent");
        let Some(bytes) = script.urgent.pop_front() else { return 0 };
        buffer[..bytes.len()].copy_from_slice(bytes);
        bytes.len()
    }

    fn poll_spool(&mut self, _now: Instant, _buffer: &mut [u8], _ram: &mut dyn GuestRam) -> usize {
        0
    }

    fn is_urgent(&self) -> bool {
        false
    }

    fn is_after_switch(&self) -> bool {
        self.0.borrow().is_after_switch
    }

    fn status(&self, now: Instant) -> Status {
        // Whatever: nobody looks.
        let (_, guest) = house().leaving("linux", &Purpose::Move).unwrap();
        let config = SourceConfig {
            migration: MigrationId([1; 16]),
            guest,
            policy: Default::default(),
            purpose: Purpose::Move,
        };
        Source::new(config).status(now)
    }

    fn is_finished(&self) -> bool {
        self.0.borrow().is_finished
    }

    fn heap_owed(&self) -> u64 {
        0
    }
    fn take_permit(&mut self) -> Option<RunPermit> {
        None
    }
}

fn house() -> House {
    let mut house = House::new(1);
    house.boot("linux");
    house
}

/// A session that connects, and its peer at the other end of the network, who is the test.
struct Room {
    now: Instant,
    net: Net,
    house: House,
    key: Key,
    session: Session<Scripted, Key>,
    engine: Scripted,
    peers: Vec<StreamId>,
}

impl Room {
    /// Both channels stand, the main one first.
    fn connected() -> Self {
        let mut room = Self::new(Some(SocketAddrV4::new(TARGET, PORT)));
        for channel in [Channel::MAIN, Channel::URGENT] {
            room.engine.0.borrow_mut().outputs.push_back(Output::Connect(channel));
            room.run(4);
        }
        assert_eq!(room.told(), ["LinkUp(Channel(0))", "LinkUp(Channel(1))"]);
        assert_eq!((room.net.made(SOURCE), room.peers.len()), (2, 2));
        room
    }

    fn new(address: Option<SocketAddrV4>) -> Self {
        let mut net = Net::new();
        net.listen(TARGET, PORT);
        let (mut house, engine) = (house(), Scripted::default());
        let (key, _) = house.leaving("linux", &Purpose::Move).unwrap();
        let names = (MigrationId([1; 16]), GuestId([2; 16]));
        let session = Session::new(engine.clone(), key, names, "b".to_string(), address);
        Self { now: Instant::ORIGIN.after(TICK), net, house, key, session, engine, peers: Vec::new() }
    }

    fn run(&mut self, ticks: usize) -> Wakeup {
        let mut wakeup = Wakeup::Now;
        for _ in 0..ticks {
            self.now = self.now.after(TICK);
            self.net.deliver(self.now);
            while let Some(accepted) = self.net.at(TARGET).accept(PORT) {
                self.peers.push(accepted.stream);
            }
            wakeup = self.session.poll(self.now, &mut self.net.at(SOURCE), &mut self.house);
        }
        wakeup
    }

    fn told(&self) -> Vec<String> {
        core::mem::take(&mut self.engine.0.borrow_mut().told)
    }

    /// What the peer of a channel has got.
    fn heard(&mut self, channel: Channel) -> Vec<u8> {
        let (mut heard, mut bytes) = (Vec::new(), [0; 4096]);
        let stream = self.peers[usize::from(channel.0)];
        while let Ok(Received::Bytes(count @ 1..)) = self.net.at(TARGET).receive(stream, &mut bytes) {
            heard.extend_from_slice(&bytes[..count]);
        }
        heard
    }

    fn wants(&self, output: Output) {
        self.engine.0.borrow_mut().outputs.push_back(output);
    }

    /// The guest touches a page that has not come.
    fn touch(&mut self, page: Page) {
        let mut absent = PageBitmap::empty(PAGES);
        absent.insert(page);
        self.house.ram(self.key).set_absent(&absent).unwrap();
        assert!(!self.house.get("linux").ram.as_mut().unwrap().guest_touches(page));
    }
}

#[test]
fn each_channel_has_a_connection_of_its_own() {
    let mut room = Room::connected();
    room.engine.0.borrow_mut().urgent.extend([&b"page 7"[..], b", page 9"]);
    for (peer, bytes) in [(0, &b"main"[..]), (1, b"urgent")] {
        let stream = room.peers[peer];
        room.net.at(TARGET).send(stream, bytes).unwrap();
    }
    room.run(40);
    assert_eq!(room.heard(Channel::URGENT), b"page 7, page 9");
    assert!(room.heard(Channel::MAIN).is_empty());
    assert_eq!(room.engine.0.borrow().received, [b"main".to_vec(), b"urgent".to_vec()]);
}

#[test]
fn what_is_urgent_does_not_wait_for_bulk_that_nobody_takes() {
    let mut room = Room::connected();
    room.net.window = 1000;
    room.engine.0.borrow_mut().has_bulk = true;
    room.run(50);
    let asked = core::mem::take(&mut room.engine.0.borrow_mut().asked);
    let first_bulk = asked.iter().position(|it| *it == "bulk").unwrap();
    assert!(asked[..first_bulk].contains(&"urgent"), "it is asked for first");
    assert_eq!(asked.iter().filter(|it| **it == "bulk").count(), 1, "the network takes no more");
    room.engine.0.borrow_mut().urgent.push_back(b"page 7");
    room.run(10);
    assert_eq!(room.heard(Channel::URGENT), b"page 7");
    let stream = room.peers[1];
    room.net.at(TARGET).send(stream, b"wanted: 8").unwrap();
    room.run(40);
    assert_eq!(room.engine.0.borrow().received[1], b"wanted: 8");
}

#[test]
fn between_portions_of_bulk_what_is_urgent_is_looked_for() {
    let mut room = Room::connected();
    room.net.window = 1 << 30;
    room.engine.0.borrow_mut().has_bulk = true;
    assert_eq!(room.run(1), Wakeup::Now);
    let asked = core::mem::take(&mut room.engine.0.borrow_mut().asked);
    assert!(asked.len() > 8);
    assert!(!asked.windows(2).any(|pair| pair == ["bulk", "bulk"]), "{asked:?}");
}

#[test]
fn the_network_is_looked_at_sooner_while_a_page_may_be_waited_for() {
    let bulk = |is_after_switch| {
        let mut room = Room::connected();
        room.net.window = 1 << 30;
        room.engine.0.borrow_mut().has_bulk = true;
        room.engine.0.borrow_mut().is_after_switch = is_after_switch;
        assert_eq!(room.run(1), Wakeup::Now);
        room.engine.0.borrow().asked.iter().filter(|it| **it == "bulk").count()
    };
    assert_eq!((bulk(false), bulk(true)), (16, 4));
}

#[test]
fn bytes_that_are_urgent_wait_only_for_their_own_connection() {
    let mut room = Room::connected();
    room.net.window = 4;
    room.engine.0.borrow_mut().urgent.extend([&b"a page"[..], b" and one more"]);
    room.run(1);
    assert_eq!(
        room.engine.0.borrow().urgent.len(),
        1,
        "the second is not produced before the first is taken"
    );
    let mut heard = Vec::new();
    for _ in 0..200 {
        room.run(1);
        heard.extend(room.heard(Channel::URGENT));
    }
    assert_eq!(heard, b"a page and one more");
}

#[test]
fn one_channel_is_lost_and_made_again_while_the_other_stays() {
    let mut room = Room::connected();
    let urgent = room.peers[1];
    room.net.at(TARGET).abort(urgent);
    room.run(5);
    assert_eq!(room.told(), ["LinkDown(Channel(1))"]);
    assert_eq!(room.net.in_use(SOURCE), 1);
    room.wants(Output::Connect(Channel::URGENT));
    room.run(5);
    assert_eq!(room.told(), ["LinkUp(Channel(1))"]);
    room.wants(Output::HangUp(Channel::MAIN));
    room.run(5);
    let main = room.peers[0];
    assert_eq!(room.net.at(TARGET).state(main), Ok(State::Failed(Error::Reset)));
    assert_eq!(room.told(), [""; 0], "what we hang up is no loss");
    room.engine.0.borrow_mut().urgent.push_back(b"still here");
    room.run(5);
    room.peers.swap_remove(1);
    assert_eq!(room.heard(Channel::URGENT), b"still here");
}

#[test]
fn a_channel_that_cannot_be_made_is_told() {
    let mut room = Room::new(None);
    room.wants(Output::Connect(Channel::URGENT));
    room.run(1);
    assert_eq!(room.told(), ["LinkDown(Channel(1))"]);
}

#[test]
fn a_session_is_over_when_both_channels_are_closed() {
    let mut room = Room::connected();
    room.engine.0.borrow_mut().urgent.push_back(b"goodbye");
    room.wants(Output::Disconnect(Channel::URGENT));
    room.run(2);
    assert_eq!(room.net.in_use(SOURCE), 1);
    room.engine.0.borrow_mut().is_finished = true;
    assert!(!room.session.is_finished());
    room.run(2);
    assert!(room.session.is_finished());
    assert_eq!(room.net.in_use(SOURCE), 0);
}

#[test]
fn a_page_that_is_wanted_is_no_answer_to_a_step() {
    let mut room = Room::connected();
    room.wants(Output::Guest(GuestAction::Throttle(1)));
    room.run(1);
    room.touch(Page(8));
    room.wants(Output::Guest(GuestAction::Throttle(2)));
    room.run(5);
    let told = room.told();
    assert_eq!((told[0].as_str(), told[2].as_str()), ("Guest(PageWanted(Page(8)))", "Guest(Throttled)"));
    assert!(told[1].contains("two steps at once"), "the first is not answered yet: {told:?}");
    room.wants(Output::Guest(GuestAction::Throttle(3)));
    room.run(4);
    assert_eq!(room.told(), ["Guest(Throttled)"]);
}

#[test]
fn while_a_guest_waits_for_a_page_the_network_is_polled() {
    let mut room = Room::connected();
    assert_eq!(room.run(2), Wakeup::At(Instant::NEVER));
    room.touch(Page(7));
    assert_eq!(room.run(2), Wakeup::Now);
    assert_eq!(room.told(), ["Guest(PageWanted(Page(7)))"], "told once");
    room.house.ram(room.key).publish(Page(7));
    assert_eq!(room.run(2), Wakeup::At(Instant::NEVER));
    room.touch(Page(8));
    let urgent = room.peers[1];
    room.net.at(TARGET).abort(urgent);
    assert_eq!(room.run(5), Wakeup::At(Instant::NEVER), "not while nothing can come");
}

#[test]
fn an_urgent_channel_of_no_migration_is_hung_up() {
    let mut world = World::new();
    let stream = world.knock();
    world.say(stream, &forge::urgent_opening_of(0xee));
    let stranger = super::strangers::STRANGER;
    assert_eq!(world.net.at(stranger).state(stream), Ok(State::Failed(Error::Reset)));
    world.net.at(stranger).abort(stream);
    assert!(world.target.views(world.now).is_empty() && world.target.told.is_empty());
    world.assert_nothing_leaks();
}

#[test]
fn an_urgent_channel_goes_to_its_migration_and_leaves_the_main_one_alone() {
    let mut world = World::new();
    let main = world.knock();
    world.say(main, &forge::opening_of(0xee, 1, 99));
    let urgent = world.knock();
    let stranger = super::strangers::STRANGER;
    world.net.at(stranger).send(urgent, &forge::urgent_opening_of(0xee)).unwrap();
    world.pass(TICK * 5);
    assert_eq!(world.target.views(world.now).len(), 1, "no second migration");
    assert_ne!(world.net.at(stranger).state(main), Ok(State::Failed(Error::Reset)));
    assert_eq!(world.net.in_use(TARGET), 2);
}
