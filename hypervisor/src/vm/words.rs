//! Words that several CPUs share, as many as a guest's RAM asks for: a peer may have chosen how much that is, so having
//! no memory for them is an answer and no panic.

use alloc::boxed::Box;
use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;

/// `count` zeros.
///
/// # Errors
/// [`TryReserveError`] if there is no memory for them.
pub(super) fn zeroed(count: usize) -> Result<Box<[AtomicU64]>, TryReserveError> {
    let mut words = Vec::new();
    words.try_reserve_exact(count)?;
    words.resize_with(count, AtomicU64::default);
    Ok(words.into_boxed_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_no_memory_for_is_an_error() {
        assert_eq!(zeroed(3).unwrap().len(), 3);
        assert!(zeroed(usize::MAX).is_err());
        assert!(zeroed(1 << 56).is_err());
    }
}
