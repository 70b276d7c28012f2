//! Accesses to control registers (SDM 26.1.3): only the bits that the host owns bring the guest here.
//!
//! Of CR0 the host owns NE, which VMX forces, and CD and NW, which would slow the whole processor. Of CR4 it
//! owns VMXE, MCE and every feature that guests do not have.
//!
//! Translations are tagged per virtual processor and outlive exits. Where the instruction would have made the processor forget
//! some, all of that virtual processor are forgotten ([`Outcome::ForgetTranslations`]).

use godwit_vmx::controls::EntryControls;
use godwit_vmx::event::Event;
use godwit_vmx::exit::{ControlRegisterAccess, Exit};
use godwit_vmx::field;
use godwit_vmx::vmcs::VmcsAccess;

use super::context::{Context, Outcome};
use super::stop::StopReason;
use crate::guest_memory::{GuestMemory, MemoryError};

const CR0_PE: u64 = 1 << 0;
const CR0_TS: u64 = 1 << 3;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
const CR0_PG: u64 = 1 << 31;
const CR0_DEFINED: u64 = 0xe005_003f;
const CR4_PAE: u64 = 1 << 5;
const CR4_MCE: u64 = 1 << 6;
const CR4_PGE: u64 = 1 << 7;
const CR4_VMXE: u64 = 1 << 13;
const CR4_PCIDE: u64 = 1 << 17;
const CR4_SMEP: u64 = 1 << 20;
/// A change of these makes a processor forget translations (SDM 4.10.4.1).
const CR4_TRANSLATION: u64 = CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_SMEP;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const CS_LONG: u32 = 1 << 13;
const PDPTE_PRESENT: u64 = 1 << 0;
/// Besides what is above the physical address (SDM table 4-8).
const PDPTE_RESERVED: u64 = 0b11 << 1 | 0b1111 << 5;
const CR8_DEFINED: u64 = 0xf;

/// CR0 bits that the host owns.
pub const CR0_HOST_OWNED: u64 = CR0_NE | CR0_NW | CR0_CD;
/// CR4 bits that the host sets for the processor and shows to the guest as the guest wrote them.
const CR4_SHADOWED: u64 = CR4_MCE;

/// What CR0 really holds when the guest wants `value`.
#[must_use]
pub const fn real_cr0(value: u64, fixed: godwit_vmx::capability::FixedBits) -> u64 {
    // Unrestricted guests choose PE and PG themselves (SDM A.7).
    let forced = fixed.must_be_1 & !(CR0_PE | CR0_PG);
    ((value & !(CR0_NW | CR0_CD)) | forced | CR0_NE | CR0_ET) & fixed.may_be_1
}

/// What CR4 really holds when the guest wants `value`.
#[must_use]
pub const fn real_cr4(value: u64, fixed: godwit_vmx::capability::FixedBits) -> u64 {
    fixed.apply(value | CR4_MCE | CR4_VMXE)
}

/// Handles an access that exited.
pub fn handle<V: VmcsAccess, M: GuestMemory>(
    context: &mut Context<'_, V, M>,
    access: ControlRegisterAccess,
) -> Outcome {
    match access {
        ControlRegisterAccess::MovTo { control: 0, register } => {
            let value = context.general(register);
            write_cr0(context, value)
        }
        ControlRegisterAccess::MovTo { control: 3, register } => {
            // Bit 63 only asks not to flush; it is not stored (SDM 4.10.4.1).
            let value = context.general(register) & !(1 << 63);
            context.vmcs.write(field::GUEST_CR3, value);
            Outcome::ForgetTranslations
        }
        ControlRegisterAccess::MovTo { control: 4, register } => {
            let value = context.general(register);
            write_cr4(context, value)
        }
        ControlRegisterAccess::MovTo { control: 8, register } => {
            let value = context.general(register);
            if value & !CR8_DEFINED != 0 {
                return Outcome::Inject(Event::general_protection());
            }
            context.board.set_cr8(context.cpu.index, value);
            context.cpu.attention = true;
            Outcome::Skip
        }
        ControlRegisterAccess::MovFrom { control: 3, register } => {
            let value = context.vmcs.read(field::GUEST_CR3);
            context.set_general(register, value);
            Outcome::Skip
        }
        ControlRegisterAccess::MovFrom { control: 8, register } => {
            let value = context.board.cr8(context.cpu.index);
            context.set_general(register, value);
            Outcome::Skip
        }
        ControlRegisterAccess::Clts => {
            let value = read_cr0(context) & !CR0_TS;
            write_cr0(context, value)
        }
        ControlRegisterAccess::Lmsw(operand) => {
            // LMSW sets PE but cannot clear it, and reaches MP, EM and TS (SDM volume 2).
            let present = read_cr0(context);
            write_cr0(context, present & !0xe | u64::from(operand) & 0xf)
        }
        ControlRegisterAccess::MovTo { .. } | ControlRegisterAccess::MovFrom { .. } => {
            let exit = Exit::ControlRegister(access);
            Outcome::Stop(StopReason::UnhandledExit { exit, rip: context.rip() })
        }
    }
}

