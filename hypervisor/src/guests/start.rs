//! Building a guest's machine and giving it to a CPU.

use alloc::string::{String, ToString};
use core::fmt;

use godwit_migration::{GuestDescription, GuestFailure, GuestId, Refusal};

use super::description;
use super::record::{Record, Shown};
use crate::arch::random;
use crate::guest::linux::LinuxGuest;
use crate::platform::{Platform, files, wall_clock};
use crate::sched::{self, PlaceError};
use crate::vm;
use crate::vm::builder::{self, BuildError, Plan};
use crate::vm::handle::{Command, VmHandle};
use crate::vm::memory::RamError;

/// Why a guest cannot be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartError {
    /// It came from another host; there is no kernel here to start it from.
    NotConfigured,
    /// A file that the configuration names was not loaded.
    NoFile(String),
    /// The machine cannot be built.
    Build(BuildError),
    /// The CPU that was to own it does not take it.
    Place(PlaceError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConfigured => f.write_str("godwit.toml does not name it: it has no kernel here"),
            Self::NoFile(path) => write!(f, "the file '{path}' is not on the boot volume"),
            Self::Build(error) => error.fmt(f),
            Self::Place(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for StartError {}

/// Builds the machine of a configured guest on `cpu` and runs it.
pub(super) fn start(
    record: &mut Record,
    platform: &'static Platform,
    machines: &'static vm::platform::Platform,
    cpu: usize,
) -> Result<(), StartError> {
    let configured = record.configuration().ok_or(StartError::NotConfigured)?;
    let read =
        |path: &str| files::content(platform.info, path).ok_or_else(|| StartError::NoFile(path.to_string()));
    let kernel = read(configured.kernel.as_str())?;
    let initrd = configured.initrd().map(read).transpose()?;
    let linux = LinuxGuest {
        kernel,
        initrd,
        command_line: configured.command_line.as_str(),
        vcpus: configured.vcpus as usize,
    };
    let plan = Plan {
        name: configured.name.as_str(),
        memory_bytes: u64::from(configured.memory_mib) << 20,
        vcpus: configured.vcpus,
        tsc_hz: machines.tsc_hz,
        shown: None,
        wall_clock_unix_seconds: wall_clock::unix_seconds(),
        owner: cpu,
    };
    let (handle, blueprint) =
        builder::linux(machines, &plan, &linux, sched::kick).map_err(StartError::Build)?;
    let shown = Shown::by(&blueprint);
    sched::place(cpu, blueprint).map_err(StartError::Place)?;
    let permit = record.begin_life(GuestId(random::bytes()), shown);
    record.attach(handle);
    record.order(Command::Run(Some(permit)));
    Ok(())
}

/// Builds an empty machine for the guest that `description` describes.
pub(super) fn receive(
    description: &GuestDescription,
    machines: &'static vm::platform::Platform,
    cpu: usize,
) -> Result<(VmHandle, Shown), GuestFailure> {
    let plan = Plan {
        name: &description.name,
        memory_bytes: description.layout.bytes(),
        vcpus: description.vcpus,
        tsc_hz: description.tsc_hz,
        shown: Some(description::shown(&description.features)),
        // The clock's own state follows.
        wall_clock_unix_seconds: 0,
        owner: cpu,
    };
    let (handle, blueprint) =
        builder::incoming(machines, &plan, sched::kick).map_err(|error| failure(&error))?;
    let shown = Shown::by(&blueprint);
    sched::place(cpu, blueprint).map_err(|error| GuestFailure::Host(error.to_string()))?;
    Ok((handle, shown))
}

fn failure(error: &BuildError) -> GuestFailure {
    match error {
        BuildError::Ram(RamError::OutOfMemory { wanted, available }) => {
            GuestFailure::Refused([Refusal::Memory { needed_bytes: *wanted, free_bytes: *available }].into())
        }
        other => GuestFailure::Host(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_learns_what_kind_of_memory_its_guest_is_refused_for() {
        let ram = RamError::OutOfMemory { wanted: 3 << 21, available: 1 << 21 };
        let refusal = Refusal::Memory { needed_bytes: 3 << 21, free_bytes: 1 << 21 };
        assert_eq!(failure(&BuildError::Ram(ram)), GuestFailure::Refused([refusal].into()));
        let words = "the host has no memory left for the tables of a guest of 1024 MiB";
        assert_eq!(failure(&BuildError::Ram(RamError::NoTables(1 << 30))), GuestFailure::Host(words.into()));
    }
}
