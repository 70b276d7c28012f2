//! Virtual machines: memory, processors, life cycle, and the seam to the rest of the host.
//!
//! A machine is owned by one CPU's loop, which alone touches [`machine::Machine`]. Everybody else holds a
//! handle ([`handle::VmHandle`]): commands go in through a mailbox, RAM and dirty log are shared. Before there is a
//! machine there is a [`site::Site`], where its RAM is made ready.

pub mod absent;
pub mod builder;
mod commands;
pub mod controls;
mod delivery;
pub mod dirty;
pub mod frames;
pub mod handle;
mod holes;
pub mod host;
pub mod lifecycle;
pub mod machine;
pub mod memory;
pub mod page_wait;
pub mod platform;
mod processors;
pub mod run;
pub mod site;
pub mod slot;
pub mod startup;
pub mod state;
pub mod tables;
pub mod throttle;
pub mod vcpu;
pub mod virtual_eoi;
pub mod weaknesses;
mod words;
