//! The grammar of `godwit.toml`.
//!
//! Every key is known and checked here; a key that is not known is an error, because a misspelt option that
//! is silently ignored costs an evening. The first thing wrong is reported.

use alloc::string::{String, ToString};
use core::net::Ipv4Addr;

use toml::de::DeTable;

use super::{
    COMMAND_LINE_MAX, Configuration, GUEST_NAME_RULE, GUESTS_MAX, Guest, MIGRATION_PORT, MemoryMode,
    Migration, NAME_MAX, NAME_RULE, Network, PATH_MAX, PEERS_MAX, Peer, VCPUS_MAX,
    error::{ConfigError, Problem},
    is_guest_name, is_name,
    section::{Section, Source},
};
use crate::fixed::Text;

const PATH: &str = "a file's path on the volume, relative to godwit.toml, of 1 to 256 bytes";
const COMMAND_LINE: &str = "a command line of at most 2047 bytes";
const ADDRESS: &str = "\"dhcp\", or an IPv4 address and prefix length like \"10.0.0.1/24\"";
const GATEWAY: &str = "an IPv4 address like \"10.0.0.254\"";
const PEER_ADDRESS: &str = "an IPv4 address like \"10.0.0.2\" or \"10.0.0.2:7100\"";
const PORT: &str = "a port from 1 to 65535";
const BANDWIDTH: &str = "10^6 bits per second from 0 (no cap) to 1000000";
const DOWNTIME: &str = "milliseconds from 1 to 60000";
const LINK_TIMEOUT: &str = "seconds from 1 to 255";
const MODE: &str = "one of \"auto\", \"precopy\", \"postcopy\", \"hybrid\"";
const STOPS: &str = "stops from 1 to 255, or 0 to carry the first one through";
const MEMORY: &str = "MiB from 16 to 1048576";
const VCPUS: &str = "virtual CPUs from 1 to 16";

/// Reads the configuration in `text`; errors call it `file`.
///
/// # Errors
/// [`ConfigError`] says what is wrong where, and what is expected.
pub fn parse(file: &str, text: &str) -> Result<Configuration, ConfigError> {
    let source = Source { file, text };
    let document = DeTable::parse(text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        source.error(&span, String::new(), Problem::Syntax { message: error.message().to_string() })
    })?;
    let root = Section::new(
        source,
        "",
        0..0,
        document.get_ref(),
        &["host", "network", "migration", "peer", "guest"],
    )?;
    let mut configuration = Configuration::DEFAULT;
    if let Some(host) = root.table("host", &["name"])? {
        configuration.host_name = name(&host)?;
    }
    if let Some(section) = root.table("network", &["address", "gateway"])? {
        configuration.set_network(Some(network(&section)?));
    }
    let known =
        &["listen", "port", "bandwidth_mbit", "downtime_limit_ms", "link_timeout_s", "mode", "stops_max"];
    if let Some(section) = root.table("migration", known)? {
        let migration = migration(&section, configuration.migration())?;
        configuration.set_migration(migration);
    }
    root.tables("peer", &["name", "address"], |section| {
        let peer = peer(&section)?;
        let taken = configuration.peers().iter().any(|other| other.name == peer.name);
        refuse_duplicate(&section, &peer.name, taken)?;
        configuration
            .peers
            .push(peer)
            .map_err(|_| section.error("name", Problem::TooMany { limit: PEERS_MAX }))
    })?;
    let known = &["name", "kernel", "initrd", "command_line", "memory_mib", "vcpus", "start"];
    root.tables("guest", known, |section| {
        let guest = guest(&section)?;
        let taken = configuration.guests().iter().any(|other| other.name == guest.name);
        refuse_duplicate(&section, &guest.name, taken)?;
        configuration
            .guests
            .push(guest)
            .map_err(|_| section.error("name", Problem::TooMany { limit: GUESTS_MAX }))
    })?;
    Ok(configuration)
}

/// Reads the configuration in `bytes`, the content of a file; errors call it `file`.
///
/// # Errors
/// As [`parse`], also if it is not UTF-8.
pub fn parse_bytes(file: &str, bytes: &[u8]) -> Result<Configuration, ConfigError> {
    let text = core::str::from_utf8(bytes).map_err(|error| ConfigError {
        file: file.to_string(),
        line: 1 + bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count(),
        key: String::new(),
        problem: Problem::Syntax { message: "this is not UTF-8 text".to_string() },
    })?;
    parse(file, text)
}

fn refuse_duplicate(section: &Section<'_>, name: &Text<NAME_MAX>, taken: bool) -> Result<(), ConfigError> {
    if !taken {
        return Ok(());
    }
    Err(section.error("name", Problem::Duplicate { name: name.as_str().to_string() }))
}

fn name(section: &Section<'_>) -> Result<Text<NAME_MAX>, ConfigError> {
    let missing = || section.error("name", Problem::Missing { expected: NAME_RULE });
    let name = section.text::<NAME_MAX>("name", NAME_RULE)?.ok_or_else(missing)?;
    if is_name(name.as_str()) { Ok(name) } else { Err(section.wrong("name", NAME_RULE)) }
}

