//! What migrations tell the people at the console.

use alloc::boxed::Box;
use alloc::string::String;

use godwit_migration::{Event, Prediction};

/// Which end of a migration this host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The guest leaves this host.
    Source,
    /// The guest comes to this host.
    Target,
    /// This host keeps pages of a guest for its target.
    Spool,
}

/// Something happened in a migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occurrence {
    /// The guest that moves.
    pub guest: String,
    /// The name of the copy, if the guest stays and a copy of it is made.
    pub copy: Option<String>,
    /// The other host.
    pub peer: String,
    /// Which end this host is.
    pub side: Side,
    /// What happened.
    pub what: What,
    /// With the completion of a move that was estimated before: what it was expected to take.
    pub estimate: Option<Prediction>,
}

/// What happened in a migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The engine says so.
    Event(Box<Event>),
    /// Somebody connected who does not speak the protocol; why.
    Stranger(String),
}
