//! Building a guest's machine and giving it to a CPU.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use core::fmt;

use godwit_migration::{GuestDescription, GuestEvent, GuestFailure, GuestId, Refusal, Step};

use super::description;
use super::record::{Record, Shown};
use crate::arch::random;
use crate::exits::StopReason;
use crate::guest::linux::LinuxGuest;
use crate::platform::{Platform, files, wall_clock};
use crate::sched::{self, Assignment, PlaceError};
use crate::vm;
use crate::vm::builder::{self, Begun, BuildError, Construction, Plan};
use crate::vm::handle::{Command, VmHandle};
use crate::vm::memory::{GuestRam, RamError};
use crate::vm::site::{Site, Unready};

/// Why a guest cannot be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartError {
    /// It came from another host; there is no kernel here to start it from.
    NotConfigured,
    /// A file that the configuration names was not loaded.
    NoFile(String),
    /// The machine cannot be built.
    Build(BuildError),
    /// Its memory did not become ready.
    Unready(Unready),
    /// The CPU that was to own it does not take it.
    Place(PlaceError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConfigured => f.write_str("godwit.toml does not name it: it has no kernel here"),
            Self::NoFile(path) => write!(f, "the file '{path}' is not on the boot volume"),
            Self::Build(error) => error.fmt(f),
            Self::Unready(error) => error.fmt(f),
            Self::Place(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for StartError {}

/// A guest whose machine is being built: most of the time its RAM is being cleared.
#[derive(Debug)]
pub struct Building {
    site: Arc<Site>,
    construction: Construction,
}

impl Building {
    /// Has the RAM made ready by the CPU that will run the guest.
    fn begin((construction, site, work): Begun) -> Result<Self, PlaceError> {
        sched::place(site.owner(), Assignment::Prepare(work))?;
        Ok(Self { site, construction })
    }

    /// How far it is, and on which CPU.
    #[must_use]
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Ends it. Its outcome says when its memory has been given back.
    pub(super) fn give_up(&self) {
        if !self.site.is_given_up() {
            self.site.give_up();
            sched::kick(self.site.owner());
        }
    }

    /// Builds the rest around `ram` and gives the machine to its CPU.
    fn finish(
        self,
        ram: GuestRam,
        machines: &'static vm::platform::Platform,
    ) -> Result<(VmHandle, Shown), StartError> {
        // The clock of a guest that comes from elsewhere follows.
        let now = if self.construction.is_incoming() { 0 } else { wall_clock::unix_seconds() };
        let built = self.construction.finish(machines, ram, now, sched::kick);
        let (handle, blueprint) = built.map_err(StartError::Build)?;
        let shown = Shown::by(&blueprint);
        sched::place(self.site.owner(), Assignment::Run(blueprint)).map_err(StartError::Place)?;
        Ok((handle, shown))
    }
}

/// Begins to build the machine of a configured guest on `cpu`.
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
        name: configured.name.as_str().to_string(),
        memory_bytes: u64::from(configured.memory_mib) << 20,
        vcpus: configured.vcpus,
        tsc_hz: machines.tsc_hz,
        shown: None,
        owner: cpu,
    };
    let begun = builder::linux(plan, &linux).map_err(StartError::Build)?;
    record.build(Building::begin(begun).map_err(StartError::Place)?);
    Ok(())
}

/// Begins to build an empty machine for the guest that `description` describes.
pub(super) fn receive(description: &GuestDescription, cpu: usize) -> Result<Building, GuestFailure> {
    let plan = Plan {
        name: description.name.clone(),
        memory_bytes: description.layout.bytes(),
        vcpus: description.vcpus,
        tsc_hz: description.tsc_hz,
        shown: Some(description::shown(&description.features)),
        owner: cpu,
    };
    let begun = builder::incoming(plan).map_err(|error| failure(&error))?;
    Building::begin(begun).map_err(|error| GuestFailure::Host(error.to_string()))
}

/// Goes on with a guest whose RAM is ready, or will not be.
pub(super) fn go_on(
    record: &mut Record,
    (building, outcome): (Building, Result<GuestRam, Unready>),
    machines: &'static vm::platform::Platform,
) {
    let is_incoming = building.construction.is_incoming();
    let reason = match outcome {
        Err(Unready::GivenUp) => StopReason::Requested,
        _ => StopReason::NotTaken,
    };
    let built = outcome.map_err(StartError::Unready).and_then(|ram| building.finish(ram, machines));
    match built {
        Ok((handle, shown)) if is_incoming => {
            record.origin.shown = Some(shown);
            record.attach(handle);
            record.events.push_back(GuestEvent::Built);
        }
        Ok((handle, shown)) => {
            let permit = record.begin_life(GuestId(random::bytes()), shown);
            record.attach(handle);
            record.order(Command::Run(Some(permit)));
        }
        Err(error) if is_incoming => {
            let failure = GuestFailure::Host(error.to_string());
            record.events.push_back(GuestEvent::Failed(Step::Build, failure));
        }
        Err(error) => {
            if reason != StopReason::Requested {
                log::error!("{} cannot run: {error}", record.name());
            }
            record.end_unbuilt(reason);
        }
    }
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
pub(super) mod tests {
    use super::*;
    use crate::vm::site::Work;

    /// What is being built, and the work, which the test does for the CPU.
    pub(in super::super) fn building((construction, site, work): Begun) -> (Building, Work) {
        (Building { site, construction }, work)
    }

    #[test]
    fn a_peer_learns_what_kind_of_memory_its_guest_is_refused_for() {
        let ram = RamError::OutOfMemory { wanted: 3 << 21, available: 1 << 21 };
        let refusal = Refusal::Memory { needed_bytes: 3 << 21, free_bytes: 1 << 21 };
        assert_eq!(failure(&BuildError::Ram(ram)), GuestFailure::Refused([refusal].into()));
        let words = "the host has no memory left for the tables of a guest of 1024 MiB";
        assert_eq!(failure(&BuildError::Ram(RamError::NoTables(1 << 30))), GuestFailure::Host(words.into()));
    }
}
