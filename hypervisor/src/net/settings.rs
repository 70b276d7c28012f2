//! What a person may choose about the network.

use core::{net::Ipv4Addr, time::Duration};

/// Where the host's own address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// From the configuration.
    Static {
        /// The address.
        address: Ipv4Addr,
        /// Leading bits that name the network, at most 32.
        prefix_length: u8,
        /// Where to send what is not for this network.
        gateway: Option<Ipv4Addr>,
    },
    /// From a DHCP server.
    Dhcp,
}

/// Settings of a [`Network`](super::Network).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where the host's own address comes from.
    pub address: Address,
    /// Silence of a peer, after which a connection is given up as
    /// [`LinkLost`](super::stream::Error::LinkLost). An idle peer is asked for a sign of life four times in
    /// that time.
    pub link_timeout: Duration,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long a ping waits for its answer.
    pub ping_timeout: Duration,
    /// Makes port and sequence numbers differ from boot to boot.
    pub random_seed: u64,
}

impl Settings {
    /// The usual times: a link is given up after 8 seconds of silence, a connection attempt after 5.
    #[must_use]
    pub fn new(address: Address, random_seed: u64) -> Self {
        Self {
            address,
            link_timeout: Duration::from_secs(8),
            connect_timeout: Duration::from_secs(5),
            ping_timeout: Duration::from_secs(2),
            random_seed,
        }
    }

    /// Gives a link up after `seconds` of silence, and everything else that waits for a peer not much sooner:
    /// where the host's clock runs ahead while it idles, as emulators' do, all of them must be long.
    pub fn set_link_timeout(&mut self, seconds: u8) {
        self.link_timeout = Duration::from_secs(u64::from(seconds.max(1)));
        self.connect_timeout = self.link_timeout * 5 / 8;
        self.ping_timeout = self.link_timeout / 4;
    }
}

impl From<godwit_boot::config::Network> for Address {
    fn from(configured: godwit_boot::config::Network) -> Self {
        use godwit_boot::config::Network;
        match configured {
            Network::Dhcp => Self::Dhcp,
            Network::Static { address, prefix_length, gateway } => {
                Self::Static { address, prefix_length, gateway }
            }
        }
    }
}
