//! Worlds in which the guest is cloned. What is looked at in every step: the guest itself runs, or is within a stop that the
//! ceiling bounds. What is looked at in the end: it is as if nothing had happened to it, and its copy, if it runs, is another
//! guest that began as the guest was when it stood still.

use std::collections::BTreeMap;
use std::time::Duration;

use godwit_migration::{AbortReason, Event, Generation, Step};

use super::guest::Truth;
use super::plan::{Fault, Plan};
use super::{COPY, GUEST, Happening, World};

/// Clone worlds that are run for each five of the others.
const SEEDS: u64 = 2000;

impl World {
    /// What RAM and devices must be at the target.
    pub(super) fn truth_there(&self) -> &Truth {
        self.copy.as_ref().unwrap_or(&self.truth)
    }

    /// Whether those that run at the two hosts are two guests.
    pub(super) fn are_apart(&self) -> bool {
        let who = |guest: &Option<super::guest::Instance>| {
            guest.as_ref().and_then(|guest| guest.permit.as_ref()).map(|permit| permit.guest())
        };
        (who(&self.source.guest), who(&self.target.guest)) == (Some(GUEST), Some(COPY))
    }

    /// The guest and its copy write, each where it runs, and each its own.
    pub(super) fn write_apart(&mut self) {
        let mut period = self.plan.write_period;
        let Self { source, target, truth, copy, random, guest_ended, .. } = self;
        let both = [(&mut source.guest, Some(truth)), (&mut target.guest, copy.as_mut())];
        for (guest, truth) in both.into_iter().filter(|_| !*guest_ended) {
            let (Some(guest), Some(truth)) = (guest, truth) else { continue };
            if guest.permit.is_none() {
                continue;
            }
            let page = truth.choose(random);
            assert!(guest.ram.pages[page as usize] == truth.pages[page as usize], "page {page} is stale");
            let content = truth.write(random, page);
            guest.ram.guest_writes(page, &content);
            period = period * 100 / u32::from(100 - guest.throttle);
        }
        self.after(period, Happening::Write);
    }
}

/// One attempt to clone the guest of `plan`; afterwards everything must be in order, and a second attempt in peace must
/// succeed if none has. The world, and how the first attempt ended.
fn live(plan: Plan) -> (World, String) {
    let plan = plan.cloning();
    let (is_calm, pages) = (plan.is_calm(), plan.pages);
    let mut world = World::new(plan);
    world.migrate(1);
    in_order(&world);
    let end = end(&world);
    if is_calm {
        assert!(matches!(world.verdict(), Some(Event::Completed(_))), "a calm world: {}", world.state());
    }
    let can_try_again = world.source.is_alive
        && world.source.guest.as_ref().is_some_and(|guest| guest.permit.is_some())
        && !world.guest_ended;
    if can_try_again && world.target.guest.is_none() && pages < 64 {
        world.make_peace();
        world.copies = 0;
        world.migrate(2);
        in_order(&world);
        assert!(matches!(world.verdict(), Some(Event::Completed(_))), "the retry: {}", world.state());
    }
    (world, end)
}

/// How the last attempt ended, in a word.
fn end(world: &World) -> String {
    match world.verdict() {
        Some(Event::Completed(_)) => "completed".to_string(),
        Some(Event::Aborted(reason, _)) => {
            format!("{reason:?}").split(['(', ' ', '{']).next().unwrap_or_default().to_string()
        }
        _ => "died".to_string(),
    }
}

/// What must hold when an attempt is over.
fn in_order(world: &World) {
    if world.source.engine.is_some() {
        let guest = world.source.guest.as_ref().expect("nothing takes it away");
        let permit = guest.permit.as_ref();
        let is_itself =
            permit.is_some_and(|permit| permit.guest() == GUEST && permit.generation() == Generation::FIRST);
        // A person may run one that its host failed to run.
        assert!(is_itself || world.source.is_held, "the guest does not run on as itself: {}", world.state());
        let untidied = world.trace.iter().any(|line| line.contains("CleanupFailed"));
        assert!(!guest.ram.log_is_on() || untidied, "the log is still on: {}", world.state());
        assert!(guest.throttle == 0 || world.guest_ended || untidied, "still throttled: {}", world.state());
        world.check_guest(true);
        assert!(world.source.is_held || world.source.still_since.is_none(), "{}", world.state());
    }
    if world.target_guest_runs() {
        world.check_guest(false);
    }
    match world.verdict() {
        Some(Event::Completed(report)) => {
            assert_eq!(world.copies, 1, "completed, but it never ran: {}", world.state());
            let Truth { writes, .. } = world.copy.as_ref().expect("it stood still once");
            assert!(*writes > 0 && report.post_copy.is_none());
        }
        Some(Event::Aborted(AbortReason::CopyMayRun | AbortReason::CopyUnknown, _)) => {}
        Some(Event::Aborted(..)) => {
            assert_eq!(world.copies, 0, "it runs, and is said not to: {}", world.state());
            let untidied = world.trace.iter().any(|line| line.contains("CleanupFailed"));
            assert!(world.target.guest.is_none() || untidied, "something is left: {}", world.state());
        }
        // The source has died.
        None => assert!(world.source.guest.is_none(), "no last word: {}", world.state()),
        Some(event) => panic!("not a last word: {event:?}"),
    }
}

