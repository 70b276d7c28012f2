//! What the test guests share: a memory pattern that finds a lost page, pacing and measuring. Pure: no clock, no I/O.
#![no_std]
#![forbid(unsafe_code)]

pub mod gap;
pub mod pace;
pub mod pattern;
pub mod power;
pub mod samples;

#[cfg(test)]
extern crate std;
