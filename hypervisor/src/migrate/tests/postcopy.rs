//! Guests that run at the target before all of their memory is there.

use core::time::Duration;

use godwit_migration::{Event, Mode, Phase, Policy, Step};

use super::super::Side;
use super::{PORT, SOURCE, TARGET, World};

/// `linux` is about to move in this mode.
fn about_to_move(mode: Mode) -> World {
    let mut world = World::new();
    world.target.house.offers_post_copy = true;
    *world.source.migrations.policy_mut() = Policy { mode, ..Policy::default() };
    world
}

impl World {
    #[track_caller]
    fn assert_arrived_whole(&mut self) {
        self.until_quiet();
        let guest = self.target.house.find("linux").expect("it is there");
        guest.assert_memory();
        assert!(self.target.house.runs("linux") && !self.source.house.names().contains(&"linux"));
        assert_eq!(
            (self.source.completed("linux"), self.target.arrived("linux")),
            (1, 1),
            "{}",
            self.state()
        );
    }
}

#[test]
fn a_guest_runs_before_its_memory_is_there_and_misses_nothing() {
    for mode in [Mode::PostCopy, Mode::Hybrid] {
        for portion_max in [64 * 1024, 4096, 700] {
            let mut world = about_to_move(mode);
            (world.net.portion_max, world.net.window) = (portion_max, 32 * 1024);
            world.start("linux").unwrap();
            world.until(|world| world.target.house.runs("linux"));
            world.assert_arrived_whole();
            assert!(world.target.house.steps.contains(&Step::Settle), "{mode:?}");
            let made = (world.net.made(SOURCE), world.net.made(TARGET));
            assert_eq!(made, (2, 0), "a connection for each channel: {mode:?}, {portion_max}");
        }
    }
}

#[test]
fn a_page_that_is_needed_overtakes_the_rest() {
    let mut world = about_to_move(Mode::PostCopy);
    world.net.portion_max = 512;
    world.start("linux").unwrap();
    world.until(|world| world.target.house.runs("linux"));
    world.pass(Duration::from_millis(60));
    let guest = world.target.house.find("linux").unwrap();
    let absent = guest.ram.as_ref().unwrap().absent.len();
    assert!(absent > 100 && guest.writes > 10, "{absent} absent after {} writes", guest.writes);
    world.assert_arrived_whole();
}

/// The wait of each is told and not yet over at one moment; neither holds the other's up.
#[test]
fn guests_that_are_switched_at_the_same_time_wait_for_their_pages_side_by_side() {
    let mut world = about_to_move(Mode::PostCopy);
    world.net.portion_max = 512;
    world.source.house.boot("other");
    let both = ["linux", "other"];
    both.iter().for_each(|guest| world.start(guest).unwrap());
    let asks = |world: &World, guest| {
        let ram = world.target.house.find(guest).and_then(|guest| guest.ram.as_ref());
        ram.and_then(|ram| ram.waits_for).is_some_and(|(_, is_told)| is_told)
    };
    world.until(|world| both.iter().all(|guest| asks(world, guest)));
    world.until_quiet();
    for guest in both {
        assert!(world.target.house.runs(guest));
        world.target.house.find(guest).expect("it runs").assert_memory();
        assert_eq!((world.source.completed(guest), world.target.arrived(guest)), (1, 1), "{}", world.state());
    }
}

#[test]
fn a_wire_that_is_cut_after_the_switch_delays_and_loses_nothing() {
    for millis in [1, 5, 20, 40] {
        let mut world = about_to_move(Mode::PostCopy);
        world.net.portion_max = 1024;
        world.start("linux").unwrap();
        world.until(|world| world.phase(Side::Source) == Some(Phase::PostCopy));
        for _ in 0..3 {
            world.pass(Duration::from_millis(millis));
            world.net.cut();
            world.pass(Duration::from_millis(300));
            world.mend();
        }
        world.assert_arrived_whole();
        assert!(world.source.events("linux").any(|event| *event == Event::Interrupted));
    }
}

#[test]
fn a_guest_whose_source_dies_runs_until_it_needs_what_is_lost() {
    let mut world = about_to_move(Mode::PostCopy);
    world.net.portion_max = 512;
    world.start("linux").unwrap();
    world.until(|world| world.target.house.runs("linux"));
    world.net.cut();
    world.source = super::Host::new(SOURCE, 9);
    world.until(|world| world.phase(Side::Target) == Some(Phase::Recovering));
    world.command(Side::Target, "linux", godwit_migration::Command::TakeOver).unwrap();
    world.until(|world| world.target.house.steps.contains(&Step::Forsake));
    world.pass(Duration::from_millis(200));
    assert!(
        world.target.events("linux").any(|event| matches!(event, Event::MemoryLost { .. })),
        "{}",
        world.state()
    );
}

/// A world whose guest runs at the target with a part of its memory, and whose connections are gone.
fn cut_behind_the_switch() -> World {
    let mut world = about_to_move(Mode::PostCopy);
    world.net.portion_max = 1024;
    world.start("linux").unwrap();
    world.until(|world| world.phase(Side::Source) == Some(Phase::PostCopy));
    world.pass(Duration::from_millis(5));
    world.net.cut();
    world
}

/// The target's host has got another address.
#[test]
fn a_target_that_has_moved_to_another_address_is_found_there_once_a_person_says_so() {
    let mut world = cut_behind_the_switch();
    let elsewhere = core::net::Ipv4Addr::new(10, 0, 0, 4);
    world.until(|world| world.phase(Side::Target) == Some(Phase::Recovering));
    world.target.address = elsewhere;
    world.net.unlisten(TARGET);
    world.net.listen(elsewhere, PORT);
    world.mend();
    world.pass(Duration::from_secs(20));
    assert_eq!(world.phase(Side::Source), Some(Phase::Recovering), "it is asked where it was");
    let to = ("c", core::net::SocketAddrV4::new(elsewhere, PORT));
    let World { source, now, .. } = &mut world;
    source.migrations.redirect(*now, &source.house, "linux", to).unwrap();
    world.command(Side::Source, "linux", godwit_migration::Command::Retry).unwrap();
    world.assert_arrived_whole();
    assert!(world.source.views(world.now).is_empty());
}

/// The source's host has got another address: the target knows it by its migration, and nobody need say anything.
#[test]
fn a_source_that_comes_back_from_another_address_goes_on() {
    let mut world = cut_behind_the_switch();
    let has_let_go = |world: &World| world.net.in_use(SOURCE) == 0 && world.net.in_use(TARGET) == 0;
    world.until(|world| has_let_go(world) && world.phase(Side::Target) == Some(Phase::Recovering));
    world.source.address = core::net::Ipv4Addr::new(10, 0, 0, 5);
    world.mend();
    world.assert_arrived_whole();
    assert!(world.source.events("linux").any(|event| *event == Event::Reconnected));
}
