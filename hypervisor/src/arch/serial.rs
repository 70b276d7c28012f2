#![expect(unsafe_code, reason = "taking possession of the serial port")]
//! The console's serial port: COM1, 115200 baud.

use core::fmt;

use spin::Once;
use uart_16550::backend::PioBackend;
use uart_16550::spec::registers::{FifoTriggerLevel, IER};
use uart_16550::{BaudRate, Config, Uart16550};

use crate::sync::{Level, Lock};

/// First I/O port of COM1.
const COM1: u16 = 0x3f8;
/// Its interrupt line on the legacy controller, and so its ISA interrupt.
pub const ISA_INTERRUPT: u8 = 4;

static PORT: Once<Lock<Option<Uart16550<PioBackend>>>> = Once::new();

/// Sets the port up, if there is one.
pub fn initialise() {
    PORT.call_once(|| Lock::new(Level::Serial, open()));
}

fn open() -> Option<Uart16550<PioBackend>> {
    // SAFETY: COM1 belongs to the hypervisor alone.
    let mut port = unsafe { Uart16550::new_port(COM1) }.ok()?;
    let config = Config {
        baud_rate: BaudRate::Baud115200,
        interrupts: IER::DATA_READY,
        fifo_trigger_level: Some(FifoTriggerLevel::One),
        ..Config::default()
    };
    port.init(config).ok()?;
    Some(port)
}

/// Writes all of `bytes`, waiting for the port.
pub fn write(bytes: &[u8]) {
    if let Some(lock) = PORT.get()
        && let Some(port) = lock.lock().as_mut()
    {
        port.send_bytes_exact(bytes);
    }
}

/// Writes as many of `bytes` as the port takes without waiting, and tells how many.
pub fn try_write(bytes: &[u8]) -> usize {
    match PORT.get() {
        Some(lock) => lock.lock().as_mut().map_or(bytes.len(), |port| port.send_bytes(bytes)),
        None => bytes.len(),
    }
}

/// Reads what has arrived, up to the length of `into`, and tells how much.
pub fn read(into: &mut [u8]) -> usize {
    match PORT.get() {
        Some(lock) => lock.lock().as_mut().map_or(0, |port| port.receive_bytes(into)),
        None => 0,
    }
}

/// The port in the panic path: takes it from whoever holds it only if it is free.
#[derive(Debug)]
pub struct PanicWriter;

impl fmt::Write for PanicWriter {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if let Some(mut port) = PORT.get().and_then(Lock::try_lock_in_panic)
            && let Some(port) = port.as_mut()
        {
            for byte in text.bytes() {
                if byte == b'\n' {
                    port.send_bytes_exact(b"\r");
                }
                port.send_bytes_exact(&[byte]);
            }
        }
        Ok(())
    }
}
