//! Drivers of the hardware that the hypervisor owns.

pub mod hal;
pub mod net;
