//! A line as a [`Command`]: what is asked, before anything is looked up.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;

use godwit_migration::Purpose;

use super::help::{self, Entry};
use super::host::Tuning;
use super::options::{self, Spec, pairs};
use super::tokens::{Unclosed, tokens};
use super::view::Decision;
use super::{suggest, values};

mod clone;

/// The lines that `log` shows if it is not told.
pub(super) const LOG_LINES: usize = 20;
/// The most lines that `log` shows.
pub(super) const LOG_LINES_MAX: usize = 500;

/// Words of the longest command: `migrate estimate GUEST HOST` with four options, and one too many.
const WORDS_MAX: usize = 13;

/// What a person asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// The list of commands, or one of them in full.
    Help(Option<&'static str>),
    /// All guests.
    VmList,
    /// Something about one guest.
    Vm(VmAction, String),
    /// Move a guest to a host.
    Migrate {
        guest: String,
        peer: String,
        /// A third host that keeps what goes after a switch.
        spool: Option<String>,
        tunings: Vec<Tuning>,
        purpose: Purpose,
    },
    /// Make a copy of a guest, of this name, at a host.
    Clone { guest: String, peer: String, name: Option<String>, tunings: Vec<Tuning> },
    /// Moves under way, or one of them.
    MigrateStatus(Option<String>),
    /// End a move.
    MigrateCancel(Option<String>),
    /// Say who runs a guest whose move was cut at the commit.
    MigrateDecide(Decision, String),
    /// Ask a lost host again, perhaps at another address.
    MigrateRecover { guest: String, peer: Option<String> },
    /// Change a parameter of a move.
    MigrateSet { guest: Option<String>, tuning: Tuning },
    /// The network.
    Net,
    /// Echo requests.
    Ping(PingTarget),
    /// Memory.
    Mem,
    /// CPUs.
    Cpu,
    /// PCI.
    Pci,
    /// The last lines of the log, at least as grave as the level.
    Log { lines: usize, level: log::LevelFilter },
    /// The version.
    Version,
    /// Restart.
    Reboot(RebootWhen),
    /// Clear the screen.
    Clear,
}

/// What can be done with one guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VmAction {
    Info,
    Start,
    Stop,
    Pause,
    Resume,
    Console,
}

/// The words for them.
const VM_ACTIONS: [(&str, VmAction); 6] = [
    ("info", VmAction::Info),
    ("start", VmAction::Start),
    ("stop", VmAction::Stop),
    ("pause", VmAction::Pause),
    ("resume", VmAction::Resume),
    ("console", VmAction::Console),
];

/// Who is to answer an echo request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PingTarget {
    /// An address.
    Address(Ipv4Addr),
    /// A host of the configuration.
    Peer(String),
}

/// Whether running guests are in the way of a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RebootWhen {
    /// Not while a guest runs.
    Idle,
    /// In any case.
    Always,
}

