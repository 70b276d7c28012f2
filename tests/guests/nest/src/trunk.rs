//! The threads of one end of the trunk: one reads it, one writes it, two join each line to its stream.
//!
//! Whoever reads the trunk never waits for anything else, so that what comes is taken out of a serial port at once; what a
//! line's stream does not take yet is bounded by the line's window.

use std::io::{self, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{mem, thread};

use crate::frame::{Decoder, END, Frame};
use crate::line::{Line, Manner};

/// Bytes that are written at once: some frames.
const WRITTEN_BYTES: usize = 1024;
/// Bytes that are read at once.
const READ_BYTES: usize = 4096;

/// A stream's two directions.
pub struct Stream {
    /// From it.
    pub input: Box<dyn Read + Send>,
    /// To it.
    pub output: Box<dyn Write + Send>,
}

/// Opens a line's stream; may wait for whoever is to be there. Runs on a thread of the line's own.
pub type Opener = Box<dyn FnOnce() -> io::Result<Stream> + Send>;

/// Is told what is worth a line in a log.
pub type Report = Arc<dyn Fn(&str) + Send + Sync>;

/// Carries the lines that `openers` open over `trunk` until that ends. `gathers` is how long a line waits for more bytes
/// after some, where waking up costs more than waiting.
///
/// # Errors
/// The trunk cannot be read or written.
pub fn run(
    trunk: Stream,
    openers: Vec<Opener>,
    manner: Manner,
    gathers: Duration,
    report: Report,
) -> io::Result<()> {
    let shared = Arc::new(Shared::new(openers.len(), manner, report));
    for (number, open) in openers.into_iter().enumerate() {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            let (input, output) = match open() {
                Ok(stream) => (Some(stream.input), Some(stream.output)),
                Err(error) => {
                    (shared.report)(&format!("line {number} does not open: {error}"));
                    (None, None)
                }
            };
            let reading = Arc::clone(&shared);
            thread::spawn(move || input.map(|input| read_line(&reading, number, input, gathers)));
            write_line(&shared, number, output);
        });
    }
    let writing = Arc::clone(&shared);
    let writer = thread::spawn(move || {
        let outcome = write_trunk(&writing, trunk.output);
        writing.close();
        outcome
    });
    let read = read_trunk(&shared, trunk.input);
    shared.close();
    let written = writer.join().unwrap_or_else(|_| Err(io::Error::other("the trunk's writer panicked")));
    read.and(written)
}

struct Shared {
    state: Mutex<State>,
    /// There is something to write to the trunk.
    outgoing: Condvar,
    /// For each line: there is room for more bytes of its stream; there are bytes for it.
    changed: Vec<(Condvar, Condvar)>,
    start: Instant,
    report: Report,
}

struct State {
    lines: Vec<Line>,
    /// Whose turn it is at the trunk.
    turn: usize,
    is_closed: bool,
}

impl Shared {
    fn new(count: usize, manner: Manner, report: Report) -> Self {
        let lines = (0..count).map(|number| Line::new(number as u16, manner, Duration::ZERO)).collect();
        Self {
            state: Mutex::new(State { lines, turn: 0, is_closed: false }),
            outgoing: Condvar::new(),
            changed: (0..count).map(|_| Default::default()).collect(),
            start: Instant::now(),
            report,
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().is_closed = true;
        self.outgoing.notify_all();
        for (room, ready) in &self.changed {
            room.notify_all();
            ready.notify_all();
        }
    }
}

fn wait<'a>(condition: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    condition.wait(state).unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// Some frames, a line after the other, encoded; what lines have sent again is reported.
    fn compose(&mut self, now: Duration) -> (Vec<u8>, Vec<usize>) {
        let again = (0..self.lines.len()).filter(|&number| self.lines[number].tick(now)).collect();
        let (mut bytes, mut silent) = (Vec::new(), 0);
        while silent < self.lines.len() && bytes.len() < WRITTEN_BYTES {
            self.turn = (self.turn + 1) % self.lines.len();
            match self.lines[self.turn].next_frame(now) {
                Some(frame) => {
                    frame.encode(&mut bytes);
                    silent = 0;
                }
                None => silent += 1,
            }
        }
        (bytes, again)
    }
}

