//! Two hosts in one process: all migrations of each, joined by a network in memory, over guests in memory.
//!
//! A [`World`] is driven a millisecond at a time. After each the one thing is checked that must never be false: no
//! guest runs at two hosts. The engine has a simulation of its own, `migration/tests/`; what is looked at here is
//! what this room adds: which connection goes to which engine, what becomes of it, and who is told.

mod ceiling;
mod copies;
mod failures;
mod fake_guest;
mod fake_house;
mod fake_streams;
mod forge;
mod handover;
mod moves;
mod postcopy;
mod promises;
mod spools;
mod strangers;
mod urgent;
mod versions;

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;

use godwit_migration::{
    AbortReason, Command, Event, Instant, Phase, Policy, Purpose, SpoolPolicy, TargetPolicy,
};

use self::fake_guest::Key;
use self::fake_house::House;
use self::fake_streams::{Net, Weather};
use super::migrations::{Unheeded, View};
use super::{Migrations, Occurrence, Settings, Side, StartError, Wakeup, What};

const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const TARGET: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const PORT: u16 = 7100;
const TICK: Duration = Duration::from_millis(1);
/// Ticks that a world may take to get where a test wants it.
const TICKS_MAX: usize = 200_000;

/// A host: its migrations, its guests, and what its people were told.
struct Host {
    address: Ipv4Addr,
    migrations: Migrations<Key>,
    house: House,
    told: Vec<Occurrence>,
    wakeup: Wakeup,
}

impl Host {
    fn new(address: Ipv4Addr, incarnation: u64) -> Self {
        let settings = Settings {
            port: Some(PORT),
            policy: Policy::default(),
            target: TargetPolicy::default(),
            spool: SpoolPolicy::default(),
        };
        Self {
            address,
            migrations: Migrations::new(settings),
            house: House::new(incarnation),
            told: Vec::new(),
            wakeup: Wakeup::Now,
        }
    }

    fn poll(&mut self, now: Instant, net: &mut Net) {
        self.wakeup = self.migrations.poll(now, &mut net.at(self.address), &mut self.house);
        while let Some(occurrence) = self.migrations.next_occurrence() {
            self.told.push(occurrence);
        }
    }

    fn views(&self, now: Instant) -> Vec<View> {
        self.migrations.views(now, &self.house)
    }

    /// What the people here were told about `guest`.
    fn events(&self, guest: &str) -> impl Iterator<Item = &Event> {
        let about = self.told.iter().filter(move |occurrence| occurrence.guest == guest);
        about.filter_map(|occurrence| match &occurrence.what {
            What::Event(event) => Some(&**event),
            What::Stranger(_) => None,
        })
    }

    fn strangers(&self) -> Vec<&str> {
        let texts = self.told.iter().filter_map(|occurrence| match &occurrence.what {
            What::Stranger(why) => Some(why.as_str()),
            What::Event(_) => None,
        });
        texts.collect()
    }

    /// Why attempts to move `guest` ended, as told here.
    fn aborts(&self, guest: &str) -> Vec<AbortReason> {
        let reasons = self.events(guest).filter_map(|event| match event {
            Event::Aborted(reason, _) => Some(reason.clone()),
            _ => None,
        });
        reasons.collect()
    }

    fn completed(&self, guest: &str) -> usize {
        self.events(guest).filter(|event| matches!(event, Event::Completed(_))).count()
    }

    fn arrived(&self, guest: &str) -> usize {
        self.events(guest).filter(|event| matches!(event, Event::Arrived(_))).count()
    }
}

struct World {
    now: Instant,
    tick: Duration,
    net: Net,
    source: Host,
    target: Host,
}

impl World {
    /// A source with a guest `linux` that runs, and a target that listens.
    fn new() -> Self {
        let mut net = Net::new();
        net.listen(SOURCE, PORT);
        net.listen(TARGET, PORT);
        let (mut source, target) = (Host::new(SOURCE, 1), Host::new(TARGET, 2));
        source.house.boot("linux");
        Self { now: Instant::ORIGIN.after(TICK), tick: TICK, net, source, target }
    }

    fn start(&mut self, guest: &str) -> Result<(), StartError> {
        self.start_for(guest, Purpose::Move)
    }

    fn start_for(&mut self, guest: &str, purpose: Purpose) -> Result<(), StartError> {
        let to = ("b", SocketAddrV4::new(TARGET, PORT));
        let policy = self.source.migrations.settings().policy;
        self.source.migrations.start(self.now, &mut self.source.house, guest, to, (policy, purpose), None)
    }

