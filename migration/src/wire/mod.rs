//! The bytes between two hosts.

pub mod opening;
