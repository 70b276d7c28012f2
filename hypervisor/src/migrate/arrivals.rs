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
pub(super) const WAITING_MAX: usize = 4;
/// How long a connection may take to say what it is about.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may if others wait for its place: a source that comes says so at once, and one that looks for a guest of its own
/// must not have to wait behind those that say nothing.
const PATIENCE_WITH_MANY: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Waiting {
    stream: StreamId,
    peer: SocketAddrV4,
    received: Vec<u8>,
    since: Instant,
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
        let mut decided = Vec::new();
        for waiting in core::mem::take(&mut self.waiting) {
            self.look_at(waiting, now, streams, &mut decided);
        }
        while (self.waiting.len() < WAITING_MAX || self.idler(now).is_some())
            && let Some(accepted) = streams.accept(port)
        {
            let (stream, peer) = (accepted.stream, accepted.peer);
            let waiting = Waiting { stream, peer, received: Vec::new(), since: now };
            self.look_at(waiting, now, streams, &mut decided);
            if self.waiting.len() > WAITING_MAX
                && let Some(index) = self.idler(now)
            {
                let idler = self.waiting.remove(index);
                decided.push(Err(idler.give_up(streams, TOO_LATE.into())));
            }
        }
        decided
    }

    /// Reads what `waiting` has said; keeps it if it is to say more.
    fn look_at(
        &mut self,
        mut waiting: Waiting,
        now: Instant,
        streams: &mut impl Streams,
        decided: &mut Vec<Result<Arrival, Stranger>>,
    ) {
        match waiting.read(now, streams) {
            Ok(None) => self.waiting.push(waiting),
            Ok(Some(opening)) => {
                let Waiting { stream, peer, received, since: _ } = waiting;
                decided.push(Ok(Arrival { stream, peer, received, opening }));
            }
            Err(why) => decided.push(Err(waiting.give_up(streams, why))),
        }
    }

    /// Whose place another may have: of those that have been silent for a while one of the host that has most places, the
    /// first of them.
    fn idler(&self, now: Instant) -> Option<usize> {
        let places = |host| self.waiting.iter().filter(|it| it.peer.ip() == host).count();
        let silent =
            self.waiting.iter().enumerate().filter(|(_, it)| now >= it.since.after(PATIENCE_WITH_MANY));
        // The last of the equal ones that are looked at in this order is the first in the list.
        silent.rev().max_by_key(|(_, it)| places(it.peer.ip())).map(|(index, _)| index)
    }

    /// When a connection's patience ends, or it may have to give way; [`Instant::NEVER`] if none waits.
    #[must_use]
    pub fn deadline(&self, now: Instant) -> Instant {
        let ends = |it: &Waiting| {
            let gives_way_at = it.since.after(PATIENCE_WITH_MANY);
            let may_have_to = self.waiting.len() == WAITING_MAX && now < gives_way_at;
            if may_have_to { gives_way_at } else { it.since.after(PATIENCE) }
        };
        self.waiting.iter().map(ends).min().unwrap_or(Instant::NEVER)
    }

    /// Connections that are undecided.
    pub(super) const fn len(&self) -> usize {
        self.waiting.len()
    }
}

/// Why a connection is given up that says nothing.
const TOO_LATE: &str = "it did not say in time what it is about";

impl Waiting {
    fn give_up(self, streams: &mut impl Streams, why: String) -> Stranger {
        streams.abort(self.stream);
        Stranger { peer: self.peer, why }
    }

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
            Ok(None) if now >= self.since.after(PATIENCE) => Err(TOO_LATE.into()),
            Ok(None) => Ok(None),
            Err(fault) => Err(fault.to_string()),
        }
    }
}
