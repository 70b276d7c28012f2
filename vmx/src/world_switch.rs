//! The way into the guest and back.
//!
//! HOST_RSP points at the vCPU's own [`GuestRegisters`] block and HOST_RIP at [`exit_address`], so a VM exit
//! stores the guest's registers relative to RSP and then takes the host's stack pointer from the same block:
//! neither field changes between entries. The processor switches RIP, RSP, RFLAGS, CR0, CR3, CR4 and segments; CR2,
//! debug registers, FPU state and MSRs are the caller's to switch when another guest takes the processor.
#![expect(unsafe_code, reason = "the world switch is assembly")]

use core::arch::naked_asm;
use core::mem::offset_of;

use crate::instruction::VmFail;
use crate::vmcs::{Current, Vmcs};

/// The general registers of a vCPU while it does not run, and the host's stack pointer while it does.
///
/// RSP, RIP and RFLAGS of the guest are in its VMCS.
#[derive(Clone, Debug, Default)]
#[repr(C, align(64))]
#[expect(missing_docs, reason = "registers are their own documentation")]
pub struct GuestRegisters {
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rbx: u64,
    /// The host's RSP during guest execution: keeps the encoding order of the registers.
    host_rsp: u64,
    pub rbp: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
}

impl GuestRegisters {
    /// The register with encoding `index` (0 = RAX … 15 = R15), except RSP (4), which is in the VMCS.
    #[must_use]
    #[inline]
    pub fn get(&self, index: u8) -> Option<u64> {
        Some(match index {
            0 => self.rax,
            1 => self.rcx,
            2 => self.rdx,
            3 => self.rbx,
            5 => self.rbp,
            6 => self.rsi,
            7 => self.rdi,
            8 => self.r8,
            9 => self.r9,
            10 => self.r10,
            11 => self.r11,
            12 => self.r12,
            13 => self.r13,
            14 => self.r14,
            15 => self.r15,
            _ => return None,
        })
    }

    /// The place of the register with encoding `index`, except RSP (4).
    #[must_use]
    #[inline]
    pub fn get_mut(&mut self, index: u8) -> Option<&mut u64> {
        Some(match index {
            0 => &mut self.rax,
            1 => &mut self.rcx,
            2 => &mut self.rdx,
            3 => &mut self.rbx,
            5 => &mut self.rbp,
            6 => &mut self.rsi,
            7 => &mut self.rdi,
            8 => &mut self.r8,
            9 => &mut self.r9,
            10 => &mut self.r10,
            11 => &mut self.r11,
            12 => &mut self.r12,
            13 => &mut self.r13,
            14 => &mut self.r14,
            15 => &mut self.r15,
            _ => return None,
        })
    }
}

const ENTERED: u64 = 0;
const FAIL_VALID: u64 = 2;

/// What HOST_RIP must hold.
#[must_use]
pub fn exit_address() -> u64 {
    world_exit as *const () as u64
}

/// Enters the guest of `vmcs` and returns at its next VM exit.
///
/// # Errors
/// [`VmFail`] if the entry was refused before guest state was loaded. An entry that fails later returns as a VM exit whose
/// reason has bit 31 set.
///
/// # Safety
/// Interrupts are off. The VMCS's host state describes this processor as it is now, with HOST_RSP the address
/// of `registers` and HOST_RIP [`exit_address`]; its EPT pointer leads only to memory that the guest may touch;
/// what the hardware then does in non-root operation (FPU, MSRs let through) is state that the host does not rely on.
#[inline(always)]
pub unsafe fn enter(vmcs: &mut Vmcs<Current>, registers: &mut GuestRegisters) -> Result<(), VmFail> {
    // SAFETY: by the caller's contract the VMCS leads back to `world_exit` with `registers` as its stack
    // pointer.
    match unsafe { world_enter(registers, u64::from(!vmcs.is_launched())) } {
        ENTERED => {
            vmcs.set_launched();
            Ok(())
        }
        FAIL_VALID => Err(VmFail::Valid),
        _ => Err(VmFail::Invalid),
    }
}

