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

/// For how many entries the timer may be left to go on where it stopped.
///
/// With the VM-exit control "save VMX-preemption timer value" an entry resumes the countdown of the last, so it need not
/// be computed and written for every entry. It does not count while the host works, however: each entry at which it
/// is left alone makes it late by what the exit before it took. That is bounded here, and only short exits may
/// count on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coast {
    left: u32,
    entries_max: u32,
}

impl Coast {
    /// At most `entries_max` entries between two at which the timer is set; 0 for a processor that does not save it.
    #[must_use]
    pub const fn new(entries_max: u32) -> Self {
        Self { left: 0, entries_max }
    }

    /// Whether the timer must be set before this entry. The first time it must.
    #[must_use]
    #[inline(always)]
    pub const fn is_over(&mut self) -> bool {
        if self.left == 0 {
            self.left = self.entries_max;
            return true;
        }
        self.left -= 1;
        false
    }

    /// The timer must be set before the next entry: the deadline may have changed, or the exit took long.
    #[inline(always)]
    pub const fn end(&mut self) {
        self.left = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_timer_that_is_saved_is_set_once_in_a_while_and_when_something_changed() {
        let mut coast = Coast::new(2);
        let taken: [bool; 5] = core::array::from_fn(|_| coast.is_over());
        assert_eq!(taken, [true, false, false, true, false]);
        coast.end();
        assert!(coast.is_over());
        let mut never = Coast::new(0);
        assert!(never.is_over() && never.is_over(), "one that is not saved is set at every entry");
    }

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
