//! The interrupt flag. On the host, where it is out of reach, it is always off.

/// What the interrupt flag was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// Interrupts were on.
    On,
    /// Interrupts were off.
    Off,
}

/// Turns interrupts off and tells what they were.
#[inline]
pub fn disable() -> Saved {
    if !are_enabled() {
        return Saved::Off;
    }
    #[cfg(target_os = "none")]
    x86_64::instructions::interrupts::disable();
    Saved::On
}

/// Turns interrupts on again if they were on.
#[inline]
pub fn restore(saved: Saved) {
    #[cfg(target_os = "none")]
    if saved == Saved::On {
        x86_64::instructions::interrupts::enable();
    }
    #[cfg(not(target_os = "none"))]
    let _ = saved;
}

/// Turns interrupts on.
#[inline]
pub fn enable() {
    restore(Saved::On);
}

/// Whether interrupts are on.
#[inline]
#[must_use]
pub fn are_enabled() -> bool {
    cfg!(target_os = "none") && x86_64::instructions::interrupts::are_enabled()
}

/// Waits for an interrupt with interrupts on, then turns them off again: no wake-up between the test for work
/// (made with interrupts off) and the wait is lost, since STI takes effect after the next instruction.
#[inline]
pub fn wait() {
    #[cfg(target_os = "none")]
    {
        x86_64::instructions::interrupts::enable_and_hlt();
        x86_64::instructions::interrupts::disable();
    }
}
