//! What migrations ask of this host's guests.

use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;

use godwit_migration::{
    GuestAction, GuestDescription, GuestEvent, GuestId, GuestRam, HostCapabilities, HostShare, MigrationId,
    Purpose, Room, RunPermit,
};

/// What one session needs of the guest that it moves. Each has a key for as long as its session lasts.
pub trait Lodging {
    /// Names a guest for its session.
    type Key: Copy + fmt::Debug;

    /// Begins `action`. The session begins no other before its event was polled.
    fn begin(&mut self, key: Self::Key, action: GuestAction);
    /// The guest that is being built is not wanted any more: the answer may come at once, and need not be that it is built.
    fn give_up(&mut self, key: Self::Key);
    /// The event that answers the action begun, once; or that the guest ended by itself, or waits for a page.
    fn poll(&mut self, key: Self::Key) -> Option<GuestEvent>;
    /// Whether something of the guest's waits for a page that may still come.
    fn is_waiting(&self, key: Self::Key) -> bool;
    /// The guest's RAM; no pages before it is built and after it is discarded.
    fn ram(&mut self, key: Self::Key) -> &mut dyn GuestRam;
    /// Takes a guest back that stands still here although its migration is over: a person decides about it.
    fn hold(&mut self, key: Self::Key, permit: RunPermit);
}

/// Where guests live.
pub trait GuestHouse: Lodging {
    /// Hands a running or paused guest to a session, which is for `purpose`.
    ///
    /// # Errors
    /// [`NotMovable`] says why it cannot be moved now.
    fn leaving(&mut self, name: &str, purpose: &Purpose)
    -> Result<(Self::Key, GuestDescription), NotMovable>;
    /// A place for a guest that is about to come from `peer`; it takes memory only when it is built.
    fn arriving(&mut self, peer: &str) -> Self::Key;
    /// The session is over: what was not released or held by it goes on as it is.
    fn done(&mut self, key: Self::Key);
    /// What this host offers right now.
    fn capabilities(&self) -> HostCapabilities;
    /// What it can spare right now. What a guest takes that [`Lodging::begin`] was told to build, RAM and the host's share of the
    /// heap, is not counted as free any more.
    fn room(&self) -> Room;
    /// Sessions may yet take so many bytes of the heap, all together; [`Self::room`] leaves them out from now on.
    fn promise_heap(&mut self, bytes: u64);
    /// An identity that was never used before.
    fn new_migration(&mut self) -> MigrationId;
    /// The same for a guest: a copy that is about to be made.
    fn new_guest(&mut self) -> GuestId;

    /// The guest's name; empty while it is not known.
    fn name(&self, key: Self::Key) -> &str;
    /// A place for pages that this host keeps for another; it takes memory as they come.
    fn shelf(&self) -> Box<dyn GuestRam>;
    /// What of the heap such a place takes.
    fn shelf_share(&self) -> HostShare;
    /// The guest has moved to `peer` and is gone here.
    fn departed(&mut self, key: Self::Key, peer: &str);
}

/// Why a guest cannot be moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotMovable {
    /// There is none of that name.
    NoSuchGuest(String),
    /// It does not run; what it is, for a person.
    WrongState(String, &'static str),
    /// So many pages of its memory are still arriving from that host.
    StillArriving {
        /// The guest.
        guest: String,
        /// Where it comes from.
        from: String,
        /// Pages that have not come yet.
        pages: usize,
    },
    /// It has come from that host, which has not let go of it yet.
    NotLetGo {
        /// The guest.
        guest: String,
        /// Where it comes from.
        from: String,
    },
    /// Parts of its memory will never come: this host does not have all of it to give.
    Incomplete(String),
    /// This host cannot run guests.
    NoGuests(String),
}

impl fmt::Display for NotMovable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchGuest(name) => write!(f, "no guest named '{name}'"),
            Self::WrongState(name, state) => {
                write!(f, "{name} is {state}: only a guest that runs can be moved or cloned")
            }
            Self::StillArriving { guest, from, pages } => {
                write!(
                    f,
                    "{guest} cannot be moved on yet: {pages} pages of its memory are still arriving from {from}"
                )
            }
            Self::NotLetGo { guest, from } => {
                write!(
                    f,
                    "{guest} cannot be moved on yet: {from}, where it comes from, has not been heard since. "
                )?;
                write!(f, "If {from} is gone for good, say 'migrate release {guest}'")
            }
            Self::Incomplete(guest) => {
                write!(f, "{guest} cannot be moved: a part of its memory was lost on its way here")
            }
            Self::NoGuests(why) => f.write_str(why),
        }
    }
}

impl core::error::Error for NotMovable {}
