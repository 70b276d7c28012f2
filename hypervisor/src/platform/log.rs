//! The log: a ring of the last messages, behind the crate `log`, with an echo on the serial port for as long as
//! there is no console to show it.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicUsize, Ordering};

use ::log::{Level as Severity, LevelFilter, Log, Metadata, Record};

use super::time::Instant;
use crate::arch::serial;
use crate::sync::{Level, Lock};

/// Bytes kept.
pub const CAPACITY: usize = 32 << 10;
/// Longest message; more of it is cut off.
const LINE_MAX: usize = 256;

/// Lines as they were written, oldest overwritten.
#[derive(Debug)]
pub struct Ring<const N: usize> {
    bytes: [u8; N],
    /// Bytes ever written.
    written: u64,
}

impl<const N: usize> Ring<N> {
    /// An empty ring.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: [0; N], written: 0 }
    }

    /// Appends `text`.
    pub fn push(&mut self, text: &[u8]) {
        for &byte in text {
            self.bytes[(self.written % N as u64) as usize] = byte;
            self.written += 1;
        }
    }

    /// Position after the newest byte: what a reader asks for next.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.written
    }

    /// Copies what was written from position `from` on to `into`; returns the position to go on from and how
    /// many bytes were copied. What has been overwritten is skipped, up to the next whole line.
    #[must_use]
    pub fn read(&self, from: u64, into: &mut [u8]) -> (u64, usize) {
        let oldest = self.written.saturating_sub(N as u64);
        let mut position = from.min(self.written);
        if position < oldest {
            position = oldest;
            while position < self.written && self.at(position) != b'\n' {
                position += 1;
            }
            position = (position + 1).min(self.written);
        }
        let count = into.len().min((self.written - position) as usize);
        for (offset, byte) in into[..count].iter_mut().enumerate() {
            *byte = self.at(position + offset as u64);
        }
        (position + count as u64, count)
    }

    fn at(&self, position: u64) -> u8 {
        self.bytes[(position % N as u64) as usize]
    }
}

impl<const N: usize> Default for Ring<N> {
    fn default() -> Self {
        Self::new()
    }
}

struct Logger;

static LOGGER: Logger = Logger;
static RING: Lock<Ring<CAPACITY>> = Lock::new(Level::Log, Ring::new());
static ECHO: AtomicUsize = AtomicUsize::new(LevelFilter::Info as usize);

struct Line {
    text: [u8; LINE_MAX],
    length: usize,
}

impl Line {
    fn as_str(&self) -> &str {
        core::str::from_utf8(&self.text[..self.length]).unwrap_or("?\n")
    }
}

impl Write for Line {
    /// Takes what fits, in whole characters, with room left for the end of the line.
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let mut end = more.len().min(LINE_MAX - 1 - self.length);
        while !more.is_char_boundary(end) {
            end -= 1;
        }
        self.text[self.length..self.length + end].copy_from_slice(&more.as_bytes()[..end]);
        self.length += end;
        Ok(())
    }
}

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut line = Line { text: [0; LINE_MAX], length: 0 };
        // A line takes what fits and never fails.
        let _ = write!(line, "[{:>12}] {}{}", Instant::now(), mark(record.level()), record.args());
        line.text[line.length] = b'\n';
        line.length += 1;
        RING.lock().push(line.as_str().as_bytes());
        if record.level() as usize <= ECHO.load(Ordering::Relaxed) {
            echo(line.as_str());
        }
    }

    fn flush(&self) {}
}

fn mark(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error: ",
        Severity::Warn => "warning: ",
        Severity::Info => "",
        Severity::Debug => "debug: ",
        Severity::Trace => "trace: ",
    }
}

fn echo(line: &str) {
    serial::write(line.trim_end().as_bytes());
    serial::write(b"\r\n");
}

/// Makes this the log of the crate `log`. Messages from `keep` up are kept in the ring.
pub fn initialise(keep: LevelFilter) {
    // It fails only if it has been done before.
    let _ = ::log::set_logger(&LOGGER);
    ::log::set_max_level(keep);
}

/// Which messages are echoed on the serial port as they come.
pub fn set_echo(echo: LevelFilter) {
    ECHO.store(echo as usize, Ordering::Relaxed);
}

/// Position after the newest byte of the log.
#[must_use]
pub fn end() -> u64 {
    RING.lock().end()
}

/// Copies what was logged from position `from` on (0: all that is kept) to `into`; returns the position to go on
/// from and how many bytes were copied.
#[must_use]
pub fn read(from: u64, into: &mut [u8]) -> (u64, usize) {
    RING.lock().read(from, into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;

    fn all<const N: usize>(ring: &Ring<N>, from: u64) -> String {
        let mut text = [0; 64];
        let (_, count) = ring.read(from, &mut text);
        String::from_utf8(text[..count].to_vec()).unwrap()
    }

    #[test]
    fn a_reader_goes_on_where_it_stopped() {
        let mut ring = Ring::<16>::new();
        ring.push(b"one\n");
        let (position, count) = ring.read(0, &mut [0; 64]);
        assert_eq!((position, count), (4, 4));
        ring.push(b"two\n");
        assert_eq!(all(&ring, position), "two\n");
        assert_eq!(ring.read(ring.end(), &mut [0; 4]), (8, 0));
        assert_eq!(ring.read(99, &mut [0; 4]), (8, 0), "a position from the future reads nothing");
    }

    #[test]
    fn what_was_overwritten_is_skipped_to_the_next_line() {
        let mut ring = Ring::<16>::new();
        ring.push(b"aaaaaaaa\nbbbb\ncccc\ndd\n");
        assert_eq!(all(&ring, 0), "bbbb\ncccc\ndd\n");
        ring.push(b"0123456789abcdefgh");
        assert_eq!(all(&ring, 0), "", "no whole line is left");
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let mut line = Line { text: [0; LINE_MAX], length: 0 };
        (0..LINE_MAX).for_each(|_| line.write_str("é").unwrap());
        assert_eq!(line.length, LINE_MAX - 2);
        assert!(line.as_str().ends_with('é'));
    }
}