/// CR0 as the guest reads it.
fn read_cr0<V: VmcsAccess, M: GuestMemory>(context: &Context<'_, V, M>) -> u64 {
    let shadow = context.vmcs.read(field::CR0_SHADOW);
    context.vmcs.read(field::GUEST_CR0) & !CR0_HOST_OWNED | shadow & CR0_HOST_OWNED
}

fn write_cr0<V: VmcsAccess, M: GuestMemory>(context: &mut Context<'_, V, M>, value: u64) -> Outcome {
    let fault = Outcome::Inject(Event::general_protection());
    let is_wide = value >> 32 != 0;
    // Reserved bits of the lower half are ignored (SDM volume 2, MOV to control registers).
    let value = value & CR0_DEFINED | CR0_ET;
    let impossible = value & CR0_PG != 0 && value & CR0_PE == 0 || value & CR0_NW != 0 && value & CR0_CD == 0;
    if is_wide || impossible {
        return fault;
    }
    let was_paging = context.vmcs.read(field::GUEST_CR0) & CR0_PG != 0;
    let is_paging = value & CR0_PG != 0;
    let cr4 = context.vmcs.read(field::GUEST_CR4);
    let efer = context.vmcs.read(field::GUEST_EFER);
    if was_paging != is_paging {
        let code = context.vmcs.read(field::GUEST_CS_ACCESS_RIGHTS);
        if is_paging && efer & EFER_LME != 0 && (cr4 & CR4_PAE == 0 || code & CS_LONG != 0) {
            return fault;
        }
        if !is_paging && (cr4 & CR4_PCIDE != 0 || efer & EFER_LMA != 0 && code & CS_LONG != 0) {
            return fault;
        }
    }
    let enters_pae = is_paging && !was_paging && cr4 & CR4_PAE != 0 && efer & EFER_LME == 0;
    if enters_pae && let Err(outcome) = load_pdptes(context) {
        return outcome;
    }
    if was_paging != is_paging {
        set_long_mode(context, is_paging && efer & EFER_LME != 0);
    }
    context.vmcs.write(field::GUEST_CR0, real_cr0(value, context.policy.cr0));
    context.vmcs.write(field::CR0_SHADOW, value);
    if was_paging == is_paging { Outcome::Skip } else { Outcome::ForgetTranslations }
}

fn set_long_mode<V: VmcsAccess, M: GuestMemory>(context: &mut Context<'_, V, M>, on: bool) {
    let efer = context.vmcs.read(field::GUEST_EFER);
    let controls = context.vmcs.read(field::ENTRY_CONTROLS);
    let ia32e = EntryControls::IA32E_MODE_GUEST.bits();
    let (efer, controls) =
        if on { (efer | EFER_LMA, controls | ia32e) } else { (efer & !EFER_LMA, controls & !ia32e) };
    context.vmcs.write(field::GUEST_EFER, efer);
    context.vmcs.write(field::ENTRY_CONTROLS, controls);
}

