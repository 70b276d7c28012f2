//! Guests that arrive.

use alloc::format;

use godwit_migration::{Command, Event, Generation, GuestFailure, Phase, Policy, Purpose, Step};

use super::super::migrations::SESSIONS_MAX;
use super::super::{NotMovable, Occurrence, Side, StartError, What};
use super::World;

#[test]
fn a_guest_moves_and_both_hosts_say_so() {
    let mut world = World::new();
    world.start("linux").unwrap();
    world.until_quiet();
    world.assert_moved("linux");
    assert_eq!((world.source.house.done, world.target.house.done), (1, 1));
    assert!(world.target.events("linux").any(|event| *event == Event::Arrived(Generation(2))));
    assert!(world.source.told.iter().all(|it| it.side == Side::Source && it.peer == "b"));
    assert!(world.target.told.iter().all(|it| it.side == Side::Target && it.peer == "10.0.0.1"));
    assert_eq!(world.net.made(super::SOURCE), 2, "one connection for bulk, one for what somebody waits for");
}

#[test]
fn a_move_that_was_estimated_ends_with_what_was_expected() {
    let mut world = World::new();
    world.start_for("linux", Purpose::Estimate).unwrap();
    world.until_quiet();
    let expected = world.source.events("linux").find_map(|event| match event {
        Event::Estimated(prediction) => Some(*prediction),
        _ => None,
    });
    assert!(expected.is_some(), "{}", world.state());
    world.start("linux").unwrap();
    world.until_quiet();
    world.assert_moved("linux");
    let is_completion =
        |it: &&Occurrence| matches!(&it.what, What::Event(event) if matches!(**event, Event::Completed(_)));
    let told = world.source.told.iter().find(is_completion).expect("it has moved");
    assert_eq!(told.estimate, expected);
}

#[test]
fn a_guest_moves_over_a_link_that_delivers_crumbs() {
    for (window, portion_max) in [(64 * 1024, 1500), (1000, 64 * 1024), (777, 333)] {
        let mut world = World::new();
        (world.net.window, world.net.portion_max) = (window, portion_max);
        world.source.house.get("linux").pages_per_tick = 0;
        world.start("linux").unwrap();
        world.until_quiet();
        world.assert_moved("linux");
    }
}

#[test]
fn what_the_guest_writes_while_it_moves_arrives_too() {
    let mut world = World::new();
    world.net.portion_max = 8 * 1024;
    world.start_until(Phase::PreCopy);
    world.source.house.get("linux").pages_per_tick = 2;
    world.until(|world| world.phase(Side::Source) == Some(Phase::StopAndCopy));
    world.until_quiet();
    world.assert_moved("linux");
}

#[test]
fn a_guest_moves_there_and_back() {
    let mut world = World::new();
    world.start("linux").unwrap();
    world.until_quiet();
    world.assert_moved("linux");
    let back = ("a", core::net::SocketAddrV4::new(super::SOURCE, super::PORT));
    world
        .target
        .migrations
        .start(world.now, &mut world.target.house, "linux", back, (Policy::default(), Purpose::Move), None)
        .unwrap();
    world.until_quiet();
    assert!(world.source.house.runs("linux") && world.target.house.names().is_empty());
    assert!(world.source.events("linux").any(|event| *event == Event::Arrived(Generation(3))));
}

#[test]
fn a_guest_that_is_being_moved_is_not_moved_twice() {
    let mut world = World::new();
    world.start_until(Phase::PreCopy);
    assert_eq!(world.start("linux"), Err(StartError::AlreadyMigrating("linux".into())));
    world.until_quiet();
    world.assert_moved("linux");
    let gone = NotMovable::NoSuchGuest("linux".into());
    assert_eq!(world.start("linux"), Err(StartError::NotMovable(gone)));
}

#[test]
fn as_many_guests_as_are_allowed_move_at_once() {
    let mut world = World::new();
    for number in 0..SESSIONS_MAX {
        world.source.house.boot(&format!("guest{number}"));
        world.start(&format!("guest{number}")).unwrap();
    }
    assert_eq!(world.start("linux"), Err(StartError::TooMany));
    assert!(world.source.house.is_untouched("linux"), "nothing has changed for a guest that is turned away");
    world.until(|world| {
        let views = world.target.views(world.now);
        views.iter().filter(|view| view.status.phase == Phase::PreCopy).count() > 3
    });
    world.until_quiet();
    for number in 0..SESSIONS_MAX {
        world.assert_moved(&format!("guest{number}"));
    }
    world.start("linux").unwrap();
    world.until_quiet();
    world.assert_moved("linux");
}

#[test]
fn people_see_both_ends_and_change_limits_meanwhile() {
    let mut world = World::new();
    world.net.portion_max = 4096;
    world.start_until(Phase::PreCopy);
    world.until(|world| world.phase(Side::Target) == Some(Phase::PreCopy));
    let tuned = Policy { rounds_max: 7, ..Policy::default() };
    world.command(Side::Source, "linux", Command::Tune(tuned)).unwrap();
    assert_eq!(world.source.migrations.policy_of("linux"), Some(tuned));
    let (out, arriving) = (world.source.views(world.now), world.target.views(world.now));
    assert_eq!((out.len(), arriving.len()), (1, 1));
    assert_eq!((out[0].guest.as_str(), out[0].peer.as_str(), out[0].policy), ("linux", "b", Some(tuned)));
    assert_eq!((arriving[0].guest.as_str(), arriving[0].peer.as_str()), ("linux", "10.0.0.1"));
    assert!(world.command(Side::Source, "freebsd", Command::Cancel).is_err());
    world.until_quiet();
    world.assert_moved("linux");
}

#[test]
fn a_copy_that_cannot_be_freed_is_told_and_the_guest_has_moved_all_the_same() {
    let mut world = World::new();
    world.source.house.failing.push((Step::Discard, GuestFailure::Host("stuck".into())));
    world.start("linux").unwrap();
    world.until(|world| world.source.views(world.now).is_empty());
    let told = |event: &Event| matches!(event, Event::CleanupFailed(Step::Discard, _));
    assert!(world.source.events("linux").any(told));
    assert_eq!(world.source.completed("linux"), 1);
    assert!(world.target.house.runs("linux") && !world.source.house.runs("linux"));
}

#[test]
fn nothing_is_told_about_nothing() {
    let mut world = World::new();
    world.pass(core::time::Duration::from_secs(1));
    world.assert_nothing_leaks();
    assert!(!world.source.told.iter().any(|it| matches!(it.what, What::Stranger(_))));
    assert!(world.source.told.is_empty() && world.target.told.is_empty());
}
