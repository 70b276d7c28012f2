//! A neighbour on the switch with a TCP/IP stack of its own (smoltcp), driven by the test that holds it.
//!
//! It pings hosts, connects to their ports and listens like one. Nothing happens between calls: the stack is polled
//! only inside them.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{icmp, tcp};
use smoltcp::wire::{EthernetAddress, HardwareAddress, Icmpv4Packet, Icmpv4Repr, IpAddress, IpCidr};

use crate::switch::{Endpoint, Mac, Switch};

const IDENTIFIER: u16 = 0x60d1;
const PING_BYTES: usize = 56;
const TCP_BUFFER_BYTES: usize = 64 * 1024;
/// How long the stack sleeps at most when no frame comes. (An idle Bochs lives hundreds of times faster than we do: a
/// frame must be answered at once.)
const POLL_PATIENCE: Duration = Duration::from_millis(10);

/// Why a peer's operation failed.
#[derive(Debug, PartialEq, Eq)]
pub enum PeerError {
    /// No answer in time.
    Timeout,
    /// The other side refused or reset the connection.
    Reset,
    /// The stack refused; a mistake in the test.
    Misuse(String),
}

impl fmt::Display for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("no answer in time"),
            Self::Reset => f.write_str("connection refused or reset"),
            Self::Misuse(what) => write!(f, "smoltcp refused: {what}"),
        }
    }
}

impl std::error::Error for PeerError {}

/// Result of peer operations.
pub type Result<T> = std::result::Result<T, PeerError>;

/// A host of the lab's own.
pub struct Peer {
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    start: Instant,
    next_port: u16,
    sequence: u16,
}

/// A TCP connection of a [`Peer`].
#[derive(Clone, Copy, Debug)]
pub struct Connection(SocketHandle);

