//! The guests of this host: those that the configuration names, those that came from other hosts, and those on
//! their way.
//!
//! A [`record::Record`] is one guest as people know it, whether it runs or not; the machine that runs it is owned by
//! some CPU's loop and is reached through its handle, one command at a time. [`house`] is how migrations see
//! guests.
#![forbid(unsafe_code)]

pub mod description;
pub mod house;
pub mod record;
pub mod saved;
pub mod start;

use alloc::collections::VecDeque;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use godwit_migration::NoRam;

use crate::exits::StopReason;
use crate::platform::Platform;
use crate::platform::time::Instant;
use crate::vm;
use crate::vm::handle::Command;
use crate::vm::lifecycle::State;

use record::{Errand, Record, Standing};

/// Guests that a host knows at one time: configured, arrived and arriving.
pub const GUESTS_MAX: usize = 64;
/// Ends of guests that wait to be told; the oldest are dropped.
const ENDED_MAX: usize = 16;
/// How often figures are asked for.
const FIGURES_EVERY: Duration = Duration::from_secs(1);

/// Names a guest of this host, for as long as it is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u64);

/// Why a guest does not do what a person wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestError {
    /// There is none of that name.
    NoSuchGuest(String),
    /// It is not where that can be done.
    Standing {
        /// The guest.
        guest: String,
        /// Where it is.
        standing: Standing,
        /// What was wanted.
        action: &'static str,
    },
    /// It is being moved, which decides over it.
    Migrating(String),
    /// A copy of it is being made.
    Cloned(String),
    /// The CPU that ran it has not let go of its machine yet.
    Ending(String),
    /// No guest can run here; why.
    NoGuests(String),
    /// It cannot be built.
    Build(start::StartError),
}

impl fmt::Display for GuestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchGuest(name) => write!(f, "no guest named '{name}'"),
            Self::Standing { guest, standing, action } => {
                write!(f, "cannot {action} {guest}: it is {standing}")
            }
            Self::Migrating(guest) => {
                write!(f, "{guest} is being moved: 'migrate status' shows how far it is")
            }
            Self::Cloned(guest) => {
                write!(f, "a copy of {guest} is being made: 'migrate cancel {guest}' ends that")
            }
            Self::Ending(guest) => write!(f, "{guest} is just ending: try again"),
            Self::NoGuests(why) => write!(f, "no guest can run here: {why}"),
            Self::Build(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for GuestError {}

/// A guest ended by itself or by a person's wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Which.
    pub guest: String,
    /// Why.
    pub reason: StopReason,
}

/// See the module.
pub struct Guests {
    platform: &'static Platform,
    /// What runs guests, or why there is nothing.
    machines: Result<&'static vm::platform::Platform, String>,
    records: Vec<Record>,
    next_key: u64,
    next_cpu: usize,
    ended: VecDeque<Ended>,
    figures_due: Instant,
    incarnation: u64,
    no_ram: NoRam,
}

impl Guests {
    /// The guests that the configuration names, none running.
    #[must_use]
    pub fn new(
        platform: &'static Platform,
        machines: Result<&'static vm::platform::Platform, String>,
    ) -> Self {
        let mut guests = Self {
            platform,
            machines,
            records: Vec::new(),
            next_key: 0,
            next_cpu: 0,
            ended: VecDeque::new(),
            figures_due: Instant::ZERO,
            incarnation: crate::arch::random::number(),
            no_ram: NoRam,
        };
        for guest in platform.info.configuration.guests() {
            let key = guests.new_key();
            guests.records.push(Record::configured(key, guest));
        }
        guests
    }

    /// Starts the guests that the configuration wants started; a problem with one is no problem of the others.
    pub fn start_configured(&mut self) {
        let configured = self.platform.info.configuration.guests().iter();
        let wanted: Vec<String> =
            configured.filter(|guest| guest.start()).map(|guest| guest.name.as_str().to_string()).collect();
        for name in wanted {
            if let Err(error) = self.start(&name) {
                log::error!("{name} is not started: {error}");
            }
        }
    }

