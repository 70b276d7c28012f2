//! What guests see: register cores of the virtual machine's devices, and the board that joins them.
//!
//! A device here is plain state with methods. It takes register accesses and the time, and tells the level of
//! its interrupt line and the instant at which it next wants to be looked at; it knows nothing of the
//! processor, of threads or of other devices. [`board::Board`] owns one of each, routes accesses to them and
//! carries their line levels to the interrupt controllers.
//!
//! Invariants: nothing a guest writes panics, allocates or loops unboundedly; an unclaimed port reads as all
//! ones; time is an argument and never runs backwards.
#![forbid(unsafe_code)]

pub mod acpi_pm;
pub mod board;
pub mod ioapic;
pub mod irq;
pub mod lapic;
pub mod pci;
pub mod pic;
pub mod pit;
pub mod rtc;
pub mod time;
pub mod uart16550;
pub mod width;

pub use time::{GuestTime, TscClock};
pub use width::Width;
