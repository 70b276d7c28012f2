//! A person changes the limits while the guest is on its way.

use std::time::Duration;

use godwit_migration::{Compression, Event, Mode, Report};

use super::live;
use super::world::World;
use super::world::guest::Contents;
use super::world::link::Noise;
use super::world::plan::{Fault, Plan};

/// A guest of noise in a world that goes by the cap alone.
fn plan(seed: u64, bytes_per_second: u64) -> Plan {
    let mut plan = Plan::calm(seed);
    plan.policy.mode = Mode::PreCopy;
    plan.policy.compression = Compression::Off;
    plan.policy.bandwidth_bytes_per_second = Some(bytes_per_second);
    plan.policy.downtime_limit = Duration::from_secs(2);
    plan.offers_post_copy = true;
    plan.contents = Contents::MostlyNoise;
    (plan.pages, plan.working_set) = (120, 4);
    plan.write_period = Duration::from_millis(50);
    plan.buffer_bytes = 16 * 1024;
    plan.wire.ns_per_byte = 20;
    plan.wire.latency = Duration::from_millis(1);
    plan.wire.stall = Duration::ZERO;
    plan.wire.noise = Noise::default();
    plan.spool = None;
    plan
}

fn report(world: &World) -> Report {
    let Some(Event::Completed(report)) = world.verdict() else { panic!("{}", world.state()) };
    **report
}

#[test]
fn a_cap_that_is_lifted_or_lowered_counts_at_once() {
    for seed in 0..5 {
        let (slow, fast) = (80_000, 4_000_000);
        let alone = |rate| report(&live(plan(seed, rate))).total;
        let (slowly, quickly) = (alone(slow), alone(fast));
        assert!(slowly > 20 * quickly, "{slowly:?} {quickly:?}");
        let lifted = report(&live(Plan { faults: vec![(8, Fault::Cap(fast))], ..plan(seed, slow) })).total;
        assert!(lifted < slowly / 4, "lifted after a few frames: {lifted:?} of {slowly:?}");
        let lowered = report(&live(Plan { faults: vec![(8, Fault::Cap(slow))], ..plan(seed, fast) })).total;
        assert!(lowered > slowly / 2, "lowered after a few frames: {lowered:?} of {slowly:?}");
    }
}

/// "Emptied now" is not in an hour, when the round is over that a slow wire makes long.
#[test]
fn a_round_ends_for_a_person_who_wants_the_switch() {
    for seed in 0..5 {
        let patient = report(&live(plan(seed, 40_000)));
        assert!(patient.post_copy.is_none(), "it goes by rounds");
        let world = live(Plan { faults: vec![(12, Fault::Mode(Mode::PostCopy))], ..plan(seed, 40_000) });
        let post_copy = report(&world).post_copy.expect("it is switched");
        assert!(post_copy.pages > 60, "most of it goes after the switch: {}", post_copy.pages);
        assert!(report(&world).rounds == 1);
    }
}
