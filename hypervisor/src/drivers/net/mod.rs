//! Network cards: one trait, and a driver per kind of card.
//!
//! A [`Nic`] moves whole Ethernet frames by copying: what it receives is copied out of device memory before
//! anyone looks at it, and what is sent is copied in. It never waits and never allocates after it was made;
//! its rings have a fixed size, and what does not fit is refused (sending) or left to the card to drop
//! (receiving).
//!
//! Interrupts: whoever polls the card calls [`Nic::acknowledge_interrupt`] first, which makes the card release its
//! line until the next frame comes. A card whose interrupt is not routed works just as well when it is polled
//! by time.

use core::fmt;

pub mod e1000;
pub mod virtio_net;

/// Longest frame on the wire without its checksum: 14 bytes of header and 1,500 of payload.
pub const FRAME_LENGTH_MAX: usize = 1514;

/// Shortest frame that has a whole Ethernet header.
pub const FRAME_LENGTH_MIN: usize = 14;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Whether a card may own this address: not a group address and not all zeros.
    #[must_use]
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// State of the cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Nothing at the other end.
    Down,
    /// Usable, with its speed if the card tells.
    Up {
        /// Megabits per second.
        speed_mbit: Option<u32>,
    },
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down => f.write_str("down"),
            Self::Up { speed_mbit: None } => f.write_str("up"),
            Self::Up { speed_mbit: Some(speed) } => write!(f, "up, {speed} Mbit/s"),
        }
    }
}

/// What a card does to outgoing TCP segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpOffload {
    /// Nothing: frames must be complete.
    None,
    /// It completes TCP checksums over IPv4.
    Checksum,
}

/// What the card shall do to one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// Send it as it is.
    None,
    /// Complete the TCP checksum. The frame must have an IPv4 header without options at byte 14 and a TCP header
    /// at byte 34, whose checksum field holds the folded, uncomplemented sum of the pseudo header.
    TcpChecksum,
}

/// Why a frame was not taken for sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransmitError {
    /// The ring has no room now.
    RingFull,
    /// The frame is shorter or longer than the card can send, or asks for an offload that it has not got.
    BadFrame,
}

impl fmt::Display for TransmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RingFull => f.write_str("the card's transmit ring is full"),
            Self::BadFrame => f.write_str("the frame does not suit the card"),
        }
    }
}

impl core::error::Error for TransmitError {}

/// A received frame, copied to the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its length in bytes, without the Ethernet checksum.
    pub length: usize,
    /// What the card says about its TCP checksum.
    pub tcp_checksum: ReceivedChecksum,
}

/// What a card says about a received TCP checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceivedChecksum {
    /// Nothing: it must be verified.
    Unknown,
    /// It is right.
    Verified,
}

/// What a card has counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames taken for sending.
    pub frames_sent: u64,
    /// Bytes of them.
    pub bytes_sent: u64,
    /// Frames handed to the caller.
    pub frames_received: u64,
    /// Bytes of them.
    pub bytes_received: u64,
    /// Frames that the driver threw away because they were damaged, too short or too long.
    pub frames_bad: u64,
    /// Frames that the card dropped for want of an empty receive buffer, as far as it tells.
    pub receive_overruns: u64,
    /// Times that sending was refused because the ring was full.
    pub transmit_full: u64,
}

/// A network card that is running.
pub trait Nic {
    /// What kind of card it is, for people.
    fn model(&self) -> &'static str;

    /// Its own address.
    fn mac(&self) -> MacAddress;

    /// What it does to outgoing TCP segments.
    fn tcp_offload(&self) -> TcpOffload;

    /// Whether the cable works.
    fn link(&mut self) -> Link;

    /// Whether a frame would be taken now.
    fn can_transmit(&mut self) -> bool;

    /// Copies `frame` to the ring. It may stay there until [`flush`](Self::flush).
    ///
    /// # Errors
    /// [`TransmitError::RingFull`] if there is no room now, [`TransmitError::BadFrame`] if there never will be.
    fn transmit(&mut self, frame: &[u8], offload: Offload) -> Result<(), TransmitError>;

    /// Starts sending what the ring holds: one register write for many frames.
    fn flush(&mut self);

    /// Copies the next received frame to the start of `into`; a frame that is longer than `into` is counted
    /// as bad and skipped. `None` when none is waiting.
    fn receive(&mut self, into: &mut [u8]) -> Option<Received>;

    /// Makes the card release its interrupt line; what arrives later raises it again.
    fn acknowledge_interrupt(&mut self);

    /// Makes the card interrupt once without a frame, if it can: so that it shows early whether its interrupt
    /// gets through.
    fn request_interrupt(&mut self) {}

    /// What it has counted.
    fn counters(&mut self) -> Counters;
}
