//! A person at a terminal: types, waits, looks.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use super::fake::FakeHost;
use crate::console::{ByteSink, Console};

/// A terminal of 80 columns that knows carriage return, line feed, backspace and bell.
#[derive(Default)]
pub(super) struct Terminal {
    lines: Vec<String>,
    row: Vec<char>,
    column: usize,
    /// All that came, as it came.
    pub(super) raw: Vec<u8>,
}

impl ByteSink for Terminal {
    fn send(&mut self, bytes: &[u8]) -> usize {
        self.raw.extend_from_slice(bytes);
        for &byte in bytes {
            match byte {
                b'\r' => self.column = 0,
                b'\n' => {
                    let row: String = core::mem::take(&mut self.row).into_iter().collect();
                    self.lines.push(row.trim_end().to_string());
                }
                0x08 => self.column = self.column.checked_sub(1).expect("no backspace over the left edge"),
                0x07 => {}
                _ => {
                    self.row.resize(self.row.len().max(self.column + 1), ' ');
                    self.row[self.column] = char::from(byte);
                    self.column += 1;
                }
            }
        }
        bytes.len()
    }
}

impl Terminal {
    /// How many columns the last line uses.
    pub(super) fn row_width(&self) -> usize {
        self.row.len()
    }

    /// What it shows now, and forgets all lines but the last.
    fn take(&mut self) -> String {
        let mut text = core::mem::take(&mut self.lines).join("\n");
        if !text.is_empty() {
            text.push('\n');
        }
        text + self.row.iter().collect::<String>().trim_end()
    }
}

/// Console, machine, terminal and time together.
pub(super) struct Person {
    pub(super) console: Console,
    pub(super) host: FakeHost,
    pub(super) terminal: Terminal,
    now: Duration,
}

impl Person {
    /// Sits down at host `a`, and has read the greeting.
    pub(super) fn new() -> Self {
        let mut person = Self::unread(FakeHost::default());
        person.sees();
        person
    }

    /// Sits down at a machine.
    pub(super) fn unread(host: FakeHost) -> Self {
        Self {
            console: Console::new("a"),
            host,
            terminal: Terminal::default(),
            now: Duration::from_secs(100),
        }
    }

    /// Types, and the console has done at once what it can.
    pub(super) fn types(&mut self, text: &str) {
        assert_eq!(self.console.input(text.as_bytes()), text.len());
        self.polls();
    }

    /// Lets time pass.
    pub(super) fn waits(&mut self, millis: u64) {
        for _ in 0..millis / 10 {
            self.now += Duration::from_millis(10);
            self.polls();
        }
    }

    /// What is on the terminal since the last look.
    pub(super) fn sees(&mut self) -> String {
        self.polls();
        self.terminal.take()
    }

    /// Types a line and reads the answer.
    pub(super) fn asks(&mut self, line: &str) -> String {
        self.types(&(String::from(line) + "\r"));
        self.sees()
    }

    fn polls(&mut self) {
        for _ in 0..100 {
            if self.console.poll(self.now, &mut self.host, &mut self.terminal) != Some(self.now) {
                return;
            }
        }
        panic!("the console is never content");
    }
}
