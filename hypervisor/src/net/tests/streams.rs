//! Streams: transfer, loss, failures by name, several at once.

use alloc::{vec, vec::Vec};
use core::{net::SocketAddrV4, time::Duration};

use super::{
    super::{
        Network,
        stream::{BACKLOG_MAX, CLOSING_MAX, Error, LISTENERS_MAX, Received, STREAMS_MAX, State, StreamId},
    },
    B, World,
    wire::Wire,
};
use crate::drivers::net::TcpOffload;

const PORT: u16 = 7100;
const SECOND: Duration = Duration::from_secs(1);

fn target() -> SocketAddrV4 {
    SocketAddrV4::new(B, PORT)
}

fn pair(world: &mut World) -> (StreamId, StreamId) {
    world
        .b
        .listen(PORT)
        .or_else(|error| if error == Error::PortInUse { Ok(()) } else { Err(error) })
        .unwrap();
    let ours = world.a.connect(target()).unwrap();
    let mut theirs = None;
    world.until(SECOND * 5, |world| {
        theirs = theirs.or_else(|| world.b.accept(PORT));
        theirs.is_some()
    });
    assert!(world.until(SECOND, |world| world.a.stream_state(ours) == Ok(State::Open)));
    (ours, theirs.unwrap().stream)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect()
}

fn drain(network: &mut Network, id: StreamId, into: &mut Vec<u8>) -> bool {
    let mut buffer = vec![0; 10_000];
    loop {
        match network.receive(id, &mut buffer).unwrap() {
            Received::Bytes(0) => return false,
            Received::Bytes(count) => into.extend(&buffer[..count]),
            Received::End => return true,
        }
    }
}

/// Sends `length` bytes one way and checks them at the other end; returns the frames that passed.
fn transfer(world: &mut World, length: usize) -> usize {
    let (ours, theirs) = pair(world);
    let before = world.wire.passed();
    let sent = pattern(length);
    let (mut at, mut received) = (0, Vec::new());
    let mut closed = false;
    let ended = world.until(SECOND * 600, |world| {
        if at < length {
            at += world.a.send(ours, &sent[at..]).unwrap();
        } else if !closed {
            world.a.close(ours).unwrap();
            closed = true;
        }
        drain(&mut world.b, theirs, &mut received)
    });
    assert!(ended, "only {} of {length} bytes came", received.len());
    assert!(received == sent);
    world.b.close(theirs).unwrap();
    world.wire.passed() - before
}

#[test]
fn bytes_arrive_whole_in_full_segments() {
    let mut world = World::new();
    let frames = transfer(&mut world, 3_000_000);
    // 2,055 full segments, and an acknowledgement for every other one at the most.
    assert!(frames < 3_100, "{frames} frames");
}

#[test]
fn bytes_arrive_whole_with_software_checksums() {
    let mut world = World::with(Wire::new(), TcpOffload::None);
    transfer(&mut world, 300_000);
}

#[test]
fn bytes_arrive_whole_over_a_wire_that_loses() {
    let mut world = World::new();
    world.wire.lose_every(37);
    transfer(&mut world, 500_000);
}

#[test]
fn bytes_arrive_whole_over_a_wire_that_damages() {
    let mut world = World::new();
    world.wire.damage_every(29);
    transfer(&mut world, 300_000);
    let status = world.b.status();
    assert!(status.port.checksum_bad > 0);
}

#[test]
fn a_small_message_leaves_with_the_next_poll() {
    let mut world = World::new();
    let (ours, theirs) = pair(&mut world);
    for message in [b"one", b"two", b"six"] {
        assert_eq!(world.a.send(ours, message), Ok(3));
        world.a.poll(world.now);
        world.b.poll(world.now);
        let mut buffer = [0; 16];
        assert_eq!(world.b.receive(theirs, &mut buffer), Ok(Received::Bytes(3)));
        assert_eq!(&buffer[..3], message);
    }
}

#[test]
fn queued_bytes_make_the_next_poll_due_at_once() {
    let mut world = World::new();
    let (ours, _) = pair(&mut world);
    world.run(SECOND);
    assert!(world.a.poll_at(world.now).unwrap() > world.now);
    world.a.send(ours, b"now").unwrap();
    assert!(world.a.poll_at(world.now).unwrap() <= world.now);
    world.wire.fill(true);
    world.a.poll(world.now);
    let retry = world.a.poll_at(world.now).unwrap();
    assert!(retry > world.now && retry <= world.now + Duration::from_millis(1));
}

