//! EPT violations: device registers, RAM that is being tracked, and addresses where nobody is.

use godwit_vmx::addr::{Gpa, Gva};
use godwit_vmx::event::Event;
use godwit_vmx::exit::{EptViolation, Exit};
use godwit_vmx::field;
use godwit_vmx::vmcs::VmcsAccess;

use super::context::{Context, Outcome, is_64_bit_code};
use super::stop::StopReason;
use super::translate::{PageFault, Purpose as Access, Untranslated};
use crate::devices::Width;
use crate::emulate::{self, CodeSize, Completion, EmulateError, Fault, Machine, Purpose, Segment};
use crate::guest_memory::GuestMemory;

const CS_DEFAULT_32: u32 = 1 << 14;

/// Says whether the delivery of `event`, which the exit interrupted, can be done again. Where there is no memory it cannot: it
/// would end there for ever, and what stands at RIP has nothing to do with it.
///
/// # Errors
/// The reason why the machine is to stop.
#[cold]
pub fn check_delivery<V: VmcsAccess, M: GuestMemory>(
    context: &Context<'_, V, M>,
    exit: &Exit,
    event: Event,
) -> Result<(), StopReason> {
    match exit {
        Exit::EptViolation(EptViolation { address, .. }) if !is_memory(context, *address) => {
            Err(StopReason::CannotDeliver { event, address: *address, rip: context.rip() })
        }
        _ => Ok(()),
    }
}

/// Whether the machine has RAM at `address`, and no device before it.
fn is_memory<V: VmcsAccess, M: GuestMemory>(context: &Context<'_, V, M>, address: Gpa) -> bool {
    !context.board.claims_mmio(context.cpu.index, address) && context.memory.contains(address)
}

/// Handles a violation.
#[inline]
pub(super) fn handle<V: VmcsAccess, M: GuestMemory>(
    context: &mut Context<'_, V, M>,
    violation: EptViolation,
) -> Outcome {
    let address = violation.address;
    let is_wild = !context.board.claims_mmio(context.cpu.index, address);
    if is_wild && context.memory.contains(address) {
        return Outcome::RamViolation(violation);
    }
    context.cpu.attention = true;
    let result = emulate::emulate(context, address);
    // What has to wait is executed again, and counted then.
    context.cpu.wild_accesses += u64::from(is_wild && result != Err(EmulateError::Fault(Fault::Absent)));
    match result {
        Ok(Completion::Done(length)) => Outcome::Advance(length),
        Ok(Completion::Again) => Outcome::Resume,
        Err(EmulateError::Fault(fault)) => match fault {
            Fault::Page { address, code } => Outcome::PageFault(PageFault { code, address }),
            Fault::GeneralProtection => Outcome::Inject(Event::general_protection()),
            Fault::InvalidOpcode => Outcome::Inject(Event::invalid_opcode()),
            Fault::Absent => Outcome::Resume,
        },
        Err(problem) => Outcome::Stop(StopReason::CannotEmulate { address, rip: context.rip(), problem }),
    }
}

impl<V: VmcsAccess, M: GuestMemory> Machine for Context<'_, V, M> {
    #[inline]
    fn register(&self, number: usize) -> u64 {
        self.general(number as u8)
    }

    #[inline]
    fn set_register(&mut self, number: usize, value: u64) {
        self.set_general(number as u8, value);
    }

    #[inline]
    fn rip(&self) -> u64 {
        self.vmcs.read(field::GUEST_RIP)
    }

    fn rflags(&self) -> u64 {
        self.vmcs.read(field::GUEST_RFLAGS)
    }

    fn set_rflags(&mut self, value: u64) {
        self.vmcs.write(field::GUEST_RFLAGS, value);
    }

    #[inline]
    fn code_size(&self) -> CodeSize {
        if is_64_bit_code(self.vmcs) {
            CodeSize::Bits64
        } else if self.vmcs.read(field::GUEST_CS_ACCESS_RIGHTS) & CS_DEFAULT_32 != 0 {
            CodeSize::Bits32
        } else {
            CodeSize::Bits16
        }
    }

    fn segment_base(&self, segment: Segment) -> u64 {
        let base = match segment {
            Segment::Es => field::GUEST_ES_BASE,
            Segment::Cs => field::GUEST_CS_BASE,
            Segment::Ss => field::GUEST_SS_BASE,
            Segment::Ds => field::GUEST_DS_BASE,
            Segment::Fs => field::GUEST_FS_BASE,
            Segment::Gs => field::GUEST_GS_BASE,
        };
        let is_based = matches!(segment, Segment::Fs | Segment::Gs);
        if !is_based && self.code_size() == CodeSize::Bits64 { 0 } else { self.vmcs.read(base) }
    }

    #[inline]
    fn translate(&mut self, address: Gva, purpose: Purpose) -> Result<Gpa, Fault> {
        let access = match purpose {
            Purpose::Fetch => Access::Fetch,
            Purpose::Read => Access::Read,
            Purpose::Write => Access::Write,
        };
        Context::translate(self, address, access).map_err(|why| match why {
            Untranslated::Fault(PageFault { code, address }) => Fault::Page { address, code },
            Untranslated::Absent => Fault::Absent,
        })
    }

    #[inline]
    fn fetch(&mut self, address: Gpa, into: &mut [u8]) -> bool {
        self.memory.read(address, into).is_ok()
    }

    #[inline]
    fn read(&mut self, address: Gpa, width: Width) -> u64 {
        if self.board.claims_mmio(self.cpu.index, address) {
            let now = self.clock.now();
            return self.board.mmio_read(now, self.cpu.index, address, width).unwrap_or(width.mask());
        }
        let mut bytes = [0; 8];
        match self.memory.read(address, &mut bytes[..width.bytes()]) {
            Ok(()) => u64::from_le_bytes(bytes),
            Err(_nobody) => width.mask(),
        }
    }

    #[inline]
    fn write(&mut self, address: Gpa, width: Width, value: u64) {
        if self.board.claims_mmio(self.cpu.index, address) {
            let now = self.clock.now();
            // Nobody at that register: the write is lost, as on a bus.
            let _ = self.board.mmio_write(now, self.cpu.index, address, width, value);
            return;
        }
        // The same for an address that is no RAM.
        let _ = self.memory.write(address, &value.to_le_bytes()[..width.bytes()]);
    }
}

