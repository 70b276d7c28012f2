//! The hypervisor's own memory: frames, page tables, heap, memory shared with devices.
//!
//! All RAM is mapped at [`godwit_boot::handoff::DIRECT_MAP`], writable and never executable; that is how
//! frames are reached. Device registers are mapped elsewhere, uncached, one window at a time.

pub mod direct;
pub mod dma;
pub mod frames;
pub mod heap;
pub mod mmio;
pub mod paging;
pub mod stack;
