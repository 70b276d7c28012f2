//! The network as the console sees it.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};

/// Another host that the configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// Its name.
    pub name: String,
    /// Where its migration port is expected.
    pub address: SocketAddrV4,
}

/// The cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkView {
    /// Nothing at the other end.
    Down,
    /// Usable; the speed in Mbit/s if the card tells.
    Up(Option<u32>),
}

/// Where the address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressSource {
    /// godwit.toml.
    Configured,
    /// A DHCP server.
    Dhcp,
}

/// Frames and bytes since the driver started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CountersView {
    /// Frames handed on.
    pub frames: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Frames lost here: no buffer, bad checksum, ring full.
    pub dropped: u64,
}

/// One TCP stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamView {
    /// The other end.
    pub remote: SocketAddrV4,
    /// The port at this end.
    pub local_port: u16,
    /// How it is, in words: `open`, `connecting`.
    pub state: String,
    /// Bytes sent and not yet acknowledged, or still to be sent.
    pub queued_bytes: u64,
    /// Bytes that have arrived and are not yet read.
    pub unread_bytes: u64,
}

/// Whether other hosts can send guests here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrationPort {
    /// Nobody can: the default.
    Closed,
    /// Everybody who reaches this TCP port can: streams are not authenticated.
    Open(u16),
}

/// The network card and the stack above it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetView {
    /// The driver's name.
    pub driver: &'static str,
    /// The hardware address.
    pub mac: [u8; 6],
    /// The cable.
    pub link: LinkView,
    /// Our address and its prefix length; `None` while DHCP has not answered.
    pub address: Option<(Ipv4Addr, u8)>,
    /// Where it comes from.
    pub source: AddressSource,
    /// The way to other networks.
    pub gateway: Option<Ipv4Addr>,
    /// Sent.
    pub sent: CountersView,
    /// Received.
    pub received: CountersView,
    /// Open streams.
    pub streams: Vec<StreamView>,
    /// Whether other hosts can send guests here.
    pub migration_port: MigrationPort,
}
