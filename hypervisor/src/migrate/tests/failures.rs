//! Guests that stay: cancelled, cut off, refused.

use alloc::string::ToString;
use core::time::Duration;

use godwit_migration::{
    AbortReason, Blame, Command, Event, GuestFailure, Instant, Phase, Policy, Purpose, Refusal, Step,
};

use super::super::Side;
use super::super::wire::{Change, Wire};
use super::fake_streams::Weather;
use super::strangers::STRANGER;
use super::{SOURCE, TARGET, World};

/// A world in which `linux` is under way and takes its time.
fn under_way() -> World {
    let mut world = World::new();
    world.net.portion_max = 4096;
    world.start_until(Phase::PreCopy);
    world.until(|world| world.phase(Side::Target) == Some(Phase::PreCopy));
    world.pass(Duration::from_millis(20));
    world
}

#[track_caller]
fn assert_a_retry_works(world: &mut World) {
    world.start("linux").unwrap();
    world.until_quiet();
    world.assert_moved("linux");
}

#[test]
fn a_migration_that_is_cancelled_at_either_side_is_undone_and_both_know_why() {
    for side in [Side::Source, Side::Target] {
        let mut world = under_way();
        world.command(side, "linux", Command::Cancel).unwrap();
        world.until_quiet();
        world.assert_stayed("linux");
        assert_eq!(world.source.aborts("linux"), [AbortReason::Cancelled], "at the {side:?}");
        assert_eq!(world.target.aborts("linux"), [AbortReason::Cancelled], "at the {side:?}");
        assert_a_retry_works(&mut world);
    }
}

#[test]
fn a_cancelled_target_does_not_keep_the_source_from_trying_again() {
    let mut world = under_way();
    world.command(Side::Target, "linux", Command::Cancel).unwrap();
    let before = world.now;
    world.until(|world| world.source.views(world.now).is_empty());
    assert!(world.now.since(before) < Duration::from_secs(1), "pages that nobody takes are not waited for");
}

#[test]
fn a_cancellation_before_the_target_answers_is_undone() {
    for phase in [Phase::Connecting, Phase::Negotiating] {
        let mut world = World::new();
        world.start_until(phase);
        world.command(Side::Source, "linux", Command::Cancel).unwrap();
        world.until_quiet();
        world.assert_stayed("linux");
        assert_eq!(world.source.aborts("linux"), [AbortReason::Cancelled]);
    }
}

/// A world in which the target is building `linux`.
fn building() -> World {
    let mut world = World::new();
    world.target.house.builds = true;
    world.start_until(Phase::Negotiating);
    world.until(|world| world.phase(Side::Target) == Some(Phase::Building));
    world
}

#[test]
fn a_target_may_build_for_longer_than_a_silent_host_is_waited_for() {
    let mut world = building();
    world.pass(10 * Policy::default().peer_timeout);
    assert_eq!(world.phase(Side::Target), Some(Phase::Building));
    world.target.house.builds = false;
    world.until_quiet();
    world.assert_moved("linux");
}

