//! How a connection begins: which migration it belongs to, readable before there is an engine for it.
//! Its layout never changes with the version.

use xxhash_rust::xxh64::xxh64;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::permit::{GuestId, MigrationId};
use crate::reason::StreamFault;

/// Bytes of a connection's opening.
pub const OPENING_BYTES: usize = 64;

const MAGIC: [u8; 8] = *b"Godwit\x1a\n";
const INTENT_BEGIN: u32 = 1;
const INTENT_RESOLVE: u32 = 2;
const INTENT_URGENT: u32 = 3;
const INTENT_SPOOL: u32 = 4;
const INTENT_OFFER: u32 = 5;
const CHECK_SEED: u64 = 0x6f70_656e;

/// The first thing a source says on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// A new migration: make a [`crate::Target`]. If a [`crate::Target`] for that guest is still in
    /// [`crate::Phase::CommitUnknown`], give it [`crate::Command::Cancel`] first: by beginning anew the source
    /// says that it owns the guest.
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
    /// A connection for [`crate::Channel::URGENT`] of a migration whose [`crate::Target`] exists; if there is none,
    /// hang up.
    Urgent {
        /// Its identity.
        migration: MigrationId,
        /// The guest's.
        guest: GuestId,
    },
    /// The source of a migration wants to leave pages here that the target lacks: give the connection to the
    /// [`crate::Spool`] of that migration ([`crate::Channel::SPOOL`]), or make one.
    Spool {
        /// Its identity.
        migration: MigrationId,
        /// The guest's.
        guest: GuestId,
    },
    /// A spool offers the pages that the source left with it: give the connection to the [`crate::Target`] of that
    /// migration ([`crate::Channel::SPOOL`]); if there is none, hang up.
    Offer {
        /// Its identity.
        migration: MigrationId,
        /// The guest's.
        guest: GuestId,
    },
}

/// The opening with the versions that its sender speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Greeting {
    pub(crate) opening: Opening,
    pub(crate) version_min: u16,
    pub(crate) version_max: u16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct OpeningWire {
    magic: [u8; 8],
    version_min: U16,
    version_max: U16,
    intent: U32,
    migration: [u8; 16],
    guest: [u8; 16],
    reserved: [u8; 8],
    check: U64,
}

const _: () = assert!(size_of::<OpeningWire>() == OPENING_BYTES);

impl Opening {
    /// Reads the opening from the first bytes of a connection; `None` if fewer than [`OPENING_BYTES`] have come.
    /// Nothing is consumed: the engine gets these bytes too.
    ///
    /// # Errors
    /// A [`StreamFault`] if it is not one.
    pub fn peek(bytes: &[u8]) -> Result<Option<Self>, StreamFault> {
        match bytes.first_chunk::<OPENING_BYTES>() {
            Some(bytes) => Greeting::decode(bytes).map(|greeting| Some(greeting.opening)),
            None => Ok(None),
        }
    }

    /// The migration it belongs to.
    #[must_use]
    pub const fn migration(&self) -> MigrationId {
        match self {
            Self::Begin { migration, .. }
            | Self::Resolve { migration, .. }
            | Self::Urgent { migration, .. }
            | Self::Spool { migration, .. }
            | Self::Offer { migration, .. } => *migration,
        }
    }

    /// The guest it is about.
    #[must_use]
    pub const fn guest(&self) -> GuestId {
        match self {
            Self::Begin { guest, .. }
            | Self::Resolve { guest, .. }
            | Self::Urgent { guest, .. }
            | Self::Spool { guest, .. }
            | Self::Offer { guest, .. } => *guest,
        }
    }
}

impl Greeting {
    pub(crate) fn encode(&self) -> [u8; OPENING_BYTES] {
        let (intent, migration, guest) = match self.opening {
            Opening::Begin { migration, guest } => (INTENT_BEGIN, migration, guest),
            Opening::Resolve { migration, guest } => (INTENT_RESOLVE, migration, guest),
            Opening::Urgent { migration, guest } => (INTENT_URGENT, migration, guest),
            Opening::Spool { migration, guest } => (INTENT_SPOOL, migration, guest),
            Opening::Offer { migration, guest } => (INTENT_OFFER, migration, guest),
        };
        let mut wire = OpeningWire {
            magic: MAGIC,
            version_min: self.version_min.into(),
            version_max: self.version_max.into(),
            intent: intent.into(),
            migration: migration.0,
            guest: guest.0,
            reserved: [0; 8],
            check: U64::ZERO,
        };
        wire.check = check(&wire).into();
        zerocopy::transmute!(wire)
    }

    pub(crate) fn decode(bytes: &[u8; OPENING_BYTES]) -> Result<Self, StreamFault> {
        let wire: OpeningWire = zerocopy::transmute!(*bytes);
        if wire.magic != MAGIC {
            return Err(StreamFault::Magic);
        }
        if wire.check.get() != check(&wire) {
            return Err(StreamFault::Checksum);
        }
        let (migration, guest) = (MigrationId(wire.migration), GuestId(wire.guest));
        let opening = match wire.intent.get() {
            INTENT_BEGIN => Opening::Begin { migration, guest },
            INTENT_RESOLVE => Opening::Resolve { migration, guest },
            INTENT_URGENT => Opening::Urgent { migration, guest },
            INTENT_SPOOL => Opening::Spool { migration, guest },
            INTENT_OFFER => Opening::Offer { migration, guest },
            _ => return Err(StreamFault::Value),
        };
        let (version_min, version_max) = (wire.version_min.get(), wire.version_max.get());
        if version_min > version_max {
            return Err(StreamFault::Value);
        }
        Ok(Self { opening, version_min, version_max })
    }
}

fn check(wire: &OpeningWire) -> u64 {
    let bytes = wire.as_bytes();
    xxh64(&bytes[..OPENING_BYTES - 8], CHECK_SEED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn greeting() -> Greeting {
        let opening = Opening::Resolve { migration: MigrationId([7; 16]), guest: GuestId([9; 16]) };
        Greeting { opening, version_min: 1, version_max: 3 }
    }

    #[test]
    fn an_opening_is_read_as_it_was_written() {
        let bytes = greeting().encode();
        assert_eq!(Greeting::decode(&bytes), Ok(greeting()));
        assert_eq!(Opening::peek(&bytes), Ok(Some(greeting().opening)));
        assert_eq!(Opening::peek(&bytes[..63]), Ok(None));
    }

    proptest! {
        #[test]
        fn one_wrong_bit_is_noticed(bit in 0usize..OPENING_BYTES * 8) {
            let mut bytes = greeting().encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Greeting::decode(&bytes).is_err());
        }

        #[test]
        fn anything_is_decoded_without_panic(bytes in prop::array::uniform32(any::<u8>())) {
            let mut all = [0; OPENING_BYTES];
            all[..32].copy_from_slice(&bytes);
            prop_assert!(Greeting::decode(&all).is_err());
        }
    }
}
