//! VMX and EPT of x86-64: mechanism without policy.
//!
//! This crate knows the instructions, structures and encodings of Intel's virtual-machine extensions and
//! nothing of guests' devices, scheduling or migration. Everything that can be decided without executing a
//! privileged instruction is a pure function and is tested on the host.
//!
//! Manual: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 3 (order number 325384),
//! revision 085. Section numbers in this crate refer to that revision.
#![no_std]

#[cfg(test)]
extern crate std;

extern crate alloc;

pub mod addr;
pub mod capability;
pub mod controls;
pub mod ept;
pub mod event;
pub mod exit;
pub mod field;
pub mod fpu;
pub mod instruction;
pub mod io_bitmap;
pub mod msr;
pub mod msr_bitmap;
pub mod pml;
pub mod preemption_timer;
pub mod tsc;
pub mod vmcs;
pub mod world_switch;
