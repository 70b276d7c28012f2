//! The board: one of each device, an address map, and the wires between them.
//!
//! Every access goes through here. After it the board compares the line level of the device that was touched
//! with the level it saw last and tells the interrupt controllers only of a change; devices never call each
//! other. What only the machine's owner can do (stop it, reset it, start another processor) is left as a
//! [`Request`] to be drained.
//!
//! The board's clock is [`GuestTime`]; whoever calls passes the present instant. [`Board::next_deadline`]
//! tells when [`Board::advance`] must be called at the latest. A processor is named by its index; an index
//! beyond [`Board::vcpus`] is the caller's error and panics.

pub mod ports;
mod requests;
mod state;
mod wires;

use alloc::vec::Vec;
use core::fmt;

use godwit_vmx::addr::Gpa;

use super::acpi_pm::AcpiPm;
use super::ioapic::{self, IoApic};
use super::lapic::{Clocks, Effect, Lapic};
use super::pci::host::PciHost;
use super::pic::PicPair;
use super::pit::Pit;
use super::rtc::Rtc;
use super::time::BadFrequency;
use super::uart16550::Uart16550;
use super::{GuestTime, TscClock, Width};
pub use requests::Request;
use requests::Requests;
pub use state::{BoardState, ChassisState, RestoreError};

/// Most virtual processors on one board.
pub const VCPUS_MAX: usize = 64;

/// What a board is built for.
#[derive(Clone, Copy, Debug)]
pub struct BoardConfig {
    /// Number of virtual processors, each with a local APIC whose id is its index.
    pub vcpus: usize,
    /// Frequency of the guest's time-stamp counter, in Hz.
    pub tsc_hz: u64,
    /// Frequency of the crystal that CPUID leaf 0x15 tells: the local APIC timer's input clock, in Hz.
    pub crystal_hz: u64,
    /// Wall-clock time when the guest's time was zero, in seconds since 1970-01-01 UTC.
    pub wall_clock_unix_seconds: u64,
}

impl BoardConfig {
    /// Says what [`Board::new`] would refuse.
    ///
    /// # Errors
    /// [`BoardError`].
    pub fn check(&self) -> Result<(), BoardError> {
        self.clocks().map(|_| ())
    }

    fn clocks(&self) -> Result<Clocks, BoardError> {
        if self.vcpus == 0 || self.vcpus > VCPUS_MAX {
            return Err(BoardError::Vcpus(self.vcpus));
        }
        Ok(Clocks {
            tsc: TscClock::new(self.tsc_hz).map_err(BoardError::Frequency)?,
            crystal: TscClock::new(self.crystal_hz).map_err(BoardError::Frequency)?,
        })
    }
}

/// Why no board can be built for a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoardError {
    /// Zero processors, or more than [`VCPUS_MAX`].
    Vcpus(usize),
    /// The time-stamp counter or the crystal has an impossible frequency.
    Frequency(BadFrequency),
}

impl fmt::Display for BoardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vcpus(count) => write!(f, "a guest has 1 to {VCPUS_MAX} processors, not {count}"),
            Self::Frequency(bad) => bad.fmt(f),
        }
    }
}

impl core::error::Error for BoardError {}

/// The devices of one virtual machine.
#[derive(Debug)]
pub struct Board {
    clocks: Clocks,
    /// Earliest deadline of any device.
    deadline: GuestTime,
    /// Line levels that the controllers have been told, one bit per 8259 input.
    lines: u16,
    /// The 8259s' output that LINT0 has been told.
    pic_output: bool,
    lapics: Vec<Lapic>,
    pic: PicPair,
    ioapic: IoApic,
    pit: Pit,
    rtc: Rtc,
    pm: AcpiPm,
    uart: Uart16550,
    pci: PciHost,
    reset_control: u8,
    requests: Requests,
}

impl Board {
    /// A board as it is after power-on at `now`.
    ///
    /// # Errors
    /// [`BoardError`] if `config` describes no possible machine.
    pub fn new(config: &BoardConfig, now: GuestTime) -> Result<Self, BoardError> {
        Ok(Self {
            clocks: config.clocks()?,
            deadline: GuestTime::NEVER,
            lines: 0,
            pic_output: false,
            lapics: (0..config.vcpus).map(|id| Lapic::new(id as u32)).collect(),
            pic: PicPair::new(),
            ioapic: IoApic::new(),
            pit: Pit::new(),
            rtc: Rtc::new(config.wall_clock_unix_seconds, now),
            pm: AcpiPm::new(now),
            uart: Uart16550::new(),
            pci: PciHost::new(),
            reset_control: 0,
            requests: Requests::new(),
        })
    }

