//! What loader and hypervisor share: the handoff ABI and the configuration.
//!
//! - [`handoff`]: the structure that the loader fills and the hypervisor reads, `repr(C)`, versioned.
//! - [`config`]: the configuration as values; with feature `config` also the grammar of `godwit.toml`.
//! - [`fixed`]: texts and lists of fixed capacity, of which both are made.
//! - [`paging`]: the one engine for the processor's own page tables, which both use.
//! - `image` (feature `image`): how the hypervisor's ELF image is to be laid into memory.
//!
//! Everything in the handoff is plain data without pointers and every bit pattern of it is a valid value, so
//! that reading what a loader wrote cannot be undefined behaviour.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "config")]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod config;
pub mod fixed;
pub mod handoff;
#[cfg(feature = "image")]
pub mod image;
pub mod paging;
