//! INS and OUTS: port input and output of strings, one element at a time (SDM volume 2).
//!
//! A repeated instruction does a bounded number of elements per exit and then lets the guest execute it again
//! with the registers advanced, so that interrupts get their turn as on the processor.

use godwit_vmx::addr::Gva;
use godwit_vmx::event::Event;
use godwit_vmx::exit::{IoAccess, IoDirection};
use godwit_vmx::field;
use godwit_vmx::vmcs::VmcsAccess;

use super::context::{Context, Outcome};
use super::translate::{PageFault, Purpose, Untranslated};
use crate::devices::Width;
use crate::guest_memory::{GuestMemory, MemoryError};

/// Most elements per exit.
const ELEMENTS_MAX: u64 = 64;
const DIRECTION_FLAG: u64 = 1 << 10;

/// Why an element could not be moved.
enum Stuck {
    Fault(PageFault),
    /// Neither in RAM: such an access makes no sense and is answered as a bad address.
    NoMemory,
    /// The memory has not come yet: what is left is done when it is there.
    Absent,
}

impl From<Untranslated> for Stuck {
    fn from(why: Untranslated) -> Self {
        match why {
            Untranslated::Fault(fault) => Self::Fault(fault),
            Untranslated::Absent => Self::Absent,
        }
    }
}

impl From<MemoryError> for Stuck {
    fn from(error: MemoryError) -> Self {
        match error {
            MemoryError::NotRam { .. } => Self::NoMemory,
            MemoryError::Absent(_) => Self::Absent,
        }
    }
}

pub(super) fn handle<V: VmcsAccess, M: GuestMemory>(
    context: &mut Context<'_, V, M>,
    access: IoAccess,
    width: Width,
) -> Outcome {
    let mask = address_mask(context);
    let count = if access.is_repeated { context.cpu.registers.rcx & mask } else { 1 };
    let backwards = context.vmcs.read(field::GUEST_RFLAGS) & DIRECTION_FLAG != 0;
    let step = if backwards { (width.bytes() as u64).wrapping_neg() } else { width.bytes() as u64 };
    context.cpu.attention = true;
    for _ in 0..count.min(ELEMENTS_MAX) {
        match element(context, access, width, mask) {
            Ok(()) => {}
            Err(Stuck::Fault(fault)) => return Outcome::PageFault(fault),
            Err(Stuck::NoMemory) => return Outcome::Inject(Event::general_protection()),
            Err(Stuck::Absent) => return Outcome::Resume,
        }
        let registers = &mut context.cpu.registers;
        let index = match access.direction {
            IoDirection::In => &mut registers.rdi,
            IoDirection::Out => &mut registers.rsi,
        };
        *index = *index & !mask | index.wrapping_add(step) & mask;
        if access.is_repeated {
            let left = registers.rcx.wrapping_sub(1);
            registers.rcx = registers.rcx & !mask | left & mask;
        }
    }
    if count > ELEMENTS_MAX { Outcome::Resume } else { Outcome::Skip }
}

fn element<V: VmcsAccess, M: GuestMemory>(
    context: &mut Context<'_, V, M>,
    access: IoAccess,
    width: Width,
    mask: u64,
) -> Result<(), Stuck> {
    let registers = &context.cpu.registers;
    let (offset, purpose) = match access.direction {
        IoDirection::In => (registers.rdi & mask, Purpose::Write),
        IoDirection::Out => (registers.rsi & mask, Purpose::Read),
    };
    let linear = Gva::new(segment_base(context, access.direction)).wrapping_add(offset);
    let address = context.translate(linear, purpose)?;
    let mut bytes = [0; 4];
    let bytes = &mut bytes[..width.bytes().min(4)];
    // Read first: an address that is no RAM, or none yet, must not cost the port a byte.
    context.memory.read(address, bytes)?;
    let now = context.clock.now();
    match access.direction {
        IoDirection::Out => {
            let value = bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
            context.board.port_write(now, access.port, width, value);
        }
        IoDirection::In => {
            let value = context.board.port_read(now, access.port, width).to_le_bytes();
            let length = bytes.len();
            bytes.copy_from_slice(&value[..length]);
            context.memory.write(address, bytes)?;
        }
    }
    Ok(())
}

/// Base of the segment: ES for INS; for OUTS the instruction-information field names it.
fn segment_base<V: VmcsAccess, M: GuestMemory>(context: &Context<'_, V, M>, direction: IoDirection) -> u64 {
    let segment = match direction {
        IoDirection::In => 0,
        IoDirection::Out => context.vmcs.read(field::EXIT_INSTRUCTION_INFO) >> 15 & 7,
    };
    let bases = [
        field::GUEST_ES_BASE,
        field::GUEST_CS_BASE,
        field::GUEST_SS_BASE,
        field::GUEST_DS_BASE,
        field::GUEST_FS_BASE,
        field::GUEST_GS_BASE,
    ];
    let is_flat = context.in_long_mode() && segment < 4;
    if is_flat { 0 } else { bases.get(segment as usize).map_or(0, |base| context.vmcs.read(*base)) }
}

/// What of the index registers the instruction uses: the address size of the instruction-information field.
fn address_mask<V: VmcsAccess, M: GuestMemory>(context: &Context<'_, V, M>) -> u64 {
    match context.vmcs.read(field::EXIT_INSTRUCTION_INFO) >> 7 & 7 {
        0 => 0xffff,
        1 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exits::testing::Fixture;

    fn outs(repeated: bool) -> IoAccess {
        IoAccess { port: 0x3f8, size: 1, direction: IoDirection::Out, is_string: true, is_repeated: repeated }
    }

    #[test]
    fn a_repeated_output_sends_every_byte_and_advances_the_registers() {
        let mut fixture = Fixture::new();
        fixture.vmcs.set(field::EXIT_INSTRUCTION_INFO, 2 << 7 | 3 << 15);
        fixture.memory.put(0x100, b"hello");
        fixture.cpu.registers.rsi = 0x100;
        fixture.cpu.registers.rcx = 5;
        assert_eq!(handle(&mut fixture.context(), outs(true), Width::Byte), Outcome::Skip);
        assert_eq!((fixture.cpu.registers.rsi, fixture.cpu.registers.rcx), (0x105, 0));
        let mut sent = [0; 8];
        let count = fixture.board.serial_take(&mut sent);
        assert_eq!(&sent[..count], b"hello");
    }

    #[test]
    fn a_long_string_is_done_in_portions() {
        let mut fixture = Fixture::new();
        fixture.vmcs.set(field::EXIT_INSTRUCTION_INFO, 2 << 7);
        fixture.cpu.registers.rcx = 100;
        assert_eq!(handle(&mut fixture.context(), outs(true), Width::Byte), Outcome::Resume);
        assert_eq!(fixture.cpu.registers.rcx, 100 - ELEMENTS_MAX);
        assert_eq!(handle(&mut fixture.context(), outs(true), Width::Byte), Outcome::Skip);
        assert_eq!(fixture.cpu.registers.rcx, 0);
    }

    #[test]
    fn a_string_outside_ram_faults_without_touching_the_port() {
        let mut fixture = Fixture::new();
        fixture.vmcs.set(field::EXIT_INSTRUCTION_INFO, 2 << 7);
        fixture.cpu.registers.rsi = 0xffff_0000;
        let outcome = handle(&mut fixture.context(), outs(false), Width::Byte);
        assert_eq!(outcome, Outcome::Inject(Event::general_protection()));
        assert_eq!(fixture.board.serial_waiting(), 0);
    }
}
