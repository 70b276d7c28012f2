//! What the commands are: the table behind `help`, usage lines, completion and suggestions.

use core::fmt::{self, Write};

use super::options::{self, Spec};
use super::suggest;

/// A kind of word that a command takes; completion knows the candidates of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// This word.
    Literal(&'static str),
    /// A guest's name.
    Guest,
    /// A host's name.
    Peer,
    /// A host's name or an address.
    Address,
    /// A command's name.
    Command,
    /// A log level.
    Level,
    /// A mode of moving memory.
    Mode,
    /// Something that has no candidates.
    Value(&'static str),
}

/// One form of a command.
#[derive(Debug)]
pub(super) struct Form {
    /// As in a usage line, without the command's name.
    pub(super) usage: &'static str,
    /// The words behind the command's name.
    pub(super) words: &'static [Word],
    /// The options that may follow.
    pub(super) options: &'static [Spec],
    /// What it does.
    pub(super) summary: &'static str,
}

/// One command.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its name.
    pub(super) name: &'static str,
    /// What it is for, for the list of all.
    pub(super) summary: &'static str,
    /// Its forms.
    pub(super) forms: &'static [Form],
    /// What else a person should know; may be empty.
    pub(super) notes: &'static str,
}

const fn form(usage: &'static str, words: &'static [Word], summary: &'static str) -> Form {
    Form { usage, words, options: &[], summary }
}

impl Form {
    const fn with(self, options: &'static [Spec]) -> Self {
        Self { options, ..self }
    }
}

use Word::{Address, Command, Guest, Level, Literal, Mode, Peer, Value};

/// Every command, in the order of `help`.
pub(super) static COMMANDS: [Entry; 13] = [
    Entry {
        name: "vm",
        summary: "guests: list, start, stop, attach to their consoles",
        forms: &[
            form("list", &[Literal("list")], "all guests with state, memory and uptime"),
            form("info GUEST", &[Literal("info"), Guest], "everything about one guest"),
            form("start GUEST", &[Literal("start"), Guest], "build and run it"),
            form("stop GUEST", &[Literal("stop"), Guest], "end it at once, as by pulling its plug"),
            form("pause GUEST", &[Literal("pause"), Guest], "hold its CPUs; its clock stands still"),
            form("resume GUEST", &[Literal("resume"), Guest], "let it go on"),
            form(
                "console GUEST",
                &[Literal("console"), Guest],
                "attach to its serial port; Ctrl-] . comes back",
            ),
        ],
        notes: "",
    },
    Entry {
        name: "migrate",
        summary: "move a running guest to another host",
        forms: &[
            form("GUEST HOST [OPTIONS]", &[Guest, Peer], "move it; Ctrl-C comes back meanwhile")
                .with(&options::OF_MOVES),
            form(
                "estimate GUEST HOST [OPTIONS]",
                &[Literal("estimate"), Guest, Peer],
                "what a move would take",
            )
            .with(&options::OF_ESTIMATES),
            form("status [GUEST]", &[Literal("status"), Guest], "moves under way, out and in"),
            form("cancel [GUEST]", &[Literal("cancel"), Guest], "end the move; it stays at its source"),
            form(
                "recover GUEST [HOST]",
                &[Literal("recover"), Guest, Peer],
                "ask a lost host again, or elsewhere",
            ),
            form("reclaim GUEST", &[Literal("reclaim"), Guest], "no other host has it: it goes on here"),
            form("release GUEST", &[Literal("release"), Guest], "another host has it: let go of it here"),
            form("takeover GUEST", &[Literal("takeover"), Guest], "at the target: go on without source"),
            form(
                "set [GUEST] mode MODE",
                &[Literal("set"), Literal("mode"), Mode],
                "auto, precopy, postcopy, hybrid",
            ),
            form(
                "set [GUEST] bandwidth VALUE",
                &[Literal("set"), Literal("bandwidth"), Value("VALUE")],
                "cap the wire: 100mbit, 12MiB/s, none",
            ),
            form(
                "set [GUEST] downtime VALUE",
                &[Literal("set"), Literal("downtime"), Value("VALUE")],
                "limit the standstill: 300ms, 1s",
            ),
            form("set GUEST ...", &[Literal("set"), Guest, Literal("mode"), Mode], ""),
            form("set GUEST ...", &[Literal("set"), Guest, Literal("bandwidth"), Value("VALUE")], ""),
            form("set GUEST ...", &[Literal("set"), Guest, Literal("downtime"), Value("VALUE")], ""),
        ],
        notes: "OPTIONS (this move): --mode MODE, --downtime-limit 1s, --bandwidth 8MiB/s,\n\
                --spool HOST: a third host that keeps what goes after the switch, so that this\n\
                one may die (not of 'estimate').\n\
                TIME: 300ms, 1s. RATE: 100mbit, 12MiB/s, none.\n\
                MODE: precopy sends all before the switch, postcopy all after it, hybrid each\n\
                page once before it; auto sends before it what rounds make smaller.\n\
                Without GUEST, 'set' is for the one move under way, or else for all later ones.",
    },
    Entry {
        name: "clone",
        summary: "make a copy of a running guest at another host",
        forms: &[form("GUEST HOST [OPTIONS]", &[Guest, Peer], "copy it; GUEST itself goes on")
            .with(&options::OF_CLONES)],
        notes: "OPTIONS: --name NAME (GUEST-clone), --downtime-limit 1s, --bandwidth 8MiB/s.\n\
                'migrate status', 'migrate set' and 'migrate cancel' are for clones too.",
    },
    Entry {
        name: "net",
        summary: "network: address, link, counters, streams, migration port",
        forms: &[form("", &[], "address, link, counters, streams, migration port")],
        notes: "",
    },
    Entry {
        name: "ping",
        summary: "ask another host whether it is there",
        forms: &[form("ADDRESS|HOST", &[Address], "four echo requests; Ctrl-C ends them")],
        notes: "",
    },
    Entry {
        name: "mem",
        summary: "memory: of guests, of the hypervisor, free",
        forms: &[form("", &[], "memory of guests, of the hypervisor, free")],
        notes: "",
    },
    Entry {
        name: "cpu",
        summary: "CPUs: state, load, whether they can run guests",
        forms: &[form("", &[], "CPUs with state, load and guests, and whether they can run guests")],
        notes: "Shares of the last five seconds: guests and their exits, other work, halted.",
    },
    Entry {
        name: "pci",
        summary: "PCI devices and our drivers",
        forms: &[form("", &[], "PCI functions and the drivers that have taken them")],
        notes: "",
    },
    Entry {
        name: "log",
        summary: "what happened",
        forms: &[form("[N] [LEVEL]", &[Level], "the last N lines (20) at least as grave as LEVEL")],
        notes: "Levels: error, warn, info, debug, trace.",
    },
    Entry {
        name: "version",
        summary: "what runs here, and since when",
        forms: &[form("", &[], "version and uptime")],
        notes: "",
    },
    Entry {
        name: "reboot",
        summary: "restart this machine",
        forms: &[form("[force]", &[Literal("force")], "restart; 'force' also when guests run")],
        notes: "",
    },
    Entry {
        name: "clear",
        summary: "clear the screen (also Ctrl-L)",
        forms: &[form("", &[], "clear the screen")],
        notes: "",
    },
    Entry {
        name: "help",
        summary: "this list, or a command in full",
        forms: &[form("[COMMAND]", &[Command], "all commands, or one in full")],
        notes: "",
    },
];

