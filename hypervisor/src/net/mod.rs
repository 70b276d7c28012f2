//! The network stack over one card: addresses, ping, and TCP connections as byte streams.
//!
//! [`Network`] is the whole of it, owned by the loop of one processor:
//!
//! ```text
//! loop {
//!     network.poll(now);                        // moves frames and runs every timer; bounded work
//!     … network.accept / receive / send …       // copies between callers and socket buffers, never waits
//!     network.poll(now);                        // what was queued goes out
//!     sleep until an interrupt or network.poll_at(now)
//! }
//! ```
//!
//! Nothing here waits, and nothing is done between two polls: an interrupt handler only acknowledges the card
//! and wakes the loop. Time is an argument, in nanoseconds since boot. `stream` documents the byte streams that
//! a migration session is built on.
//!
//! What arrives from the wire can neither panic nor grow anything: frames are copied into one fixed buffer,
//! TCP checksums are verified there, the number of frames per poll, of sockets and of their bytes is fixed.
#![forbid(unsafe_code)]

mod checksum;
mod frame;
mod phy;
mod ping;
mod settings;
mod stack;
mod status;
pub mod stream;
#[cfg(test)]
mod tests;

use core::time::Duration;

pub use self::{
    phy::PortCounters,
    ping::{PingError, PingEvent},
    settings::{Address, Settings},
    stack::Network,
    status::Status,
};

/// A moment, in nanoseconds since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(pub u64);

impl Instant {
    /// The moment `later` than this one, or the last one there is.
    #[must_use]
    pub fn after(self, later: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(later.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero if it is not past.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    pub(crate) fn to_stack(self) -> smoltcp::time::Instant {
        smoltcp::time::Instant::from_micros(i64::try_from(self.0 / 1000).unwrap_or(i64::MAX))
    }

    /// Rounds up: a timer must have expired when the loop comes back for it.
    pub(crate) fn from_stack(instant: smoltcp::time::Instant) -> Self {
        Self(u64::try_from(instant.total_micros()).unwrap_or(0).saturating_mul(1000))
    }
}
