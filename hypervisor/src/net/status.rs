//! The network's state for people.

use alloc::vec::Vec;
use core::{fmt, net::Ipv4Addr};

use super::{Network, PortCounters, stream::StreamStatus};
use crate::drivers::net::{Counters, Link, MacAddress};

/// What the console's `net` command shows.
#[derive(Clone, Debug)]
pub struct Status {
    /// What kind of card it is.
    pub model: &'static str,
    /// The card's address.
    pub mac: MacAddress,
    /// Whether the cable works.
    pub link: Link,
    /// Address and prefix length, once there are any.
    pub address: Option<(Ipv4Addr, u8)>,
    /// The gateway, if there is one.
    pub gateway: Option<Ipv4Addr>,
    /// What the card has counted.
    pub card: Counters,
    /// What the port has counted.
    pub port: PortCounters,
    /// Ports on which connections are accepted.
    pub listening: Vec<u16>,
    /// Connections, at most [`STREAMS_MAX`](super::stream::STREAMS_MAX).
    pub streams: Vec<StreamStatus>,
}

impl Network {
    /// The state of everything.
    pub fn status(&mut self) -> Status {
        let (address, gateway) = (self.address(), self.gateway());
        let (port, streams, sockets) = self.ports_and_pools();
        Status {
            model: port.nic().model(),
            mac: port.nic().mac(),
            link: port.nic().link(),
            address,
            gateway,
            card: port.nic().counters(),
            port: port.counters(),
            listening: streams.listening().collect(),
            streams: streams.status(sockets),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "card      {} {}, link {}", self.model, self.mac, self.link)?;
        match self.address {
            Some((address, prefix)) => write!(f, "address   {address}/{prefix}")?,
            None => write!(f, "address   none yet")?,
        }
        match self.gateway {
            Some(gateway) => writeln!(f, ", gateway {gateway}")?,
            None => writeln!(f)?,
        }
        let Counters { frames_sent, bytes_sent, frames_received, bytes_received, .. } = self.card;
        writeln!(f, "sent      {frames_sent} frames, {bytes_sent} bytes")?;
        writeln!(f, "received  {frames_received} frames, {bytes_received} bytes")?;
        let Counters { frames_bad, receive_overruns, transmit_full, .. } = self.card;
        let PortCounters { checksum_bad, malformed, fragments, transmit_dropped } = self.port;
        writeln!(
            f,
            "dropped   {frames_bad} damaged, {malformed} malformed, {checksum_bad} with a wrong checksum, \
             {fragments} fragments, {receive_overruns} for want of a buffer, {transmit_dropped} outgoing; \
             {transmit_full} times the transmit ring was full"
        )?;
        for port in &self.listening {
            writeln!(f, "listening on TCP port {port}")?;
        }
        for stream in &self.streams {
            writeln!(f, "{stream}")?;
        }
        Ok(())
    }
}
