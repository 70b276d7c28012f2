//! What a migration asks of guests.

use alloc::string::String;
use core::fmt;

use godwit_migration::{GuestAction, GuestDescription, GuestEvent, GuestRam, HostCapabilities, RunPermit};

/// One guest, driven through its life cycle one step at a time by a session.
pub trait MigratingGuest {
    /// Begins `action`. The session begins no other before its event was polled.
    fn begin(&mut self, action: GuestAction);
    /// The event that answers the action begun, once; or that the guest ended by itself.
    fn poll(&mut self) -> Option<GuestEvent>;
    /// The guest's RAM; [`godwit_migration::NoRam`] before it is built and after it is discarded.
    fn ram(&mut self) -> &mut dyn GuestRam;
    /// Takes a guest back that stands still here although its migration is over, whole and paused: a person
    /// decides about it.
    fn hold(&mut self, permit: RunPermit);
    /// The migration has let go of the guest for good: at the source after it moved.
    fn departed(&mut self, peer: &str);
    /// The guest's name, once it is known.
    fn name(&self) -> Option<&str>;
}

/// Where guests live.
pub trait GuestHouse {
    /// A guest as a session drives it.
    type Guest: MigratingGuest;

    /// Hands a running or paused guest to a session.
    ///
    /// # Errors
    /// [`NotMovable`] says why it cannot be moved now.
    fn leaving(&mut self, name: &str) -> Result<(Self::Guest, GuestDescription), NotMovable>;
    /// A place for a guest that is about to come from `peer`; it takes memory only when it is built.
    fn arriving(&mut self, peer: &str) -> Self::Guest;
    /// What this host offers right now.
    fn capabilities(&self) -> HostCapabilities;
}

/// Why a guest cannot be moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotMovable {
    /// There is none of that name.
    NoSuchGuest(String),
    /// It neither runs nor is paused; what it is, for a person.
    WrongState(String, &'static str),
}

impl fmt::Display for NotMovable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchGuest(name) => write!(f, "no guest named '{name}'"),
            Self::WrongState(name, state) => write!(f, "{name} is {state}: start it first"),
        }
    }
}

impl core::error::Error for NotMovable {}
