//! DHCP against a small server of the test's own.

use alloc::vec::Vec;
use core::{net::Ipv4Addr, time::Duration};

use super::{
    super::{Address, Instant, Network, Settings, stream},
    wire::{End, Wire},
};
use crate::drivers::net::TcpOffload;

const SERVER: [u8; 4] = [10, 0, 0, 254];
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

/// Answers a DISCOVER with an OFFER and a REQUEST with an ACK, as RFC 2131 lays the message out.
fn answer(question: &[u8]) -> Option<Vec<u8>> {
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
    message.extend(SERVER);
    message.extend([51, 4, 0, 0, 14, 16, 1, 4, 255, 255, 255, 0, 3, 4]);
    message.extend(SERVER);
    message.push(255);
    let mut frame = Vec::new();
    frame.extend([0xff; 6]);
    frame.extend([2, 0, 0, 0, 0, 9, 8, 0]);
    let total = (28 + message.len()) as u16;
    let mut ip = Vec::from([0x45, 0]);
    ip.extend(total.to_be_bytes());
    ip.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    ip.extend(SERVER);
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

#[test]
fn an_address_and_a_gateway_come_by_dhcp() {
    let wire = Wire::new();
    let mut now = Instant::from_nanos(5);
    let mut network = Network::new(
        super::card(wire.nic(End::A, TcpOffload::Checksum)),
        Settings::new(Address::Dhcp, 1),
        now,
    );
    let peer = "10.0.0.2:7100".parse().unwrap();
    assert_eq!(network.connect(peer), Err(stream::Error::NoAddress));
    assert!(network.ping(Ipv4Addr::new(10, 0, 0, 2), 1).is_err());
    for _ in 0..30_000 {
        network.poll(now);
        while let Some(question) = wire.take(End::B) {
            if let Some(reply) = answer(&question) {
                wire.inject(End::A, &reply);
            }
        }
        now = now + Duration::from_millis(1);
        if network.address().is_some() {
            break;
        }
    }
    assert_eq!(network.address(), Some((Ipv4Addr::from(OFFERED), 24)));
    assert_eq!(network.gateway(), Some(Ipv4Addr::from(SERVER)));
    assert!(network.connect(peer).is_ok());
}
