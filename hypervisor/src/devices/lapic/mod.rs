//! Local APIC: xAPIC by memory, x2APIC by MSR, one per virtual processor.
//!
//! The register file and its priorities are here, the timer is in [`timer`]. Messages to other APICs and the
//! end-of-interrupt broadcast come back to the caller as an [`Effect`]. The vector that the processor should
//! take next is kept up to date at every change, so that asking for it is one load.
//!
//! Reference: SDM volume 3, chapter 11 (revision 085).

mod access;
pub mod registers;
mod state;
pub mod timer;

use super::GuestTime;
use super::irq::{DeliveryMode, Destination, FIRST_LEGAL_VECTOR, Message, Trigger, VectorSet};
use registers::{
    BASE_BOOTSTRAP, BASE_ENABLE, BASE_X2APIC, DEFAULT_BASE, ERROR, ERROR_RECEIVE_ILLEGAL_VECTOR, LINT0,
    LVT_ENTRIES, LVT_MASKED, SPURIOUS_ENABLE, TIMER,
};
pub use state::LapicState;
pub use timer::Clocks;
use timer::{Mode as TimerMode, Timer};

/// Which face the APIC shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Face {
    /// IA32_APIC_BASE.EN is clear: the processor has no APIC.
    Disabled,
    /// Memory-mapped registers.
    XApic,
    /// Model-specific registers.
    X2Apic,
}

impl Face {
    /// The face that the enable bits of IA32_APIC_BASE choose; `None` for the invalid combination.
    const fn of(base: u64) -> Option<Self> {
        match (base & BASE_ENABLE != 0, base & BASE_X2APIC != 0) {
            (false, false) => Some(Self::Disabled),
            (true, false) => Some(Self::XApic),
            (true, true) => Some(Self::X2Apic),
            (false, true) => None,
        }
    }
}

/// What a register access asks of the rest of the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    /// Nothing.
    None,
    /// A level-triggered interrupt with this vector is over.
    EndOfInterrupt(u8),
    /// A message is to be sent.
    Send(Message),
}

/// One local APIC.
#[derive(Debug)]
pub struct Lapic {
    id: u32,
    /// IA32_APIC_BASE.
    base: u64,
    face: Face,
    /// Guest-physical address of the register page, or [`NO_PAGE`].
    page: u64,
    /// Vector to take next, or zero.
    pending: u8,
    task_priority: u8,
    spurious: u32,
    logical_destination: u32,
    destination_format: u32,
    in_service: VectorSet,
    trigger_mode: VectorSet,
    requested: VectorSet,
    error_status: u8,
    /// Errors since error status was last written.
    errors: u8,
    command: u64,
    lvt: [u32; LVT_ENTRIES],
    timer: Timer,
}

/// No page has this address.
const NO_PAGE: u64 = u64::MAX;
const FORMAT_FLAT: u32 = 0xffff_ffff;

impl Lapic {
    /// APIC `id` after power-on. Processor 0 is the bootstrap processor; as firmware leaves it, its LINT0
    /// takes interrupts from the 8259.
    #[must_use]
    pub fn new(id: u32) -> Self {
        let mut base = DEFAULT_BASE | BASE_ENABLE;
        if id == 0 {
            base |= BASE_BOOTSTRAP;
        }
        let mut lapic = Self {
            id,
            base,
            face: Face::XApic,
            page: DEFAULT_BASE,
            pending: 0,
            task_priority: 0,
            spurious: 0xff,
            logical_destination: 0,
            destination_format: FORMAT_FLAT,
            in_service: VectorSet::EMPTY,
            trigger_mode: VectorSet::EMPTY,
            requested: VectorSet::EMPTY,
            error_status: 0,
            errors: 0,
            command: 0,
            lvt: [LVT_MASKED; LVT_ENTRIES],
            timer: Timer::new(),
        };
        lapic.reset_registers();
        lapic
    }

    /// State after the reset pin: as new, with the processor's counter going on.
    pub fn reset(&mut self) {
        let timer = core::mem::replace(&mut self.timer, Timer::new());
        *self = Self { timer, ..Self::new(self.id) };
        self.timer.reset();
    }

    /// State after an INIT message: as after reset, but with id and base kept (SDM 11.4.7.3).
    pub fn init(&mut self) {
        self.reset_registers();
    }

