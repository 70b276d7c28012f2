//! `clone GUEST HOST [OPTIONS]`.

use alloc::string::ToString;
use alloc::vec::Vec;

use godwit_boot::config::{GUEST_NAME_RULE, NAME_RULE, is_guest_name, is_name};
use godwit_migration::Mode;

use super::super::commands::clone::CLONE_MODES;
use super::super::help::Entry;
use super::super::host::Tuning;
use super::super::options::{self, pairs};
use super::{Command, ParseError, shown, tuning, usage};

pub(super) fn clone(entry: &'static Entry, arguments: &[&str]) -> Result<Command, ParseError> {
    let [guest, peer, words @ ..] = arguments else { return Err(usage(entry, arguments)) };
    let (mut copy, mut tunings) = (None, Vec::new());
    for (option, value) in pairs(&options::OF_CLONES, words)? {
        match option {
            "--name" if is_guest_name(value) => copy = Some(value.to_string()),
            "--name" => {
                let wanted = if is_name(value) { GUEST_NAME_RULE } else { NAME_RULE };
                return Err(ParseError::BadValue { word: shown(value), wanted });
            }
            "--mode" => is_possible(tuning("mode", value)?, value)?,
            option => tunings.push(tuning(option.trim_start_matches('-'), value)?),
        }
    }
    Ok(Command::Clone { guest: shown(guest), peer: shown(peer), name: copy, tunings })
}

/// Refuses a mode in which no guest can be cloned.
fn is_possible(mode: Tuning, word: &str) -> Result<(), ParseError> {
    match mode {
        Tuning::Mode(Mode::PostCopy | Mode::Hybrid) => {
            Err(ParseError::BadValue { word: shown(word), wanted: CLONE_MODES })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::{String, ToString};
    use core::time::Duration;
    use std::vec;

    use crate::console::host::Tuning;
    use crate::console::parse::{Command, parse};

    #[test]
    fn a_clone_is_named_and_limited_for_this_once() {
        let clone = |name: Option<&str>, tunings| Command::Clone {
            guest: "linux".into(),
            peer: "b".into(),
            name: name.map(String::from),
            tunings,
        };
        for (line, command) in [
            ("clone linux b", clone(None, vec![])),
            ("clone linux b --mode auto --name web_2.test", clone(Some("web_2.test"), vec![])),
            (
                "clone linux b --bandwidth none --mode precopy --name x --downtime-limit 1s",
                clone(Some("x"), vec![Tuning::Bandwidth(None), Tuning::Downtime(Duration::from_secs(1))]),
            ),
        ] {
            assert_eq!(parse(line), Ok(Some(command)), "{line}");
        }
    }

    #[test]
    fn errors_say_what_to_type_instead() {
        let long = "n".repeat(65);
        for (line, error) in [
            ("clone linux", "usage: clone GUEST HOST [OPTIONS]".to_string()),
            (
                "clone linux b c",
                "there is no option 'c'; options: --name, --downtime-limit, --bandwidth, --mode".to_string(),
            ),
            ("clone linux b --nam x", "there is no option '--nam'; did you mean '--name'?".to_string()),
            ("clone linux b --name", "--name needs a value behind it".to_string()),
            (
                "clone linux b --name a/b",
                "'a/b' is not a name of 1 to 64 letters, digits, '-', '_' or '.'".to_string(),
            ),
            (
                &alloc::format!("clone linux b --name {long}"),
                alloc::format!("'{}' is not a name of 1 to 64 letters, digits, '-', '_' or '.'", &long[..64]),
            ),
            (
                "clone linux b --mode postcopy",
                "'postcopy' is not a mode for a clone, only precopy is: the guest runs on here, and changes what its copy \
                 would still lack"
                    .to_string(),
            ),
            ("clone linux b --mode quick", "'quick' is not a mode: auto, precopy, postcopy or hybrid".to_string()),
            ("clon linux b", "unknown command 'clon'; did you mean 'clone'? 'help' lists all".to_string()),
        ] {
            assert_eq!(parse(line).unwrap_err().to_string(), error, "{line}");
        }
    }
}