    /// Begins to move `linux` and goes on until the source is in `phase`.
    fn start_until(&mut self, phase: Phase) {
        self.start("linux").unwrap();
        self.until(|world| world.phase(Side::Source) == Some(phase));
    }

    fn command(&mut self, side: Side, guest: &str, command: Command) -> Result<(), Unheeded> {
        let host = if side == Side::Source { &mut self.source } else { &mut self.target };
        host.migrations.command(self.now, &mut host.house, guest, command)
    }

    /// The phase of the first migration out of the source, or into the target.
    fn phase(&self, side: Side) -> Option<Phase> {
        let host = if side == Side::Source { &self.source } else { &self.target };
        host.views(self.now).iter().find(|view| view.side == side).map(|view| view.status.phase)
    }

    fn poll_source(&mut self) {
        self.source.poll(self.now, &mut self.net);
        self.check();
    }

    fn poll_target(&mut self) {
        self.target.poll(self.now, &mut self.net);
        self.check();
    }

    fn tick(&mut self) {
        self.now = self.now.after(self.tick);
        self.net.deliver(self.now);
        self.poll_source();
        self.poll_target();
        self.source.house.work();
        self.target.house.work();
    }

    fn check(&self) {
        for name in self.source.house.names() {
            let both = self.source.house.runs(name) && self.target.house.runs(name);
            assert!(!both, "{name} runs at two hosts");
        }
    }

    #[track_caller]
    fn until(&mut self, is_there: impl Fn(&Self) -> bool) {
        for _ in 0..TICKS_MAX {
            if is_there(self) {
                return;
            }
            self.tick();
        }
        panic!("it never came to that: {}", self.state());
    }

    /// Goes on for `time`, in larger steps if it is long.
    fn pass(&mut self, time: Duration) {
        self.tick = TICK.max(time / 500);
        let until = self.now.after(time);
        while self.now < until {
            self.tick();
        }
        self.tick = TICK;
    }

    /// Goes on until no host has a session.
    #[track_caller]
    fn until_quiet(&mut self) {
        self.until(|world| {
            world.source.views(world.now).is_empty() && world.target.views(world.now).is_empty()
        });
        self.assert_nothing_leaks();
    }

    #[track_caller]
    fn assert_nothing_leaks(&mut self) {
        self.pass(Duration::from_millis(20));
        for host in [SOURCE, TARGET] {
            assert_eq!(self.net.in_use(host), 0, "{host} has given up all of its connections");
            assert_eq!(self.net.queued(host), 0, "{host} has nothing left to send");
        }
        assert_eq!(self.source.house.places(), self.source.house.names().len());
        assert_eq!(self.target.house.places(), self.target.house.names().len());
        assert_eq!((self.source.wakeup, self.target.wakeup), (at_never(), at_never()));
    }

    /// `linux` runs at the target as it stood still at the source, and nowhere else.
    #[track_caller]
    fn assert_moved(&mut self, guest: &str) {
        assert_eq!(self.source.completed(guest), 1, "{}", self.state());
        assert_eq!(self.target.arrived(guest), 1, "{}", self.state());
        assert!(self.target.house.runs(guest) && !self.source.house.names().contains(&guest));
        let left = self.source.house.left.iter().rfind(|(name, _)| name == guest).map(|(_, content)| content);
        let started = self.target.house.started.iter().find(|(name, _)| name == guest);
        assert!(left == started.map(|(_, content)| content), "RAM and devices are those of the source");
        self.target.house.find(guest).expect("it runs").assert_memory();
        assert!(self.source.house.departed.contains(&(guest.to_string(), "b".to_string())));
    }

    /// The guest is at the source as if nothing had happened, and nothing of it is at the target.
    #[track_caller]
    fn assert_stayed(&mut self, guest: &str) {
        assert!(self.source.house.is_untouched(guest), "{}", self.state());
        assert!(!self.target.house.names().contains(&guest), "{}", self.state());
    }

    /// Puts the cut connection right again.
    fn mend(&mut self) {
        self.net.weather = Weather::Fair;
    }

    fn state(&self) -> String {
        let phases = |host: &Host| -> Vec<Phase> {
            host.views(self.now).iter().map(|view| view.status.phase).collect()
        };
        alloc::format!(
            "at {}: source {:?} told {:#?}, target {:?} told {:#?}",
            self.now,
            phases(&self.source),
            self.source.told,
            phases(&self.target),
            self.target.told
        )
    }
}

/// Nothing to do until something arrives.
const fn at_never() -> Wakeup {
    Wakeup::At(Instant::NEVER)
}
