//! TCP connections as bounded byte streams.
//!
//! All methods are on [`Network`] and return at once:
//!
//! - [`connect`](Network::connect) begins a connection and gives its [`StreamId`]; [`listen`](Network::listen)
//!   opens a port and [`accept`](Network::accept) hands out what came in. Several connections and several ports
//!   live side by side, [`STREAMS_MAX`] connections in all.
//! - [`stream_state`](Network::stream_state) tells `Connecting`, `Open`, or `Failed` with a named reason.
//! - [`send`](Network::send) and [`receive`](Network::receive) copy as many bytes as fit or are there; zero
//!   means "not now". Bytes that arrived before a failure or the peer's end can still be received.
//! - [`close`](Network::close) ends our side after everything that was queued has been delivered, and
//!   [`abort`](Network::abort) at once; both give the identifier up. Every identifier must be given up by one
//!   of them, also that of a failed stream, or its slot stays taken.
//!
//! Nagle's algorithm is off: a small message leaves with the next poll. A peer that is silent for
//! [`Settings::link_timeout`] is [`Error::LinkLost`], on an idle stream too. Identifiers are never reused.

use alloc::{vec, vec::Vec};
use core::{fmt, net::SocketAddrV4, time::Duration};

use arrayvec::ArrayVec;
use smoltcp::{
    iface::{Interface, SocketHandle, SocketSet},
    socket::tcp,
    wire::{IpAddress, IpEndpoint},
};

use super::{Instant, Network, Settings, frame::Reset};

/// Connections at one time, those that are still being closed included.
pub const STREAMS_MAX: usize = 12;
/// Ports that accept connections at one time.
pub const LISTENERS_MAX: usize = 4;
/// Connections per port that may wait to be accepted, or be in the middle of their handshake.
pub const BACKLOG_MAX: usize = 2;
/// Bytes that a peer may send before they are received: a window that needs no scaling.
pub const RECEIVE_BUFFER_LENGTH: usize = 65_535;
/// Bytes that can be queued for a peer: more than a window, so that the next is ready when the last is
/// acknowledged.
pub const SEND_BUFFER_LENGTH: usize = 128 * 1024;

/// How long a stream that was closed may take to say goodbye.
const LINGER: Duration = Duration::from_secs(10);
/// How long it stays after goodbye was said by both, so that the last word can be repeated.
const LINGER_AFTER: Duration = Duration::from_millis(200);
/// Ports from which connections are made (RFC 6335).
const EPHEMERAL_FIRST: u16 = 49_152;
const EPHEMERAL_COUNT: u16 = 16_384;

/// Why something with a stream did not work. The first three and the last two blame this host or its caller,
/// the others the peer or the way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// This host has no address yet.
    NoAddress,
    /// All connections or ports that there may be are in use.
    Exhausted,
    /// Somebody listens on this port already.
    PortInUse,
    /// That is not the address and port of one host.
    BadAddress,
    /// The peer does not accept connections on that port.
    Refused,
    /// No answer in time: the peer is absent, or the way to it is cut.
    ConnectTimeout,
    /// An open connection's peer is silent: it died, or the way to it is cut.
    LinkLost,
    /// The peer aborted the connection.
    Reset,
    /// This host lost the address that the connection was made with.
    AddressLost,
    /// The identifier was given up, or never given out.
    Unknown,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoAddress => "this host has no address yet",
            Self::Exhausted => "this host has no connection left to give",
            Self::PortInUse => "this host listens on that port already",
            Self::BadAddress => "that is not the address of a host",
            Self::Refused => "the peer refuses connections on that port",
            Self::ConnectTimeout => "the peer does not answer",
            Self::LinkLost => "the peer has fallen silent: link lost",
            Self::Reset => "the peer aborted the connection",
            Self::AddressLost => "this host has lost its address",
            Self::Unknown => "no such connection",
        })
    }
}

impl core::error::Error for Error {}

/// Names a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(u64);

/// A connection that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its name.
    pub stream: StreamId,
    /// Who made it.
    pub peer: SocketAddrV4,
}

/// How a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The peer has not answered yet.
    Connecting,
    /// Bytes can flow.
    Open,
    /// The peer has ended its side; everything it sent has been received. Ours may still send.
    PeerEnded,
    /// It is over; bytes that arrived before may still be there.
    Failed(Error),
}

/// What [`Network::receive`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// So many bytes were copied; zero if none is there now.
    Bytes(usize),
    /// The peer has ended its side, and everything it sent has been received.
    End,
}

/// A stream for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamStatus {
    /// The other end.
    pub peer: SocketAddrV4,
    /// The port at this end.
    pub local_port: u16,
    /// How it is; `None` when it is only being closed.
    pub state: Option<State>,
    /// Bytes queued and not acknowledged.
    pub unacknowledged: usize,
    /// Bytes arrived and not received.
    pub unread: usize,
}

