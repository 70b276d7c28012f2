//! Building a guest: Linux boot protocol, ACPI tables, memory layout.
//!
//! [`linux::load`] puts kernel, initial RAM disk, command line, ACPI tables and the first page tables into a
//! guest's memory and tells the registers to begin with. Kernel images are hostile input: everything in them
//! is checked before it is used, and what is wrong is said by name.
#![forbid(unsafe_code)]

pub mod boot_params;
pub mod bzimage;
pub mod entry;
pub mod firmware;
pub mod layout;
pub mod linux;
