//! A line as words: separated by blanks, with quotes for names that hold blanks.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// A quote that is opened and not closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unclosed {
    /// The quote.
    pub(super) quote: char,
    /// Its place in the line, from 1.
    pub(super) column: usize,
}

impl fmt::Display for Unclosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} in column {} is not closed", self.quote, self.column)
    }
}

/// The words of a line. `'` and `"` quote what is between them, also within a word; there is no escape
/// character, and `#` at the begin of a word ends the line.
///
/// # Errors
/// [`Unclosed`] names a quote without its other half.
pub(super) fn tokens(line: &str) -> Result<Vec<String>, Unclosed> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut open: Option<Unclosed> = None;
    for (index, character) in line.chars().enumerate() {
        match (open, character) {
            (Some(Unclosed { quote, .. }), c) if c == quote => open = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                open = Some(Unclosed { quote: character, column: index + 1 });
                word.get_or_insert_default();
            }
            (None, ' ' | '\t') => words.extend(word.take()),
            (None, '#') if word.is_none() => break,
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    match open {
        Some(unclosed) => Err(unclosed),
        None => {
            words.extend(word);
            Ok(words)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Unclosed, tokens};

    #[test]
    fn words_and_quotes() {
        for (line, words) in [
            ("", &[][..]),
            ("  vm   list ", &["vm", "list"]),
            ("vm start 'my guest'", &["vm", "start", "my guest"]),
            ("vm start my\" \"guest ''", &["vm", "start", "my guest", ""]),
            ("mem # how much?", &["mem"]),
        ] {
            assert_eq!(tokens(line).unwrap(), words, "{line}");
        }
    }

    #[test]
    fn an_open_quote_is_named_with_its_place() {
        assert_eq!(tokens("vm start \"x"), Err(Unclosed { quote: '"', column: 10 }));
    }
}
