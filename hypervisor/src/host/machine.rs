//! All that CPU 0 owns, as the console sees it.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::time::Duration;

use log::LevelFilter;

use super::inspect;
use super::log_reader::{self, LogReader};
use super::network::{self, Connected};
use crate::console::view::{
    Decision, GuestState, GuestView, LogLine, MachineView, MemView, MigrationView, NetView, PciView,
    PeerView, VersionView, VmxView,
};
use crate::console::{ActionError, Capability, Host, Notice, PingEvent, Tuning};
use crate::net::PingEvent as Echo;
use crate::platform::Platform;
use crate::platform::time::Instant;

/// What a host without a name in godwit.toml is called.
const NAMELESS: &str = "godwit";
/// What is shown at the console unasked.
const SHOWN: LevelFilter = LevelFilter::Warn;

/// The host, seen from its console.
pub(super) struct Machine {
    platform: &'static Platform,
    network: Result<Connected, String>,
    log: LogReader,
    name: String,
}

impl Machine {
    /// Brings up what CPU 0 owns.
    pub(super) fn new(platform: &'static Platform, now: Instant) -> Self {
        let network = network::connect(platform, now);
        let name = match platform.info.configuration.host_name.as_str() {
            "" => NAMELESS.to_string(),
            name => name.to_string(),
        };
        Self { platform, network, log: LogReader::from_now(), name }
    }

    /// The host's name.
    pub(super) fn host_name(&self) -> &str {
        &self.name
    }

    /// Serves what is due; when it wants to be polled again.
    pub(super) fn poll(&mut self, now: Instant) -> Instant {
        let never = now + Duration::from_secs(1);
        match &mut self.network {
            Ok(connected) => connected.poll(now).unwrap_or(never),
            Err(_) => never,
        }
    }

    /// Whether a device waits to be served.
    pub(super) fn is_called(&self) -> bool {
        self.network.as_ref().is_ok_and(Connected::is_called)
    }

    fn connected(&mut self) -> Result<&mut Connected, ActionError> {
        self.network
            .as_mut()
            .map_err(|why| ActionError::Unavailable { capability: Capability::Network, why: why.clone() })
    }

    /// Why no guest can run, whatever is asked of it.
    fn no_guests(&self) -> ActionError {
        let why = match inspect::vmx() {
            VmxView::Unavailable(why) => why,
            VmxView::Ready(_) => "this image has no part that runs them".to_string(),
        };
        ActionError::Unavailable { capability: Capability::Guests, why }
    }
}

impl Host for Machine {
    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> VersionView {
        VersionView {
            version: env!("CARGO_PKG_VERSION"),
            profile: if cfg!(debug_assertions) { "debug" } else { "release" },
            uptime: Instant::now().since(Instant::ZERO),
        }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> =
            self.platform.info.problem.as_str().lines().map(String::from).collect();
        if let VmxView::Unavailable(why) = inspect::vmx() {
            problems.push(alloc::format!("guests cannot run here: {why}"));
        }
        if let Err(why) = &self.network {
            problems.push(alloc::format!("there is no network: {why}"));
        }
        problems
    }

    fn guests(&self) -> Vec<GuestView> {
        let configured = self.platform.info.configuration.guests().iter();
        configured
            .map(|guest| GuestView {
                name: guest.name.as_str().to_string(),
                state: GuestState::Stopped,
                reason: None,
                memory_bytes: u64::from(guest.memory_mib) << 20,
                vcpus: guest.vcpus,
                cpu: None,
                uptime: Duration::ZERO,
                exits: 0,
                exits_by_cause: Vec::new(),
                kernel: guest.kernel.as_str().to_string(),
                command_line: guest.command_line.as_str().to_string(),
                arrived_from: None,
            })
            .collect()
    }

    fn start(&mut self, _guest: &str) -> Result<(), ActionError> {
        Err(self.no_guests())
    }

    fn stop(&mut self, _guest: &str) -> Result<(), ActionError> {
        Err(self.no_guests())
    }

    fn pause(&mut self, _guest: &str) -> Result<(), ActionError> {
        Err(self.no_guests())
    }

    fn resume(&mut self, _guest: &str) -> Result<(), ActionError> {
        Err(self.no_guests())
    }

    fn guest_output(&mut self, _guest: &str, _into: &mut [u8]) -> usize {
        0
    }

    fn next_guest_output(&mut self, _except: Option<&str>, _into: &mut [u8]) -> Option<(String, usize)> {
        None
    }

    fn guest_input(&mut self, _guest: &str, _bytes: &[u8]) -> usize {
        0
    }

    fn peers(&self) -> Vec<PeerView> {
        self.platform.info.configuration.peers().iter().map(network::peer).collect()
    }

    fn migrate(&mut self, _guest: &str, _peer: &str) -> Result<(), ActionError> {
        Err(self.no_guests())
    }

    fn migrations(&self) -> Vec<MigrationView> {
        Vec::new()
    }

    fn cancel(&mut self, guest: &str) -> Result<(), ActionError> {
        Err(ActionError::NotMigrating(guest.to_string()))
    }

    fn decide(&mut self, guest: &str, _decision: Decision) -> Result<(), ActionError> {
        Err(ActionError::NotMigrating(guest.to_string()))
    }

    fn tune(&mut self, _guest: Option<&str>, _tuning: Tuning) -> Result<(), ActionError> {
        Err(self.no_guests())
    }

    fn network(&mut self) -> Result<NetView, ActionError> {
        self.connected().map(Connected::view)
    }

    fn ping(&mut self, address: Ipv4Addr, requests: u16) -> Result<(), ActionError> {
        let refused = |error: crate::net::PingError| ActionError::Refused(error.to_string());
        self.connected()?.network.ping(address, requests).map_err(refused)
    }

    fn next_ping_event(&mut self) -> Option<PingEvent> {
        let event = self.network.as_mut().ok()?.network.ping_event()?;
        Some(match event {
            Echo::Answer { sequence, round_trip } => PingEvent::Answer { sequence, round_trip },
            Echo::Silence { sequence } => PingEvent::Silence { sequence },
            Echo::Finished { .. } => PingEvent::Finished,
        })
    }

    fn stop_ping(&mut self) {
        if let Ok(connected) = &mut self.network {
            connected.network.ping_cancel();
        }
    }

    fn memory(&self) -> MemView {
        inspect::memory(self.platform, 0)
    }

    fn machine(&self) -> MachineView {
        inspect::machine(self.platform)
    }

    fn pci(&self) -> Vec<PciView> {
        inspect::pci(self.platform, self.network.as_ref().ok().map(|connected| connected.card))
    }

    fn log(&self, lines: usize, level: LevelFilter) -> Vec<LogLine> {
        log_reader::newest(lines, level)
    }

    fn next_log_line(&mut self) -> Option<LogLine> {
        self.log.next(SHOWN)
    }

    fn next_notice(&mut self) -> Option<Notice> {
        None
    }

    fn reboot(&mut self) {
        self.platform.reset();
    }
}