#[test]
fn a_receiver_that_does_not_read_stops_the_sender_without_loss() {
    let mut world = World::new();
    let (ours, theirs) = pair(&mut world);
    let sent = pattern(400_000);
    let mut at = 0;
    world.until(SECOND * 20, |world| {
        at += world.a.send(ours, &sent[at..]).unwrap();
        false
    });
    assert!(at < sent.len());
    assert_eq!(world.a.send(ours, &sent[at..]), Ok(0));
    assert_eq!(world.a.send_room(ours), Ok(0));
    assert_eq!(world.a.stream_state(ours), Ok(State::Open));
    let mut received = Vec::new();
    world.until(SECOND * 60, |world| {
        at += world.a.send(ours, &sent[at..]).unwrap();
        drain(&mut world.b, theirs, &mut received);
        received.len() == sent.len()
    });
    assert!(received == sent);
}

#[test]
fn several_streams_and_ports_do_not_mix() {
    let mut world = World::new();
    world.b.listen(PORT).unwrap();
    world.b.listen(PORT + 1).unwrap();
    assert_eq!(world.b.listen(PORT), Err(Error::PortInUse));
    let mut streams = Vec::new();
    for index in 0..4u8 {
        let port = PORT + u16::from(index % 2);
        let ours = world.a.connect(SocketAddrV4::new(B, port)).unwrap();
        let mut theirs = None;
        assert!(world.until(SECOND * 3, |world| {
            theirs = theirs.or_else(|| world.b.accept(port));
            theirs.is_some()
        }));
        streams.push((ours, theirs.unwrap().stream, index));
    }
    for (ours, _, index) in &streams {
        world.a.send(*ours, &[*index; 100]).unwrap();
    }
    world.run(Duration::from_millis(20));
    for (ours, theirs, index) in streams {
        let mut into = [0; 200];
        assert_eq!(world.b.receive(theirs, &mut into), Ok(Received::Bytes(100)));
        assert!(into[..100].iter().all(|byte| *byte == index));
        world.a.close(ours).unwrap();
        world.b.close(theirs).unwrap();
    }
    world.run(SECOND * 11);
    assert!(world.a.status().streams.is_empty() && world.b.status().streams.is_empty());
}

#[test]
fn a_closed_port_refuses() {
    let mut world = World::new();
    let ours = world.a.connect(target()).unwrap();
    assert_eq!(world.a.stream_state(ours), Ok(State::Connecting));
    assert_eq!(world.a.send(ours, b"early"), Ok(0));
    world.run(Duration::from_millis(20));
    assert_eq!(world.a.stream_state(ours), Ok(State::Failed(Error::Refused)));
    assert_eq!(world.a.send(ours, b"late"), Err(Error::Refused));
    assert_eq!(world.a.receive(ours, &mut [0; 4]), Err(Error::Refused));
    world.a.close(ours).unwrap();
    assert_eq!(world.a.close(ours), Err(Error::Unknown));
    assert_eq!(world.a.stream_state(ours), Err(Error::Unknown));
}

#[test]
fn an_absent_peer_times_out() {
    let mut world = World::new();
    world.wire.cut(true);
    let ours = world.a.connect(target()).unwrap();
    world.run(SECOND * 4);
    assert_eq!(world.a.stream_state(ours), Ok(State::Connecting));
    world.run(SECOND * 3);
    assert_eq!(world.a.stream_state(ours), Ok(State::Failed(Error::ConnectTimeout)));
}

#[test]
fn a_cut_wire_is_a_lost_link_for_the_busy_and_the_idle_end() {
    let mut world = World::new();
    let (ours, theirs) = pair(&mut world);
    world.a.send(ours, b"before").unwrap();
    world.run(SECOND * 30);
    assert_eq!(world.a.stream_state(ours), Ok(State::Open));
    world.wire.cut(true);
    world.a.send(ours, b"after").unwrap();
    let link_timeout = Duration::from_secs(8);
    world.run(link_timeout - SECOND * 3);
    assert_eq!(world.a.stream_state(ours), Ok(State::Open));
    assert_eq!(world.b.stream_state(theirs), Ok(State::Open));
    world.run(SECOND * 6);
    assert_eq!(world.a.stream_state(ours), Ok(State::Failed(Error::LinkLost)));
    assert_eq!(world.b.stream_state(theirs), Ok(State::Failed(Error::LinkLost)));
    // What came before the cut can still be received.
    let mut into = [0; 16];
    assert_eq!(world.b.receive(theirs, &mut into), Ok(Received::Bytes(6)));
    assert_eq!(world.b.receive(theirs, &mut into), Err(Error::LinkLost));
}

