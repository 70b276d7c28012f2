//! A machine's serial port, as a person at a terminal sees it.
//!
//! [`Serial::listen`] opens a TCP port that the machine's UART connects to. A reader thread strips terminal escapes
//! and carriage returns, keeps everything in a transcript file, and can echo it line by line to a [`Tap`]. Expectations
//! look only at output that no earlier expectation has consumed; a timeout shows the tail of what came instead.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::lock;

mod filter;

pub use filter::EscapeFilter;

/// How much of the output an error shows.
const TAIL_BYTES: usize = 2_000;
/// Bytes typed at once: half of a 16550's FIFO, so that a busy machine loses none.
const TYPED_BYTES_MAX: usize = 8;
/// How long to wait for the echo of what was typed before typing on.
const ECHO_PATIENCE: Duration = Duration::from_millis(400);

/// Receives complete lines as they arrive.
pub type Tap = Box<dyn Fn(&str) + Send>;

/// Why an expectation failed.
#[derive(Debug)]
pub enum SerialError {
    /// Nothing of what was expected came in time.
    Timeout {
        /// What was waited for.
        expected: String,
        /// How long.
        waited: Duration,
        /// The last output.
        tail: String,
    },
    /// The machine said something that means it cannot go on.
    Fatal {
        /// The line's beginning that was recognised.
        sign: String,
        /// The last output.
        tail: String,
    },
    /// The machine closed the line, or never opened it.
    Closed {
        /// What was waited for.
        expected: String,
        /// The last output.
        tail: String,
    },
    /// The host's own input or output failed.
    Io(io::Error),
}

impl fmt::Display for SerialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout { expected, waited, tail } => {
                write!(f, "no {expected} within {} s; the last output was:\n{tail}", waited.as_secs())
            }
            Self::Fatal { sign, tail } => write!(f, "the machine said {sign:?}:\n{tail}"),
            Self::Closed { expected, tail } => {
                write!(f, "the serial line closed while waiting for {expected}; the last output was:\n{tail}")
            }
            Self::Io(error) => write!(f, "serial line: {error}"),
        }
    }
}

impl std::error::Error for SerialError {}

impl From<io::Error> for SerialError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Result of serial operations.
pub type Result<T> = std::result::Result<T, SerialError>;

