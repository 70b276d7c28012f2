//! Locks, with an order.
//!
//! A [`Lock`] keeps interrupts off while it is held, so that an interrupt handler may take it too. Each lock
//! has a [`Level`]; a CPU takes locks in ascending order only, which rules out deadlock. The order is checked
//! in every build: breaking it is a programmer's error.

mod level;
mod lock;

pub use level::Level;
pub use lock::{Guard, Lock};
/// A value that is made once, by whoever comes first.
pub use spin::Once;
