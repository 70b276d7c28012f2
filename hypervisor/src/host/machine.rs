//! All that CPU 0 owns, as the console sees it.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use log::LevelFilter;

use godwit_migration::{Command, Mode, Policy, Purpose};

use super::inspect;
use super::load::LoadMeter;
use super::log_reader::{self, LogReader};
use super::network::{self, Connected};
use super::{guest_view, machines, migration_view};
use crate::console::view::{
    Decision, GuestView, LogLine, MachineView, MemView, MigrationView, NetView, PciView, PeerView,
    VersionView, VmxView,
};
use crate::console::{ActionError, CLONE_MODE, Capability, Host, Notice, PingEvent, Tuning};
use crate::guests::{Guests, Key};
use crate::migrate::{Migrations, StartError, Wakeup};
use crate::net::PingEvent as Echo;
use crate::platform::Platform;
use crate::platform::time::Instant;

/// What a host without a name in godwit.toml is called.
const NAMELESS: &str = "godwit";
/// What is shown at the console unasked.
const SHOWN: LevelFilter = LevelFilter::Warn;

/// Why a spool is refused in pre-copy.
const SPOOL_OF_NOTHING: &str = "a spool keeps what goes after the switch, and in mode precopy nothing does: leave \
                                --spool out, or take --mode auto, hybrid or postcopy";

/// The host, seen from its console.
pub(super) struct Machine {
    platform: &'static Platform,
    network: Result<Connected, String>,
    guests: Guests,
    migrations: Migrations<Key>,
    load: LoadMeter,
    log: LogReader,
    name: String,
}

impl Machine {
    /// Brings up what CPU 0 owns.
    pub(super) fn new(platform: &'static Platform, now: Instant) -> Self {
        let mut network = network::connect(platform, now);
        let configuration = &platform.info.configuration;
        let settings = migration_view::settings(configuration);
        if let (Ok(connected), Some(port)) = (&mut network, settings.port)
            && let Err(error) = connected.network.listen(port)
        {
            log::error!("the migration port {port} is not open: {error}");
        }
        let mut guests = Guests::new(platform, machines::get());
        guests.start_configured();
        let name = match platform.info.configuration.host_name.as_str() {
            "" => NAMELESS.to_string(),
            name => name.to_string(),
        };
        let migrations = Migrations::new(settings);
        let log = LogReader::from_now();
        Self { platform, network, guests, migrations, load: LoadMeter::default(), log, name }
    }

    /// The host's name.
    pub(super) fn host_name(&self) -> &str {
        &self.name
    }

    /// Serves what is due; when it wants to be polled again.
    pub(super) fn poll(&mut self, now: Instant) -> Instant {
        let mut due = self.guests.poll(now).min(self.load.poll(now, inspect::spent));
        if let Ok(connected) = &mut self.network {
            let moment = migration_time(now);
            let wakeup = self.migrations.poll(moment, &mut connected.network, &mut self.guests);
            due = due.min(match wakeup {
                Wakeup::Now => now,
                Wakeup::At(moment) => Instant::from_nanos(moment.as_nanos()),
            });
            // Last, so that what was just queued leaves at once.
            if let Some(wanted) = connected.poll(now) {
                due = due.min(wanted);
            }
        }
        due
    }

    /// Whether a device waits to be served.
    pub(super) fn is_called(&self) -> bool {
        self.network.as_ref().is_ok_and(Connected::is_called)
    }

    fn command(&mut self, guest: &str, command: Command) -> Result<(), ActionError> {
        let now = migration_time(Instant::now());
        let done = self.migrations.command(now, &mut self.guests, guest, command);
        done.map_err(|why| migration_view::unheeded(why, command, &self.platform.info.configuration))
    }

    fn address_of(&self, peer: &str) -> Result<core::net::SocketAddrV4, ActionError> {
        let peers = self.platform.info.configuration.peers().iter();
        let known = peers.map(network::peer).find(|known| known.name == peer);
        known.map(|known| known.address).ok_or_else(|| ActionError::NoSuchPeer(peer.to_string()))
    }

    /// The limits of a migration that begins now with these changes.
    fn policy_with(&self, tunings: &[Tuning]) -> Policy {
        let policy = self.migrations.settings().policy;
        tunings.iter().fold(policy, |policy, tuning| migration_view::tuned(policy, *tuning))
    }

    fn connected(&mut self) -> Result<&mut Connected, ActionError> {
        self.network
            .as_mut()
            .map_err(|why| ActionError::Unavailable { capability: Capability::Network, why: why.clone() })
    }
}

/// Why a migration cannot begin, for the console.
fn not_started(error: StartError) -> ActionError {
    match error {
        StartError::AlreadyMigrating(guest) => ActionError::AlreadyMigrating(guest),
        other => ActionError::Refused(other.to_string()),
    }
}

