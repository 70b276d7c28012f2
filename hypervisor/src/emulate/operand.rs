//! Operands of a decoded instruction: registers, immediates and memory.

use godwit_vmx::addr::Gva;
use iced_x86::{Instruction, OpKind, Register};

use super::{CodeSize, Fault, Machine, PAGE, Purpose, Segment};
use crate::devices::Width;

/// Value of a register as an address is computed from it; `None` for one that no address has.
pub(super) fn address_register(machine: &impl Machine, register: Register) -> Option<u64> {
    let segment = match register {
        Register::ES => Some(Segment::Es),
        Register::CS => Some(Segment::Cs),
        Register::SS => Some(Segment::Ss),
        Register::DS => Some(Segment::Ds),
        Register::FS => Some(Segment::Fs),
        Register::GS => Some(Segment::Gs),
        _ => None,
    };
    match segment {
        Some(segment) => Some(machine.segment_base(segment)),
        None => read_register(machine, register),
    }
}

/// Value of a general register, zero-extended.
pub(super) fn read_register(machine: &impl Machine, register: Register) -> Option<u64> {
    let width = register_width(register)?;
    let value = machine.register(register.full_register().number() & 0xf);
    Some(if is_high_byte(register) { value >> 8 & 0xff } else { value & width.mask() })
}

/// Sets a general register as the processor does: 32 bits clear the upper half, narrower ones keep the rest.
pub(super) fn write_register(machine: &mut impl Machine, register: Register, value: u64) -> Option<()> {
    let width = register_width(register)?;
    let number = register.full_register().number() & 0xf;
    let old = machine.register(number);
    let merged = match width {
        _ if is_high_byte(register) => old & !0xff00 | (value & 0xff) << 8,
        Width::Byte | Width::Word => old & !width.mask() | value & width.mask(),
        Width::Dword | Width::Qword => value & width.mask(),
    };
    machine.set_register(number, merged);
    Some(())
}

/// Width of a general register; `None` for any other register.
pub(super) fn register_width(register: Register) -> Option<Width> {
    if register.is_gpr() { Width::from_bytes(register.size()) } else { None }
}

const fn is_high_byte(register: Register) -> bool {
    matches!(register, Register::AH | Register::CH | Register::DH | Register::BH)
}

/// Linear address of a memory operand; `None` if it is not one.
pub(super) fn linear_address(machine: &impl Machine, instruction: &Instruction, operand: u32) -> Option<Gva> {
    let kind = instruction.try_op_kind(operand).ok()?;
    if !is_memory(kind) {
        return None;
    }
    let linear =
        instruction.virtual_address(operand, 0, |register, _, _| address_register(machine, register))?;
    // Without 64-bit mode, segment base and offset wrap at 4 GiB.
    let mask = if machine.code_size() == CodeSize::Bits64 { u64::MAX } else { 0xffff_ffff };
    Some(Gva::new(linear & mask))
}

/// Whether an operand is in memory.
pub(super) const fn is_memory(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Memory
            | OpKind::MemorySegSI
            | OpKind::MemorySegESI
            | OpKind::MemorySegRSI
            | OpKind::MemorySegDI
            | OpKind::MemorySegEDI
            | OpKind::MemorySegRDI
            | OpKind::MemoryESDI
            | OpKind::MemoryESEDI
            | OpKind::MemoryESRDI
    )
}

/// Reads `width` bytes at a linear address, one by one if they lie in two pages.
pub(super) fn read_memory(
    machine: &mut impl Machine,
    address: Gva,
    width: Width,
    purpose: Purpose,
) -> Result<u64, Fault> {
    if !crosses_page(address, width) {
        let place = machine.translate(address, purpose)?;
        return Ok(machine.read(place, width));
    }
    // Translate all before reading any: a device must not be read in vain.
    let places = each_byte(machine, address, width, purpose)?;
    let mut value = 0;
    for place in places[..width.bytes()].iter().rev() {
        value = value << 8 | machine.read(*place, Width::Byte) & 0xff;
    }
    Ok(value)
}

/// Writes `width` bytes at a linear address, one by one if they lie in two pages.
pub(super) fn write_memory(
    machine: &mut impl Machine,
    address: Gva,
    width: Width,
    value: u64,
) -> Result<(), Fault> {
    if !crosses_page(address, width) {
        let place = machine.translate(address, Purpose::Write)?;
        machine.write(place, width, value & width.mask());
        return Ok(());
    }
    let places = each_byte(machine, address, width, Purpose::Write)?;
    for (place, byte) in places[..width.bytes()].iter().zip(value.to_le_bytes()) {
        machine.write(*place, Width::Byte, u64::from(byte));
    }
    Ok(())
}

/// Faults where [`write_memory`] would.
pub(super) fn check_writable(machine: &mut impl Machine, address: Gva, width: Width) -> Result<(), Fault> {
    if crosses_page(address, width) {
        each_byte(machine, address, width, Purpose::Write).map(|_places| ())
    } else {
        machine.translate(address, Purpose::Write).map(|_place| ())
    }
}

const fn crosses_page(address: Gva, width: Width) -> bool {
    address.as_u64() % PAGE + width.bytes() as u64 > PAGE
}

fn each_byte(
    machine: &mut impl Machine,
    address: Gva,
    width: Width,
    purpose: Purpose,
) -> Result<[godwit_vmx::addr::Gpa; 8], Fault> {
    let mut places = [godwit_vmx::addr::Gpa::new(0); 8];
    for (offset, place) in (0..).zip(&mut places[..width.bytes()]) {
        *place = machine.translate(address.wrapping_add(offset), purpose)?;
    }
    Ok(places)
}
