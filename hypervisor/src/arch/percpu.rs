#![expect(unsafe_code, reason = "GS-relative access to the data of the running CPU")]
//! Data of each CPU, reached through the GS base.
//!
//! SAFETY vocabulary: *the block* is the [`PerCpu`] whose address [`install`] wrote to the GS base of this CPU;
//! blocks are never freed and all that changes in them is atomic.

use core::sync::atomic::{AtomicU32, Ordering};

use spin::Once;

use super::time_account::TimeAccount;
use super::{interrupts, tsc};

/// Most CPUs that are used; more are left alone and said in the log.
pub const CPUS_MAX: usize = 64;

/// What one CPU is known by, and what is owed to it.
#[derive(Debug)]
pub struct PerCpu {
    index: usize,
    apic_id: AtomicU32,
    held_levels: AtomicU32,
    pending: AtomicU32,
    time: TimeAccount,
}

static BOOT: PerCpu = PerCpu::new(0, 0);
static ALL: [Once<&'static PerCpu>; CPUS_MAX] = [const { Once::new() }; CPUS_MAX];

impl PerCpu {
    /// The block of CPU number `index` with local APIC id `apic_id`.
    #[must_use]
    pub const fn new(index: usize, apic_id: u32) -> Self {
        Self {
            index,
            apic_id: AtomicU32::new(apic_id),
            held_levels: AtomicU32::new(0),
            pending: AtomicU32::new(0),
            time: TimeAccount::new(),
        }
    }

    /// Where its time went.
    #[must_use]
    pub const fn time(&self) -> &TimeAccount {
        &self.time
    }

    /// Position in the list of CPUs; the boot CPU is 0.
    #[must_use]
    pub const fn index(&self) -> usize {
        self.index
    }

    /// Local APIC id.
    #[must_use]
    pub fn apic_id(&self) -> u32 {
        self.apic_id.load(Ordering::Relaxed)
    }

    /// Notes the local APIC id, known for certain only to the CPU itself.
    pub fn set_apic_id(&self, id: u32) {
        self.apic_id.store(id, Ordering::Relaxed);
    }

    /// Raises `events` (bits with a meaning of the loop's own).
    pub fn raise(&self, events: u32) {
        self.pending.fetch_or(events, Ordering::Release);
    }

    /// Whether events are raised.
    pub fn has_events(&self) -> bool {
        self.pending.load(Ordering::Acquire) != 0
    }

    /// Takes the events raised so far.
    pub fn take_events(&self) -> u32 {
        self.pending.swap(0, Ordering::Acquire)
    }
}

/// Makes `block` the block of the running CPU.
///
/// # Safety
/// The block belongs to no other CPU, and GS-relative data is not in use yet.
pub unsafe fn install(block: &'static PerCpu) {
    ALL[block.index].call_once(|| block);
    x86_64::registers::model_specific::GsBase::write(x86_64::VirtAddr::from_ptr(block));
}

/// Makes the boot CPU's block current: number 0, with local APIC id `apic_id`.
///
/// # Safety
/// Called once, by the boot CPU, before anything that takes a lock.
pub unsafe fn install_boot(apic_id: u32) -> &'static PerCpu {
    BOOT.apic_id.store(apic_id, Ordering::Relaxed);
    // SAFETY: the boot CPU's own block, installed once by the contract.
    unsafe { install(&BOOT) };
    &BOOT
}

/// The block of the running CPU, or `None` on the host and before [`install`].
#[inline]
#[must_use]
pub fn current() -> Option<&'static PerCpu> {
    #[cfg(target_os = "none")]
    {
        let base = x86_64::registers::model_specific::GsBase::read();
        if base.is_null() {
            return None;
        }
        // SAFETY: a non-null GS base is *the block*, which lives for good; it is shared only as `&`.
        Some(unsafe { &*base.as_ptr::<PerCpu>() })
    }
    #[cfg(not(target_os = "none"))]
    None
}

/// The block of CPU number `index`, once it runs.
#[must_use]
pub fn of(index: usize) -> Option<&'static PerCpu> {
    ALL.get(index)?.get().copied()
}

/// The blocks of all CPUs that run, in ascending order.
pub fn all() -> impl Iterator<Item = &'static PerCpu> {
    ALL.iter().filter_map(|block| block.get().copied())
}

/// Waits for an interrupt as [`interrupts::wait`] does, and accounts for it.
pub fn idle() {
    let Some(block) = current() else { return interrupts::wait() };
    block.time.begin_idle(tsc::read());
    interrupts::wait();
    block.time.end_idle(tsc::read());
}

/// Number of the running CPU; 0 before [`install`] and on the host.
#[inline]
#[must_use]
pub fn index() -> usize {
    current().map_or(0, PerCpu::index)
}

/// Levels of the locks that the running CPU holds.
#[inline]
#[must_use]
pub fn held_levels() -> u32 {
    current().map_or(0, |block| block.held_levels.load(Ordering::Relaxed))
}

/// Notes the levels of the locks that the running CPU holds.
#[inline]
pub fn set_held_levels(levels: u32) {
    if let Some(block) = current() {
        block.held_levels.store(levels, Ordering::Relaxed);
    }
}
