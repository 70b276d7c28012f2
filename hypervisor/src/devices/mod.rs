//! What guests see: register cores of the virtual machine's devices, and the board that joins them.
#![forbid(unsafe_code)]
