//! Bodies of control frames: CBOR maps with numbered keys. A key that the receiver does not know is skipped,
//! one that it misses makes the body invalid unless it has a default.

use minicbor::encode::write::Cursor;
use minicbor::{Decode, Encode};
use xxhash_rust::xxh64::Xxh64;

use super::deposit::{Deposit, Spent};
use super::frame::{CONTROL_BYTES_MAX, HEADER_BYTES, Header, Kind};
use super::hello::{Hello, Reply};
use super::reasons::AbortBody;
use crate::device::{Necessity, Section};
use crate::reason::StreamFault;

/// Most bytes of a device section in one frame.
pub(crate) const CHUNK_BYTES_MAX: usize = CONTROL_BYTES_MAX - 256;

/// How much the target has taken in.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Progress {
    /// Bytes of this connection.
    #[n(0)]
    pub(crate) bytes: u64,
    /// Rounds of which the end has come.
    #[n(1)]
    pub(crate) rounds: u32,
}

/// A round has ended.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct RoundEnd {
    #[n(0)]
    pub(crate) round: u32,
}

/// Part of a device section. Parts come in order, sections one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct SectionPart<'a> {
    #[n(0)]
    pub(crate) id: u32,
    #[n(1)]
    pub(crate) instance: u32,
    #[n(2)]
    pub(crate) version: u32,
    #[n(3)]
    pub(crate) is_mandatory: bool,
    #[n(4)]
    pub(crate) total_bytes: u32,
    #[n(5)]
    pub(crate) offset: u32,
    #[cbor(b(6), with = "minicbor::bytes")]
    pub(crate) bytes: &'a [u8],
}

/// The guest is complete.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Seal {
    /// Over RAM and sections.
    #[n(0)]
    pub(crate) digest: u64,
    #[n(1)]
    pub(crate) sections: u32,
    /// How many stops were called back before this one: its answer says the same.
    #[cbor(n(2), default)]
    pub(crate) stop: u32,
    /// How many pages were said to be absent: they come once the guest runs at the target.
    #[cbor(n(3), default)]
    pub(crate) absent: u32,
}

/// The digest agrees and devices are restored.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Verified {
    /// Nanoseconds that restoring took.
    #[n(0)]
    pub(crate) restore_ns: u64,
    /// Of the seal that this answers.
    #[cbor(n(1), default)]
    pub(crate) stop: u32,
}

/// The target owns the guest in this generation.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Commit {
    #[n(0)]
    pub(crate) generation: u64,
}

/// The guest runs at the target in this generation.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Committed {
    #[n(0)]
    pub(crate) generation: u64,
    /// Nanoseconds from the commit's arrival until the guest ran.
    #[n(1)]
    pub(crate) run_ns: u64,
}

/// What became of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub(crate) enum Fate {
    /// Complete, the commit has not come: it can be sent again.
    #[n(0)]
    Prepared,
    /// The guest runs there or has run there.
    #[n(1)]
    Owned,
    /// The target does not know the migration (any more).
    #[n(2)]
    Unknown,
    /// The commit has come, whether the guest will run is not yet known.
    #[n(3)]
    Starting,
    /// To a spool: the source's connection stands, what it keeps is not needed now.
    #[n(4)]
    Served,
}

/// The answer to a source that asks.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Outcome {
    #[n(0)]
    pub(crate) fate: Fate,
    /// Of the target host.
    #[n(1)]
    pub(crate) incarnation: u64,
}

/// The guest waits for a page.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Want {
    #[n(0)]
    pub(crate) page: u32,
}

/// Every page has been sent.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Pushed {
    /// Over RAM as it was at the switch.
    #[n(0)]
    pub(crate) digest: u64,
}

/// The target needs nothing any more.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Complete {
    /// The guest has ended before it was whole, or a person gave up what was missing.
    #[n(0)]
    pub(crate) is_ended: bool,
    /// From the commit until the last page had come, in nanoseconds.
    #[n(1)]
    pub(crate) filling_ns: u64,
    /// How often the guest waited for a page; then, in nanoseconds, the median, the 99th percentile and the longest of
    /// these waits, and all of them together.
    #[n(2)]
    pub(crate) waits: u64,
    #[n(3)]
    pub(crate) median_ns: u64,
    #[n(4)]
    pub(crate) p99_ns: u64,
    #[n(5)]
    pub(crate) longest_ns: u64,
    #[n(6)]
    pub(crate) total_ns: u64,
    /// What has come is not what the source had. Sources of before do not know of it.
    #[cbor(n(7), default)]
    pub(crate) differs: bool,
}

