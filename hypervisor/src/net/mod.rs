//! The network stack over a driver.
#![forbid(unsafe_code)]
