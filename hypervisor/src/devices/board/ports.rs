//! The map of I/O ports.

use super::requests::Request;
use super::{Board, GuestTime};
use crate::devices::{Width, acpi_pm};

/// First port of COM1.
pub const COM1: u16 = 0x3f8;
/// The reset control register, which the guest's FADT names.
pub const RESET_CONTROL: u16 = 0xcf9;
/// What to write there.
pub const RESET_VALUE: u8 = 0x06;
const RESET_PROCESSOR: u8 = 1 << 2;
const RESET_WRITABLE: u8 = 0x0a;
const KEYBOARD_COMMAND: u16 = 0x64;
/// "Pulse output line 0", which is the reset line.
const KEYBOARD_PULSE_RESET: u8 = 0xfe;
const SYSTEM_CONTROL_A: u16 = 0x92;
const SYSTEM_CONTROL_RESET: u8 = 1 << 0;
/// A20 is always on.
const SYSTEM_CONTROL_A20: u8 = 1 << 1;
const PCI_ADDRESS: u16 = 0xcf8;
const PM_FIRST: u16 = acpi_pm::BASE;
const PM_LAST: u16 = acpi_pm::BASE + acpi_pm::LENGTH - 1;

impl Board {
    /// Reads `width` bytes (1, 2 or 4) from `port`; the unused upper bits of the result are zero.
    /// Where nobody answers, all ones.
    #[inline]
    pub fn port_read(&mut self, now: GuestTime, port: u16, width: Width) -> u32 {
        match (port, width) {
            (_, Width::Byte) => u32::from(self.port_read_byte(now, port)),
            (PM_FIRST..=PM_LAST, _) => self.pm_read(now, port, width),
            (PCI_ADDRESS, Width::Dword) => self.pci.read_address(),
            (0xcfc..=0xcff, _) => self.pci.read_data(port, width),
            _ => self.port_read_split(now, port, width),
        }
    }

    /// Writes the low `width` bytes (1, 2 or 4) of `value` to `port`.
    #[inline]
    pub fn port_write(&mut self, now: GuestTime, port: u16, width: Width, value: u32) {
        match (port, width) {
            (_, Width::Byte) => self.port_write_byte(now, port, value as u8),
            (PM_FIRST..=PM_LAST, _) => self.pm_write(now, port, width, value),
            (PCI_ADDRESS, Width::Dword) => self.pci.write_address(value),
            (0xcfc..=0xcff, _) => self.pci.write_data(port, width, value),
            _ => self.port_write_split(now, port, width, value),
        }
    }

    fn port_read_byte(&mut self, now: GuestTime, port: u16) -> u8 {
        match port {
            0x3f8..=0x3ff => {
                let value = self.uart.read(port);
                self.sync_uart();
                value
            }
            0x20 | 0x21 | 0xa0 | 0xa1 => {
                let value = self.pic.read(port);
                self.sync_pic();
                value
            }
            0x40..=0x43 => self.pit.read(now, port),
            0x61 => self.pit.read_speaker(now),
            0x70 | 0x71 => {
                let value = self.rtc.read(now, port);
                self.sync_rtc();
                self.refresh_deadline();
                value
            }
            SYSTEM_CONTROL_A => SYSTEM_CONTROL_A20,
            0x4d0 | 0x4d1 => self.pic.read_trigger(port),
            PM_FIRST..=PM_LAST => self.pm_read(now, port, Width::Byte) as u8,
            RESET_CONTROL => self.reset_control,
            0xcfc..=0xcff => self.pci.read_data(port, Width::Byte) as u8,
            // No keyboard controller and nothing else: the bus floats high.
            _ => 0xff,
        }
    }

    fn port_write_byte(&mut self, now: GuestTime, port: u16, value: u8) {
        match port {
            0x3f8..=0x3ff => {
                self.uart.write(port, value);
                self.sync_uart();
            }
            0x20 | 0x21 | 0xa0 | 0xa1 => {
                self.pic.write(port, value);
                self.sync_pic();
            }
            0x40..=0x43 => {
                self.pit.write(now, port, value);
                self.refresh_deadline();
            }
            0x61 => self.pit.write_speaker(now, value),
            0x70 | 0x71 => {
                self.rtc.write(now, port, value);
                self.sync_rtc();
                self.refresh_deadline();
            }
            0x4d0 | 0x4d1 => self.pic.write_trigger(port, value),
            PM_FIRST..=PM_LAST => self.pm_write(now, port, Width::Byte, u32::from(value)),
            RESET_CONTROL => self.write_reset_control(value),
            KEYBOARD_COMMAND if value == KEYBOARD_PULSE_RESET => self.requests.add(Request::Reset),
            SYSTEM_CONTROL_A if value & SYSTEM_CONTROL_RESET != 0 => self.requests.add(Request::Reset),
            0xcfc..=0xcff => self.pci.write_data(port, Width::Byte, u32::from(value)),
            _ => {}
        }
    }

    /// A wide access to byte-wide devices is one access to each, in order.
    #[cold]
    fn port_read_split(&mut self, now: GuestTime, port: u16, width: Width) -> u32 {
        let mut bytes = [0; 4];
        for (index, byte) in bytes.iter_mut().enumerate().take(width.bytes()) {
            *byte = self.port_read_byte(now, port.wrapping_add(index as u16));
        }
        u32::from_le_bytes(bytes)
    }

    #[cold]
    fn port_write_split(&mut self, now: GuestTime, port: u16, width: Width, value: u32) {
        for (index, byte) in value.to_le_bytes().into_iter().enumerate().take(width.bytes()) {
            self.port_write_byte(now, port.wrapping_add(index as u16), byte);
        }
    }

    fn pm_read(&mut self, now: GuestTime, port: u16, width: Width) -> u32 {
        let value = self.pm.read(now, port - acpi_pm::BASE, width);
        self.sync_pm();
        value
    }

    fn pm_write(&mut self, now: GuestTime, port: u16, width: Width, value: u32) {
        match self.pm.write(now, port - acpi_pm::BASE, width, value) {
            acpi_pm::Power::Off => self.requests.add(Request::Shutdown),
            acpi_pm::Power::Stay => {}
        }
        self.sync_pm();
        self.refresh_deadline();
    }

    fn write_reset_control(&mut self, value: u8) {
        if value & RESET_PROCESSOR != 0 && self.reset_control & RESET_PROCESSOR == 0 {
            self.requests.add(Request::Reset);
        }
        self.reset_control = value & RESET_WRITABLE;
    }
}
