#![expect(unsafe_code, reason = "taking possession of the serial port")]
//! The console's serial port: COM1, 115200 baud.
//!
//! Output is queued and leaves as fast as the line takes it, so that a long text does not hold a CPU for
//! milliseconds; input is queued by the interrupt, since the port itself holds 16 bytes only. Until the port's
//! interrupt is connected ([`connect`]) every write waits.

use core::fmt;

use heapless::Deque;
use spin::Once;
use uart_16550::backend::PioBackend;
use uart_16550::spec::FIFO_SIZE;
use uart_16550::spec::registers::{FifoTriggerLevel, IER};
use uart_16550::{BaudRate, Config, Uart16550};

use crate::sync::{Level, Lock};

/// First I/O port of COM1.
const COM1: u16 = 0x3f8;
/// Its interrupt line on the legacy controller, and so its ISA interrupt.
pub const ISA_INTERRUPT: u8 = 4;
/// Bytes of output queued; a writer of more waits.
const OUTPUT_MAX: usize = 16 << 10;
/// Bytes of input queued; more are lost and counted.
const INPUT_MAX: usize = 4 << 10;
/// Causes served in one interrupt: a port that reports more is broken, and polling does the rest.
const CAUSES_MAX: usize = 64;
/// Polls of a port that takes nothing before output is dropped: seconds on hardware, where one takes 1 µs.
const POLLS_MAX: u32 = 2_000_000;

static PORT: Once<Lock<Option<Port>>> = Once::new();

struct Port {
    uart: Uart16550<PioBackend>,
    output: Deque<u8, OUTPUT_MAX>,
    input: Deque<u8, INPUT_MAX>,
    /// Whether the port's interrupt is connected.
    connected: bool,
    /// Whether the port took nothing for a long time: nobody waits for it then.
    stuck: bool,
    lost: u64,
}

/// Sets the port up, if there is one; tells whether there is.
pub fn initialise() -> bool {
    PORT.call_once(|| Lock::new(Level::Serial, Port::open())).lock().is_some()
}

impl Port {
    fn open() -> Option<Self> {
        // SAFETY: COM1 belongs to the hypervisor alone.
        let mut uart = unsafe { Uart16550::new_port(COM1) }.ok()?;
        let config = Config {
            baud_rate: BaudRate::Baud115200,
            fifo_trigger_level: Some(FifoTriggerLevel::One),
            ..Config::default()
        };
        uart.init(config).ok()?;
        Some(Self {
            uart,
            output: Deque::new(),
            input: Deque::new(),
            connected: false,
            stuck: false,
            lost: 0,
        })
    }

    /// Moves what the port takes out of the queue and what it has got into the other; asks for the
    /// transmitter's interrupt as long as there is something to send.
    fn pump(&mut self) {
        let mut bytes = [0; FIFO_SIZE];
        loop {
            let count = self.uart.receive_bytes(&mut bytes);
            for &byte in &bytes[..count] {
                self.lost += u64::from(self.input.push_back(byte).is_err());
            }
            if count < bytes.len() {
                break;
            }
        }
        if self.output.is_empty() {
            return;
        }
        let mut count = 0;
        for (slot, &byte) in bytes.iter_mut().zip(self.output.iter()) {
            *slot = byte;
            count += 1;
        }
        let sent = self.uart.send_bytes(&bytes[..count]);
        for _ in 0..sent {
            let _ = self.output.pop_front();
        }
        self.stuck &= sent == 0;
        self.ask_for_interrupt();
    }

    fn ask_for_interrupt(&mut self) {
        if self.connected {
            let enabled = self.uart.ier().contains(IER::THR_EMPTY);
            match (self.output.is_empty(), enabled) {
                (false, false) => self.uart.enable_interrupts(IER::THR_EMPTY),
                (true, true) => self.uart.disable_interrupts(IER::THR_EMPTY),
                _ => {}
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if self.output.is_full() {
                self.drain(OUTPUT_MAX - FIFO_SIZE);
            }
            // What a port that is stuck does not take is dropped.
            let _ = self.output.push_back(byte);
        }
        self.pump();
        if !self.connected {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.drain(0);
    }

    /// Waits until at most `rest` bytes are queued, or the port turns out to be stuck.
    fn drain(&mut self, rest: usize) {
        let mut polls = 0;
        self.pump();
        while self.output.len() > rest && !self.stuck {
            let before = self.output.len();
            self.pump();
            polls = if self.output.len() < before { 0 } else { polls + 1 };
            self.stuck = polls > POLLS_MAX;
        }
    }

    fn interrupt(&mut self) {
        // The line is edge-triggered: every cause must be served before it can interrupt again.
        for _ in 0..CAUSES_MAX {
            let cause = self.uart.isr();
            self.pump();
            if !cause.has_pending_interrupt() {
                return;
            }
            let _ = (self.uart.lsr(), self.uart.msr());
        }
    }
}

fn with_port<R>(act: impl FnOnce(&mut Port) -> R) -> Option<R> {
    PORT.get().and_then(|lock| lock.lock().as_mut().map(act))
}

/// Writes `bytes`: at once as far as the line takes them, else by and by. Waits only if a lot is queued.
pub fn write(bytes: &[u8]) {
    let _ = with_port(|port| port.write(bytes));
}

/// Waits until all that was written has left.
pub fn flush() {
    let _ = with_port(Port::flush);
}

/// How many bytes can be queued without waiting.
#[must_use]
pub fn room() -> usize {
    with_port(|port| OUTPUT_MAX - port.output.len()).unwrap_or(OUTPUT_MAX)
}

/// Reads what has arrived, up to the length of `into`, and tells how much.
pub fn read(into: &mut [u8]) -> usize {
    with_port(|port| {
        port.pump();
        let mut count = 0;
        while count < into.len()
            && let Some(byte) = port.input.pop_front()
        {
            into[count] = byte;
            count += 1;
        }
        count
    })
    .unwrap_or(0)
}

/// Whether input is waiting to be read.
#[must_use]
pub fn has_input() -> bool {
    with_port(|port| !port.input.is_empty()).unwrap_or(false)
}

/// Input lost so far because nobody read it, in bytes.
#[must_use]
pub fn lost() -> u64 {
    with_port(|port| port.lost).unwrap_or(0)
}

/// The port's interrupt arrives from now on, at [`interrupt`].
pub fn connect() {
    let _ = with_port(|port| {
        port.connected = true;
        port.uart.enable_interrupts(IER::DATA_READY);
        port.ask_for_interrupt();
    });
}

/// Handles the port's interrupt.
pub fn interrupt(_vector: u8) {
    let _ = with_port(Port::interrupt);
}

/// The port in the panic path: writes past everybody, since nobody else runs any more.
#[derive(Debug, Default)]
pub struct PanicWriter;

impl PanicWriter {
    /// Takes the port from whoever has it; what was queued goes out first, if it can be had.
    #[must_use]
    pub fn new() -> Self {
        if let Some(mut port) = PORT.get().and_then(Lock::try_lock_in_panic)
            && let Some(port) = port.as_mut()
        {
            port.connected = false;
            port.flush();
        }
        Self
    }
}

impl fmt::Write for PanicWriter {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if PORT.get().is_none() {
            return Ok(());
        }
        // SAFETY: the port was set up, and the other CPUs are stopped: this is its only user now.
        let Ok(mut uart) = (unsafe { Uart16550::new_port(COM1) }) else { return Ok(()) };
        for byte in text.bytes() {
            if byte == b'\n' {
                uart.send_bytes_exact(b"\r");
            }
            uart.send_bytes_exact(&[byte]);
        }
        Ok(())
    }
}
