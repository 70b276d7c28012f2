//! Execution of decoded instructions other than string instructions.

use godwit_vmx::addr::Gva;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::alu::{self, CARRY, Operation, STATUS, ZERO};
use super::operand::{
    is_memory, linear_address, read_memory, read_register, register_width, write_memory, write_register,
};
use super::{Executed, Fault, Machine, Purpose};
use crate::devices::Width;

/// Where an operand is.
#[derive(Clone, Copy, Debug)]
enum Place {
    Register(Register),
    Memory(Gva),
    Immediate(u64),
}

/// An operand and its width.
#[derive(Clone, Copy, Debug)]
struct Operand {
    place: Place,
    width: Width,
}

/// Executes `instruction` if it is known.
pub(super) fn execute(machine: &mut impl Machine, instruction: &Instruction) -> Result<Executed, Fault> {
    match run(machine, instruction) {
        Ok(()) => Ok(Executed::Completely),
        Err(Refusal::Unknown) => Ok(Executed::Not),
        Err(Refusal::Fault(fault)) => Err(fault),
    }
}

/// Why an instruction is not executed.
enum Refusal {
    Unknown,
    Fault(Fault),
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

fn run(machine: &mut impl Machine, instruction: &Instruction) -> Result<(), Refusal> {
    let operand = |machine: &_, index| operand(machine, instruction, index).ok_or(Refusal::Unknown);
    let mnemonic = instruction.mnemonic();
    match mnemonic {
        Mnemonic::Mov | Mnemonic::Movnti | Mnemonic::Movzx => {
            let (to, from) = (operand(machine, 0)?, operand(machine, 1)?);
            let value = read(machine, from)?;
            write(machine, to, value)
        }
        Mnemonic::Movsx | Mnemonic::Movsxd => {
            let (to, from) = (operand(machine, 0)?, operand(machine, 1)?);
            let value = sign_extend(read(machine, from)?, from.width);
            write(machine, to, value)
        }
        Mnemonic::Cmp | Mnemonic::Test => {
            let (left, right) = (operand(machine, 0)?, operand(machine, 1)?);
            let operation = if mnemonic == Mnemonic::Cmp { Operation::Subtract } else { Operation::And };
            let (left_value, right_value) = (read(machine, left)?, read(machine, right)?);
            let (_, flags) = alu::combine(operation, left.width, left_value, right_value, machine.rflags());
            machine.set_rflags(flags);
            Ok(())
        }
        Mnemonic::Xchg | Mnemonic::Xadd => {
            let (left, right) = (operand(machine, 0)?, operand(machine, 1)?);
            exchange(machine, mnemonic, left, right)
        }
        Mnemonic::Cmpxchg => {
            let (to, from) = (operand(machine, 0)?, operand(machine, 1)?);
            compare_exchange(machine, to, from)
        }
        Mnemonic::Inc | Mnemonic::Dec | Mnemonic::Not | Mnemonic::Neg => {
            let only = operand(machine, 0)?;
            unary(machine, mnemonic, only)
        }
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc => {
            let (base, offset) = (operand(machine, 0)?, operand(machine, 1)?);
            bit_test(machine, mnemonic, base, offset)
        }
        _ => {
            let operation = arithmetic(mnemonic).ok_or(Refusal::Unknown)?;
            let (to, from) = (operand(machine, 0)?, operand(machine, 1)?);
            let right = read(machine, from)?;
            let left = read_to_modify(machine, to)?;
            let (result, flags) = alu::combine(operation, to.width, left, right, machine.rflags());
            write(machine, to, result)?;
            machine.set_rflags(flags);
            Ok(())
        }
    }
}

const fn arithmetic(mnemonic: Mnemonic) -> Option<Operation> {
    Some(match mnemonic {
        Mnemonic::Add => Operation::Add,
        Mnemonic::Adc => Operation::AddWithCarry,
        Mnemonic::Sub => Operation::Subtract,
        Mnemonic::Sbb => Operation::SubtractWithBorrow,
        Mnemonic::And => Operation::And,
        Mnemonic::Or => Operation::Or,
        Mnemonic::Xor => Operation::ExclusiveOr,
        _ => return None,
    })
}

/// The operand with number `index`; `None` if it is of a kind that is not known.
fn operand(machine: &impl Machine, instruction: &Instruction, index: u32) -> Option<Operand> {
    let kind = instruction.try_op_kind(index).ok()?;
    if kind == OpKind::Register {
        let register = instruction.try_op_register(index).ok()?;
        return Some(Operand { place: Place::Register(register), width: register_width(register)? });
    }
    if is_memory(kind) {
        let width = Width::from_bytes(instruction.memory_size().size())?;
        return Some(Operand { place: Place::Memory(linear_address(machine, instruction, index)?), width });
    }
    // Immediates are sign-extended already; the width is that of what they meet.
    let value = instruction.try_immediate(index).ok()?;
    Some(Operand { place: Place::Immediate(value), width: Width::Qword })
}

fn read(machine: &mut impl Machine, operand: Operand) -> Result<u64, Refusal> {
    read_for(machine, operand, Purpose::Read)
}

/// Reads an operand that is written next: a read-only page faults before the device is read.
fn read_to_modify(machine: &mut impl Machine, operand: Operand) -> Result<u64, Refusal> {
    read_for(machine, operand, Purpose::Write)
}

fn read_for(machine: &mut impl Machine, operand: Operand, purpose: Purpose) -> Result<u64, Refusal> {
    match operand.place {
        Place::Register(register) => read_register(machine, register).ok_or(Refusal::Unknown),
        Place::Memory(address) => Ok(read_memory(machine, address, operand.width, purpose)?),
        Place::Immediate(value) => Ok(value),
    }
}

fn write(machine: &mut impl Machine, operand: Operand, value: u64) -> Result<(), Refusal> {
    match operand.place {
        Place::Register(register) => write_register(machine, register, value).ok_or(Refusal::Unknown),
        Place::Memory(address) => Ok(write_memory(machine, address, operand.width, value)?),
        Place::Immediate(_) => Err(Refusal::Unknown),
    }
}

const fn sign_extend(value: u64, width: Width) -> u64 {
    match width {
        Width::Byte => value as i8 as u64,
        Width::Word => value as i16 as u64,
        Width::Dword => value as i32 as u64,
        Width::Qword => value,
    }
}

fn exchange(
    machine: &mut impl Machine,
    mnemonic: Mnemonic,
    left: Operand,
    right: Operand,
) -> Result<(), Refusal> {
    // The memory operand may be either one: it is read first, so that a fault leaves all as it was.
    let (memory, register) = if let Place::Memory(_) = left.place { (left, right) } else { (right, left) };
    let in_memory = read_to_modify(machine, memory)?;
    let in_register = read(machine, register)?;
    if mnemonic == Mnemonic::Xchg {
        write(machine, memory, in_register)?;
        return write(machine, register, in_memory);
    }
    let (sum, flags) = alu::combine(Operation::Add, memory.width, in_memory, in_register, machine.rflags());
    write(machine, memory, sum)?;
    write(machine, register, in_memory)?;
    machine.set_rflags(flags);
    Ok(())
}

fn compare_exchange(machine: &mut impl Machine, to: Operand, from: Operand) -> Result<(), Refusal> {
    let accumulator = match to.width {
        Width::Byte => Register::AL,
        Width::Word => Register::AX,
        Width::Dword => Register::EAX,
        Width::Qword => Register::RAX,
    };
    let expected = read_register(machine, accumulator).ok_or(Refusal::Unknown)?;
    let new = read(machine, from)?;
    let old = read_to_modify(machine, to)?;
    let (_, flags) = alu::combine(Operation::Subtract, to.width, expected, old, machine.rflags());
    // The memory is written in either case.
    write(machine, to, if flags & ZERO != 0 { new } else { old })?;
    if flags & ZERO == 0 {
        write_register(machine, accumulator, old).ok_or(Refusal::Unknown)?;
    }
    machine.set_rflags(flags);
    Ok(())
}

fn unary(machine: &mut impl Machine, mnemonic: Mnemonic, operand: Operand) -> Result<(), Refusal> {
    let old = read_to_modify(machine, operand)?;
    let flags = machine.rflags();
    let (result, flags) = match mnemonic {
        Mnemonic::Not => (!old, flags),
        Mnemonic::Neg => alu::combine(Operation::Subtract, operand.width, 0, old, flags),
        _ => {
            let operation = if mnemonic == Mnemonic::Inc { Operation::Add } else { Operation::Subtract };
            let (result, new) = alu::combine(operation, operand.width, old, 1, flags);
            // INC and DEC leave the carry alone.
            (result, new & !CARRY | flags & CARRY)
        }
    };
    write(machine, operand, result)?;
    machine.set_rflags(flags & STATUS | machine.rflags() & !STATUS);
    Ok(())
}

fn bit_test(
    machine: &mut impl Machine,
    mnemonic: Mnemonic,
    base: Operand,
    offset: Operand,
) -> Result<(), Refusal> {
    let bits = 8 * base.width.bytes() as u64;
    let raw = read(machine, offset)?;
    let mut base = base;
    if let (Place::Memory(address), Place::Register(_)) = (base.place, offset.place) {
        // A register reaches beyond the operand, in both directions.
        let distance = (sign_extend(raw, offset.width) as i64).div_euclid(bits as i64);
        let bytes = distance.wrapping_mul(base.width.bytes() as i64) as u64;
        base.place = Place::Memory(address.wrapping_add(bytes));
    }
    let bit = 1 << (raw & (bits - 1));
    let modifies = mnemonic != Mnemonic::Bt;
    let old = if modifies { read_to_modify(machine, base)? } else { read(machine, base)? };
    match mnemonic {
        Mnemonic::Bts => write(machine, base, old | bit)?,
        Mnemonic::Btr => write(machine, base, old & !bit)?,
        Mnemonic::Btc => write(machine, base, old ^ bit)?,
        _ => {}
    }
    let carry = if old & bit != 0 { CARRY } else { 0 };
    machine.set_rflags(machine.rflags() & !CARRY | carry);
    Ok(())
}
