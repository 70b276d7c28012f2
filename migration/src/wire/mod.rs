//! The bytes between two hosts.
//!
//! A connection begins with an [`opening`]; then both sides send frames ([`frame`]). Control frames carry a
//! small CBOR map ([`control`], [`hello`]), whose unknown keys are skipped; page frames carry records
//! ([`record`]) that are decoded as they arrive. [`assemble`] cuts a byte stream into these units with bounded
//! memory. All integers are little-endian. `docs/migration-protocol.md` is the reference.

pub(crate) mod absent;
pub(crate) mod assemble;
pub(crate) mod control;
pub(crate) mod deposit;
pub(crate) mod frame;
pub(crate) mod hello;
pub mod opening;
pub(crate) mod reasons;
pub(crate) mod record;

/// Lowest version of the protocol that this engine speaks.
pub const VERSION_MIN: u16 = 1;
/// Highest version of the protocol that this engine speaks.
pub const VERSION_MAX: u16 = 2;
/// From this version on the target says on the urgent connection, too, how far it has taken it in.
pub(crate) const VERSION_URGENT_PROGRESS: u16 = 2;
