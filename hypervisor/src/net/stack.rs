//! The network: interface, address, and everything that is polled with it.

use alloc::vec::Vec;
use core::{net::Ipv4Addr, time::Duration};

use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    socket::dhcpv4,
    wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Cidr},
};

use super::{
    Address, Card, Instant, Settings,
    frame::is_of_a_host,
    from_stack,
    phy::Port,
    ping::{Ping, PingError, PingEvent},
    stream::{Parts, Streams},
    to_stack,
};
use crate::{
    drivers::net::{Link, MacAddress},
    platform::interrupts::Line,
};

/// How often the loop looks after a transmit ring that was full: the card does not interrupt for room in it.
const TRANSMIT_RETRY: Duration = Duration::from_millis(1);
/// How often a card is looked after whose interrupt is not known to work: at first and after frames came, and
/// at the least, if none does.
const POLL_INTERVAL_MIN: Duration = Duration::from_millis(2);
const POLL_INTERVAL_MAX: Duration = Duration::from_millis(50);

/// A card, a stack over it and its connections; see the module's documentation for how it is driven.
pub struct Network {
    pub(super) port: Port,
    pub(super) interface: Interface,
    pub(super) sockets: SocketSet<'static>,
    pub(super) streams: Streams,
    pub(super) settings: Settings,
    line: Option<Line>,
    /// An interrupt of the card has got through, so that it need not be polled by time.
    interrupt_proven: bool,
    poll_interval: Duration,
    dhcp: Option<SocketHandle>,
    ping: Ping,
    gateway: Option<Ipv4Addr>,
    /// The last moment that was given; time that goes backwards is held at this.
    now: Instant,
}

impl Network {
    /// A network over `card`. With a static address it is usable at once, with DHCP after some polls.
    #[must_use]
    pub fn new(card: Card, settings: Settings, now: Instant) -> Self {
        let mut port = Port::new(card.nic);
        port.nic().request_interrupt();
        let mac = EthernetAddress(port.nic().mac().0);
        let mut config = Config::new(HardwareAddress::Ethernet(mac));
        config.random_seed = settings.random_seed;
        let interface = Interface::new(config, &mut port, to_stack(now));
        let mut sockets = SocketSet::new(Vec::new());
        let ping = Ping::new(&mut sockets, settings.ping_timeout);
        let streams = Streams::new(settings.random_seed);
        let mut network = Self {
            port,
            interface,
            sockets,
            streams,
            settings,
            line: card.line,
            interrupt_proven: false,
            poll_interval: POLL_INTERVAL_MIN,
            dhcp: None,
            ping,
            gateway: None,
            now,
        };
        match settings.address {
            Address::Static { address, prefix_length, gateway } => {
                network.set_address(Some(Ipv4Cidr::new(address, prefix_length.min(32))), gateway);
            }
            Address::Dhcp => network.dhcp = Some(network.sockets.add(dhcpv4::Socket::new())),
        }
        network
    }

    /// Takes frames from the card, runs every timer that is due, and sends what may be sent. The work of one
    /// call is bounded; [`poll_at`](Self::poll_at) says "now" if some is left.
    pub fn poll(&mut self, now: Instant) {
        self.now = self.now.max(now);
        let raised = self.line.as_ref().is_some_and(Line::take_raised);
        if raised {
            self.interrupt_proven = true;
            self.port.nic().acknowledge_interrupt();
        }
        self.port.begin_poll();
        let now = self.now;
        self.interface.poll(to_stack(now), &mut self.port, &mut self.sockets);
        self.port.nic().flush();
        self.configure();
        self.ping.poll(now, &mut self.sockets);
        self.poll_interval = match self.port.took_frames() {
            true => POLL_INTERVAL_MIN,
            false => (self.poll_interval * 2).min(POLL_INTERVAL_MAX),
        };
        let (streams, mut parts) = self.split();
        streams.poll(&mut parts);
        if raised && let Some(line) = &self.line {
            line.rearm();
        }
    }

