//! Instruction decoding and execution for accesses that trap.
//!
//! A guest's access to a device's registers in memory ends in an exit that names the address but not the
//! instruction. [`emulate`] fetches the instruction, decodes it, and does what it does, through the
//! [`Machine`] it is given. What an instruction can do here is what a driver does with device registers: moves,
//! arithmetic and logic, bit tests, exchanges, and string moves.
//!
//! Nothing a guest executes panics or loops unboundedly: a repeated string instruction does at most
//! [`STRING_ELEMENTS_MAX`] elements and is then executed again by the guest.
//!
//! Left out, because the processor has checked them before the exit: segment limits and rights, and
//! alignment.
//!
//! Reference: SDM volume 2 (revision 085).
#![forbid(unsafe_code)]

mod alu;
mod execute;
mod fast;
mod operand;
mod string;

#[cfg(test)]
mod tests;

use core::fmt;

use godwit_vmx::addr::{Gpa, Gva};
use iced_x86::{Decoder, DecoderOptions, Instruction};

use crate::devices::Width;

/// Longest instruction, in bytes.
pub const INSTRUCTION_BYTES_MAX: usize = 15;
/// Most elements of a repeated string instruction that one call does.
pub const STRING_ELEMENTS_MAX: u64 = 64;

const PAGE: u64 = 4096;

/// Size of code, operands and addresses by default: what CS says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeSize {
    /// Real mode, or a 16-bit segment.
    Bits16,
    /// A 32-bit segment.
    Bits32,
    /// 64-bit mode.
    Bits64,
}

/// Segment registers, in the order of their encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Segment {
    /// ES.
    Es = 0,
    /// CS.
    Cs = 1,
    /// SS.
    Ss = 2,
    /// DS.
    Ds = 3,
    /// FS.
    Fs = 4,
    /// GS.
    Gs = 5,
}

/// What a linear address is translated for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Fetching the instruction.
    Fetch,
    /// Reading an operand.
    Read,
    /// Writing an operand.
    Write,
}

/// An exception that the instruction raises, or why it cannot be executed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// #PF.
    Page {
        /// The address, for CR2.
        address: Gva,
        /// Error code.
        code: u32,
    },
    /// #GP(0).
    GeneralProtection,
    /// #UD.
    InvalidOpcode,
    /// None: memory that it touches has not come yet. It is to be executed again when that is there.
    Absent,
}

/// The processor and the memory that an instruction works on.
pub trait Machine {
    /// A general register by its number: RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    fn register(&self, number: usize) -> u64;
    /// Sets a general register.
    fn set_register(&mut self, number: usize, value: u64);
    /// The instruction pointer.
    fn rip(&self) -> u64;
    /// The flags.
    fn rflags(&self) -> u64;
    /// Sets the flags.
    fn set_rflags(&mut self, value: u64);
    /// What CS says of the code.
    fn code_size(&self) -> CodeSize;
    /// Base of a segment; zero in 64-bit mode except for FS and GS.
    fn segment_base(&self, segment: Segment) -> u64;
    /// Translates a linear address as the processor would. What is translated can then be read and written without
    /// further ado; an instruction's addresses are all translated before a device is touched.
    ///
    /// # Errors
    /// The fault that the processor would raise, or [`Fault::Absent`].
    fn translate(&mut self, address: Gva, purpose: Purpose) -> Result<Gpa, Fault>;
    /// Fetches instruction bytes that lie in one page; false if they are not in RAM.
    fn fetch(&mut self, address: Gpa, into: &mut [u8]) -> bool;
    /// Reads memory or a device.
    fn read(&mut self, address: Gpa, width: Width) -> u64;
    /// Writes memory or a device.
    fn write(&mut self, address: Gpa, width: Width, value: u64);
}

/// What became of the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Completion {
    /// It is done: the instruction pointer advances by this many bytes.
    Done(u8),
    /// A part of its repetitions is done and the registers say so: the guest executes it again.
    Again,
}

