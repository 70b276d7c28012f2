//! Commands carried out: each asks the [`Host`], and prints plain lines.

pub(super) mod clone;
mod guests;
pub(super) mod inspect;
mod migrate;
mod net;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write as _};
use core::net::Ipv4Addr;

use super::help;
use super::host::{ActionError, Host};
use super::output::Output;
use super::parse::{Command, RebootWhen};
use super::suggest;
use super::view::{GuestState, Side};

/// What the console does after a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Ask for the next line.
    Prompt,
    /// Attach to a guest's serial port.
    Attach(String),
    /// Show the progress of a move or a clone.
    Watch { guest: String, peer: String, errand: Errand },
    /// Send echo requests.
    Ping(Ipv4Addr),
    /// Clear the screen.
    Clear,
    /// Restart the machine, once this has been said.
    Reboot,
}

/// What a migration is to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    /// The guest goes to the other host.
    Move,
    /// A copy of it does.
    Clone,
}

impl fmt::Display for Errand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Move => "move",
            Self::Clone => "clone",
        })
    }
}

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CommandError {
    /// A name that is not there: of what kind, which, what was probably meant, and what there is.
    NoSuchName { kind: &'static str, name: String, meant: Option<String>, known: Vec<String> },
    /// This host, or the one that the guest is to be moved to, is to keep its pages for the case that the source dies.
    SpoolIsNoThird(String),
    /// No move is under way.
    NothingMoves,
    /// More than one is, and none was named.
    WhichMove(Vec<String>),
    /// This cannot be a copy's name: it is that of the guest itself, or too long.
    NoName(String),
    /// These guests run.
    GuestsRun(Vec<String>),
    /// Pages of this guest are kept here for that host.
    PagesKept { guest: String, peer: String },
    /// The machine did not do it.
    Action(ActionError),
    /// The terminal's queue took no more.
    Output(fmt::Error),
}

impl From<ActionError> for CommandError {
    fn from(error: ActionError) -> Self {
        Self::Action(error)
    }
}

impl From<fmt::Error> for CommandError {
    fn from(error: fmt::Error) -> Self {
        Self::Output(error)
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchName { kind, name, meant, known } => {
                write!(f, "no {kind} named '{name}'")?;
                if let Some(meant) = meant {
                    write!(f, "; did you mean '{meant}'?")?;
                }
                match (known.as_slice(), meant) {
                    ([], _) => write!(f, "; godwit.toml names no {kind}"),
                    (known, None) => write!(f, "; {kind}s: {}", known.join(", ")),
                    (known, Some(_)) => write!(f, " {kind}s: {}", known.join(", ")),
                }
            }
            Self::SpoolIsNoThird(name) => write!(
                f,
                "{name} cannot be the spool: that is a third host, which lives when the one that the guest leaves dies"
            ),
            Self::NothingMoves => f.write_str("no guest is being moved"),
            Self::WhichMove(guests) => {
                write!(f, "several guests are being moved; name one: {}", guests.join(", "))
            }
            Self::NoName(name) => {
                write!(f, "the copy cannot be named '{name}': choose a name of its own with --name")
            }
            Self::GuestsRun(guests) => {
                write!(f, "{} would be lost; stop or move them first, or 'reboot force'", guests.join(", "))
            }
            Self::PagesKept { guest, peer } => write!(
                f,
                "pages of {guest} are kept here for {peer} and would be lost; 'migrate release {guest}' if they are not \
                 needed, or 'reboot force'"
            ),
            Self::Action(error) => error.fmt(f),
            Self::Output(error) => error.fmt(f),
        }
    }
}

/// Carries out a command.
///
/// # Errors
/// [`CommandError`] tells a person why it was not carried out.
pub(super) fn execute(command: Command, host: &mut dyn Host, out: &mut Output) -> Result<Next, CommandError> {
    match command {
        Command::Help(None) => help::all(out)?,
        Command::Help(Some(name)) => help::entry(name).map_or(Ok(()), |entry| help::one(entry, out))?,
        Command::VmList => guests::list(host, out)?,
        Command::Vm(action, name) => return guests::act(action, &name, host, out),
        Command::Migrate { guest, peer, spool, tunings, purpose } => {
            let names = (&*guest, &*peer, spool.as_deref());
            return migrate::begin(names, &tunings, purpose, host, out);
        }
        Command::Clone { guest, peer, name, tunings } => {
            return clone::begin((&guest, &peer), name.as_deref(), &tunings, host, out);
        }
        Command::MigrateRecover { guest, peer } => migrate::recover(&guest, peer.as_deref(), host, out)?,
        Command::MigrateStatus(guest) => migrate::status(guest.as_deref(), host, out)?,
        Command::MigrateCancel(guest) => migrate::cancel(guest.as_deref(), host, out)?,
        Command::MigrateSet { guest, tuning } => migrate::set(guest.as_deref(), tuning, host, out)?,
        Command::MigrateDecide(decision, guest) => migrate::decide(&guest, decision, host, out)?,
        Command::Net => net::show(host, out)?,
        Command::Ping(target) => return net::ping(target, host),
        Command::Mem => inspect::memory(host, out)?,
        Command::Cpu => inspect::cpus(host, out)?,
        Command::Pci => inspect::pci(host, out)?,
        Command::Log { lines, level } => inspect::log(lines, level, host, out)?,
        Command::Version => inspect::version(host, out)?,
        Command::Reboot(when) => return reboot(when, host, out),
        Command::Clear => return Ok(Next::Clear),
    }
    Ok(Next::Prompt)
}

/// Restarts the machine, unless guests would be lost.
fn reboot(when: RebootWhen, host: &dyn Host, out: &mut Output) -> Result<Next, CommandError> {
    let is_alive = |state| !matches!(state, GuestState::Stopped | GuestState::Failed);
    let alive: Vec<String> =
        host.guests().into_iter().filter(|guest| is_alive(guest.state)).map(|guest| guest.name).collect();
    if when == RebootWhen::Idle && !alive.is_empty() {
        return Err(CommandError::GuestsRun(alive));
    }
    let kept = host.migrations().into_iter().find(|migration| migration.side == Side::Spool);
    if let (RebootWhen::Idle, Some(kept)) = (when, kept) {
        return Err(CommandError::PagesKept { guest: kept.guest, peer: kept.peer });
    }
    writeln!(out, "restarting")?;
    Ok(Next::Reboot)
}

/// The guest's name, if there is such a guest.
fn guest_named(name: &str, host: &dyn Host) -> Result<String, CommandError> {
    known("guest", name, host.guests().into_iter().map(|guest| guest.name).collect())
}

/// The name, if it is among the known ones.
fn known(kind: &'static str, name: &str, known: Vec<String>) -> Result<String, CommandError> {
    if known.iter().any(|candidate| candidate == name) {
        return Ok(String::from(name));
    }
    let meant = suggest::nearest(name, known.iter().map(String::as_str)).map(String::from);
    Err(CommandError::NoSuchName { kind, name: String::from(name), meant, known })
}
