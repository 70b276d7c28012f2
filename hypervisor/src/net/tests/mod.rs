//! Whole stacks over an in-memory wire.

mod dhcp;
mod hostile;
mod streams;
mod wire;

use alloc::boxed::Box;
use core::{net::Ipv4Addr, time::Duration};

use super::{Address, Card, Instant, Network, PingError, PingEvent, Settings};
use crate::drivers::net::{Nic, TcpOffload};
use wire::{End, Wire};

pub(super) const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(super) const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

pub(super) fn settings(address: Ipv4Addr) -> Settings {
    Settings::new(Address::Static { address, prefix_length: 24, gateway: None }, u64::from(address.to_bits()))
}

/// A card without an interrupt.
pub(super) fn card(nic: Box<dyn Nic>) -> Card {
    Card { nic, line: None, function: 0 }
}

/// Two hosts on one wire, and their clock.
pub(super) struct World {
    pub(super) wire: Wire,
    pub(super) a: Network,
    pub(super) b: Network,
    pub(super) now: Instant,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(Wire::new(), TcpOffload::Checksum)
    }

    pub(super) fn with(wire: Wire, offload: TcpOffload) -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        let a = Network::new(card(wire.nic(End::A, offload)), settings(A), now);
        let b = Network::new(card(wire.nic(End::B, offload)), settings(B), now);
        Self { wire, a, b, now }
    }

    /// One round: both poll, then time goes on by a millisecond.
    pub(super) fn step(&mut self) {
        self.a.poll(self.now);
        self.b.poll(self.now);
        self.now = self.now + Duration::from_millis(1);
    }

    pub(super) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.step();
        }
    }

    /// Steps until `done`, at most `limit`; says whether it came.
    pub(super) fn until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + limit;
        while self.now < end {
            if done(self) {
                return true;
            }
            self.step();
        }
        done(self)
    }
}

#[test]
fn a_ping_is_answered_and_summed_up() {
    let mut world = World::new();
    world.a.ping(B, 3).unwrap();
    world.run(Duration::from_secs(4));
    for sequence in 1..=3 {
        assert!(matches!(world.a.ping_event(), Some(PingEvent::Answer { sequence: s, .. }) if s == sequence));
    }
    assert_eq!(world.a.ping_event(), Some(PingEvent::Finished { sent: 3, received: 3 }));
    assert_eq!(world.a.ping_event(), None);
}

#[test]
fn a_ping_into_silence_says_so() {
    let mut world = World::new();
    world.wire.cut(true);
    world.a.ping(B, 2).unwrap();
    world.run(Duration::from_secs(6));
    assert_eq!(world.a.ping_event(), Some(PingEvent::Silence { sequence: 1 }));
    assert_eq!(world.a.ping_event(), Some(PingEvent::Silence { sequence: 2 }));
    assert_eq!(world.a.ping_event(), Some(PingEvent::Finished { sent: 2, received: 0 }));
}

#[test]
fn a_ping_to_nobody_is_refused() {
    let mut world = World::new();
    assert_eq!(world.a.ping(Ipv4Addr::UNSPECIFIED, 1), Err(PingError::BadTarget));
    assert_eq!(world.a.ping(Ipv4Addr::new(224, 0, 0, 1), 1), Err(PingError::BadTarget));
    assert_eq!(world.a.ping(B, 0), Err(PingError::BadTarget));
    world.a.ping(B, 5).unwrap();
    world.a.ping_cancel();
    world.run(Duration::from_secs(3));
    assert_eq!(world.a.ping_event(), None);
}

#[test]
fn without_an_interrupt_the_card_is_polled_by_time() {
    let mut world = World::new();
    world.run(Duration::from_millis(10));
    let next = world.a.poll_at(world.now).unwrap();
    assert!(next > world.now && next <= world.now + Duration::from_millis(50));
    assert!(!world.a.has_work());
}

#[test]
fn status_tells_a_person_what_is_there() {
    let mut world = World::new();
    world.b.listen(7100).unwrap();
    let stream = world.a.connect(core::net::SocketAddrV4::new(B, 7100)).unwrap();
    world.run(Duration::from_millis(20));
    let text = std::format!("{}{}", world.a.status(), world.b.status());
    for expected in ["10.0.0.1/24", "link up", "listening on TCP port 7100", "with 10.0.0.2:7100: open"] {
        assert!(text.contains(expected), "{expected:?} is not in {text}");
    }
    world.a.abort(stream).unwrap();
}
