use std::net::{Ipv4Addr, UdpSocket};

use super::*;

const SOON: Duration = Duration::from_secs(5);
const MOMENT: Duration = Duration::from_millis(100);

fn frame(target: Mac, source: Mac, length: usize) -> Vec<u8> {
    let mut frame = [target, source].concat();
    frame.extend([0x08, 0x00]);
    frame.resize(length, 0x5a);
    frame
}

fn machine(port: UdpPort) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port.machine)).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

#[test]
fn frames_cross_between_machines_and_endpoints() {
    let switch = Switch::new();
    let port = switch.add_udp("a").unwrap();
    let (a, peer) = (machine(port), switch.add_endpoint("peer"));
    let hello = frame([0xff; 6], mac(1), 60);
    a.send_to(&hello, (Ipv4Addr::LOCALHOST, port.switch)).unwrap();
    assert_eq!(peer.receive(SOON), Some(hello));
    let answer = frame(mac(1), mac(9), 1514);
    peer.send(&answer);
    let mut buffer = [0; 2048];
    let length = a.recv(&mut buffer).unwrap();
    assert_eq!(buffer[..length], answer);
    assert_eq!(switch.statistics(port.id).received_bytes, 1514);
}

#[test]
fn a_known_address_is_not_overheard_by_others() {
    let switch = Switch::new();
    let (a, b, c) = (switch.add_endpoint("a"), switch.add_endpoint("b"), switch.add_endpoint("c"));
    b.send(&frame([0xff; 6], mac(2), 60));
    assert!(c.receive(SOON).is_some());
    a.send(&frame(mac(2), mac(1), 60));
    assert!(a.receive(SOON).is_some() && b.receive(SOON).is_some());
    assert_eq!(c.receive(MOMENT), None);
}

#[test]
fn a_cut_port_is_silent_both_ways_until_it_is_mended() {
    let switch = Switch::new();
    let (a, b) = (switch.add_endpoint("a"), switch.add_endpoint("b"));
    switch.cut(b.id);
    a.send(&frame([0xff; 6], mac(1), 60));
    b.send(&frame([0xff; 6], mac(2), 60));
    assert_eq!((a.receive(MOMENT), b.receive(MOMENT)), (None, None));
    switch.mend(b.id);
    a.send(&frame([0xff; 6], mac(1), 60));
    assert!(b.receive(SOON).is_some());
}

#[test]
fn a_delayed_frame_arrives_late_and_in_order() {
    let switch = Switch::new();
    let (a, b) = (switch.add_endpoint("a"), switch.add_endpoint("b"));
    switch.set(b.id, Conditions { delay: MOMENT, ..Conditions::default() });
    let start = Instant::now();
    a.send(&frame([0xff; 6], mac(1), 60));
    switch.mend(b.id);
    a.send(&frame([0xff; 6], mac(1), 61));
    assert_eq!(b.receive(SOON).map(|f| f.len()), Some(60));
    assert!(start.elapsed() >= MOMENT);
    assert_eq!(b.receive(SOON).map(|f| f.len()), Some(61));
}

#[test]
fn a_burst_to_a_slow_machine_is_paced_not_lost() {
    let switch = Switch::new();
    let port = switch.add_udp("slow").unwrap();
    let (slow, fast) = (machine(port), switch.add_endpoint("fast"));
    const COUNT: usize = 1_000;
    for _ in 0..COUNT {
        fast.send(&frame([0xff; 6], mac(1), 1514));
    }
    std::thread::sleep(MOMENT);
    let mut buffer = [0; 2048];
    for number in 0..COUNT {
        assert!(slow.recv(&mut buffer).is_ok(), "frame {number} of {COUNT} was lost");
    }
}

#[test]
fn malformed_frames_are_dropped_and_counted() {
    let switch = Switch::new();
    let (a, b) = (switch.add_endpoint("a"), switch.add_endpoint("b"));
    a.send(&[0xff; 13]);
    a.send(&[0xff; FRAME_BYTES_MAX + 1]);
    assert_eq!(b.receive(MOMENT), None);
    assert_eq!(switch.statistics(a.id).dropped_frames, 2);
}

#[test]
fn a_port_is_cut_by_the_frame_for_which_that_was_asked() {
    let switch = Switch::new();
    let (a, b, c) = (switch.add_endpoint("a"), switch.add_endpoint("b"), switch.add_endpoint("c"));
    switch.cut_at(b.id, |frame| frame.len() == 61);
    a.send(&frame([0xff; 6], mac(1), 60));
    assert!(b.receive(SOON).is_some() && c.receive(SOON).is_some());
    for length in [61, 62] {
        a.send(&frame([0xff; 6], mac(1), length));
        assert!(c.receive(SOON).is_some(), "only that port is cut");
    }
    assert_eq!(b.receive(MOMENT), None);
    switch.mend(b.id);
    a.send(&frame([0xff; 6], mac(1), 61));
    assert!(b.receive(SOON).is_some(), "once");
}
