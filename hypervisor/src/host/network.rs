//! The network, if there is one: its card, its stack, its interrupt; or why there is none.

use alloc::string::{String, ToString};

use godwit_boot::config;

use crate::arch::tsc;
use crate::console::view::{
    AddressSource, CountersView, LinkView, MigrationPort, NetView, PeerView, StreamView,
};
use crate::drivers::net::Link;
use crate::net::stream::{State, StreamStatus};
use crate::net::{self, Address, Network, Settings};
use crate::platform::Platform;
use crate::platform::time::Instant;

/// A network that is up.
pub(super) struct Connected {
    pub(super) network: Network,
    source: AddressSource,
    /// Index of the card among the machine's PCI functions, and the driver's name.
    pub(super) card: (usize, &'static str),
}

/// Brings the network up as the configuration says.
///
/// # Errors
/// Why there is none, for a person.
pub(super) fn connect(platform: &'static Platform, now: Instant) -> Result<Connected, String> {
    let Some(wanted) = platform.info.configuration.network() else {
        return Err("godwit.toml has no [network]".into());
    };
    let source = match wanted {
        config::Network::Dhcp => AddressSource::Dhcp,
        config::Network::Static { .. } => AddressSource::Configured,
    };
    let address = Address::from(wanted);
    let card = net::attach(platform).map_err(|error| error.to_string())?;
    if card.line.is_none() {
        log::warn!("the network card has no interrupt: it is polled");
    }
    let named = (card.function, card.nic.model());
    let mut settings = Settings::new(address, tsc::read());
    settings.set_link_timeout(platform.info.configuration.migration().link_timeout_s);
    let network = Network::new(card, settings, now);
    Ok(Connected { network, source, card: named })
}

impl Connected {
    /// Serves the card and the stack; when it wants to be polled again.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Instant> {
        self.network.poll(now);
        self.network.poll_at(now)
    }

    /// Whether the card waits to be served.
    pub(super) fn is_called(&self) -> bool {
        self.network.has_work()
    }

    /// The state for a person.
    pub(super) fn view(&mut self) -> NetView {
        let status = self.network.status();
        let (card, port) = (status.card, status.port);
        NetView {
            driver: status.model,
            mac: status.mac.0,
            link: match status.link {
                Link::Down => LinkView::Down,
                Link::Up { speed_mbit } => LinkView::Up(speed_mbit),
            },
            address: status.address,
            source: self.source,
            gateway: status.gateway,
            sent: CountersView {
                frames: card.frames_sent,
                bytes: card.bytes_sent,
                dropped: port.transmit_dropped,
            },
            received: CountersView {
                frames: card.frames_received,
                bytes: card.bytes_received,
                dropped: card.frames_bad
                    + card.receive_overruns
                    + port.checksum_bad
                    + port.malformed
                    + port.fragments,
            },
            streams: status.streams.iter().map(stream).collect(),
            migration_port: status
                .listening
                .first()
                .map_or(MigrationPort::Closed, |&number| MigrationPort::Open(number)),
        }
    }
}

fn stream(status: &StreamStatus) -> StreamView {
    StreamView {
        remote: status.peer,
        local_port: status.local_port,
        state: match status.state {
            None => "closing".to_string(),
            Some(State::Connecting) => "connecting".to_string(),
            Some(State::Open) => "open".to_string(),
            Some(State::PeerEnded) => "ended by the peer".to_string(),
            Some(State::Failed(error)) => error.to_string(),
        },
        queued_bytes: status.unacknowledged as u64,
        unread_bytes: status.unread as u64,
    }
}

/// A host of the configuration, for a person.
pub(super) fn peer(peer: &config::Peer) -> PeerView {
    let address = core::net::SocketAddrV4::new(peer.address(), peer.port);
    PeerView { name: peer.name.as_str().to_string(), address }
}
