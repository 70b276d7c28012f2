use std::vec;

use super::*;

/// Where the fake memory starts, as a physical address.
const BASE: usize = 0x10_0000;

/// Memory with tables in it, never freed.
#[derive(Clone, Copy, Debug)]
struct Fake {
    memory: &'static [u64],
}

impl AcpiHandler for Fake {
    unsafe fn map_physical_region<T>(&self, physical: usize, size: usize) -> PhysicalMapping<Self, T> {
        let offset = physical - BASE;
        assert!(offset + size <= size_of_val(self.memory));
        // SAFETY: within the memory, as just checked.
        let at = unsafe { self.memory.as_ptr().cast::<u8>().add(offset) };
        let at = NonNull::new(at.cast_mut().cast()).unwrap();
        // SAFETY: the memory is never freed.
        unsafe { PhysicalMapping::new(physical, at, size, size, *self) }
    }
    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

/// Tables one after the other; those added first come first in the XSDT, which is at `BASE`.
struct Builder {
    bytes: Vec<u8>,
    tables: Vec<u64>,
}

fn checksum(bytes: &mut [u8], at: usize) {
    let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    bytes[at] = bytes[at].wrapping_sub(sum);
}

fn table(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut table = Vec::new();
    table.extend_from_slice(signature);
    table.extend_from_slice(&(36 + body.len() as u32).to_le_bytes());
    table.extend_from_slice(&[revision, 0]);
    table.extend_from_slice(b"GODWITTABLES\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    table.truncate(36);
    table.extend_from_slice(body);
    checksum(&mut table, 9);
    table
}

impl Builder {
    fn new() -> Self {
        Self { bytes: vec![0; 4096], tables: Vec::new() }
    }

    fn add(&mut self, table: &[u8]) {
        self.tables.push((BASE + self.bytes.len()) as u64);
        self.bytes.extend_from_slice(table);
        self.bytes.resize(self.bytes.len().next_multiple_of(16), 0);
    }

    fn read(mut self) -> Result<Firmware, FirmwareError> {
        let pointers: Vec<u8> = self.tables.iter().flat_map(|at| at.to_le_bytes()).collect();
        let xsdt = table(b"XSDT", 1, &pointers);
        self.bytes[..xsdt.len()].copy_from_slice(&xsdt);
        let rsdp_at = self.bytes.len();
        let mut rsdp = Vec::from(*b"RSD PTR \0GODWIT\x02\0\0\0\0");
        rsdp.extend_from_slice(&36u32.to_le_bytes());
        rsdp.extend_from_slice(&(BASE as u64).to_le_bytes());
        rsdp.extend_from_slice(&[0; 4]);
        checksum(&mut rsdp[..20], 8);
        checksum(&mut rsdp, 32);
        self.bytes.extend_from_slice(&rsdp);
        self.bytes.resize(self.bytes.len().next_multiple_of(8) + 512, 0);
        let words: Vec<u64> =
            self.bytes.chunks(8).map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap())).collect();
        let handler = Fake { memory: words.leak() };
        // SAFETY: the tables were just built, and lie in the memory seen through the handler.
        unsafe { Firmware::read_with(handler, (BASE + rsdp_at) as u64) }
    }
}

fn madt(entries: &[&[u8]]) -> Vec<u8> {
    let mut body = Vec::from(0xfee0_0000u32.to_le_bytes());
    body.extend_from_slice(&1u32.to_le_bytes());
    entries.iter().for_each(|entry| body.extend_from_slice(entry));
    table(b"APIC", 3, &body)
}

#[test]
fn the_madt_gives_processors_controllers_and_overrides() {
    let mut builder = Builder::new();
    builder.add(&madt(&[
        &[0, 8, 0, 0, 1, 0, 0, 0],
        &[0, 8, 1, 1, 1, 0, 0, 0],
        &[0, 8, 2, 2, 0, 0, 0, 0],
        &[9, 16, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0],
        &[9, 16, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0],
        &[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0],
        &[2, 10, 0, 0, 2, 0, 0, 0, 0, 0],
        &[2, 10, 0, 9, 9, 0, 0, 0, 0x0d, 0],
        &[2, 10, 0, 10, 10, 0, 0, 0, 0x0f, 0],
    ]));
    let firmware = builder.read().unwrap();
    assert_eq!(firmware.processors, [0, 1, 256]);
    assert_eq!(firmware.io_apics, [IoApic { address: 0xfec0_0000, first_interrupt: 0 }]);
    assert_eq!(firmware.isa_interrupt(0), (2, Signal::ISA));
    assert_eq!(firmware.isa_interrupt(4), (4, Signal::ISA));
    let high_level = Signal { trigger: Trigger::Level, polarity: Polarity::High };
    assert_eq!(firmware.isa_interrupt(9), (9, high_level));
    assert_eq!(firmware.isa_interrupt(10), (10, Signal::PCI));
    assert_eq!((firmware.pm_timer, firmware.reset), (None, None));
}

#[test]
fn the_fadt_gives_the_timer_and_the_reset_register() {
    let mut body = vec![0; 244 - 36];
    body[76 - 36..80 - 36].copy_from_slice(&0x608u32.to_le_bytes());
    body[91 - 36] = 4;
    body[112 - 36..116 - 36].copy_from_slice(&(1u32 << 10).to_le_bytes());
    body[116 - 36..128 - 36].copy_from_slice(&[1, 8, 0, 1, 0xf9, 0x0c, 0, 0, 0, 0, 0, 0]);
    body[128 - 36] = 0x0f;
    let mut builder = Builder::new();
    builder.add(&table(b"FACP", 3, &body));
    builder.add(&madt(&[]));
    let mut mcfg = vec![0; 8];
    mcfg.extend_from_slice(&0xb000_0000u64.to_le_bytes());
    mcfg.extend_from_slice(&[0, 0, 0, 255, 0, 0, 0, 0]);
    builder.add(&table(b"MCFG", 1, &mcfg));
    let firmware = builder.read().unwrap();
    assert_eq!(firmware.pm_timer, Some(PmTimer { port: 0x608, mask: 0x00ff_ffff }));
    assert_eq!(firmware.reset, Some(Reset { register: ResetRegister::Port(0xcf9), value: 0x0f }));
    let [space] = firmware.configuration_spaces[..] else { panic!("one space") };
    assert_eq!((space.address, space.first_bus, space.last_bus), (0xb000_0000, 0, 255));
}

#[test]
fn without_a_madt_the_reason_is_given() {
    assert!(matches!(Builder::new().read(), Err(FirmwareError::Table(_))));
    let mut broken = madt(&[]);
    broken[9] ^= 1;
    let mut builder = Builder::new();
    builder.add(&broken);
    assert!(matches!(builder.read(), Err(FirmwareError::Table(_))));
}
