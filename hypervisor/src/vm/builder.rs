//! Building machines: one that starts here from a kernel, and one that comes from another host.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use super::frames::HostFrames;
use super::handle::{Shared, VmHandle};
use super::lifecycle::State;
use super::machine::Blueprint;
use super::memory::{GuestRam, RamError};
use super::platform::Platform;
use super::startup;
use super::state::{Entry64, SegmentState, TableState, VcpuState};
use godwit_boot::config::VCPUS_MAX;

use crate::devices::GuestTime;
use crate::devices::board::{Board, BoardConfig, BoardError};
use crate::exits::cpuid::{CRYSTAL_HZ, told_frequency};
use crate::exits::cpuid_features::FeatureSet;
use crate::guest::entry::{EntryState, Segment};
use crate::guest::layout::{BadMemorySize, MemoryLayout};
use crate::guest::linux::{self, LinuxGuest, LoadError};

/// IA32_MTRR_DEF_TYPE as firmware leaves it: ranges enabled, all memory write-back. Without it Linux does not
/// set up its page attributes.
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;

/// What a machine is to be.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// Name.
    pub name: &'a str,
    /// Bytes of RAM, a multiple of 2 MiB.
    pub memory_bytes: u64,
    /// Number of processors.
    pub vcpus: u32,
    /// Frequency of its TSC, in Hz.
    pub tsc_hz: u64,
    /// The features that it has been shown, if it comes from another host.
    pub shown: Option<FeatureSet>,
    /// Wall-clock time when its TSC is zero, in seconds since 1970-01-01 UTC.
    pub wall_clock_unix_seconds: u64,
    /// The CPU whose loop will own it.
    pub owner: usize,
}

