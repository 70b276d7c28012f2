//! Guests for the console.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use godwit_vmx::exit::Reason;

use crate::console::ActionError;
use crate::console::view::{GuestState, GuestView};
use crate::guests::record::{Errand, Record, Standing};
use crate::guests::{GuestError, Guests};
use crate::platform::Platform;
use crate::platform::time::Instant;
use crate::vm::absent::AbsentPages;
use crate::vm::handle::Figures;
use crate::vm::memory::GuestRam;

/// Causes of exits that are shown.
const CAUSES_MAX: usize = 12;

/// All guests.
pub(super) fn all(guests: &Guests, platform: &Platform) -> Vec<GuestView> {
    guests
        .records()
        .iter()
        .filter(|record| !record.name().is_empty())
        .map(|record| one(record, platform))
        .collect()
}

fn one(record: &Record, platform: &Platform) -> GuestView {
    let (origin, figures) = (record.origin(), record.figures());
    GuestView {
        name: record.name().to_string(),
        state: state(record),
        reason: reason(record),
        memory_bytes: origin.memory_bytes,
        vcpus: origin.vcpus,
        cpu: record.owner().map(|owner| owner as u32),
        uptime: figures.map_or(Duration::ZERO, |figures| {
            let nanoseconds =
                u128::from(figures.tsc) * 1_000_000_000 / u128::from(platform.clock.frequency_hz());
            Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
        }),
        entered: figures
            .filter(|figures| figures.first_entry_tsc != 0)
            .map(|figures| platform.clock.instant(figures.first_entry_tsc).since(Instant::ZERO)),
        exits: figures.map_or(0, |figures| figures.exits.iter().sum()),
        exits_by_cause: figures.map_or_else(Vec::new, causes),
        kernel: origin.kernel.clone(),
        command_line: origin.command_line.clone(),
        absent_pages: record.absent().map_or(0, AbsentPages::left),
        absent_are_lost: record.absent().is_some_and(AbsentPages::is_lost),
        waits: record.absent().map_or_else(Vec::new, |absent| {
            absent.waits().map(|(vcpu, page)| (vcpu, GuestRam::address_of(page).as_u64())).collect()
        }),
        arrived_from: origin.arrived_from.clone(),
    }
}

/// What there is to say about its state: how it ended, or what is being done with it.
fn reason(record: &Record) -> Option<String> {
    match (record.building(), record.errand()) {
        (Some(building), _) => Some(building.site().to_string()),
        (None, Some(Errand::Copied)) => Some("being cloned".into()),
        (None, _) => record.last_end().map(ToString::to_string),
    }
}

/// Where a guest is in its life.
pub(super) fn state(record: &Record) -> GuestState {
    match record.standing() {
        Standing::Starting => GuestState::Starting,
        Standing::Running => GuestState::Running,
        Standing::Paused => GuestState::Paused,
        Standing::Arriving => GuestState::Arriving,
        Standing::Stopped if record.last_end().is_some_and(|end| !end.is_orderly()) => GuestState::Failed,
        Standing::Stopped => GuestState::Stopped,
    }
}

fn causes(figures: &Figures) -> Vec<(&'static str, u64)> {
    let counts = figures.exits.iter().enumerate().filter(|(_, count)| **count > 0);
    let mut causes: Vec<(&'static str, u64)> = counts
        .map(|(number, &count)| {
            let reason = u16::try_from(number).ok().and_then(Reason::from_number);
            (reason.map_or("unknown", Reason::name), count)
        })
        .collect();
    causes.sort_by_key(|(_, count)| core::cmp::Reverse(*count));
    causes.truncate(CAUSES_MAX);
    causes
}

/// Why a guest did not do what was asked, for the console.
pub(super) fn error(error: GuestError) -> ActionError {
    match error {
        GuestError::NoSuchGuest(name) => ActionError::NoSuchGuest(name),
        GuestError::Standing { guest, standing, action } => ActionError::WrongState {
            guest,
            state: match standing {
                Standing::Stopped => GuestState::Stopped,
                Standing::Starting => GuestState::Starting,
                Standing::Running => GuestState::Running,
                Standing::Paused => GuestState::Paused,
                Standing::Arriving => GuestState::Arriving,
            },
            action,
        },
        other => ActionError::Refused(other.to_string()),
    }
}