/// A control frame to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    Hello(Hello),
    Reply(Reply),
    RoundEnd(RoundEnd),
    Progress(Progress),
    Seal(Seal),
    Verified(Verified),
    Commit(Commit),
    Committed(Committed),
    Returned(AbortBody),
    Release,
    Outcome(Outcome),
    Abort(AbortBody),
    Ping,
    Recall,
    Want(Want),
    Pushed(Pushed),
    Complete(Complete),
    Deposit(Deposit),
    Spent(Spent),
}

impl Control {
    /// Writes the frame to the front of `buffer`; its length. Every body fits by the bounds of its parts.
    pub(crate) fn encode(&self, sequence: u32, buffer: &mut [u8]) -> usize {
        match self {
            Self::Hello(body) => frame(Kind::Hello, sequence, body, buffer),
            Self::Reply(body) => frame(Kind::Reply, sequence, body, buffer),
            Self::RoundEnd(body) => frame(Kind::RoundEnd, sequence, body, buffer),
            Self::Progress(body) => frame(Kind::Progress, sequence, body, buffer),
            Self::Seal(body) => frame(Kind::Seal, sequence, body, buffer),
            Self::Verified(body) => frame(Kind::Verified, sequence, body, buffer),
            Self::Commit(body) => frame(Kind::Commit, sequence, body, buffer),
            Self::Committed(body) => frame(Kind::Committed, sequence, body, buffer),
            Self::Returned(body) => frame(Kind::Returned, sequence, body, buffer),
            Self::Release => empty(Kind::Release, sequence, buffer),
            Self::Outcome(body) => frame(Kind::Outcome, sequence, body, buffer),
            Self::Abort(body) => frame(Kind::Abort, sequence, body, buffer),
            Self::Ping => empty(Kind::Ping, sequence, buffer),
            Self::Recall => empty(Kind::Recall, sequence, buffer),
            Self::Want(body) => frame(Kind::Want, sequence, body, buffer),
            Self::Pushed(body) => frame(Kind::Pushed, sequence, body, buffer),
            Self::Complete(body) => frame(Kind::Complete, sequence, body, buffer),
            Self::Deposit(body) => frame(Kind::Deposit, sequence, body, buffer),
            Self::Spent(body) => frame(Kind::Spent, sequence, body, buffer),
        }
    }
}

/// Writes one frame to the front of `buffer`; its length.
pub(crate) fn frame<T: Encode<()>>(kind: Kind, sequence: u32, body: &T, buffer: &mut [u8]) -> usize {
    let (header, rest) = buffer.split_at_mut(HEADER_BYTES);
    let mut cursor = Cursor::new(&mut rest[..CONTROL_BYTES_MAX]);
    minicbor::encode(body, &mut cursor)
        .expect("the bounds of a control frame's parts keep it within its own");
    let length = cursor.position();
    header.copy_from_slice(&Header::encode(kind, sequence, &rest[..length]));
    HEADER_BYTES + length
}

fn empty(kind: Kind, sequence: u32, buffer: &mut [u8]) -> usize {
    buffer[..HEADER_BYTES].copy_from_slice(&Header::encode(kind, sequence, &[]));
    HEADER_BYTES
}

/// Decodes the body of a control frame.
pub(crate) fn decode<'a, T: Decode<'a, ()>>(body: &'a [u8]) -> Result<T, StreamFault> {
    minicbor::decode(body).map_err(|_| StreamFault::Value)
}

/// The digest over device sections: each field and all bytes, in order.
pub(crate) fn section_digest(state: &[Section]) -> u64 {
    let mut digest = Xxh64::new(0x7365_6374);
    for Section { id, instance, version, necessity, bytes } in state {
        let mandatory = u32::from(*necessity == Necessity::Mandatory);
        for field in [*id, *instance, *version, mandatory, bytes.len() as u32] {
            digest.update(&field.to_le_bytes());
        }
        digest.update(bytes);
    }
    digest.digest()
}

/// The digest over a whole guest.
pub(crate) fn guest_digest(ram: u64, pages: u32, sections: u64) -> u64 {
    let mut digest = Xxh64::new(0x6775_6573);
    digest.update(&ram.to_le_bytes());
    digest.update(&sections.to_le_bytes());
    digest.update(&pages.to_le_bytes());
    digest.digest()
}
