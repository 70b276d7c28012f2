#![expect(unsafe_code, reason = "the CMOS memory's ports")]
//! The CMOS memory that holds the real-time clock.

use x86_64::instructions::port::Port;

const ADDRESS: u16 = 0x70;
const DATA: u16 = 0x71;

/// Reads register `register`. By the boot CPU only: selecting and reading are two accesses.
#[must_use]
pub fn read(register: u8) -> u8 {
    let (mut address, mut data) = (Port::<u8>::new(ADDRESS), Port::<u8>::new(DATA));
    // SAFETY: selects a register of memory that belongs to the hypervisor; bit 7 leaves NMIs enabled.
    unsafe { address.write(register & 0x7f) };
    // SAFETY: reads the register just selected.
    unsafe { data.read() }
}
