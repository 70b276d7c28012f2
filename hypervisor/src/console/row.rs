//! The one row of the terminal that is rewritten: the prompt with its line, or a progress line.
//!
//! Only carriage return, backspace and spaces are used, which every terminal knows; the row never reaches the
//! last column, so that no terminal wraps it.

use alloc::string::String;
use alloc::vec::Vec;

use super::output::Output;

/// Columns that are used of a terminal's 80.
pub(super) const COLUMNS: usize = 79;

/// What the row shows now.
#[derive(Debug, Default)]
pub(super) struct Row {
    shown: Vec<u8>,
    cursor: usize,
}

impl Row {
    /// Makes the row show `text`, cut to the width, with the cursor at `cursor`; sends only what differs.
    pub(super) fn paint(&mut self, out: &mut Output, text: &[u8], cursor: usize) {
        let text = &text[..text.len().min(COLUMNS)];
        let same = self.shown.iter().zip(text).take_while(|(old, new)| old == new).count();
        if same < self.shown.len() || same < text.len() {
            self.go_to(out, same);
            out.raw(&text[same..]);
            self.cursor = text.len();
            let rest = self.shown.len().saturating_sub(text.len());
            self.blank(out, rest);
            self.shown.clear();
            self.shown.extend_from_slice(text);
        }
        self.go_to(out, cursor.min(text.len()));
    }

    /// Makes the row show `text` by writing all of it anew, so that a log of the line holds it whole.
    pub(super) fn rewrite(&mut self, out: &mut Output, text: &str) {
        let text = &text.as_bytes()[..text.len().min(COLUMNS)];
        if self.cursor > 0 {
            out.raw(b"\r");
        }
        out.raw(text);
        self.cursor = text.len();
        let rest = self.shown.len().saturating_sub(text.len());
        self.blank(out, rest);
        self.shown.clear();
        self.shown.extend_from_slice(text);
    }

    /// Whether it shows nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }

    /// Whether it shows this.
    pub(super) fn shows(&self, text: &str) -> bool {
        self.shown == text.as_bytes()
    }

    /// Empties the row.
    pub(super) fn erase(&mut self, out: &mut Output) {
        if self.shown.is_empty() {
            return;
        }
        out.raw(b"\r");
        self.cursor = 0;
        let rest = self.shown.len();
        self.blank(out, rest);
        self.shown.clear();
        out.raw(b"\r");
    }

    /// Leaves what is shown where it is and goes on in the next row.
    pub(super) fn finish(&mut self, out: &mut Output) {
        out.raw(b"\r\n");
        self.forget();
    }

    /// The terminal was cleared by other means.
    pub(super) fn forget(&mut self) {
        self.shown.clear();
        self.cursor = 0;
    }

    /// Moves the cursor within what is shown.
    fn go_to(&mut self, out: &mut Output, column: usize) {
        if column < self.cursor {
            if column < self.cursor - column {
                out.raw(b"\r");
                out.raw(&self.shown[..column]);
            } else {
                for _ in column..self.cursor {
                    out.raw(b"\x08");
                }
            }
        } else {
            // The shown characters again: the only way to the right that every terminal knows.
            out.raw(&self.shown[self.cursor..column]);
        }
        self.cursor = column;
    }

    /// Overwrites `count` columns right of the cursor with spaces and comes back.
    fn blank(&mut self, out: &mut Output, count: usize) {
        for byte in [b' ', 0x08] {
            for _ in 0..count {
                out.raw(&[byte]);
            }
        }
    }
}

/// The part of `prompt` and `line` that fits a row, and the cursor's column in it: a long line is shifted to
/// the left so that the cursor stays visible.
pub(super) fn window(prompt: &str, line: &str, cursor: usize) -> (String, usize) {
    let prompt = &prompt[..prompt.len().min(COLUMNS / 2)];
    let width = COLUMNS - prompt.len();
    // Shifts go by half a window, so that typing on does not rewrite the row with every key.
    let step = width / 2;
    let shift = if cursor < width { 0 } else { ((cursor - width) / step + 1) * step };
    let end = line.len().min(shift + width);
    let mut text = String::from(prompt);
    text.push_str(&line[shift..end]);
    (text, prompt.len() + cursor - shift)
}

#[cfg(test)]
mod tests {
    use alloc::string::String;
    use alloc::vec::Vec;

    use super::{COLUMNS, Row, window};
    use crate::console::output::{ByteSink, Output};

    #[derive(Default)]
    struct Sent(Vec<u8>);

    impl ByteSink for Sent {
        fn send(&mut self, bytes: &[u8]) -> usize {
            self.0.extend_from_slice(bytes);
            bytes.len()
        }
    }

    fn sent(out: &mut Output) -> Vec<u8> {
        let mut sent = Sent::default();
        out.drain(&mut sent);
        sent.0
    }

    #[test]
    fn a_typed_character_costs_one_byte() {
        let (mut row, mut out) = (Row::default(), Output::default());
        row.paint(&mut out, b"a> vm", 5);
        sent(&mut out);
        row.paint(&mut out, b"a> vm ", 6);
        assert_eq!(sent(&mut out), b" ");
    }

    #[test]
    fn a_removed_character_is_blanked() {
        let (mut row, mut out) = (Row::default(), Output::default());
        row.paint(&mut out, b"a> vm", 5);
        sent(&mut out);
        row.paint(&mut out, b"a> v", 4);
        assert_eq!(sent(&mut out), b"\x08 \x08");
    }

    #[test]
    fn a_long_line_shifts_and_the_cursor_stays_in_the_row() {
        let line: String = core::iter::repeat_n("0123456789", 30).collect();
        for cursor in 0..=line.len() {
            let (text, column) = window("host> ", &line, cursor);
            assert!(text.len() <= COLUMNS && column <= text.len(), "{cursor}");
            assert!(text.starts_with("host> "));
            if column < text.len() {
                assert_eq!(text.as_bytes()[column], line.as_bytes()[cursor]);
            }
        }
    }
}