fn write_cr4<V: VmcsAccess, M: GuestMemory>(context: &mut Context<'_, V, M>, value: u64) -> Outcome {
    let fault = Outcome::Inject(Event::general_protection());
    if value & !(context.policy.cr4_guest | CR4_SHADOWED) != 0 {
        return fault;
    }
    let before = context.vmcs.read(field::GUEST_CR4);
    let long = context.in_long_mode();
    let paging = context.vmcs.read(field::GUEST_CR0) & CR0_PG != 0;
    let enables_pcid = value & !before & CR4_PCIDE != 0;
    let low_cr3 = context.vmcs.read(field::GUEST_CR3) & 0xfff;
    if long && value & CR4_PAE == 0 || enables_pcid && (!long || low_cr3 != 0) {
        return fault;
    }
    if paging
        && !long
        && value & CR4_PAE != 0
        && let Err(outcome) = load_pdptes(context)
    {
        return outcome;
    }
    let real = real_cr4(value, context.policy.cr4);
    context.vmcs.write(field::GUEST_CR4, real);
    context.vmcs.write(field::CR4_SHADOW, value);
    if (before ^ real) & CR4_TRANSLATION == 0 { Outcome::Skip } else { Outcome::ForgetTranslations }
}

/// Loads the four page-directory-pointer entries as PAE paging does (SDM 4.4.1). They are loaded before anything else
/// changes: an instruction that faults has done nothing, and one that has to wait for them is executed again.
fn load_pdptes<V: VmcsAccess, M: GuestMemory>(context: &mut Context<'_, V, M>) -> Result<(), Outcome> {
    let table = context.vmcs.read(field::GUEST_CR3) & 0xffff_ffe0;
    let mut entries = [0; 4];
    for (index, entry) in (0..).zip(&mut entries) {
        let address = godwit_vmx::addr::Gpa::new(table + index * 8);
        *entry = context.memory.read_u64(address).map_err(|error| match error {
            MemoryError::NotRam { .. } => Outcome::Inject(Event::general_protection()),
            MemoryError::Absent(_) => Outcome::Resume,
        })?;
    }
    let reserved = PDPTE_RESERVED | u64::MAX << context.policy.cpuid.physical_bits();
    if entries.iter().any(|entry| entry & PDPTE_PRESENT != 0 && entry & reserved != 0) {
        return Err(Outcome::Inject(Event::general_protection()));
    }
    let fields = [field::GUEST_PDPTE0, field::GUEST_PDPTE1, field::GUEST_PDPTE2, field::GUEST_PDPTE3];
    for (place, entry) in fields.into_iter().zip(entries) {
        context.vmcs.write(place, entry);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exits::testing::Fixture;

    fn mov_to(fixture: &mut Fixture, control: u8, value: u64) -> Outcome {
        fixture.cpu.registers.rbx = value;
        handle(&mut fixture.context(), ControlRegisterAccess::MovTo { control, register: 3 })
    }

    const FAULT: Outcome = Outcome::Inject(Event::general_protection());

    #[test]
    fn cache_disable_is_shown_but_not_set() {
        let mut fixture = Fixture::new();
        let wanted = CR0_PE | CR0_CD | CR0_ET;
        assert_eq!(mov_to(&mut fixture, 0, wanted), Outcome::Skip);
        assert_eq!(fixture.vmcs.read(field::CR0_SHADOW), wanted);
        let real = fixture.vmcs.read(field::GUEST_CR0);
        assert_eq!(real & (CR0_CD | CR0_NE), CR0_NE);
    }

    #[test]
    fn impossible_combinations_fault() {
        let mut fixture = Fixture::new();
        assert_eq!(mov_to(&mut fixture, 0, CR0_PG), FAULT);
        assert_eq!(mov_to(&mut fixture, 0, CR0_PE | CR0_NW), FAULT);
        assert_eq!(mov_to(&mut fixture, 4, CR4_VMXE), FAULT);
        assert_eq!(mov_to(&mut fixture, 8, 0x10), FAULT);
        assert_eq!(mov_to(&mut fixture, 4, CR4_PCIDE), FAULT);
    }

    #[test]
    fn turning_paging_on_with_lme_enters_long_mode() {
        let mut fixture = Fixture::new();
        fixture.vmcs.set(field::GUEST_EFER, EFER_LME);
        assert_eq!(mov_to(&mut fixture, 0, CR0_PG | CR0_PE), FAULT, "PAE is off");
        fixture.vmcs.set(field::GUEST_CR4, CR4_PAE);
        assert_eq!(mov_to(&mut fixture, 0, CR0_PG | CR0_PE), Outcome::ForgetTranslations);
        assert_eq!(fixture.vmcs.read(field::GUEST_EFER), EFER_LME | EFER_LMA);
        assert!(fixture.context().in_long_mode());
        assert_eq!(mov_to(&mut fixture, 4, 0), FAULT, "PAE stays on in long mode");
    }

    #[test]
    fn translations_are_forgotten_where_a_processor_would_forget_them() {
        let mut fixture = Fixture::new();
        for (control, value, outcome) in [
            (0, CR0_PE, Outcome::Skip),
            (0, CR0_PE | CR0_PG, Outcome::ForgetTranslations),
            (0, CR0_PE | CR0_PG | CR0_TS, Outcome::Skip),
            (0, CR0_PE, Outcome::ForgetTranslations),
            (3, 0x2000, Outcome::ForgetTranslations),
            (4, CR4_MCE, Outcome::Skip),
            (4, CR4_MCE | CR4_PGE, Outcome::ForgetTranslations),
            (4, CR4_PGE, Outcome::Skip),
            (4, CR4_PGE | CR4_SMEP, Outcome::ForgetTranslations),
            (4, CR4_PAE, Outcome::ForgetTranslations),
            (4, CR4_PAE, Outcome::Skip),
        ] {
            assert_eq!(mov_to(&mut fixture, control, value), outcome, "CR{control} = {value:#x}");
        }
    }

    /// The processor would refuse to enter the guest with these.
    #[test]
    fn page_directory_pointers_with_reserved_bits_fault() {
        for (entry, outcome) in [
            (0x2001, Outcome::ForgetTranslations),
            (0x2001 | 1 << 1, FAULT),
            (0x2001 | 1 << 8, FAULT),
            (0x2001 | 1 << 52, FAULT),
            (0x2001 | 1 << 63, FAULT),
            (1 << 52 | 1 << 1, Outcome::ForgetTranslations), // Not present.
        ] {
            let mut fixture = Fixture::new();
            fixture.vmcs.set(field::GUEST_CR3, 0x1000);
            fixture.vmcs.set(field::GUEST_CR4, CR4_PAE);
            fixture.memory.put_u64(0x1018, entry);
            assert_eq!(mov_to(&mut fixture, 0, CR0_PG | CR0_PE), outcome, "{entry:#x}");
            let loaded = if outcome == FAULT { 0 } else { entry };
            assert_eq!(fixture.vmcs.read(field::GUEST_PDPTE3), loaded);
        }
    }

    #[test]
    fn the_upper_half_of_cr0_cannot_be_set() {
        let mut fixture = Fixture::new();
        assert_eq!(mov_to(&mut fixture, 0, 1 << 32 | CR0_CD | CR0_PE), FAULT);
        assert_eq!(mov_to(&mut fixture, 0, 1 << 10 | CR0_CD | CR0_PE), Outcome::Skip, "the lower ignores it");
    }

    #[test]
    fn lmsw_cannot_leave_protected_mode() {
        let mut fixture = Fixture::new();
        assert_eq!(mov_to(&mut fixture, 0, CR0_PE), Outcome::Skip);
        let outcome = handle(&mut fixture.context(), ControlRegisterAccess::Lmsw(8));
        assert_eq!(outcome, Outcome::Skip);
        assert_eq!(fixture.vmcs.read(field::GUEST_CR0) & 0xf, CR0_PE | CR0_TS);
    }
}
