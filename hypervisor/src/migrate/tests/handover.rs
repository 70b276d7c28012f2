//! The commit was sent and its answer lost.

use core::time::Duration;

use godwit_migration::{AbortReason, Command, Event, Phase};

use super::super::{Side, Unheeded};
use super::{Host, SOURCE, TARGET, World};

/// The source has sent its commit, which is not delivered yet.
fn committing() -> World {
    let mut world = World::new();
    world.start_until(Phase::Committing);
    assert!(world.net.queued(SOURCE) > 0, "the commit is on its way");
    world
}

/// The commit is lost and the target has been restarted: it knows nothing any more.
fn forgotten() -> World {
    let mut world = committing();
    world.net.cut();
    world.pass(Duration::from_millis(50));
    world.target = Host::new(TARGET, 3);
    world.mend();
    world.until(|world| world.source.events("linux").any(|event| *event == Event::TargetForgot));
    world.pass(Duration::from_secs(60));
    assert_eq!(world.phase(Side::Source), Some(Phase::CommitUnknown));
    assert!(!world.source.house.runs("linux") && !world.target.house.runs("linux"));
    assert!(world.target.views(world.now).is_empty(), "who only asked leaves nothing behind");
    world
}

#[test]
fn a_commit_that_is_lost_is_sent_again_and_the_guest_moves() {
    let mut world = committing();
    world.net.cut();
    world.pass(Duration::from_millis(50));
    assert_eq!(world.phase(Side::Source), Some(Phase::CommitUnknown));
    assert_eq!(world.phase(Side::Target), Some(Phase::CommitUnknown));
    assert!(!world.source.house.runs("linux") && !world.target.house.runs("linux"));
    world.mend();
    world.until_quiet();
    world.assert_moved("linux");
    assert!(world.source.events("linux").any(|event| *event == Event::CommitUnknown));
    assert_eq!(world.target.house.done, 1, "the same session went on");
}

#[test]
fn an_answer_that_is_lost_is_asked_for_and_the_guest_has_moved() {
    let mut world = committing();
    world.until(|world| world.target.house.runs("linux"));
    world.net.cut();
    world.pass(Duration::from_millis(500));
    assert_eq!(world.phase(Side::Source), Some(Phase::CommitUnknown));
    world.mend();
    world.until_quiet();
    world.assert_moved("linux");
}

#[test]
fn wherever_the_link_is_cut_around_the_commit_one_host_owns_the_guest() {
    for ticks in 0..16 {
        let mut world = World::new();
        world.start_until(Phase::Verifying);
        (0..ticks).for_each(|_| world.tick());
        world.net.cut();
        world.pass(Duration::from_millis(300));
        world.mend();
        world.until(|world| world.source.views(world.now).is_empty());
        if world.source.house.is_untouched("linux") {
            // The target may hold what it has, until the source says otherwise.
            assert!(!world.target.house.runs("linux"), "cut after {ticks} ticks: {}", world.state());
            world.start("linux").unwrap();
        }
        world.until_quiet();
        world.assert_moved("linux");
    }
}

#[test]
fn a_link_that_is_cut_again_and_again_delays_the_end_and_changes_nothing() {
    let mut world = committing();
    for _ in 0..8 {
        world.net.cut();
        world.pass(Duration::from_millis(400));
        world.mend();
        world.tick();
    }
    world.until_quiet();
    world.assert_moved("linux");
}

#[test]
fn a_target_that_forgot_leaves_the_guest_held_until_a_person_takes_it_back() {
    let mut world = forgotten();
    assert_eq!(world.start("linux"), Err(super::StartError::AlreadyMigrating("linux".into())));
    assert_out_of_place(&mut world, Command::Cancel, Phase::CommitUnknown);
    let forgot =
        |world: &World| world.source.events("linux").filter(|event| **event == Event::TargetForgot).count();
    assert_eq!(forgot(&world), 1);
    world.command(Side::Source, "linux", Command::Retry).unwrap();
    world.until(|world| forgot(world) == 2);
    world.pass(Duration::from_secs(60));
    assert_eq!(forgot(&world), 2, "it is asked when a person says so, not by itself");
    assert!(!world.source.house.runs("linux"));
    world.command(Side::Source, "linux", Command::Reclaim).unwrap();
    world.until_quiet();
    world.assert_stayed("linux");
    assert_eq!(world.source.aborts("linux"), [AbortReason::LinkLost]);
    world.start("linux").unwrap();
    world.until_quiet();
    world.assert_moved("linux");
}

