//! Which global interrupt a function's pin raises.
//!
//! The firmware tells this by an AML method, which nobody here can run. What remains is the chipset's
//! documentation: the pin is passed up through the bridges by the rule of the PCI-to-PCI bridge specification
//! (section 9.1) and then
//!
//! - on a 440FX with PIIX3, goes to one of four routed lines, which raise the legacy interrupt that the firmware
//!   has noted in the function; an emulator with an I/O APIC may also raise lines 16 to 19;
//! - on a Q35 with ICH9, goes to lines 20 to 23, or 16 to 19 for the chipset's own devices (25 to 31);
//! - elsewhere, is what the firmware has noted, as good as that may be.
//!
//! A driver must not rely on it: it polls as well, only less often.

use pci_types::PciAddress;

use super::{Candidates, Function};
use crate::arch::ioapic::Signal;
use crate::platform::acpi::Firmware;

const INTEL: u16 = 0x8086;
const I440FX: u16 = 0x1237;
const Q35: u16 = 0x29c0;
/// Bridges between a function and bus 0, at most.
const DEPTH_MAX: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chipset {
    I440fx,
    Q35,
    Other,
}

fn chipset(functions: &[Function]) -> Chipset {
    let root = functions.iter().find(|function| function.address == PciAddress::new(0, 0, 0, 0));
    match root.map(|root| (root.vendor, root.device)) {
        Some((INTEL, I440FX)) => Chipset::I440fx,
        Some((INTEL, Q35)) => Chipset::Q35,
        _ => Chipset::Other,
    }
}

/// The device on bus 0 and the pin (0 to 3) there that `function`'s pin is passed up to.
fn at_root(functions: &[Function], function: &Function) -> Option<(u8, u8)> {
    let mut pin = function.pin.checked_sub(1).filter(|&pin| pin < 4)?;
    let mut address = function.address;
    for _ in 0..DEPTH_MAX {
        if address.bus() == 0 {
            return Some((address.device(), pin));
        }
        pin = (pin + address.device()) % 4;
        address = functions.iter().find(|bridge| bridge.secondary_bus == Some(address.bus()))?.address;
    }
    None
}

/// Global interrupts that `function`, one of `functions`, may raise; none if it has no pin.
#[must_use]
pub fn candidates(functions: &[Function], function: &Function, firmware: &Firmware) -> Candidates {
    let mut candidates = Candidates::new();
    let Some((device, pin)) = at_root(functions, function) else { return candidates };
    let noted = matches!(function.line, 1..=15).then(|| {
        let (interrupt, signal) = firmware.isa_interrupt(function.line);
        // A PCI interrupt is level-triggered on every line; without an override it is active low.
        let signal = if signal == Signal::ISA { Signal::PCI } else { signal };
        (interrupt, signal)
    });
    let lines = match chipset(functions) {
        Chipset::Q35 if device >= 25 => Some(16 + u32::from(pin)),
        Chipset::Q35 => Some(20 + u32::from((device + pin) % 4)),
        Chipset::I440fx => Some(16 + u32::from((device + pin + 3) % 4)),
        Chipset::Other => None,
    };
    let routed = lines.map(|line| (line, Signal::PCI));
    let by_preference = match chipset(functions) {
        Chipset::I440fx => [routed, noted],
        Chipset::Q35 => [routed, None],
        Chipset::Other => [noted, None],
    };
    candidates.extend(by_preference.into_iter().flatten());
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::ioapic::{Polarity, Trigger};
    use crate::platform::acpi::Override;
    use pci_types::HeaderType;
    use std::vec::Vec;

    fn function(address: (u8, u8), id: (u16, u16), pin: u8, line: u8) -> Function {
        Function {
            address: PciAddress::new(0, address.0, address.1, 0),
            vendor: id.0,
            device: id.1,
            class: 2,
            subclass: 0,
            interface: 0,
            revision: 0,
            header: HeaderType::Endpoint,
            bars: [None; 6],
            pin,
            line,
            secondary_bus: None,
        }
    }

    fn lines(functions: &[Function], firmware: &Firmware) -> Vec<u32> {
        let last = functions.last().unwrap();
        candidates(functions, last, firmware).iter().map(|candidate| candidate.0).collect()
    }

    #[test]
    fn slot_2_of_a_440fx_raises_line_17_or_what_the_firmware_noted() {
        let nic = function((0, 2), (INTEL, 0x100e), 1, 11);
        let functions = [function((0, 0), (INTEL, I440FX), 0, 0), nic];
        let high = Signal { trigger: Trigger::Level, polarity: Polarity::High };
        let overrides = std::vec![Override { isa: 11, interrupt: 11, signal: high }];
        let firmware = Firmware { overrides, ..Firmware::default() };
        let found = candidates(&functions, &functions[1], &firmware);
        assert_eq!(found.as_slice(), [(17, Signal::PCI), (11, high)]);
    }

    #[test]
    fn slot_2_of_a_q35_raises_line_22() {
        let functions = [function((0, 0), (INTEL, Q35), 0, 0), function((0, 2), (INTEL, 0x100e), 1, 11)];
        assert_eq!(lines(&functions, &Firmware::default()), [22]);
        let functions = [function((0, 0), (INTEL, Q35), 0, 0), function((0, 31), (INTEL, 0x2922), 1, 10)];
        assert_eq!(lines(&functions, &Firmware::default()), [16]);
    }

    #[test]
    fn a_bridge_passes_pins_on_by_the_device_behind_it() {
        let mut bridge = function((0, 3), (0x1b36, 0xc), 1, 0);
        bridge.secondary_bus = Some(5);
        let nic = function((5, 1), (INTEL, 0x10d3), 1, 10);
        let functions = [function((0, 0), (INTEL, Q35), 0, 0), bridge, nic];
        // INTA of device 1 is INTB of the bridge in slot 3.
        assert_eq!(lines(&functions, &Firmware::default()), [20]);
    }

    #[test]
    fn without_a_pin_or_a_way_up_there_is_no_interrupt() {
        let functions = [function((0, 0), (INTEL, Q35), 0, 0), function((0, 2), (INTEL, 0x100e), 0, 11)];
        assert!(lines(&functions, &Firmware::default()).is_empty());
        let functions = [function((0, 0), (INTEL, Q35), 0, 0), function((9, 2), (INTEL, 0x100e), 1, 11)];
        assert!(lines(&functions, &Firmware::default()).is_empty());
    }

    #[test]
    fn on_an_unknown_chipset_the_firmware_is_believed() {
        let functions = [function((0, 0), (0x1022, 1), 0, 0), function((0, 2), (INTEL, 0x100e), 1, 10)];
        assert_eq!(lines(&functions, &Firmware::default()), [10]);
    }
}
