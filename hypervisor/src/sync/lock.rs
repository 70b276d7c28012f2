//! A ticket lock that keeps interrupts off.

use core::ops::{Deref, DerefMut};

use spin::mutex::{TicketMutex, TicketMutexGuard};

use super::Level;
use crate::arch::{interrupts, percpu};

/// A value that one CPU at a time may touch, from interrupt handlers too.
#[derive(Debug)]
pub struct Lock<T> {
    level: Level,
    value: TicketMutex<T>,
}

/// Access to the value of a [`Lock`]; dropping it gives the lock back.
#[derive(Debug)]
pub struct Guard<'a, T> {
    // Field order is drop order: the lock is free before interrupts may come again.
    value: TicketMutexGuard<'a, T>,
    _held: Held,
}

/// The bookkeeping of one held lock: its level and whether interrupts were on.
#[derive(Debug)]
struct Held {
    level: Level,
    interrupts: interrupts::Saved,
}

impl Held {
    fn enter(level: Level) -> Self {
        let interrupts = interrupts::disable();
        let held = percpu::held_levels();
        assert!(level.may_follow(held), "lock order: {level:?} taken while holding levels {held:#b}");
        percpu::set_held_levels(held | level.bit());
        Self { level, interrupts }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        percpu::set_held_levels(percpu::held_levels() & !self.level.bit());
        interrupts::restore(self.interrupts);
    }
}

impl<T> Lock<T> {
    /// A free lock around `value`.
    pub const fn new(level: Level, value: T) -> Self {
        Self { level, value: TicketMutex::new(value) }
    }

    /// Waits for the lock and takes it.
    ///
    /// # Panics
    /// If this CPU already holds a lock of the same or a higher level.
    pub fn lock(&self) -> Guard<'_, T> {
        let held = Held::enter(self.level);
        Guard { value: self.value.lock(), _held: held }
    }

    /// Takes the lock if it is free, whatever else is held: for the panic path, which must not wait.
    pub fn try_lock_in_panic(&self) -> Option<TicketMutexGuard<'_, T>> {
        self.value.try_lock()
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}
