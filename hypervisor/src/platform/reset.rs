//! Resetting the machine, by what works first.

use pci_types::PciAddress;
use x86_64::PhysAddr;

use super::acpi::{Reset, ResetRegister};
use super::pci::Access;
use crate::arch::{cpu, port, tsc};
use crate::drivers::hal::Mmio;
use crate::mm::mmio::Window;

/// Reset control register of PC chipsets.
const RESET_CONTROL: u16 = 0xcf9;
/// Ticks to give each way before the next: enough for any, soon over on slow emulators.
const PATIENCE_TICKS: u64 = 1 << 24;

/// Resets the machine: by the firmware's register, else the chipset's, else the keyboard controller, else by an
/// exception that cannot be delivered.
pub fn machine(reset: Option<Reset>) -> ! {
    if let Some(Reset { register, value }) = reset {
        match register {
            ResetRegister::Port(number) => port::write_u8(number, value),
            ResetRegister::Memory(address) => {
                if let Ok(window) = Window::map(PhysAddr::new_truncate(address), 1) {
                    window.write_u8(0, value);
                }
            }
            ResetRegister::Pci { device, function, offset } => {
                Access.write_u8(PciAddress::new(0, 0, device, function), offset, value);
            }
        }
        wait();
    }
    port::write_u8(RESET_CONTROL, 0x02);
    port::write_u8(RESET_CONTROL, 0x06);
    wait();
    port::write_u8(0x64, 0xfe);
    wait();
    cpu::triple_fault()
}

fn wait() {
    let start = tsc::read();
    while tsc::read().wrapping_sub(start) < PATIENCE_TICKS {
        core::hint::spin_loop();
    }
}
