//! The right to run a guest, as a value.
//!
//! Whoever runs a guest holds its [`RunPermit`]; there is no way to copy one. The source's engine receives it
//! when the guest is paused and either gives it back with [`crate::GuestAction::Run`] or destroys it when the
//! commit is acknowledged. The target's engine makes the next generation only after the commit has arrived.

use core::fmt;

/// Identity of a guest, kept for its whole life and over every migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestId(pub [u8; 16]);

impl fmt::Display for GuestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hexadecimal(f, &self.0)
    }
}

/// Identity of one attempt to migrate; chosen at random by the source, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MigrationId(pub [u8; 16]);

impl fmt::Display for MigrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hexadecimal(f, &self.0)
    }
}

/// How often the guest has changed owner. The higher generation is the true one; everything that a guest owns
/// is fenced with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl Generation {
    /// Of a guest that has run nowhere: a copy on its way to its first host ([`crate::Purpose::Clone`]).
    pub const NONE: Self = Self(0);

    /// The generation of a guest that was started here and has never moved.
    pub const FIRST: Self = Self(1);

    /// The generation of the next owner.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The right to run one guest in one generation. Not `Clone`, not `Copy`: at most one exists per generation.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a dropped permit means that nobody here may run the guest"]
pub struct RunPermit {
    guest: GuestId,
    generation: Generation,
}

impl RunPermit {
    /// The permit of a guest that is created here, now, and exists nowhere else.
    pub fn for_new_guest(guest: GuestId) -> Self {
        Self { guest, generation: Generation::FIRST }
    }

    /// The permit of the next owner. Only the target's engine calls this, once, after the commit has arrived.
    pub(crate) fn after_commit(guest: GuestId, generation: Generation) -> Self {
        Self { guest, generation }
    }

    /// The permit of a guest that was lost with its owner, by the word of a person: only the source's engine calls this.
    /// The generation is above that of the owner that died.
    pub(crate) fn after_loss(guest: GuestId, generation: Generation) -> Self {
        Self { guest, generation }
    }

    /// The guest it allows to run.
    #[must_use]
    pub const fn guest(&self) -> GuestId {
        self.guest
    }

    /// The generation in which it allows that.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// Gives the right up for good.
    pub fn revoke(self) {}
}

fn hexadecimal(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}
