#![expect(unsafe_code, reason = "VMCS transitions")]
//! Where a virtual processor's VMCS is in its life, as one value that can be stored.

use godwit_vmx::instruction::VmFail;
use godwit_vmx::vmcs::{Active, Clear, Current, Vmcs};

use super::frames::Frame;

/// A VMCS in any state, with the frame that holds it.
#[derive(Debug)]
pub enum VmcsSlot {
    /// Belongs to software.
    Clear(Vmcs<Clear>, Frame),
    /// Active on this CPU.
    Active(Vmcs<Active>, Frame),
    /// Current on this CPU.
    Current(Vmcs<Current>, Frame),
    /// There is none: between states, or after the processor refused one.
    Gone,
}

/// What [`VmcsSlot::load`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// It came from memory: host state must be written.
    Fresh,
    /// It was active on this CPU already.
    Again,
}

/// The processor refused a transition: the structure in memory is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

impl From<VmFail> for Refused {
    fn from(_fail: VmFail) -> Self {
        Self
    }
}

impl VmcsSlot {
    /// A new VMCS, for a CPU with VMX on.
    ///
    /// # Errors
    /// [`Refused`], or no memory.
    pub fn new(revision: u32) -> Result<Self, Refused> {
        let frame = Frame::allocate().ok_or(Refused)?;
        frame.write_u32(0, revision);
        // SAFETY: the frame is owned and lives as long as the VMCS; callers run with VMX on.
        let vmcs = unsafe { Vmcs::new(frame.address()) }?;
        Ok(Self::Clear(vmcs, frame))
    }

    /// Makes it current. The caller has parked the one that was.
    ///
    /// # Errors
    /// [`Refused`]; the VMCS is then gone.
    pub fn load(&mut self) -> Result<Loaded, Refused> {
        let (current, frame, loaded) = match core::mem::replace(self, Self::Gone) {
            // SAFETY: one loop owns all VMCSs of a CPU and parks one before it loads another.
            Self::Clear(vmcs, frame) => (unsafe { vmcs.load() }?, frame, Loaded::Fresh),
            // SAFETY: as above.
            Self::Active(vmcs, frame) => (unsafe { vmcs.load() }?, frame, Loaded::Again),
            Self::Current(vmcs, frame) => (vmcs, frame, Loaded::Again),
            Self::Gone => return Err(Refused),
        };
        *self = Self::Current(current, frame);
        Ok(loaded)
    }

    /// Gives way to another VMCS.
    pub fn park(&mut self) {
        *self = match core::mem::replace(self, Self::Gone) {
            Self::Current(vmcs, frame) => Self::Active(vmcs.park(), frame),
            other => other,
        };
    }

    /// Writes it back to memory, so that its frame may be given back or another CPU take it.
    pub fn clear(&mut self) {
        *self = match core::mem::replace(self, Self::Gone) {
            Self::Current(vmcs, frame) => vmcs.clear().map_or(Self::Gone, |vmcs| Self::Clear(vmcs, frame)),
            Self::Active(vmcs, frame) => vmcs.clear().map_or(Self::Gone, |vmcs| Self::Clear(vmcs, frame)),
            other => other,
        };
    }

    /// The VMCS if it is current, for reading.
    #[must_use]
    pub const fn as_current(&self) -> Option<&Vmcs<Current>> {
        match self {
            Self::Current(vmcs, _) => Some(vmcs),
            _ => None,
        }
    }

    /// The VMCS if it is current.
    pub const fn current(&mut self) -> Option<&mut Vmcs<Current>> {
        match self {
            Self::Current(vmcs, _) => Some(vmcs),
            _ => None,
        }
    }
}
