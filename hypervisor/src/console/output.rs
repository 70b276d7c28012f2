//! What is on its way to the terminal.

use alloc::collections::VecDeque;
use core::fmt;

/// Bytes that may wait for a slow line; what a command prints beyond that is cut.
const PENDING_MAX: usize = 128 * 1024;
/// The mark of a cut.
const CUT: &[u8] = b"\r\n[cut: too much output for this line]\r\n";

/// Where bytes leave: a serial port's transmitter.
pub trait ByteSink {
    /// Takes as many of `bytes` as fit now without waiting; how many.
    fn send(&mut self, bytes: &[u8]) -> usize;
}

/// A bounded queue in front of a [`ByteSink`], with the terminal's line ends.
#[derive(Debug, Default)]
pub(super) struct Output {
    pending: VecDeque<u8>,
    is_cut: bool,
}

impl Output {
    /// Queues bytes as they are.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        if self.is_cut {
            return;
        }
        if bytes.len() > self.room() {
            self.is_cut = true;
            self.pending.extend(CUT);
            return;
        }
        self.pending.extend(bytes);
    }

    /// How many bytes can be queued before a cut.
    fn room(&self) -> usize {
        (PENDING_MAX - CUT.len()).saturating_sub(self.pending.len())
    }

    /// How many bytes wait for the sink.
    pub(super) fn waiting(&self) -> usize {
        self.pending.len()
    }

    /// Bytes of the heap that it holds.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.pending.capacity()
    }

    /// Hands on what the sink takes.
    pub(super) fn drain(&mut self, sink: &mut dyn ByteSink) {
        while !self.pending.is_empty() {
            let (front, _) = self.pending.as_slices();
            let offered = front.len();
            let taken = sink.send(front).min(offered);
            self.pending.drain(..taken);
            if taken < offered {
                return;
            }
        }
        self.is_cut = false;
    }
}

impl fmt::Write for Output {
    /// Queues text with `\n` as CR LF. Never fails: what does not fit is cut, and a mark says so.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for (index, part) in text.split('\n').enumerate() {
            if index > 0 {
                self.raw(b"\r\n");
            }
            self.raw(part.as_bytes());
        }
        Ok(())
    }
}
