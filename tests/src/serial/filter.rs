//! Strips what only a terminal needs: escape sequences, backspaces, NULs.
//!
//! A carriage return that no line feed follows means that a row is drawn again: it becomes a line feed, so that every
//! state of a progress line is a line. Rows that are only wiped (blanks between two returns) leave nothing.

/// Turns raw serial output into plain text; keeps its place between calls.
#[derive(Default)]
pub struct EscapeFilter {
    state: Escape,
    /// Text not handed out yet: at the end of a chunk, an incomplete UTF-8 sequence.
    partial: Vec<u8>,
    /// A carriage return came last.
    returned: bool,
    /// Blanks at the beginning of the row, held back until something follows them.
    indent: usize,
    /// The row has shown something.
    is_written: bool,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Escape {
    #[default]
    Text,
    Started,
    /// `ESC [ … final`.
    Control,
    /// `ESC ] … BEL`.
    Command,
}

impl EscapeFilter {
    /// The plain text in `bytes`. A backspace removes nothing: it is dropped like other control characters.
    pub fn feed(&mut self, bytes: &[u8]) -> String {
        for &byte in bytes {
            self.step(byte);
        }
        let valid = match std::str::from_utf8(&self.partial) {
            Ok(_) => self.partial.len(),
            // An incomplete tail waits for the rest; an invalid one is replaced.
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => self.partial.len(),
        };
        let text = String::from_utf8_lossy(&self.partial[..valid]).into_owned();
        self.partial.drain(..valid);
        text
    }

    fn text(&mut self, byte: u8) {
        let redrawn = std::mem::replace(&mut self.returned, byte == b'\r') && byte != b'\n' && byte != b'\r';
        if redrawn {
            if self.is_written {
                self.partial.push(b'\n');
            }
            (self.is_written, self.indent) = (false, 0);
        }
        match byte {
            b'\r' => {}
            b'\n' => {
                self.partial.push(b'\n');
                (self.is_written, self.indent) = (false, 0);
            }
            b' ' if !self.is_written => self.indent += 1,
            _ => {
                let indent = std::mem::take(&mut self.indent);
                self.partial.extend(std::iter::repeat_n(b' ', indent));
                self.partial.push(byte);
                self.is_written = true;
            }
        }
    }

    fn step(&mut self, byte: u8) {
        self.state = match (self.state, byte) {
            (Escape::Text, 0x1b) => Escape::Started,
            (Escape::Text, b'\r' | b'\n' | b'\t' | 0x20..=0x7e | 0x80..) => {
                self.text(byte);
                Escape::Text
            }
            (Escape::Text, _) => Escape::Text,
            (Escape::Started, b'[') => Escape::Control,
            (Escape::Started, b']') => Escape::Command,
            (Escape::Started, 0x20..=0x2f) => Escape::Started,
            (Escape::Started, _) => Escape::Text,
            (Escape::Control, 0x40..=0x7e) => Escape::Text,
            (Escape::Control, _) => Escape::Control,
            (Escape::Command, 0x07) => Escape::Text,
            (Escape::Command, _) => Escape::Command,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_and_cursor_moves_vanish() {
        let mut filter = EscapeFilter::default();
        assert_eq!(filter.feed(b"\x1b[2J\x1b[01;01Ha\x1b[1;32m> \x1b[0mok\r\n"), "a> ok\n");
    }

    #[test]
    fn a_sequence_split_between_chunks_vanishes() {
        let mut filter = EscapeFilter::default();
        assert_eq!(filter.feed(b"x\x1b"), "x");
        assert_eq!(filter.feed(b"[3"), "");
        assert_eq!(filter.feed(b"1my"), "y");
    }

    #[test]
    fn a_character_split_between_chunks_survives() {
        let mut filter = EscapeFilter::default();
        let bytes = "é→".as_bytes();
        assert_eq!(filter.feed(&bytes[..1]) + &filter.feed(&bytes[1..3]) + &filter.feed(&bytes[3..]), "é→");
    }

    #[test]
    fn a_row_that_is_drawn_again_becomes_a_line_and_a_wiped_one_nothing() {
        let mut filter = EscapeFilter::default();
        let progress = b"pre-copy 1: sent 3\rpre-copy 1: sent 4\r                  \r";
        assert_eq!(filter.feed(progress), "pre-copy 1: sent 3\npre-copy 1: sent 4\n");
        assert_eq!(filter.feed(b"moved\r\na> "), "moved\na> ");
    }

    #[test]
    fn indented_lines_keep_their_blanks() {
        let mut filter = EscapeFilter::default();
        assert_eq!(filter.feed(b"a\r\n  + b\r\n\r\n"), "a\n  + b\n\n");
    }

    #[test]
    fn invalid_bytes_do_not_stall() {
        let mut filter = EscapeFilter::default();
        assert_eq!(filter.feed(b"\xff\xfeok"), "\u{fffd}\u{fffd}ok");
    }
}
