//! The network stack over one card: addresses, ping, and TCP connections as byte streams.
//!
//! [`Network`] is the whole of it, owned by the loop of one processor:
//!
//! ```text
//! loop {
//!     network.poll(now);                        // moves frames and runs every timer; bounded work
//!     … network.accept / receive / send …       // copies between callers and socket buffers, never waits
//!     network.poll(now);                        // what was queued goes out
//!     // with interrupts off:
//!     if !network.has_work() { /* sleep until an interrupt or network.poll_at(now) */ }
//! }
//! ```
//!
//! Nothing here waits, and nothing is done between two polls: the card's interrupt only wakes the loop. Time is
//! an argument, in nanoseconds since boot. `stream` documents the byte streams that a migration session is built
//! on.
//!
//! What arrives from the wire can neither panic nor grow anything: frames are copied into one fixed buffer,
//! TCP checksums are verified there, the number of frames per poll, of sockets and of their bytes is fixed.
#![forbid(unsafe_code)]

mod attach;
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

pub use self::{
    attach::{AttachError, Card, attach},
    phy::PortCounters,
    ping::{PingError, PingEvent},
    settings::{Address, Settings},
    stack::Network,
    status::Status,
};

pub use crate::platform::time::Instant;

/// The stack's clock, which counts microseconds.
fn to_stack(instant: Instant) -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_micros(i64::try_from(instant.as_nanos() / 1000).unwrap_or(i64::MAX))
}

/// Back from it: at or after that moment on the host's clock, as a timer must have expired when the loop comes
/// back for it.
fn from_stack(instant: smoltcp::time::Instant) -> Instant {
    Instant::from_nanos(u64::try_from(instant.total_micros()).unwrap_or(0).saturating_mul(1000))
}
