//! What the three hosts tell people about pages that one of them keeps for the others.

use alloc::vec::Vec;
use core::fmt;

use crate::reason::{AbortReason, Refusal};

/// Why a spool cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpoolTrouble {
    /// It cannot be reached, or does not know what a spool is.
    Unreachable,
    /// The connection to it was lost.
    Lost,
    /// It does not want to.
    Refused(Vec<Refusal>),
    /// Its memory is full.
    OutOfMemory,
    /// A person there does not want it any more: it is not asked again.
    Dismissed,
}

impl fmt::Display for SpoolTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable => f.write_str("it cannot be reached"),
            Self::Lost => f.write_str("the connection to it was lost"),
            Self::Refused(refusals) => {
                f.write_str("it refuses: ")?;
                for (index, refusal) in refusals.iter().enumerate() {
                    write!(f, "{}{refusal}", if index == 0 { "" } else { "; " })?;
                }
                Ok(())
            }
            Self::OutOfMemory => f.write_str("it has no memory left; what is there already it keeps"),
            Self::Dismissed => f.write_str("a person there has let the guest's pages go"),
        }
    }
}

/// Why a spool has let its pages go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpoolEnd {
    /// It never kept any.
    NeverBegun,
    /// The source says that they are not needed any more.
    ReleasedBySource,
    /// The target has taken what it lacked, or needs nothing.
    ReleasedByTarget,
    /// A person says so.
    ByWord,
    /// Neither source nor target was heard of for as long as they are kept.
    Expired,
}

impl fmt::Display for SpoolEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NeverBegun => "none were left here",
            Self::ReleasedBySource => "the source needs them no more",
            Self::ReleasedByTarget => "the target needs them no more",
            Self::ByWord => "a person let them go",
            Self::Expired => "neither source nor target was heard of for too long",
        })
    }
}

/// What happened to pages that a third host keeps, or is to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpoolEvent {
    /// Source: the spool cannot be used now. The migration goes on as if there were none, and it is tried again.
    Unavailable(SpoolTrouble),
    /// Source: each page that the target lacked at the switch is at the target or at the spool, so many at the spool.
    /// The source may die now.
    Whole {
        /// Pages at the spool.
        pages: u32,
    },
    /// Target: the source is lost, and a spool sends what it has of these pages.
    Filling {
        /// Pages that the target lacks.
        lacks: u32,
    },
    /// Target: the spool is lost, too. It comes again by itself if it lives.
    Lost,
    /// Target: the spool has sent all it had of what was lacking.
    Spent {
        /// Pages that came from it.
        pages: u32,
        /// Pages that are still lacking.
        left: u32,
        /// All of RAM has been compared with the source's digest of it, and agrees.
        is_verified: bool,
    },
    /// Spool: it keeps pages from now on.
    Keeping {
        /// At most so many.
        pages: u32,
    },
    /// Spool: what its source wants is refused, or what came from it is not the protocol. Pages that are here stay.
    TurnedAway(AbortReason),
    /// Spool: the source has left everything that the target could lack.
    Filled {
        /// Pages that are here.
        pages: u32,
    },
    /// Spool: the source is lost, the target will be asked.
    SourceLost {
        /// Pages that are here.
        pages: u32,
    },
    /// Spool: the target takes pages.
    Giving {
        /// So many.
        pages: u32,
    },
    /// Spool: the pages are gone from here.
    Over(SpoolEnd),
}
