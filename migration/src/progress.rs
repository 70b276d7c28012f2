//! When whoever sends bulk is told how far it has been taken in, while it keeps little under way.
//!
//! With every frame that has come: how long frames are is the sender's to choose, and on a slow link it makes them as short
//! as a page, since what it may not know to have arrived stands in the way of what somebody waits for. Frames that come
//! together are one answer. So a fast link, where frames are long, has no more answers than it needs.

use crate::endpoint::Link;

/// What it was told last of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told {
    frames: u32,
}

impl Told {
    /// Whether there is something to tell of.
    pub(crate) const fn is_behind(self, link: &Link) -> bool {
        link.assembler.frames_ended() != self.frames
    }

    /// It is told now; how many bytes have come.
    pub(crate) const fn tell(&mut self, link: &Link) -> u64 {
        self.frames = link.assembler.frames_ended();
        link.received
    }
}
