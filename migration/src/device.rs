//! Device and vCPU state: opaque, versioned sections. The engine carries, bounds and digests them; the host
//! gives them meaning.

use alloc::vec::Vec;

/// Most sections of one guest.
pub const SECTIONS_MAX: usize = 4096;
/// Largest section.
pub const SECTION_BYTES_MAX: usize = 1 << 20;
/// Most bytes of all sections of one guest.
pub const SECTIONS_BYTES_MAX: usize = 16 << 20;

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
/// [`SECTIONS_BYTES_MAX`] bytes.
pub type DeviceState = Vec<Section>;

/// Whether `state` keeps within the bounds above.
#[must_use]
pub fn is_bounded(state: &[Section]) -> bool {
    state.len() <= SECTIONS_MAX
        && state.iter().all(|section| section.bytes.len() <= SECTION_BYTES_MAX)
        && state.iter().map(|section| section.bytes.len()).sum::<usize>() <= SECTIONS_BYTES_MAX
}
