//! Options of commands, each with a value: one table for parsing, completion and messages.

use alloc::vec::Vec;

use super::help::Word;
use super::parse::{ParseError, shown};
use super::suggest;

/// One option.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Spec {
    /// With its dashes.
    pub(super) name: &'static str,
    /// What its value is.
    pub(super) value: Word,
}

const MODE: Spec = Spec { name: "--mode", value: Word::Mode };
const DOWNTIME: Spec = Spec { name: "--downtime-limit", value: Word::Value("TIME") };
const BANDWIDTH: Spec = Spec { name: "--bandwidth", value: Word::Value("RATE") };
const SPOOL: Spec = Spec { name: "--spool", value: Word::Peer };
const NAME: Spec = Spec { name: "--name", value: Word::Value("NAME") };

/// Of `migrate GUEST HOST`.
pub(super) static OF_MOVES: [Spec; 4] = [MODE, DOWNTIME, BANDWIDTH, SPOOL];
/// Of `migrate estimate GUEST HOST`.
pub(super) static OF_ESTIMATES: [Spec; 3] = [MODE, DOWNTIME, BANDWIDTH];
/// Of `clone GUEST HOST`. There is one mode for it; who names that is not told that there is no such option.
pub(super) static OF_CLONES: [Spec; 4] = [NAME, DOWNTIME, BANDWIDTH, MODE];

/// The options in `words`, in any order, each at most once.
///
/// # Errors
/// Which word is no option, lacks its value or stands there twice.
pub(super) fn pairs<'a>(
    specs: &'static [Spec],
    words: &[&'a str],
) -> Result<Vec<(&'static str, &'a str)>, ParseError> {
    let mut found: Vec<(&'static str, &'a str)> = Vec::new();
    for pair in words.chunks(2) {
        let Some(spec) = specs.iter().find(|spec| spec.name == pair[0]) else {
            let meant = suggest::nearest(pair[0], specs.iter().map(|spec| spec.name));
            return Err(ParseError::UnknownOption { word: shown(pair[0]), meant, known: specs });
        };
        let Some(value) = pair.get(1) else { return Err(ParseError::OptionWithoutValue(spec.name)) };
        if found.iter().any(|(name, _)| *name == spec.name) {
            return Err(ParseError::OptionTwice(spec.name));
        }
        found.push((spec.name, value));
    }
    Ok(found)
}

/// What may stand behind the typed options: names of those that are left, or a value of this kind.
pub(super) fn next(specs: &'static [Spec], typed: &[&str]) -> Vec<Word> {
    let (pairs, last) = typed.as_chunks::<2>();
    match last {
        [name] => specs.iter().filter(|spec| spec.name == *name).map(|spec| spec.value).collect(),
        _ => {
            let is_left = |spec: &&Spec| pairs.iter().all(|[name, _]| *name != spec.name);
            specs.iter().filter(is_left).map(|spec| Word::Literal(spec.name)).collect()
        }
    }
}
