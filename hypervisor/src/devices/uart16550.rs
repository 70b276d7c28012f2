//! 16550A serial port.
//!
//! Transmission takes no time: a byte written goes at once to a bounded queue that the host empties. When
//! the queue has no room for another FIFO's worth, THRE and TEMT stay clear, and a well-behaved guest waits;
//! bytes written all the same are lost, as on the real part. Received bytes wait in a queue that takes the
//! place of the receive FIFO; bytes below the trigger level raise the time-out indication at once.
//!
//! Reference: National Semiconductor PC16550D data sheet, sections 6 and 8.

use alloc::boxed::Box;
use alloc::vec::Vec;
use bitflags::bitflags;
use heapless::Deque;
use minicbor::{Decode, Encode};

/// Bytes of guest output that wait for the host.
pub const TRANSMIT_QUEUE_BYTES: usize = 4096;
/// Bytes of host input that wait for the guest.
pub const RECEIVE_QUEUE_BYTES: usize = 256;
/// Depth of the transmit FIFO: how much a guest may write after seeing THRE.
const FIFO_BYTES: usize = 16;

bitflags! {
    /// Interrupt enable register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct InterruptEnable: u8 {
        const RECEIVED = 1 << 0;
        const TRANSMITTER_EMPTY = 1 << 1;
        const LINE_STATUS = 1 << 2;
        const MODEM_STATUS = 1 << 3;
    }
}

bitflags! {
    /// Modem control register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct ModemControl: u8 {
        const DTR = 1 << 0;
        const RTS = 1 << 1;
        const OUT1 = 1 << 2;
        /// On a PC this pin gates the interrupt line.
        const OUT2 = 1 << 3;
        const LOOPBACK = 1 << 4;
    }
}

const LCR_DIVISOR_LATCH: u8 = 1 << 7;
const LSR_DATA_READY: u8 = 1 << 0;
const LSR_OVERRUN: u8 = 1 << 1;
const LSR_HOLDING_EMPTY: u8 = 1 << 5;
const LSR_TRANSMITTER_EMPTY: u8 = 1 << 6;
const MSR_CTS: u8 = 1 << 4;
const MSR_DSR: u8 = 1 << 5;
const MSR_RI: u8 = 1 << 6;
const MSR_DCD: u8 = 1 << 7;
/// Trailing edge of RI is bit 2; the other deltas sit four bits below their signals.
const MSR_RI_TRAILING: u8 = 1 << 2;
const MSR_DELTAS: u8 = 0x0f;
/// The far end is always there and ready.
const MSR_CONNECTED: u8 = MSR_CTS | MSR_DSR | MSR_DCD;
const IIR_NONE: u8 = 0x01;
const IIR_MODEM_STATUS: u8 = 0x00;
const IIR_TRANSMITTER_EMPTY: u8 = 0x02;
const IIR_RECEIVED: u8 = 0x04;
const IIR_LINE_STATUS: u8 = 0x06;
const IIR_TIME_OUT: u8 = 0x0c;
const IIR_FIFOS_ENABLED: u8 = 0xc0;
const FCR_ENABLE: u8 = 1 << 0;
const FCR_CLEAR_RECEIVER: u8 = 1 << 1;
const FCR_CLEAR_TRANSMITTER: u8 = 1 << 2;
/// 115,200 / 12 = 9600 baud, the firmware's customary rate.
const DIVISOR_AT_RESET: u16 = 12;

/// The serial port.
#[derive(Debug)]
pub struct Uart16550 {
    interrupt_enable: InterruptEnable,
    fifo_control: u8,
    line_control: u8,
    modem_control: ModemControl,
    modem_status: u8,
    scratch: u8,
    divisor: u16,
    overrun: bool,
    /// The holding register became empty and nobody has read that in IIR yet.
    empty_pending: bool,
    /// Apart, since a board passes through the stack by value when it is restored.
    transmit: Box<Deque<u8, TRANSMIT_QUEUE_BYTES>>,
    receive: Deque<u8, RECEIVE_QUEUE_BYTES>,
}

/// Saved state of a [`Uart16550`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct UartState {
    #[n(0)]
    interrupt_enable: u8,
    #[n(1)]
    fifo_control: u8,
    #[n(2)]
    line_control: u8,
    #[n(3)]
    modem_control: u8,
    #[n(4)]
    modem_status: u8,
    #[n(5)]
    scratch: u8,
    #[n(6)]
    divisor: u16,
    #[n(7)]
    overrun: bool,
    #[n(8)]
    empty_pending: bool,
    #[cbor(n(9), with = "minicbor::bytes")]
    transmit: Vec<u8>,
    #[cbor(n(10), with = "minicbor::bytes")]
    receive: Vec<u8>,
}

impl Default for Uart16550 {
    fn default() -> Self {
        Self::new()
    }
}

