//! DHCP against a small server of the test's own.

use alloc::vec::Vec;
use core::{net::Ipv4Addr, time::Duration};

use super::{
    super::{Address, Instant, Network, Settings, stream},
    wire::{End, Wire},
};
use crate::drivers::net::TcpOffload;

const SERVER: [u8; 4] = [10, 0, 0, 254];
const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const OFFERED: [u8; 4] = [10, 0, 0, 77];

/// The value of a DHCP option in a message that starts at byte 42 of a frame.
fn option(frame: &[u8], wanted: u8) -> Option<&[u8]> {
    let mut at = 42 + 240;
    while *frame.get(at)? != 255 {
        let length = usize::from(frame[at + 1]);
        if frame[at] == wanted {
            return Some(&frame[at + 2..at + 2 + length]);
        }
        at += 2 + length;
    }
    None
}

/// What a server says of itself, and for how many seconds.
#[derive(Clone, Copy, Debug)]
struct Server {
    /// Where its answers come from.
    source: [u8; 4],
    /// How it calls itself.
    identifier: [u8; 4],
    router: [u8; 4],
    lease_s: u32,
}

const HONEST: Server = Server { source: SERVER, identifier: SERVER, router: SERVER, lease_s: 3600 };

impl Server {
    /// Answers a DISCOVER with an OFFER and a REQUEST with an ACK, as RFC 2131 lays the message out.
    fn answer(self, question: &[u8]) -> Option<Vec<u8>> {
        let kind = match option(question, 53)?.first()? {
            1 => 2,
            3 => 5,
            _ => return None,
        };
        let mut message = question[42..42 + 240].to_vec();
        message[0] = 2;
        message[16..20].copy_from_slice(&OFFERED);
        message[20..24].copy_from_slice(&SERVER);
        message.extend([53, 1, kind, 54, 4]);
        message.extend(self.identifier);
        message.extend([51, 4]);
        message.extend(self.lease_s.to_be_bytes());
        message.extend([1, 4, 255, 255, 255, 0, 3, 4]);
        message.extend(self.router);
        message.push(255);
        let mut frame = Vec::new();
        frame.extend([0xff; 6]);
        frame.extend(SERVER_MAC);
        frame.extend([8, 0]);
        let total = (28 + message.len()) as u16;
        let mut ip = Vec::from([0x45, 0]);
        ip.extend(total.to_be_bytes());
        ip.extend([0, 0, 0, 0, 64, 17, 0, 0]);
        ip.extend(self.source);
        ip.extend([255; 4]);
        let sum = !super::super::checksum::sum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        frame.extend(ip);
        frame.extend([0, 67, 0, 68]);
        frame.extend((total - 20).to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(message);
        Some(frame)
    }
}

/// Says that every address that is asked for by ARP is the server's (RFC 826).
fn answer_arp(question: &[u8]) -> Option<Vec<u8>> {
    if question[12..14] != [8, 6] || question[20..22] != [0, 1] {
        return None;
    }
    let asker = &question[22..32];
    let mut frame = question[6..12].to_vec();
    frame.extend(SERVER_MAC);
    frame.extend(&question[12..20]);
    frame.extend([0, 2]);
    frame.extend(SERVER_MAC);
    frame.extend(&question[38..42]);
    frame.extend(asker);
    Some(frame)
}

/// A host that asks for an address on a wire with one server.
struct Client {
    wire: Wire,
    network: Network,
    now: Instant,
    /// REQUESTs that the server answered.
    requests: usize,
}

impl Client {
    fn new() -> Self {
        let wire = Wire::new();
        let now = Instant::from_nanos(5);
        let card = super::card(wire.nic(End::A, TcpOffload::Checksum));
        Self { network: Network::new(card, Settings::new(Address::Dhcp, 1), now), wire, now, requests: 0 }
    }

    /// One millisecond.
    fn step(&mut self, server: Server) {
        self.network.poll(self.now);
        while let Some(question) = self.wire.take(End::B) {
            self.requests += usize::from(option(&question, 53).is_some_and(|kind| kind == [3]));
            if let Some(reply) = answer_arp(&question).or_else(|| server.answer(&question)) {
                self.wire.inject(End::A, &reply);
            }
        }
        self.now = self.now + Duration::from_millis(1);
    }
}

#[test]
fn an_address_and_a_gateway_come_by_dhcp() {
    let mut client = Client::new();
    let peer = "10.0.0.2:7100".parse().unwrap();
    assert_eq!(client.network.connect(peer), Err(stream::Error::NoAddress));
    assert!(client.network.ping(Ipv4Addr::new(10, 0, 0, 2), 1).is_err());
    for _ in 0..30_000 {
        client.step(HONEST);
        if client.network.address().is_some() {
            break;
        }
    }
    assert_eq!(client.network.address(), Some((Ipv4Addr::from(OFFERED), 24)));
    assert_eq!(client.network.gateway(), Some(Ipv4Addr::from(SERVER)));
    assert!(client.network.connect(peer).is_ok());
}

/// A lease is renewed at half of its time, where the OFFER came from; the stack panics if it is to send to 0.0.0.0.
#[test]
fn no_server_stops_the_host_when_its_lease_is_renewed() {
    let brief = Server { lease_s: 2, ..HONEST };
    let run = |server: Server| {
        let mut client = Client::new();
        (0..5_000).for_each(|_| client.step(server));
        client
    };
    let client = run(brief);
    assert!(client.requests > 2, "{} requests: no lease was renewed", client.requests);
    assert_eq!(client.network.gateway(), Some(Ipv4Addr::from(SERVER)));
    for source in [[0; 4], [255; 4], [224, 0, 0, 1]] {
        let client = run(Server { source, ..brief });
        assert_eq!((client.network.address(), client.requests), (None, 0), "from {source:?}");
    }
    for nobody in [[0; 4], [255; 4], [224, 0, 0, 1]] {
        let client = run(Server { identifier: nobody, router: nobody, ..brief });
        assert!(client.requests > 2, "{} requests of {nobody:?}", client.requests);
        assert_eq!(client.network.address(), Some((Ipv4Addr::from(OFFERED), 24)));
        assert_eq!(client.network.gateway(), None);
    }
}
