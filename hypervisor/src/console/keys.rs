//! Bytes from a terminal as keys: control characters and the escape sequences of VT100 and its heirs.

/// A key that the editor knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// A printable ASCII character.
    Character(u8),
    /// Return.
    Enter,
    /// Tab.
    Tab,
    /// Erase to the left.
    Backspace,
    /// Erase under the cursor (also ctrl-d).
    Delete,
    /// One to the left (also ctrl-b).
    Left,
    /// One to the right (also ctrl-f).
    Right,
    /// An older line (also ctrl-p).
    Up,
    /// A newer line (also ctrl-n).
    Down,
    /// Begin of the line (also ctrl-a).
    Home,
    /// End of the line (also ctrl-e).
    End,
    /// ctrl-c.
    Interrupt,
    /// ctrl-k: erase to the end.
    KillToEnd,
    /// ctrl-u: erase to the begin.
    KillToBegin,
    /// ctrl-w: erase the word to the left.
    KillWord,
    /// ctrl-l: clear the screen.
    ClearScreen,
}

/// The longest parameter part of an escape sequence that is looked at; longer ones are skipped whole.
const PARAMETERS_MAX: usize = 8;

/// A decoder that keeps what it needs between two bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Keys {
    state: State,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Plain,
    /// After a carriage return: a line feed right behind belongs to it.
    AfterReturn,
    /// After ESC.
    Escape,
    /// After ESC O.
    Shift3,
    /// After ESC [: the first parameter so far, and how many bytes came.
    Sequence { first: u8, length: usize },
}

impl Keys {
    /// Takes one byte; the key that it completes, if it does.
    pub(super) fn decode(&mut self, byte: u8) -> Option<Key> {
        let state = core::mem::take(&mut self.state);
        match state {
            State::AfterReturn if byte == b'\n' => None,
            State::Plain | State::AfterReturn => self.plain(byte),
            State::Escape => {
                match byte {
                    b'[' => self.state = State::Sequence { first: 0, length: 0 },
                    b'O' => self.state = State::Shift3,
                    0x1b => self.state = State::Escape,
                    _ => {}
                }
                None
            }
            State::Shift3 => Self::letter(byte),
            State::Sequence { first, length } => self.sequence(byte, first, length),
        }
    }

    fn plain(&mut self, byte: u8) -> Option<Key> {
        Some(match byte {
            b'\r' => {
                self.state = State::AfterReturn;
                Key::Enter
            }
            b'\n' => Key::Enter,
            b'\t' => Key::Tab,
            0x1b => {
                self.state = State::Escape;
                return None;
            }
            0x01 => Key::Home,
            0x02 => Key::Left,
            0x03 => Key::Interrupt,
            0x04 => Key::Delete,
            0x05 => Key::End,
            0x06 => Key::Right,
            0x08 | 0x7f => Key::Backspace,
            0x0b => Key::KillToEnd,
            0x0c => Key::ClearScreen,
            0x0e => Key::Down,
            0x10 => Key::Up,
            0x15 => Key::KillToBegin,
            0x17 => Key::KillWord,
            b' '..=b'~' => Key::Character(byte),
            _ => return None,
        })
    }

    fn sequence(&mut self, byte: u8, first: u8, length: usize) -> Option<Key> {
        match byte {
            b'0'..=b'9' | b';' if length < PARAMETERS_MAX => {
                let first =
                    if byte == b';' { first } else { first.wrapping_mul(10).wrapping_add(byte - b'0') };
                self.state = State::Sequence { first, length: length + 1 };
                None
            }
            // Parameter and intermediate bytes (ECMA-48 section 5.4) of what we do not know.
            0x20..=0x3f => {
                self.state = State::Sequence { first: u8::MAX, length: PARAMETERS_MAX };
                None
            }
            b'~' => match first {
                1 | 7 => Some(Key::Home),
                3 => Some(Key::Delete),
                4 | 8 => Some(Key::End),
                _ => None,
            },
            // A control character ends a broken sequence and counts.
            0x00..=0x1f => self.plain(byte),
            _ => Self::letter(byte),
        }
    }

    fn letter(byte: u8) -> Option<Key> {
        match byte {
            b'A' => Some(Key::Up),
            b'B' => Some(Key::Down),
            b'C' => Some(Key::Right),
            b'D' => Some(Key::Left),
            b'F' => Some(Key::End),
            b'H' => Some(Key::Home),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::{Key, Keys};

    fn decode(bytes: &[u8]) -> Vec<Key> {
        let mut keys = Keys::default();
        bytes.iter().filter_map(|&byte| keys.decode(byte)).collect()
    }

    #[test]
    fn every_terminals_cursor_keys_are_known() {
        assert_eq!(decode(b"\x1b[A\x1bOB\x1b[C\x1bOD"), vec![Key::Up, Key::Down, Key::Right, Key::Left]);
        assert_eq!(decode(b"\x1b[H\x1b[F\x1b[1~\x1b[4~\x1b[7~\x1b[8~\x1bOH"), {
            vec![Key::Home, Key::End, Key::Home, Key::End, Key::Home, Key::End, Key::Home]
        });
        assert_eq!(decode(b"\x1b[3~\x7f\x08"), vec![Key::Delete, Key::Backspace, Key::Backspace]);
    }

    #[test]
    fn unknown_sequences_leave_nothing_behind() {
        assert_eq!(decode(b"\x1b[200~x\x1b[?25hy\x1b[<12345678901;2Mz"), {
            vec![Key::Character(b'x'), Key::Character(b'y'), Key::Character(b'z')]
        });
    }

    #[test]
    fn the_three_ways_to_end_a_line_each_count_once() {
        assert_eq!(decode(b"\r\n\r\n"), vec![Key::Enter, Key::Enter]);
        assert_eq!(decode(b"\r\r\n\n"), vec![Key::Enter, Key::Enter, Key::Enter]);
    }

    #[test]
    fn what_is_not_ascii_is_no_key() {
        assert_eq!(decode("é\u{1f600}\0".as_bytes()), vec![]);
    }
}
