//! A stop that overruns the downtime limit.

use core::time::Duration;

use godwit_migration::{AbortReason, Event, Overrun, Phase, Policy, Recall, Stage, Step};

use super::super::Side;
use super::World;
use super::fake_streams::Weather;

/// The network stands still from the moment at which the source has said all and waits for the target.
fn held_up() -> World {
    let mut world = World::new();
    world.start_until(Phase::Verifying);
    world.net.weather = Weather::Stalled;
    let stalled_at = world.now;
    world.until(|world| world.source.house.runs("linux"));
    let steps = Duration::from_millis(20);
    assert!(world.now.since(stalled_at) <= Policy::default().downtime_limit + steps, "{}", world.state());
    world
}

fn recalls(world: &World) -> alloc::vec::Vec<Recall> {
    let events = world.source.events("linux");
    events
        .filter_map(|event| if let Event::Recalled(recall) = event { Some(*recall) } else { None })
        .collect()
}

#[test]
fn a_stop_that_a_network_holds_up_is_called_back_and_the_guest_moves_later() {
    let mut world = held_up();
    world.source.house.get("linux").pages_per_tick = 1;
    world.pass(Duration::from_millis(400));
    assert_eq!(world.phase(Side::Source), Some(Phase::PreCopy));
    assert!(!world.target.house.runs("linux"));
    world.mend();
    world.until_quiet();
    world.assert_moved("linux");
    let recalls = recalls(&world);
    assert_eq!((recalls.len(), recalls[0].stage), (1, Stage::Verify), "{}", world.state());
    let restores = world.target.house.steps.iter().filter(|step| **step == Step::RestoreState).count();
    assert_eq!(restores, 2, "what had been restored of the first stop was replaced");
}

#[test]
fn a_link_that_is_lost_after_a_stop_in_vain_leaves_the_guest_where_it_runs() {
    let mut world = held_up();
    world.net.cut();
    world.mend();
    world.until_quiet();
    world.assert_stayed("linux");
    assert_eq!(world.source.aborts("linux"), [AbortReason::LinkLost]);
}

#[test]
fn after_as_many_stops_as_are_allowed_the_attempt_is_given_up_and_says_how_long_they_took() {
    let mut world = World::new();
    let policy = world.source.migrations.policy_mut();
    policy.overrun = Overrun::Resume { stops_max: 1 };
    let limit = policy.downtime_limit;
    world.start_until(Phase::Verifying);
    world.net.weather = Weather::Stalled;
    world.until(|world| world.source.house.runs("linux"));
    world.mend();
    world.until_quiet();
    world.assert_stayed("linux");
    let aborts = world.source.aborts("linux");
    let [AbortReason::LimitOverrun { limit: told, stops, stood_still }] = aborts[..] else {
        panic!("{}", world.state())
    };
    assert_eq!((told, stops, stood_still), (limit, 1, recalls(&world)[0].stood_still));
}
