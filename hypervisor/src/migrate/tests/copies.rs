//! Guests that stay and are copied.

use core::net::SocketAddrV4;
use core::time::Duration;

use godwit_migration::{
    AbortReason, Command, Event, Generation, GuestFailure, GuestId, Mode, Phase, Refusal, Step,
};

use super::super::{Side, StartError};
use super::fake_streams::Weather;
use super::{Host, PORT, TARGET, World};

const COPY: &str = "linux-clone";

impl World {
    fn start_clone(&mut self, copy: &str) -> Result<(), StartError> {
        let to = ("b", SocketAddrV4::new(TARGET, PORT));
        let policy = self.source.migrations.settings().policy;
        self.source.migrations.start_clone(self.now, &mut self.source.house, "linux", to, (policy, copy))
    }

    fn clone_until(&mut self, phase: Phase) {
        self.start_clone(COPY).unwrap();
        self.until(|world| world.phase(Side::Source) == Some(phase));
    }

    fn id(&self, side: Side, guest: &str) -> GuestId {
        let host = if side == Side::Source { &self.source } else { &self.target };
        host.house.find(guest).expect("it is there").id
    }

    /// The guest is as if nothing had happened, and a copy of it, which is another guest, runs at the target.
    #[track_caller]
    fn assert_cloned(&mut self, copy: &str) {
        self.assert_original();
        assert_eq!(self.source.completed("linux"), self.target.arrived(copy), "{}", self.state());
        assert!(self.target.house.runs(copy), "{}", self.state());
        assert_ne!(self.id(Side::Source, "linux"), self.id(Side::Target, copy));
        let made = self.target.house.find(copy).expect("it runs");
        assert_eq!(made.generation, Generation::FIRST, "it begins a life of its own");
        let left = self.source.house.left.last().map(|(_, content)| content);
        let started = self.target.house.started.iter().rfind(|(name, _)| name == copy);
        assert!(left == started.map(|(_, content)| content), "it began as the guest was in its stop");
        self.pass(Duration::from_millis(100));
        let writes = |host: &Host, name| host.house.find(name).expect("it runs").writes;
        let before = (writes(&self.source, "linux"), writes(&self.target, copy));
        self.pass(Duration::from_millis(100));
        assert!(writes(&self.source, "linux") > before.0 && writes(&self.target, copy) > before.1);
        self.source.house.find("linux").expect("it runs").assert_memory();
        self.target.house.find(copy).expect("it runs").assert_memory();
    }

    #[track_caller]
    fn assert_original(&self) {
        assert!(self.source.house.is_untouched("linux"), "{}", self.state());
        let guest = self.source.house.find("linux").expect("it runs");
        let permit = guest.permit.as_ref().expect("it runs");
        assert_eq!((permit.guest(), permit.generation()), (guest.id, Generation::FIRST));
        assert!(self.source.house.departed.is_empty(), "nobody has left");
    }
}

#[test]
fn a_clone_ends_in_two_guests() {
    let mut world = World::new();
    world.source.house.get("linux").pages_per_tick = 2;
    world.start_clone(COPY).unwrap();
    world.until_quiet();
    world.assert_cloned(COPY);
    assert!(world.source.told.iter().all(|told| told.copy.as_deref() == Some(COPY)));
    assert_eq!(world.net.made(super::SOURCE), 1, "nobody waits for pages");
    assert!(!world.source.house.steps.contains(&Step::Discard));
}

#[test]
fn each_clone_is_another_guest_and_the_guest_can_still_be_moved() {
    let mut world = World::new();
    for copy in [COPY, "linux-2"] {
        world.start_clone(copy).unwrap();
        world.until_quiet();
        world.assert_original();
    }
    assert_ne!(world.id(Side::Target, COPY), world.id(Side::Target, "linux-2"));
    world.start("linux").unwrap();
    world.until_quiet();
    assert!(world.target.house.runs("linux") && world.target.house.runs(COPY));
    assert!(world.target.events("linux").any(|event| *event == Event::Arrived(Generation(2))));
}

#[test]
fn a_guest_that_is_cloned_shows_it_and_is_not_moved_meanwhile() {
    let mut world = World::new();
    world.source.migrations.policy_mut().mode = Mode::PostCopy;
    world.clone_until(Phase::PreCopy);
    let views = world.source.views(world.now);
    assert_eq!(views[0].copy.as_deref(), Some(COPY));
    assert_eq!(views[0].policy.map(|policy| policy.mode), Some(Mode::PreCopy), "whatever moves do");
    assert_eq!(world.source.migrations.copy_of("linux"), Some(COPY));
    let already = Err(StartError::AlreadyMigrating("linux".into()));
    assert_eq!((world.start("linux"), world.start_clone("other")), (already.clone(), already));
    world.until_quiet();
    world.assert_cloned(COPY);
    assert_eq!(world.source.migrations.copy_of("linux"), None);
}

