//! Peers that speak other versions of the protocol.

use alloc::string::ToString;
use core::net::SocketAddrV4;
use core::time::Duration;

use godwit_migration::{AbortReason, Blame, Policy, Purpose, Refusal};

use super::super::Streams;
use super::strangers::STRANGER;
use super::{PORT, World, forge};

/// The number of the refusal, and of the abort, on the wire.
const REFUSAL_VERSION: u16 = 1;
const ABORT_REFUSED: u16 = 2;

#[test]
fn a_source_that_speaks_later_versions_only_is_refused_with_the_versions_of_both() {
    let mut world = World::new();
    let stream = world.knock();
    world.say(stream, &forge::opening(3, 4));
    world.pass(Duration::from_millis(20));
    let heard = world.hear(stream);
    let frames = forge::frames(&heard);
    let [(forge::REPLY, body)] = frames[..] else { panic!("one answer: {frames:?}") };
    let reply: forge::Reply = minicbor::decode(body).unwrap();
    assert_eq!(reply.refusals.len(), 1);
    assert_eq!((reply.refusals[0].code, reply.refusals[0].numbers), (REFUSAL_VERSION, [3, 4, 1, 2]));
    let refused = AbortReason::Refused([Refusal::Version { source: (3, 4), target: (1, 2) }].into());
    let text = refused.to_string();
    assert_eq!(world.target.aborts(""), [refused]);
    assert_eq!(text, "refused: no common protocol version: source speaks 3-4, target 1-2");
    assert!(world.target.house.steps.is_empty(), "nothing was built");
    world.net.at(STRANGER).close(stream);
    world.until_quiet();
}

#[test]
fn a_source_that_speaks_this_version_among_others_is_welcome() {
    let mut world = World::new();
    let stream = world.knock();
    world.say(stream, &forge::opening(1, 9));
    world.pass(Duration::from_millis(20));
    assert!(world.hear(stream).is_empty(), "its hello is awaited");
    assert_eq!(world.target.views(world.now).len(), 1);
}

#[test]
fn a_target_that_answers_in_another_version_is_left_with_a_reason_that_names_it() {
    for version in [0, 7] {
        let mut world = World::new();
        world.net.listen(STRANGER, PORT);
        let to = ("c", SocketAddrV4::new(STRANGER, PORT));
        world
            .source
            .migrations
            .start(world.now, &mut world.source.house, "linux", to, (Policy::default(), Purpose::Move), None)
            .unwrap();
        world.pass(Duration::from_millis(20));
        let stream = world.net.at(STRANGER).accept(PORT).unwrap().stream;
        let said = world.hear(stream);
        assert_eq!((&said[..8], &said[8..12]), (&b"Godwit\x1a\n"[..], &[1, 0, 2, 0][..]));
        world.say(stream, &forge::accepting(version));
        world.pass(Duration::from_millis(20));
        let reason = AbortReason::Version { answered: version, spoken: (1, 2) };
        let (text, blame) = (reason.to_string(), reason.blame());
        assert_eq!((world.source.aborts("linux"), blame), ([reason].into(), Blame::Peer));
        assert!(text.contains(&version.to_string()) && text.contains("1-2"), "{text}");
        assert!(world.source.house.is_untouched("linux"));
        let heard = world.hear(stream);
        let frames = forge::frames(&heard);
        let [(forge::ABORT, body)] = frames[..] else { panic!("a goodbye: {frames:?}") };
        let abort: forge::Abort = minicbor::decode(body).unwrap();
        assert_eq!((abort.code, abort.refusals[0].code), (ABORT_REFUSED, REFUSAL_VERSION));
        assert_eq!(abort.refusals[0].numbers, [1, 2, version.into(), version.into()]);
        world.net.at(STRANGER).close(stream);
        world.until_quiet();
    }
}