impl Uart16550 {
    /// A port as it is after reset, with empty queues.
    #[must_use]
    pub fn new() -> Self {
        Self {
            interrupt_enable: InterruptEnable::empty(),
            fifo_control: 0,
            line_control: 0,
            modem_control: ModemControl::OUT2,
            modem_status: MSR_CONNECTED,
            scratch: 0,
            divisor: DIVISOR_AT_RESET,
            overrun: false,
            empty_pending: false,
            transmit: Box::default(),
            receive: Deque::new(),
        }
    }

    /// Resets the registers; what the guest has already sent stays for the host.
    pub fn reset(&mut self) {
        let transmit = core::mem::take(&mut self.transmit);
        *self = Self { transmit, ..Self::new() };
    }

    /// Reads register `offset` (0 to 7).
    #[inline]
    pub fn read(&mut self, offset: u16) -> u8 {
        match offset & 7 {
            0 if self.divisor_latched() => self.divisor.to_le_bytes()[0],
            0 => self.receive.pop_front().unwrap_or(0),
            1 if self.divisor_latched() => self.divisor.to_le_bytes()[1],
            1 => self.interrupt_enable.bits(),
            2 => self.read_identification(),
            3 => self.line_control,
            4 => self.modem_control.bits(),
            5 => self.read_line_status(),
            6 => self.read_modem_status(),
            _ => self.scratch,
        }
    }

    /// Writes register `offset` (0 to 7).
    #[inline]
    pub fn write(&mut self, offset: u16, value: u8) {
        match offset & 7 {
            0 if self.divisor_latched() => self.divisor = self.divisor & 0xff00 | u16::from(value),
            0 => self.send(value),
            1 if self.divisor_latched() => self.divisor = self.divisor & 0x00ff | u16::from(value) << 8,
            1 => self.write_interrupt_enable(value),
            2 => self.write_fifo_control(value),
            3 => self.line_control = value,
            4 => self.write_modem_control(value),
            7 => self.scratch = value,
            // Line status and modem status cannot be written.
            _ => {}
        }
    }

    /// Level of the interrupt line.
    #[inline]
    #[must_use]
    pub fn interrupt_level(&self) -> bool {
        self.modem_control.contains(ModemControl::OUT2) && self.cause() != IIR_NONE
    }

    /// Moves waiting output to `into`; the count moved.
    pub fn take(&mut self, into: &mut [u8]) -> usize {
        let had_room = self.has_room();
        let mut count = 0;
        while count < into.len() {
            let Some(byte) = self.transmit.pop_front() else { break };
            into[count] = byte;
            count += 1;
        }
        if !had_room && self.has_room() {
            self.empty_pending = true;
        }
        count
    }

