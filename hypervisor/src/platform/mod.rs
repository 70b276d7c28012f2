//! The machine around the processors: what the firmware's tables say, what sits on the PCI buses, the clock,
//! the log, and how to reset it.
//!
//! [`acpi`] turns the firmware's tables into plain values; [`pci`] finds functions and says which interrupt
//! each one's pin raises; [`time`] is the host's clock, a calibrated TSC; [`log`] keeps the last messages.

pub mod acpi;
pub mod log;
pub mod pci;
pub mod reset;
pub mod time;
