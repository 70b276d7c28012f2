//! Has the processor fetch the beginning of a page into its caches, as the hypervisor does with the one that is next.
#![expect(unsafe_code, reason = "there is no safe word for a prefetch")]

use godwit_migration::PageBytes;

/// Bytes of a cache line, and how many of them are fetched.
const LINE_BYTES: usize = 64;
const LINES_AHEAD: usize = 16;

/// See the module. Nothing on other processors.
pub(crate) fn prefetch(page: &PageBytes) {
    #[cfg(target_arch = "x86_64")]
    for line in page.chunks(LINE_BYTES).take(LINES_AHEAD) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch changes nothing that a program sees; the address is that of a line of the page.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
}
