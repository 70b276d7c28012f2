//! What a move would take, and what it then takes.

use godwit_migration::{AbortReason, Compression, Event, Impatience, Mode, Purpose};

use super::in_order;
use super::world::World;
use super::world::guest::Contents;
use super::world::link::Noise;
use super::world::plan::Plan;

/// An estimate changes nothing, and what it foretells is about what then happens.
#[test]
fn an_estimate_is_undone_and_is_about_right() {
    let (mut near, mut all) = (0, 0);
    for seed in 0..200 {
        let mut plan = Plan::calm(seed);
        plan.purpose = Purpose::Estimate;
        plan.wire.noise = Noise::default();
        let mut world = World::new(plan);
        world.migrate(1);
        in_order(&world);
        assert!(
            matches!(world.verdict(), Some(Event::Aborted(AbortReason::OnlyEstimated, _))),
            "{}",
            world.state()
        );
        let foretold = world.source.prediction.expect("that is what it was for");
        world.plan.purpose = Purpose::Move;
        world.migrate(2);
        in_order(&world);
        let Some(Event::Completed(report)) = world.verdict() else { panic!("{}", world.state()) };
        if foretold.ends {
            all += 1;
            let ratio = report.bytes_sent as f64 / foretold.bytes as f64;
            near += u32::from((0.5..2.0).contains(&ratio));
        }
    }
    println!("{near} of {all} were right about the bytes within a factor of two");
    assert!(all > 150 && near * 10 > all * 8, "{near} of {all}");
}

/// A sample of a guest that is mostly zero has a header for each zero page; the move has not.
#[test]
fn the_estimate_of_a_large_and_mostly_empty_guest_is_right_about_its_bytes() {
    for seed in 0..4 {
        let mut plan = Plan::calm(seed);
        plan.policy.mode = Mode::PreCopy;
        plan.policy.compression = Compression::Off;
        plan.policy.impatience = Impatience::StopAnyway;
        plan.purpose = Purpose::Estimate;
        plan.contents = Contents::Sparse;
        (plan.pages, plan.working_set) = (12_288, 1);
        plan.buffer_bytes = 64 * 1024;
        plan.wire.ns_per_byte = 10;
        plan.wire.noise = Noise::default();
        plan.spool = None;
        let mut world = World::new(plan);
        world.migrate(1);
        let foretold = world.source.prediction.expect("that is what it was for");
        world.plan.purpose = Purpose::Move;
        world.migrate(2);
        let Some(Event::Completed(report)) = world.verdict() else { panic!("{}", world.state()) };
        let ratio = foretold.bytes as f64 / report.bytes_sent as f64;
        assert!((0.8..1.25).contains(&ratio), "{} of {} bytes", foretold.bytes, report.bytes_sent);
    }
}
