//! Two ends of a trunk on this machine, with a wire between them that damages what it carries.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};

use super::*;

/// For a machine that has much else to do.
const SOON: Duration = Duration::from_secs(60);
/// Long enough that a busy machine does not make each end send everything twice.
const PATIENCE: Duration = Duration::from_millis(300);

fn stream(socket: &UnixStream) -> Stream {
    let copy = || Box::new(socket.try_clone().unwrap());
    Stream { input: copy(), output: copy() }
}

/// One side: the sockets that stand for its machines, and where its end is told.
struct Side {
    machines: Vec<UnixStream>,
    ended: Receiver<io::Result<()>>,
}

fn side(trunk: UnixStream, lines: usize, speaks_first: bool) -> Side {
    let (machines, ours): (Vec<_>, Vec<_>) = (0..lines).map(|_| UnixStream::pair().unwrap()).unzip();
    let openers = ours.into_iter().map(|socket| -> Opener { Box::new(move || Ok(stream(&socket))) });
    let openers = openers.collect();
    for machine in &machines {
        machine.set_read_timeout(Some(SOON)).unwrap();
    }
    let manner = Manner { speaks_first, window: 256, patience: PATIENCE };
    let (sender, ended) = channel();
    thread::spawn(move || {
        let outcome = run(stream(&trunk), openers, manner, Duration::from_millis(1), Arc::new(|_| ()));
        let _ = sender.send(outcome);
    });
    Side { machines, ended }
}

/// Carries bytes from one socket to the other. While `damages`, of every two thousand one is lost, one comes twice, and
/// one is another.
fn wire(mut from: UnixStream, mut to: UnixStream, damages: Arc<AtomicBool>) {
    thread::spawn(move || {
        let (mut buffer, mut random) = ([0; 256], 7_u64);
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let mut bytes = Vec::new();
            for &byte in &buffer[..length] {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                match (random >> 33) % 2000 {
                    0 if damages.load(Ordering::Relaxed) => {}
                    1 if damages.load(Ordering::Relaxed) => bytes.extend([byte, byte]),
                    2 if damages.load(Ordering::Relaxed) => bytes.push(byte ^ 0x55),
                    _ => bytes.push(byte),
                }
            }
            if to.write_all(&bytes).is_err() {
                return;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
}

/// Two sides and a wire; damage can be turned off.
fn sides(lines: usize, damages: bool) -> (Side, Side, Arc<AtomicBool>, UnixStream) {
    let (near, near_wire) = UnixStream::pair().unwrap();
    let (far, far_wire) = UnixStream::pair().unwrap();
    let damages = Arc::new(AtomicBool::new(damages));
    let plug = near_wire.try_clone().unwrap();
    wire(near_wire.try_clone().unwrap(), far_wire.try_clone().unwrap(), Arc::clone(&damages));
    wire(far_wire, near_wire, Arc::clone(&damages));
    (side(near, lines, true), side(far, lines, false), damages, plug)
}

fn text(line: usize, length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 31 + line * 77 + index / 256) as u8).collect()
}

/// Sends a text over every line in both directions at once, and reads them.
fn talk(near: &Side, far: &Side, length: usize) {
    let mut threads = Vec::new();
    for (line, (near, far)) in near.machines.iter().zip(&far.machines).enumerate() {
        for (mut from, mut to, number) in [(near, far, line), (far, near, line + 100)]
            .map(|(from, to, number)| (from.try_clone().unwrap(), to.try_clone().unwrap(), number))
        {
            threads.push(thread::spawn(move || from.write_all(&text(number, length)).unwrap()));
            threads.push(thread::spawn(move || {
                let mut got = vec![0; length];
                to.read_exact(&mut got).unwrap();
                assert_eq!(got, text(number, length), "line {number}");
            }));
        }
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn nine_lines_share_a_trunk() {
    let (near, far, _, _plug) = sides(9, false);
    talk(&near, &far, 20_000);
}

#[test]
fn damage_costs_time_and_no_byte() {
    let (near, far, damages, _plug) = sides(3, true);
    talk(&near, &far, 3_000);
    damages.store(false, Ordering::Relaxed);
    talk(&near, &far, 3_000);
}

#[test]
fn a_machine_that_reads_nothing_holds_up_no_other_and_loses_nothing() {
    let (mut near, mut far, _, _plug) = sides(2, false);
    let (length, mut silent) = (1 << 20, near.machines.remove(0));
    let mut to_silent = far.machines.remove(0);
    let writer = thread::spawn(move || to_silent.write_all(&text(5, length)).unwrap());
    let late =
        |side: &Side| Side { machines: vec![side.machines[0].try_clone().unwrap()], ended: channel().1 };
    talk(&late(&near), &late(&far), 20_000);
    assert!(!writer.is_finished(), "a mebibyte does not fit on the way");
    let mut got = vec![0; length];
    silent.read_exact(&mut got).unwrap();
    assert!(got == text(5, length));
    writer.join().unwrap();
}

#[test]
fn a_machine_that_is_gone_holds_up_no_other() {
    let (mut near, mut far, _, _plug) = sides(2, false);
    drop(near.machines.remove(0));
    far.machines.remove(0).write_all(&text(5, 50_000)).unwrap();
    talk(&near, &far, 20_000);
}

#[test]
fn both_sides_end_with_the_trunk() {
    let (near, far, _, plug) = sides(1, false);
    talk(&near, &far, 10);
    plug.shutdown(std::net::Shutdown::Both).unwrap();
    assert!(near.ended.recv_timeout(SOON).is_ok());
    assert!(far.ended.recv_timeout(SOON).is_ok());
}

#[test]
fn noise_and_frames_of_lines_that_are_not_there_are_reported_and_do_no_harm() {
    let (near, mut peer) = UnixStream::pair().unwrap();
    let (reports, told) = channel();
    let reports = Mutex::new(reports);
    let report: Report = Arc::new(move |text| {
        let _ = reports.lock().unwrap().send(text.to_owned());
    });
    let manner = Manner { speaks_first: false, window: 256, patience: PATIENCE };
    let (mut machine, ours) = UnixStream::pair().unwrap();
    machine.set_read_timeout(Some(SOON)).unwrap();
    let opener: Opener = Box::new(move || Ok(stream(&ours)));
    thread::spawn(move || run(stream(&near), vec![opener], manner, Duration::ZERO, report));
    let mut bytes = vec![0xa5; 5_000];
    bytes.push(END);
    Frame::Data { line: 1, offset: 0, bytes: b"x".to_vec() }.encode(&mut bytes);
    Frame::Data { line: 0, offset: 0, bytes: b"y".to_vec() }.encode(&mut bytes);
    peer.write_all(&bytes).unwrap();
    let mut got = [0];
    machine.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"y");
    assert!(told.recv_timeout(SOON).unwrap().contains("damaged"));
    assert!(told.recv_timeout(SOON).unwrap().contains("line 1"));
}
