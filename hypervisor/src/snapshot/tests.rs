use super::*;
use crate::devices::GuestTime;
use crate::devices::board::{Board, BoardConfig};
use minicbor::{Decode, Encode};
use proptest::prelude::*;
use std::string::ToString;
use std::vec::Vec;

#[derive(Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
struct Old {
    #[n(0)]
    level: u32,
}

#[derive(Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
struct New {
    #[n(0)]
    level: u32,
    #[n(1)]
    extra: Option<u32>,
}

const THING: Kind = Kind::new("thing", 1);
const OTHER: Kind = Kind::new("other", 1);

fn one<T: Encode<()>>(kind: Kind, need: Need, body: &T) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.section(kind, 0, need, body).unwrap();
    writer.finish()
}

fn board() -> Board {
    let config = BoardConfig {
        vcpus: 2,
        tsc_hz: 2_100_000_000,
        crystal_hz: 25_000_000,
        wall_clock_unix_seconds: 1_700_000_000,
    };
    Board::new(&config, GuestTime::ZERO).unwrap()
}

#[test]
fn a_board_comes_through() {
    let state = board().save();
    let mut writer = Writer::new();
    board::write(&mut writer, &state).unwrap();
    let bytes = writer.finish();
    assert!(bytes.len() < 4096, "{} bytes", bytes.len());
    let mut sections = Sections::parse(&bytes).unwrap();
    assert_eq!(board::read(&mut sections), Ok(state));
    assert_eq!(sections.finish(), Ok(()));
}

#[test]
fn versions_meet_in_both_directions() {
    let bytes = one(THING, Need::Mandatory, &New { level: 5, extra: Some(6) });
    let old: Old = Sections::parse(&bytes).unwrap().take(THING, 0).unwrap();
    assert_eq!(old, Old { level: 5 });
    let bytes = one(THING, Need::Mandatory, &Old { level: 7 });
    let new: New = Sections::parse(&bytes).unwrap().take(THING, 0).unwrap();
    assert_eq!(new, New { level: 7, extra: None });
}

#[test]
fn unknown_sections_are_skipped_or_refused_by_name() {
    let bytes = one(OTHER, Need::Optional, &Old { level: 1 });
    assert_eq!(Sections::parse(&bytes).unwrap().finish(), Ok(()));
    let bytes = one(OTHER, Need::Mandatory, &Old { level: 1 });
    let error = Sections::parse(&bytes).unwrap().finish().unwrap_err();
    assert_eq!(error.to_string(), "the saved state needs other, which is not known here");
}

#[test]
fn newer_sections_are_refused_if_mandatory() {
    let newer = Kind { version: 2, ..THING };
    let bytes = one(newer, Need::Mandatory, &Old { level: 1 });
    let result: Result<Old, _> = Sections::parse(&bytes).unwrap().take(THING, 0);
    assert_eq!(result, Err(SnapshotError::Newer(THING.name, 2)));
    let bytes = one(newer, Need::Optional, &Old { level: 1 });
    let result: Result<Option<Old>, _> = Sections::parse(&bytes).unwrap().take_if_present(THING, 0);
    assert_eq!(result, Ok(None));
}

#[test]
fn what_is_wrong_is_said() {
    let good = one(THING, Need::Mandatory, &Old { level: 1 });
    let take = |bytes: &[u8]| Sections::parse(bytes).and_then(|mut all| all.take::<Old>(THING, 0));
    assert_eq!(take(&good[..good.len() - 1]), Err(SnapshotError::Truncated));
    assert_eq!(take(&good[..10]), Err(SnapshotError::Truncated));
    assert_eq!(take(b"nonsense"), Err(SnapshotError::Format));
    assert_eq!(take(&[]), Err(SnapshotError::Format));
    let twice = [&good[..], &good[8..]].concat();
    assert_eq!(take(&twice), Err(SnapshotError::Duplicate(THING.name, 0)));
    let mut wrong = good.clone();
    *wrong.last_mut().unwrap() = 0xff;
    assert_eq!(take(&wrong), Err(SnapshotError::Malformed(THING.name)));
    let mut huge = good.clone();
    huge[HEADER_BYTES + SECTION_HEADER_BYTES - 1] = 0xff;
    assert_eq!(take(&huge), Err(SnapshotError::SectionTooLarge(THING.name)));
    let empty = Writer::new().finish();
    assert_eq!(take(&empty), Err(SnapshotError::Missing(THING.name, 0)));
}

#[test]
fn a_body_with_something_after_it_is_malformed() {
    let mut bytes = one(THING, Need::Mandatory, &Old { level: 1 });
    bytes.push(0);
    bytes[HEADER_BYTES + SECTION_HEADER_BYTES - 4] += 1;
    let result: Result<Old, _> = Sections::parse(&bytes).unwrap().take(THING, 0);
    assert_eq!(result, Err(SnapshotError::Malformed(THING.name)));
}

proptest! {
    #[test]
    fn hostile_bytes_are_survived(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20), cut in any::<prop::sample::Index>(),
    ) {
        let mut writer = Writer::new();
        board::write(&mut writer, &board().save()).unwrap();
        let mut bytes = writer.finish();
        for (index, byte) in changes {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        bytes.truncate(cut.index(bytes.len()) + bytes.len() / 2);
        if let Ok(mut sections) = Sections::parse(&bytes)
            && let Ok(state) = board::read(&mut sections)
            && let Ok(mut board) = Board::restore(&state)
        {
            board.advance(GuestTime::from_nanos(u64::MAX / 2));
            board.advance(GuestTime::NEVER);
            for vcpu in 0..board.vcpus() {
                let _ = board.pending_interrupt(vcpu);
                board.acknowledge(vcpu);
            }
            let _ = board.save();
        }
    }

    #[test]
    fn random_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let with_header = [&one(THING, Need::Mandatory, &Old { level: 1 })[..HEADER_BYTES], &bytes].concat();
        if let Ok(mut sections) = Sections::parse(&with_header) {
            let _ = board::read(&mut sections);
        }
    }
}