/// Why a machine cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// This many processors are not possible.
    Vcpus(u32),
    /// The memory has an impossible size.
    Size(BadMemorySize),
    /// There is not that much memory.
    Ram(RamError),
    /// The kernel cannot be loaded.
    Load(LoadError),
    /// The devices cannot be built.
    Board(BoardError),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vcpus(count) => write!(f, "guests have 1 to {VCPUS_MAX} processors, not {count}"),
            Self::Size(size) => size.fmt(f),
            Self::Ram(error) => error.fmt(f),
            Self::Load(error) => error.fmt(f),
            Self::Board(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for BuildError {}

/// Builds a machine with Linux loaded, ready for its first run.
///
/// # Errors
/// [`BuildError`]; nothing is kept.
pub fn linux(
    platform: &Platform,
    plan: &Plan<'_>,
    guest: &LinuxGuest<'_>,
    kick: fn(usize),
) -> Result<(VmHandle, Blueprint), BuildError> {
    let layout = MemoryLayout::new(plan.memory_bytes).map_err(BuildError::Size)?;
    let (handle, mut blueprint) = build(platform, plan, State::Created, kick)?;
    let entry = linux::load(&*blueprint.ram, layout, guest).map_err(BuildError::Load)?;
    if let Some(first) = blueprint.vcpus.first_mut() {
        *first = first_state(&entry);
    }
    Ok((handle, blueprint))
}

/// Builds an empty machine that waits for its state from another host.
///
/// # Errors
/// [`BuildError`]; nothing is kept.
pub fn incoming(
    platform: &Platform,
    plan: &Plan<'_>,
    kick: fn(usize),
) -> Result<(VmHandle, Blueprint), BuildError> {
    build(platform, plan, State::MovingIn { paused: false }, kick)
}

fn build(
    platform: &Platform,
    plan: &Plan<'_>,
    state: State,
    kick: fn(usize),
) -> Result<(VmHandle, Blueprint), BuildError> {
    if plan.vcpus == 0 || plan.vcpus > VCPUS_MAX {
        return Err(BuildError::Vcpus(plan.vcpus));
    }
    let tsc_hz = told_frequency(plan.tsc_hz);
    let config = BoardConfig {
        vcpus: plan.vcpus as usize,
        tsc_hz,
        crystal_hz: CRYSTAL_HZ,
        wall_clock_unix_seconds: plan.wall_clock_unix_seconds,
    };
    let board = Box::new(Board::new(&config, GuestTime::ZERO).map_err(BuildError::Board)?);
    let ram =
        GuestRam::new(&mut HostFrames, plan.memory_bytes, plan.vcpus as usize).map_err(BuildError::Ram)?;
    let ram = Arc::new(ram);
    let shared = Shared::new(plan.name, plan.vcpus, Arc::clone(&ram), state.clone(), plan.owner, kick);
    let handle = Arc::new(shared);
    let first = first_state(&EntryState::at(0));
    let waiting = startup::after_init(first.clone());
    let vcpus: Vec<VcpuState> =
        (0..plan.vcpus).map(|index| if index == 0 { first.clone() } else { waiting.clone() }).collect();
    let policy = Box::new(platform.policy(plan.vcpus, tsc_hz, plan.shown.as_ref()));
    let blueprint = Blueprint { handle: Arc::clone(&handle), ram, board, policy, vcpus, state };
    Ok((handle, blueprint))
}

/// The processor's first state as the boot protocol wants it.
fn first_state(entry: &EntryState) -> VcpuState {
    let segment = |segment: Segment| SegmentState {
        selector: segment.selector,
        base: segment.base,
        limit: segment.limit,
        access: segment.access_rights,
    };
    let mut state = VcpuState::for_64_bit_entry(&Entry64 {
        rip: entry.rip,
        rsp: entry.rsp,
        rsi: entry.rsi,
        cr3: entry.cr3,
        gdt_base: entry.gdtr.base,
        gdt_limit: entry.gdtr.limit,
        code_selector: entry.cs.selector,
        data_selector: entry.data.selector,
    });
    state.rflags = entry.rflags;
    state.control.cr0 = entry.cr0;
    state.control.cr4 = entry.cr4;
    state.msrs.efer = entry.efer;
    state.msrs.mtrr_def_type = MTRR_WRITE_BACK;
    let data = segment(entry.data);
    state.segments.cs = segment(entry.cs);
    state.segments.tr = segment(entry.tr);
    state.segments.ldtr = segment(entry.ldtr);
    state.segments.idtr = TableState { base: entry.idtr.base, limit: entry.idtr.limit };
    for place in [
        &mut state.segments.ds,
        &mut state.segments.es,
        &mut state.segments.ss,
        &mut state.segments.fs,
        &mut state.segments.gs,
    ] {
        *place = data;
    }
    state
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::memory::BLOCK_BYTES;
    use super::super::memory::testing::HeapBlocks;
    use super::*;

    /// A machine of one block of RAM whose TSC runs at `tsc_hz`.
    pub(crate) fn blueprint(tsc_hz: u64) -> (VmHandle, Blueprint) {
        let ram = Arc::new(GuestRam::new(&mut HeapBlocks { left: 1 }, BLOCK_BYTES, 1).unwrap());
        let config = BoardConfig { vcpus: 1, tsc_hz, crystal_hz: CRYSTAL_HZ, wall_clock_unix_seconds: 0 };
        let board = Box::new(Board::new(&config, GuestTime::ZERO).unwrap());
        let shared = Shared::new("linux", 1, Arc::clone(&ram), State::Created, 0, |_| {});
        let handle = Arc::new(shared);
        let policy = Box::new(crate::exits::Policy { tsc_hz, ..crate::exits::testing::policy() });
        let vcpus = alloc::vec![first_state(&EntryState::at(0))];
        let state = State::Created;
        (Arc::clone(&handle), Blueprint { handle, ram, board, policy, vcpus, state })
    }

    #[test]
    fn the_first_state_is_what_the_boot_protocol_wants() {
        let entry = EntryState::at(0x100_0200);
        let state = first_state(&entry);
        assert_eq!((state.rip, state.general[4], state.general[6]), (0x100_0200, entry.rsp, entry.rsi));
        assert_eq!(state.segments.cs.access, entry.cs.access_rights);
        assert_eq!(state.segments.tr.selector, entry.tr.selector);
        assert_eq!(state.control.cr0, entry.cr0);
    }
}
