//! Records of a page frame. A record's check covers its own header and the identities of the pages it carries,
//! so a wrong page number, a wrong length and wrong content are all noticed by one comparison.

use xxhash_rust::xxh64::xxh64;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::identity::Identity;
use crate::ram::{PAGE_BYTES, Page};
use crate::reason::StreamFault;

/// Bytes of a record's header.
pub(crate) const RECORD_BYTES: usize = 16;
/// Most pages in one run of zero pages: whoever takes a record looks at each of them, so that 16 bytes are not to name
/// all of a large guest's.
pub(crate) const ZERO_PAGES_MAX: u16 = 2048;
/// Most pages in one pack.
pub(crate) const PACK_PAGES_MAX: usize = 16;
/// Bytes of a page number in a pack.
pub(crate) const PACK_NUMBER_BYTES: usize = 4;
/// Most bytes behind the header of a pack: a pack is sent only if it is smaller than its pages.
pub(crate) const PACK_BYTES_MAX: usize = PACK_PAGES_MAX * (PAGE_BYTES + PACK_NUMBER_BYTES);
/// Most bytes of a page's differences from another.
pub(crate) const PATCH_BYTES_MAX: usize = PAGE_BYTES / 2;

const CHECK_SEED: u64 = 0x7265_636f;

/// How pages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// `count` pages from `first` on are zero.
    Zero { first: Page, count: u16 },
    /// `count` pages from `first` on follow as they are.
    Raw { first: Page, count: u16 },
    /// `count` page numbers, then the pages' content compressed together; `bytes` in all.
    Pack { count: u16, bytes: u32 },
    /// `page` is `reference`, as it is at the target now, with differences of `bytes` in all applied.
    Similar { page: Page, reference: Page, bytes: u16 },
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RecordWire {
    kind: U16,
    count: U16,
    page: U32,
    argument: U32,
    check: U32,
}

const _: () = assert!(size_of::<RecordWire>() == RECORD_BYTES);

/// A record as received: its check is compared once the content is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    pub(crate) record: Record,
    header: u64,
    check: u32,
}

impl Record {
    fn wire(self) -> RecordWire {
        let (kind, count, page, argument) = match self {
            Self::Zero { first, count } => (1, count, first.0, 0),
            Self::Raw { first, count } => (2, count, first.0, 0),
            Self::Pack { count, bytes } => (3, count, 0, bytes),
            Self::Similar { page, reference, bytes } => (4, bytes, page.0, reference.0),
        };
        let (kind, count) = (U16::new(kind), U16::new(count));
        RecordWire { kind, count, page: page.into(), argument: argument.into(), check: U32::ZERO }
    }

    /// The header of this record, `content` folded from the identities of its pages in their order.
    pub(crate) fn encode(self, content: Fold) -> [u8; RECORD_BYTES] {
        let mut wire = self.wire();
        wire.check = content.check(header_hash(&wire)).into();
        zerocopy::transmute!(wire)
    }

    /// Decodes a record's header and checks its bounds, except that pages exist.
    pub(crate) fn decode(bytes: &[u8; RECORD_BYTES]) -> Result<Received, StreamFault> {
        let wire: RecordWire = zerocopy::transmute!(*bytes);
        let (count, page, argument) = (wire.count.get(), Page(wire.page.get()), wire.argument.get());
        let record = match wire.kind.get() {
            1 if count > ZERO_PAGES_MAX => return Err(StreamFault::Length),
            1 => Self::Zero { first: page, count },
            2 => Self::Raw { first: page, count },
            3 if usize::from(count) > PACK_PAGES_MAX || argument as usize > PACK_BYTES_MAX => {
                return Err(StreamFault::Length);
            }
            3 => Self::Pack { count, bytes: argument },
            4 if usize::from(count) > PATCH_BYTES_MAX => return Err(StreamFault::Length),
            4 => Self::Similar { page, reference: Page(argument), bytes: count },
            _ => return Err(StreamFault::Value),
        };
        let empty = match record {
            Self::Zero { count, .. } | Self::Raw { count, .. } => count == 0,
            Self::Pack { count, bytes } => {
                count == 0 || (bytes as usize) < usize::from(count) * PACK_NUMBER_BYTES
            }
            Self::Similar { .. } => false,
        };
        if empty {
            return Err(StreamFault::Value);
        }
        Ok(Received { record, header: header_hash(&wire), check: wire.check.get() })
    }
}

impl Received {
    /// Whether header and content are what was sent.
    pub(crate) fn agrees(&self, content: Fold) -> bool {
        content.check(self.header) == self.check
    }
}

/// The identities of a record's pages, in order, folded into one number.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fold(u64);

impl Fold {
    pub(crate) fn add(&mut self, identity: Identity) {
        self.0 = (self.0.rotate_left(23) ^ identity.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn check(self, header: u64) -> u32 {
        let all = (self.0 ^ header).wrapping_mul(0xd6e8_feb8_6659_fd93);
        (all >> 32) as u32
    }
}

fn header_hash(wire: &RecordWire) -> u64 {
    xxh64(&wire.as_bytes()[..RECORD_BYTES - 4], CHECK_SEED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn records() -> impl Strategy<Value = Record> {
        prop_oneof![
            (any::<u32>(), 1..=ZERO_PAGES_MAX)
                .prop_map(|(page, count)| Record::Zero { first: Page(page), count }),
            (any::<u32>(), 1u16..).prop_map(|(page, count)| Record::Raw { first: Page(page), count }),
            (1u16..=16, 64u32..60_000).prop_map(|(count, bytes)| Record::Pack { count, bytes }),
            (any::<u32>(), any::<u32>(), 0u16..2048).prop_map(|(page, reference, bytes)| Record::Similar {
                page: Page(page),
                reference: Page(reference),
                bytes
            }),
        ]
    }

    /// Each takes the time of a page that is looked at, and a connection brings 4096 records in 64 KiB.
    #[test]
    fn few_bytes_do_not_name_more_zero_pages_than_a_source_looks_at_for_a_frame() {
        let decoded = |count| {
            let record = Record::Zero { first: Page(0), count };
            Record::decode(&record.encode(Fold::default())).map(|received| received.record)
        };
        assert!(decoded(ZERO_PAGES_MAX).is_ok());
        assert_eq!(decoded(ZERO_PAGES_MAX + 1), Err(StreamFault::Length));
    }

    proptest! {
        #[test]
        fn a_record_is_read_as_it_was_written(record in records(), identity in any::<u64>()) {
            let mut fold = Fold::default();
            fold.add(Identity(identity));
            let received = Record::decode(&record.encode(fold)).unwrap();
            prop_assert_eq!(received.record, record);
            prop_assert!(received.agrees(fold));
            fold.add(Identity(identity));
            prop_assert!(!received.agrees(fold));
        }

        #[test]
        fn one_wrong_bit_is_noticed(record in records(), bit in 0usize..RECORD_BYTES * 8) {
            let mut bytes = record.encode(Fold::default());
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!Record::decode(&bytes).is_ok_and(|received| received.agrees(Fold::default())));
        }

        #[test]
        fn any_record_is_decoded_within_bounds(bytes in prop::array::uniform16(any::<u8>())) {
            if let Ok(Received { record: Record::Pack { count, bytes }, .. }) = Record::decode(&bytes) {
                prop_assert!(usize::from(count) <= PACK_PAGES_MAX && bytes as usize <= PACK_BYTES_MAX);
            }
        }
    }
}
