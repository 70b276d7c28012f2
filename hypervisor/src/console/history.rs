//! Lines that were entered before.

use alloc::collections::VecDeque;
use alloc::string::String;

/// Lines kept; the oldest goes first.
const LINES_MAX: usize = 64;

/// Entered lines, and where a person is among them.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Newest first.
    lines: VecDeque<String>,
    /// 0: the line being written; n: the nth newest.
    position: usize,
    /// The line that was being written when the person went up.
    draft: String,
}

impl History {
    /// Keeps an entered line, unless it is blank or repeats the newest, and goes back to its end.
    pub(super) fn add(&mut self, line: &str) {
        self.position = 0;
        self.draft.clear();
        let line = line.trim();
        if line.is_empty() || self.lines.front().is_some_and(|newest| newest == line) {
            return;
        }
        self.lines.truncate(LINES_MAX - 1);
        self.lines.push_front(String::from(line));
    }

    /// The next older line; `current` is kept if it is the one being written.
    pub(super) fn older(&mut self, current: &str) -> Option<&str> {
        if self.position == self.lines.len() {
            return None;
        }
        if self.position == 0 {
            self.draft = String::from(current);
        }
        self.position += 1;
        self.lines.get(self.position - 1).map(String::as_str)
    }

    /// The next newer line, at last the one that was being written.
    pub(super) fn newer(&mut self) -> Option<&str> {
        match self.position {
            0 => None,
            1 => {
                self.position = 0;
                Some(&self.draft)
            }
            position => {
                self.position = position - 1;
                self.lines.get(position - 2).map(String::as_str)
            }
        }
    }

    /// Goes back to the end: the line was abandoned.
    pub(super) fn leave(&mut self) {
        self.position = 0;
        self.draft.clear();
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::{History, LINES_MAX};

    #[test]
    fn going_up_and_down_comes_back_to_the_draft() {
        let mut history = History::default();
        history.add("mem");
        history.add("cpu");
        assert_eq!(history.older("dra"), Some("cpu"));
        assert_eq!(history.older("cpu"), Some("mem"));
        assert_eq!(history.older("mem"), None);
        assert_eq!(history.newer(), Some("cpu"));
        assert_eq!(history.newer(), Some("dra"));
        assert_eq!(history.newer(), None);
    }

    #[test]
    fn blanks_and_repetitions_are_not_kept_and_the_oldest_go() {
        let mut history = History::default();
        for line in ["  ", "mem", " mem", ""] {
            history.add(line);
        }
        assert_eq!(history.older(""), Some("mem"));
        assert_eq!(history.older(""), None);
        for n in 0..2 * LINES_MAX {
            history.add(&format!("log {n}"));
        }
        let mut count = 0;
        while history.older("").is_some() {
            count += 1;
        }
        assert_eq!(count, LINES_MAX);
    }
}