#[unsafe(naked)]
unsafe extern "sysv64" fn world_enter(registers: *mut GuestRegisters, launch: u64) -> u64 {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi + {rsp}], rsp",
        // Moves leave the flag alone until the jump below.
        "test esi, esi",
        "mov rax, [rdi + {rax}]",
        "mov rcx, [rdi + {rcx}]",
        "mov rdx, [rdi + {rdx}]",
        "mov rbx, [rdi + {rbx}]",
        "mov rbp, [rdi + {rbp}]",
        "mov rsi, [rdi + {rsi}]",
        "mov r8, [rdi + {r8}]",
        "mov r9, [rdi + {r9}]",
        "mov r10, [rdi + {r10}]",
        "mov r11, [rdi + {r11}]",
        "mov r12, [rdi + {r12}]",
        "mov r13, [rdi + {r13}]",
        "mov r14, [rdi + {r14}]",
        "mov r15, [rdi + {r15}]",
        "mov rdi, [rdi + {rdi}]",
        "jnz 2f",
        "vmresume",
        "jmp 3f",
        "2:",
        "vmlaunch",
        // Only a refused entry comes here: CF for VMfailInvalid, ZF for VMfailValid.
        "3:",
        "mov eax, 1",
        "mov ecx, {fail_valid}",
        "cmovz eax, ecx",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
        rsp = const offset_of!(GuestRegisters, host_rsp),
        rax = const offset_of!(GuestRegisters, rax),
        rcx = const offset_of!(GuestRegisters, rcx),
        rdx = const offset_of!(GuestRegisters, rdx),
        rbx = const offset_of!(GuestRegisters, rbx),
        rbp = const offset_of!(GuestRegisters, rbp),
        rsi = const offset_of!(GuestRegisters, rsi),
        rdi = const offset_of!(GuestRegisters, rdi),
        r8 = const offset_of!(GuestRegisters, r8),
        r9 = const offset_of!(GuestRegisters, r9),
        r10 = const offset_of!(GuestRegisters, r10),
        r11 = const offset_of!(GuestRegisters, r11),
        r12 = const offset_of!(GuestRegisters, r12),
        r13 = const offset_of!(GuestRegisters, r13),
        r14 = const offset_of!(GuestRegisters, r14),
        r15 = const offset_of!(GuestRegisters, r15),
        fail_valid = const FAIL_VALID,
    );
}

/// Where a VM exit continues: RSP is the address of the vCPU's [`GuestRegisters`]. Returns from the
/// [`world_enter`] that entered.
#[unsafe(naked)]
unsafe extern "sysv64" fn world_exit() {
    naked_asm!(
        "mov [rsp + {rax}], rax",
        "mov [rsp + {rcx}], rcx",
        "mov [rsp + {rdx}], rdx",
        "mov [rsp + {rbx}], rbx",
        "mov [rsp + {rbp}], rbp",
        "mov [rsp + {rsi}], rsi",
        "mov [rsp + {rdi}], rdi",
        "mov [rsp + {r8}], r8",
        "mov [rsp + {r9}], r9",
        "mov [rsp + {r10}], r10",
        "mov [rsp + {r11}], r11",
        "mov [rsp + {r12}], r12",
        "mov [rsp + {r13}], r13",
        "mov [rsp + {r14}], r14",
        "mov [rsp + {r15}], r15",
        "mov rsp, [rsp + {rsp}]",
        "xor eax, eax",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
        rsp = const offset_of!(GuestRegisters, host_rsp),
        rax = const offset_of!(GuestRegisters, rax),
        rcx = const offset_of!(GuestRegisters, rcx),
        rdx = const offset_of!(GuestRegisters, rdx),
        rbx = const offset_of!(GuestRegisters, rbx),
        rbp = const offset_of!(GuestRegisters, rbp),
        rsi = const offset_of!(GuestRegisters, rsi),
        rdi = const offset_of!(GuestRegisters, rdi),
        r8 = const offset_of!(GuestRegisters, r8),
        r9 = const offset_of!(GuestRegisters, r9),
        r10 = const offset_of!(GuestRegisters, r10),
        r11 = const offset_of!(GuestRegisters, r11),
        r12 = const offset_of!(GuestRegisters, r12),
        r13 = const offset_of!(GuestRegisters, r13),
        r14 = const offset_of!(GuestRegisters, r14),
        r15 = const offset_of!(GuestRegisters, r15),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_found_by_their_encoding() {
        let mut registers = GuestRegisters::default();
        for index in (0..16).filter(|index| *index != 4) {
            *registers.get_mut(index).unwrap() = 0x100 + u64::from(index);
        }
        assert_eq!((registers.rax, registers.rbp, registers.r15), (0x100, 0x105, 0x10f));
        assert_eq!(registers.get(7), Some(0x107));
        assert_eq!(registers.get(4), None);
        assert_eq!(registers.get(16), None);
    }

    #[test]
    fn the_block_is_one_register_file_in_encoding_order() {
        assert_eq!(offset_of!(GuestRegisters, host_rsp), 4 * 8);
        assert_eq!(offset_of!(GuestRegisters, r15), 15 * 8);
    }
}
