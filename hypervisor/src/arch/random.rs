#![expect(unsafe_code, reason = "RDRAND")]
//! Random numbers for identities: unpredictable where the processor has RDRAND, merely different elsewhere.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use super::cpu::cpuid;

/// CPUID leaf 1, ECX bit 30: RDRAND.
const RDRAND: u32 = 1 << 30;
/// The manual asks for ten tries (SDM volume 1, section 7.3.17.1).
const TRIES: usize = 10;

static COUNTER: AtomicU64 = AtomicU64::new(0);

/// A random number.
#[must_use]
pub fn number() -> u64 {
    hardware().unwrap_or_else(|| mix(super::tsc::read() ^ COUNTER.fetch_add(1, Ordering::Relaxed) << 48))
}

/// Sixteen random bytes.
#[must_use]
pub fn bytes() -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number().to_le_bytes());
    bytes[8..].copy_from_slice(&number().to_le_bytes());
    bytes
}

fn hardware() -> Option<u64> {
    if cpuid(1, 0).ecx & RDRAND == 0 {
        return None;
    }
    (0..TRIES).find_map(|_| {
        let (value, success): (u64, u8);
        // SAFETY: the processor has the instruction, which only writes a register and the flags.
        unsafe {
            asm!("rdrand {}", "setc {}", out(reg) value, out(reg_byte) success, options(nomem, nostack))
        };
        (success != 0).then_some(value)
    })
}

/// Spreads the bits of `value` over all of the result (the finaliser of SplitMix64).
const fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_differ() {
        assert_ne!(number(), number());
        assert_ne!(bytes(), bytes());
        assert_ne!(mix(1), mix(2));
    }
}
