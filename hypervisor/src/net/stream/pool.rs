//! All streams and listening ports of a network, and how they follow the stack's sockets.

use alloc::{vec, vec::Vec};
use core::{net::SocketAddrV4, time::Duration};

use arrayvec::ArrayVec;
use smoltcp::{
    iface::{Interface, SocketHandle, SocketSet},
    socket::tcp,
    wire::{IpAddress, IpEndpoint},
};

use super::{
    super::{Instant, Settings, frame::Reset},
    Accepted, BACKLOG_MAX, CLOSING_MAX, Error, LISTENERS_MAX, RECEIVE_BUFFER_LENGTH, SEND_BUFFER_LENGTH,
    STREAMS_MAX, State, StreamId, StreamStatus,
};

/// How long a stream that was closed may take to say goodbye.
pub(super) const LINGER: Duration = Duration::from_secs(10);
/// How long it stays after goodbye was said by both, so that the last word can be repeated.
const LINGER_AFTER: Duration = Duration::from_millis(200);
/// Ports from which connections are made (RFC 6335).
const EPHEMERAL_FIRST: u16 = 49_152;
const EPHEMERAL_COUNT: u16 = 16_384;

/// What streams work on, for the time of one call.
pub(in crate::net) struct Parts<'a> {
    pub(in crate::net) interface: &'a mut Interface,
    pub(in crate::net) sockets: &'a mut SocketSet<'static>,
    pub(in crate::net) resets: &'a [Reset],
    pub(in crate::net) settings: &'a Settings,
    pub(in crate::net) now: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Connecting,
    Open,
    Failed(Error),
    /// Given up by its caller; forgotten at `until` at the latest.
    Closing {
        until: Instant,
    },
}

pub(super) struct Stream {
    id: StreamId,
    pub(super) socket: SocketHandle,
    pub(super) peer: SocketAddrV4,
    local_port: u16,
    pub(super) phase: Phase,
}

struct Listener {
    port: u16,
    backlog: ArrayVec<SocketHandle, BACKLOG_MAX>,
}

/// All streams and listening ports of a network.
pub(in crate::net) struct Streams {
    streams: ArrayVec<Stream, STREAMS_MAX>,
    listeners: ArrayVec<Listener, LISTENERS_MAX>,
    next_id: u64,
    next_port: u16,
}

fn socket(settings: &Settings) -> tcp::Socket<'static> {
    let mut socket = tcp::Socket::new(
        tcp::SocketBuffer::new(vec![0; RECEIVE_BUFFER_LENGTH]),
        tcp::SocketBuffer::new(vec![0; SEND_BUFFER_LENGTH]),
    );
    socket.set_nagle_enabled(false);
    socket.set_timeout(Some(span(settings.connect_timeout)));
    socket
}

