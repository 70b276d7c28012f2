//! The configuration of a host, as values.
//!
//! The loader parses `godwit.toml` (module `grammar`, feature `config`) and hands [`Configuration`] over as
//! it lies in memory; the hypervisor reads it through the methods here. Flags are bytes, because a foreign
//! loader could write any bit pattern.

use core::net::Ipv4Addr;

use crate::fixed::{List, Text};

#[cfg(feature = "config")]
mod error;
#[cfg(feature = "config")]
mod grammar;
#[cfg(feature = "config")]
mod section;
#[cfg(feature = "config")]
pub use error::{ConfigError, Problem};
#[cfg(feature = "config")]
pub use grammar::{parse, parse_bytes};

/// Bytes in a host's or guest's name.
pub const NAME_MAX: usize = 64;
/// What a name is, for messages.
pub const NAME_RULE: &str = "a name of 1 to 64 letters, digits, '-', '_' or '.'";
/// Bytes in a path on the volume.
pub const PATH_MAX: usize = 256;
/// Bytes in a guest's command line; Linux itself takes 2047.
pub const COMMAND_LINE_MAX: usize = 2047;
/// Guests in a configuration.
pub const GUESTS_MAX: usize = 16;
/// Peers in a configuration.
pub const PEERS_MAX: usize = 32;
/// TCP port of migrations unless the configuration says otherwise.
pub const MIGRATION_PORT: u16 = 7100;
/// Downtime aimed at unless the configuration says otherwise, in milliseconds.
pub const DOWNTIME_LIMIT_MS: u32 = 300;
/// Silence of a peer after which a link counts as lost unless the configuration says otherwise, in seconds.
pub const LINK_TIMEOUT_S: u8 = 8;
/// How often a guest is stopped in vain before a migration ends, unless the configuration says otherwise.
pub const STOPS_MAX: u8 = 6;
/// Most virtual CPUs of a guest. They take turns on one CPU of the host, so that more would be of no use.
pub const VCPUS_MAX: u32 = 16;

/// Words behind `migrate` on the console. A guest of such a name could not be moved.
pub const RESERVED_GUEST_NAMES: [&str; 8] =
    ["status", "cancel", "recover", "reclaim", "release", "takeover", "set", "estimate"];
/// What a guest's name is, for messages about those.
pub const GUEST_NAME_RULE: &str =
    "a name that is no word of the console's 'migrate' (status, set, cancel, …)";

/// Whether `text` can name a guest.
#[must_use]
pub fn is_guest_name(text: &str) -> bool {
    is_name(text) && !RESERVED_GUEST_NAMES.contains(&text)
}

/// Whether `text` can name a host or a guest: [`NAME_RULE`].
#[must_use]
pub fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=NAME_MAX).contains(&text.len()) && text.chars().all(fits)
}

/// Everything `godwit.toml` can say. [`Configuration::DEFAULT`] is that of an empty file.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Configuration {
    /// `[host] name`; empty if the file gives none.
    pub host_name: Text<NAME_MAX>,
    network: RawNetwork,
    migration: RawMigration,
    peers: List<Peer, PEERS_MAX>,
    guests: List<Guest, GUESTS_MAX>,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RawNetwork {
    /// 0: no network, 1: DHCP, anything else: static.
    kind: u8,
    prefix_length: u8,
    /// 0: no gateway.
    has_gateway: u8,
    reserved: u8,
    address: [u8; 4],
    gateway: [u8; 4],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RawMigration {
    listen: u8,
    link_timeout_s: u8,
    port: u16,
    bandwidth_mbit: u32,
    downtime_limit_ms: u32,
    /// Index in [`MemoryMode::ALL`].
    mode: u8,
    stops_max: u8,
    reserved: [u8; 2],
}

/// What of a guest's memory goes before the guest is switched to another host, and what after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryMode {
    /// Before it what rounds make smaller, the rest after it.
    Auto,
    /// All before it.
    PreCopy,
    /// All after it.
    PostCopy,
    /// Each page once before it, what was written meanwhile after it.
    Hybrid,
}

impl MemoryMode {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Auto, Self::PreCopy, Self::PostCopy, Self::Hybrid];

    /// As it stands in `godwit.toml`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::PreCopy => "precopy",
            Self::PostCopy => "postcopy",
            Self::Hybrid => "hybrid",
        }
    }
}

/// How the host gets its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// From a DHCP server.
    Dhcp,
    /// As configured.
    Static {
        /// The host's address.
        address: Ipv4Addr,
        /// Length of its network's prefix, in bits, up to 32.
        prefix_length: u8,
        /// The way out of that network, if there is one.
        gateway: Option<Ipv4Addr>,
    },
}

/// What the host does about migrations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Whether incoming migrations are accepted at all.
    pub listen: bool,
    /// TCP port to accept them at.
    pub port: u16,
    /// Cap on what an outgoing migration sends, in 10⁶ bits per second; `None` for no cap.
    pub bandwidth_mbit: Option<u32>,
    /// Downtime to aim at, in milliseconds.
    pub downtime_limit_ms: u32,
    /// Silence of a peer after which the link to it counts as lost, in seconds.
    pub link_timeout_s: u8,
    /// How memory goes.
    pub mode: MemoryMode,
    /// How often a guest is stopped in vain before the attempt ends; 0: a stop is carried through however long it takes.
    pub stops_max: u8,
}