    /// All guests, configured ones first.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Bytes of RAM that guests have.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.records.iter().map(Record::ram_bytes).sum()
    }

    /// The names of the guests that CPU `cpu` owns.
    #[must_use]
    pub fn names_on(&self, cpu: usize) -> Vec<String> {
        let owned = |record: &&Record| record.standing().is_alive() && record.owner() == Some(cpu);
        self.records.iter().filter(owned).map(|record| record.name().to_string()).collect()
    }

    /// Builds a guest that does not run, which takes its time, and then runs it.
    ///
    /// # Errors
    /// [`GuestError`]; nothing has changed.
    pub fn start(&mut self, name: &str) -> Result<(), GuestError> {
        let record = self.find(name)?;
        if record.standing().is_alive() {
            return Err(GuestError::Standing {
                guest: name.to_string(),
                standing: record.standing(),
                action: "start",
            });
        }
        if record.has_machine() {
            return Err(GuestError::Ending(name.to_string()));
        }
        if record.is_migrating() {
            return Err(decided_elsewhere(record));
        }
        let machines = self.machines.clone().map_err(GuestError::NoGuests)?;
        let cpu = self.next_cpu();
        let platform = self.platform;
        let record = self.find(name)?;
        start::start(record, platform, machines, cpu).map_err(GuestError::Build)
    }

    /// Ends a guest at once.
    ///
    /// # Errors
    /// [`GuestError`] if it does not run or is being moved.
    pub fn stop(&mut self, name: &str) -> Result<(), GuestError> {
        let record = self.find(name)?;
        if record.standing() == Standing::Starting
            && let Some(building) = record.building()
        {
            building.give_up();
            return Ok(());
        }
        self.tell(name, "stop", Standing::is_alive, |_| Command::Stop(StopReason::Requested))
    }

    /// Holds a running guest.
    ///
    /// # Errors
    /// [`GuestError`] if it does not run or is being moved.
    pub fn pause(&mut self, name: &str) -> Result<(), GuestError> {
        self.tell(name, "pause", |standing| standing == Standing::Running, |_| Command::Pause)
    }

    /// Lets a held guest go on.
    ///
    /// # Errors
    /// [`GuestError`] if it is not held or is being moved.
    pub fn resume(&mut self, name: &str) -> Result<(), GuestError> {
        let command = |record: &mut Record| Command::Run(record.take_permit());
        self.tell(name, "resume", |standing| standing == Standing::Paused, command)
    }

    /// Moves what guest `name` wrote to its serial port to `into`; how many bytes.
    pub fn output(&mut self, name: &str, into: &mut [u8]) -> usize {
        self.find(name).map_or(0, |record| record.take_output(into))
    }

    /// The same for the next guest other than `except` that wrote something; its name too.
    pub fn next_output(&mut self, except: Option<&str>, into: &mut [u8]) -> Option<(String, usize)> {
        let others = self.records.iter_mut().filter(|record| Some(record.name()) != except);
        others
            .map(|record| (record.name().to_string(), record.take_output(into)))
            .find(|(_, count)| *count > 0)
    }

    /// Offers bytes to the serial port of guest `name`; how many it took.
    pub fn input(&mut self, name: &str, bytes: &[u8]) -> usize {
        self.find(name).ok().and_then(|record| record.handle()).map_or(0, |handle| handle.feed_input(bytes))
    }

    /// Takes the next end of a guest that a person should be told.
    pub fn next_ended(&mut self) -> Option<Ended> {
        self.ended.pop_front()
    }

    /// Serves what is due; when it wants to be polled again.
    pub fn poll(&mut self, now: Instant) -> Instant {
        let inspect = now >= self.figures_due;
        if inspect {
            self.figures_due = now + FIGURES_EVERY;
        }
        for record in &mut self.records {
            if inspect {
                record.ask_for_figures();
            }
            if let Ok(machines) = &self.machines
                && let Some(built) = record.take_built()
            {
                start::go_on(record, built, machines);
            }
            record.poll();
            let Some(reason) = record.notice_end() else {
                continue;
            };
            if reason != StopReason::Migrated {
                if self.ended.len() == ENDED_MAX {
                    self.ended.pop_front();
                }
                self.ended.push_back(Ended { guest: record.name().to_string(), reason });
            }
        }
        self.records.retain(|record| !record.is_forgotten());
        self.figures_due
    }

    fn tell(
        &mut self,
        name: &str,
        action: &'static str,
        possible: fn(Standing) -> bool,
        command: impl FnOnce(&mut Record) -> Command,
    ) -> Result<(), GuestError> {
        let record = self.find(name)?;
        if record.is_withheld() {
            return Err(decided_elsewhere(record));
        }
        if !possible(record.standing()) {
            let standing = record.standing();
            return Err(GuestError::Standing { guest: name.to_string(), standing, action });
        }
        // Only now: what a command takes along would be lost with a refusal.
        let command = command(record);
        record.order(command);
        Ok(())
    }

    fn find(&mut self, name: &str) -> Result<&mut Record, GuestError> {
        let record = self.records.iter_mut().find(|record| record.name() == name);
        record.ok_or_else(|| GuestError::NoSuchGuest(name.to_string()))
    }

    fn new_key(&mut self) -> Key {
        self.next_key += 1;
        Key(self.next_key)
    }

    /// The CPU for the next guest: in turn, the boot CPU only if there is no other.
    fn next_cpu(&mut self) -> usize {
        let others = self.platform.cpus.saturating_sub(1);
        if others == 0 {
            return 0;
        }
        self.next_cpu = self.next_cpu % others + 1;
        self.next_cpu
    }
}

/// Why people have to leave a guest alone over which a migration decides.
fn decided_elsewhere(record: &Record) -> GuestError {
    let guest = record.name().to_string();
    match record.errand() {
        Some(Errand::Copied) => GuestError::Cloned(guest),
        _ => GuestError::Migrating(guest),
    }
}

impl From<&State> for Standing {
    fn from(state: &State) -> Self {
        match state {
            State::Created | State::Running | State::MovingOut { paused: false } => Self::Running,
            State::Paused | State::MovingOut { paused: true } | State::Stunned { .. } => Self::Paused,
            State::MovingIn { .. } => Self::Arriving,
            State::Stopped(_) => Self::Stopped,
        }
    }
}

#[cfg(test)]
mod tests;
