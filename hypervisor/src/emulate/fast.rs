//! The commonest access to a device register: a 32-bit move between a general register and memory in 64-bit
//! mode, as Linux reads and writes its local APIC.
//!
//! The address is not computed: it is the one that trapped.
//!
//! Reference: SDM volume 2, section 2.1 and appendix A.

use godwit_vmx::addr::Gpa;

use super::{CodeSize, Completion, InstructionBytes, Machine, PAGE};
use crate::devices::Width;

const MOV_STORE: u8 = 0x89;
const MOV_LOAD: u8 = 0x8b;
const MOV_STORE_IMMEDIATE: u8 = 0xc7;
const REX: u8 = 0x40;
const REX_W: u8 = 1 << 3;
const REX_R: u8 = 1 << 2;

/// Executes the instruction if it is one of these; otherwise nothing is done.
#[inline]
pub(super) fn execute(
    machine: &mut impl Machine,
    code: &InstructionBytes,
    address: Gpa,
) -> Option<Completion> {
    // The longest of these has 12 bytes; shorter code is left to the decoder.
    if code.length < 12 || machine.code_size() != CodeSize::Bits64 || address.as_u64() % PAGE > PAGE - 4 {
        return None;
    }
    let bytes = &code.bytes;
    let has_rex = bytes[0] & 0xf0 == REX;
    let rex = if has_rex { bytes[0] } else { 0 };
    if rex & REX_W != 0 {
        return None;
    }
    let start = usize::from(has_rex);
    let opcode = bytes[start];
    if !matches!(opcode, MOV_STORE | MOV_LOAD | MOV_STORE_IMMEDIATE) {
        return None;
    }
    let operand_bytes = operand_bytes(bytes[start + 1], bytes[start + 2])?;
    let length = start + 1 + operand_bytes;
    let number = usize::from(bytes[start + 1] >> 3 & 7 | (rex & REX_R) << 1);
    match opcode {
        MOV_LOAD => {
            let value = machine.read(address, Width::Dword);
            machine.set_register(number, value & 0xffff_ffff);
            Some(Completion::Done(length as u8))
        }
        MOV_STORE => {
            let value = machine.register(number) & 0xffff_ffff;
            machine.write(address, Width::Dword, value);
            Some(Completion::Done(length as u8))
        }
        // The register field must be zero here.
        _ if number & 7 == 0 => {
            let immediate = bytes.get(length..length + 4)?;
            let value = immediate.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
            machine.write(address, Width::Dword, value);
            Some(Completion::Done((length + 4) as u8))
        }
        _ => None,
    }
}

/// Bytes of ModR/M, SIB and displacement in 64-bit addressing; `None` if the operand is a register.
#[inline]
const fn operand_bytes(modrm: u8, sib: u8) -> Option<usize> {
    let (mode, rm) = (modrm >> 6, modrm & 7);
    let has_sib = rm == 4;
    let displacement = match mode {
        // RIP-relative, or an index without base.
        0 if rm == 5 || (has_sib && sib & 7 == 5) => 4,
        0 => 0,
        1 => 1,
        2 => 4,
        _ => return None,
    };
    Some(1 + has_sib as usize + displacement)
}