fn plan_of(seed: u64) -> Plan {
    if seed.is_multiple_of(5) { Plan::calm(seed) } else { Plan::wild(seed) }
}

#[test]
fn clones_in_thousands_of_worlds_leave_the_guest_alone() {
    if let Ok(seed) = std::env::var("SEED") {
        let plan = plan_of(seed.parse().expect("SEED is a number"));
        println!("{plan:#?}");
        println!("{}", live(plan).0.state());
        return;
    }
    let seeds = std::env::var("SEEDS").map_or(SEEDS, |seeds| seeds.parse::<u64>().expect("a number") / 5);
    let mut ends = BTreeMap::<String, u64>::new();
    for seed in 0..seeds {
        println!("SEED={seed}");
        let (_, end) = live(plan_of(seed));
        *ends.entry(end).or_default() += 1;
    }
    println!("{ends:?}");
    // Worlds in which nothing ever goes wrong, or right, would prove nothing.
    let often =
        |end: &str, least: u64| assert!(ends.get(end).is_some_and(|it| *it >= least), "{end}: {ends:?}");
    often("completed", seeds / 3);
    often("LinkLost", seeds / 200);
    often("died", seeds / 200);
}

/// Each fault after every single message of a clone.
#[test]
fn every_fault_after_every_message_of_a_clone_is_survived() {
    let time = Duration::from_secs(1);
    let faults = [
        Fault::Cut,
        Fault::Partition(time * 5),
        Fault::Partition(time * 100),
        Fault::Freeze(time * 9),
        Fault::CrashSource(time),
        Fault::CrashTarget(time),
        Fault::CancelAtSource,
        Fault::CancelAtTarget,
        Fault::GuestEnds,
    ];
    let mut ends = BTreeMap::<String, u32>::new();
    for seed in 0..6 {
        let mut plan = Plan::calm(seed);
        plan.pages = plan.pages.min(40);
        plan.working_set = plan.working_set.min(plan.pages.into());
        let messages = live(plan.clone()).0.messages;
        for at in 1..=messages {
            for fault in faults {
                let (_, end) = live(Plan { faults: vec![(at, fault)], ..plan.clone() });
                *ends.entry(end).or_default() += 1;
            }
        }
        for step in [Step::Pause, Step::HarvestDirtyLog, Step::SaveState, Step::Run, Step::StopDirtyLog] {
            for nth in 0..3 {
                live(Plan { failing_steps: vec![step], failing_after: nth, ..plan.clone() });
            }
        }
    }
    println!("{ends:?}");
    for end in ["completed", "LinkLost", "Cancelled", "CopyMayRun", "CopyUnknown", "GuestEnded", "died"] {
        assert!(ends.contains_key(end), "{end}: {ends:?}");
    }
}

/// Two faults, the second while the first is being dealt with.
#[test]
fn two_faults_around_the_end_of_a_clone_are_survived() {
    let time = Duration::from_millis(1500);
    let faults = [
        Fault::Cut,
        Fault::Partition(time),
        Fault::CrashTarget(time),
        Fault::CancelAtTarget,
        Fault::CancelAtSource,
    ];
    let mut plan = Plan::calm(3);
    plan.pages = 12;
    plan.working_set = 3;
    let messages = live(plan.clone()).0.messages;
    for first in messages.saturating_sub(8)..=messages {
        for second in first..=first + 6 {
            for one in faults {
                for other in faults {
                    live(Plan { faults: vec![(first, one), (second, other)], ..plan.clone() });
                }
            }
        }
    }
}

/// What is reported is how long the guest stood still, and that does not wait for the network.
#[test]
fn the_downtime_of_a_clone_has_no_round_trip_in_it() {
    let (mut shorter, mut all) = (0, 0);
    for seed in 0..200 {
        let mut plan = Plan::calm(seed);
        plan.wire.noise = super::link::Noise::default();
        plan.wire.latency = Duration::from_millis(60);
        plan.policy.downtime_limit = Duration::from_millis(300);
        let (world, _) = live(plan);
        let Some(Event::Completed(report)) = world.verdict() else { panic!("calm: {}", world.state()) };
        if world.source.is_overruled {
            continue;
        }
        let downtime = report.downtime;
        assert!(downtime.total <= world.plan.policy.downtime_limit + world.granularity(), "{downtime:?}");
        assert_eq!(downtime.commit, Duration::ZERO, "the commit costs the guest nothing");
        all += 1;
        shorter += u32::from(downtime.total < world.plan.wire.latency * 2);
    }
    assert!(all > 150 && shorter * 10 > all * 9, "{shorter} of {all} were shorter than a round trip");
}
