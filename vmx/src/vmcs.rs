//! The VMCS: access to its fields through a trait, and its life cycle as a typestate.
//!
//! A region is *clear* (belongs to software), *active* (on one processor, perhaps cached there) or *current*
//! (the one that VMREAD, VMWRITE, VMLAUNCH and VMRESUME mean), SDM 25.1. [`Vmcs`] carries that state in its
//! type. At most one [`Vmcs<Current>`] may exist per processor: [`Vmcs::load`]'s contract.
#![expect(unsafe_code, reason = "VMCS transitions and accesses are VMX instructions")]

use core::marker::PhantomData;

use x86_64::PhysAddr;

use crate::field::{Class, Field, ReadWrite, Width};
use crate::instruction::{self, VmFail};

/// Access to the fields of a VMCS: the processor's current one, or a fake in tests.
pub trait VmcsAccess {
    /// Reads the field with this encoding, zero-extended.
    fn read_raw(&self, encoding: u32) -> u64;
    /// Writes the field with this encoding.
    fn write_raw(&mut self, encoding: u32, value: u64);

    /// Reads `field`.
    #[inline(always)]
    fn read<W: Width, C: Class>(&self, field: Field<W, C>) -> W::Value {
        W::from_raw(self.read_raw(field.encoding()))
    }

    /// Writes `field`.
    #[inline(always)]
    fn write<W: Width>(&mut self, field: Field<W, ReadWrite>, value: W::Value) {
        self.write_raw(field.encoding(), W::to_raw(value));
    }
}

/// State of a [`Vmcs`]: software may own the region.
#[derive(Debug)]
pub enum Clear {}
/// State of a [`Vmcs`]: active on one processor, but another is current there.
#[derive(Debug)]
pub enum Active {}
/// State of a [`Vmcs`]: the processor's current one.
#[derive(Debug)]
pub enum Current {}

/// A VMCS region in state `S`. Not `Clone`: a region is in one state.
#[derive(Debug)]
pub struct Vmcs<S> {
    region: PhysAddr,
    launched: bool,
    /// `*mut` keeps it on the processor it is active on unless cleared first.
    state: PhantomData<(S, *mut ())>,
}

// SAFETY: a clear VMCS is plain memory that no processor caches, so another processor may take it over.
unsafe impl Send for Vmcs<Clear> {}

impl<S> Vmcs<S> {
    fn into_state<T>(self, launched: bool) -> Vmcs<T> {
        Vmcs { region: self.region, launched, state: PhantomData }
    }

    /// Physical address of the region.
    #[must_use]
    pub const fn region(&self) -> PhysAddr {
        self.region
    }
}

impl Vmcs<Clear> {
    /// Prepares `region`, whose first 4 bytes the caller has set to the VMCS revision identifier.
    ///
    /// # Errors
    /// [`VmFail`] if the processor refuses the region.
    ///
    /// # Safety
    /// This processor is in VMX root operation; `region` is a 4 KiB frame that is used for nothing else as
    /// long as the value lives.
    pub unsafe fn new(region: PhysAddr) -> Result<Self, VmFail> {
        // SAFETY: by the caller's contract the frame is ours and VMX is on.
        unsafe { instruction::vmclear(region)? };
        Ok(Self { region, launched: false, state: PhantomData })
    }
}

/// States from which a VMCS can become current.
pub trait Loadable {}
impl Loadable for Clear {}
impl Loadable for Active {}

/// States in which a processor may hold parts of the VMCS.
pub trait Held {}
impl Held for Active {}
impl Held for Current {}

impl<S: Loadable> Vmcs<S> {
    /// Makes this VMCS current.
    ///
    /// # Errors
    /// [`VmFail`] if the processor refuses the region.
    ///
    /// # Safety
    /// VMX is on, and no other [`Vmcs<Current>`] exists on this processor: park it first.
    pub unsafe fn load(self) -> Result<Vmcs<Current>, VmFail> {
        // SAFETY: `new` took the region over; by the caller's contract no other VMCS is in use here.
        unsafe { instruction::vmptrld(self.region)? };
        let launched = self.launched;
        Ok(self.into_state(launched))
    }
}

impl<S: Held> Vmcs<S> {
    /// Writes the VMCS back to memory; its launch state is clear, and any processor may load it.
    ///
    /// # Errors
    /// [`VmFail`] if the processor refuses the region.
    pub fn clear(self) -> Result<Vmcs<Clear>, VmFail> {
        // SAFETY: `new` took the region over, and this value is the only one that names it.
        unsafe { instruction::vmclear(self.region)? };
        Ok(self.into_state(false))
    }
}

impl Vmcs<Current> {
    /// Gives way to another VMCS, which the caller loads next.
    #[must_use]
    pub fn park(self) -> Vmcs<Active> {
        let launched = self.launched;
        self.into_state(launched)
    }

    /// Whether VMLAUNCH has succeeded since the last clear, so that VMRESUME is due.
    #[must_use]
    #[inline(always)]
    pub const fn is_launched(&self) -> bool {
        self.launched
    }

    /// Records that a VM entry succeeded.
    #[inline(always)]
    pub const fn set_launched(&mut self) {
        self.launched = true;
    }
}

impl VmcsAccess for Vmcs<Current> {
    #[inline(always)]
    fn read_raw(&self, encoding: u32) -> u64 {
        // SAFETY: the type says that this VMCS is current.
        unsafe { instruction::vmread(encoding) }
    }

    #[inline(always)]
    fn write_raw(&mut self, encoding: u32, value: u64) {
        // SAFETY: the type says that this VMCS is current. What may be written to host-state fields is the
        // contract of `world_switch::enter`, the only way in which they take effect.
        unsafe { instruction::vmwrite(encoding, value) }
    }
}

/// A VMCS of plain memory, for tests on any host.
#[derive(Clone, Debug, Default)]
pub struct FakeVmcs {
    fields: alloc::collections::BTreeMap<u32, u64>,
}

impl FakeVmcs {
    /// A VMCS in which every field reads 0.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets any field, read-only ones too, as the processor would at a VM exit.
    pub fn set<W: Width, C: Class>(&mut self, field: Field<W, C>, value: W::Value) {
        self.fields.insert(field.encoding(), W::to_raw(value));
    }
}

impl VmcsAccess for FakeVmcs {
    fn read_raw(&self, encoding: u32) -> u64 {
        self.fields.get(&encoding).copied().unwrap_or(0)
    }

    fn write_raw(&mut self, encoding: u32, value: u64) {
        self.fields.insert(encoding, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field;

    #[test]
    fn a_fake_keeps_what_is_written_in_its_width() {
        let mut vmcs = FakeVmcs::new();
        vmcs.write(field::GUEST_RIP, 0xffff_8000_0000_1234);
        vmcs.write_raw(field::GUEST_CS_SELECTOR.encoding(), 0xabcd_0010);
        assert_eq!(vmcs.read(field::GUEST_RIP), 0xffff_8000_0000_1234);
        assert_eq!(vmcs.read(field::GUEST_CS_SELECTOR), 0x10);
        assert_eq!(vmcs.read(field::EXIT_REASON), 0);
    }
}