/// Why an instruction was not executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmulateError {
    /// It raises an exception, which the guest gets.
    Fault(Fault),
    /// It is not one of those that can be executed here.
    Unsupported(InstructionBytes),
    /// It does not lie in RAM.
    NotInRam,
}

/// The bytes from an instruction on, to be told to a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstructionBytes {
    bytes: [u8; INSTRUCTION_BYTES_MAX],
    length: usize,
}

impl InstructionBytes {
    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl From<Fault> for EmulateError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl fmt::Display for EmulateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => write!(f, "the instruction raises {fault:?}"),
            Self::Unsupported(bytes) => {
                f.write_str("an instruction that cannot be executed on device memory:")?;
                bytes.as_slice().iter().try_for_each(|byte| write!(f, " {byte:02x}"))
            }
            Self::NotInRam => f.write_str("the instruction does not lie in memory"),
        }
    }
}

impl core::error::Error for EmulateError {}

/// Builds the decoder's tables, which allocate once, so that no exit has to.
pub fn init() {
    let mut decoder = Decoder::new(64, &[0x90], DecoderOptions::NONE);
    let _ = decoder.decode();
}

/// Executes the instruction at the instruction pointer, whose access to `address` trapped.
///
/// # Errors
/// [`EmulateError`]; registers and memory are then as they were, except for repetitions already done.
#[inline]
pub fn emulate(machine: &mut impl Machine, address: Gpa) -> Result<Completion, EmulateError> {
    let code = fetch(machine)?;
    if let Some(done) = fast::execute(machine, &code, address) {
        return Ok(done);
    }
    emulate_decoded(machine, &code)
}

/// The general case.
#[cold]
fn emulate_decoded(machine: &mut impl Machine, code: &InstructionBytes) -> Result<Completion, EmulateError> {
    let bits = match machine.code_size() {
        CodeSize::Bits16 => 16,
        CodeSize::Bits32 => 32,
        CodeSize::Bits64 => 64,
    };
    let mut decoder = Decoder::with_ip(bits, code.as_slice(), machine.rip(), DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    decoder.decode_out(&mut instruction);
    if instruction.is_invalid() {
        return Err(EmulateError::Unsupported(*code));
    }
    // At most 15, so it fits.
    let length = instruction.len() as u8;
    let done = if instruction.is_string_instruction() {
        string::execute(machine, &instruction)?
    } else {
        execute::execute(machine, &instruction)?
    };
    match done {
        Executed::Completely => Ok(Completion::Done(length)),
        Executed::InPart => Ok(Completion::Again),
        Executed::Not => Err(EmulateError::Unsupported(*code)),
    }
}

/// What an executor did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Executed {
    Completely,
    InPart,
    /// It does not know the instruction and has done nothing.
    Not,
}

/// Fetches up to 15 bytes; fewer if the following page is not there.
#[inline]
fn fetch(machine: &mut impl Machine) -> Result<InstructionBytes, EmulateError> {
    let mut code = InstructionBytes { bytes: [0; INSTRUCTION_BYTES_MAX], length: 0 };
    let mut linear = machine.rip();
    if machine.code_size() != CodeSize::Bits64 {
        linear = linear.wrapping_add(machine.segment_base(Segment::Cs)) & 0xffff_ffff;
    }
    let in_page = (PAGE - linear % PAGE).min(INSTRUCTION_BYTES_MAX as u64) as usize;
    let address = machine.translate(Gva::new(linear), Purpose::Fetch)?;
    if !machine.fetch(address, &mut code.bytes[..in_page]) {
        return Err(EmulateError::NotInRam);
    }
    code.length = in_page;
    if in_page < INSTRUCTION_BYTES_MAX {
        // The instruction need not reach into the next page, so what is not there is no fault yet.
        let next = Gva::new(linear.wrapping_add(in_page as u64));
        match machine.translate(next, Purpose::Fetch) {
            Ok(address) if machine.fetch(address, &mut code.bytes[in_page..]) => {
                code.length = INSTRUCTION_BYTES_MAX;
            }
            // It may well reach there: only what is there says whether it does.
            Err(Fault::Absent) => return Err(Fault::Absent.into()),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(code)
}
