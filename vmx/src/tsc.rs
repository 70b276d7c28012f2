//! Arithmetic of TSC offsetting and scaling (SDM 26.3): `guest = host × multiplier / 2^48 + offset`.
#![expect(unsafe_code, reason = "RDTSC is an intrinsic marked unsafe")]

/// Fraction bits of the multiplier.
const FRACTION_BITS: u32 = 48;

/// The host's time-stamp counter.
#[inline(always)]
#[must_use]
pub fn host() -> u64 {
    // SAFETY: every processor with VMX has RDTSC.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// How a guest's TSC follows the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TscMapping {
    /// Fixed-point multiplier, 48 fraction bits.
    pub multiplier: u64,
    /// Added after the multiplication, wrapping.
    pub offset: u64,
}

/// The multiplier of a guest that runs at the host's frequency.
pub const UNITY: u64 = 1 << FRACTION_BITS;

/// The multiplier by which a guest sees `guest_hz` on a host that counts `host_hz`; `None` if it cannot be
/// expressed.
#[must_use]
pub fn multiplier(guest_hz: u64, host_hz: u64) -> Option<u64> {
    let scaled = (u128::from(guest_hz) << FRACTION_BITS).checked_div(u128::from(host_hz))?;
    u64::try_from(scaled).ok().filter(|multiplier| *multiplier != 0)
}

impl TscMapping {
    /// The guest's TSC equals the host's.
    pub const IDENTITY: Self = Self { multiplier: UNITY, offset: 0 };

    /// The mapping by which the guest's TSC reads `guest` when the host's reads `host`.
    #[must_use]
    pub const fn anchored(multiplier: u64, host: u64, guest: u64) -> Self {
        Self { multiplier, offset: guest.wrapping_sub(scale(multiplier, host)) }
    }

    /// The guest's TSC when the host's is `host`.
    #[must_use]
    #[inline(always)]
    pub const fn guest(self, host: u64) -> u64 {
        scale(self.multiplier, host).wrapping_add(self.offset)
    }

    /// The first host TSC at which the guest's is at least `guest`; saturates at the ends of the host's time. The offset is
    /// taken to have a sign: neither counter gets as far as 2^63.
    #[must_use]
    pub const fn host(self, guest: u64) -> u64 {
        let scaled = guest as i128 - self.offset as i64 as i128;
        if scaled <= 0 {
            return 0;
        }
        if self.multiplier == 0 {
            return u64::MAX;
        }
        // At most 65 bits, so that shifted it fits.
        let scaled = scaled as u128;
        let host = if self.multiplier == UNITY {
            scaled
        } else {
            (scaled << FRACTION_BITS).div_ceil(self.multiplier as u128)
        };
        if host > u64::MAX as u128 { u64::MAX } else { host as u64 }
    }
}

#[inline(always)]
const fn scale(multiplier: u64, host: u64) -> u64 {
    if multiplier == UNITY {
        return host;
    }
    ((host as u128 * multiplier as u128) >> FRACTION_BITS) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_anchored_clock_goes_on_where_it_was() {
        let mapping = TscMapping::anchored(UNITY, 1_000_000, 77);
        assert_eq!(mapping.guest(1_000_000), 77);
        assert_eq!(mapping.guest(1_000_500), 577);
        assert_eq!(mapping.host(577), 1_000_500);
    }

    /// Guests that want no timer write the end of time into IA32_TSC_DEADLINE: that must not have come already.
    #[test]
    fn the_ends_of_the_guests_time_are_not_wrapped_into_the_hosts() {
        let half = UNITY / 2;
        for multiplier in [UNITY, half] {
            let behind = TscMapping::anchored(multiplier, 1 << 40, 0);
            assert_eq!(behind.host(u64::MAX - 16), u64::MAX, "later than the host will ever be");
            let ahead = TscMapping::anchored(multiplier, 1000, 1 << 40);
            assert_eq!(ahead.host(5), 0, "before the host was turned on");
        }
    }

    #[test]
    fn a_faster_host_is_scaled_down() {
        let half = multiplier(1_000_000_000, 2_000_000_000).unwrap();
        assert_eq!(half, UNITY / 2);
        assert_eq!(TscMapping::anchored(half, 0, 0).guest(1000), 500);
        assert_eq!(multiplier(1, 0), None);
        assert_eq!(multiplier(u64::MAX, 1), None);
    }

    proptest! {
        #[test]
        fn host_time_of_a_guest_deadline_is_the_first_that_reaches_it(
            guest_mhz in 500_u64..5000, host_mhz in 500_u64..5000, anchor in 0_u64..1 << 50, ahead in 0_u64..1 << 40,
        ) {
            let mapping = TscMapping::anchored(multiplier(guest_mhz, host_mhz).unwrap(), anchor, 42);
            let host = mapping.host(42 + ahead);
            prop_assert!(mapping.guest(host) >= 42 + ahead);
            prop_assert!(host == 0 || mapping.guest(host - 1) < 42 + ahead);
        }
    }
}
