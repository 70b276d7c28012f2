//! Guests' serial ports: kept while nobody looks, shown while a person is attached.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use super::host::Host;
use super::output::Output;
use super::scrollback::Scrollback;

/// Ctrl-]: what telnet and most hypervisors use.
const ESCAPE: u8 = 0x1d;
/// Guests whose output is kept; the one that wrote nothing for the longest time goes first.
const SCREENS_MAX: usize = 64;
/// Bytes taken of a guest at once.
const CHUNK: usize = 256;
/// Chunks taken per poll, so that a chatty guest does not hold up the others or the host.
const CHUNKS_MAX: usize = 8;
/// Bytes that wait for the terminal before an attached guest has to wait: a person's keys must not be seconds
/// behind.
const AHEAD_MAX: usize = 2 * CHUNK;
/// Typed bytes that wait for a guest that takes none.
const TYPED_MAX: usize = 256;

/// The kept output of all guests.
#[derive(Debug, Default)]
pub(super) struct Screens {
    /// The one that wrote last is last.
    kept: Vec<(String, Scrollback)>,
}

impl Screens {
    /// Takes what guests wrote, except the attached one.
    pub(super) fn collect(&mut self, attached: Option<&str>, host: &mut dyn Host) {
        let mut chunk = [0; CHUNK];
        for _ in 0..CHUNKS_MAX {
            let Some((guest, length)) = host.next_guest_output(attached, &mut chunk) else { return };
            self.of(&guest).push(&chunk[..length.min(CHUNK)]);
        }
    }

    /// Bytes of the heap that they hold.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.kept.iter().map(|(name, screen)| name.capacity() + screen.capacity()).sum()
    }

    /// Forgets a guest that is gone.
    pub(super) fn forget(&mut self, guest: &str) {
        self.kept.retain(|(name, _)| name != guest);
    }

    /// The output of a guest.
    fn of(&mut self, guest: &str) -> &mut Scrollback {
        let screen = match self.kept.iter().position(|(name, _)| name == guest) {
            Some(index) => self.kept.remove(index),
            None => (String::from(guest), Scrollback::default()),
        };
        if self.kept.len() == SCREENS_MAX {
            self.kept.remove(0);
        }
        &mut self.kept.push_mut(screen).1
    }
}

/// What a typed byte meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// It is on its way to the guest, or part of an escape.
    Taken,
    /// The guest takes nothing, and too much waits already.
    Dropped,
    /// Help on the escape is asked for.
    Help,
    /// Back to the prompt.
    Detach,
}

/// A person's attachment to a guest.
#[derive(Debug)]
pub(super) struct Attachment {
    guest: String,
    is_escaped: bool,
    typed: VecDeque<u8>,
}

impl Attachment {
    /// Attaches, and shows the guest's last lines.
    pub(super) fn new(guest: String, screens: &mut Screens, out: &mut Output) -> Self {
        out.raw(screens.of(&guest).last_lines());
        Self { guest, is_escaped: false, typed: VecDeque::new() }
    }

    /// The guest.
    pub(super) fn guest(&self) -> &str {
        &self.guest
    }

    /// Takes a typed byte.
    pub(super) fn byte(&mut self, byte: u8) -> Typed {
        match (core::mem::take(&mut self.is_escaped), byte) {
            (false, ESCAPE) => {
                self.is_escaped = true;
                return Typed::Taken;
            }
            (true, b'.' | b'q' | b'Q') => return Typed::Detach,
            (true, ESCAPE) | (false, _) => {}
            (true, _) => return Typed::Help,
        }
        if self.typed.len() == TYPED_MAX {
            return Typed::Dropped;
        }
        self.typed.push_back(byte);
        Typed::Taken
    }

    /// Moves bytes both ways.
    pub(super) fn pass(&mut self, host: &mut dyn Host, screens: &mut Screens, out: &mut Output) {
        let typed = self.typed.make_contiguous();
        if !typed.is_empty() {
            let taken = host.guest_input(&self.guest, typed).min(typed.len());
            self.typed.drain(..taken);
        }
        let mut chunk = [0; CHUNK];
        for _ in 0..CHUNKS_MAX {
            if out.waiting() >= AHEAD_MAX {
                return;
            }
            let length = host.guest_output(&self.guest, &mut chunk).min(CHUNK);
            if length == 0 {
                return;
            }
            out.raw(&chunk[..length]);
            screens.of(&self.guest).push(&chunk[..length]);
        }
    }
}
