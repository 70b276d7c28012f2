//! Several pages compressed together: what one page repeats from the one before costs a few bytes.

use crate::ram::PAGE_BYTES;
use crate::reason::StreamFault;
use crate::wire::record::PACK_PAGES_MAX;

/// Most bytes of the pages of a pack.
pub(crate) const PLAIN_BYTES_MAX: usize = PACK_PAGES_MAX * PAGE_BYTES;

/// Compresses `plain` to the front of `into`; the length, `None` if it does not fit.
pub(crate) fn compress(plain: &[u8], into: &mut [u8]) -> Option<usize> {
    lz4_flex::block::compress_into(plain, into).ok()
}

/// Decompresses exactly `plain.len()` bytes.
pub(crate) fn decompress(packed: &[u8], plain: &mut [u8]) -> Result<(), StreamFault> {
    match lz4_flex::block::decompress_into(packed, plain) {
        Ok(length) if length == plain.len() => Ok(()),
        _ => Err(StreamFault::Value),
    }
}
