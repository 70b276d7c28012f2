//! Guests as migrations see them: engine's actions become commands to machines, replies become events.

use alloc::boxed::Box;
use alloc::string::ToString;

use godwit_migration::{
    DeviceState, GuestAction, GuestDescription, GuestEvent, GuestFailure, GuestId, GuestRam,
    HostCapabilities, HostShare, MigrationId, Purpose, Refusal, Room, RunPermit, Step,
};

use super::record::{Errand, Record, Standing};
use super::saved::{self, SavedError};
use super::{Guests, Key, description, start};
use crate::arch::random;
use crate::exits::StopReason;
use crate::migrate::shelf::{self, Shelf};
use crate::migrate::{GuestHouse, Lodging, NotMovable};
use crate::mm::{frames, heap};
use crate::vm::frames::PromisedFrames;
use crate::vm::handle::{self, Command, Reply};

impl Guests {
    fn record(&self, key: Key) -> Option<&Record> {
        self.records.iter().find(|record| record.key() == key)
    }

    fn record_mut(&mut self, key: Key) -> Option<&mut Record> {
        self.records.iter_mut().find(|record| record.key() == key)
    }

    /// Begins to build the machine of an arriving guest.
    fn build(&mut self, key: Key, wanted: &GuestDescription) -> Result<(), GuestFailure> {
        // A guest that is configured here and stopped is to people the one that comes, unless that is a copy. One whose
        // machine is ending is still there.
        let is_taken = |record: &Record| record.has_machine() || wanted.is_copy();
        let is_namesake = |record: &Record| record.key() != key && record.name() == wanted.name;
        let there = |record: &Record| match record.key() == key {
            true => record.has_machine(),
            false => record.is(wanted.id) || is_namesake(record) && is_taken(record),
        };
        if self.records.iter().any(there) {
            return Err(GuestFailure::Refused([Refusal::AlreadyThere].into()));
        }
        // Its machine is gone, but somebody is still to be answered about it, or a person is to decide: its session goes on, and
        // would be without its guest, while commands for that name would reach one of two.
        if self.records.iter().any(|record| is_namesake(record) && record.is_migrating()) {
            return Err(GuestFailure::Refused([Refusal::StillOpen].into()));
        }
        if let Err(why) = &self.machines {
            return Err(GuestFailure::Host(why.clone()));
        }
        let cpu = self.next_cpu();
        let from = self.record(key).and_then(|record| record.origin().arrived_from.clone());
        let origin = description::origin(wanted, from)
            .ok_or_else(|| GuestFailure::Host("the guest's configuration is not understood here".into()))?;
        let building = start::receive(wanted, cpu)?;
        // A configured guest of that name that does not run is the same guest to people.
        let configured =
            self.records.iter().find(|record| is_namesake(record)).and_then(Record::configuration);
        self.records.retain(|record| !is_namesake(record));
        if let Some(record) = self.record_mut(key) {
            record.set_configuration(configured);
            record.set_name(&wanted.name);
            record.origin = origin;
            record.id = wanted.id;
            record.generation = wanted.generation.next();
            record.build(building);
        }
        Ok(())
    }

    fn restore(&mut self, key: Key, state: &DeviceState) {
        let result = saved::from_sections(state);
        let Some(record) = self.record_mut(key) else {
            return;
        };
        match result {
            Ok(machine) => record.order_step(Step::RestoreState, Command::Restore(Box::new(machine))),
            Err(error) => record.events.push_back(GuestEvent::Failed(Step::RestoreState, unsaved(error))),
        }
    }
}

fn unsaved(error: SavedError) -> GuestFailure {
    match error {
        SavedError::Section(id, instance, version) => GuestFailure::Section { id, instance, version },
        SavedError::Snapshot(error) => GuestFailure::Host(error.to_string()),
    }
}

