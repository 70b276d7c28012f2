//! A network in memory: connections with bounded windows that deliver portions of any size, that can be refused,
//! stalled and cut. It keeps the rules of [`crate::net::stream`], those about giving a stream up included.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;

use godwit_migration::Instant;

use super::super::streams::Streams;
use crate::net::stream::{Accepted, BACKLOG_MAX, Error, Received, STREAMS_MAX, State, StreamId};

/// How long a closed stream may take to deliver what was queued.
const LINGER: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting,
    Open,
    Failed(Error),
    /// By its owner, who sends no more; at `until` everything is dropped.
    Closed {
        until: Instant,
    },
    Aborted,
}

/// One side of a connection. The sides `2n` (which connected) and `2n + 1` (which accepted) belong together.
#[derive(Debug)]
struct End {
    host: Ipv4Addr,
    port: u16,
    peer: SocketAddrV4,
    stage: Stage,
    /// Whether its owner knows of it.
    is_known: bool,
    /// Queued and not yet delivered.
    out: VecDeque<u8>,
    /// Delivered and not yet received.
    arrived: VecDeque<u8>,
    peer_has_ended: bool,
}

impl End {
    fn is_given_up(&self) -> bool {
        matches!(self.stage, Stage::Closed { .. } | Stage::Aborted)
    }
}

/// What happens to bytes on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weather {
    Fair,
    /// Nothing moves and nobody notices.
    Stalled,
    /// Every connection fails.
    Cut,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Net {
    ends: Vec<End>,
    listening: Vec<SocketAddrV4>,
    /// Bytes that fit each buffer.
    pub(super) window: usize,
    /// Most bytes that are delivered or received at once.
    pub(super) portion_max: usize,
    pub(super) weather: Weather,
    now: Instant,
    random: u64,
}

/// The network as one host sees it.
pub(super) struct At<'a> {
    net: &'a mut Net,
    host: Ipv4Addr,
}

impl Net {
    pub(super) fn new() -> Self {
        Self {
            ends: Vec::new(),
            listening: Vec::new(),
            window: 64 * 1024,
            portion_max: 64 * 1024,
            weather: Weather::Fair,
            now: Instant::ORIGIN,
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    pub(super) fn at(&mut self, host: Ipv4Addr) -> At<'_> {
        At { net: self, host }
    }

    pub(super) fn listen(&mut self, host: Ipv4Addr, port: u16) {
        self.listening.push(SocketAddrV4::new(host, port));
    }

    pub(super) fn unlisten(&mut self, host: Ipv4Addr) {
        self.listening.retain(|address| *address.ip() != host);
    }

    /// Every connection fails on both sides; what was not delivered is lost.
    pub(super) fn cut(&mut self) {
        self.weather = Weather::Cut;
        for end in &mut self.ends {
            end.out.clear();
            match end.stage {
                Stage::Connecting => end.stage = Stage::Failed(Error::ConnectTimeout),
                Stage::Open => end.stage = Stage::Failed(Error::LinkLost),
                Stage::Closed { .. } => end.stage = Stage::Aborted,
                Stage::Failed(_) | Stage::Aborted => {}
            }
        }
    }

    /// Connections that `host` knows of and has not given up.
    pub(super) fn in_use(&self, host: Ipv4Addr) -> usize {
        self.ends.iter().filter(|end| end.host == host && end.is_known && !end.is_given_up()).count()
    }

    /// Bytes that `host` has queued and that are not yet delivered.
    pub(super) fn queued(&self, host: Ipv4Addr) -> usize {
        self.ends.iter().filter(|end| end.host == host).map(|end| end.out.len()).sum()
    }

    /// Connections that `host` has made.
    pub(super) fn made(&self, host: Ipv4Addr) -> usize {
        self.ends.iter().step_by(2).filter(|end| end.host == host).count()
    }

    /// Time passes: connections come about, and portions of what is queued are delivered.
    pub(super) fn deliver(&mut self, now: Instant) {
        self.now = now;
        for index in 0..self.ends.len() {
            match (self.weather, self.ends[index].stage) {
                (Weather::Cut, Stage::Connecting) => {
                    self.ends[index].stage = Stage::Failed(Error::ConnectTimeout);
                }
                (Weather::Fair, Stage::Connecting) => self.complete(index),
                (Weather::Fair, _) => self.carry(index),
                (Weather::Cut | Weather::Stalled, _) => {}
            }
        }
    }

    fn complete(&mut self, index: usize) {
        let address = self.ends[index].peer;
        if !index.is_multiple_of(2) {
            return;
        }
        if !self.listening.contains(&address) {
            self.ends[index].stage = Stage::Failed(Error::Refused);
            return;
        }
        let waits = |end: &&End| {
            SocketAddrV4::new(end.host, end.port) == address && !end.is_known && end.stage == Stage::Open
        };
        if self.ends.iter().filter(waits).count() < BACKLOG_MAX {
            self.ends[index].stage = Stage::Open;
            self.ends[index + 1].stage = Stage::Open;
        }
    }

    /// Brings what one side has queued, or its end, to the other.
    fn carry(&mut self, from: usize) {
        let to = from ^ 1;
        if let Stage::Closed { until } = self.ends[from].stage
            && self.now >= until
        {
            self.ends[from].stage = Stage::Aborted;
            self.ends[from].out.clear();
        }
        let room = self.window - self.ends[to].arrived.len().min(self.window);
        let count = self.ends[from].out.len().min(room);
        let count = self.portion(count);
        let bytes: Vec<u8> = self.ends[from].out.drain(..count).collect();
        self.ends[to].arrived.extend(bytes);
        match (self.ends[from].stage, self.ends[to].stage) {
            (Stage::Aborted, Stage::Open) => self.ends[to].stage = Stage::Failed(Error::Reset),
            (Stage::Aborted, Stage::Closed { .. }) => self.ends[to].out.clear(),
            (Stage::Closed { .. }, _) if self.ends[from].out.is_empty() => {
                self.ends[to].peer_has_ended = true;
            }
            _ => {}
        }
    }

    /// A number from 1 to `most`; zero if there is nothing.
    fn portion(&mut self, most: usize) -> usize {
        let most = most.min(self.portion_max);
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        if most == 0 { 0 } else { 1 + (self.random >> 20) as usize % most }
    }

    fn end(&mut self, id: StreamId) -> Result<&mut End, Error> {
        let end = self.ends.get_mut(id.number() as usize).filter(|end| end.is_known && !end.is_given_up());
        end.ok_or(Error::Unknown)
    }

    fn add(&mut self, host: Ipv4Addr, port: u16, peer: SocketAddrV4, is_known: bool) {
        let (out, arrived) = (VecDeque::new(), VecDeque::new());
        let stage = Stage::Connecting;
        self.ends.push(End { host, port, peer, stage, is_known, out, arrived, peer_has_ended: false });
    }
}

impl At<'_> {
    /// The end that the owner of `id` holds.
    fn own(&mut self, id: StreamId) -> Result<&mut End, Error> {
        let host = self.host;
        let end = self.net.end(id)?;
        assert_eq!(end.host, host, "a host uses its own connections only");
        Ok(end)
    }
}

