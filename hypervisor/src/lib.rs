//! The Godwit hypervisor: the only place where hardware, guests and migration meet.
//!
//! The library holds every room and compiles on the host too, so that all logic is tested there; the binary
//! `godwit` adds the entry point, the allocator and the panic handler. Dependencies point one way:
//!
//! ```text
//! main → {console, migrate, sched} → vm → exits → {devices, emulate}
//! net → drivers → {mm, arch};  platform → arch
//! ```
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod arch;
pub mod bring_up;
pub mod console;
pub mod devices;
pub mod drivers;
pub mod emulate;
pub mod exits;
pub mod guest;
pub mod guest_memory;
pub mod guests;
pub mod host;
pub mod migrate;
pub mod mm;
pub mod net;
pub mod platform;
pub mod sched;
pub mod snapshot;
pub mod sync;
pub mod vm;
