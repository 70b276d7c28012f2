//! The guest's DSDT: what cannot be found by probing.

use alloc::vec::Vec;

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Name, Package, ResourceTemplate,
    Scope,
};

use crate::devices::acpi_pm::SLEEP_TYPE_S5;
use crate::devices::board::ports::COM1;
use crate::devices::irq::Line;
use crate::guest::layout::HOLE_START;

/// Last address below the interrupt controllers.
const PCI_MEMORY_LAST: u32 = 0xfebf_ffff;

/// The definition block: everything after the table's header.
pub(super) fn definition_block() -> Vec<u8> {
    let mut bytes = Vec::new();
    let sleep_type = SLEEP_TYPE_S5 as u8;
    let zero = 0u8;
    let s5 = Package::new(alloc::vec![&sleep_type, &sleep_type, &zero, &zero]);
    Name::new("_S5_".into(), &s5).to_aml_bytes(&mut bytes);
    system_bus(&mut bytes);
    bytes
}

fn system_bus(bytes: &mut Vec<u8>) {
    let bridge_id = Name::new("_HID".into(), &EISAName::new("PNP0A03"));
    let bridge_uid = Name::new("_UID".into(), &0u8);
    let bus = AddressSpace::new_bus_number(0u16, 0u16);
    let config = IO::new(0xcf8, 0xcf8, 1, 8);
    let low_ports = AddressSpace::new_io(0u16, 0x0cf7, None);
    let high_ports = AddressSpace::new_io(0x0d00u16, 0xffff, None);
    let memory = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        HOLE_START as u32,
        PCI_MEMORY_LAST,
        None,
    );
    let bridge_resources = Name::new(
        "_CRS".into(),
        &ResourceTemplate::new(alloc::vec![&bus, &config, &low_ports, &high_ports, &memory]),
    );
    let bridge = Device::new("PCI0".into(), alloc::vec![&bridge_id, &bridge_uid, &bridge_resources]);

    let serial = IsaDevice::new("PNP0501", COM1, 8, Line::COM1);
    let serial = Device::new("COM1".into(), serial.children());
    let clock = IsaDevice::new("PNP0B00", 0x70, 2, Line::CLOCK);
    let clock = Device::new("RTC_".into(), clock.children());
    Scope::new("_SB_".into(), alloc::vec![&bridge, &serial, &clock]).to_aml_bytes(bytes);
}

/// Identification and resources of a device with ports and an edge-triggered interrupt.
struct IsaDevice {
    names: [Name; 3],
}

impl IsaDevice {
    fn new(id: &str, port: u16, ports: u8, line: Line) -> Self {
        let io = IO::new(port, port, 1, ports);
        let interrupt = Interrupt::new(true, true, false, false, u32::from(line.gsi));
        Self {
            names: [
                Name::new("_HID".into(), &EISAName::new(id)),
                Name::new("_UID".into(), &0u8),
                Name::new("_CRS".into(), &ResourceTemplate::new(alloc::vec![&io, &interrupt])),
            ],
        }
    }

    fn children(&self) -> Vec<&dyn Aml> {
        self.names.iter().map(|name| name as &dyn Aml).collect()
    }
}
