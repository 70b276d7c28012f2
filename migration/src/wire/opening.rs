//! How a connection begins: which migration it belongs to, readable before there is an engine for it.

use crate::permit::{GuestId, MigrationId};
use crate::reason::StreamFault;

/// Bytes of a connection's opening.
pub const OPENING_BYTES: usize = 64;

/// The first thing a source says on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// A new migration: make a [`crate::Target`].
    Begin {
        /// Its identity.
        migration: MigrationId,
        /// The guest's.
        guest: GuestId,
    },
    /// The source of a migration that was committed asks what became of it: give the connection to the
    /// [`crate::Target`] of that migration ([`crate::Input::LinkUp`], then all bytes from the opening on). If there
    /// is none any more, make a [`crate::Target`] all the same: it answers that it does not know.
    Resolve {
        /// Its identity.
        migration: MigrationId,
        /// The guest's.
        guest: GuestId,
    },
}

impl Opening {
    /// Reads the opening from the first bytes of a connection; `None` if fewer than [`OPENING_BYTES`] have come.
    /// Nothing is consumed: the engine gets these bytes too.
    ///
    /// # Errors
    /// A [`StreamFault`] if it is not one.
    pub fn peek(bytes: &[u8]) -> Result<Option<Self>, StreamFault> {
        let _ = bytes;
        Ok(None)
    }
}
