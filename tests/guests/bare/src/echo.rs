//! Sends back every line that it receives, woken by the UART's interrupt.

use crate::console::{self, line};
use crate::hardware as hw;

const COM1_IRQ: u8 = 4;
const LINE_BYTES_MAX: usize = 256;
/// A line that ends the behaviour.
const END: &str = "end";

/// Echoes until it receives `end`.
pub(crate) fn run() {
    hw::enable_irq(COM1_IRQ);
    console::enable_receive_interrupt();
    line!("echo: ready");
    let mut bytes = [0; LINE_BYTES_MAX];
    let mut length = 0;
    loop {
        // All that is there, so that the interrupt's line falls and can rise again for the next byte.
        while let Some(byte) = console::receive() {
            if byte != b'\r' && byte != b'\n' {
                bytes[length] = byte;
                length = (length + 1).min(LINE_BYTES_MAX - 1);
                continue;
            }
            let text = core::str::from_utf8(&bytes[..length]).unwrap_or("(not text)");
            line!("echo: {text}");
            if text == END {
                return;
            }
            length = 0;
        }
        hw::sleep();
    }
}
