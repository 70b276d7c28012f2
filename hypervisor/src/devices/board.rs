//! The board: one of each device, an address map, and the wires between them.
//!
//! Every access goes through here. After it the board compares the line level of the device that was touched
//! with the level it saw last and tells the interrupt controllers only of a change; devices never call each
//! other. What only the machine's owner can do (stop it, reset it, start another processor) is left as a
//! [`Request`] to be drained.
//!
//! The board's clock is [`GuestTime`]; whoever calls passes the present instant. [`Board::next_deadline`]
//! tells when [`Board::advance`] must be called at the latest.

use alloc::vec::Vec;
use core::fmt;

use godwit_vmx::addr::Gpa;

use super::time::BadFrequency;
use super::uart16550::Uart16550;
use super::{GuestTime, TscClock, Width};

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

/// Something the machine's owner must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The guest switched the machine off.
    Shutdown,
    /// The guest asked for a reset of the whole machine.
    Reset,
    /// Put a processor into its state after INIT, where it waits for a start-up IPI.
    InitVcpu {
        /// Which processor.
        vcpu: usize,
    },
    /// Start a processor that waits after INIT, in real mode at `vector << 12`.
    StartVcpu {
        /// Which processor.
        vcpu: usize,
        /// Page of the entry point.
        vector: u8,
    },
    /// Deliver a non-maskable interrupt.
    NonMaskableInterrupt {
        /// Which processor.
        vcpu: usize,
    },
}

/// The devices of one virtual machine.
#[derive(Debug)]
pub struct Board {
    clock: TscClock,
    uart: Uart16550,
    requests: Vec<Request>,
}

impl Board {
    /// A board as it is after power-on at `now`.
    ///
    /// # Errors
    /// [`BoardError`] if `config` describes no possible machine.
    pub fn new(config: &BoardConfig, now: GuestTime) -> Result<Self, BoardError> {
        let _ = now;
        if config.vcpus == 0 || config.vcpus > VCPUS_MAX {
            return Err(BoardError::Vcpus(config.vcpus));
        }
        let clock = TscClock::new(config.tsc_hz).map_err(BoardError::Frequency)?;
        Ok(Self { clock, uart: Uart16550::new(), requests: Vec::new() })
    }

    /// The clock that turns the guest's time-stamp counter into [`GuestTime`].
    #[inline]
    #[must_use]
    pub fn clock(&self) -> TscClock {
        self.clock
    }

    /// Reads `width` bytes (1, 2 or 4) from `port`; the unused upper bits of the result are zero.
    /// Where nobody answers, all ones.
    #[inline]
    pub fn port_read(&mut self, now: GuestTime, port: u16, width: Width) -> u32 {
        let _ = now;
        match port {
            0x3f8..=0x3ff if width == Width::Byte => u32::from(self.uart.read(port)),
            _ => width.mask() as u32,
        }
    }

    /// Writes the low `width` bytes (1, 2 or 4) of `value` to `port`.
    #[inline]
    pub fn port_write(&mut self, now: GuestTime, port: u16, width: Width, value: u32) {
        let _ = (now, width);
        if let 0x3f8..=0x3ff = port {
            self.uart.write(port, value as u8);
        }
    }

    /// Whether a device answers at `gpa` for `vcpu`: whether an access there must be emulated.
    #[inline]
    #[must_use]
    pub fn claims_mmio(&self, vcpu: usize, gpa: Gpa) -> bool {
        let _ = (vcpu, gpa);
        false
    }

    /// Reads device memory, or `None` where nobody answers (the guest then sees all ones).
    #[inline]
    pub fn mmio_read(&mut self, now: GuestTime, vcpu: usize, gpa: Gpa, width: Width) -> Option<u64> {
        let _ = (now, vcpu, gpa, width);
        None
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
        let _ = (now, vcpu, gpa, width, value);
        None
    }

    /// Reads one of the local APIC's MSRs (IA32_APIC_BASE, IA32_TSC_DEADLINE, 0x800 to 0x8ff);
    /// `None` means #GP.
    #[inline]
    pub fn msr_read(&mut self, now: GuestTime, vcpu: usize, msr: u32) -> Option<u64> {
        let _ = (now, vcpu, msr);
        None
    }

    /// Writes one of the local APIC's MSRs; `None` means #GP.
    #[inline]
    pub fn msr_write(&mut self, now: GuestTime, vcpu: usize, msr: u32, value: u64) -> Option<()> {
        let _ = (now, vcpu, msr, value);
        None
    }

    /// CR8 of a processor: the upper half of its local APIC's task-priority register.
    #[inline]
    #[must_use]
    pub fn cr8(&self, vcpu: usize) -> u64 {
        let _ = vcpu;
        0
    }

    /// Sets CR8 of a processor; bits 63:4 must have been checked (they give #GP).
    #[inline]
    pub fn set_cr8(&mut self, vcpu: usize, value: u64) {
        let _ = (vcpu, value);
    }

    /// Tells the value of a processor's IA32_TSC_ADJUST: what its time-stamp counter is ahead of the
    /// machine's, so that its TSC deadline means the same to both.
    pub fn set_tsc_adjust(&mut self, vcpu: usize, adjust: i64) {
        let _ = (vcpu, adjust);
    }

    /// When [`Self::advance`] has something to do next; `None` if never. Cached, so cheap.
    #[inline]
    #[must_use]
    pub fn next_deadline(&self) -> Option<GuestTime> {
        None
    }

    /// Lets the timers that are due by `now` fire. Cheap if none is.
    #[inline]
    pub fn advance(&mut self, now: GuestTime) {
        let _ = now;
    }

    /// The vector that waits for a processor and that its priority lets through. Cached, so cheap.
    #[inline]
    #[must_use]
    pub fn pending_interrupt(&self, vcpu: usize) -> Option<u8> {
        let _ = vcpu;
        None
    }

    /// Takes the pending interrupt as the processor does when it accepts it: from now on it is in service.
    /// `None` if there is none.
    pub fn acknowledge(&mut self, vcpu: usize) -> Option<u8> {
        let _ = vcpu;
        None
    }

    /// Whether [`Self::take_request`] has something.
    #[inline]
    #[must_use]
    pub fn has_requests(&self) -> bool {
        !self.requests.is_empty()
    }

    /// The oldest request not yet taken.
    pub fn take_request(&mut self) -> Option<Request> {
        if self.requests.is_empty() { None } else { Some(self.requests.remove(0)) }
    }

    /// Puts a processor's local APIC into its state after INIT.
    pub fn init_vcpu(&mut self, vcpu: usize) {
        let _ = vcpu;
    }

    /// Resets all devices as the reset pin does. The wall clock goes on.
    pub fn reset(&mut self, now: GuestTime) {
        let _ = now;
        self.uart.reset();
    }

    /// Bytes the guest has sent to its serial port and nobody has taken yet.
    #[inline]
    #[must_use]
    pub fn serial_waiting(&self) -> usize {
        self.uart.waiting()
    }

    /// Moves bytes that the guest has sent to `into`; the count moved.
    pub fn serial_take(&mut self, into: &mut [u8]) -> usize {
        self.uart.take(into)
    }

    /// Gives bytes to the guest's serial port; the count accepted, less than asked when its queue is full.
    pub fn serial_feed(&mut self, bytes: &[u8]) -> usize {
        self.uart.feed(bytes)
    }
}
