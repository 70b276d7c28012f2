//! [`Console`]: the shell itself, with what it does at the moment.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use core::fmt::Write as _;
use core::time::Duration;

use super::commands::inspect::log_line;
use super::commands::{self, Next};
use super::complete::{Completion, complete};
use super::editor::{Edit, Editor};
use super::format::printable;
use super::host::{Host, Notice};
use super::keys::Keys;
use super::mux::{Attachment, Screens, Typed};
use super::output::{ByteSink, Output};
use super::parse;
use super::ping::{Ping, Pinging};
use super::progress::Progress;
use super::report;
use super::row::{COLUMNS, Row, window};
use super::watch::{Watch, ended_here, gone};

/// Typed bytes that wait; the serial port keeps the rest.
const TYPED_MAX: usize = 1024;
/// Notices kept while a person is attached to a guest.
const HELD_MAX: usize = 32;
/// Log lines and notices shown per poll.
const SHOWN_MAX: usize = 16;
/// ctrl-c.
const INTERRUPT: u8 = 0x03;

/// The shell on one terminal.
#[derive(Debug)]
pub struct Console {
    prompt: String,
    is_greeted: bool,
    typed: VecDeque<u8>,
    keys: Keys,
    editor: Editor,
    row: Row,
    out: Output,
    screens: Screens,
    mode: Mode,
    held: VecDeque<Notice>,
    log_lines_held: u64,
}

/// What the shell does.
#[derive(Debug)]
enum Mode {
    /// It waits for a line.
    Prompt,
    /// It passes bytes to and from a guest.
    Attached(Attachment),
    /// It shows the progress of a move.
    Watch(Box<Watch>),
    /// It sends echo requests.
    Ping(Ping),
    /// It restarts the machine as soon as all is shown.
    Reboot,
}

impl Console {
    /// A shell for the host of this name.
    #[must_use]
    pub fn new(host_name: &str) -> Self {
        let mut prompt: String = printable(host_name).take(COLUMNS / 4).collect();
        prompt.push_str("> ");
        Self {
            prompt,
            is_greeted: false,
            typed: VecDeque::new(),
            keys: Keys::default(),
            editor: Editor::default(),
            row: Row::default(),
            out: Output::default(),
            screens: Screens::default(),
            mode: Mode::Prompt,
            held: VecDeque::new(),
            log_lines_held: 0,
        }
    }

    /// How many typed bytes it can take now.
    #[must_use]
    pub fn room(&self) -> usize {
        TYPED_MAX - self.typed.len()
    }

    /// Takes bytes that a person typed; how many. The others have to wait: leave them in the serial port.
    pub fn input(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        self.typed.extend(&bytes[..taken]);
        taken
    }

    /// Does what is due at `now` (time since start) and hands `sink` what it takes. The answer is the time of the
    /// next poll that is wanted even if nothing is typed; `now` itself means at once.
    pub fn poll(&mut self, now: Duration, host: &mut dyn Host, sink: &mut dyn ByteSink) -> Option<Duration> {
        self.greet(host);
        let attached = match &self.mode {
            Mode::Attached(attachment) => Some(attachment.guest()),
            _ => None,
        };
        self.screens.collect(attached, host);
        self.notices(host);
        self.log_lines(host);
        let has_keys = !self.typed.is_empty();
        self.keys(now, host);
        let next = self.proceed(now, host);
        // Whatever else was shown has left the row empty: an idle console costs its host nothing.
        if matches!(self.mode, Mode::Prompt) && (has_keys || self.row.is_empty()) {
            let (text, cursor) = window(&self.prompt, self.editor.line(), self.editor.cursor());
            self.row.paint(&mut self.out, text.as_bytes(), cursor);
        }
        self.out.drain(sink);
        if matches!(self.mode, Mode::Reboot) && self.out.waiting() == 0 {
            host.reboot();
            self.mode = Mode::Prompt;
        }
        let is_owed = self.out.waiting() > 0 || matches!(self.mode, Mode::Prompt) && !self.typed.is_empty();
        if is_owed { Some(now) } else { next }
    }

    /// Bytes of the heap that this shell holds on to, about: what the tests bound.
    #[cfg(test)]
    pub(super) fn footprint(&self) -> usize {
        self.typed.capacity()
            + self.out.capacity()
            + self.screens.capacity()
            + self.editor.line().len()
            + self.held.len() * size_of::<Notice>()
    }

