//! Saved state of a local APIC.

use minicbor::{Decode, Encode};

use super::registers::{
    BASE_ADDRESS, BASE_BOOTSTRAP, BASE_ENABLE, BASE_X2APIC, COMMAND_WRITABLE, LVT_ENTRIES, LVT_WRITABLE,
    SPURIOUS_WRITABLE, TIMER,
};
use super::timer::{Clocks, Timer, TimerState};
use super::{Face, Lapic, NO_PAGE};
use crate::devices::irq::VectorSet;

/// Saved state of a [`Lapic`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LapicState {
    #[n(0)]
    id: u32,
    #[n(1)]
    base: u64,
    #[n(2)]
    task_priority: u8,
    #[n(3)]
    spurious: u32,
    #[n(4)]
    logical_destination: u32,
    #[n(5)]
    destination_format: u32,
    #[n(6)]
    in_service: VectorSet,
    #[n(7)]
    trigger_mode: VectorSet,
    #[n(8)]
    requested: VectorSet,
    #[n(9)]
    error_status: u8,
    #[n(10)]
    errors: u8,
    #[n(11)]
    command: u64,
    #[n(12)]
    lvt: [u32; LVT_ENTRIES],
    #[n(13)]
    timer: TimerState,
}

impl Lapic {
    /// The state to carry to another host.
    #[must_use]
    pub fn save(&self) -> LapicState {
        let Self {
            id,
            base,
            // Face, page and pending follow from the rest.
            face: _,
            page: _,
            pending: _,
            task_priority,
            spurious,
            logical_destination,
            destination_format,
            in_service,
            trigger_mode,
            requested,
            error_status,
            errors,
            command,
            lvt,
            timer,
        } = self;
        LapicState {
            id: *id,
            base: *base,
            task_priority: *task_priority,
            spurious: *spurious,
            logical_destination: *logical_destination,
            destination_format: *destination_format,
            in_service: *in_service,
            trigger_mode: *trigger_mode,
            requested: *requested,
            error_status: *error_status,
            errors: *errors,
            command: *command,
            lvt: *lvt,
            timer: timer.save(),
        }
    }

    /// APIC `id` in the state `saved`.
    ///
    /// # Errors
    /// The name of the first field that no APIC can have.
    pub fn restore(saved: &LapicState, id: u32, clocks: &Clocks) -> Result<Self, &'static str> {
        if saved.id != id {
            return Err("lapic.id");
        }
        if saved.base & !(BASE_ADDRESS | BASE_BOOTSTRAP | BASE_ENABLE | BASE_X2APIC) != 0
            || (saved.base & BASE_BOOTSTRAP != 0) != (id == 0)
        {
            return Err("lapic.base");
        }
        let face = Face::of(saved.base).ok_or("lapic.base")?;
        if saved.spurious & !SPURIOUS_WRITABLE != 0 {
            return Err("lapic.spurious");
        }
        if saved.in_service.has_illegal() {
            return Err("lapic.in_service");
        }
        if saved.requested.has_illegal() {
            return Err("lapic.requested");
        }
        if saved.command & 0xffff_ffff & !u64::from(COMMAND_WRITABLE) != 0 {
            return Err("lapic.command");
        }
        if saved.lvt.iter().zip(LVT_WRITABLE).any(|(entry, writable)| entry & !writable != 0) {
            return Err("lapic.lvt");
        }
        let mut lapic = Self {
            id,
            base: saved.base,
            face,
            page: NO_PAGE,
            pending: 0,
            task_priority: saved.task_priority,
            spurious: saved.spurious,
            logical_destination: saved.logical_destination,
            destination_format: saved.destination_format,
            in_service: saved.in_service,
            trigger_mode: saved.trigger_mode,
            requested: saved.requested,
            error_status: saved.error_status,
            errors: saved.errors,
            command: saved.command,
            lvt: saved.lvt,
            timer: Timer::restore(&saved.timer, clocks, saved.lvt[TIMER])?,
        };
        lapic.enter_face(face);
        lapic.update_pending();
        Ok(lapic)
    }
}