/// Why a line is no command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ParseError {
    /// A quote is not closed.
    Unclosed(Unclosed),
    /// The first word is no command.
    UnknownCommand(String),
    /// The word behind the command is none that it knows.
    UnknownAction { entry: &'static str, word: String, meant: Option<&'static str> },
    /// Words are missing or too many.
    Usage { entry: &'static str, first: Option<String> },
    /// A word where an option is expected is none.
    UnknownOption { word: String, meant: Option<&'static str>, known: &'static [Spec] },
    /// Nothing stands behind this option.
    OptionWithoutValue(&'static str),
    /// This option was given before.
    OptionTwice(&'static str),
    /// A value is not what it should be.
    BadValue { word: String, wanted: &'static str },
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unclosed(unclosed) => unclosed.fmt(f),
            Self::UnknownCommand(word) => {
                write!(f, "unknown command '{word}'; ")?;
                match help::similar(word) {
                    Some(name) => write!(f, "did you mean '{name}'? 'help' lists all"),
                    None => write!(f, "'help' lists all"),
                }
            }
            Self::UnknownAction { entry, word, meant } => {
                write!(f, "'{entry}' does not know '{word}'; ")?;
                if let Some(name) = meant {
                    write!(f, "did you mean '{name}'? ")?;
                }
                write!(f, "'help {entry}' tells more")
            }
            Self::Usage { entry, first } => match help::entry(entry) {
                Some(entry) => entry.usage(first.as_deref(), f),
                None => Ok(()),
            },
            Self::UnknownOption { word, meant, known } => {
                write!(f, "there is no option '{word}'; ")?;
                if let Some(name) = meant {
                    return write!(f, "did you mean '{name}'?");
                }
                for (index, spec) in known.iter().enumerate() {
                    write!(f, "{} {}", if index == 0 { "options:" } else { "," }, spec.name)?;
                }
                Ok(())
            }
            Self::OptionWithoutValue(name) => write!(f, "{name} needs a value behind it"),
            Self::OptionTwice(name) => write!(f, "{name} is given twice"),
            Self::BadValue { word, wanted } => write!(f, "'{word}' is not {wanted}"),
        }
    }
}

/// The command of a line; `None` if the line is blank.
///
/// # Errors
/// [`ParseError`] tells a person what to type instead.
pub(super) fn parse(line: &str) -> Result<Option<Command>, ParseError> {
    let words = tokens(line).map_err(ParseError::Unclosed)?;
    let words: arrayvec::ArrayVec<&str, WORDS_MAX> =
        words.iter().map(String::as_str).take(WORDS_MAX).collect();
    let Some((&name, arguments)) = words.split_first() else { return Ok(None) };
    let Some(entry) = help::entry(name) else {
        return Err(ParseError::UnknownCommand(shown(name)));
    };
    command(entry, arguments).map(Some)
}

fn command(entry: &'static Entry, arguments: &[&str]) -> Result<Command, ParseError> {
    let command = match (entry.name, arguments) {
        ("help", []) => Command::Help(None),
        ("help", [name]) => match help::entry(name) {
            Some(entry) => Command::Help(Some(entry.name)),
            None => return Err(ParseError::UnknownCommand(shown(name))),
        },
        ("vm", _) => return vm(entry, arguments),
        ("migrate", _) => return migrate(entry, arguments),
        ("clone", _) => return clone::clone(entry, arguments),
        ("log", _) => return log(entry, arguments),
        ("ping", [word]) => Command::Ping(match word.parse() {
            Ok(address) => PingTarget::Address(address),
            Err(_) => PingTarget::Peer(shown(word)),
        }),
        ("net", []) => Command::Net,
        ("mem", []) => Command::Mem,
        ("cpu", []) => Command::Cpu,
        ("pci", []) => Command::Pci,
        ("version", []) => Command::Version,
        ("clear", []) => Command::Clear,
        ("reboot", []) => Command::Reboot(RebootWhen::Idle),
        ("reboot", ["force"]) => Command::Reboot(RebootWhen::Always),
        _ => return Err(usage(entry, arguments)),
    };
    Ok(command)
}

fn vm(entry: &'static Entry, arguments: &[&str]) -> Result<Command, ParseError> {
    let Some((&word, rest)) = arguments.split_first() else { return Err(usage(entry, arguments)) };
    if word == "list" {
        return if rest.is_empty() { Ok(Command::VmList) } else { Err(usage(entry, arguments)) };
    }
    let Some(&(_, action)) = VM_ACTIONS.iter().find(|(name, _)| *name == word) else {
        let names = VM_ACTIONS.iter().map(|(name, _)| *name).chain(["list"]);
        return Err(ParseError::UnknownAction {
            entry: entry.name,
            word: shown(word),
            meant: suggest::nearest(word, names),
        });
    };
    match rest {
        [guest] => Ok(Command::Vm(action, shown(guest))),
        _ => Err(usage(entry, arguments)),
    }
}

fn migrate(entry: &'static Entry, arguments: &[&str]) -> Result<Command, ParseError> {
    match arguments {
        ["status"] => Ok(Command::MigrateStatus(None)),
        ["status", guest] => Ok(Command::MigrateStatus(Some(shown(guest)))),
        ["cancel"] => Ok(Command::MigrateCancel(None)),
        ["cancel", guest] => Ok(Command::MigrateCancel(Some(shown(guest)))),
        ["reclaim", guest] => Ok(Command::MigrateDecide(Decision::Reclaim, shown(guest))),
        ["release", guest] => Ok(Command::MigrateDecide(Decision::Release, shown(guest))),
        ["takeover", guest] => Ok(Command::MigrateDecide(Decision::TakeOver, shown(guest))),
        ["recover", guest] => Ok(Command::MigrateRecover { guest: shown(guest), peer: None }),
        ["recover", guest, peer] => {
            Ok(Command::MigrateRecover { guest: shown(guest), peer: Some(shown(peer)) })
        }
        ["set", parameter, value] if PARAMETERS.contains(parameter) => {
            Ok(Command::MigrateSet { guest: None, tuning: tuning(parameter, value)? })
        }
        ["set", guest, parameter, value] if PARAMETERS.contains(parameter) => {
            Ok(Command::MigrateSet { guest: Some(shown(guest)), tuning: tuning(parameter, value)? })
        }
        ["set", ..] => Err(usage(entry, arguments)),
        ["estimate", guest, peer, words @ ..] => {
            begin(guest, peer, pairs(&options::OF_ESTIMATES, words)?, Purpose::Estimate)
        }
        ["estimate", ..] => Err(usage(entry, arguments)),
        [guest, peer, words @ ..] => begin(guest, peer, pairs(&options::OF_MOVES, words)?, Purpose::Move),
        _ => Err(usage(entry, arguments)),
    }
}

fn begin(
    guest: &str,
    peer: &str,
    options: Vec<(&str, &str)>,
    purpose: Purpose,
) -> Result<Command, ParseError> {
    let (mut tunings, mut spool) = (Vec::new(), None);
    for (name, value) in options {
        match name {
            "--spool" => spool = Some(shown(value)),
            name => tunings.push(tuning(name.trim_start_matches('-'), value)?),
        }
    }
    Ok(Command::Migrate { guest: shown(guest), peer: shown(peer), spool, tunings, purpose })
}

/// What `migrate set` sets; options have the same names, behind dashes.
const PARAMETERS: [&str; 4] = ["mode", "bandwidth", "downtime", "downtime-limit"];

fn tuning(parameter: &str, value: &str) -> Result<Tuning, ParseError> {
    let (tuning, wanted) = match parameter {
        "mode" => (values::mode(value).map(Tuning::Mode), "a mode: auto, precopy, postcopy or hybrid"),
        "bandwidth" => {
            (values::bandwidth(value).map(Tuning::Bandwidth), "a bandwidth: 100mbit, 12MiB/s or none")
        }
        _ => (values::duration(value).map(Tuning::Downtime), "a downtime from 1ms to 3600s: 300ms, 1s"),
    };
    tuning.ok_or_else(|| ParseError::BadValue { word: shown(value), wanted })
}

fn log(entry: &'static Entry, arguments: &[&str]) -> Result<Command, ParseError> {
    let (mut lines, mut level) = (None, None);
    for word in arguments {
        if let (None, Ok(number)) = (lines, word.parse::<usize>()) {
            lines = Some(number.min(LOG_LINES_MAX));
        } else if let (None, Ok(name)) = (level, word.parse::<log::LevelFilter>()) {
            level = Some(name);
        } else if arguments.len() > 2 {
            return Err(usage(entry, arguments));
        } else {
            let wanted = "a number of lines or a level: error, warn, info, debug, trace";
            return Err(ParseError::BadValue { word: shown(word), wanted });
        }
    }
    Ok(Command::Log { lines: lines.unwrap_or(LOG_LINES), level: level.unwrap_or(log::LevelFilter::Trace) })
}

fn usage(entry: &'static Entry, arguments: &[&str]) -> ParseError {
    ParseError::Usage { entry: entry.name, first: arguments.first().map(|word| shown(word)) }
}

/// A typed word as it may be shown again: the editor lets only ASCII through, so nothing is to be done but to
/// bound it.
pub(super) fn shown(word: &str) -> String {
    word.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use alloc::string::{String, ToString};
    use core::time::Duration;

    use super::{Command, LOG_LINES_MAX, PingTarget, RebootWhen, VmAction, parse};
    use crate::console::host::Tuning;
    use crate::console::view::Decision;
    use godwit_migration::{Mode, Purpose};
    use std::vec;

    #[test]
    fn every_command_has_its_meaning() {
        let linux = || String::from("linux");
        let moving = |spool, tunings, purpose| Command::Migrate {
            guest: linux(),
            peer: "b".into(),
            spool,
            tunings,
            purpose,
        };
        for (line, command) in [
            ("help", Command::Help(None)),
            ("help vm", Command::Help(Some("vm"))),
            ("vm list", Command::VmList),
            ("vm start linux", Command::Vm(VmAction::Start, linux())),
            ("vm console 'linux'", Command::Vm(VmAction::Console, linux())),
            ("migrate linux b", moving(None, vec![], Purpose::Move)),
            ("migrate estimate linux b", moving(None, vec![], Purpose::Estimate)),
            (
                "migrate linux b --bandwidth 8mbit --mode postcopy --downtime-limit 2s",
                moving(
                    None,
                    vec![
                        Tuning::Bandwidth(Some(1_000_000)),
                        Tuning::Mode(Mode::PostCopy),
                        Tuning::Downtime(Duration::from_secs(2)),
                    ],
                    Purpose::Move,
                ),
            ),
            (
                "migrate linux b --spool c --mode hybrid",
                moving(Some("c".into()), vec![Tuning::Mode(Mode::Hybrid)], Purpose::Move),
            ),
            ("migrate recover linux", Command::MigrateRecover { guest: linux(), peer: None }),
            ("migrate takeover linux", Command::MigrateDecide(Decision::TakeOver, linux())),
            (
                "migrate set mode hybrid",
                Command::MigrateSet { guest: None, tuning: Tuning::Mode(Mode::Hybrid) },
            ),
            (
                "migrate set downtime-limit 1s",
                Command::MigrateSet { guest: None, tuning: Tuning::Downtime(Duration::from_secs(1)) },
            ),
            ("migrate status", Command::MigrateStatus(None)),
            ("migrate cancel linux", Command::MigrateCancel(Some(linux()))),
            (
                "migrate set bandwidth none",
                Command::MigrateSet { guest: None, tuning: Tuning::Bandwidth(None) },
            ),
            (
                "migrate set linux downtime 1s",
                Command::MigrateSet {
                    guest: Some(linux()),
                    tuning: Tuning::Downtime(Duration::from_secs(1)),
                },
            ),
            ("ping 10.0.0.2", Command::Ping(PingTarget::Address([10, 0, 0, 2].into()))),
            ("ping b", Command::Ping(PingTarget::Peer("b".into()))),
            ("log", Command::Log { lines: 20, level: log::LevelFilter::Trace }),
            ("log warn 99999", Command::Log { lines: LOG_LINES_MAX, level: log::LevelFilter::Warn }),
            ("reboot force", Command::Reboot(RebootWhen::Always)),
        ] {
            assert_eq!(parse(line), Ok(Some(command)), "{line}");
        }
        assert_eq!(parse("  # nothing"), Ok(None));
    }

    #[test]
    fn errors_say_what_to_type_instead() {
        for (line, error) in [
            ("migrat linux b", "unknown command 'migrat'; did you mean 'migrate'? 'help' lists all"),
            ("frobnicate", "unknown command 'frobnicate'; 'help' lists all"),
            ("help quux", "unknown command 'quux'; 'help' lists all"),
            ("vm strat linux", "'vm' does not know 'strat'; did you mean 'start'? 'help vm' tells more"),
            ("vm start", "usage: vm start GUEST"),
            ("vm start a b", "usage: vm start GUEST"),
            ("mem now", "usage: mem"),
            ("log lots", "'lots' is not a number of lines or a level: error, warn, info, debug, trace"),
            ("migrate linux b --spol c", "there is no option '--spol'; did you mean '--spool'?"),
            (
                "migrate linux b c",
                "there is no option 'c'; options: --mode, --downtime-limit, --bandwidth, --spool",
            ),
            (
                "migrate estimate linux b --spool c",
                "there is no option '--spool'; options: --mode, --downtime-limit, --bandwidth",
            ),
            ("migrate linux b --mode", "--mode needs a value behind it"),
            ("migrate linux b --mode auto --mode hybrid", "--mode is given twice"),
            ("migrate estimate linux", "usage: migrate estimate GUEST HOST [OPTIONS]"),
            ("migrate linux b --mode fast", "'fast' is not a mode: auto, precopy, postcopy or hybrid"),
            ("migrate set bandwidth fast", "'fast' is not a bandwidth: 100mbit, 12MiB/s or none"),
            (
                "migrate set",
                "usage: migrate set [GUEST] mode MODE\n       migrate set [GUEST] bandwidth VALUE\n       \
                 migrate set [GUEST] downtime VALUE",
            ),
            ("vm start 'x", "the ' in column 10 is not closed"),
        ] {
            assert_eq!(parse(line).unwrap_err().to_string(), error, "{line}");
        }
    }
}
