//! The log's ring, read back as lines.

use alloc::collections::VecDeque;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use log::{Level, LevelFilter};

use crate::console::view::LogLine;
use crate::platform::log::{self as ring, CAPACITY};

/// Lines kept for showing; what comes faster than the console shows it is in the log all the same.
const WAITING_MAX: usize = 64;
/// Bytes read at once.
const CHUNK: usize = 1024;

/// A place in the log: gives each line once.
#[derive(Debug)]
pub(super) struct LogReader {
    position: u64,
    partial: Vec<u8>,
    waiting: VecDeque<LogLine>,
}

impl LogReader {
    /// A reader of what comes from now on.
    pub(super) fn from_now() -> Self {
        Self { position: ring::end(), partial: Vec::new(), waiting: VecDeque::new() }
    }

    /// The next line that is at least as grave as `level`.
    pub(super) fn next(&mut self, level: LevelFilter) -> Option<LogLine> {
        if self.waiting.is_empty() && ring::end() != self.position {
            let mut chunk = [0; CHUNK];
            let (position, count) = ring::read(self.position, &mut chunk);
            self.position = position;
            self.take(&chunk[..count], level);
        }
        self.waiting.pop_front()
    }

    fn take(&mut self, bytes: &[u8], level: LevelFilter) {
        for &byte in bytes {
            if byte != b'\n' {
                // The ring's lines are shorter; this only bounds what a broken one could do.
                if self.partial.len() < CHUNK {
                    self.partial.push(byte);
                }
                continue;
            }
            let line = parse(&String::from_utf8_lossy(&self.partial));
            self.partial.clear();
            if line.level <= level && self.waiting.len() < WAITING_MAX {
                self.waiting.push_back(line);
            }
        }
    }
}

/// The newest `lines` lines that are at least as grave as `level`, oldest first.
pub(super) fn newest(lines: usize, level: LevelFilter) -> Vec<LogLine> {
    let mut bytes = vec![0; CAPACITY];
    let (_, count) = ring::read(0, &mut bytes);
    let text = String::from_utf8_lossy(&bytes[..count]);
    let mut found: Vec<LogLine> =
        text.lines().rev().map(parse).filter(|line| line.level <= level).take(lines).collect();
    found.reverse();
    found
}

/// A line of the ring: `[seconds.micros] severity: text`, the severity only if it is not information.
fn parse(line: &str) -> LogLine {
    let (stamp, rest) = line.strip_prefix('[').and_then(|line| line.split_once("] ")).unwrap_or(("", line));
    let marks = [
        ("error: ", Level::Error),
        ("warning: ", Level::Warn),
        ("debug: ", Level::Debug),
        ("trace: ", Level::Trace),
    ];
    let marked = marks.iter().find_map(|(mark, level)| rest.strip_prefix(mark).map(|text| (*level, text)));
    let (level, text) = marked.unwrap_or((Level::Info, rest));
    LogLine { at: moment(stamp.trim()).unwrap_or_default(), level, text: text.to_string() }
}

fn moment(stamp: &str) -> Option<Duration> {
    let (seconds, micros) = stamp.split_once('.')?;
    Some(Duration::from_secs(seconds.parse().ok()?) + Duration::from_micros(micros.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use log::{Level, LevelFilter};

    use super::{LogReader, parse};

    #[test]
    fn lines_have_a_moment_a_level_and_a_text() {
        let line = parse("[   12.000345] warning: the card: odd");
        assert_eq!((line.at, line.level), (Duration::from_micros(12_000_345), Level::Warn));
        assert_eq!(line.text, "the card: odd");
        let line = parse("[    0.100000] CPU 1 runs");
        assert_eq!((line.level, line.text.as_str()), (Level::Info, "CPU 1 runs"));
        assert_eq!(parse("torn").text, "torn");
    }

    #[test]
    fn each_grave_line_is_given_once_also_in_pieces() {
        let mut reader = LogReader::from_now();
        reader.take(b"[ 0.1] one\n[ 0.2] err", LevelFilter::Warn);
        reader.take(b"or: two\n", LevelFilter::Warn);
        let line = reader.next(LevelFilter::Warn).unwrap();
        assert_eq!((line.level, line.text.as_str()), (Level::Error, "two"));
        assert_eq!(reader.next(LevelFilter::Warn), None);
    }
}