    /// Number of processors.
    #[must_use]
    pub fn vcpus(&self) -> usize {
        self.lapics.len()
    }

    /// The clock that turns the guest's time-stamp counter into [`GuestTime`].
    #[inline]
    #[must_use]
    pub fn clock(&self) -> TscClock {
        self.clocks.tsc
    }

    /// Whether a device answers at `gpa` for `vcpu`: whether an access there must be emulated.
    #[inline]
    #[must_use]
    pub fn claims_mmio(&self, vcpu: usize, gpa: Gpa) -> bool {
        let page = gpa.as_u64() & !0xfff;
        page == self.lapics[vcpu].page() || page == ioapic::BASE
    }

    /// Reads device memory, or `None` where nobody answers (the guest then sees all ones).
    #[inline]
    pub fn mmio_read(&mut self, now: GuestTime, vcpu: usize, gpa: Gpa, width: Width) -> Option<u64> {
        let page = gpa.as_u64() & !0xfff;
        let offset = (gpa.as_u64() & 0xfff) as u16;
        let lapic = &mut self.lapics[vcpu];
        if page == lapic.page() {
            return Some(lapic.mmio_read(&self.clocks, now, offset, width));
        }
        (page == ioapic::BASE).then(|| self.ioapic.read(offset, width))
    }

    /// Writes device memory, or `None` where nobody answers (the write is then lost).
    #[inline]
    pub fn mmio_write(
        &mut self,
        now: GuestTime,
        vcpu: usize,
        gpa: Gpa,
        width: Width,
        value: u64,
    ) -> Option<()> {
        let page = gpa.as_u64() & !0xfff;
        let offset = (gpa.as_u64() & 0xfff) as u16;
        let lapic = &mut self.lapics[vcpu];
        if page == lapic.page() {
            let deadline = lapic.deadline();
            let effect = lapic.mmio_write(&self.clocks, now, offset, width, value);
            self.after_lapic(vcpu, deadline, effect);
            return Some(());
        }
        if page == ioapic::BASE {
            let pins = self.ioapic.write(offset, width, value);
            self.service_ioapic(pins);
            return Some(());
        }
        None
    }

    /// IA32_APIC_BASE of a processor.
    #[inline]
    #[must_use]
    pub fn apic_base(&self, vcpu: usize) -> u64 {
        self.lapics[vcpu].base()
    }

    /// Reads one of the local APIC's MSRs (IA32_APIC_BASE, IA32_TSC_DEADLINE, 0x800 to 0x8ff);
    /// `None` means #GP.
    #[inline]
    pub fn msr_read(&mut self, now: GuestTime, vcpu: usize, msr: u32) -> Option<u64> {
        self.lapics[vcpu].msr_read(&self.clocks, now, msr).ok()
    }

    /// Writes one of the local APIC's MSRs; `None` means #GP.
    #[inline]
    pub fn msr_write(&mut self, now: GuestTime, vcpu: usize, msr: u32, value: u64) -> Option<()> {
        let lapic = &mut self.lapics[vcpu];
        let deadline = lapic.deadline();
        let effect = lapic.msr_write(&self.clocks, now, msr, value).ok()?;
        self.after_lapic(vcpu, deadline, effect);
        Some(())
    }

    /// Does what a local APIC access asks of the rest of the board; `deadline` is its timer's from before.
    #[inline]
    fn after_lapic(&mut self, vcpu: usize, deadline: GuestTime, effect: Effect) {
        if self.lapics[vcpu].deadline() != deadline {
            self.refresh_deadline();
        }
        match effect {
            Effect::None => {}
            Effect::EndOfInterrupt(vector) => {
                let pins = self.ioapic.end_of_interrupt(vector);
                self.service_ioapic(pins);
            }
            Effect::Send(message) => self.deliver(Some(vcpu), message),
        }
    }

    /// CR8 of a processor: the upper half of its local APIC's task-priority register.
    #[inline]
    #[must_use]
    pub fn cr8(&self, vcpu: usize) -> u64 {
        self.lapics[vcpu].cr8()
    }

