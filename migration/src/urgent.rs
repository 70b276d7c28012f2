//! The connection of [`Channel::URGENT`](crate::Channel::URGENT): pages that somebody waits for, and the asking for them.

use core::time::Duration;

use crate::endpoint::Link;
use crate::time::Instant;
use crate::wire::control::Control;
use crate::wire::opening::{Greeting, OPENING_BYTES};

/// How long after a connection could not be made the next is tried.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(crate) struct Urgent {
    pub(crate) link: Option<Link>,
    greeting: Option<Greeting>,
    connect_is_due: bool,
    hang_up_is_due: bool,
    is_connecting: bool,
    try_again_at: Instant,
    /// Bytes sent and received on earlier connections.
    earlier: (u64, u64),
}

impl Default for Urgent {
    fn default() -> Self {
        Self {
            link: None,
            greeting: None,
            connect_is_due: false,
            hang_up_is_due: false,
            is_connecting: false,
            try_again_at: Instant::NEVER,
            earlier: (0, 0),
        }
    }
}

impl Urgent {
    /// Asks for a connection, unless there is one or one is being made.
    pub(crate) fn connect(&mut self) {
        if self.link.is_none() && !self.is_connecting {
            self.is_connecting = true;
            self.connect_is_due = true;
            self.try_again_at = Instant::NEVER;
        }
    }

    /// A connection stands; `greeting` is what it begins with, if that is ours to say.
    pub(crate) fn link_up(&mut self, link: Link, greeting: Option<Greeting>) {
        self.forget();
        self.link = Some(link);
        self.greeting = greeting;
    }

    /// The connection is gone, or could not be made; whether there was one.
    pub(crate) fn link_down(&mut self, now: Instant) -> bool {
        let was_up = self.link.is_some();
        let was_wanted = was_up || self.is_connecting;
        self.forget();
        if was_wanted {
            self.try_again_at = now.after(TRY_AGAIN);
        }
        was_up
    }

    /// Drops the connection at once and makes no other before it is asked for.
    pub(crate) fn hang_up(&mut self) {
        if self.link.is_some() || self.is_connecting {
            self.forget();
            self.hang_up_is_due = true;
        }
        self.try_again_at = Instant::NEVER;
    }

    fn forget(&mut self) {
        if let Some(link) = self.link.take() {
            self.earlier.0 += link.sent;
            self.earlier.1 += link.received;
        }
        self.greeting = None;
        self.is_connecting = false;
        self.connect_is_due = false;
    }

    /// Whether the connection is to be dropped; told once.
    pub(crate) fn take_hang_up(&mut self) -> bool {
        core::mem::take(&mut self.hang_up_is_due)
    }

    /// Whether a connection is to be made; told once.
    pub(crate) fn take_connect(&mut self) -> bool {
        core::mem::take(&mut self.connect_is_due)
    }

    /// Whether the next try is due.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        now >= self.try_again_at
    }

    /// When something has to be done about the connection: try again, say that we are alive, or give it up.
    pub(crate) fn deadline(&self, patience: Duration) -> Instant {
        let Some(link) = &self.link else { return self.try_again_at };
        link.said_at.after(link.keepalive).min(link.heard_at.after(patience))
    }

    /// Whether the other host has been silent for too long.
    pub(crate) fn is_silent(&self, now: Instant, patience: Duration) -> bool {
        self.link.as_ref().is_some_and(|link| now >= link.heard_at.after(patience))
    }

    /// Bytes sent and received in all.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let (sent, received) = self.link.as_ref().map_or((0, 0), |link| (link.sent, link.received));
        (self.earlier.0 + sent, self.earlier.1 + received)
    }

    /// Puts how the connection begins, or a sign of life if it is time for one, into `buffer`; how many bytes.
    pub(crate) fn poll(&mut self, now: Instant, buffer: &mut [u8]) -> usize {
        let Some(link) = &mut self.link else { return 0 };
        let mut len = 0;
        if let Some(greeting) = self.greeting.take() {
            buffer[..OPENING_BYTES].copy_from_slice(&greeting.encode());
            len = OPENING_BYTES;
        } else if now >= link.said_at.after(link.keepalive) {
            len = Control::Ping.encode(link.next_sequence(), buffer);
        }
        self.said(now, len)
    }

    /// Accounts for `len` bytes that are in the buffer now, and returns them.
    pub(crate) fn said(&mut self, now: Instant, len: usize) -> usize {
        if let Some(link) = &mut self.link
            && len > 0
        {
            link.sent += len as u64;
            link.said_at = now;
        }
        len
    }
}