impl Peer {
    /// Joins `switch` as `address`/24.
    pub fn join(switch: &Switch, name: &str, mac: Mac, address: Ipv4Addr) -> Self {
        let mut wire = Wire { endpoint: switch.add_endpoint(name), arrived: None };
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
        config.random_seed = u64::from(mac[5]) + 1;
        let start = Instant::now();
        let mut interface = Interface::new(config, &mut wire, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            // Room for one address is always there.
            let _ = addresses.push(IpCidr::new(IpAddress::Ipv4(address), 24));
        });
        let sockets = SocketSet::new(Vec::new());
        Self { wire, interface, sockets, start, next_port: 49_152, sequence: 0 }
    }

    /// Serves the wire for `duration`: answers ARP and echo requests.
    pub fn serve(&mut self, duration: Duration) {
        let _: Result<()> = self.until(duration, |_| None);
    }

    /// Sends one echo request and waits for its answer; returns the round-trip time.
    ///
    /// # Errors
    /// No answer in time.
    pub fn ping(&mut self, target: Ipv4Addr, timeout: Duration) -> Result<Duration> {
        let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 1024]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        socket.bind(icmp::Endpoint::Ident(IDENTIFIER)).map_err(misuse)?;
        let handle = self.sockets.add(socket);
        let outcome = self.ping_with(handle, target, timeout);
        self.sockets.remove(handle);
        outcome
    }

    fn ping_with(&mut self, handle: SocketHandle, target: Ipv4Addr, timeout: Duration) -> Result<Duration> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let request =
            Icmpv4Repr::EchoRequest { ident: IDENTIFIER, seq_no: sequence, data: &[0x67; PING_BYTES] };
        let socket = self.sockets.get_mut::<icmp::Socket<'_>>(handle);
        let payload = socket.send(request.buffer_len(), IpAddress::Ipv4(target)).map_err(misuse)?;
        request.emit(&mut Icmpv4Packet::new_unchecked(payload), &ChecksumCapabilities::default());
        let sent = Instant::now();
        self.until(timeout, |sockets| {
            let socket = sockets.get_mut::<icmp::Socket<'_>>(handle);
            let (payload, _) = socket.recv().ok()?;
            let packet = Icmpv4Packet::new_checked(payload).ok()?;
            match Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default()) {
                Ok(Icmpv4Repr::EchoReply { seq_no, data: [0x67, ..], .. }) if seq_no == sequence => {
                    Some(Ok(sent.elapsed()))
                }
                _ => None,
            }
        })
    }

    /// Opens a TCP connection.
    ///
    /// # Errors
    /// Refused, or no answer in time.
    pub fn connect(&mut self, target: Ipv4Addr, port: u16, timeout: Duration) -> Result<Connection> {
        let mut socket = tcp_socket();
        self.next_port = self.next_port.checked_add(1).unwrap_or(49_152);
        socket
            .connect(self.interface.context(), (IpAddress::Ipv4(target), port), self.next_port)
            .map_err(misuse)?;
        self.established(socket, timeout)
    }

    /// Listens on `port` and waits for one connection.
    ///
    /// # Errors
    /// Nobody connected in time.
    pub fn accept(&mut self, port: u16, timeout: Duration) -> Result<Connection> {
        let mut socket = tcp_socket();
        socket.listen(port).map_err(misuse)?;
        self.established(socket, timeout)
    }

    fn established(&mut self, socket: tcp::Socket<'static>, timeout: Duration) -> Result<Connection> {
        let handle = self.sockets.add(socket);
        let outcome = self.until(timeout, |sockets| {
            let socket = sockets.get_mut::<tcp::Socket<'_>>(handle);
            match socket.state() {
                tcp::State::Closed => Some(Err(PeerError::Reset)),
                _ if socket.may_send() => Some(Ok(())),
                _ => None,
            }
        });
        if outcome.is_err() {
            self.sockets.remove(handle);
        }
        outcome.map(|()| Connection(handle))
    }

    /// Sends all of `bytes` and waits until the other side has acknowledged them.
    ///
    /// # Errors
    /// The connection is gone, or not all was taken in time.
    pub fn send(&mut self, connection: Connection, bytes: &[u8], timeout: Duration) -> Result<()> {
        let mut left = bytes;
        self.until(timeout, |sockets| {
            let socket = sockets.get_mut::<tcp::Socket<'_>>(connection.0);
            if !left.is_empty() {
                match socket.send_slice(left) {
                    Ok(count) => left = &left[count..],
                    Err(_) => return Some(Err(PeerError::Reset)),
                }
            }
            match socket.state() {
                tcp::State::Closed => Some(Err(PeerError::Reset)),
                _ if left.is_empty() && socket.send_queue() == 0 => Some(Ok(())),
                _ => None,
            }
        })
    }

    /// Waits for bytes; an empty vector means that the other side has closed its half.
    ///
    /// # Errors
    /// The connection was reset, or nothing came in time.
    pub fn receive(&mut self, connection: Connection, timeout: Duration) -> Result<Vec<u8>> {
        self.until(timeout, |sockets| {
            let socket = sockets.get_mut::<tcp::Socket<'_>>(connection.0);
            if socket.recv_queue() > 0 {
                let mut bytes = vec![0; socket.recv_queue()];
                return Some(match socket.recv_slice(&mut bytes) {
                    Ok(count) => {
                        bytes.truncate(count);
                        Ok(bytes)
                    }
                    Err(_) => Err(PeerError::Reset),
                });
            }
            match socket.state() {
                tcp::State::Closed => Some(Err(PeerError::Reset)),
                tcp::State::CloseWait | tcp::State::LastAck | tcp::State::TimeWait => Some(Ok(Vec::new())),
                _ => None,
            }
        })
    }

    /// Closes this side's half and forgets the connection after telling the other side.
    pub fn close(&mut self, connection: Connection) {
        self.sockets.get_mut::<tcp::Socket<'_>>(connection.0).close();
        self.serve(Duration::from_millis(50));
        self.sockets.remove(connection.0);
    }

    /// Polls the stack until `done` has an answer.
    fn until<T>(
        &mut self,
        timeout: Duration,
        mut done: impl FnMut(&mut SocketSet<'static>) -> Option<Result<T>>,
    ) -> Result<T> {
        let deadline = Instant::now() + timeout;
        loop {
            let now = smoltcp::time::Instant::from_micros(self.start.elapsed().as_micros() as i64);
            let polled = self.interface.poll(now, &mut self.wire, &mut self.sockets);
            if let Some(answer) = done(&mut self.sockets) {
                // What the answer queued (a close, an acknowledgement) leaves now.
                self.interface.poll(now, &mut self.wire, &mut self.sockets);
                return answer;
            }
            if Instant::now() >= deadline {
                return Err(PeerError::Timeout);
            }
            if polled == PollResult::None && self.wire.arrived.is_none() {
                self.wire.arrived = self.wire.endpoint.receive(POLL_PATIENCE);
            }
        }
    }
}