#[cfg(test)]
mod tests {
    use godwit_vmx::controls::EntryControls;

    use super::*;
    use crate::exits::testing::Fixture;

    const CODE: u64 = 0x1000;
    const CS_LONG: u32 = 1 << 13;

    /// A guest in 64-bit mode, unpaged in the fixture's way, about to execute `code`.
    fn about_to(code: &[u8]) -> Fixture {
        let mut fixture = Fixture::new();
        fixture.memory.put(CODE, code);
        fixture.vmcs.set(field::GUEST_RIP, CODE);
        fixture.vmcs.set(field::GUEST_CS_ACCESS_RIGHTS, CS_LONG);
        fixture.vmcs.set(field::ENTRY_CONTROLS, EntryControls::IA32E_MODE_GUEST.bits());
        fixture
    }

    fn violation(address: u64) -> EptViolation {
        EptViolation::decode(1, address, 0)
    }

    #[test]
    fn the_local_apic_answers_by_memory() {
        // mov eax, [rdi]
        let mut fixture = about_to(&[0x8b, 0x07]);
        fixture.cpu.registers.rdi = 0xfee0_0030;
        fixture.cpu.registers.rax = !0;
        let outcome = handle(&mut fixture.context(), violation(0xfee0_0030));
        assert_eq!(outcome, Outcome::Advance(2));
        assert_eq!(fixture.cpu.registers.rax & 0xff, 0x14, "version of an integrated APIC");
        assert_eq!(fixture.cpu.wild_accesses, 0);
    }

    #[test]
    fn where_nobody_is_reads_are_all_ones_and_writes_are_lost_and_both_are_counted() {
        let mut fixture = about_to(&[0x8b, 0x07]);
        fixture.cpu.registers.rdi = 0xd000_0000;
        let outcome = handle(&mut fixture.context(), violation(0xd000_0000));
        assert_eq!(outcome, Outcome::Advance(2));
        assert_eq!(fixture.cpu.registers.rax, 0xffff_ffff);
        // mov [rdi], eax
        let mut fixture = about_to(&[0x89, 0x07]);
        fixture.cpu.registers.rdi = 0xd000_0000;
        assert_eq!(handle(&mut fixture.context(), violation(0xd000_0000)), Outcome::Advance(2));
        assert_eq!(fixture.cpu.wild_accesses, 1);
    }

    #[test]
    fn ram_is_left_to_the_owner_of_the_tables() {
        let mut fixture = about_to(&[0x89, 0x07]);
        let violation = violation(0x3000);
        assert_eq!(handle(&mut fixture.context(), violation), Outcome::RamViolation(violation));
    }

    #[test]
    fn a_delivery_that_leads_to_no_memory_stops_the_guest() {
        use std::string::ToString;
        // rep stosb, which could be emulated
        let mut fixture = about_to(&[0xf3, 0xaa]);
        let interrupt = Event::interrupt(0x31);
        for nowhere in [0xd000_0ff8, 0xfee0_0030] {
            let exit = Exit::EptViolation(violation(nowhere));
            let reason = check_delivery(&fixture.context(), &exit, interrupt).unwrap_err();
            let (address, rip) = (Gpa::new(nowhere), Gva::new(CODE));
            assert_eq!(reason, StopReason::CannotDeliver { event: interrupt, address, rip });
            let words = reason.to_string();
            assert!(words.starts_with("interrupt 0x31 cannot be delivered at rip 0x1000: "), "{words}");
        }
        let exit = Exit::EptViolation(violation(0x3000));
        assert_eq!(check_delivery(&fixture.context(), &exit, interrupt), Ok(()), "RAM");
        assert_eq!(check_delivery(&fixture.context(), &Exit::PmlFull, interrupt), Ok(()));
    }

    #[test]
    fn an_instruction_that_cannot_be_emulated_stops_the_guest() {
        // vmcall
        let mut fixture = about_to(&[0x0f, 0x01, 0xc1]);
        let outcome = handle(&mut fixture.context(), violation(0xfee0_0030));
        assert!(matches!(outcome, Outcome::Stop(StopReason::CannotEmulate { .. })));
    }
}
