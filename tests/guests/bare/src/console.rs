//! Lines on COM1, sent byte by byte without interrupts.

use core::fmt::{self, Write};

use crate::hardware;

const DATA: u16 = 0x3f8;
const LINE_STATUS: u16 = 0x3fd;
const TRANSMITTER_EMPTY: u8 = 1 << 5;

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

/// Prints a line.
macro_rules! line {
    ($($argument:tt)*) => {{
        use core::fmt::Write;
        // COM1 takes everything.
        let _ = writeln!($crate::console::Com1, $($argument)*);
    }};
}
pub(crate) use line;