#[test]
fn a_short_cut_loses_nothing() {
    let mut world = World::new();
    let (ours, theirs) = pair(&mut world);
    let sent = pattern(300_000);
    let (mut at, mut received) = (0, Vec::new());
    let mut rounds = 0;
    world.until(SECOND * 120, |world| {
        rounds += 1;
        world.wire.cut((5..3000).contains(&rounds));
        at += world.a.send(ours, &sent[at..]).unwrap();
        drain(&mut world.b, theirs, &mut received);
        received.len() == sent.len()
    });
    assert!(received == sent);
}

#[test]
fn an_abort_is_a_reset_at_the_other_end() {
    let mut world = World::new();
    let (ours, theirs) = pair(&mut world);
    world.a.abort(ours).unwrap();
    world.run(Duration::from_millis(20));
    assert_eq!(world.b.stream_state(theirs), Ok(State::Failed(Error::Reset)));
    assert!(world.a.status().streams.is_empty());
    world.b.close(theirs).unwrap();
    world.run(Duration::from_millis(20));
    assert!(world.b.status().streams.is_empty());
}

#[test]
fn each_side_ends_for_itself() {
    let mut world = World::new();
    let (ours, theirs) = pair(&mut world);
    world.a.send(ours, b"last words").unwrap();
    world.a.close(ours).unwrap();
    world.run(Duration::from_millis(50));
    let mut into = [0; 64];
    assert_eq!(world.b.receive(theirs, &mut into), Ok(Received::Bytes(10)));
    assert_eq!(world.b.receive(theirs, &mut into), Ok(Received::End));
    assert_eq!(world.b.stream_state(theirs), Ok(State::PeerEnded));
    assert_eq!(world.b.send(theirs, b"unheard"), Ok(7));
    world.b.close(theirs).unwrap();
    world.run(SECOND * 2);
    assert!(world.a.status().streams.is_empty());
    assert!(world.b.status().streams.is_empty());
}

#[test]
fn connections_are_bounded_and_come_back() {
    let mut world = World::new();
    world.b.listen(PORT).unwrap();
    let mut ours: Vec<StreamId> = Vec::new();
    while let Ok(id) = world.a.connect(target()) {
        ours.push(id);
    }
    assert_eq!(ours.len(), STREAMS_MAX);
    assert_eq!(world.a.connect(target()), Err(Error::Exhausted));
    world.run(Duration::from_millis(50));
    let open = ours.iter().filter(|id| world.a.stream_state(**id) == Ok(State::Open)).count();
    assert_eq!(open, BACKLOG_MAX);
    for id in ours {
        world.a.abort(id).unwrap();
    }
    world.run(Duration::from_millis(50));
    assert_eq!(world.b.accept(PORT), None);
    pair(&mut world);
    for port in 1..LISTENERS_MAX as u16 {
        world.b.listen(port).unwrap();
    }
    assert_eq!(world.b.listen(9999), Err(Error::Exhausted));
    assert_eq!(world.b.listen(0), Err(Error::BadAddress));
}

/// Whoever takes nothing any more and lets us wait for its goodbye keeps memory here.
#[test]
fn few_streams_are_being_closed_at_one_time() {
    let mut world = World::new();
    world.b.listen(PORT).unwrap();
    let open: Vec<StreamId> = (0..3 * CLOSING_MAX).map(|_| pair(&mut world).0).collect();
    world.wire.cut(true);
    for id in open {
        world.a.send(id, b"never heard").unwrap();
        world.a.close(id).unwrap();
    }
    world.run(Duration::from_millis(50));
    let closing = world.a.status().streams.iter().filter(|stream| stream.state.is_none()).count();
    assert_eq!(closing, CLOSING_MAX);
}

#[test]
fn a_port_that_is_given_up_refuses_again() {
    let mut world = World::new();
    world.b.listen(PORT).unwrap();
    let waiting = world.a.connect(target()).unwrap();
    world.run(Duration::from_millis(50));
    assert_eq!(world.a.stream_state(waiting), Ok(State::Open));
    world.b.unlisten(PORT);
    world.run(Duration::from_millis(50));
    assert_eq!(world.a.stream_state(waiting), Ok(State::Failed(Error::Reset)));
    let refused = world.a.connect(target()).unwrap();
    world.run(Duration::from_millis(50));
    assert_eq!(world.a.stream_state(refused), Ok(State::Failed(Error::Refused)));
}

#[test]
fn impossible_peers_are_refused_at_once() {
    let mut world = World::new();
    for peer in ["0.0.0.0:7100", "10.0.0.2:0", "224.0.0.1:7100", "255.255.255.255:7100"] {
        assert_eq!(world.a.connect(peer.parse().unwrap()), Err(Error::BadAddress), "{peer}");
    }
}
