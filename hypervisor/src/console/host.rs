//! The console's view of the machine: what it can ask, and what it can be told.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;
use core::time::Duration;

use godwit_migration::{Mode, Purpose, SpoolEvent};

use super::view::{
    Decision, GuestState, GuestView, LogLine, MachineView, MemView, MigrationEstimate, MigrationFailure,
    MigrationReport, MigrationView, NetView, PciView, PeerView, Remark, VersionView,
};

/// Something that a machine may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Running guests.
    Guests,
    /// Talking to other hosts.
    Network,
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Guests => "guests cannot run here",
            Self::Network => "there is no network",
        })
    }
}

/// Why the machine did not do what a person asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActionError {
    /// No such guest; the console checks names before it asks, so that this is a race.
    NoSuchGuest(String),
    /// No such host in the configuration; the same.
    NoSuchPeer(String),
    /// The guest is not in a state in which this can be done.
    WrongState {
        /// The guest.
        guest: String,
        /// What it is now.
        state: GuestState,
        /// What was asked: `start`, `resume`.
        action: &'static str,
    },
    /// The guest is already on its way.
    AlreadyMigrating(String),
    /// No migration of this guest is under way.
    NotMigrating(String),
    /// The machine lacks what it takes.
    Unavailable {
        /// What it lacks.
        capability: Capability,
        /// Why, for a person.
        why: String,
    },
    /// A lower room refused: the rendering of its typed error, which says who is to blame.
    Refused(String),
}

impl fmt::Display for ActionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchGuest(name) => write!(f, "no guest named '{name}'"),
            Self::NoSuchPeer(name) => write!(f, "no host named '{name}'"),
            Self::WrongState { guest, state, action } => write!(f, "cannot {action} {guest}: it is {state}"),
            Self::AlreadyMigrating(guest) => {
                write!(f, "{guest} is already being moved or cloned; 'migrate status' shows it")
            }
            Self::NotMigrating(guest) => write!(f, "{guest} is not being moved"),
            Self::Unavailable { capability, why } => write!(f, "{capability}: {why}"),
            Self::Refused(reason) => f.write_str(reason),
        }
    }
}

impl core::error::Error for ActionError {}

/// A migration parameter that can be changed at any moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tuning {
    /// Cap on the wire in bytes per second; `None` lifts it.
    Bandwidth(Option<u64>),
    /// The most downtime that the source may cause.
    Downtime(Duration),
    /// What goes before the switch and what after it.
    Mode(Mode),
}

/// What became of an echo request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PingEvent {
    /// It was answered.
    Answer {
        /// Which, from 1.
        sequence: u16,
        /// From sending to receiving.
        round_trip: Duration,
    },
    /// It was not, as long as one waits for that.
    Silence {
        /// Which, from 1.
        sequence: u16,
    },
    /// All that were to be sent were sent, and answered or given up.
    Finished,
}

/// Something that happened and that a person should be told once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A guest has left for another host, or has come from one.
    Moved(Box<MigrationReport>),
    /// What moving a guest would take.
    Estimated(Box<MigrationEstimate>),
    /// A guest has not left, or has not come.
    MigrationFailed(MigrationFailure),
    /// Something about a migration that goes on.
    Migration {
        /// The guest that moves.
        guest: String,
        /// The other host.
        peer: String,
        /// What there is to say.
        remark: Remark,
    },
    /// Something about pages that a third host keeps.
    Spool {
        /// The guest whose pages they are.
        guest: String,
        /// The spool, and at the spool the target.
        peer: String,
        /// What happened.
        event: SpoolEvent,
    },
    /// Parts of the memory of a guest that runs here are lost for good.
    MemoryLost {
        /// Which guest.
        guest: String,
        /// The host that had them.
        peer: String,
        /// How many pages.
        pages: u32,
        /// Where they are, as guest-physical address and number of pages: as many ranges as fit.
        ranges: Vec<(u64, u32)>,
    },
    /// A guest ended.
    GuestEnded {
        /// Which.
        guest: String,
        /// Why, for a person: `powered off`, `triple fault at 0x…`.
        reason: String,
    },
}

/// The machine, as far as the console needs it. No call may block: what takes long is started, and then shows
/// in the views and notices.
pub trait Host {
    /// This host's name, as configured.
    fn name(&self) -> &str;
    /// What is running here.
    fn version(&self) -> VersionView;
    /// What is wrong or missing and was found while starting, each a sentence without a full stop: `godwit.toml
    /// line 3: …`, `this CPU has no VMX: guests cannot run here`.
    fn problems(&self) -> Vec<String>;

