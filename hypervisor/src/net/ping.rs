//! The ping client: ICMP echo (RFC 792), one question at a time.

use core::{fmt, net::Ipv4Addr, time::Duration};

use alloc::vec;
use heapless::Deque;
use smoltcp::{
    iface::{SocketHandle, SocketSet},
    phy::ChecksumCapabilities,
    socket::icmp,
    wire::{Icmpv4Packet, Icmpv4Repr, IpAddress},
};

use super::Instant;

/// Time from one question to the next.
const INTERVAL: Duration = Duration::from_secs(1);
/// Names our questions; the address of the questioner tells hosts apart.
const IDENTIFIER: u16 = 0x676f;
/// What is sent, and expected back.
const PAYLOAD: [u8; 56] = *b"godwit: a bar-tailed godwit flies 13,000 km w/o landing.";
/// Events kept for a caller that does not ask; later ones are lost.
const EVENTS_MAX: usize = 8;
/// Packets and bytes of the socket's buffers.
const PACKETS_MAX: usize = 4;
const BYTES_MAX: usize = 512;

/// Why a ping could not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PingError {
    /// This host has no address yet.
    NoAddress,
    /// The address to ping is not one host's.
    BadTarget,
}

impl fmt::Display for PingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoAddress => "this host has no address yet",
            Self::BadTarget => "that is not the address of one host",
        })
    }
}

impl core::error::Error for PingError {}

/// What happened to a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PingEvent {
    /// An answer came.
    Answer {
        /// Which question it answers, from 1.
        sequence: u16,
        /// From question to answer.
        round_trip: Duration,
    },
    /// No answer came in time.
    Silence {
        /// Which question, from 1.
        sequence: u16,
    },
    /// All questions are done.
    Finished {
        /// Questions asked.
        sent: u16,
        /// Answers.
        received: u16,
    },
}

impl fmt::Display for PingEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer { sequence, round_trip } => {
                let micros = round_trip.as_micros();
                write!(f, "answer {sequence}: {}.{:03} ms", micros / 1000, micros % 1000)
            }
            Self::Silence { sequence } => write!(f, "answer {sequence}: none in time"),
            Self::Finished { sent, received } => write!(f, "{received} of {sent} answered"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    /// The next question is due at `at`.
    Between {
        at: Instant,
    },
    /// A question is out.
    Waiting {
        asked: Instant,
    },
}

/// The client.
pub(super) struct Ping {
    socket: SocketHandle,
    timeout: Duration,
    target: Ipv4Addr,
    state: State,
    count: u16,
    sent: u16,
    received: u16,
    events: Deque<PingEvent, EVENTS_MAX>,
}

impl Ping {
    pub(super) fn new(sockets: &mut SocketSet<'static>, timeout: Duration) -> Self {
        let buffer =
            || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; PACKETS_MAX], vec![0; BYTES_MAX]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        // Binding a fresh socket to a specified endpoint cannot fail.
        let _ = socket.bind(icmp::Endpoint::Ident(IDENTIFIER));
        Self {
            socket: sockets.add(socket),
            timeout,
            target: Ipv4Addr::UNSPECIFIED,
            state: State::Idle,
            count: 0,
            sent: 0,
            received: 0,
            events: Deque::new(),
        }
    }

    pub(super) fn start(&mut self, target: Ipv4Addr, count: u16, now: Instant) -> Result<(), PingError> {
        if target.is_unspecified() || target.is_multicast() || target.is_broadcast() || count == 0 {
            return Err(PingError::BadTarget);
        }
        self.events.clear();
        (self.target, self.count, self.sent, self.received) = (target, count, 0, 0);
        self.state = State::Between { at: now };
        Ok(())
    }

    pub(super) fn cancel(&mut self) {
        self.state = State::Idle;
        self.events.clear();
    }

    pub(super) fn take_event(&mut self) -> Option<PingEvent> {
        self.events.pop_front()
    }

    pub(super) fn poll_at(&self) -> Option<Instant> {
        match self.state {
            State::Idle => None,
            State::Between { at } => Some(at),
            State::Waiting { asked } => Some(asked + self.timeout),
        }
    }

    pub(super) fn poll(&mut self, now: Instant, sockets: &mut SocketSet<'static>) {
        let socket = sockets.get_mut::<icmp::Socket<'_>>(self.socket);
        while let Ok((answer, from)) = socket.recv() {
            let sequence = sequence_of(answer);
            if let State::Waiting { asked } = self.state
                && from == IpAddress::Ipv4(self.target)
                && sequence == Some(self.sent)
            {
                self.received += 1;
                self.settle(PingEvent::Answer { sequence: self.sent, round_trip: now.since(asked) }, asked);
            }
        }
        if let State::Waiting { asked } = self.state
            && now >= asked + self.timeout
        {
            self.settle(PingEvent::Silence { sequence: self.sent }, asked);
        }
        if let State::Between { at } = self.state
            && now >= at
        {
            self.sent += 1;
            ask(sockets.get_mut::<icmp::Socket<'_>>(self.socket), self.target, self.sent);
            self.state = State::Waiting { asked: now };
        }
    }

    /// A question is answered or given up.
    fn settle(&mut self, event: PingEvent, asked: Instant) {
        // A caller that does not ask loses events.
        let _ = self.events.push_back(event);
        self.state = State::Between { at: asked + INTERVAL };
        if self.sent == self.count {
            let _ = self.events.push_back(PingEvent::Finished { sent: self.sent, received: self.received });
            self.state = State::Idle;
        }
    }
}

fn sequence_of(answer: &[u8]) -> Option<u16> {
    let packet = Icmpv4Packet::new_checked(answer).ok()?;
    match Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default()).ok()? {
        Icmpv4Repr::EchoReply { ident: IDENTIFIER, seq_no, data } if data == PAYLOAD => Some(seq_no),
        _ => None,
    }
}

fn ask(socket: &mut icmp::Socket<'_>, target: Ipv4Addr, sequence: u16) {
    let question = Icmpv4Repr::EchoRequest { ident: IDENTIFIER, seq_no: sequence, data: &PAYLOAD };
    // Without room the question is lost, and shows as silence.
    if let Ok(buffer) = socket.send(question.buffer_len(), IpAddress::Ipv4(target)) {
        question.emit(&mut Icmpv4Packet::new_unchecked(buffer), &ChecksumCapabilities::default());
    }
}