#[test]
fn an_attempt_that_ends_while_its_guest_is_being_built_does_not_wait_for_that() {
    type End = (&'static str, fn(&mut World));
    let ends: [End; 4] = [
        ("cancelled at the source", |world| world.command(Side::Source, "linux", Command::Cancel).unwrap()),
        ("cancelled at the target", |world| world.command(Side::Target, "linux", Command::Cancel).unwrap()),
        ("cut", |world| world.net.cut()),
        ("silent", |world| world.net.weather = Weather::Stalled),
    ];
    for (how, end) in ends {
        let mut world = building();
        end(&mut world);
        let views = |host: &super::Host, now| host.views(now).len();
        world.until(|world| views(&world.source, world.now) + views(&world.target, world.now) == 0);
        world.mend();
        world.until_quiet();
        world.assert_stayed("linux");
        assert_eq!(world.target.house.done, 1, "{how}");
        world.target.house.builds = false;
        assert_a_retry_works(&mut world);
    }
}

#[test]
fn a_link_that_is_cut_leaves_the_guest_at_the_source() {
    for phase in [Phase::Negotiating, Phase::PreCopy, Phase::StopAndCopy, Phase::Verifying] {
        let mut world = World::new();
        world.net.portion_max = 8 * 1024;
        world.start_until(phase);
        world.net.cut();
        world.until_quiet();
        world.assert_stayed("linux");
        assert_eq!(world.source.aborts("linux"), [AbortReason::LinkLost], "in {phase}");
        world.mend();
        assert_a_retry_works(&mut world);
    }
}

#[test]
fn a_link_that_falls_silent_is_noticed_at_both_ends() {
    let mut world = under_way();
    world.net.weather = Weather::Stalled;
    world.pass(Duration::from_secs(31));
    assert!(matches!(world.source.aborts("linux")[..], [AbortReason::PeerSilent(_)]));
    world.until(|world| world.source.views(world.now).is_empty());
    world.assert_stayed("linux");
    assert_eq!(world.net.in_use(SOURCE), 0);
    world.mend();
    world.until_quiet();
    assert_a_retry_works(&mut world);
}

#[test]
fn a_target_that_takes_nothing_does_not_keep_the_source_from_trying_again() {
    let mut world = World::new();
    // Somebody accepts and reads nothing: the network is well, so only the engine can notice.
    world.net.unlisten(TARGET);
    world.net.listen(STRANGER, super::PORT);
    let to = ("c", core::net::SocketAddrV4::new(STRANGER, super::PORT));
    world.net.window = 16;
    world
        .source
        .migrations
        .start(world.now, &mut world.source.house, "linux", to, (Policy::default(), Purpose::Move), None)
        .unwrap();
    world.pass(Duration::from_secs(45));
    assert!(world.source.views(world.now).is_empty(), "{}", world.state());
    assert!(matches!(world.source.aborts("linux")[..], [AbortReason::PeerSilent(_)]));
    assert!(world.source.house.is_untouched("linux"));
}

#[test]
fn a_goodbye_that_nobody_takes_does_not_keep_a_connection_for_ever() {
    let mut world = World::new();
    world.net.window = 16;
    let stream = world.knock();
    let (mut wire, mut streams) = (Wire::default(), world.net.at(STRANGER));
    wire.attach(&mut streams, stream);
    assert_eq!(wire.change(&mut streams), Some(Change::Up));
    wire.queue(&[0; 64]);
    wire.close(world.now);
    wire.flush(&mut streams);
    let until = world.now.after(Duration::from_secs(10));
    assert_eq!(wire.deadline(), until);
    wire.expire(world.now.after(Duration::from_secs(9)), &mut streams);
    assert!(wire.is_attached());
    wire.expire(until, &mut streams);
    assert!(!wire.is_attached() && wire.is_flushed());
    assert_eq!((wire.deadline(), world.net.in_use(STRANGER)), (Instant::NEVER, 0));
}

#[test]
fn a_host_that_refuses_connections_or_does_not_answer_leaves_the_guest_at_the_source() {
    let mut world = World::new();
    world.net.unlisten(TARGET);
    world.start("linux").unwrap();
    world.until_quiet();
    world.assert_stayed("linux");
    assert_eq!(world.source.aborts("linux"), [AbortReason::LinkLost]);
    assert_eq!(AbortReason::LinkLost.blame(), Blame::Link);
    world.net.listen(TARGET, super::PORT);
    world.net.weather = Weather::Stalled;
    world.start("linux").unwrap();
    world.pass(Duration::from_secs(31));
    world.mend();
    world.until_quiet();
    assert_eq!(world.source.aborts("linux").len(), 2);
    world.assert_stayed("linux");
}

#[test]
fn a_target_without_memory_refuses_by_name_before_a_page_is_sent() {
    let mut world = World::new();
    world.target.house.failing.push((Step::Build, GuestFailure::OutOfMemory));
    world.start("linux").unwrap();
    world.until_quiet();
    world.assert_stayed("linux");
    let aborts = world.source.aborts("linux");
    let [AbortReason::Refused(refusals)] = &aborts[..] else { panic!("{}", world.state()) };
    assert!(matches!(refusals[..], [Refusal::Memory { needed_bytes: 1_228_800, .. }]));
    assert!(aborts[0].to_string().contains("1200 KiB of memory needed"), "{}", aborts[0]);
    assert!(!world.source.events("linux").any(|event| matches!(event, Event::Round { .. })));
    assert!(!world.source.house.steps.contains(&Step::StartDirtyLog));
    assert_a_retry_works(&mut world);
}

#[test]
fn a_guest_that_ends_by_itself_ends_its_migration() {
    let mut world = under_way();
    world.source.house.end("linux");
    world.until_quiet();
    assert_eq!(world.source.aborts("linux"), [AbortReason::GuestEnded]);
    assert_eq!(world.target.aborts("linux"), [AbortReason::GuestEnded]);
    assert!(world.target.house.names().is_empty());
}

#[test]
fn a_step_that_fails_at_either_host_leaves_the_guest_at_the_source() {
    let failure = GuestFailure::Host("as planned".into());
    for step in [Step::StartDirtyLog, Step::HarvestDirtyLog, Step::Pause, Step::SaveState] {
        let mut world = World::new();
        world.source.house.failing.push((step, failure.clone()));
        world.start("linux").unwrap();
        world.until_quiet();
        world.assert_stayed("linux");
        assert_eq!(world.source.aborts("linux"), [AbortReason::Guest(step, failure.clone())]);
        assert_a_retry_works(&mut world);
    }
    for step in [Step::RestoreState, Step::Run] {
        let mut world = World::new();
        world.target.house.failing.push((step, failure.clone()));
        world.start("linux").unwrap();
        world.until_quiet();
        world.assert_stayed("linux");
        assert_eq!(world.source.aborts("linux"), [AbortReason::PeerGuest(step, failure.clone())]);
        assert_a_retry_works(&mut world);
    }
}

#[test]
fn a_guest_that_cannot_even_be_run_again_is_held_with_its_permit() {
    let mut world = World::new();
    let failure = GuestFailure::Host("as planned".into());
    world.source.house.failing.extend([(Step::SaveState, failure.clone()), (Step::Run, failure.clone())]);
    world.start("linux").unwrap();
    world.until_quiet();
    assert!(world.source.events("linux").any(|event| *event == Event::Held(failure.clone())));
    assert!(world.source.house.get("linux").held.is_some());
    assert!(world.target.house.names().is_empty());
}
