//! A wire between two hosts: in each direction one queue for all connections, a rate at which it empties, and a time
//! that everything takes on its way.
//!
//! The queue is as a router's: what stands in it delays whatever comes behind, on whichever connection. Only bulk has to
//! wait for room in it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::common::Failure;
use super::common::host::tune;

/// What goes at one time.
const PIECE_BYTES: usize = 8 * 1024;
/// Pings that a round trip is the median of.
const PINGS: usize = 51;
/// Time between those beside a migration.
const BETWEEN_PINGS: Duration = Duration::from_millis(5);

/// What a wire is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wire {
    pub(crate) bytes_per_second: u64,
    pub(crate) one_way: Duration,
    /// The longest that the queue grows for bulk.
    pub(crate) queue: Duration,
}

/// One direction: when the last byte of what is in the queue leaves it.
#[derive(Clone)]
struct Lane(Arc<Mutex<Instant>>);

impl Lane {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    /// Puts `bytes` at the end of the queue; when they leave it.
    fn enter(&self, bytes: usize, wire: Wire) -> Instant {
        let mut free_at = self.0.lock().expect("nobody panics with it");
        let time = Duration::from_nanos(bytes as u64 * 1_000_000_000 / wire.bytes_per_second);
        *free_at = (*free_at).max(Instant::now()) + time;
        *free_at
    }

    fn wait_for_room(&self, wire: Wire) {
        let free_at = *self.0.lock().expect("nobody panics with it");
        let room_at = free_at.checked_sub(wire.queue).unwrap_or(free_at);
        thread::sleep(room_at.saturating_duration_since(Instant::now()));
    }
}

/// Both directions.
pub(crate) struct Lanes {
    wire: Wire,
    there: Lane,
    back: Lane,
}

impl Lanes {
    pub(crate) fn new(wire: Wire) -> Self {
        Self { wire, there: Lane::new(), back: Lane::new() }
    }

    /// An address; who connects to it is connected to `address` over the wire, once.
    pub(crate) fn to(&self, address: SocketAddr, is_bulk: bool) -> Result<SocketAddr, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let here = listener.local_addr()?;
        let (wire, there, back) = (self.wire, self.there.clone(), self.back.clone());
        thread::spawn(move || -> std::io::Result<()> {
            let (near, _) = listener.accept()?;
            let far = TcpStream::connect(address)?;
            tune(&near)?;
            tune(&far)?;
            carry(near.try_clone()?, far.try_clone()?, there, wire, is_bulk);
            carry(far, near, back, wire, false);
            Ok(())
        });
        Ok(here)
    }
}

/// Carries one direction of a connection in threads of its own.
fn carry(mut from: TcpStream, mut to: TcpStream, lane: Lane, wire: Wire, is_bulk: bool) {
    let (enters, leaves) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut piece = [0; PIECE_BYTES];
        loop {
            if is_bulk {
                lane.wait_for_room(wire);
            }
            let Ok(count @ 1..) = from.read(&mut piece) else { return };
            let arrives = lane.enter(count, wire) + wire.one_way;
            if enters.send((arrives, piece[..count].to_vec())).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || {
        for (arrives, bytes) in leaves {
            thread::sleep(arrives.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                return;
            }
        }
        // The other end has closed.
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
}

/// Somebody who sends back whatever comes, on one connection.
pub(crate) fn echo() -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        tune(&stream)?;
        let mut bytes = [0; 64];
        while let count @ 1.. = stream.read(&mut bytes)? {
            stream.write_all(&bytes[..count])?;
        }
        Ok(())
    });
    Ok(address)
}

/// Round trips, one after the other.
pub(crate) struct Pings(TcpStream);

impl Pings {
    pub(crate) fn to(address: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address)?;
        tune(&stream)?;
        Ok(Self(stream))
    }

    fn one(&mut self) -> std::io::Result<Duration> {
        let began = Instant::now();
        self.0.write_all(&[7; 32])?;
        self.0.read_exact(&mut [0; 32])?;
        Ok(began.elapsed())
    }

    /// The round trip of a few bytes with nothing else on the wire.
    pub(crate) fn median(&mut self) -> Result<Duration, Failure> {
        let mut times = (0..PINGS).map(|_| self.one()).collect::<Result<Vec<_>, _>>()?;
        times.sort();
        Ok(times[PINGS / 2])
    }

    /// Those of the time until `is_over`, ascending.
    pub(crate) fn until(mut self, is_over: &AtomicBool) -> Vec<Duration> {
        let mut times = Vec::new();
        while !is_over.load(Ordering::Relaxed)
            && let Ok(time) = self.one()
        {
            times.push(time);
            thread::sleep(BETWEEN_PINGS);
        }
        times.sort();
        times
    }
}
