//! Instruction decoding and execution for accesses that trap.
#![forbid(unsafe_code)]
