//! A machine's saved state as the migration engine carries it.
//!
//! The engine's sections are opaque and bounded; a machine's state is one snapshot ([`crate::snapshot`]), cut
//! into as many pieces as its size needs.

use alloc::vec::Vec;

use godwit_migration::device::SECTION_BYTES_MAX;
use godwit_migration::{DeviceState, Necessity, Section};
use minicbor::{Decode, Encode};

use crate::snapshot::{self, Kind, Need, Sections, SnapshotError, Writer};
use crate::vm::machine::MachineState;
use crate::vm::state;

/// The engine's section that holds a snapshot.
const SNAPSHOT: u32 = 1;
/// Version of the way snapshots are cut; what is in one carries versions of its own.
const VERSION: u32 = 1;
const MACHINE: Kind = Kind::new("machine", 1);
const VCPU: Kind = Kind::new("vcpu", state::VERSION as u16);

/// What belongs to no processor and no device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
struct Common {
    #[n(0)]
    tsc: u64,
    #[n(1)]
    tsc_hz: u64,
    #[n(2)]
    vcpus: u32,
    /// Not in what older builds write, which forgot it.
    #[n(3)]
    #[cbor(default)]
    paused: bool,
}

/// `state` as sections.
///
/// # Errors
/// [`SnapshotError`] if a part is too large.
pub fn to_sections(machine: &MachineState) -> Result<DeviceState, SnapshotError> {
    let MachineState { tsc, tsc_hz, paused, vcpus, board } = machine;
    let mut writer = Writer::new();
    let common = Common { tsc: *tsc, tsc_hz: *tsc_hz, vcpus: vcpus.len() as u32, paused: *paused };
    writer.section(MACHINE, 0, Need::Mandatory, &common)?;
    for (instance, vcpu) in (0..).zip(vcpus) {
        writer.section(VCPU, instance, Need::Mandatory, vcpu)?;
    }
    snapshot::board::write(&mut writer, board)?;
    let bytes = writer.finish();
    let pieces = bytes.chunks(SECTION_BYTES_MAX).zip(0..).map(|(bytes, instance)| Section {
        id: SNAPSHOT,
        instance,
        version: VERSION,
        necessity: Necessity::Mandatory,
        bytes: bytes.to_vec(),
    });
    Ok(pieces.collect())
}

/// Why sections are no machine's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SavedError {
    /// A section that must be understood is not known here, or out of order: its id, instance and version.
    Section(u32, u32, u32),
    /// The snapshot in them is not accepted.
    Snapshot(SnapshotError),
}

/// The state in `sections`.
///
/// # Errors
/// [`SavedError`]. What the state means is checked where it is restored.
pub fn from_sections(sections: &[Section]) -> Result<MachineState, SavedError> {
    let mut bytes = Vec::with_capacity(sections.iter().map(|section| section.bytes.len()).sum());
    let mut pieces = 0;
    for section in sections {
        let Section { id, instance, version, necessity, bytes: piece } = section;
        if (*id, *instance, *version) == (SNAPSHOT, pieces, VERSION) {
            bytes.extend_from_slice(piece);
            pieces += 1;
        } else if *necessity == Necessity::Mandatory {
            return Err(SavedError::Section(*id, *instance, *version));
        }
    }
    read(&bytes).map_err(SavedError::Snapshot)
}

fn read(bytes: &[u8]) -> Result<MachineState, SnapshotError> {
    let mut sections = Sections::parse(bytes)?;
    let Common { tsc, tsc_hz, vcpus, paused } = sections.take(MACHINE, 0)?;
    let count = u16::try_from(vcpus).map_err(|_| SnapshotError::Malformed(MACHINE.name))?;
    let mut vcpus = Vec::new();
    for instance in 0..count {
        vcpus.push(sections.take(VCPU, instance)?);
    }
    let board = snapshot::board::read(&mut sections)?;
    sections.finish()?;
    Ok(MachineState { tsc, tsc_hz, paused, vcpus, board })
}

#[cfg(test)]
mod tests {
    use godwit_migration::device::state_bytes_max;

    use super::*;
    use crate::devices::GuestTime;
    use crate::devices::board::{Board, BoardConfig};
    use crate::devices::uart16550::{RECEIVE_QUEUE_BYTES, TRANSMIT_QUEUE_BYTES};
    use crate::vm::state::{Entry64, VcpuState};

    /// The engine grants so many bytes, and a target keeps them for whoever says that it sends a guest: what there is to send
    /// must fit with room to spare, and need not fit by much more.
    #[test]
    fn a_machine_s_state_takes_a_part_of_what_is_granted() {
        let entry = Entry64 {
            rip: 0,
            rsp: 0,
            rsi: 0,
            cr3: 0,
            gdt_base: 0,
            gdt_limit: 31,
            code_selector: 0x10,
            data_selector: 0x18,
        };
        for vcpus in [1, 16] {
            let config = BoardConfig {
                vcpus,
                tsc_hz: 2_100_000_000,
                crystal_hz: 25_000_000,
                wall_clock_unix_seconds: 0,
            };
            let board = Board::new(&config, GuestTime::ZERO).unwrap().save();
            let vcpus = std::vec![VcpuState::for_64_bit_entry(&entry); vcpus];
            let granted = state_bytes_max(vcpus.len() as u32);
            let machine = MachineState { tsc: 0, tsc_hz: 2_100_000_000, paused: false, vcpus, board };
            let sections = to_sections(&machine).unwrap();
            let bytes: usize = sections.iter().map(|section| section.bytes.len()).sum();
            // What waits in the serial port's queues goes along.
            let bytes = bytes + 2 * (TRANSMIT_QUEUE_BYTES + RECEIVE_QUEUE_BYTES);
            std::println!("{bytes} of {granted}");
            assert!(bytes * 4 <= granted, "{bytes} of {granted}");
        }
    }

    /// What builds before wrote.
    #[derive(Encode)]
    #[cbor(map)]
    struct Older {
        #[n(0)]
        tsc: u64,
        #[n(1)]
        tsc_hz: u64,
        #[n(2)]
        vcpus: u32,
    }

    #[test]
    fn that_a_person_paused_it_goes_along_and_older_builds_do_not_say_it() {
        let paused = Common { tsc: 7, tsc_hz: 8, vcpus: 1, paused: true };
        let read = |bytes: &[u8]| minicbor::decode::<Common>(bytes).unwrap();
        assert_eq!(read(&minicbor::to_vec(paused).unwrap()), paused);
        let older = minicbor::to_vec(Older { tsc: 7, tsc_hz: 8, vcpus: 1 }).unwrap();
        assert_eq!(read(&older), Common { paused: false, ..paused });
    }
}