    fn reset_registers(&mut self) {
        self.pending = 0;
        self.task_priority = 0;
        self.spurious = 0xff;
        self.logical_destination = 0;
        self.destination_format = FORMAT_FLAT;
        self.in_service = VectorSet::EMPTY;
        self.trigger_mode = VectorSet::EMPTY;
        self.requested = VectorSet::EMPTY;
        self.error_status = 0;
        self.errors = 0;
        self.command = 0;
        self.lvt = [LVT_MASKED; LVT_ENTRIES];
        if self.base & BASE_BOOTSTRAP != 0 {
            self.lvt[LINT0] = 7 << 8;
        }
        self.timer.reset();
    }

    /// Page of the memory-mapped registers, or an address no page has.
    #[inline]
    #[must_use]
    pub const fn page(&self) -> u64 {
        self.page
    }

    /// The vector the processor should take next, if its priority lets one through.
    #[inline]
    #[must_use]
    pub const fn pending(&self) -> Option<u8> {
        if self.pending == 0 { None } else { Some(self.pending) }
    }

    /// The processor takes the pending vector: it moves from requested to in service.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.pending()?;
        self.requested.remove(vector);
        self.in_service.insert(vector);
        self.update_pending();
        Some(vector)
    }

    /// Whether the 8259's output reaches the processor: through LINT0 in ExtINT mode, or past a disabled
    /// APIC.
    #[inline]
    #[must_use]
    pub const fn passes_pic(&self) -> bool {
        match self.face {
            Face::Disabled => true,
            _ => {
                self.lvt[LINT0] & LVT_MASKED == 0
                    && matches!(DeliveryMode::of(self.lvt[LINT0]), DeliveryMode::External)
            }
        }
    }

    /// The 8259's output rose: a LINT0 in fixed mode makes an interrupt of it, one in NMI mode an NMI, which
    /// comes back for the caller to deliver.
    pub fn lint0_rose(&mut self) -> Option<Message> {
        let entry = self.lvt[LINT0];
        if self.face == Face::Disabled || entry & LVT_MASKED != 0 {
            return None;
        }
        match DeliveryMode::of(entry) {
            DeliveryMode::Fixed => self.accept(entry as u8, Trigger::Edge),
            DeliveryMode::NonMaskable => {
                return Some(Message {
                    destination: Destination::Itself,
                    mode: DeliveryMode::NonMaskable,
                    trigger: Trigger::Edge,
                    vector: 0,
                });
            }
            _ => {}
        }
        None
    }

    /// A fixed interrupt arrives.
    #[inline]
    pub fn accept(&mut self, vector: u8, trigger: Trigger) {
        if vector < FIRST_LEGAL_VECTOR {
            self.raise_error(ERROR_RECEIVE_ILLEGAL_VECTOR);
            return;
        }
        if !self.software_enabled() {
            return;
        }
        self.requested.insert(vector);
        match trigger {
            Trigger::Edge => self.trigger_mode.remove(vector),
            Trigger::Level => self.trigger_mode.insert(vector),
        }
        self.update_pending();
    }

    /// Whether a message to `destination` is for this APIC. `Itself` and `AllOthers` are the sender's to
    /// resolve.
    #[must_use]
    pub fn matches(&self, destination: Destination) -> bool {
        if self.face == Face::Disabled {
            return false;
        }
        match destination {
            Destination::Physical(id) => self.matches_physical(id),
            Destination::Logical(mask) => self.matches_logical(mask),
            Destination::All | Destination::AllOthers => true,
            Destination::Itself => false,
        }
    }

    const fn matches_physical(&self, id: u32) -> bool {
        match self.face {
            // An eight-bit message from the I/O APIC can broadcast to x2APICs too.
            Face::X2Apic => id == self.id || id == u32::MAX || id == 0xff,
            _ => id & 0xff == self.id & 0xff || id & 0xff == 0xff,
        }
    }

    const fn matches_logical(&self, mask: u32) -> bool {
        if matches!(self.face, Face::X2Apic) {
            let own = self.x2apic_logical_id();
            return mask == u32::MAX || (mask >> 16 == own >> 16 && mask & own & 0xffff != 0);
        }
        let own = (self.logical_destination >> 24) as u8;
        let mask = mask as u8;
        if self.destination_format >> 28 == 0xf {
            return mask & own != 0;
        }
        mask == 0xff || (mask >> 4 == own >> 4 && mask & own & 0xf != 0)
    }

    const fn x2apic_logical_id(&self) -> u32 {
        (self.id >> 4) << 16 | 1 << (self.id & 0xf)
    }

    /// Priority for lowest-priority arbitration.
    #[must_use]
    pub const fn arbitration(&self) -> u8 {
        self.processor_priority()
    }

    /// When [`Self::advance`] has something to do.
    #[inline]
    #[must_use]
    pub const fn deadline(&self) -> GuestTime {
        self.timer.deadline()
    }

    /// Lets the timer expire if it is due.
    pub fn advance(&mut self, clocks: &Clocks, now: GuestTime) {
        if self.timer.expire(clocks, now) && self.lvt[TIMER] & LVT_MASKED == 0 {
            self.accept(self.lvt[TIMER] as u8, Trigger::Edge);
        }
    }

    /// IA32_APIC_BASE.
    #[inline]
    #[must_use]
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// CR8: the upper half of the task priority.
    #[inline]
    #[must_use]
    pub const fn cr8(&self) -> u64 {
        (self.task_priority >> 4) as u64
    }

    /// Sets CR8 from the low four bits of `value`.
    #[inline]
    pub fn set_cr8(&mut self, value: u64) {
        self.set_task_priority((value as u8) << 4);
    }

    /// Tells how far the processor's time-stamp counter is ahead of the machine's.
    pub fn set_tsc_adjust(&mut self, clocks: &Clocks, adjust: i64) {
        self.timer.set_tsc_adjust(clocks, adjust);
    }

    const fn software_enabled(&self) -> bool {
        self.spurious & SPURIOUS_ENABLE != 0 && !matches!(self.face, Face::Disabled)
    }

    fn set_task_priority(&mut self, value: u8) {
        if self.task_priority != value {
            self.task_priority = value;
            self.update_pending();
        }
    }

    /// SDM 11.8.3.1.
    const fn processor_priority(&self) -> u8 {
        let serving = match self.in_service.highest() {
            Some(vector) => vector & 0xf0,
            None => 0,
        };
        if self.task_priority & 0xf0 >= serving { self.task_priority } else { serving }
    }

    #[inline]
    const fn update_pending(&mut self) {
        self.pending = match self.requested.highest() {
            Some(vector) if vector & 0xf0 > self.processor_priority() & 0xf0 => vector,
            _ => 0,
        };
    }

    fn end_of_interrupt(&mut self) -> Effect {
        let Some(vector) = self.in_service.highest() else { return Effect::None };
        self.in_service.remove(vector);
        self.update_pending();
        self.effect_of_end(vector)
    }

    /// What the end of an interrupt with `vector` asks of the rest of the board.
    pub const fn effect_of_end(&self, vector: u8) -> Effect {
        if self.trigger_mode.contains(vector) { Effect::EndOfInterrupt(vector) } else { Effect::None }
    }

    /// Whether it is in x2APIC mode.
    #[inline]
    #[must_use]
    pub const fn is_x2apic(&self) -> bool {
        matches!(self.face, Face::X2Apic)
    }

    /// The interrupts that the processor has taken and not ended.
    #[inline]
    #[must_use]
    pub const fn in_service(&self) -> VectorSet {
        self.in_service
    }

    /// The processor has ended interrupts by itself, the highest first: those above `serving` are over. What their ends
    /// ask of the rest of the board is for the caller to see to ([`Self::effect_of_end`]).
    pub fn end_above(&mut self, serving: u8) {
        self.in_service.cut_above(serving);
        self.update_pending();
    }

    /// The interrupts whose end concerns more than their bit in service: level-triggered ones, of whose end the I/O APIC is
    /// told; and all, while others wait for it to be let through.
    #[inline]
    #[must_use]
    pub const fn ends_to_hear_of(&self) -> VectorSet {
        if self.requested.is_empty() { self.trigger_mode } else { VectorSet::ALL }
    }

    /// Records an error and raises the error interrupt if its entry is not masked.
    fn raise_error(&mut self, error: u8) {
        if self.errors & error != 0 {
            return;
        }
        self.errors |= error;
        let entry = self.lvt[ERROR];
        // An error entry with an illegal vector must not raise another error.
        if entry & LVT_MASKED == 0 && entry as u8 >= FIRST_LEGAL_VECTOR {
            self.accept(entry as u8, Trigger::Edge);
        }
    }
}

#[cfg(test)]
mod tests;
