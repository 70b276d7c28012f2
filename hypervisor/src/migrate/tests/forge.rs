//! Bytes of the protocol made by hand, as a peer of another release would say them. The layouts are those of
//! `docs/migration-protocol.md`, written down a second time on purpose: a change of the wire shows here.

use alloc::string::String;
use alloc::vec::Vec;

use minicbor::{Decode, Encode};
use xxhash_rust::xxh64::{Xxh64, xxh64};

pub(super) const REPLY: u16 = 2;
pub(super) const ABORT: u16 = 14;
const HEADER_BYTES: usize = 24;

/// A target's answer.
#[derive(Debug, Encode, Decode)]
#[cbor(map)]
pub(super) struct Reply {
    #[n(0)]
    pub(super) version: u16,
    #[n(1)]
    pub(super) refusals: Vec<Refusal>,
    #[n(2)]
    incarnation: u64,
    #[n(3)]
    peer_timeout_ms: u32,
}

#[derive(Debug, Encode, Decode)]
#[cbor(map)]
pub(super) struct Refusal {
    #[n(0)]
    pub(super) code: u16,
    #[n(1)]
    pub(super) numbers: [u64; 4],
    #[n(2)]
    text: String,
}

#[derive(Debug, Decode)]
#[cbor(map)]
pub(super) struct Abort {
    #[n(0)]
    pub(super) code: u16,
    #[n(3)]
    pub(super) refusals: Vec<Refusal>,
}

/// The opening of a source that speaks the versions `low` to `high`.
pub(super) fn opening(low: u16, high: u16) -> [u8; 64] {
    opening_of(0xee, low, high)
}

/// As [`opening`], of the migration of this number.
pub(super) fn opening_of(migration: u8, low: u16, high: u16) -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[..8].copy_from_slice(b"Godwit\x1a\n");
    bytes[8..10].copy_from_slice(&low.to_le_bytes());
    bytes[10..12].copy_from_slice(&high.to_le_bytes());
    bytes[12] = 1;
    bytes[16..32].fill(migration);
    bytes[32..48].fill(0xdd);
    let check = xxh64(&bytes[..56], 0x6f70_656e);
    bytes[56..].copy_from_slice(&check.to_le_bytes());
    bytes
}

/// The answer of a target that accepts and speaks `version`, as the first frame of a connection.
pub(super) fn accepting(version: u16) -> Vec<u8> {
    let reply = Reply { version, refusals: Vec::new(), incarnation: 5, peer_timeout_ms: 30_000 };
    frame(REPLY, 0, &minicbor::to_vec(&reply).unwrap())
}

/// The opening of an urgent channel of the migration of this number.
pub(super) fn urgent_opening_of(migration: u8) -> [u8; 64] {
    let mut bytes = opening_of(migration, 1, 99);
    bytes[12] = 3;
    let check = xxh64(&bytes[..56], 0x6f70_656e);
    bytes[56..].copy_from_slice(&check.to_le_bytes());
    bytes
}

fn frame(kind: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(kind.to_le_bytes());
    bytes.extend(1_u16.to_le_bytes());
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(sequence.to_le_bytes());
    bytes.extend([0; 4]);
    let mut check = Xxh64::new(0x6672_616d);
    check.update(&bytes);
    check.update(body);
    bytes.extend(check.digest().to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// The frames in `bytes`: kinds and bodies.
pub(super) fn frames(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut frames = Vec::new();
    while let Some((header, rest)) = bytes.split_at_checked(HEADER_BYTES) {
        let kind = u16::from_le_bytes([header[0], header[1]]);
        let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let (body, rest) = rest.split_at(length);
        frames.push((kind, body));
        bytes = rest;
    }
    assert!(bytes.is_empty(), "frames are whole");
    frames
}
