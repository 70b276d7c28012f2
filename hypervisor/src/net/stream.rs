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
//!   of them, also that of a failed stream, or its slot stays taken. At most [`CLOSING_MAX`] are still being closed then:
//!   a peer that takes nothing any more keeps no memory here.
//!
//! Nagle's algorithm is off: a small message leaves with the next poll. A peer that is silent for
//! [`Settings::link_timeout`] is [`Error::LinkLost`], on an idle stream too. Identifiers are never reused.

mod pool;

use core::{fmt, net::SocketAddrV4};

use smoltcp::socket::tcp;

use self::pool::Phase;
pub(super) use self::pool::{Parts, Streams};
use super::Network;

/// Connections at one time, those that are still being closed included. All that migrations may need at one time are fewer
/// (`crate::migrate::account`), so none is ever without a connection because of others.
pub const STREAMS_MAX: usize = 96;
/// Connections that were given up before the last poll and are still being closed: the last words of as many migrations as end in
/// one round trip. If there are more, some are forgotten, those of the host that has most of them first.
pub const CLOSING_MAX: usize = 12;
/// Ports that accept connections at one time.
pub const LISTENERS_MAX: usize = 4;
/// Connections per port that may wait to be accepted, or be in the middle of their handshake: both of two migrations.
pub const BACKLOG_MAX: usize = 4;
/// Payload of a full segment: a frame's 1,500 bytes less the headers of IPv4 and TCP.
const SEGMENT_LENGTH: usize = 1460;
/// Bytes that a peer may send before they are received: a window that needs no scaling and holds whole segments,
/// since what is left of it beyond them would be filled by short ones, again and again.
pub const RECEIVE_BUFFER_LENGTH: usize = 44 * SEGMENT_LENGTH;
/// Bytes that can be queued for a peer: more than a window, so that the next is ready when the last is
/// acknowledged.
pub const SEND_BUFFER_LENGTH: usize = 90 * SEGMENT_LENGTH;
/// Bytes of the heap that a connection takes, whether it is used or not.
pub const STREAM_BYTES: usize = RECEIVE_BUFFER_LENGTH + SEND_BUFFER_LENGTH + 2048;

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

impl StreamId {
    /// The name of a connection that a test's own network makes up.
    #[cfg(test)]
    pub(crate) const fn made_up(number: u64) -> Self {
        Self(number)
    }

    /// The number that it was made up from.
    #[cfg(test)]
    pub(crate) const fn number(self) -> u64 {
        self.0
    }
}

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
        pool::state(stream, parts.sockets.get(stream.socket)).ok_or(Error::Unknown)
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
        stream.phase = Phase::Closing { until: parts.now + pool::LINGER };
        end(parts.sockets.get_mut(stream.socket));
        Ok(())
    }
}
