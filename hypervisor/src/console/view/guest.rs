//! Guests as the console sees them.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

/// Where a guest is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestState {
    /// Configured, and not running: never started, or ended.
    Stopped,
    /// It starts: its memory is being cleared, and [`GuestView::reason`] says how far that is.
    Starting,
    /// Its vCPUs run or are halted until an interrupt.
    Running,
    /// A person or a migration holds its vCPUs.
    Paused,
    /// It is on its way in from another host and may not run yet.
    Arriving,
    /// Something it did, or something the host lacked, ended it; [`GuestView::reason`] says what.
    Failed,
}

impl fmt::Display for GuestState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Arriving => "arriving",
            Self::Failed => "failed",
        })
    }
}

/// One guest of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestView {
    /// Its name, unique on this host.
    pub name: String,
    /// Where it is in its life.
    pub state: GuestState,
    /// Why it is in that state, if there is something to say: `powered off`, `triple fault at 0x…`.
    pub reason: Option<String>,
    /// RAM, in bytes.
    pub memory_bytes: u64,
    /// Number of virtual CPUs.
    pub vcpus: u32,
    /// Index of the physical CPU whose loop owns it, while it has one.
    pub cpu: Option<u32>,
    /// Time it has run, on every host, without its pauses: the time its own clock shows.
    pub uptime: Duration,
    /// When its first instruction here was executed, counted from the loader's handoff to the hypervisor.
    pub entered: Option<Duration>,
    /// VM exits since it came to this host.
    pub exits: u64,
    /// The same by cause, the most frequent first; at most a screenful.
    pub exits_by_cause: Vec<(&'static str, u64)>,
    /// The kernel's file name.
    pub kernel: String,
    /// The kernel's command line.
    pub command_line: String,
    /// Pages of its memory that have not come yet from the host it came from.
    pub absent_pages: usize,
    /// Whether those will never come.
    pub absent_are_lost: bool,
    /// Virtual CPUs that wait for a page, and its guest-physical address.
    pub waits: Vec<(usize, u64)>,
    /// The host it came from, if it was not started here.
    pub arrived_from: Option<String>,
}