    fn greet(&mut self, host: &dyn Host) {
        if core::mem::replace(&mut self.is_greeted, true) {
            return;
        }
        let version = host.version().version;
        let _infallible =
            writeln!(self.out, "\nGodwit {version} on {}; 'help' lists the commands", host.name());
        for problem in host.problems() {
            let _infallible = writeln!(self.out, "! {}", printable(&problem).collect::<String>());
        }
    }

    /// Tells what happened. While attached, only what ends the attachment.
    fn notices(&mut self, host: &mut dyn Host) {
        for _ in 0..SHOWN_MAX {
            let Some(notice) = host.next_notice() else { return };
            if let Mode::Attached(attachment) = &mut self.mode {
                let ends = ended_here(&notice) == Some(attachment.guest());
                if ends {
                    attachment.pass(host, &mut self.screens, &mut self.out);
                }
                if self.held.len() == HELD_MAX {
                    self.held.pop_front();
                }
                self.held.push_back(notice);
                if ends {
                    self.detach();
                }
                continue;
            }
            self.tell(&notice);
        }
    }

    /// Prints a notice above whatever is being shown.
    fn tell(&mut self, notice: &Notice) {
        if let Some(guest) = gone(notice) {
            self.screens.forget(guest);
        }
        let is_watched = match &mut self.mode {
            Mode::Watch(watch) if watch.ends_with(notice) => {
                watch.finish(&mut self.row, &mut self.out);
                true
            }
            _ => false,
        };
        self.row.erase(&mut self.out);
        let _infallible = report::notice(notice, &mut self.out);
        if is_watched {
            self.mode = Mode::Prompt;
        }
        self.restore_row();
    }

    /// Shows log lines above whatever is being shown; while attached, counts them.
    fn log_lines(&mut self, host: &mut dyn Host) {
        for _ in 0..SHOWN_MAX {
            let Some(line) = host.next_log_line() else { return };
            if matches!(self.mode, Mode::Attached(_)) {
                self.log_lines_held += 1;
                continue;
            }
            self.row.erase(&mut self.out);
            let _infallible = writeln!(self.out, "{}", log_line(&line));
            self.restore_row();
        }
    }

    /// After other lines: the progress line again. The prompt is painted at the end of each poll.
    fn restore_row(&mut self) {
        if let Mode::Watch(watch) = &self.mode {
            watch.redraw(&mut self.row, &mut self.out);
        }
    }

    /// Takes typed bytes as far as the mode allows; at most one command.
    fn keys(&mut self, now: Duration, host: &mut dyn Host) {
        match &self.mode {
            Mode::Watch(_) | Mode::Ping(_) => {
                // What is typed ahead waits for the prompt, unless it is called off.
                let Some(index) = self.typed.iter().position(|byte| *byte == INTERRUPT) else { return };
                self.typed.drain(..=index);
                self.interrupt(host);
            }
            Mode::Attached(_) => self.keys_attached(),
            Mode::Prompt => self.keys_prompt(now, host),
            Mode::Reboot => {}
        }
    }

    fn keys_prompt(&mut self, now: Duration, host: &mut dyn Host) {
        while let Some(byte) = self.typed.pop_front() {
            let Some(key) = self.keys.decode(byte) else { continue };
            match self.editor.key(key) {
                Edit::Changed => {}
                Edit::Refused => self.out.raw(b"\x07"),
                Edit::ClearScreen => self.clear_screen(),
                Edit::Complete => self.complete(host),
                Edit::Abandoned => {
                    self.out.raw(b"^C");
                    self.row.finish(&mut self.out);
                }
                Edit::Entered(line) => {
                    let (text, cursor) = window(&self.prompt, &line, line.len());
                    self.row.paint(&mut self.out, text.as_bytes(), cursor);
                    self.row.finish(&mut self.out);
                    self.run(&line, now, host);
                    return;
                }
            }
        }
    }

    fn keys_attached(&mut self) {
        while let Mode::Attached(attachment) = &mut self.mode {
            let Some(byte) = self.typed.pop_front() else { return };
            match attachment.byte(byte) {
                Typed::Taken => {}
                Typed::Dropped => self.out.raw(b"\x07"),
                Typed::Help => self.out.raw(b"\r\n[Ctrl-] then . comes back, Ctrl-] twice sends one]\r\n"),
                Typed::Detach => self.detach(),
            }
        }
    }