fn network(section: &Section<'_>) -> Result<Network, ConfigError> {
    let missing = || section.error("address", Problem::Missing { expected: ADDRESS });
    let text = section.string("address", ADDRESS)?.ok_or_else(missing)?;
    let gateway = match section.string("gateway", GATEWAY)? {
        None => None,
        Some(text) => Some(text.parse::<Ipv4Addr>().map_err(|_| section.wrong("gateway", GATEWAY))?),
    };
    if text == "dhcp" {
        return match gateway {
            None => Ok(Network::Dhcp),
            Some(_) => Err(section.wrong("gateway", "no gateway: DHCP gives one")),
        };
    }
    let wrong = || section.wrong("address", ADDRESS);
    let (address, prefix_length) = text.split_once('/').ok_or_else(wrong)?;
    let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
    let prefix_length: u8 = prefix_length.parse().map_err(|_| wrong())?;
    let is_host = !address.is_unspecified() && !address.is_multicast() && !address.is_broadcast();
    if !is_host || prefix_length > 32 {
        return Err(wrong());
    }
    if let Some(gateway) = gateway {
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix_length)).unwrap_or(0);
        if (u32::from(gateway) ^ u32::from(address)) & mask != 0 {
            return Err(section.wrong("gateway", "an address within the host's own network"));
        }
    }
    Ok(Network::Static { address, prefix_length, gateway })
}

fn migration(section: &Section<'_>, default: Migration) -> Result<Migration, ConfigError> {
    let port = section.number("port", 1..=65535, PORT)?;
    let bandwidth_mbit = section.number("bandwidth_mbit", 0..=1_000_000, BANDWIDTH)?;
    let downtime = section.number("downtime_limit_ms", 1..=60_000, DOWNTIME)?;
    let stops = section.number("stops_max", 0..=255, STOPS)?;
    let mode = match section.string("mode", MODE)? {
        None => default.mode,
        Some(text) => *MemoryMode::ALL
            .iter()
            .find(|mode| mode.name() == text)
            .ok_or_else(|| section.wrong("mode", MODE))?,
    };
    let link_timeout = section.number("link_timeout_s", 1..=255, LINK_TIMEOUT)?;
    Ok(Migration {
        listen: section.flag("listen")?.unwrap_or(default.listen),
        port: port.and_then(|port| u16::try_from(port).ok()).unwrap_or(default.port),
        bandwidth_mbit: bandwidth_mbit.filter(|&limit| limit != 0),
        downtime_limit_ms: downtime.unwrap_or(default.downtime_limit_ms),
        link_timeout_s: link_timeout
            .and_then(|time| u8::try_from(time).ok())
            .unwrap_or(default.link_timeout_s),
        mode,
        stops_max: stops.and_then(|stops| u8::try_from(stops).ok()).unwrap_or(default.stops_max),
    })
}

fn peer(section: &Section<'_>) -> Result<Peer, ConfigError> {
    let name = name(section)?;
    let missing = || section.error("address", Problem::Missing { expected: PEER_ADDRESS });
    let text = section.string("address", PEER_ADDRESS)?.ok_or_else(missing)?;
    let wrong = || section.wrong("address", PEER_ADDRESS);
    let (address, port) = match text.split_once(':') {
        None => (text, MIGRATION_PORT),
        Some((address, port)) => (address, port.parse().map_err(|_| wrong())?),
    };
    let address = address.parse().map_err(|_| wrong())?;
    if port == 0 { Err(wrong()) } else { Ok(Peer::new(name, address, port)) }
}

fn guest(section: &Section<'_>) -> Result<Guest, ConfigError> {
    let name = name(section)?;
    if !is_guest_name(name.as_str()) {
        return Err(section.wrong("name", GUEST_NAME_RULE));
    }
    let kernel = path(section, "kernel")?;
    let memory_mib = section.number("memory_mib", 16..=1_048_576, MEMORY)?;
    let command_line = section.string("command_line", COMMAND_LINE)?.unwrap_or("");
    if command_line.contains('\0') {
        return Err(section.wrong("command_line", COMMAND_LINE));
    }
    Ok(Guest {
        name,
        kernel: kernel.ok_or_else(|| section.error("kernel", Problem::Missing { expected: PATH }))?,
        initrd: path(section, "initrd")?.unwrap_or(Text::EMPTY),
        command_line: Text::<COMMAND_LINE_MAX>::new(command_line)
            .map_err(|_| section.wrong("command_line", COMMAND_LINE))?,
        start: u8::from(section.flag("start")?.unwrap_or(false)),
        memory_mib: memory_mib
            .ok_or_else(|| section.error("memory_mib", Problem::Missing { expected: MEMORY }))?,
        vcpus: section.number("vcpus", 1..=VCPUS_MAX, VCPUS)?.unwrap_or(1),
    })
}

fn path(section: &Section<'_>, key: &str) -> Result<Option<Text<PATH_MAX>>, ConfigError> {
    let path = section.text::<PATH_MAX>(key, PATH)?;
    if path.is_some_and(|path| path.as_str().split(['/', '\\']).any(|part| part.is_empty() || part == "..")) {
        return Err(section.wrong(key, PATH));
    }
    Ok(path)
}

#[cfg(test)]
mod tests;
