//! The lab: machines, programmable wires, serial consoles and clusters of Godwit hosts.
//!
//! A test builds an [`image`], wires [`machine`]s to a [`switch`] and talks to them as a person does: over the
//! [`serial`] console. A [`cluster`] does all three for N hosts. A [`peer`] is an Ethernet neighbour of our own,
//! for pings and for migration peers that misbehave. What a machine lacks is said by name
//! ([`machine::Availability`]), never skipped as if it had passed.

pub mod bench;
pub mod cluster;
pub mod config;
mod debian;
pub mod direct;
pub mod figures;
pub mod guest;
pub mod host;
pub mod image;
pub mod machine;
pub mod peer;
pub mod process;
pub mod scenarios;
pub mod scratch;
pub mod serial;
pub mod suite;
pub mod switch;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, whatever happened to the last holder: a failed scenario must not hide the next one's result.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