impl GuestHouse for Guests {
    fn leaving(&mut self, name: &str, purpose: &Purpose) -> Result<(Key, GuestDescription), NotMovable> {
        if let Err(why) = &self.machines {
            return Err(NotMovable::NoGuests(why.clone()));
        }
        let unknown = NotMovable::NoSuchGuest(name.to_string());
        let record = self.records.iter_mut().find(|record| record.name() == name).ok_or(unknown)?;
        let stopped = NotMovable::WrongState(name.to_string(), "stopped");
        match record.standing() {
            Standing::Running | Standing::Paused => {}
            Standing::Stopped => return Err(stopped),
            Standing::Starting => return Err(NotMovable::WrongState(name.to_string(), "starting")),
            Standing::Arriving => return Err(NotMovable::WrongState(name.to_string(), "arriving")),
        }
        if let Some(why) = record.incomplete() {
            return Err(why);
        }
        if record.errand() == Some(Errand::Arriving) {
            let from = record.origin().arrived_from.clone().unwrap_or_default();
            return Err(NotMovable::NotLetGo { guest: name.to_string(), from });
        }
        if record.is_migrating() {
            return Err(NotMovable::WrongState(name.to_string(), "on its way already"));
        }
        let description = description::of_guest(record).ok_or(stopped)?;
        record.set_errand(Some(match purpose {
            Purpose::Move | Purpose::Estimate => Errand::Leaving,
            Purpose::Clone(_) => Errand::Copied,
        }));
        record.events.clear();
        Ok((record.key(), description))
    }

    fn arriving(&mut self, peer: &str) -> Key {
        let key = self.new_key();
        self.records.push(Record::arriving(key, peer));
        key
    }

    fn done(&mut self, key: Key) {
        if let Some(record) = self.record_mut(key) {
            record.set_errand(None);
        }
    }

    fn capabilities(&self) -> HostCapabilities {
        let name = self.platform.info.configuration.host_name.as_str();
        description::of_host(name, self.incarnation, self.machines.as_ref().ok().copied(), self.room())
    }

    fn room(&self) -> Room {
        let free_blocks = if self.machines.is_ok() { frames::get().statistics().free_blocks } else { 0 };
        Room { ram_bytes: free_blocks * frames::BLOCK_SIZE, heap_bytes: heap::statistics().spare() as u64 }
    }

    fn promise_heap(&mut self, bytes: u64) {
        heap::promise(usize::try_from(bytes).unwrap_or(usize::MAX));
    }

    fn new_migration(&mut self) -> MigrationId {
        MigrationId(random::bytes())
    }

    fn new_guest(&mut self) -> GuestId {
        GuestId(random::bytes())
    }

    fn name(&self, key: Key) -> &str {
        self.record(key).map_or("", Record::name)
    }

    fn shelf(&self) -> Box<dyn GuestRam> {
        Box::new(Shelf::new(PromisedFrames))
    }

    fn shelf_share(&self) -> HostShare {
        HostShare { bytes_per_block: shelf::HEAP_BYTES_PER_BLOCK, ..HostShare::default() }
    }

    fn departed(&mut self, key: Key, peer: &str) {
        if let Some(record) = self.record_mut(key) {
            log::info!("{} runs on {peer} now", record.name());
        }
    }
}

impl Lodging for Guests {
    type Key = Key;

    fn begin(&mut self, key: Key, action: GuestAction) {
        let step = action.step();
        let command = match action {
            GuestAction::Build(description) => {
                if let Err(failure) = self.build(key, &description)
                    && let Some(record) = self.record_mut(key)
                {
                    record.events.push_back(GuestEvent::Failed(step, failure));
                }
                return;
            }
            GuestAction::RestoreState(state) => return self.restore(key, &state),
            GuestAction::StartDirtyLog => Command::StartDirtyLog,
            GuestAction::HarvestDirtyLog => Command::HarvestDirtyLog,
            GuestAction::StopDirtyLog => Command::StopDirtyLog,
            GuestAction::Throttle(percent) => Command::Throttle(percent),
            GuestAction::Pause => Command::Stun,
            GuestAction::SaveState => Command::Save,
            GuestAction::Run(permit) => {
                if let Some(record) = self.record_mut(key) {
                    // Above the one it left in, if a person had it go on here after its new host was lost.
                    record.generation = permit.generation();
                }
                Command::Run(Some(permit))
            }
            GuestAction::Discard => Command::Stop(StopReason::Migrated),
            GuestAction::Settle => Command::Settle,
            GuestAction::Forsake => Command::Forsake,
        };
        if let Some(record) = self.record_mut(key) {
            record.order_step(step, command);
        }
    }

