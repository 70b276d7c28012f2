//! Frames: what both sides send after the opening. The header's layout never changes with the version.
//!
//! The check of a control frame covers header and body. That of a page frame covers the header alone: its
//! records carry checks of their own, which cover the pages' content, so that content is hashed once.

use xxhash_rust::xxh64::Xxh64;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::reason::StreamFault;

/// Bytes of a frame's header.
pub(crate) const HEADER_BYTES: usize = 24;
/// Most bytes of a control frame's body. A whole one fits [`crate::OUTPUT_BYTES_MIN`] behind an opening.
pub(crate) const CONTROL_BYTES_MAX: usize = 12 * 1024;
/// Most bytes of a page frame's body.
pub(crate) const PAGES_BYTES_MAX: usize = 1 << 20;

const FLAG_MANDATORY: u16 = 1;
const CHECK_SEED: u64 = 0x6672_616d;

/// What a frame is. The number is the wire's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Kind {
    /// Source: the guest's description.
    Hello = 1,
    /// Target: accepts or refuses.
    Reply = 2,
    /// Source: page records.
    Pages = 3,
    /// Source: a round has ended. Answered by `Progress`.
    RoundEnd = 4,
    /// Target: how much has been taken in.
    Progress = 5,
    /// Source: part of a device section.
    Section = 6,
    /// Source: the guest is complete; the digest.
    Seal = 7,
    /// Target: the digest agrees and devices are restored.
    Verified = 8,
    /// Source: the target owns the guest.
    Commit = 9,
    /// Target: it runs.
    Committed = 10,
    /// Target: it could not run it and never will; the source owns it again.
    Returned = 11,
    /// Source: its copy is gone, nothing will be asked any more.
    Release = 12,
    /// Target: what became of a migration.
    Outcome = 13,
    /// Both: it is over, why.
    Abort = 14,
    /// Both: alive.
    Ping = 15,
    /// Source: the stop is called back, the guest goes on there; sections and seal count for nothing.
    Recall = 16,
    /// Part of the set of pages that the target lacks. Source: those that it is not sent before it runs the guest.
    /// Target: those that it still lacks, in answer to a source that asks.
    Absent = 17,
    /// Target: the guest waits for this page.
    Want = 18,
    /// Source: every page has been sent; the digest of RAM as it was at the switch.
    Pushed = 19,
    /// Target: it lacks nothing any more, or needs nothing any more.
    Complete = 20,
    /// Source to a spool: what it is to keep, and for whom.
    Deposit = 21,
    /// Spool to its source, before it accepts: part of the set of pages that it has already.
    Holds = 22,
    /// Spool to a target: what it has of what was lacking has been sent.
    Spent = 23,
}

impl Kind {
    pub(crate) fn from_wire(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Hello,
            2 => Self::Reply,
            3 => Self::Pages,
            4 => Self::RoundEnd,
            5 => Self::Progress,
            6 => Self::Section,
            7 => Self::Seal,
            8 => Self::Verified,
            9 => Self::Commit,
            10 => Self::Committed,
            11 => Self::Returned,
            12 => Self::Release,
            13 => Self::Outcome,
            14 => Self::Abort,
            15 => Self::Ping,
            16 => Self::Recall,
            17 => Self::Absent,
            18 => Self::Want,
            19 => Self::Pushed,
            20 => Self::Complete,
            21 => Self::Deposit,
            22 => Self::Holds,
            23 => Self::Spent,
            _ => return None,
        })
    }
}

/// A decoded header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: FrameKind,
    pub(crate) body_bytes: usize,
    pub(crate) sequence: u32,
    check: u64,
}

/// A frame's kind as received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    Known(Kind),
    /// Unknown, and can be skipped.
    Optional,
    /// Unknown, and cannot.
    Mandatory(u16),
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct HeaderWire {
    kind: U16,
    flags: U16,
    body_bytes: U32,
    sequence: U32,
    reserved: U32,
    check: U64,
}

const _: () = assert!(size_of::<HeaderWire>() == HEADER_BYTES);

impl Header {
    /// The header of a frame with this body; for [`Kind::Pages`] only the body's length counts.
    pub(crate) fn encode(kind: Kind, sequence: u32, body: &[u8]) -> [u8; HEADER_BYTES] {
        debug_assert!(body.len() <= if kind == Kind::Pages { PAGES_BYTES_MAX } else { CONTROL_BYTES_MAX });
        let mut wire = HeaderWire {
            kind: (kind as u16).into(),
            flags: FLAG_MANDATORY.into(),
            body_bytes: U32::new(body.len() as u32),
            sequence: sequence.into(),
            reserved: U32::ZERO,
            check: U64::ZERO,
        };
        let covered = if kind == Kind::Pages { &[][..] } else { body };
        wire.check = check(&wire, covered).into();
        zerocopy::transmute!(wire)
    }

    /// Decodes a header and checks its bounds; the check of a page frame too.
    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, StreamFault> {
        let wire: HeaderWire = zerocopy::transmute!(*bytes);
        let number = wire.kind.get();
        let kind = match Kind::from_wire(number) {
            Some(kind) => FrameKind::Known(kind),
            None if wire.flags.get() & FLAG_MANDATORY == 0 => FrameKind::Optional,
            None => FrameKind::Mandatory(number),
        };
        let body_bytes = wire.body_bytes.get() as usize;
        let is_pages = kind == FrameKind::Known(Kind::Pages);
        if is_pages && wire.check.get() != check(&wire, &[]) {
            return Err(StreamFault::Checksum);
        }
        if body_bytes > if is_pages { PAGES_BYTES_MAX } else { CONTROL_BYTES_MAX } {
            return Err(StreamFault::Length);
        }
        Ok(Self { kind, body_bytes, sequence: wire.sequence.get(), check: wire.check.get() })
    }

    /// Checks a control frame's body against its header, given the header's bytes again.
    pub(crate) fn check_body(&self, header: &[u8; HEADER_BYTES], body: &[u8]) -> Result<(), StreamFault> {
        let wire: HeaderWire = zerocopy::transmute!(*header);
        if self.check == check(&wire, body) { Ok(()) } else { Err(StreamFault::Checksum) }
    }
}

fn check(wire: &HeaderWire, body: &[u8]) -> u64 {
    let mut hash = Xxh64::new(CHECK_SEED);
    hash.update(&wire.as_bytes()[..HEADER_BYTES - 8]);
    hash.update(body);
    hash.digest()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn one_wrong_bit_in_header_or_body_is_noticed(body in prop::collection::vec(any::<u8>(), 0..64), bit in 0usize..704) {
            let header = Header::encode(Kind::Seal, 5, &body);
            let mut all = header.to_vec();
            all.extend_from_slice(&body);
            let bit = bit % (all.len() * 8);
            let read = |all: &[u8]| {
                let header = all.first_chunk().unwrap();
                Header::decode(header).and_then(|decoded| decoded.check_body(header, &all[HEADER_BYTES..]))
            };
            prop_assert_eq!(read(&all), Ok(()));
            all[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(read(&all).is_err());
        }

        #[test]
        fn any_header_is_decoded_within_bounds(bytes in prop::array::uniform24(any::<u8>())) {
            if let Ok(header) = Header::decode(&bytes) {
                prop_assert!(header.body_bytes <= PAGES_BYTES_MAX);
            }
        }
    }
}
