//! The Internet checksum (RFC 1071), eight bytes at a time: where instructions are emulated, summing is the
//! dearest thing that is done to a segment.

/// The ones' complement sum of `bytes` seen as big-endian 16-bit words, not complemented; an odd last byte is
/// padded with zero.
pub(super) fn sum(bytes: &[u8]) -> u16 {
    // The sum is the same in either byte order, up to swapping the result (RFC 1071, 2 (B)).
    let mut total = 0u128;
    let (blocks, rest) = bytes.as_chunks::<64>();
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for word in words {
            total += u128::from(u64::from_le_bytes(*word));
        }
    }
    let (words, rest) = rest.as_chunks::<8>();
    for word in words {
        total += u128::from(u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    fold(total + u128::from(u64::from_le_bytes(last))).swap_bytes()
}

/// The ones' complement sum of two such sums.
pub(super) fn combine(one: u16, other: u16) -> u16 {
    let (sum, carry) = one.overflowing_add(other);
    sum + u16::from(carry)
}

fn fold(total: u128) -> u16 {
    let mut total = total;
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn plain(bytes: &[u8]) -> u16 {
        bytes.chunks(2).fold(0, |sum, pair| {
            combine(sum, u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))
        })
    }

    #[test]
    fn the_example_of_rfc_1071_sums_as_printed() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!(sum(&[]), 0);
        assert_eq!(sum(&[0xff; 4096]), 0xffff);
    }

    proptest! {
        #[test]
        fn the_fast_sum_is_the_plain_sum(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(sum(&bytes), plain(&bytes));
        }

        #[test]
        fn many_ones_carry_right(length in 0usize..600, tail in proptest::collection::vec(any::<u8>(), 0..9)) {
            let mut bytes: Vec<u8> = alloc::vec![0xff; length];
            bytes.extend(tail);
            prop_assert_eq!(sum(&bytes), plain(&bytes));
        }
    }
}