    /// Carries out an entered line.
    fn run(&mut self, line: &str, now: Duration, host: &mut dyn Host) {
        let done = match parse::parse(line) {
            Ok(None) => return,
            Ok(Some(command)) => commands::execute(command, host, &mut self.out),
            Err(error) => {
                let lead = if matches!(error, parse::ParseError::Usage { .. }) { "" } else { "error: " };
                let _infallible = writeln!(self.out, "{lead}{error}");
                return;
            }
        };
        match done {
            Ok(Next::Prompt) => {}
            Ok(Next::Reboot) => self.mode = Mode::Reboot,
            Ok(Next::Clear) => self.clear_screen(),
            Ok(Next::Attach(guest)) => self.attach(guest, host),
            Ok(Next::Ping(address)) => match Ping::begin(address, host) {
                Ok(ping) => self.mode = Mode::Ping(ping),
                Err(error) => {
                    let _infallible = writeln!(self.out, "error: {error}");
                }
            },
            Ok(Next::Watch { guest, peer, errand }) => {
                let progress = Progress::default();
                self.mode = Mode::Watch(Box::new(Watch::new((guest, peer), errand, progress, now)));
            }
            Err(error) => {
                let _infallible = writeln!(self.out, "error: {error}");
            }
        }
    }

    fn attach(&mut self, guest: String, host: &dyn Host) {
        let state = host.guests().into_iter().find(|view| view.name == guest).map(|view| view.state);
        let _infallible = match state {
            Some(state) => writeln!(self.out, "[{guest} is {state}; Ctrl-] then . comes back]"),
            None => return,
        };
        self.mode = Mode::Attached(Attachment::new(guest, &mut self.screens, &mut self.out));
    }

    /// Ends an attachment, and tells what came meanwhile.
    fn detach(&mut self) {
        let Mode::Attached(attachment) = core::mem::replace(&mut self.mode, Mode::Prompt) else { return };
        let _infallible = writeln!(self.out, "\n[detached from {}]", attachment.guest());
        while let Some(notice) = self.held.pop_front() {
            self.tell(&notice);
        }
        match core::mem::take(&mut self.log_lines_held) {
            0 => {}
            lines => {
                let _infallible = writeln!(self.out, "[{lines} log lines came meanwhile: 'log' shows them]");
            }
        }
    }

    /// ctrl-c while something is shown.
    fn interrupt(&mut self, host: &mut dyn Host) {
        match core::mem::replace(&mut self.mode, Mode::Prompt) {
            Mode::Watch(watch) => watch.leave(host, &mut self.row, &mut self.out),
            Mode::Ping(ping) => ping.stop(host, &mut self.out),
            mode @ (Mode::Prompt | Mode::Attached(_) | Mode::Reboot) => self.mode = mode,
        }
    }

    /// Goes on with what is being done; when it wants to be asked again.
    fn proceed(&mut self, now: Duration, host: &mut dyn Host) -> Option<Duration> {
        match &mut self.mode {
            Mode::Prompt | Mode::Reboot => None,
            Mode::Attached(attachment) => {
                attachment.pass(host, &mut self.screens, &mut self.out);
                None
            }
            Mode::Watch(watch) => {
                if watch.proceed(now, host, &mut self.row, &mut self.out) {
                    return Some(watch.due());
                }
                self.mode = Mode::Prompt;
                None
            }
            Mode::Ping(ping) => {
                if ping.poll(host, &mut self.out) == Pinging::Done {
                    self.mode = Mode::Prompt;
                }
                None
            }
        }
    }

    fn clear_screen(&mut self) {
        self.row.forget();
        self.out.raw(b"\x1b[H\x1b[2J");
    }

    fn complete(&mut self, host: &dyn Host) {
        let left = &self.editor.line()[..self.editor.cursor()];
        match complete(left, host) {
            Completion::Nothing => self.out.raw(b"\x07"),
            Completion::Replace { replaced, text } => self.editor.replace(replaced, &text),
            Completion::Choices(choices) => {
                let (text, cursor) = window(&self.prompt, self.editor.line(), self.editor.cursor());
                self.row.paint(&mut self.out, text.as_bytes(), cursor);
                self.row.finish(&mut self.out);
                self.list(&choices);
            }
        }
    }

    /// Prints words, as many in a line as fit.
    fn list(&mut self, words: &[String]) {
        let mut used = 0;
        for word in words {
            let gap = if used == 0 { 0 } else { 2 };
            if used > 0 && used + gap + word.len() > COLUMNS {
                self.out.raw(b"\r\n");
                used = 0;
            }
            let _infallible = write!(self.out, "{}{word}", if used == 0 { "" } else { "  " });
            used += gap + word.len();
        }
        self.out.raw(b"\r\n");
    }
}
