//! COM1: lines are sent byte by byte without interrupts; receiving can be waited for by interrupt.

use core::fmt::{self, Write};

use crate::hardware;

const DATA: u16 = 0x3f8;
const INTERRUPT_ENABLE: u16 = 0x3f9;
const MODEM_CONTROL: u16 = 0x3fc;
const LINE_STATUS: u16 = 0x3fd;
const DATA_READY: u8 = 1 << 0;
const TRANSMITTER_EMPTY: u8 = 1 << 5;
const RECEIVED: u8 = 1 << 0;
/// DTR, RTS, and OUT2, which lets the interrupt out of the chip.
const MODEM_READY: u8 = 0x0b;

/// COM1.
pub(crate) struct Com1;

impl Write for Com1 {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while hardware::port_read(LINE_STATUS) & TRANSMITTER_EMPTY == 0 {}
            hardware::port_write(DATA, byte);
        }
        Ok(())
    }
}

/// Raises IRQ 4 when a byte has come.
pub(crate) fn enable_receive_interrupt() {
    hardware::port_write(MODEM_CONTROL, MODEM_READY);
    hardware::port_write(INTERRUPT_ENABLE, RECEIVED);
}

/// A byte that has come, if any.
pub(crate) fn receive() -> Option<u8> {
    (hardware::port_read(LINE_STATUS) & DATA_READY != 0).then(|| hardware::port_read(DATA))
}

/// Prints a line.
macro_rules! line {
    ($($argument:tt)*) => {{
        use core::fmt::Write;
        // COM1 takes everything.
        let _ = writeln!($crate::console::Com1, $($argument)*);
    }};
}
pub(crate) use line;