impl fmt::Display for StreamStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream    port {} with {}: ", self.local_port, self.peer)?;
        match self.state {
            None => f.write_str("closing")?,
            Some(State::Connecting) => f.write_str("connecting")?,
            Some(State::Open) => f.write_str("open")?,
            Some(State::PeerEnded) => f.write_str("ended by the peer")?,
            Some(State::Failed(error)) => write!(f, "{error}")?,
        }
        write!(f, ", {} bytes to be acknowledged, {} to be read", self.unacknowledged, self.unread)
    }
}

/// What streams work on, for the time of one call.
pub(super) struct Parts<'a> {
    pub(super) interface: &'a mut Interface,
    pub(super) sockets: &'a mut SocketSet<'static>,
    pub(super) resets: &'a [Reset],
    pub(super) settings: &'a Settings,
    pub(super) now: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Open,
    Failed(Error),
    /// Given up by its caller; forgotten at `until` at the latest.
    Closing {
        until: Instant,
    },
}

struct Stream {
    id: StreamId,
    socket: SocketHandle,
    peer: SocketAddrV4,
    local_port: u16,
    phase: Phase,
}

struct Listener {
    port: u16,
    backlog: ArrayVec<SocketHandle, BACKLOG_MAX>,
}

/// All streams and listening ports of a network.
pub(super) struct Streams {
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
    pub(super) fn new(seed: u64) -> Self {
        let next_port = (seed % u64::from(EPHEMERAL_COUNT)) as u16;
        Self { streams: ArrayVec::new(), listeners: ArrayVec::new(), next_id: 1, next_port }
    }

    pub(super) fn listening(&self) -> impl Iterator<Item = u16> {
        self.listeners.iter().map(|listener| listener.port)
    }

