//! Building machines: one that starts here from a kernel, and one that comes from another host.
//!
//! What can be refused is refused at once. Then the machine's RAM is made ready, which takes its time
//! ([`super::site`]), and what is left is done in no time: [`Construction::finish`].

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use super::frames::{HostFrames, PromisedFrames};
use super::handle::{Shared, VmHandle};
use super::lifecycle::State;
use super::machine::Blueprint;
use super::memory::{GuestRam, RamError, RawRam};
use super::platform::Platform;
use super::site::{Content, Site, Work};
use super::startup;
use super::state::{Entry64, SegmentState, TableState, VcpuState};
use godwit_boot::config::VCPUS_MAX;

use crate::devices::GuestTime;
use crate::devices::board::{Board, BoardConfig, BoardError};
use crate::exits::cpuid::{CRYSTAL_HZ, told_frequency};
use crate::exits::cpuid_features::FeatureSet;
use crate::guest::entry::{EntryState, Segment};
use crate::guest::layout::{BadMemorySize, MemoryLayout};
use crate::guest::linux::{LinuxGuest, LoadError, Loading};

/// IA32_MTRR_DEF_TYPE as firmware leaves it: ranges enabled, all memory write-back. Without it Linux does not
/// set up its page attributes.
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;

/// What a machine is to be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Name.
    pub name: String,
    /// Bytes of RAM, a multiple of 2 MiB.
    pub memory_bytes: u64,
    /// Number of processors.
    pub vcpus: u32,
    /// Frequency of its TSC, in Hz.
    pub tsc_hz: u64,
    /// The features that it has been shown, if it comes from another host.
    pub shown: Option<FeatureSet>,
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

/// A machine that can be built as soon as its RAM is ready. All that could be refused has been.
#[derive(Debug)]
pub struct Construction {
    plan: Plan,
    /// What starts in it, if it starts here.
    linux: Option<Loading<'static>>,
}

/// The same, and who gets its RAM ready.
pub type Begun = (Construction, Arc<Site>, Work);

/// Begins to build a machine in which Linux is to be loaded.
///
/// # Errors
/// [`BuildError`]; nothing is kept.
pub fn linux(plan: Plan, guest: &LinuxGuest<'static>) -> Result<Begun, BuildError> {
    let layout = MemoryLayout::new(plan.memory_bytes).map_err(BuildError::Size)?;
    let loading = Loading::new(layout, guest).map_err(BuildError::Load)?;
    begin(plan, Some(loading))
}

/// Begins to build an empty machine that waits for its state from another host.
///
/// # Errors
/// [`BuildError`]; nothing is kept.
pub fn incoming(plan: Plan) -> Result<Begun, BuildError> {
    begin(plan, None)
}

fn begin(plan: Plan, linux: Option<Loading<'static>>) -> Result<Begun, BuildError> {
    if plan.vcpus == 0 || plan.vcpus > VCPUS_MAX {
        return Err(BuildError::Vcpus(plan.vcpus));
    }
    plan.board(0).check().map_err(BuildError::Board)?;
    let (bytes, vcpus) = (plan.memory_bytes, plan.vcpus as usize);
    // The migration that brings one was promised its tables: what else the heap can spare is not asked for.
    let ram = match linux {
        Some(_) => RawRam::take(&mut HostFrames, bytes, vcpus),
        None => RawRam::take(&mut PromisedFrames, bytes, vcpus),
    };
    let ram = ram.map_err(BuildError::Ram)?;
    let contents = linux.iter().flat_map(Loading::contents);
    let contents = contents.map(|(address, bytes)| Content { address, bytes }).collect();
    let (site, work) = Work::new(ram, contents, plan.owner);
    Ok((Construction { plan, linux }, site, work))
}

impl Plan {
    /// Its devices, if its TSC is zero at this time of the wall clock.
    fn board(&self, wall_clock_unix_seconds: u64) -> BoardConfig {
        BoardConfig {
            vcpus: self.vcpus as usize,
            tsc_hz: told_frequency(self.tsc_hz),
            crystal_hz: CRYSTAL_HZ,
            wall_clock_unix_seconds,
        }
    }
}

impl Construction {
    /// Whether it waits for its state from another host.
    #[must_use]
    pub const fn is_incoming(&self) -> bool {
        self.linux.is_none()
    }

    /// The machine, ready for its first run or for its state. `wall_clock_unix_seconds` is the time now, in seconds since
    /// 1970-01-01 UTC.
    ///
    /// # Errors
    /// [`BuildError`]; nothing is kept.
    pub fn finish(
        self,
        platform: &Platform,
        ram: GuestRam,
        wall_clock_unix_seconds: u64,
        kick: fn(usize),
    ) -> Result<(VmHandle, Blueprint), BuildError> {
        let Self { plan, linux } = self;
        let board = plan.board(wall_clock_unix_seconds);
        let tsc_hz = board.tsc_hz;
        let board = Box::new(Board::new(&board, GuestTime::ZERO).map_err(BuildError::Board)?);
        let (entry, state) = match linux {
            Some(loading) => (loading.finish(&ram).map_err(BuildError::Load)?, State::Created),
            None => (EntryState::at(0), State::MovingIn { paused: false }),
        };
        let ram = Arc::new(ram);
        let shared = Shared::new(&plan.name, plan.vcpus, Arc::clone(&ram), state.clone(), plan.owner, kick);
        let handle = Arc::new(shared);
        let first = first_state(&entry);
        let waiting = startup::after_init(first_state(&EntryState::at(0)));
        let vcpus: Vec<VcpuState> =
            (0..plan.vcpus).map(|index| if index == 0 { first.clone() } else { waiting.clone() }).collect();
        let policy = Box::new(platform.policy(plan.vcpus, tsc_hz, plan.shown.as_ref()));
        let blueprint = Blueprint { handle: Arc::clone(&handle), ram, board, policy, vcpus, state };
        Ok((handle, blueprint))
    }
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
    use crate::guest::bzimage::tests::image;

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

    /// A guest with a block of RAM that comes from elsewhere, on its way to CPU 1.
    pub(crate) fn incoming() -> Begun {
        let plan = Plan {
            name: "linux".into(),
            memory_bytes: BLOCK_BYTES,
            vcpus: 1,
            tsc_hz: 1_000_000_000,
            shown: None,
            owner: 1,
        };
        let ram = RawRam::take(&mut HeapBlocks { left: 1 }, BLOCK_BYTES, 1).unwrap();
        let (site, work) = Work::new(ram, Vec::new(), plan.owner);
        (Construction { plan, linux: None }, site, work)
    }

    /// The same, to start there.
    pub(crate) fn starting() -> Begun {
        let (mut construction, site, work) = incoming();
        let guest = LinuxGuest { kernel: image().leak(), initrd: None, command_line: "", vcpus: 1 };
        construction.linux = Some(Loading::new(MemoryLayout::new(64 << 20).unwrap(), &guest).unwrap());
        (construction, site, work)
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
