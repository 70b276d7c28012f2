//! Live migration as a sans-IO engine.
//!
//! No hardware, no clock, no sockets, no `unsafe`: time is an argument, bytes go in and out of buffers, guest
//! memory and devices are traits passed per call. The same code runs on the metal, in a seeded simulation and
//! natively on a developer's machine.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;