fn tcp_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; TCP_BUFFER_BYTES]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    // Nobody polls between calls, so an acknowledgement must not wait.
    socket.set_ack_delay(None);
    socket
}

fn misuse(error: impl fmt::Debug) -> PeerError {
    PeerError::Misuse(format!("{error:?}"))
}

/// An [`Endpoint`] as smoltcp's device.
struct Wire {
    endpoint: Endpoint,
    /// A frame that ended a wait and that the stack has not seen yet.
    arrived: Option<Vec<u8>>,
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sender<'a>;

    fn receive(&mut self, _now: smoltcp::time::Instant) -> Option<(Received, Sender<'_>)> {
        let frame = self.arrived.take().or_else(|| self.endpoint.receive(Duration::ZERO))?;
        Some((Received(frame), Sender(&self.endpoint)))
    }

    fn transmit(&mut self, _now: smoltcp::time::Instant) -> Option<Sender<'_>> {
        Some(Sender(&self.endpoint))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1_514;
        capabilities
    }
}

struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

struct Sender<'a>(&'a Endpoint);

impl TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; length];
        let result = fill(&mut frame);
        self.0.send(&frame);
        result
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::switch::mac;

    const SOON: Duration = Duration::from_secs(10);
    const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    fn pair() -> (Switch, Peer, Peer) {
        let switch = Switch::new();
        let a = Peer::join(&switch, "a", mac(1), A);
        let b = Peer::join(&switch, "b", mac(2), B);
        (switch, a, b)
    }

    #[test]
    fn a_ping_is_answered_while_the_other_side_serves() {
        let (_switch, mut a, mut b) = pair();
        let server = thread::spawn(move || b.serve(Duration::from_millis(500)));
        a.ping(B, SOON).unwrap();
        server.join().unwrap();
    }

    #[test]
    fn a_ping_to_nobody_times_out() {
        let (_switch, mut a, _b) = pair();
        let nobody = Ipv4Addr::new(10, 0, 0, 77);
        assert_eq!(a.ping(nobody, Duration::from_millis(50)), Err(PeerError::Timeout));
    }

    #[test]
    fn a_tcp_stream_carries_bytes_both_ways() {
        let (_switch, mut a, mut b) = pair();
        let server = thread::spawn(move || {
            let connection = b.accept(7100, SOON).unwrap();
            let mut bytes = Vec::new();
            while bytes.len() < 200_000 {
                bytes.extend(b.receive(connection, SOON).unwrap());
            }
            b.send(connection, b"done", SOON).unwrap();
            b.close(connection);
            bytes
        });
        let connection = a.connect(B, 7100, SOON).unwrap();
        let sent: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
        a.send(connection, &sent, SOON).unwrap();
        assert_eq!(a.receive(connection, SOON).unwrap(), b"done");
        assert_eq!(server.join().unwrap(), sent);
    }

    #[test]
    fn a_closed_port_refuses() {
        let (_switch, mut a, mut b) = pair();
        let server = thread::spawn(move || b.serve(Duration::from_millis(500)));
        assert_eq!(a.connect(B, 1, SOON).err(), Some(PeerError::Reset));
        server.join().unwrap();
    }
}
