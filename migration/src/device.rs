//! Device and vCPU state: opaque, versioned sections. The engine carries, bounds and digests them; the host
//! gives them meaning.

use alloc::vec::Vec;

/// Most sections of one guest.
pub const SECTIONS_MAX: usize = 4096;
/// Largest section.
pub const SECTION_BYTES_MAX: usize = 1 << 20;
/// Bytes of all sections of one guest that are granted for its devices, and for each of its vCPUs. What a PC of ours has
/// takes a tenth of it; the host keeps all of it in its heap, for whoever says that it sends a guest.
const DEVICES_BYTES_MAX: usize = 128 << 10;
const VCPU_BYTES_MAX: usize = 32 << 10;

/// Most bytes of all sections of a guest with so many vCPUs, with some for each section (144).
#[must_use]
pub const fn state_bytes_max(vcpus: u32) -> usize {
    DEVICES_BYTES_MAX + VCPU_BYTES_MAX * vcpus as usize
}

/// Bytes that are counted for each section beside its own: what is noted about it, in a list that is copied when it grows.
pub(crate) const SECTION_BYTES_NOTED: usize = 144;
const _: () = assert!(SECTION_BYTES_NOTED >= size_of::<Section>() * 3);

/// Bytes of the heap that the sections of a guest with so many vCPUs take at most, as they lie here and as the host reads
/// or writes them.
pub(crate) const fn heap_bytes(vcpus: u32) -> u64 {
    2 * state_bytes_max(vcpus) as u64
}

/// What a host that does not know a section must do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Necessity {
    /// Refuse the guest: it cannot go on without it.
    Mandatory,
    /// Leave it out.
    Optional,
}

/// The saved state of one device or vCPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Which device; numbers are the host's.
    pub id: u32,
    /// Which of several (vCPU number, device instance).
    pub instance: u32,
    /// Version of the encoding of `bytes`.
    pub version: u32,
    /// Whether the guest can do without it.
    pub necessity: Necessity,
    /// The encoded state, at most [`SECTION_BYTES_MAX`].
    pub bytes: Vec<u8>,
}

/// The saved state of everything of a guest but its RAM: at most [`SECTIONS_MAX`] sections and
/// [`state_bytes_max`] bytes.
pub type DeviceState = Vec<Section>;

/// Whether `state` of a guest with so many vCPUs keeps within the bounds above.
#[must_use]
pub fn is_bounded(state: &[Section], vcpus: u32) -> bool {
    state.len() <= SECTIONS_MAX
        && state.iter().all(|section| section.bytes.len() <= SECTION_BYTES_MAX)
        && state.iter().map(|section| section.bytes.len() + SECTION_BYTES_NOTED).sum::<usize>()
            <= state_bytes_max(vcpus)
}
