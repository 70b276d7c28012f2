//! A person changes the limits while the guest is on its way.

use std::time::Duration;

use godwit_migration::{Compression, Event, Mode, Next, Overrun, Report, Why};

use super::live;
use super::world::World;
use super::world::guest::Contents;
use super::world::link::Noise;
use super::world::plan::{Fault, Plan};
use super::world::random::Random;
use super::world::third::SpoolPlan;

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
        let world = live(plan(seed, 40_000));
        let judgement = world.judgement().expect("a round has ended");
        assert_eq!(judgement.next, Next::Stop);
        assert!(judgement.downtime.is_some_and(|downtime| downtime <= judgement.limit), "{judgement:?}");
        let patient = report(&world);
        assert!(patient.post_copy.is_none(), "it goes by rounds");
        let world = live(Plan { faults: vec![(12, Fault::Mode(Mode::PostCopy))], ..plan(seed, 40_000) });
        assert_eq!(world.judgement().map(|judgement| judgement.next), Some(Next::Switch(Why::Asked)));
        let post_copy = report(&world).post_copy.expect("it is switched");
        assert!(post_copy.pages > 60, "most of it goes after the switch: {}", post_copy.pages);
        assert!(report(&world).rounds == 1);
    }
}

/// A person who cannot leave mode and cap alone, and a guest of which a round takes long, so that much is passed over, put
/// aside or on its way whenever that happens.
#[test]
fn modes_and_caps_may_change_at_any_moment_of_a_long_move() {
    let seeds = std::env::var("SEEDS").map_or(300, |seeds| seeds.parse().expect("SEEDS is a number"));
    for seed in 0..seeds {
        println!("SEED={seed}");
        let mut random = Random::new(seed);
        let mut plan = Plan::wild(seed).restless();
        plan.offers_post_copy = true;
        plan.pages = random.between(130, 400) as u32;
        plan.working_set = random.between(1, plan.pages.into());
        plan.contents = *random.pick(&[Contents::Recurring, Contents::HalfNoise, Contents::MostlyNoise]);
        plan.policy.compression = Compression::Adaptive;
        plan.policy.bandwidth_bytes_per_second = random.one_in(2).then(|| random.between(300_000, 3_000_000));
        plan.policy.duration_max = Duration::from_secs(30);
        plan.wire.ns_per_byte = random.between(10, 4000);
        plan.write_period = random.micros(500, 30_000);
        // So much is sent that a wire which spoils every fifth message never comes to an end.
        plan.wire.noise = Noise { stall: plan.wire.noise.stall, ..Noise::default() };
        for _ in 0..random.between(1, 6) {
            let fault = match random.one_in(2) {
                true => Fault::Mode(*random.pick(&Mode::ALL)),
                false => Fault::Cap(random.between(200_000, 5_000_000)),
            };
            plan.faults.push((random.between(2, 150), fault));
        }
        plan.faults.sort_by_key(|(at, _)| *at);
        live(plan);
    }
}

/// It says how long it waits only once it has built the guest.
#[test]
fn a_target_of_little_patience_may_take_its_time_to_build_the_guest() {
    for seed in 0..10 {
        let mut plan = plan(seed, 4_000_000);
        plan.policy.overrun = Overrun::CarryThrough;
        plan.policy.peer_timeout = Duration::from_secs(8);
        plan.target_policy.peer_timeout = Duration::from_secs(1);
        plan.step_latency_us = 3_000_000;
        live(plan);
    }
}

/// Each host says how long it waits for a sign of life, and the other goes by that on every connection.
#[test]
fn hosts_of_different_patience_stay_connected() {
    let times = [1, 8].map(Duration::from_secs);
    for (ours, theirs) in [(times[1], times[0]), (times[0], times[1])] {
        for seed in 0..5 {
            // It takes some six seconds, in which nobody waits for a page.
            let mut plan = plan(seed, 80_000);
            plan.policy.mode = Mode::PostCopy;
            plan.policy.peer_timeout = ours;
            (plan.target_policy.peer_timeout, plan.spool_policy.peer_timeout) = (theirs, theirs);
            plan.write_period = Duration::from_secs(60);
            for spool in [None, Some(SpoolPlan { pages: u32::MAX / 2, is_busy: false })] {
                let mut world = World::new(Plan { spool, ..plan.clone() });
                world.migrate(1);
                let post_copy = report(&world).post_copy.expect("all goes after the switch");
                assert!(post_copy.filling > times[0] * 3, "{post_copy:?}");
                assert_eq!(post_copy.interruptions, 0, "{ours:?} here, {theirs:?} there: {}", world.state());
                let is_lost = world.trace.iter().any(|line| line.contains("Unavailable"));
                assert!(!is_lost, "{ours:?} here, {theirs:?} at the spool: {}", world.state());
            }
        }
    }
}
