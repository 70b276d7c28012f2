//! The last output of a guest, so that attaching to it shows something.

use alloc::collections::VecDeque;

/// Bytes kept of each guest.
const KEPT_MAX: usize = 16 * 1024;
/// Lines shown on attaching.
const LINES_SHOWN: usize = 24;

/// A bounded memory of what a guest wrote.
#[derive(Debug, Default)]
pub(super) struct Scrollback {
    kept: VecDeque<u8>,
}

impl Scrollback {
    /// Adds output; the oldest goes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(KEPT_MAX)..];
        let surplus = (self.kept.len() + bytes.len()).saturating_sub(KEPT_MAX);
        self.kept.drain(..surplus);
        self.kept.extend(bytes);
    }

    /// Bytes of the heap that it holds.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.kept.capacity()
    }

    /// The last lines, beginning with a whole one so that no escape sequence is cut.
    pub(super) fn last_lines(&mut self) -> &[u8] {
        let kept = &*self.kept.make_contiguous();
        // A line end as the last byte ends the last line and does not begin another.
        let body = kept.strip_suffix(b"\n").unwrap_or(kept);
        let ends =
            body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n').map(|(index, _)| index + 1);
        match ends.take(LINES_SHOWN).enumerate().last() {
            Some((index, begin)) if index + 1 == LINES_SHOWN || kept.len() == KEPT_MAX => &kept[begin..],
            _ => kept,
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::String;

    use super::{KEPT_MAX, LINES_SHOWN, Scrollback};

    #[test]
    fn the_last_lines_are_whole() {
        let mut scrollback = Scrollback::default();
        assert_eq!(scrollback.last_lines(), b"");
        scrollback.push(b"one\r\ntwo");
        assert_eq!(scrollback.last_lines(), b"one\r\ntwo");
        for n in 0..100 {
            scrollback.push(format!("line {n}\n").as_bytes());
        }
        let shown = String::from_utf8(scrollback.last_lines().to_vec()).unwrap();
        assert_eq!(shown.lines().count(), LINES_SHOWN);
        assert!(shown.starts_with("line 76\n") && shown.ends_with("line 99\n"));
    }

    #[test]
    fn it_is_bounded_and_drops_the_line_that_was_cut() {
        let mut scrollback = Scrollback::default();
        scrollback.push(&[b'x'; 3 * KEPT_MAX]);
        assert_eq!(scrollback.last_lines().len(), KEPT_MAX);
        scrollback.push(b"\nend");
        assert_eq!(scrollback.last_lines(), b"end");
    }
}