    /// Whether the card has interrupted since the last poll: to be asked with interrupts off, before sleeping.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.line.as_ref().is_some_and(Line::is_raised)
    }

    /// When to call [`poll`](Self::poll) next if no interrupt comes before; `None` if only an interrupt can
    /// bring work. Until an interrupt has got through, the card is also polled by time.
    pub fn poll_at(&mut self, now: Instant) -> Option<Instant> {
        if self.port.is_behind() {
            return Some(now);
        }
        let stack = self.interface.poll_at(to_stack(now), &self.sockets).map(from_stack);
        // Work that is due but did not leave in the last poll waits for the card.
        let retry = self.now + TRANSMIT_RETRY;
        let stack = stack.map(|at| if at <= self.now { at.max(self.due_after_poll(retry)) } else { at });
        let by_time = (!self.interrupt_proven).then(|| self.now + self.poll_interval);
        [stack, self.ping.poll_at(), self.streams.poll_at(), by_time].into_iter().flatten().min()
    }

    /// Data that a caller queued since the last poll may go at once, what the last poll left behind must wait.
    fn due_after_poll(&mut self, retry: Instant) -> Instant {
        if self.port.nic().can_transmit() { self.now } else { retry }
    }

    /// The host's address and prefix length, once there is one.
    #[must_use]
    pub fn address(&self) -> Option<(Ipv4Addr, u8)> {
        self.interface
            .ip_addrs()
            .iter()
            .map(|cidr| match cidr {
                IpCidr::Ipv4(cidr) => (cidr.address(), cidr.prefix_len()),
            })
            .next()
    }

    /// The gateway, if there is one.
    #[must_use]
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        self.gateway
    }

    /// The card's address.
    pub fn mac(&mut self) -> MacAddress {
        self.port.nic().mac()
    }

    /// Whether the cable works.
    pub fn link(&mut self) -> Link {
        self.port.nic().link()
    }

    /// Begins to ping `target` `count` times, one a second; an earlier run ends without further events.
    ///
    /// # Errors
    /// [`PingError`] if the host has no address, or nothing to ping.
    pub fn ping(&mut self, target: Ipv4Addr, count: u16) -> Result<(), PingError> {
        if self.address().is_none() {
            return Err(PingError::NoAddress);
        }
        self.ping.start(target, count, self.now)
    }

    /// The next thing that happened to the ping, in order; `None` until something does.
    pub fn ping_event(&mut self) -> Option<PingEvent> {
        self.ping.take_event()
    }

    /// Ends the ping, if one is running.
    pub fn ping_cancel(&mut self) {
        self.ping.cancel();
    }

    pub(super) fn ports_and_pools(&mut self) -> (&mut Port, &Streams, &SocketSet<'static>) {
        (&mut self.port, &self.streams, &self.sockets)
    }

    /// The streams, and what they work on.
    pub(super) fn split(&mut self) -> (&mut Streams, Parts<'_>) {
        let parts = Parts {
            interface: &mut self.interface,
            sockets: &mut self.sockets,
            resets: self.port.resets(),
            settings: &self.settings,
            now: self.now,
        };
        (&mut self.streams, parts)
    }

    /// Applies what the DHCP server said.
    fn configure(&mut self) {
        let Some(handle) = self.dhcp else { return };
        match self.sockets.get_mut::<dhcpv4::Socket<'_>>(handle).poll() {
            None => {}
            Some(dhcpv4::Event::Configured(lease)) => {
                let (address, router) = (lease.address, lease.router);
                log::info!("network: address {address} by DHCP");
                self.set_address(Some(address), router);
            }
            Some(dhcpv4::Event::Deconfigured) => self.set_address(None, None),
        }
    }

    /// A hostile DHCP server, or a person, may name an address that no host can have: it is then left unset.
    fn set_address(&mut self, address: Option<Ipv4Cidr>, gateway: Option<Ipv4Addr>) {
        let address = address.filter(|cidr| is_of_a_host(cidr.address()));
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            if let Some(cidr) = address {
                // The list was emptied: there is room.
                let _ = addresses.push(IpCidr::Ipv4(cidr));
            }
        });
        self.gateway = gateway.filter(|gateway| is_of_a_host(*gateway) && address.is_some());
        let routes = self.interface.routes_mut();
        match self.gateway {
            Some(gateway) => {
                if routes.add_default_ipv4_route(gateway).is_err() {
                    log::warn!("network: no room for the route to {gateway}");
                }
            }
            None => {
                routes.remove_default_ipv4_route();
            }
        }
    }
}