    /// All guests: configured, running, arriving. Sorted as configured.
    fn guests(&self) -> Vec<GuestView>;
    /// Builds and runs a stopped guest.
    ///
    /// # Errors
    /// Why it cannot start.
    fn start(&mut self, guest: &str) -> Result<(), ActionError>;
    /// Ends a guest at once, as by pulling its plug.
    ///
    /// # Errors
    /// Why it cannot be stopped.
    fn stop(&mut self, guest: &str) -> Result<(), ActionError>;
    /// Holds a running guest.
    ///
    /// # Errors
    /// Why it cannot be held.
    fn pause(&mut self, guest: &str) -> Result<(), ActionError>;
    /// Lets a held guest go on.
    ///
    /// # Errors
    /// Why it cannot go on.
    fn resume(&mut self, guest: &str) -> Result<(), ActionError>;
    /// Moves bytes that this guest wrote to its serial port to `into`, oldest first; how many.
    fn guest_output(&mut self, guest: &str, into: &mut [u8]) -> usize;
    /// The same for the next guest other than `except` that wrote something; its name, and how many.
    fn next_guest_output(&mut self, except: Option<&str>, into: &mut [u8]) -> Option<(String, usize)>;
    /// Offers bytes to the guest's serial port; how many it took.
    fn guest_input(&mut self, guest: &str, bytes: &[u8]) -> usize;

    /// The hosts that the configuration names.
    fn peers(&self) -> Vec<PeerView>;
    /// Begins to move a guest, or to find out what that would take, with these changes to the limits for this once, and with
    /// a third host that keeps what goes after a switch, too. From then on it shows in [`Self::migrations`], and ends with a [`Notice`].
    ///
    /// # Errors
    /// Why it cannot even begin.
    fn migrate(
        &mut self,
        guest: &str,
        peer: &str,
        tunings: &[Tuning],
        purpose: Purpose,
        spool: Option<&str>,
    ) -> Result<(), ActionError>;
    /// Begins to make a copy of a guest, called `copy`, at another host, with these changes to the limits for this once. As
    /// [`Self::migrate`] otherwise.
    ///
    /// # Errors
    /// Why it cannot even begin.
    fn clone_guest(
        &mut self,
        guest: &str,
        peer: &str,
        copy: &str,
        tunings: &[Tuning],
    ) -> Result<(), ActionError>;
    /// Asks the lost target of a move again now, with a name at that host's address.
    ///
    /// # Errors
    /// [`ActionError::NotMigrating`], or that there is nobody to ask.
    fn recover(&mut self, guest: &str, peer: Option<&str>) -> Result<(), ActionError>;
    /// Migrations under way, out and in.
    fn migrations(&self) -> Vec<MigrationView>;
    /// Asks an outgoing or incoming migration to end with the guest at its source; it ends with a [`Notice`].
    ///
    /// # Errors
    /// [`ActionError::NotMigrating`], or that it is past the commit.
    fn cancel(&mut self, guest: &str) -> Result<(), ActionError>;
    /// Decides who runs a guest whose commit was sent and never answered.
    ///
    /// # Errors
    /// [`ActionError::NotMigrating`], or that there is nothing to decide.
    fn decide(&mut self, guest: &str, decision: Decision) -> Result<(), ActionError>;
    /// Changes a parameter of the outgoing migration of a guest, or with `None` of all that begin later.
    ///
    /// # Errors
    /// Why it cannot be changed.
    fn tune(&mut self, guest: Option<&str>, tuning: Tuning) -> Result<(), ActionError>;

    /// The network card and the stack above it.
    ///
    /// # Errors
    /// [`ActionError::Unavailable`] with what is missing.
    fn network(&mut self) -> Result<NetView, ActionError>;
    /// Begins to send echo requests, one after the other; what becomes of them shows in
    /// [`Self::next_ping_event`].
    ///
    /// # Errors
    /// Why they cannot be sent.
    fn ping(&mut self, address: Ipv4Addr, requests: u16) -> Result<(), ActionError>;
    /// Takes the next thing that happened to them.
    fn next_ping_event(&mut self) -> Option<PingEvent>;
    /// Sends no more of them.
    fn stop_ping(&mut self);

    /// Physical memory.
    fn memory(&self) -> MemView;
    /// CPUs.
    fn machine(&self) -> MachineView;
    /// PCI functions, by address.
    fn pci(&self) -> Vec<PciView>;
    /// The newest `lines` log lines that are at least as grave as `level`, oldest first.
    fn log(&self, lines: usize, level: log::LevelFilter) -> Vec<LogLine>;
    /// Takes the next log line that is grave enough to be shown unasked.
    fn next_log_line(&mut self) -> Option<LogLine>;
    /// Takes the next thing that a person should be told.
    fn next_notice(&mut self) -> Option<Notice>;
    /// Restarts the machine; returns only if that is still being done.
    fn reboot(&mut self);
}