    fn give_up(&mut self, key: Key) {
        if let Some(building) = self.record(key).and_then(Record::building) {
            building.give_up();
        }
    }

    fn poll(&mut self, key: Key) -> Option<GuestEvent> {
        let record = self.record_mut(key)?;
        record.poll();
        record.next_event()
    }

    fn is_waiting(&self, key: Key) -> bool {
        self.record(key).is_some_and(Record::is_waiting)
    }

    fn ram(&mut self, key: Key) -> &mut dyn GuestRam {
        match self.records.iter_mut().find(|record| record.key() == key) {
            Some(record) => record.ram_mut(),
            None => &mut self.no_ram,
        }
    }

    fn hold(&mut self, key: Key, permit: RunPermit) {
        if let Some(record) = self.record_mut(key) {
            record.hold_permit(permit);
        }
    }
}

/// What a session is told of `reply` to the command of `step`.
pub(super) fn event(step: Step, reply: Reply) -> GuestEvent {
    match (step, reply) {
        (Step::Pause, Reply::Stunned(permit)) => GuestEvent::Paused(permit),
        (Step::SaveState, Reply::Saved(machine)) => match saved::to_sections(&machine) {
            Ok(sections) => GuestEvent::StateSaved(sections),
            Err(error) => GuestEvent::Failed(step, GuestFailure::Host(error.to_string())),
        },
        (Step::Run, Reply::Refused(why, Some(permit))) => GuestEvent::RunFailed(permit, failure(&why)),
        // What has ended is discarded.
        (Step::Discard, Reply::Refused(handle::Refusal::Gone, _)) => GuestEvent::Discarded,
        (_, Reply::Refused(why, _)) => GuestEvent::Failed(step, failure(&why)),
        (Step::Build, _) => GuestEvent::Built,
        (Step::StartDirtyLog, _) => GuestEvent::DirtyLogStarted,
        (Step::HarvestDirtyLog, _) => GuestEvent::DirtyLogHarvested,
        (Step::StopDirtyLog, _) => GuestEvent::DirtyLogStopped,
        (Step::Throttle, _) => GuestEvent::Throttled,
        (Step::RestoreState, _) => GuestEvent::StateRestored,
        (Step::Run, _) => GuestEvent::Running,
        (Step::Discard, _) => GuestEvent::Discarded,
        (Step::Settle, _) => GuestEvent::Settled,
        (Step::Forsake, _) => GuestEvent::Forsaken,
        (Step::Pause | Step::SaveState, _) => {
            GuestEvent::Failed(step, GuestFailure::Host("the machine gave another answer".into()))
        }
    }
}

/// What a session is told when `command` never got to the machine, which is gone.
pub(super) fn event_of_the_gone(step: Step, command: Option<Command>) -> GuestEvent {
    match (step, command) {
        (Step::Discard, _) => GuestEvent::Discarded,
        (Step::Run, Some(Command::Run(Some(permit)))) => GuestEvent::RunFailed(permit, GuestFailure::Gone),
        _ => GuestEvent::Failed(step, GuestFailure::Gone),
    }
}

fn failure(refusal: &handle::Refusal) -> GuestFailure {
    match refusal {
        handle::Refusal::Gone => GuestFailure::Gone,
        other => GuestFailure::Host(other.to_string()),
    }
}