    pub(super) fn status(&self, sockets: &SocketSet<'static>) -> Vec<StreamStatus> {
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
    pub(super) fn poll_at(&self) -> Option<Instant> {
        let until = |stream: &Stream| match stream.phase {
            Phase::Closing { until } => Some(until),
            _ => None,
        };
        self.streams.iter().filter_map(until).min()
    }

    /// Follows what the stack did in its poll.
    pub(super) fn poll(&mut self, parts: &mut Parts<'_>) {
        let mut index = 0;
        while let Some(stream) = self.streams.get_mut(index) {
            if follow(stream, parts) {
                index += 1;
            } else {
                parts.sockets.remove(stream.socket);
                self.streams.swap_remove(index);
            }
        }
        for listener in &mut self.listeners {
            refresh(listener, parts);
        }
    }

    fn find(&mut self, id: StreamId) -> Result<&mut Stream, Error> {
        let given_up = |stream: &Stream| matches!(stream.phase, Phase::Closing { .. });
        self.streams.iter_mut().find(|stream| stream.id == id && !given_up(stream)).ok_or(Error::Unknown)
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

    fn connect(&mut self, parts: &mut Parts<'_>, peer: SocketAddrV4) -> Result<StreamId, Error> {
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

    fn listen(&mut self, parts: &mut Parts<'_>, port: u16) -> Result<(), Error> {
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

    fn unlisten(&mut self, parts: &mut Parts<'_>, port: u16) {
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

    fn accept(&mut self, parts: &mut Parts<'_>, port: u16) -> Option<Accepted> {
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
fn state(stream: &Stream, socket: &tcp::Socket<'_>) -> Option<State> {
    match stream.phase {
        Phase::Connecting => Some(State::Connecting),
        Phase::Failed(error) => Some(State::Failed(error)),
        Phase::Closing { .. } => None,
        Phase::Open => Some(if socket.may_recv() { State::Open } else { State::PeerEnded }),
    }
}

/// TCP connections as byte streams; see [`stream`](self).
impl Network {
    /// Begins a connection to `peer`.
    ///
    /// # Errors
    /// [`Error::BadAddress`], [`Error::NoAddress`] or [`Error::Exhausted`]. That the peer does not answer or
    /// refuses shows later, in [`stream_state`](Self::stream_state).
    pub fn connect(&mut self, peer: SocketAddrV4) -> Result<StreamId, Error> {
        let (streams, mut parts) = self.split();
        streams.connect(&mut parts, peer)
    }

    /// Accepts connections on `port` from now on.
    ///
    /// # Errors
    /// [`Error::PortInUse`], [`Error::Exhausted`], or [`Error::BadAddress`] for port zero.
    pub fn listen(&mut self, port: u16) -> Result<(), Error> {
        let (streams, mut parts) = self.split();
        streams.listen(&mut parts, port)
    }

    /// No longer accepts connections on `port`; those that nobody accepted are aborted, others go on.
    pub fn unlisten(&mut self, port: u16) {
        let (streams, mut parts) = self.split();
        streams.unlisten(&mut parts, port);
    }

    /// Takes a connection that came in on `port`; `None` if there is none now, or no place for it.
    pub fn accept(&mut self, port: u16) -> Option<Accepted> {
        let (streams, mut parts) = self.split();
        streams.accept(&mut parts, port)
    }

    /// How a stream is.
    ///
    /// # Errors
    /// [`Error::Unknown`] if it was given up.
    pub fn stream_state(&mut self, id: StreamId) -> Result<State, Error> {
        let (streams, parts) = self.split();
        let stream = streams.find(id)?;
        state(stream, parts.sockets.get(stream.socket)).ok_or(Error::Unknown)
    }

    /// The other end of a stream.
    ///
    /// # Errors
    /// [`Error::Unknown`] if it was given up.
    pub fn stream_peer(&mut self, id: StreamId) -> Result<SocketAddrV4, Error> {
        self.streams.find(id).map(|stream| stream.peer)
    }

    /// Queues as much of `bytes` as there is room for and returns how much; zero while connecting and while the
    /// buffer is full. It leaves with the next polls.
    ///
    /// # Errors
    /// The reason if the stream has failed; [`Error::Unknown`] if it was given up.
    pub fn send(&mut self, id: StreamId, bytes: &[u8]) -> Result<usize, Error> {
        let (streams, parts) = self.split();
        let stream = streams.find(id)?;
        match stream.phase {
            Phase::Connecting => Ok(0),
            Phase::Failed(error) => Err(error),
            Phase::Closing { .. } => Err(Error::Unknown),
            Phase::Open => {
                let socket = parts.sockets.get_mut::<tcp::Socket<'_>>(stream.socket);
                // An open stream whose socket no longer sends is about to be found failed by the next poll.
                Ok(socket.send_slice(bytes).unwrap_or(0))
            }
        }
    }

    /// How many bytes [`send`](Self::send) would take now.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_room(&mut self, id: StreamId) -> Result<usize, Error> {
        let (streams, parts) = self.split();
        let stream = streams.find(id)?;
        match stream.phase {
            Phase::Connecting => Ok(0),
            Phase::Failed(error) => Err(error),
            Phase::Closing { .. } => Err(Error::Unknown),
            Phase::Open => {
                let socket = parts.sockets.get::<tcp::Socket<'_>>(stream.socket);
                Ok(if socket.may_send() { socket.send_capacity() - socket.send_queue() } else { 0 })
            }
        }
    }

    /// Bytes that were queued and that the peer has not acknowledged.
    ///
    /// # Errors
    /// [`Error::Unknown`] if it was given up.
    pub fn unacknowledged(&mut self, id: StreamId) -> Result<usize, Error> {
        let (streams, parts) = self.split();
        let stream = streams.find(id)?;
        Ok(parts.sockets.get::<tcp::Socket<'_>>(stream.socket).send_queue())
    }

    /// Copies bytes that have arrived to the start of `into`.
    ///
    /// # Errors
    /// The reason if the stream has failed and everything that arrived before was received; [`Error::Unknown`]
    /// if it was given up.
    pub fn receive(&mut self, id: StreamId, into: &mut [u8]) -> Result<Received, Error> {
        let (streams, parts) = self.split();
        let stream = streams.find(id)?;
        let socket = parts.sockets.get_mut::<tcp::Socket<'_>>(stream.socket);
        match (socket.recv_slice(into), stream.phase) {
            (Ok(count), Phase::Open) => Ok(Received::Bytes(count)),
            (Ok(count), _) if count > 0 => Ok(Received::Bytes(count)),
            (Err(tcp::RecvError::Finished), _) => Ok(Received::End),
            (_, Phase::Failed(error)) => Err(error),
            (_, Phase::Closing { .. }) => Err(Error::Unknown),
            (_, Phase::Connecting | Phase::Open) => Ok(Received::Bytes(0)),
        }
    }

    /// Gives a stream up: what was queued is still delivered if the peer takes it, then our side ends.
    ///
    /// # Errors
    /// [`Error::Unknown`] if it was given up before.
    pub fn close(&mut self, id: StreamId) -> Result<(), Error> {
        self.give_up(id, tcp::Socket::close)
    }

    /// Gives a stream up at once: the peer sees a reset.
    ///
    /// # Errors
    /// [`Error::Unknown`] if it was given up before.
    pub fn abort(&mut self, id: StreamId) -> Result<(), Error> {
        self.give_up(id, tcp::Socket::abort)
    }

    fn give_up(&mut self, id: StreamId, end: fn(&mut tcp::Socket<'static>)) -> Result<(), Error> {
        let (streams, parts) = self.split();
        let stream = streams.find(id)?;
        stream.phase = Phase::Closing { until: parts.now + LINGER };
        end(parts.sockets.get_mut(stream.socket));
        Ok(())
    }
}