/// A moment as migrations count them.
const fn migration_time(now: Instant) -> godwit_migration::Instant {
    godwit_migration::Instant::from_nanos(now.as_nanos())
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
        guest_view::all(&self.guests, self.platform)
    }

    fn start(&mut self, guest: &str) -> Result<(), ActionError> {
        self.guests.start(guest).map_err(guest_view::error)
    }

    fn stop(&mut self, guest: &str) -> Result<(), ActionError> {
        self.guests.stop(guest).map_err(guest_view::error)
    }

    fn pause(&mut self, guest: &str) -> Result<(), ActionError> {
        self.guests.pause(guest).map_err(guest_view::error)
    }

    fn resume(&mut self, guest: &str) -> Result<(), ActionError> {
        self.guests.resume(guest).map_err(guest_view::error)
    }

    fn guest_output(&mut self, guest: &str, into: &mut [u8]) -> usize {
        self.guests.output(guest, into)
    }

    fn next_guest_output(&mut self, except: Option<&str>, into: &mut [u8]) -> Option<(String, usize)> {
        self.guests.next_output(except, into)
    }

    fn guest_input(&mut self, guest: &str, bytes: &[u8]) -> usize {
        self.guests.input(guest, bytes)
    }

    fn peers(&self) -> Vec<PeerView> {
        self.platform.info.configuration.peers().iter().map(network::peer).collect()
    }

    fn migrate(
        &mut self,
        guest: &str,
        peer: &str,
        tunings: &[Tuning],
        purpose: Purpose,
        spool: Option<&str>,
    ) -> Result<(), ActionError> {
        self.connected()?;
        let to = (peer, self.address_of(peer)?);
        let now = migration_time(Instant::now());
        let policy = self.policy_with(tunings);
        if spool.is_some() && policy.mode == Mode::PreCopy {
            return Err(ActionError::Refused(SPOOL_OF_NOTHING.to_string()));
        }
        let spool = spool.map(|spool| self.address_of(spool).map(|address| (spool, address))).transpose()?;
        let started = self.migrations.start(now, &mut self.guests, guest, to, (policy, purpose), spool);
        started.map_err(not_started)
    }

    fn clone_guest(
        &mut self,
        guest: &str,
        peer: &str,
        copy: &str,
        tunings: &[Tuning],
    ) -> Result<(), ActionError> {
        self.connected()?;
        let to = (peer, self.address_of(peer)?);
        let now = migration_time(Instant::now());
        let policy = self.policy_with(tunings);
        self.migrations.start_clone(now, &mut self.guests, guest, to, (policy, copy)).map_err(not_started)
    }

    fn recover(&mut self, guest: &str, peer: Option<&str>) -> Result<(), ActionError> {
        if let Some(peer) = peer {
            let (now, to) = (migration_time(Instant::now()), (peer, self.address_of(peer)?));
            let configuration = &self.platform.info.configuration;
            let done = self.migrations.redirect(now, &self.guests, guest, to);
            done.map_err(|why| migration_view::unheeded(why, Command::Retry, configuration))?;
        }
        self.command(guest, Command::Retry)
    }

    fn migrations(&self) -> Vec<MigrationView> {
        let now = migration_time(Instant::now());
        migration_view::all(&self.migrations, &self.guests, now, &self.platform.info.configuration)
    }

    fn cancel(&mut self, guest: &str) -> Result<(), ActionError> {
        self.command(guest, Command::Cancel)
    }

    fn decide(&mut self, guest: &str, decision: Decision) -> Result<(), ActionError> {
        if let Some(copy) = self.migrations.copy_of(guest) {
            return Err(ActionError::Refused(migration_view::undecidable(guest, copy)));
        }
        self.command(
            guest,
            match decision {
                Decision::Reclaim => Command::Reclaim,
                Decision::Release => Command::Release,
                Decision::TakeOver => Command::TakeOver,
            },
        )
    }

    fn tune(&mut self, guest: Option<&str>, tuning: Tuning) -> Result<(), ActionError> {
        let Some(guest) = guest else {
            let policy = self.migrations.policy_mut();
            *policy = migration_view::tuned(*policy, tuning);
            return Ok(());
        };
        let policy = self.migrations.policy_of(guest);
        let policy = policy.ok_or_else(|| ActionError::NotMigrating(guest.to_string()))?;
        if let (Tuning::Mode(_), Some(copy)) = (tuning, self.migrations.copy_of(guest)) {
            return Err(ActionError::Refused(alloc::format!("{copy} is made {CLONE_MODE}")));
        }
        self.command(guest, Command::Tune(migration_view::tuned(policy, tuning)))
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
        inspect::memory(self.platform, self.guests.memory_bytes())
    }

    fn machine(&self) -> MachineView {
        inspect::machine(self.platform, &self.load, &self.guests)
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
        if let Some(ended) = self.guests.next_ended() {
            return Some(Notice::GuestEnded { guest: ended.guest, reason: ended.reason.to_string() });
        }
        let configuration = &self.platform.info.configuration;
        core::iter::from_fn(|| self.migrations.next_occurrence())
            .find_map(|occurrence| migration_view::notice(occurrence, configuration))
    }

    fn reboot(&mut self) {
        self.platform.reset();
    }
}