impl Streams for At<'_> {
    fn connect(&mut self, peer: SocketAddrV4) -> Result<StreamId, Error> {
        if self.net.in_use(self.host) >= STREAMS_MAX {
            return Err(Error::Exhausted);
        }
        let number = self.net.ends.len();
        let port = 50_000 + number as u16;
        self.net.add(self.host, port, peer, true);
        self.net.add(*peer.ip(), peer.port(), SocketAddrV4::new(self.host, port), false);
        Ok(StreamId::made_up(number as u64))
    }

    fn accept(&mut self, port: u16) -> Option<Accepted> {
        let host = self.host;
        if self.net.in_use(host) >= STREAMS_MAX {
            return None;
        }
        let waits =
            |end: &End| (end.host, end.port, end.stage, end.is_known) == (host, port, Stage::Open, false);
        let number = self.net.ends.iter().position(waits)?;
        let end = &mut self.net.ends[number];
        end.is_known = true;
        Some(Accepted { stream: StreamId::made_up(number as u64), peer: end.peer })
    }

    fn state(&mut self, id: StreamId) -> Result<State, Error> {
        let end = self.own(id)?;
        Ok(match end.stage {
            Stage::Connecting => State::Connecting,
            Stage::Failed(error) => State::Failed(error),
            _ if end.peer_has_ended && end.arrived.is_empty() => State::PeerEnded,
            _ => State::Open,
        })
    }

    fn send(&mut self, id: StreamId, bytes: &[u8]) -> Result<usize, Error> {
        let window = self.net.window;
        let end = self.own(id)?;
        match end.stage {
            Stage::Failed(error) => Err(error),
            Stage::Open => {
                let count = bytes.len().min(window.saturating_sub(end.out.len()));
                end.out.extend(&bytes[..count]);
                Ok(count)
            }
            _ => Ok(0),
        }
    }

    fn receive(&mut self, id: StreamId, into: &mut [u8]) -> Result<Received, Error> {
        let there = self.own(id)?.arrived.len();
        let count = self.net.portion(there.min(into.len()));
        let end = self.own(id)?;
        if there == 0 {
            return match end.stage {
                Stage::Failed(error) => Err(error),
                _ if end.peer_has_ended => Ok(Received::End),
                _ => Ok(Received::Bytes(0)),
            };
        }
        end.arrived.drain(..count).zip(into).for_each(|(byte, to)| *to = byte);
        Ok(Received::Bytes(count))
    }

    fn close(&mut self, id: StreamId) {
        let until = self.net.now.after(LINGER);
        if let Ok(end) = self.own(id) {
            end.stage = match end.stage {
                Stage::Open => Stage::Closed { until },
                _ => Stage::Aborted,
            };
        }
    }

    fn abort(&mut self, id: StreamId) {
        if let Ok(end) = self.own(id) {
            end.stage = Stage::Aborted;
            end.out.clear();
        }
    }
}
