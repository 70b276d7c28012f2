//! Frames from a wire that means harm.

use alloc::vec::Vec;
use core::{net::SocketAddrV4, time::Duration};

use proptest::prelude::*;

use super::{
    super::stream::{STREAMS_MAX, State},
    B, World,
    wire::End,
};

/// A world with an open stream and a listening port, and the frames that made it.
fn busy() -> (World, Vec<Vec<u8>>) {
    let mut world = World::new();
    world.b.listen(7100).unwrap();
    let stream = world.a.connect(SocketAddrV4::new(B, 7100)).unwrap();
    let mut seen = Vec::new();
    for round in 0..20 {
        if round == 10 {
            world.a.send(stream, &[7; 3000]).unwrap();
        }
        world.a.poll(world.now);
        while let Some(frame) = world.wire.take(End::B) {
            seen.push(frame);
        }
        seen.iter().rev().take(8).for_each(|frame| world.wire.inject(End::B, frame));
        world.b.poll(world.now);
        world.now = world.now + Duration::from_millis(1);
    }
    assert_eq!(world.a.stream_state(stream), Ok(State::Open));
    (world, seen)
}

/// Makes IPv4 and TCP checksums right, so that the damage reaches the stack's insides.
fn repair(frame: &mut [u8]) {
    if let super::super::frame::Kind::Tcp(segment) = super::super::frame::classify(frame) {
        segment.complete(frame);
    }
    if frame.len() >= 34 {
        frame[24..26].fill(0);
        let sum = !super::super::checksum::sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn noise_does_nothing(frames in proptest::collection::vec(
        proptest::collection::vec(any::<u8>(), 14..200), 1..50,
    )) {
        let mut world = World::new();
        world.b.listen(7100).unwrap();
        for frame in &frames {
            let mut frame = frame.clone();
            frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
            frame[12..14].copy_from_slice(&[8, 0]);
            world.wire.inject(End::B, &frame);
        }
        world.run(Duration::from_millis(20));
        prop_assert!(world.b.accept(7100).is_none());
        prop_assert!(world.b.poll_at(world.now).is_none_or(|at| at >= world.now));
    }

    #[test]
    fn bent_frames_of_a_real_conversation_do_no_harm(
        bends in proptest::collection::vec((any::<usize>(), 14usize..120, any::<u8>(), any::<bool>()), 1..200),
    ) {
        let (mut world, seen) = busy();
        for (which, at, value, is_repaired) in bends {
            let mut frame = seen[which % seen.len()].clone();
            let at = at % frame.len();
            frame[at] = value;
            if is_repaired {
                repair(&mut frame);
            }
            world.wire.inject(End::B, &frame);
            world.b.poll(world.now);
            while world.wire.take(End::A).is_some() {}
        }
        world.run(Duration::from_millis(50));
        prop_assert!(world.b.status().streams.len() <= STREAMS_MAX);
        world.b.ping(super::A, 1).unwrap();
        world.run(Duration::from_secs(4));
    }
}

#[test]
fn a_flood_does_not_keep_a_poll_busy_for_ever() {
    let mut world = World::new();
    let frame = [2u8, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 9, 8, 6, 0, 1, 8, 0];
    for _ in 0..1000 {
        world.wire.inject(End::B, &frame);
    }
    world.b.poll(world.now);
    assert_eq!(world.b.status().card.frames_received, 64);
    assert_eq!(world.b.poll_at(world.now), Some(world.now));
}

#[test]
fn fragments_and_lies_about_lengths_are_counted_and_dropped() {
    let (mut world, seen) = busy();
    let data = seen.iter().find(|frame| frame.len() > 1000).unwrap();
    let bent = |at: usize, value: u8| {
        let mut frame = data.clone();
        frame[at] = value;
        repair(&mut frame);
        frame
    };
    let before = world.b.status().port;
    world.wire.inject(End::B, &bent(20, 0x20));
    world.wire.inject(End::B, &bent(21, 1));
    world.wire.inject(End::B, &bent(16, 0xff));
    world.wire.inject(End::B, &bent(14, 0x44));
    world.wire.inject(End::B, &data[..40]);
    world.b.poll(world.now);
    let after = world.b.status().port;
    assert_eq!(after.fragments - before.fragments, 2);
    assert_eq!(after.malformed - before.malformed, 3);
}

#[test]
fn half_open_connections_give_their_places_back() {
    let mut world = World::new();
    world.b.listen(7100).unwrap();
    for _ in 0..4 {
        world.a.connect(SocketAddrV4::new(B, 7100)).unwrap();
    }
    for _ in 0..5 {
        world.step();
        while world.wire.take(End::A).is_some() {}
    }
    world.wire.cut(true);
    world.run(Duration::from_secs(12));
    world.wire.cut(false);
    let stream = world.a.connect(SocketAddrV4::new(B, 7100)).unwrap();
    assert!(world.until(Duration::from_secs(5), |world| world.a.stream_state(stream) == Ok(State::Open)));
}