    /// Bytes of output that wait for the host.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.transmit.len()
    }

    /// Gives the guest input; the count accepted, less than asked when the queue is full.
    pub fn feed(&mut self, bytes: &[u8]) -> usize {
        if self.modem_control.contains(ModemControl::LOOPBACK) {
            return 0;
        }
        let room = self.receive.capacity() - self.receive.len();
        let accepted = room.min(bytes.len());
        for byte in &bytes[..accepted] {
            // Cannot fail: `accepted` is at most the room.
            let _ = self.receive.push_back(*byte);
        }
        accepted
    }

    const fn divisor_latched(&self) -> bool {
        self.line_control & LCR_DIVISOR_LATCH != 0
    }

    const fn fifos_enabled(&self) -> bool {
        self.fifo_control & FCR_ENABLE != 0
    }

    fn has_room(&self) -> bool {
        self.transmit.len() <= TRANSMIT_QUEUE_BYTES - FIFO_BYTES
    }

    fn trigger_bytes(&self) -> usize {
        if !self.fifos_enabled() {
            return 1;
        }
        [1, 4, 8, 14][usize::from(self.fifo_control >> 6)]
    }

    /// The highest-priority enabled cause, as IIR shows it.
    fn cause(&self) -> u8 {
        let enabled = self.interrupt_enable;
        if self.overrun && enabled.contains(InterruptEnable::LINE_STATUS) {
            return IIR_LINE_STATUS;
        }
        if !self.receive.is_empty() && enabled.contains(InterruptEnable::RECEIVED) {
            return if self.receive.len() >= self.trigger_bytes() { IIR_RECEIVED } else { IIR_TIME_OUT };
        }
        if self.empty_pending && enabled.contains(InterruptEnable::TRANSMITTER_EMPTY) {
            return IIR_TRANSMITTER_EMPTY;
        }
        if self.modem_status & MSR_DELTAS != 0 && enabled.contains(InterruptEnable::MODEM_STATUS) {
            return IIR_MODEM_STATUS;
        }
        IIR_NONE
    }

    fn read_identification(&mut self) -> u8 {
        let cause = self.cause();
        if cause == IIR_TRANSMITTER_EMPTY {
            self.empty_pending = false;
        }
        if self.fifos_enabled() { cause | IIR_FIFOS_ENABLED } else { cause }
    }

    fn read_line_status(&mut self) -> u8 {
        let mut status = 0;
        if !self.receive.is_empty() {
            status |= LSR_DATA_READY;
        }
        if self.has_room() {
            status |= LSR_HOLDING_EMPTY | LSR_TRANSMITTER_EMPTY;
        }
        if core::mem::take(&mut self.overrun) {
            status |= LSR_OVERRUN;
        }
        status
    }

    fn read_modem_status(&mut self) -> u8 {
        let status = self.modem_status;
        self.modem_status &= !MSR_DELTAS;
        status
    }

    fn send(&mut self, byte: u8) {
        if self.modem_control.contains(ModemControl::LOOPBACK) {
            // As deep as the FIFO, so that a guest that tests for overrun finds one.
            let depth = if self.fifos_enabled() { FIFO_BYTES } else { 1 };
            if self.receive.len() >= depth || self.receive.push_back(byte).is_err() {
                self.overrun = true;
            }
        } else {
            // Without room the byte is lost: the guest wrote although THRE was clear.
            let _ = self.transmit.push_back(byte);
        }
        self.empty_pending = self.has_room();
    }

    fn write_interrupt_enable(&mut self, value: u8) {
        let enabled = InterruptEnable::from_bits_truncate(value);
        let newly = enabled.difference(self.interrupt_enable);
        self.interrupt_enable = enabled;
        if newly.contains(InterruptEnable::TRANSMITTER_EMPTY) {
            // Enabling the interrupt while the register is empty raises it again.
            self.empty_pending = self.has_room();
        }
    }

    fn write_fifo_control(&mut self, value: u8) {
        let toggled = (value ^ self.fifo_control) & FCR_ENABLE != 0;
        if toggled || value & FCR_CLEAR_RECEIVER != 0 {
            self.receive.clear();
        }
        if value & FCR_CLEAR_TRANSMITTER != 0 {
            // Bytes in the queue have left the port already as far as the guest can tell.
            self.empty_pending = self.has_room();
        }
        // The other bits take effect only together with the enable bit.
        self.fifo_control = if value & FCR_ENABLE != 0 { value & 0xc9 } else { 0 };
    }

    fn write_modem_control(&mut self, value: u8) {
        let control = ModemControl::from_bits_truncate(value);
        self.modem_control = control;
        let signals = if control.contains(ModemControl::LOOPBACK) {
            let mut looped = 0;
            for (output, input) in [
                (ModemControl::RTS, MSR_CTS),
                (ModemControl::DTR, MSR_DSR),
                (ModemControl::OUT1, MSR_RI),
                (ModemControl::OUT2, MSR_DCD),
            ] {
                if control.contains(output) {
                    looped |= input;
                }
            }
            looped
        } else {
            MSR_CONNECTED
        };
        let old = self.modem_status;
        let changed = (old ^ signals) & 0xf0;
        let mut deltas = old & MSR_DELTAS | (changed & !MSR_RI) >> 4;
        if changed & MSR_RI != 0 && signals & MSR_RI == 0 {
            deltas |= MSR_RI_TRAILING;
        }
        self.modem_status = signals | deltas;
    }

    /// The state to carry to another host.
    #[must_use]
    pub fn save(&self) -> UartState {
        let Self {
            interrupt_enable,
            fifo_control,
            line_control,
            modem_control,
            modem_status,
            scratch,
            divisor,
            overrun,
            empty_pending,
            transmit,
            receive,
        } = self;
        UartState {
            interrupt_enable: interrupt_enable.bits(),
            fifo_control: *fifo_control,
            line_control: *line_control,
            modem_control: modem_control.bits(),
            modem_status: *modem_status,
            scratch: *scratch,
            divisor: *divisor,
            overrun: *overrun,
            empty_pending: *empty_pending,
            transmit: transmit.iter().copied().collect(),
            receive: receive.iter().copied().collect(),
        }
    }

    /// A port in the state `saved`, or the name of the field that no port can have.
    ///
    /// # Errors
    /// The name of the first impossible field.
    pub fn restore(saved: &UartState) -> Result<Self, &'static str> {
        let mut transmit = Box::<Deque<u8, TRANSMIT_QUEUE_BYTES>>::default();
        for byte in &saved.transmit {
            transmit.push_back(*byte).map_err(|_| "uart.transmit")?;
        }
        let mut receive = Deque::new();
        for byte in &saved.receive {
            receive.push_back(*byte).map_err(|_| "uart.receive")?;
        }
        Ok(Self {
            interrupt_enable: InterruptEnable::from_bits(saved.interrupt_enable)
                .ok_or("uart.interrupt_enable")?,
            fifo_control: saved.fifo_control,
            line_control: saved.line_control,
            modem_control: ModemControl::from_bits(saved.modem_control).ok_or("uart.modem_control")?,
            modem_status: saved.modem_status,
            scratch: saved.scratch,
            divisor: saved.divisor,
            overrun: saved.overrun,
            empty_pending: saved.empty_pending,
            transmit,
            receive,
        })
    }
}

#[cfg(test)]
#[path = "uart16550_tests.rs"]
mod tests;