fn span(duration: Duration) -> smoltcp::time::Duration {
    smoltcp::time::Duration::from_micros(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

/// From now on the peer's silence counts as a lost link.
fn watch(socket: &mut tcp::Socket<'_>, settings: &Settings) {
    socket.set_timeout(Some(span(settings.link_timeout)));
    socket.set_keep_alive(Some(span(settings.link_timeout / 4)));
}

fn address_of(endpoint: IpEndpoint) -> SocketAddrV4 {
    let IpAddress::Ipv4(address) = endpoint.addr;
    SocketAddrV4::new(address, endpoint.port)
}

impl Streams {
    pub(in crate::net) fn new(seed: u64) -> Self {
        let next_port = (seed % u64::from(EPHEMERAL_COUNT)) as u16;
        Self { streams: ArrayVec::new(), listeners: ArrayVec::new(), next_id: 1, next_port }
    }

    pub(in crate::net) fn listening(&self) -> impl Iterator<Item = u16> {
        self.listeners.iter().map(|listener| listener.port)
    }

    pub(in crate::net) fn status(&self, sockets: &SocketSet<'static>) -> Vec<StreamStatus> {
        self.streams
            .iter()
            .map(|stream| {
                let socket = sockets.get::<tcp::Socket<'_>>(stream.socket);
                StreamStatus {
                    peer: stream.peer,
                    local_port: stream.local_port,
                    state: state(stream, socket),
                    unacknowledged: socket.send_queue(),
                    unread: socket.recv_queue(),
                }
            })
            .collect()
    }

    /// When a closing stream is to be forgotten.
    pub(in crate::net) fn poll_at(&self) -> Option<Instant> {
        let until = |stream: &Stream| match stream.phase {
            Phase::Closing { until } => Some(until),
            _ => None,
        };
        self.streams.iter().filter_map(until).min()
    }

    /// Follows what the stack did in its poll.
    pub(in crate::net) fn poll(&mut self, parts: &mut Parts<'_>) {
        let mut index = 0;
        while let Some(stream) = self.streams.get_mut(index) {
            if follow(stream, parts) {
                index += 1;
            } else {
                parts.sockets.remove(stream.socket);
                self.streams.swap_remove(index);
            }
        }
        self.forget_surplus(parts);
        for listener in &mut self.listeners {
            refresh(listener, parts);
        }
    }

    pub(super) fn find(&mut self, id: StreamId) -> Result<&mut Stream, Error> {
        let given_up = |stream: &Stream| matches!(stream.phase, Phase::Closing { .. });
        self.streams.iter_mut().find(|stream| stream.id == id && !given_up(stream)).ok_or(Error::Unknown)
    }

    /// Forgets streams that are being closed, if there are too many: first one that was aborted and whose reset could not leave,
    /// then one that has said everything, then one of the peer that has most of them; of these the one that was given up first.
    fn forget_surplus(&mut self, parts: &mut Parts<'_>) {
        let closing = |stream: &&Stream| matches!(stream.phase, Phase::Closing { .. });
        while self.streams.iter().filter(closing).count() > CLOSING_MAX {
            let rank = |(index, stream): (usize, &Stream)| {
                let Phase::Closing { until } = stream.phase else { return None };
                let socket = parts.sockets.get::<tcp::Socket<'_>>(stream.socket);
                let is_peers = |other: &&Stream| other.peer.ip() == stream.peer.ip();
                let peers = self.streams.iter().filter(closing).filter(is_peers).count();
                let is_heard = socket.state() != tcp::State::Closed;
                Some((is_heard, socket.send_queue() > 0, STREAMS_MAX - peers, until, index))
            };
            let Some((.., index)) = self.streams.iter().enumerate().filter_map(rank).min() else { return };
            parts.sockets.remove(self.streams.swap_remove(index).socket);
        }
    }

    fn add(&mut self, socket: SocketHandle, peer: SocketAddrV4, local_port: u16, phase: Phase) -> StreamId {
        let id = StreamId(self.next_id);
        self.next_id += 1;
        self.streams.push(Stream { id, socket, peer, local_port, phase });
        id
    }

    /// A port that no stream and no listener uses; there are far more ports than streams.
    fn ephemeral_port(&mut self) -> u16 {
        loop {
            let port = EPHEMERAL_FIRST + self.next_port;
            self.next_port = (self.next_port + 1) % EPHEMERAL_COUNT;
            let used = self.streams.iter().any(|stream| stream.local_port == port);
            if !used && !self.listening().any(|listening| listening == port) {
                return port;
            }
        }
    }

    pub(super) fn connect(&mut self, parts: &mut Parts<'_>, peer: SocketAddrV4) -> Result<StreamId, Error> {
        let (address, port) = (*peer.ip(), peer.port());
        if address.is_multicast() || address.is_broadcast() {
            return Err(Error::BadAddress);
        }
        if parts.interface.ip_addrs().is_empty() {
            return Err(Error::NoAddress);
        }
        if self.streams.is_full() {
            return Err(Error::Exhausted);
        }
        let local_port = self.ephemeral_port();
        let mut socket = socket(parts.settings);
        let remote = (IpAddress::Ipv4(address), port);
        socket.connect(parts.interface.context(), remote, local_port).map_err(|_| Error::BadAddress)?;
        let handle = parts.sockets.add(socket);
        Ok(self.add(handle, peer, local_port, Phase::Connecting))
    }

    pub(super) fn listen(&mut self, parts: &mut Parts<'_>, port: u16) -> Result<(), Error> {
        if port == 0 {
            return Err(Error::BadAddress);
        }
        let used = self.streams.iter().any(|stream| {
            stream.local_port == port && !matches!(stream.phase, Phase::Closing { .. } | Phase::Failed(_))
        });
        if used || self.listening().any(|listening| listening == port) {
            return Err(Error::PortInUse);
        }
        let mut listener = Listener { port, backlog: ArrayVec::new() };
        refresh(&mut listener, parts);
        self.listeners.try_push(listener).map_err(|refused| {
            for socket in refused.element().backlog {
                parts.sockets.remove(socket);
            }
            Error::Exhausted
        })
    }

    pub(super) fn unlisten(&mut self, parts: &mut Parts<'_>, port: u16) {
        let Some(index) = self.listeners.iter().position(|listener| listener.port == port) else { return };
        let until = parts.now + LINGER;
        for handle in self.listeners.remove(index).backlog {
            let socket = parts.sockets.get_mut::<tcp::Socket<'_>>(handle);
            let peer = socket.remote_endpoint().map(address_of);
            socket.abort();
            match peer {
                // Somebody waits for an answer: let the reset go out.
                Some(peer) if !self.streams.is_full() => {
                    self.add(handle, peer, port, Phase::Closing { until });
                }
                _ => {
                    parts.sockets.remove(handle);
                }
            }
        }
    }

    pub(super) fn accept(&mut self, parts: &mut Parts<'_>, port: u16) -> Option<Accepted> {
        if self.streams.is_full() {
            return None;
        }
        let listener = self.listeners.iter_mut().find(|listener| listener.port == port)?;
        let ready = |handle: &SocketHandle| {
            let socket = parts.sockets.get::<tcp::Socket<'_>>(*handle);
            matches!(socket.state(), tcp::State::Established | tcp::State::CloseWait)
        };
        let index = listener.backlog.iter().position(ready)?;
        let handle = listener.backlog.remove(index);
        refresh(listener, parts);
        let socket = parts.sockets.get_mut::<tcp::Socket<'_>>(handle);
        watch(socket, parts.settings);
        let peer = socket.remote_endpoint().map(address_of)?;
        let stream = self.add(handle, peer, port, Phase::Open);
        Some(Accepted { stream, peer })
    }
}

/// Brings a stream up to date with its socket; false when it is to be forgotten.
fn follow(stream: &mut Stream, parts: &mut Parts<'_>) -> bool {
    let socket = parts.sockets.get_mut::<tcp::Socket<'_>>(stream.socket);
    match (stream.phase, socket.state()) {
        (Phase::Failed(_), _) | (Phase::Connecting, tcp::State::SynSent | tcp::State::SynReceived) => true,
        (Phase::Connecting, tcp::State::Closed) => {
            let reset = was_reset(stream, parts.resets);
            stream.phase = Phase::Failed(if reset { Error::Refused } else { Error::ConnectTimeout });
            true
        }
        (Phase::Connecting, _) => {
            watch(socket, parts.settings);
            stream.phase = Phase::Open;
            true
        }
        (Phase::Open, tcp::State::Closed) => {
            let reset = was_reset(stream, parts.resets);
            let error = match reset {
                true => Error::Reset,
                false if parts.interface.ip_addrs().is_empty() => Error::AddressLost,
                false => Error::LinkLost,
            };
            stream.phase = Phase::Failed(error);
            true
        }
        (Phase::Open, _) => true,
        (Phase::Closing { until }, tcp::State::Closed) => {
            // A reset may still have to leave.
            socket.remote_endpoint().is_some() && parts.now < until
        }
        (Phase::Closing { until }, tcp::State::TimeWait) => {
            let until = until.min(parts.now + LINGER_AFTER);
            stream.phase = Phase::Closing { until };
            parts.now < until
        }
        (Phase::Closing { until }, _) if parts.now < until => true,
        (Phase::Closing { .. }, _) => {
            socket.abort();
            stream.phase = Phase::Closing { until: parts.now + LINGER_AFTER };
            true
        }
    }
}

fn was_reset(stream: &Stream, resets: &[Reset]) -> bool {
    resets.iter().any(|reset| {
        reset.source == *stream.peer.ip()
            && reset.source_port == stream.peer.port()
            && reset.target_port == stream.local_port
    })
}

/// Makes every place in the backlog listen that neither listens nor holds a connection.
fn refresh(listener: &mut Listener, parts: &mut Parts<'_>) {
    while !listener.backlog.is_full() {
        listener.backlog.push(parts.sockets.add(socket(parts.settings)));
    }
    for handle in &listener.backlog {
        let socket = parts.sockets.get_mut::<tcp::Socket<'_>>(*handle);
        let over = matches!(
            socket.state(),
            tcp::State::Closed | tcp::State::TimeWait | tcp::State::LastAck | tcp::State::FinWait2
        );
        if over && (socket.state() != tcp::State::Closed || socket.remote_endpoint().is_none()) {
            socket.abort();
        }
        if socket.state() == tcp::State::Closed && socket.remote_endpoint().is_none() {
            // It is closed and the port is not zero: listening cannot fail.
            let _ = socket.listen(listener.port);
        }
    }
}

/// How a stream is for its caller; `None` when its caller gave it up.
pub(super) fn state(stream: &Stream, socket: &tcp::Socket<'_>) -> Option<State> {
    match stream.phase {
        Phase::Connecting => Some(State::Connecting),
        Phase::Failed(error) => Some(State::Failed(error)),
        Phase::Closing { .. } => None,
        Phase::Open => Some(if socket.may_recv() { State::Open } else { State::PeerEnded }),
    }
}
