//! What the programs that run the engine natively share: memory, and what both hosts are.

pub(crate) mod host;
pub(crate) mod memory;

pub(crate) type Failure = Box<dyn std::error::Error>;
