//! Tab: what the word at the cursor may become.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use godwit_migration::Mode;

use super::help::{COMMANDS, Form, Word};
use super::host::Host;
use super::options;

/// Candidates that are looked at and listed.
const CANDIDATES_MAX: usize = 64;

/// What Tab does to a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Completion {
    /// No candidate.
    Nothing,
    /// This takes the place of the word's `replaced` characters left of the cursor.
    Replace { replaced: usize, text: String },
    /// Several that begin as the word does, and have no more in common.
    Choices(Vec<String>),
}

/// Completes the word that ends at the cursor; `left` is the line up to there.
pub(super) fn complete(left: &str, host: &dyn Host) -> Completion {
    let word_begin = left.rfind(' ').map_or(0, |space| space + 1);
    let (before, word) = left.split_at(word_begin);
    let mut before = before.split_ascii_whitespace();
    let mut candidates: Vec<String> = match before.next() {
        None => COMMANDS.iter().map(|entry| entry.name.to_string()).collect(),
        Some(name) => {
            let typed: Vec<&str> = before.collect();
            let forms = COMMANDS.iter().filter(|entry| entry.name == name).flat_map(|entry| entry.forms);
            forms.flat_map(|form| next_words(form, &typed)).flat_map(|next| names(next, host)).collect()
        }
    };
    candidates.retain(|candidate| candidate.starts_with(word));
    candidates.sort_unstable();
    candidates.dedup();
    candidates.truncate(CANDIDATES_MAX);
    match candidates.as_slice() {
        [] => Completion::Nothing,
        [only] => Completion::Replace { replaced: word.len(), text: only.clone() + " " },
        [first, rest @ ..] => {
            let common = rest.iter().fold(first.len(), |length, other| {
                let same = first.bytes().zip(other.bytes()).take_while(|(left, right)| left == right).count();
                length.min(same)
            });
            match first.get(..common) {
                Some(text) if common > word.len() => {
                    Completion::Replace { replaced: word.len(), text: text.to_string() }
                }
                _ => Completion::Choices(candidates),
            }
        }
    }
}

/// The kinds of word that may follow the typed ones in this form, if they fit it.
fn next_words(form: &Form, typed: &[&str]) -> Vec<Word> {
    let fits = |(word, typed): (&Word, &&str)| !matches!(word, Word::Literal(literal) if literal != typed);
    if !form.words.iter().zip(typed).all(fits) {
        return Vec::new();
    }
    match form.words.get(typed.len()) {
        Some(word) => [*word].into(),
        None => options::next(form.options, &typed[form.words.len()..]),
    }
}

/// The candidates of a kind of word.
fn names(word: Word, host: &dyn Host) -> Vec<String> {
    match word {
        Word::Literal(literal) => [literal.to_string()].into(),
        Word::Guest => host.guests().into_iter().map(|guest| guest.name).collect(),
        Word::Peer | Word::Address => host.peers().into_iter().map(|peer| peer.name).collect(),
        Word::Command => COMMANDS.iter().map(|entry| entry.name.to_string()).collect(),
        Word::Level => ["error", "warn", "info", "debug", "trace"].iter().map(ToString::to_string).collect(),
        Word::Mode => Mode::ALL.iter().map(|mode| mode.name().to_string()).collect(),
        Word::Value(_) => Vec::new(),
    }
}
