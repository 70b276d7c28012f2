//! The network card's interrupt: acknowledged here, worked on by the loop that polls the network.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::{drivers::net::AcknowledgeInterrupt, sync::Once};

static CARD: Once<Box<dyn AcknowledgeInterrupt>> = Once::new();
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// Makes [`handle`] acknowledge interrupts of `card`; the first card stays.
pub fn install(card: Box<dyn AcknowledgeInterrupt>) {
    CARD.call_once(|| card);
}

/// The interrupt handler. The loop polls the network after every wake-up, so nothing else need be noted.
pub fn handle() {
    if CARD.get().is_some_and(|card| card.acknowledge()) {
        TAKEN.fetch_add(1, Ordering::Relaxed);
    }
}

/// Interrupts that were the card's, so far: zero while frames arrive means that its interrupt does not get
/// through, and that it must be polled by time.
#[must_use]
pub fn count() -> u64 {
    TAKEN.load(Ordering::Relaxed)
}