    /// Sets CR8 of a processor; bits 63:4 must have been checked (they give #GP).
    #[inline]
    pub fn set_cr8(&mut self, vcpu: usize, value: u64) {
        self.lapics[vcpu].set_cr8(value);
    }

    /// Tells the value of a processor's IA32_TSC_ADJUST: what its time-stamp counter is ahead of the
    /// machine's, so that its TSC deadline means the same to both.
    pub fn set_tsc_adjust(&mut self, vcpu: usize, adjust: i64) {
        self.lapics[vcpu].set_tsc_adjust(&self.clocks, adjust);
        self.refresh_deadline();
    }

    /// When [`Self::advance`] has something to do next; `None` if never. Cached, so cheap.
    #[inline]
    #[must_use]
    pub fn next_deadline(&self) -> Option<GuestTime> {
        if self.deadline == GuestTime::NEVER { None } else { Some(self.deadline) }
    }

    /// Lets the timers that are due by `now` fire. Cheap if none is.
    #[inline]
    pub fn advance(&mut self, now: GuestTime) {
        if now >= self.deadline {
            self.advance_due(now);
        }
    }

    /// The vector that waits for a processor and that its priority lets through. Cached, so cheap.
    #[inline]
    #[must_use]
    pub fn pending_interrupt(&self, vcpu: usize) -> Option<u8> {
        let lapic = &self.lapics[vcpu];
        if self.pic_output && lapic.passes_pic() {
            return Some(self.pic.vector());
        }
        lapic.pending()
    }

    /// Takes the pending interrupt as the processor does when it accepts it: from now on it is in service.
    /// `None` if there is none.
    pub fn acknowledge(&mut self, vcpu: usize) -> Option<u8> {
        let lapic = &mut self.lapics[vcpu];
        if self.pic_output && lapic.passes_pic() {
            let vector = self.pic.acknowledge();
            self.sync_pic();
            return Some(vector);
        }
        lapic.acknowledge()
    }

    /// The local APIC of a processor, for what the processor does with it by itself.
    #[inline]
    #[must_use]
    pub fn local_apic(&mut self, vcpu: usize) -> &mut Lapic {
        &mut self.lapics[vcpu]
    }

    /// A processor has ended the interrupt with `vector` by itself, and its local APIC knows: does the rest.
    pub fn interrupt_ended(&mut self, vcpu: usize, vector: u8) {
        let lapic = &self.lapics[vcpu];
        let (deadline, effect) = (lapic.deadline(), lapic.effect_of_end(vector));
        self.after_lapic(vcpu, deadline, effect);
    }

    /// Whether [`Self::take_request`] has something.
    #[inline]
    #[must_use]
    pub fn has_requests(&self) -> bool {
        self.requests.any()
    }

    /// The next request not yet taken.
    pub fn take_request(&mut self) -> Option<Request> {
        self.requests.take()
    }

    /// Presses the power button: a guest that listens shuts itself down.
    pub fn press_power_button(&mut self) {
        self.pm.press_power_button();
        self.sync_pm();
    }

    /// Resets all devices as the reset pin does. The wall clock goes on, and output already sent stays.
    pub fn reset(&mut self, now: GuestTime) {
        for lapic in &mut self.lapics {
            lapic.reset();
        }
        self.pic.reset();
        self.ioapic.reset();
        self.pit = Pit::new();
        self.rtc.reset();
        self.pm = AcpiPm::new(now);
        self.uart.reset();
        self.pci = PciHost::new();
        self.reset_control = 0;
        self.requests = Requests::new();
        self.sync_uart();
        self.sync_rtc();
        self.sync_pm();
        self.sync_pic();
        self.refresh_deadline();
    }

    /// Bytes the guest has sent to its serial port and nobody has taken yet.
    #[inline]
    #[must_use]
    pub fn serial_waiting(&self) -> usize {
        self.uart.waiting()
    }

    /// Moves bytes that the guest has sent to `into`; the count moved.
    pub fn serial_take(&mut self, into: &mut [u8]) -> usize {
        let count = self.uart.take(into);
        self.sync_uart();
        count
    }

    /// Gives bytes to the guest's serial port; the count accepted, less than asked when its queue is full.
    pub fn serial_feed(&mut self, bytes: &[u8]) -> usize {
        let count = self.uart.feed(bytes);
        self.sync_uart();
        count
    }
}

#[cfg(test)]
mod tests;
