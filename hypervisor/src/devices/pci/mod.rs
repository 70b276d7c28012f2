//! PCI: configuration mechanism 1 and the functions behind it.

pub mod config;
pub mod host;
