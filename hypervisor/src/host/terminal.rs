//! The serial port as the console's terminal.

use crate::arch::serial;
use crate::console::ByteSink;

/// The transmitter's queue: it takes what has room.
pub(super) struct Terminal;

impl ByteSink for Terminal {
    fn send(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(serial::room());
        serial::write(&bytes[..count]);
        count
    }
}
