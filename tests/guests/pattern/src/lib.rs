//! A memory pattern that finds a single lost or stale page.
#![no_std]
#![forbid(unsafe_code)]
