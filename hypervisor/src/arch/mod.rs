//! The processor: descriptor tables, interrupts, per-CPU data, time-stamp counter, serial port.
//!
//! An island of `unsafe`: every file here that needs it says so in its first line. The wrappers are thin, and
//! what can be decided without a privileged instruction lives elsewhere. All of it compiles on the host, where
//! [`interrupts`] and [`percpu`] are harmless and the rest must not be called.

pub mod apic;
pub mod cmos;
pub mod cpu;
pub mod exception;
pub mod fpu;
pub mod gdt;
pub mod idt;
pub mod interrupts;
pub mod ioapic;
pub mod percpu;
pub mod port;
pub mod random;
pub mod serial;
pub mod smp;
pub mod time_account;
pub mod tsc;