#[test]
fn the_guest_runs_before_the_target_has_answered() {
    let mut world = World::new();
    world.start_clone(COPY).unwrap();
    world.until(|world| world.source.house.steps.contains(&Step::SaveState));
    assert!(!world.source.house.runs("linux"));
    world.until(|world| world.source.house.runs("linux"));
    world.net.weather = Weather::Stalled;
    world.pass(Duration::from_secs(2));
    assert_eq!(world.phase(Side::Source), Some(Phase::Verifying));
    assert!(world.source.house.runs("linux"));
    world.mend();
    world.until_quiet();
    world.assert_cloned(COPY);
    let report = world.source.events("linux").find_map(|event| match event {
        Event::Completed(report) => Some(report.downtime),
        _ => None,
    });
    assert!(report.is_some_and(|downtime| downtime.total < Duration::from_millis(100)), "{report:?}");
}

#[test]
fn a_lost_commit_costs_the_guest_nothing_and_the_copy_runs_in_the_end() {
    let mut world = World::new();
    world.clone_until(Phase::Committing);
    world.net.cut();
    world.pass(Duration::from_millis(50));
    assert_eq!(world.phase(Side::Source), Some(Phase::CommitUnknown));
    assert!(world.source.house.runs("linux") && !world.target.house.runs(COPY));
    world.mend();
    world.until_quiet();
    world.assert_cloned(COPY);
}

#[test]
fn a_target_that_was_restarted_ends_the_attempt_without_anybody_to_decide() {
    let mut world = World::new();
    world.clone_until(Phase::Committing);
    world.net.cut();
    world.pass(Duration::from_millis(50));
    world.target = Host::new(TARGET, 3);
    world.mend();
    world.until_quiet();
    world.assert_original();
    assert_eq!(world.source.aborts("linux"), [AbortReason::CopyUnknown]);
    assert!(world.target.house.names().is_empty());
    world.start_clone(COPY).unwrap();
    world.until_quiet();
    world.assert_cloned(COPY);
}

#[test]
fn a_clone_is_cancelled_at_any_time_and_says_what_it_does_not_know() {
    for phase in
        [Phase::PreCopy, Phase::StopAndCopy, Phase::Verifying, Phase::Committing, Phase::CommitUnknown]
    {
        let mut world = World::new();
        if phase == Phase::CommitUnknown {
            world.clone_until(Phase::Committing);
            world.net.cut();
            world.until(|world| world.phase(Side::Source) == Some(Phase::CommitUnknown));
        } else {
            world.clone_until(phase);
        }
        for word in [Command::Reclaim, Command::Release] {
            world.command(Side::Source, "linux", word).unwrap_err();
        }
        world.command(Side::Source, "linux", Command::Cancel).unwrap();
        world.until(|world| world.source.views(world.now).is_empty());
        world.pass(Duration::from_millis(10));
        world.assert_original();
        let is_told = matches!(phase, Phase::Committing | Phase::CommitUnknown);
        let end = if is_told { AbortReason::CopyMayRun } else { AbortReason::Cancelled };
        assert_eq!(world.source.aborts("linux"), [end], "{phase}");
        world.mend();
        // What the target has it drops by itself, or it keeps a copy that runs and waits no longer than for ten minutes.
        world.pass(Duration::from_secs(620));
        world.until_quiet();
        assert!(is_told || world.target.house.names().is_empty(), "{phase}");
    }
}

#[test]
fn a_name_that_is_taken_at_the_target_is_refused() {
    let mut world = World::new();
    world.target.house.boot(COPY);
    world.start_clone(COPY).unwrap();
    world.until_quiet();
    world.assert_original();
    assert_eq!(world.source.aborts("linux"), [AbortReason::Refused([Refusal::AlreadyThere].into())]);
}

#[test]
fn a_guest_that_cannot_be_run_again_at_once_is_tried_again_and_no_copy_runs() {
    let mut world = World::new();
    world.source.house.failing.push((Step::Run, GuestFailure::Host("busy".into())));
    world.start_clone(COPY).unwrap();
    world.until_quiet();
    world.assert_original();
    assert!(matches!(world.source.aborts("linux")[..], [AbortReason::Guest(Step::Run, _)]));
    assert!(world.target.house.names().is_empty());
}

#[test]
fn a_target_that_cannot_run_the_copy_leaves_the_guest_alone() {
    let mut world = World::new();
    world.target.house.failing.push((Step::Run, GuestFailure::Host("broken".into())));
    world.start_clone(COPY).unwrap();
    world.until_quiet();
    world.assert_original();
    assert!(matches!(world.source.aborts("linux")[..], [AbortReason::PeerGuest(Step::Run, _)]));
    assert!(world.target.house.names().is_empty());
}
