//! Ends of interrupts without exits, where the processor offers that (SDM 30.1.4, 30.5).
//!
//! A guest in x2APIC mode writes an MSR at the end of every interrupt. Under "virtual-interrupt delivery" the processor
//! carries that out as the local APIC would: it takes the highest vector out of what is in service, on the virtual-APIC
//! page and in SVI, and exits only for the vectors of the EOI-exit bitmap.
//!
//! The processor ends interrupts, the host begins them: it chooses and injects them as on a processor without all this,
//! and RVI is always 0, so that the processor delivers none by itself. What is in service can thus only become less
//! while the guest runs, from the highest down, and what is left of it is what is not above SVI. From this follows the
//! whole rule between the board's local APIC, which has the truth, and the processor's copy:
//!
//! - after each exit what is in service is cut above SVI ([`VirtualEoi::ended`]);
//! - before an entry for which the local APIC may have changed, the copy is made like it ([`VirtualEoi::show`]).
//!
//! All other registers are the local APIC's alone, and accesses to them exit. Nothing of this is saved.

use godwit_vmx::controls::{PrimaryControls, SecondaryControls};
use godwit_vmx::field::{self, Bits64, Field, ReadWrite};
use godwit_vmx::vmcs::VmcsAccess;

use super::frames::Frame;
use crate::devices::irq::VectorSet;
use crate::devices::lapic::Lapic;

const PRIMARY: u32 = PrimaryControls::USE_TPR_SHADOW.bits();
const SECONDARY: u32 =
    SecondaryControls::VIRTUALIZE_X2APIC_MODE.union(SecondaryControls::VIRTUAL_INTERRUPT_DELIVERY).bits();
/// Where the page has what is in service: 32 vectors in each register, the registers 16 bytes apart.
const IN_SERVICE_WORD: usize = 0x100 / 4;
const REGISTER_WORDS: usize = 0x10 / 4;
const REGISTERS: usize = 8;
const EXIT_BITMAPS: [Field<Bits64, ReadWrite>; 4] =
    [field::EOI_EXIT_BITMAP_0, field::EOI_EXIT_BITMAP_1, field::EOI_EXIT_BITMAP_2, field::EOI_EXIT_BITMAP_3];

/// A virtual-APIC page: 4 KiB of the host's, which the processor works on.
pub trait ApicPage {
    /// Its physical address.
    fn physical(&self) -> u64;
    /// Writes the 32-bit word with this index.
    fn write(&self, word: usize, value: u32);
}

impl ApicPage for Frame {
    fn physical(&self) -> u64 {
        self.address().as_u64()
    }

    fn write(&self, word: usize, value: u32) {
        self.write_u32(word, value);
    }
}

/// Physical addresses of the MSR bitmaps between which is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrBitmaps {
    /// Ends of interrupts exit.
    pub exiting: u64,
    /// They are the processor's.
    pub passing: u64,
}

/// What the processor works on in place of one local APIC. See the module's documentation.
#[derive(Debug)]
pub struct VirtualEoi<P = Frame> {
    page: P,
    bitmaps: MsrBitmaps,
    /// Whether the VMCS is set up for it; what follows counts only then.
    on: bool,
    /// What the page and SVI say is in service.
    in_service: VectorSet,
    /// The highest of it, 0 for none: SVI.
    serving: u8,
    /// The EOI-exit bitmap.
    exits: VectorSet,
}

impl<P: ApicPage> VirtualEoi<P> {
    /// For a processor with its own `page`, in a machine with these `bitmaps`.
    #[must_use]
    pub const fn new(page: P, bitmaps: MsrBitmaps) -> Self {
        let nothing = VectorSet::EMPTY;
        Self { page, bitmaps, on: false, in_service: nothing, serving: 0, exits: nothing }
    }

    /// The VMCS has been filled anew, without it.
    pub const fn forget(&mut self) {
        self.on = false;
    }

    /// After an exit: if the guest has ended interrupts, the highest one that is left in service, or 0. The local APIC
    /// is to be told ([`Lapic::end_above`]) before anybody looks at it.
    #[inline(always)]
    pub fn ended(&mut self, vmcs: &impl VmcsAccess) -> Option<u8> {
        if !self.on {
            return None;
        }
        let serving = (vmcs.read(field::GUEST_INTERRUPT_STATUS) >> 8) as u8;
        if serving == self.serving {
            return None;
        }
        self.serving = serving;
        self.in_service.cut_above(serving);
        Some(serving)
    }

    /// Before an entry: makes the processor's copy like `lapic`, or has it let the local APIC alone if that is not in x2APIC
    /// mode. `primary` is what the VMCS has of the primary controls.
    #[inline]
    pub fn show(&mut self, vmcs: &mut impl VmcsAccess, primary: &mut u32, lapic: &Lapic) {
        if lapic.is_x2apic() != self.on {
            self.turn(vmcs, primary, lapic);
        }
        if !self.on {
            return;
        }
        let (in_service, exits) = (lapic.in_service(), lapic.ends_to_hear_of());
        if in_service != self.in_service {
            self.write_in_service(vmcs, in_service);
        }
        if exits != self.exits {
            self.write_exits(vmcs, exits);
        }
    }

    #[cold]
    fn turn(&mut self, vmcs: &mut impl VmcsAccess, primary: &mut u32, lapic: &Lapic) {
        self.on = lapic.is_x2apic();
        let secondary = vmcs.read(field::SECONDARY_CONTROLS);
        if self.on {
            vmcs.write(field::VIRTUAL_APIC_ADDRESS, self.page.physical());
            vmcs.write(field::TPR_THRESHOLD, 0);
            self.write_in_service(vmcs, lapic.in_service());
            self.write_exits(vmcs, lapic.ends_to_hear_of());
            vmcs.write(field::MSR_BITMAP, self.bitmaps.passing);
            vmcs.write(field::SECONDARY_CONTROLS, secondary | SECONDARY);
            *primary |= PRIMARY;
        } else {
            vmcs.write(field::MSR_BITMAP, self.bitmaps.exiting);
            vmcs.write(field::SECONDARY_CONTROLS, secondary & !SECONDARY);
            *primary &= !PRIMARY;
        }
        vmcs.write(field::PRIMARY_CONTROLS, *primary);
    }

    fn write_in_service(&mut self, vmcs: &mut impl VmcsAccess, in_service: VectorSet) {
        for register in 0..REGISTERS {
            self.page.write(IN_SERVICE_WORD + REGISTER_WORDS * register, in_service.register(register));
        }
        self.in_service = in_service;
        self.serving = in_service.highest().unwrap_or(0);
        // RVI is the low half: nothing that the processor should deliver.
        vmcs.write(field::GUEST_INTERRUPT_STATUS, u16::from(self.serving) << 8);
    }

    fn write_exits(&mut self, vmcs: &mut impl VmcsAccess, exits: VectorSet) {
        for (bitmap, word) in EXIT_BITMAPS.into_iter().zip(exits.words()) {
            vmcs.write(bitmap, word);
        }
        self.exits = exits;
    }
}

#[cfg(test)]
mod tests;