#[test]
fn a_target_that_forgot_leaves_the_guest_held_until_a_person_lets_go_of_it() {
    let mut world = forgotten();
    world.command(Side::Source, "linux", Command::Release).unwrap();
    world.until_quiet();
    assert_eq!(world.source.completed("linux"), 1);
    assert!(world.source.house.names().is_empty());
}

#[test]
fn a_person_runs_the_guest_at_the_target_when_the_source_is_gone_for_good() {
    let mut world = committing();
    world.net.cut();
    world.pass(Duration::from_millis(50));
    world.source = Host::new(SOURCE, 9);
    world.mend();
    world.command(Side::Target, "linux", Command::TakeOver).unwrap();
    world.until(|world| world.target.arrived("linux") == 1);
    assert!(world.target.house.runs("linux"));
    world.pass(Duration::from_secs(1_000));
    assert!(!world.target.views(world.now).is_empty(), "its source may still ask");
    world.command(Side::Target, "linux", Command::Release).unwrap();
    world.until(|world| world.target.views(world.now).is_empty());
    assert!(world.target.house.runs("linux"));
    let back = ("a", core::net::SocketAddrV4::new(SOURCE, super::PORT));
    let order = (super::Policy::default(), super::Purpose::Move);
    let World { target, now, .. } = &mut world;
    target.migrations.start(*now, &mut target.house, "linux", back, order, None).unwrap();
    world.until(|world| world.source.house.runs("linux"));
}

#[test]
fn a_target_does_not_let_go_by_a_word_while_its_source_can_be_heard() {
    let mut world = committing();
    world.until(|world| world.target.house.runs("linux"));
    world.command(Side::Target, "linux", Command::Release).unwrap_err();
    world.until_quiet();
    world.assert_moved("linux");
}

#[test]
fn a_target_holds_a_complete_guest_for_as_long_as_it_says_and_then_lets_go() {
    let mut world = committing();
    world.net.cut();
    world.pass(Duration::from_secs(590));
    assert_eq!(world.phase(Side::Target), Some(Phase::CommitUnknown));
    world.pass(Duration::from_secs(20));
    assert!(world.target.views(world.now).is_empty() && world.target.house.names().is_empty());
    world.mend();
    // It remembers that much, and nobody has to decide.
    world.until_quiet();
    world.assert_stayed("linux");
    assert!(!world.source.events("linux").any(|event| *event == Event::TargetForgot));
}

#[test]
fn a_source_that_begins_anew_takes_the_place_of_its_held_guest() {
    let mut world = committing();
    world.net.cut();
    world.pass(Duration::from_millis(50));
    world.command(Side::Source, "linux", Command::Reclaim).unwrap();
    world.until(|world| world.source.views(world.now).is_empty());
    world.assert_nothing_runs_at_the_target();
    world.mend();
    world.start("linux").unwrap();
    world.until_quiet();
    world.assert_moved("linux");
    assert_eq!(world.target.aborts("linux"), [AbortReason::Cancelled], "the earlier attempt");
}

impl World {
    #[track_caller]
    fn assert_nothing_runs_at_the_target(&self) {
        assert_eq!(self.phase(Side::Target), Some(Phase::CommitUnknown));
        assert!(!self.target.house.runs("linux") && self.target.house.names() == ["linux"]);
    }
}

/// What changes nothing says so, and changes nothing.
#[track_caller]
fn assert_out_of_place(world: &mut World, command: Command, phase: Phase) {
    match world.command(Side::Source, "linux", command) {
        Err(Unheeded::OutOfPlace(view)) => {
            assert_eq!((view.guest.as_str(), view.side, view.status.phase), ("linux", Side::Source, phase));
        }
        other => panic!("{command:?}: {other:?}"),
    }
}

#[test]
fn what_has_no_meaning_yet_is_refused_and_the_guest_moves() {
    let mut world = World::new();
    world.start_until(Phase::PreCopy);
    for word in [Command::Reclaim, Command::Release, Command::TakeOver, Command::Retry] {
        assert_out_of_place(&mut world, word, Phase::PreCopy);
    }
    for word in [Command::TakeOver, Command::Release, Command::Retry] {
        let refused = world.command(Side::Target, "linux", word);
        assert!(matches!(refused, Err(Unheeded::OutOfPlace(_))), "{word:?}: {refused:?}");
    }
    let elsewhere = ("c", core::net::SocketAddrV4::new(SOURCE, super::PORT));
    let World { source, now, .. } = &mut world;
    source.migrations.redirect(*now, &source.house, "linux", elsewhere).unwrap_err();
    world.until_quiet();
    world.assert_moved("linux");
}
