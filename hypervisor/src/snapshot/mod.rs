//! Saved state: versioned sections, apart from the runtime structures.
#![forbid(unsafe_code)]
