//! Arithmetic of the VMX-preemption timer (SDM 26.5.1): it counts down once whenever bit `shift` of the TSC
//! changes.

/// The timer of a processor whose rate is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreemptionTimer {
    shift: u8,
}

impl PreemptionTimer {
    /// A timer that ticks once every `2^shift` TSC ticks; the capability field has 5 bits.
    #[must_use]
    pub const fn new(shift: u8) -> Self {
        Self { shift: shift & 0x1f }
    }

    /// The value that fires at `deadline` or within one timer tick after it, when entered at `now` (both host TSC): 0 if it is
    /// over, the longest time there is if it is too far away.
    #[must_use]
    #[inline(always)]
    pub const fn value_for(self, now: u64, deadline: u64) -> u32 {
        let ticks = deadline.saturating_sub(now);
        let value = (ticks >> self.shift) + (ticks & ((1 << self.shift) - 1) != 0) as u64;
        if value > u32::MAX as u64 { u32::MAX } else { value as u32 }
    }

    /// The longest time the timer can wait, in TSC ticks.
    #[must_use]
    pub const fn ticks_max(self) -> u64 {
        (u32::MAX as u64) << self.shift
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_past_fires_at_once_and_the_far_future_saturates() {
        let timer = PreemptionTimer::new(5);
        assert_eq!(timer.value_for(100, 99), 0);
        assert_eq!(timer.value_for(0, u64::MAX), u32::MAX);
        assert_eq!(PreemptionTimer::new(0).value_for(5, 9), 4);
    }

    proptest! {
        #[test]
        fn it_never_fires_early_nor_more_than_a_tick_late(shift in 0_u8..32, now: u32, ticks: u32) {
            let (now, ticks) = (u64::from(now), u64::from(ticks));
            let waited = u64::from(PreemptionTimer::new(shift).value_for(now, now + ticks)) << shift;
            prop_assert!(waited >= ticks && waited < ticks + (1 << shift));
        }
    }
}
