//! MOVS, STOS and LODS, with and without a repeat prefix.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::alu::DIRECTION;
use super::operand::{
    check_writable, linear_address, read_memory, read_register, register_width, write_memory, write_register,
};
use super::{Executed, Fault, Machine, Purpose, STRING_ELEMENTS_MAX};
use crate::devices::Width;

/// Which way the elements go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Move,
    Store,
    Load,
}

const fn kind(mnemonic: Mnemonic) -> Option<(Kind, Width)> {
    Some(match mnemonic {
        Mnemonic::Movsb => (Kind::Move, Width::Byte),
        Mnemonic::Movsw => (Kind::Move, Width::Word),
        Mnemonic::Movsd => (Kind::Move, Width::Dword),
        Mnemonic::Movsq => (Kind::Move, Width::Qword),
        Mnemonic::Stosb => (Kind::Store, Width::Byte),
        Mnemonic::Stosw => (Kind::Store, Width::Word),
        Mnemonic::Stosd => (Kind::Store, Width::Dword),
        Mnemonic::Stosq => (Kind::Store, Width::Qword),
        Mnemonic::Lodsb => (Kind::Load, Width::Byte),
        Mnemonic::Lodsw => (Kind::Load, Width::Word),
        Mnemonic::Lodsd => (Kind::Load, Width::Dword),
        Mnemonic::Lodsq => (Kind::Load, Width::Qword),
        _ => return None,
    })
}

/// Executes `instruction` if it is known, at most [`STRING_ELEMENTS_MAX`] elements of it.
pub(super) fn execute(machine: &mut impl Machine, instruction: &Instruction) -> Result<Executed, Fault> {
    let Some((kind, width)) = kind(instruction.mnemonic()) else { return Ok(Executed::Not) };
    let Some(indices) = Indices::of(instruction) else { return Ok(Executed::Not) };
    let is_repeated = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    if !is_repeated {
        let moved = element(machine, instruction, kind, width, indices)?;
        return Ok(if moved.is_some() { Executed::Completely } else { Executed::Not });
    }
    for _ in 0..STRING_ELEMENTS_MAX {
        let Some(count) = read_register(machine, indices.count) else { return Ok(Executed::Not) };
        if count == 0 {
            return Ok(Executed::Completely);
        }
        if element(machine, instruction, kind, width, indices)?.is_none() {
            return Ok(Executed::Not);
        }
        let _ = write_register(machine, indices.count, count - 1);
    }
    let is_over = read_register(machine, indices.count) == Some(0);
    Ok(if is_over { Executed::Completely } else { Executed::InPart })
}

/// The registers that the instruction's address size uses.
#[derive(Clone, Copy, Debug)]
struct Indices {
    source: Register,
    target: Register,
    count: Register,
}

impl Indices {
    fn of(instruction: &Instruction) -> Option<Self> {
        let kinds = [instruction.op0_kind(), instruction.op1_kind()];
        kinds.into_iter().find_map(|kind| match kind {
            OpKind::MemorySegSI | OpKind::MemoryESDI => {
                Some(Self { source: Register::SI, target: Register::DI, count: Register::CX })
            }
            OpKind::MemorySegESI | OpKind::MemoryESEDI => {
                Some(Self { source: Register::ESI, target: Register::EDI, count: Register::ECX })
            }
            OpKind::MemorySegRSI | OpKind::MemoryESRDI => {
                Some(Self { source: Register::RSI, target: Register::RDI, count: Register::RCX })
            }
            _ => None,
        })
    }
}

/// One element; `None` if the operands are not what they must be. Registers change only when it is done.
fn element(
    machine: &mut impl Machine,
    instruction: &Instruction,
    kind: Kind,
    width: Width,
    indices: Indices,
) -> Result<Option<()>, Fault> {
    let accumulator = match width {
        Width::Byte => Register::AL,
        Width::Word => Register::AX,
        Width::Dword => Register::EAX,
        Width::Qword => Register::RAX,
    };
    if kind == Kind::Move
        && let Some(target) = linear_address(machine, instruction, 0)
    {
        // A target that is not there faults before a device is read in vain.
        check_writable(machine, target, width)?;
    }
    let value = match kind {
        Kind::Store => read_register(machine, accumulator),
        Kind::Move | Kind::Load => match linear_address(machine, instruction, 1) {
            Some(source) => Some(read_memory(machine, source, width, Purpose::Read)?),
            None => None,
        },
    };
    let Some(value) = value else { return Ok(None) };
    if kind == Kind::Load {
        let _ = write_register(machine, accumulator, value);
    } else {
        let Some(target) = linear_address(machine, instruction, 0) else { return Ok(None) };
        write_memory(machine, target, width, value)?;
    }
    if kind != Kind::Store {
        step(machine, indices.source, width);
    }
    if kind != Kind::Load {
        step(machine, indices.target, width);
    }
    Ok(Some(()))
}

/// Moves an index register on by one element, in the direction that the flags say.
fn step(machine: &mut impl Machine, register: Register, width: Width) {
    let (Some(value), Some(register_width)) = (read_register(machine, register), register_width(register))
    else {
        return;
    };
    let bytes = width.bytes() as u64;
    let next =
        if machine.rflags() & DIRECTION != 0 { value.wrapping_sub(bytes) } else { value.wrapping_add(bytes) };
    let _ = write_register(machine, register, next & register_width.mask());
}
