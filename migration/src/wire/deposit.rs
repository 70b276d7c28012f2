//! What a source and a target say to a spool, and it to them, beside what they say to each other.

use alloc::string::String;
use alloc::vec::Vec;

use minicbor::{Decode, Encode};

use crate::guest::NAME_BYTES_MAX;
use crate::ram::RAM_PAGES_MAX;
use crate::reason::StreamFault;

/// Most bytes of the target's address. They mean something to sessions only.
pub(crate) const ADDRESS_BYTES_MAX: usize = 64;

/// What a spool is to keep, and for whom. Said again it changes where the target is.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Deposit {
    /// The guest's name.
    #[n(0)]
    pub(crate) guest: String,
    /// Pages of the guest: page numbers are below.
    #[n(1)]
    pub(crate) pages: u32,
    /// Most pages that will be left here.
    #[n(2)]
    pub(crate) absent: u32,
    /// The target's name, for people.
    #[n(3)]
    pub(crate) target: String,
    #[cbor(n(4), with = "minicbor::bytes")]
    pub(crate) address: Vec<u8>,
    /// How long the source waits for a sign of life.
    #[n(5)]
    pub(crate) peer_timeout_ms: u32,
}

impl Deposit {
    /// Checks the bounds of all of it.
    pub(crate) fn check(&self) -> Result<(), StreamFault> {
        let Self { guest, pages, absent, target, address, peer_timeout_ms: _ } = self;
        let is_short = guest.len() <= NAME_BYTES_MAX
            && target.len() <= NAME_BYTES_MAX
            && address.len() <= ADDRESS_BYTES_MAX;
        let is_printable = !guest.chars().chain(target.chars()).any(char::is_control);
        let is_possible = (1..=RAM_PAGES_MAX).contains(pages) && (1..=*pages).contains(absent);
        if is_short && is_printable && is_possible { Ok(()) } else { Err(StreamFault::Value) }
    }
}

/// A spool has sent what it has of what was lacking.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Spent {
    /// Over RAM as it was at the switch, if the source has said it.
    #[n(0)]
    pub(crate) digest: Option<u64>,
}