#[derive(Default)]
struct State {
    text: String,
    /// Everything before this byte has been matched by an expectation.
    cursor: usize,
    stream: Option<TcpStream>,
    closed: bool,
    tap: Option<Tap>,
    /// Start of the line that the tap has not seen yet.
    tapped: usize,
    /// Raw bytes for a person's terminal, while one is attached.
    raw: Option<Box<dyn Write + Send>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// One serial line.
pub struct Serial {
    shared: Arc<Shared>,
    port: u16,
    transcript: PathBuf,
    fatal_signs: Vec<String>,
}

impl Serial {
    /// Listens on a free TCP port of the loopback; the first connection is the machine.
    ///
    /// # Errors
    /// No port, or the transcript could not be created.
    pub fn listen(transcript: &Path) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared { state: Mutex::new(State::default()), changed: Condvar::new() });
        let file = File::create(transcript)?;
        let reader = Arc::clone(&shared);
        thread::spawn(move || {
            let outcome = listener.accept().and_then(|(stream, _)| read_all(stream, &reader, file));
            let mut state = lock(&reader.state);
            state.closed = true;
            if let Err(error) = outcome {
                state.text.push_str(&format!("\n[serial line: {error}]\n"));
            }
            reader.changed.notify_all();
        });
        Ok(Self { shared, port, transcript: transcript.to_path_buf(), fatal_signs: Vec::new() })
    }

    /// The TCP port that the machine must connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the machine has connected, now or earlier.
    pub fn is_connected(&self) -> bool {
        lock(&self.shared.state).stream.is_some()
    }

    /// Where all output is kept.
    pub fn transcript(&self) -> &Path {
        &self.transcript
    }

    /// From now on every expectation fails at once when `sign` appears.
    pub fn fail_on(&mut self, sign: &str) {
        self.fatal_signs.push(sign.to_owned());
    }

    /// Hands every further complete line to `tap`.
    pub fn set_tap(&self, tap: Option<Tap>) {
        let mut state = lock(&self.shared.state);
        state.tapped = state.text.len();
        state.tap = tap;
    }

    /// Copies every further raw byte to a person's terminal, or stops doing so.
    pub fn set_raw(&self, raw: Option<Box<dyn Write + Send>>) {
        lock(&self.shared.state).raw = raw;
    }

    /// All output so far.
    pub fn text(&self) -> String {
        lock(&self.shared.state).text.clone()
    }

    /// Output that no expectation has consumed yet.
    pub fn pending(&self) -> String {
        let state = lock(&self.shared.state);
        state.text[state.cursor..].to_owned()
    }

    /// Forgets the output that no expectation has consumed yet.
    pub fn skip_pending(&self) {
        let mut state = lock(&self.shared.state);
        state.cursor = state.text.len();
    }

    /// Waits until nothing has come for `quiet`, at most for `at_most`.
    pub fn settle(&self, quiet: Duration, at_most: Duration) {
        let deadline = Instant::now() + at_most;
        let mut length = lock(&self.shared.state).text.len();
        while Instant::now() < deadline {
            thread::sleep(quiet);
            let now = lock(&self.shared.state).text.len();
            if now == length {
                return;
            }
            length = now;
        }
    }

    /// Waits for `text`; returns what came before it.
    ///
    /// # Errors
    /// Timeout, a fatal sign, or the line closed.
    pub fn expect(&mut self, text: &str, timeout: Duration) -> Result<String> {
        self.expect_any(&[text], timeout).map(|(_, before)| before)
    }

    /// Waits for whichever of `texts` comes first; returns its index and what came before it.
    ///
    /// # Errors
    /// Timeout, a fatal sign, or the line closed.
    pub fn expect_any(&mut self, texts: &[&str], timeout: Duration) -> Result<(usize, String)> {
        let expected = texts.iter().map(|t| format!("{t:?}")).collect::<Vec<_>>().join(" or ");
        let find = |text: &str| {
            let hits = texts.iter().enumerate().filter_map(|(i, t)| text.find(t).map(|at| (at, i)));
            hits.min().map(|(at, i)| ((i, text[..at].to_owned()), at + texts[i].len()))
        };
        self.expect_with(&expected, timeout, find)
    }

    /// Waits for a complete line that contains `text`; returns that line.
    ///
    /// # Errors
    /// Timeout, a fatal sign, or the line closed.
    pub fn expect_line(&mut self, text: &str, timeout: Duration) -> Result<String> {
        let find = |pending: &str| {
            let at = pending.find(text)?;
            let start = pending[..at].rfind('\n').map_or(0, |n| n + 1);
            let end = at + pending[at..].find('\n')?;
            Some((pending[start..end].to_owned(), end + 1))
        };
        self.expect_with(&format!("line with {text:?}"), timeout, find)
    }

    /// Waits until `find` returns a value and the number of pending bytes it consumed.
    ///
    /// # Errors
    /// Timeout, a fatal sign, or the line closed.
    pub fn expect_with<T>(
        &mut self,
        expected: &str,
        timeout: Duration,
        find: impl Fn(&str) -> Option<(T, usize)>,
    ) -> Result<T> {
        let deadline = Instant::now() + timeout;
        let mut state = lock(&self.shared.state);
        loop {
            let pending = &state.text[state.cursor..];
            if let Some((value, consumed)) = find(pending) {
                state.cursor += consumed;
                return Ok(value);
            }
            if let Some(sign) = self.fatal_signs.iter().find(|s| pending.contains(s.as_str())) {
                return Err(SerialError::Fatal { sign: sign.clone(), tail: tail(&state.text) });
            }
            if state.closed {
                return Err(SerialError::Closed { expected: expected.to_owned(), tail: tail(&state.text) });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let (expected, tail) = (expected.to_owned(), tail(&state.text));
                return Err(SerialError::Timeout { expected, waited: timeout, tail });
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Types `text` at a person's pace: a few bytes, then their echo (or a moment's patience), then the next.
    ///
    /// # Errors
    /// The machine has not connected, or is gone.
    pub fn send(&mut self, text: &str) -> Result<()> {
        for chunk in text.as_bytes().chunks(TYPED_BYTES_MAX) {
            let before = lock(&self.shared.state).text.len();
            self.write(chunk)?;
            self.wait_for_growth(before + chunk.len(), ECHO_PATIENCE);
        }
        Ok(())
    }

    /// Types `line` and Enter.
    ///
    /// # Errors
    /// The machine has not connected, or is gone.
    pub fn send_line(&mut self, line: &str) -> Result<()> {
        self.send(&format!("{line}\r"))
    }

    /// Sends bytes as they are, without pacing.
    ///
    /// # Errors
    /// The machine has not connected, or is gone.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        let stream = {
            let state = lock(&self.shared.state);
            match &state.stream {
                Some(stream) if !state.closed => stream.try_clone()?,
                _ => return Err(SerialError::Closed { expected: "input".into(), tail: tail(&state.text) }),
            }
        };
        (&stream).write_all(bytes)?;
        Ok(())
    }

    fn wait_for_growth(&self, length: usize, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut state = lock(&self.shared.state);
        while state.text.len() < length && !state.closed {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn tail(text: &str) -> String {
    let mut start = text.len().saturating_sub(TAIL_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text[start..].to_owned()
}

fn read_all(mut stream: TcpStream, shared: &Shared, mut transcript: File) -> io::Result<()> {
    stream.set_nodelay(true)?;
    lock(&shared.state).stream = Some(stream.try_clone()?);
    shared.changed.notify_all();
    let mut filter = EscapeFilter::default();
    let mut buffer = [0; 4096];
    loop {
        let length = match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error),
        };
        transcript.write_all(&buffer[..length])?;
        let clean = filter.feed(&buffer[..length]);
        let mut state = lock(&shared.state);
        if let Some(raw) = &mut state.raw {
            let _ = raw.write_all(&buffer[..length]).and_then(|()| raw.flush());
        }
        state.text.push_str(&clean);
        feed_tap(&mut state);
        shared.changed.notify_all();
    }
}

fn feed_tap(state: &mut State) {
    let Some(tap) = &state.tap else { return };
    while let Some(length) = state.text[state.tapped..].find('\n') {
        tap(&state.text[state.tapped..state.tapped + length]);
        state.tapped += length + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    fn line() -> (Serial, TcpStream, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let serial = Serial::listen(&directory.path().join("serial.log")).unwrap();
        let machine = TcpStream::connect(("127.0.0.1", serial.port())).unwrap();
        (serial, machine, directory)
    }

    #[test]
    fn expectations_consume_output_in_order() {
        let (mut serial, mut machine, _directory) = line();
        machine.write_all(b"\x1b[2Jone\r\ntwo\r\na> ").unwrap();
        assert_eq!(serial.expect("one", SOON).unwrap(), "");
        assert_eq!(serial.expect("a> ", SOON).unwrap(), "\ntwo\n");
        let error = serial.expect("one", Duration::from_millis(50)).unwrap_err();
        assert!(matches!(&error, SerialError::Timeout { tail, .. } if tail.ends_with("two\na> ")), "{error}");
    }

    #[test]
    fn the_first_of_several_wins_even_if_listed_last() {
        let (mut serial, mut machine, _directory) = line();
        machine.write_all(b"error: no such guest\na> ").unwrap();
        assert_eq!(serial.expect_any(&["a> ", "error"], SOON).unwrap().0, 1);
    }

    #[test]
    fn a_line_is_returned_only_when_complete() {
        let (mut serial, mut machine, _directory) = line();
        machine.write_all(b"x\ntotal 12").unwrap();
        assert!(serial.expect_line("total", Duration::from_millis(50)).is_err());
        machine.write_all(b"3 ms\n").unwrap();
        assert_eq!(serial.expect_line("total", SOON).unwrap(), "total 123 ms");
    }

    #[test]
    fn a_fatal_sign_ends_the_wait_early() {
        let (mut serial, mut machine, _directory) = line();
        serial.fail_on("panic:");
        machine.write_all(b"panic: out of frames\n").unwrap();
        assert!(matches!(serial.expect("a> ", SOON), Err(SerialError::Fatal { .. })));
    }

    #[test]
    fn a_closed_line_ends_the_wait_early() {
        let (mut serial, machine, _directory) = line();
        drop(machine);
        assert!(matches!(serial.expect("a> ", SOON), Err(SerialError::Closed { .. })));
    }

    #[test]
    fn typed_text_arrives_whole_and_the_transcript_is_raw() {
        let (mut serial, mut machine, directory) = line();
        machine.write_all(b"\x1b[1mhi\r\n").unwrap();
        serial.expect("hi", SOON).unwrap();
        serial.send_line("migrate linux b").unwrap();
        let mut typed = [0; 16];
        machine.read_exact(&mut typed).unwrap();
        assert_eq!(&typed, b"migrate linux b\r");
        assert_eq!(std::fs::read(directory.path().join("serial.log")).unwrap(), b"\x1b[1mhi\r\n");
    }
}
