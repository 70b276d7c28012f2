//! Connections that came in and have not said yet what they are about.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::SocketAddrV4;
use core::time::Duration;

use godwit_migration::Instant;
use godwit_migration::wire::opening::{OPENING_BYTES, Opening};

use super::streams::Streams;
use crate::net::stream::{Received, StreamId};

/// Connections that may be undecided at one time.
const WAITING_MAX: usize = 4;
/// How long a connection may take to say what it is about.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Waiting {
    stream: StreamId,
    peer: SocketAddrV4,
    received: Vec<u8>,
    until: Instant,
}

/// A connection that has said what it is about.
#[derive(Debug)]
pub struct Arrival {
    /// The connection.
    pub stream: StreamId,
    /// Who made it.
    pub peer: SocketAddrV4,
    /// What was received so far: the opening and perhaps more.
    pub received: Vec<u8>,
    /// What it is about.
    pub opening: Opening,
}

/// A connection that was given up.
#[derive(Debug, PartialEq, Eq)]
pub struct Stranger {
    /// Who made it.
    pub peer: SocketAddrV4,
    /// Why it was given up, for a person.
    pub why: String,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Arrivals {
    waiting: Vec<Waiting>,
}

impl Arrivals {
    /// Takes connections on `port` and reads their openings. Returns those that are decided.
    pub fn poll(
        &mut self,
        now: Instant,
        streams: &mut impl Streams,
        port: u16,
    ) -> Vec<Result<Arrival, Stranger>> {
        while self.waiting.len() < WAITING_MAX
            && let Some(accepted) = streams.accept(port)
        {
            self.waiting.push(Waiting {
                stream: accepted.stream,
                peer: accepted.peer,
                received: Vec::new(),
                until: now.after(PATIENCE),
            });
        }
        let mut decided = Vec::new();
        let mut undecided = Vec::new();
        for mut waiting in self.waiting.drain(..) {
            match waiting.read(now, streams) {
                Ok(None) => undecided.push(waiting),
                Ok(Some(opening)) => decided.push(Ok(Arrival {
                    stream: waiting.stream,
                    peer: waiting.peer,
                    received: waiting.received,
                    opening,
                })),
                Err(why) => {
                    streams.abort(waiting.stream);
                    decided.push(Err(Stranger { peer: waiting.peer, why }));
                }
            }
        }
        self.waiting = undecided;
        decided
    }

    /// When a connection's patience ends; [`Instant::NEVER`] if none waits.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.waiting.iter().map(|waiting| waiting.until).min().unwrap_or(Instant::NEVER)
    }
}

impl Waiting {
    fn read(&mut self, now: Instant, streams: &mut impl Streams) -> Result<Option<Opening>, String> {
        let mut bytes = [0; OPENING_BYTES];
        // One byte at a time would do: the engine gets everything from the opening on.
        let room = OPENING_BYTES - self.received.len().min(OPENING_BYTES);
        match streams.receive(self.stream, &mut bytes[..room]) {
            Ok(Received::Bytes(count)) => self.received.extend_from_slice(&bytes[..count]),
            Ok(Received::End) => return Err("the connection ended before it said what it is about".into()),
            Err(error) => return Err(error.to_string()),
        }
        match Opening::peek(&self.received) {
            Ok(Some(opening)) => Ok(Some(opening)),
            Ok(None) if now >= self.until => Err("it did not say in time what it is about".into()),
            Ok(None) => Ok(None),
            Err(fault) => Err(fault.to_string()),
        }
    }
}
