//! Strips what only a terminal needs: escape sequences, carriage returns, NULs.

/// Turns raw serial output into plain text; keeps its place between calls.
#[derive(Default)]
pub struct EscapeFilter {
    state: Escape,
    /// An incomplete UTF-8 sequence from the end of the last chunk.
    partial: Vec<u8>,
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

    fn step(&mut self, byte: u8) {
        self.state = match (self.state, byte) {
            (Escape::Text, 0x1b) => Escape::Started,
            (Escape::Text, b'\n' | b'\t' | 0x20..=0x7e | 0x80..) => {
                self.partial.push(byte);
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
    fn invalid_bytes_do_not_stall() {
        let mut filter = EscapeFilter::default();
        assert_eq!(filter.feed(b"\xff\xfeok"), "\u{fffd}\u{fffd}ok");
    }
}