/// The command of this name.
pub(super) fn entry(name: &str) -> Option<&'static Entry> {
    COMMANDS.iter().find(|entry| entry.name == name)
}

/// The command that a person probably meant.
pub(super) fn similar(name: &str) -> Option<&'static str> {
    suggest::nearest(name, COMMANDS.iter().map(|entry| entry.name))
}

impl Entry {
    /// The forms that are shown: those with a summary.
    fn shown(&self) -> impl Iterator<Item = &Form> {
        self.forms.iter().filter(|form| !form.summary.is_empty())
    }

    /// The words with which its forms begin, if they begin with one.
    pub(super) fn first_words(&self) -> impl Iterator<Item = &'static str> {
        self.forms.iter().filter_map(|form| match form.words.first() {
            Some(Literal(word)) => Some(*word),
            _ => None,
        })
    }

    /// The usage lines of forms that begin with `first`, or of all if none does.
    pub(super) fn usage(&self, first: Option<&str>, f: &mut impl Write) -> fmt::Result {
        let begins = |form: &Form| matches!(form.words.first(), Some(Literal(word)) if first == Some(word));
        let any = self.shown().any(begins);
        for (index, form) in self.shown().filter(|form| !any || begins(form)).enumerate() {
            let (lead, blank) = (
                if index == 0 { "usage:" } else { "\n      " },
                if form.usage.is_empty() { "" } else { " " },
            );
            write!(f, "{lead} {}{blank}{}", self.name, form.usage)?;
        }
        Ok(())
    }
}

/// Prints the list of all commands.
pub(super) fn all(out: &mut impl Write) -> fmt::Result {
    for entry in &COMMANDS {
        writeln!(out, "  {:<9}{}", entry.name, entry.summary)?;
    }
    writeln!(out, "'help COMMAND' tells more. Tab completes, the arrow keys edit and recall.")
}

/// Prints one command in full.
pub(super) fn one(entry: &Entry, out: &mut impl Write) -> fmt::Result {
    let width = entry.shown().map(|form| form.usage.len()).max().unwrap_or(0) + entry.name.len() + 3;
    for form in entry.shown() {
        let used = entry.name.len() + 1 + form.usage.len();
        writeln!(
            out,
            "  {} {}{:pad$}{}",
            entry.name,
            form.usage,
            "",
            form.summary,
            pad = width.saturating_sub(used)
        )?;
    }
    if !entry.notes.is_empty() {
        writeln!(out, "{}", entry.notes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use alloc::string::String;

    use super::{COMMANDS, all, entry, one, similar};

    #[test]
    fn every_line_of_help_fits_the_terminal() {
        let mut text = String::new();
        all(&mut text).unwrap();
        for command in &COMMANDS {
            one(command, &mut text).unwrap();
            command.usage(None, &mut text).unwrap();
            text.push('\n');
        }
        for line in text.lines() {
            assert!(line.len() < 80, "{line}");
        }
    }

    #[test]
    fn usage_shows_the_form_that_was_begun() {
        let mut text = String::new();
        entry("vm").unwrap().usage(Some("start"), &mut text).unwrap();
        assert_eq!(text, "usage: vm start GUEST");
        text.clear();
        entry("migrate").unwrap().usage(Some("linux"), &mut text).unwrap();
        assert!(
            text.starts_with("usage: migrate GUEST HOST [OPTIONS]\n       migrate estimate GUEST"),
            "{text}"
        );
    }

    #[test]
    fn no_guest_is_called_like_a_word_of_migrate() {
        for word in entry("migrate").unwrap().first_words() {
            assert!(!godwit_boot::config::is_guest_name(word), "{word}");
        }
    }

    #[test]
    fn slips_find_their_command() {
        assert_eq!(similar("migrat"), Some("migrate"));
        assert_eq!(similar("halp"), Some("help"));
        assert_eq!(similar("quux"), None);
    }
}
