//! The line editor: keys change a line and a cursor; what is shown of them is [`super::row::Row`]'s affair.
//!
//! ASCII only: every command and name is, a byte is a column, and no byte sequence can confuse the two.

use alloc::string::String;

use super::history::History;
use super::keys::Key;

/// The longest line.
pub(super) const LINE_MAX: usize = 512;

/// What a key meant beyond the change of the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Edit {
    /// Only the line or the cursor changed, if anything.
    Changed,
    /// The key does nothing here: ring the bell.
    Refused,
    /// The line was entered; the editor is empty again.
    Entered(String),
    /// The line was abandoned; the editor is empty again.
    Abandoned,
    /// Completion is asked for.
    Complete,
    /// The screen is to be cleared.
    ClearScreen,
}

/// A line and a cursor in it, with the lines before.
#[derive(Debug, Default)]
pub(super) struct Editor {
    line: String,
    cursor: usize,
    history: History,
}

impl Editor {
    /// The line so far.
    pub(super) fn line(&self) -> &str {
        &self.line
    }

    /// The cursor: how many characters are left of it.
    pub(super) fn cursor(&self) -> usize {
        self.cursor
    }

    /// Applies a key.
    pub(super) fn key(&mut self, key: Key) -> Edit {
        match key {
            Key::Character(byte) => return self.insert(char::from(byte)),
            Key::Left if self.cursor > 0 => self.cursor -= 1,
            Key::Right if self.cursor < self.line.len() => self.cursor += 1,
            Key::Home => self.cursor = 0,
            Key::End => self.cursor = self.line.len(),
            Key::Backspace if self.cursor > 0 => self.remove(self.cursor - 1..self.cursor),
            Key::Delete if self.cursor < self.line.len() => self.remove(self.cursor..self.cursor + 1),
            Key::KillToEnd => self.line.truncate(self.cursor),
            Key::KillToBegin => self.remove(0..self.cursor),
            Key::KillWord => self.remove(self.word_begin()..self.cursor),
            Key::Up => {
                let recalled = self.history.older(&self.line);
                return Self::recall(&mut self.line, &mut self.cursor, recalled);
            }
            Key::Down => return Self::recall(&mut self.line, &mut self.cursor, self.history.newer()),
            Key::Left | Key::Right | Key::Backspace | Key::Delete => return Edit::Refused,
            Key::Tab => return Edit::Complete,
            Key::ClearScreen => return Edit::ClearScreen,
            Key::Enter => {
                let line = self.take();
                self.history.add(&line);
                return Edit::Entered(line);
            }
            Key::Interrupt => {
                self.take();
                self.history.leave();
                return Edit::Abandoned;
            }
        }
        Edit::Changed
    }

    /// Puts ASCII `text` in place of the `replaced` characters left of the cursor; nothing if it does not fit.
    pub(super) fn replace(&mut self, replaced: usize, text: &str) {
        let begin = self.cursor.saturating_sub(replaced);
        let grown = self.line.len() - (self.cursor - begin) + text.len();
        if grown > LINE_MAX || !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return;
        }
        self.line.replace_range(begin..self.cursor, text);
        self.cursor = begin + text.len();
    }

    fn insert(&mut self, character: char) -> Edit {
        if self.line.len() == LINE_MAX {
            return Edit::Refused;
        }
        self.line.insert(self.cursor, character);
        self.cursor += 1;
        Edit::Changed
    }

    fn remove(&mut self, range: core::ops::Range<usize>) {
        self.cursor = range.start;
        self.line.replace_range(range, "");
    }

    fn word_begin(&self) -> usize {
        let left = self.line[..self.cursor].trim_end_matches(' ');
        left.rfind(' ').map_or(0, |space| space + 1)
    }

    fn recall(line: &mut String, cursor: &mut usize, recalled: Option<&str>) -> Edit {
        let Some(recalled) = recalled else { return Edit::Refused };
        line.clear();
        line.push_str(recalled);
        *cursor = line.len();
        Edit::Changed
    }

    fn take(&mut self) -> String {
        self.cursor = 0;
        core::mem::take(&mut self.line)
    }
}

#[cfg(test)]
mod tests {
    use super::{Edit, Editor, LINE_MAX};
    use crate::console::keys::{Key, Keys};

    /// The line after these bytes, with `|` at the cursor.
    fn after(bytes: &[u8]) -> alloc::string::String {
        let (mut keys, mut editor) = (Keys::default(), Editor::default());
        for &byte in bytes {
            if let Some(key) = keys.decode(byte) {
                editor.key(key);
            }
        }
        let (left, right) = editor.line().split_at(editor.cursor());
        alloc::format!("{left}|{right}")
    }

    #[test]
    fn keys_edit_as_a_shell_does() {
        for (bytes, line) in [
            (&b"vm lst\x1b[D\x1b[Di"[..], "vm li|st"),
            (b"abc\x01x\x05y", "xabcy|"),
            (b"abc\x1b[D\x7f", "a|c"),
            (b"abc\x1b[H\x1b[3~\x04", "|c"),
            (b"one two\x1b[D\x1b[D\x0b", "one t|"),
            (b"one two\x1b[D\x15", "|o"),
            (b"one two  \x17", "one |"),
            (b"one two\x17\x17\x17", "|"),
            (b"mem\rcpu\r\x1b[A\x1b[A", "mem|"),
            (b"mem\rcpu\rdra\x1b[A\x1b[B", "dra|"),
            (b"gone\x03x", "x|"),
        ] {
            assert_eq!(after(bytes), line, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn keys_that_can_do_nothing_are_refused() {
        let mut editor = Editor::default();
        for key in [Key::Left, Key::Right, Key::Backspace, Key::Delete, Key::Up, Key::Down] {
            assert_eq!(editor.key(key), Edit::Refused);
        }
    }

    #[test]
    fn a_line_has_an_end() {
        let mut editor = Editor::default();
        for _ in 0..LINE_MAX {
            assert_eq!(editor.key(Key::Character(b'x')), Edit::Changed);
        }
        assert_eq!(editor.key(Key::Character(b'x')), Edit::Refused);
        editor.replace(1, "yz");
        assert_eq!(editor.line().len(), LINE_MAX);
    }

    #[test]
    fn a_completion_replaces_the_word_left_of_the_cursor() {
        let mut editor = Editor::default();
        for &byte in b"vm start li" {
            editor.key(Key::Character(byte));
        }
        editor.replace(2, "linux ");
        assert_eq!((editor.line(), editor.cursor()), ("vm start linux ", 15));
    }
}