fn write_trunk(shared: &Shared, mut trunk: Box<dyn Write + Send>) -> io::Result<()> {
    // Before the first frame: whatever the other side has heard before us ends.
    let mut begin = &[END][..];
    let mut state = shared.lock();
    while !state.is_closed {
        let now = shared.now();
        let (bytes, again) = state.compose(now);
        if bytes.is_empty() {
            state = match state.lines.iter().filter_map(Line::deadline).min() {
                None => wait(&shared.outgoing, state),
                Some(deadline) => {
                    let left = deadline.saturating_sub(now);
                    let waited = shared.outgoing.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
            continue;
        }
        drop(state);
        for number in again {
            (shared.report)(&format!("line {number} is not answered and sends again"));
        }
        trunk.write_all(mem::take(&mut begin))?;
        trunk.write_all(&bytes)?;
        trunk.flush()?;
        state = shared.lock();
    }
    Ok(())
}

fn read_trunk(shared: &Shared, mut trunk: Box<dyn Read + Send>) -> io::Result<()> {
    let (mut decoder, mut buffer) = (Decoder::default(), [0; READ_BYTES]);
    while !shared.lock().is_closed {
        let length = match trunk.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        for frame in decoder.feed(&buffer[..length]) {
            match frame {
                Ok(frame) => deliver(shared, &frame),
                Err(_) => (shared.report)("damaged bytes on the trunk; what they held will be sent again"),
            }
        }
        shared.outgoing.notify_one();
    }
    Ok(())
}

fn deliver(shared: &Shared, frame: &Frame) {
    let (Frame::Data { line: number, .. } | Frame::Ack { line: number, .. }) = frame;
    let number = usize::from(*number);
    let mut state = shared.lock();
    let (Some(line), Some((room, ready))) = (state.lines.get_mut(number), shared.changed.get(number)) else {
        drop(state);
        (shared.report)(&format!("the other side has a line {number}, this one has not"));
        return;
    };
    line.take(frame, shared.now());
    match frame {
        Frame::Data { .. } => ready.notify_one(),
        Frame::Ack { .. } => room.notify_one(),
    }
}

/// From a line's stream to the trunk.
fn read_line(shared: &Shared, number: usize, mut input: Box<dyn Read + Send>, gathers: Duration) {
    let mut buffer = [0; READ_BYTES];
    loop {
        let mut state = shared.lock();
        while state.lines[number].room() == 0 && !state.is_closed {
            state = wait(&shared.changed[number].0, state);
        }
        if state.is_closed {
            return;
        }
        let room = state.lines[number].room().min(buffer.len());
        drop(state);
        match input.read(&mut buffer[..room]) {
            Ok(0) => return,
            Ok(length) => shared.lock().lines[number].push(&buffer[..length], shared.now()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                (shared.report)(&format!("line {number} cannot be read: {error}"));
                return;
            }
        }
        shared.outgoing.notify_one();
        thread::sleep(gathers);
    }
}

/// From the trunk to a line's stream. When that takes no more, the bytes are thrown away, as they are where a machine is
/// off: they must not hold up the other side.
fn write_line(shared: &Shared, number: usize, mut output: Option<Box<dyn Write + Send>>) {
    loop {
        let mut state = shared.lock();
        let bytes = loop {
            if state.is_closed {
                return;
            }
            let bytes = state.lines[number].fetch(READ_BYTES);
            if !bytes.is_empty() {
                break bytes;
            }
            state = wait(&shared.changed[number].1, state);
        };
        drop(state);
        if let Some(stream) = &mut output
            && let Err(error) = stream.write_all(&bytes).and_then(|()| stream.flush())
        {
            (shared.report)(&format!("line {number} takes no more: {error}"));
            output = None;
        }
        shared.lock().lines[number].dispose(bytes.len());
        shared.outgoing.notify_one();
    }
}

#[cfg(test)]
#[path = "trunk_tests.rs"]
mod tests;
