//! What the port must know of a frame: whether somebody sent it, whether it is TCP over IPv4, and its checksum.

use core::net::Ipv4Addr;

use super::checksum;
use crate::drivers::net::Offload;

const ETHERNET_HEADER: usize = 14;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const IPV4_HEADER_MIN: usize = 20;
const TCP_HEADER_MIN: usize = 20;
const TCP_CHECKSUM: usize = 16;
const PROTOCOL_TCP: u8 = 6;
const FLAG_RESET: u8 = 1 << 2;
/// "More fragments" and the fragment offset; "don't fragment" is no sign of a fragment.
const FRAGMENT: u16 = 0x3fff;

/// What a received frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A whole TCP segment; where it starts and ends.
    Tcp(Segment),
    /// A piece of an IPv4 datagram.
    Fragment,
    /// IPv4 with impossible lengths.
    Malformed,
    /// IPv4 from an address that no host has: nobody could be answered.
    Sourceless,
    /// Anything else; the stack judges it.
    Other,
}

/// A TCP segment in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    start: usize,
    end: usize,
}

/// A reset that came in: who sent it, and from and to which port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reset {
    pub(super) source: Ipv4Addr,
    pub(super) source_port: u16,
    pub(super) target_port: u16,
}

fn be16(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

/// Whether a host can have `address` (RFC 1122, 3.2.1.3).
pub(super) const fn is_of_a_host(address: Ipv4Addr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && !address.is_broadcast()
}

/// Finds out what `frame` is, with every length checked.
pub(super) fn classify(frame: &[u8]) -> Kind {
    if frame.len() < ETHERNET_HEADER || frame[12..14] != ETHERTYPE_IPV4 {
        return Kind::Other;
    }
    let Some(ip) = frame.get(ETHERNET_HEADER..).filter(|ip| ip.len() >= IPV4_HEADER_MIN) else {
        return Kind::Malformed;
    };
    let header_length = usize::from(ip[0] & 0xf) * 4;
    let total_length = usize::from(be16(ip, 2));
    if ip[0] >> 4 != 4 || header_length < IPV4_HEADER_MIN || total_length < header_length {
        return Kind::Malformed;
    }
    if total_length > ip.len() {
        return Kind::Malformed;
    }
    if be16(ip, 6) & FRAGMENT != 0 {
        return Kind::Fragment;
    }
    if !is_of_a_host(Ipv4Addr::new(ip[12], ip[13], ip[14], ip[15])) {
        return Kind::Sourceless;
    }
    if ip[9] != PROTOCOL_TCP {
        return Kind::Other;
    }
    if total_length - header_length < TCP_HEADER_MIN {
        return Kind::Malformed;
    }
    Kind::Tcp(Segment { start: ETHERNET_HEADER + header_length, end: ETHERNET_HEADER + total_length })
}

impl Segment {
    /// The sum of the pseudo header (RFC 9293, 3.1), with `length` as the segment's length.
    fn pseudo_header(frame: &[u8], length: u16) -> u16 {
        let addresses = checksum::sum(&frame[ETHERNET_HEADER + 12..ETHERNET_HEADER + 20]);
        checksum::combine(addresses, checksum::combine(u16::from(PROTOCOL_TCP), length))
    }

    fn length(self) -> u16 {
        (self.end - self.start) as u16
    }

    /// Whether the checksum in the segment is right.
    pub(super) fn is_intact(self, frame: &[u8]) -> bool {
        let sum = checksum::sum(&frame[self.start..self.end]);
        checksum::combine(Self::pseudo_header(frame, self.length()), sum) == 0xffff
    }

    /// The reset that it is, if it is one.
    pub(super) fn reset(self, frame: &[u8]) -> Option<Reset> {
        let tcp = &frame[self.start..self.end];
        let address = &frame[ETHERNET_HEADER + 12..ETHERNET_HEADER + 16];
        (tcp[13] & FLAG_RESET != 0).then(|| Reset {
            source: Ipv4Addr::new(address[0], address[1], address[2], address[3]),
            source_port: be16(tcp, 0),
            target_port: be16(tcp, 2),
        })
    }

    /// Computes and writes the checksum.
    pub(super) fn complete(self, frame: &mut [u8]) {
        let pseudo = Self::pseudo_header(frame, self.length());
        let tcp = &mut frame[self.start..self.end];
        tcp[TCP_CHECKSUM..TCP_CHECKSUM + 2].fill(0);
        let sum = !checksum::combine(pseudo, checksum::sum(tcp));
        tcp[TCP_CHECKSUM..TCP_CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
    }

    /// Prepares the frame so that a card computes the checksum.
    pub(super) fn prepare_checksum(self, frame: &mut [u8]) -> Offload {
        let pseudo = Self::pseudo_header(frame, self.length());
        let at = self.start + TCP_CHECKSUM;
        frame[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
        Offload::TcpChecksum
    }
}