/// Another host.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name on the console.
    pub name: Text<NAME_MAX>,
    address: [u8; 4],
    /// Port it accepts migrations at.
    pub port: u16,
    reserved: u16,
}

/// A guest to have ready.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Its name on the console and to other hosts.
    pub name: Text<NAME_MAX>,
    /// Path of the kernel, as written in the file; the handoff's files are found by it.
    pub kernel: Text<PATH_MAX>,
    initrd: Text<PATH_MAX>,
    /// Kernel command line.
    pub command_line: Text<COMMAND_LINE_MAX>,
    start: u8,
    /// RAM in MiB.
    pub memory_mib: u32,
    /// Virtual CPUs, 1 to [`VCPUS_MAX`].
    pub vcpus: u32,
}

impl Configuration {
    /// The configuration of an empty file: no name, no network, no peers, no guests.
    pub const DEFAULT: Self = Self {
        host_name: Text::EMPTY,
        network: RawNetwork {
            kind: 0,
            prefix_length: 0,
            has_gateway: 0,
            reserved: 0,
            address: [0; 4],
            gateway: [0; 4],
        },
        migration: RawMigration {
            listen: 0,
            link_timeout_s: LINK_TIMEOUT_S,
            port: MIGRATION_PORT,
            bandwidth_mbit: 0,
            downtime_limit_ms: DOWNTIME_LIMIT_MS,
            mode: 0,
            stops_max: STOPS_MAX,
            reserved: [0; 2],
        },
        peers: List::new(Peer::FILLER),
        guests: List::new(Guest::FILLER),
    };

    /// How the host gets its address; `None`: it has no network.
    #[must_use]
    pub fn network(&self) -> Option<Network> {
        let raw = &self.network;
        match raw.kind {
            0 => None,
            1 => Some(Network::Dhcp),
            _ => Some(Network::Static {
                address: raw.address.into(),
                prefix_length: raw.prefix_length.min(32),
                gateway: (raw.has_gateway != 0).then(|| raw.gateway.into()),
            }),
        }
    }

    /// Says how the host gets its address.
    pub fn set_network(&mut self, network: Option<Network>) {
        let raw = &mut self.network;
        *raw = Self::DEFAULT.network;
        match network {
            None => raw.kind = 0,
            Some(Network::Dhcp) => raw.kind = 1,
            Some(Network::Static { address, prefix_length, gateway }) => {
                raw.kind = 2;
                raw.address = address.octets();
                raw.prefix_length = prefix_length;
                raw.has_gateway = u8::from(gateway.is_some());
                raw.gateway = gateway.map_or([0; 4], |gateway| gateway.octets());
            }
        }
    }

    /// What the host does about migrations.
    #[must_use]
    pub fn migration(&self) -> Migration {
        let raw = &self.migration;
        Migration {
            listen: raw.listen != 0,
            port: raw.port,
            bandwidth_mbit: (raw.bandwidth_mbit != 0).then_some(raw.bandwidth_mbit),
            downtime_limit_ms: raw.downtime_limit_ms,
            link_timeout_s: raw.link_timeout_s,
            mode: MemoryMode::ALL.get(usize::from(raw.mode)).copied().unwrap_or(MemoryMode::Auto),
            stops_max: raw.stops_max,
        }
    }

    /// Says what the host does about migrations.
    pub fn set_migration(&mut self, migration: Migration) {
        self.migration = RawMigration {
            listen: u8::from(migration.listen),
            link_timeout_s: migration.link_timeout_s,
            port: migration.port,
            bandwidth_mbit: migration.bandwidth_mbit.unwrap_or(0),
            downtime_limit_ms: migration.downtime_limit_ms,
            mode: migration.mode as u8,
            stops_max: migration.stops_max,
            reserved: [0; 2],
        };
    }

    /// The other hosts.
    #[must_use]
    pub fn peers(&self) -> &[Peer] {
        self.peers.as_slice()
    }

    /// The guests.
    #[must_use]
    pub fn guests(&self) -> &[Guest] {
        self.guests.as_slice()
    }
}

impl Default for Configuration {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Peer {
    const FILLER: Self = Self { name: Text::EMPTY, address: [0; 4], port: 0, reserved: 0 };

    /// A peer that accepts migrations at `address` and `port`.
    #[must_use]
    pub const fn new(name: Text<NAME_MAX>, address: Ipv4Addr, port: u16) -> Self {
        Self { name, address: address.octets(), port, reserved: 0 }
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address.into()
    }
}

impl Guest {
    /// What stands where there is no guest.
    pub const FILLER: Self = Self {
        name: Text::EMPTY,
        kernel: Text::EMPTY,
        initrd: Text::EMPTY,
        command_line: Text::EMPTY,
        start: 0,
        memory_mib: 0,
        vcpus: 0,
    };

    /// Path of the initial RAM disk, as written in the file.
    #[must_use]
    pub fn initrd(&self) -> Option<&str> {
        (!self.initrd.is_empty()).then(|| self.initrd.as_str())
    }

    /// Whether to start it when the host is up.
    #[must_use]
    pub fn start(&self) -> bool {
        self.start != 0
    }
}
