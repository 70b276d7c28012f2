//! Building a guest: Linux boot protocol, ACPI tables, memory layout.
#![forbid(unsafe_code)]
