//! Migrations on this host: the engine's decisions carried out on the network and on guests.
//!
//! ```text
//! Migrations (all of this host's) ── Session (one, either side) ── Engine (godwit_migration::{Source, Target})
//!                                        │        └── GuestHouse (the guest, one step at a time)
//!                                        └── three Wires (each a TCP connection of Streams, and what it has not taken
//!                                            yet): what is urgent never waits behind the rest
//! ```
//!
//! A third host keeps pages for others ([`spools`]): Session over godwit_migration::Spool, on a [`shelf`] and without guest.
//! Everything is polled with `now` and nothing waits. What becomes of a migration is told as [`Occurrence`]s.
#![forbid(unsafe_code)]

mod account;
pub mod arrivals;
pub mod engine;
mod estimates;
pub mod guest;
pub mod migrations;
pub mod occurrence;
pub mod ram;
pub mod session;
pub mod shelf;
pub mod spools;
pub mod streams;
pub mod wire;

#[cfg(test)]
mod tests;

pub use guest::{GuestHouse, Lodging, NotMovable};
pub use migrations::{Migrations, Settings, StartError, Unheeded};
pub use occurrence::{Occurrence, Side, What};
pub use session::Wakeup;
pub use streams::Streams;
