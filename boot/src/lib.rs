//! What loader and hypervisor share: the handoff ABI and the configuration.
#![no_std]

#[cfg(feature = "config")]
extern crate alloc;
#[cfg(test)]
extern crate std;
