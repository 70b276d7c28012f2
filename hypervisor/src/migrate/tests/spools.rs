//! A third host that keeps pages for the target.

use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;

use godwit_migration::{Command, Event, Mode, Phase, Policy, Purpose, SpoolEnd, SpoolEvent};

use super::super::{Side, Wakeup};
use super::{Host, PORT, SOURCE, TARGET, World};

const THIRD: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);

/// Two hosts, and a third.
struct Trio {
    world: World,
    third: Host,
}

impl Trio {
    /// `linux` begins to move by post-copy; what goes after the switch goes to the third host, too.
    fn start() -> Self {
        let mut world = World::new();
        world.net.portion_max = 512;
        world.net.listen(THIRD, PORT);
        let to = ("b", SocketAddrV4::new(TARGET, PORT));
        let policy = Policy { mode: Mode::PostCopy, ..Policy::default() };
        let spool = Some(("c", SocketAddrV4::new(THIRD, PORT)));
        world
            .source
            .migrations
            .start(world.now, &mut world.source.house, "linux", to, (policy, Purpose::Move), spool)
            .unwrap();
        Self { world, third: Host::new(THIRD, 3) }
    }

    #[track_caller]
    fn until(&mut self, is_there: impl Fn(&Self) -> bool) {
        for _ in 0..super::TICKS_MAX {
            if is_there(self) {
                return;
            }
            self.world.tick();
            self.third.poll(self.world.now, &mut self.world.net);
        }
        panic!("it never came to that: {}; third: {:#?}", self.world.state(), self.third.told);
    }

    fn is_told(host: &Host, is_it: impl Fn(&SpoolEvent) -> bool) -> bool {
        host.events("linux").any(|event| matches!(event, Event::Spool(event) if is_it(event)))
    }

    /// The source dies with all that it has.
    fn kill_source(&mut self) {
        self.world.net.cut();
        self.world.source = Host::new(SOURCE, 9);
        self.until(|trio| trio.world.phase(Side::Target) == Some(Phase::Recovering));
        self.world.mend();
    }
}

#[test]
fn a_guest_whose_source_dies_is_made_whole_by_the_third_host() {
    let mut trio = Trio::start();
    trio.until(|trio| Trio::is_told(&trio.third, |event| matches!(event, SpoolEvent::Filled { .. })));
    assert!(Trio::is_told(&trio.world.source, |event| matches!(event, SpoolEvent::Whole { .. })));
    let views = trio.third.views(trio.world.now);
    let kept = views.iter().find(|view| view.side == Side::Spool).expect("it is listed");
    assert_eq!((&*kept.guest, &*kept.peer, kept.third.as_deref()), ("linux", "b", Some("10.0.0.1")));
    assert!(kept.status.post_copy.is_some_and(|it| it.is_whole && it.spool.is_some_and(|it| it.pages > 30)));
    trio.kill_source();
    trio.until(|trio| Trio::is_told(&trio.third, |event| matches!(event, SpoolEvent::Over(_))));
    trio.world.target.house.find("linux").expect("it runs").assert_memory();
    assert!(trio.world.target.house.runs("linux"));
    let whole = |event: &SpoolEvent| matches!(event, SpoolEvent::Spent { left: 0, is_verified: true, .. });
    assert!(Trio::is_told(&trio.world.target, whole), "{}", trio.world.state());
    trio.until(|trio| trio.third.views(trio.world.now).is_empty());
    assert_eq!(trio.world.net.in_use(THIRD), 0);
}

#[test]
fn a_third_host_that_has_not_all_gives_what_it_has_and_the_rest_is_named() {
    let mut trio = Trio::start();
    trio.until(|trio| {
        let views = trio.third.views(trio.world.now);
        views
            .iter()
            .any(|view| view.status.post_copy.is_some_and(|it| it.spool.is_some_and(|it| it.pages > 30)))
    });
    trio.kill_source();
    trio.until(|trio| Trio::is_told(&trio.third, |event| matches!(event, SpoolEvent::Over(_))));
    let lacking = |event: &SpoolEvent| matches!(event, SpoolEvent::Spent { pages: 10.., left: 1.., .. });
    assert!(Trio::is_told(&trio.world.target, lacking), "{}", trio.world.state());
    trio.world.command(Side::Target, "linux", Command::TakeOver).unwrap();
    trio.until(|trio| {
        trio.world.target.events("linux").any(|event| matches!(event, Event::MemoryLost { .. }))
    });
}

#[test]
fn the_third_host_lets_go_when_the_guest_has_moved_and_by_a_persons_word() {
    let mut trio = Trio::start();
    trio.until(|trio| trio.world.source.completed("linux") == 1);
    let released = |event: &SpoolEvent| *event == SpoolEvent::Over(SpoolEnd::ReleasedBySource);
    trio.until(|trio| Trio::is_told(&trio.third, released));
    trio.until(|trio| trio.third.views(trio.world.now).is_empty());
    trio.world.until_quiet();
    assert_eq!(trio.third.wakeup, Wakeup::At(godwit_migration::Instant::NEVER));

    let mut trio = Trio::start();
    trio.until(|trio| !trio.third.views(trio.world.now).is_empty() && trio.third.events("linux").count() > 0);
    let now = trio.world.now;
    trio.third.migrations.command(now, &mut trio.third.house, "linux", Command::Release).unwrap();
    trio.until(|trio| Trio::is_told(&trio.world.source, |event| matches!(event, SpoolEvent::Unavailable(_))));
    trio.until(|trio| trio.world.source.completed("linux") == 1);
    assert!(trio.third.views(trio.world.now).is_empty());
}

#[test]
fn a_third_host_that_is_not_there_or_refuses_is_told_once_and_hinders_nothing() {
    let mut trio = Trio::start();
    trio.world.net.unlisten(THIRD);
    trio.until(|trio| trio.world.source.completed("linux") == 1);
    let troubles = trio.world.source.events("linux");
    assert_eq!(troubles.filter(|event| matches!(event, Event::Spool(_))).count(), 1);
    trio.world.pass(Duration::from_millis(20));
    trio.world.target.house.find("linux").expect("it is there").assert_memory();
    assert!(trio.world.target.house.runs("linux") && trio.world.source.house.names().is_empty());
}
