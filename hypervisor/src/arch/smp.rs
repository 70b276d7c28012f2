#![expect(unsafe_code, reason = "starting processors from real mode")]
//! Starting the other processors (SDM volume 3, section 9.4): INIT, start-up, and a trampoline from real mode
//! to the hypervisor's long mode.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, Ordering};

use x86_64::{PhysAddr, VirtAddr};

/// Bytes of the trampoline's page.
pub const PAGE: usize = 4096;

/// What the trampoline needs to know, at its end.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Parameters {
    /// Root of the page tables: below 4 GiB, and mapping the trampoline's page at its physical address.
    pub page_tables: u64,
    /// Top of the processor's stack.
    pub stack: u64,
    /// Where to go in long mode: a function that takes `argument` and never returns.
    pub entry: u64,
    /// First argument of `entry`.
    pub argument: u64,
    /// 0; the first processor to come makes it 1, and any other that finds it so halts. A processor that was given
    /// up and comes late thus takes the place of the next one, and never shares its stack.
    pub claimed: u64,
}

unsafe extern "C" {
    safe static godwit_trampoline: u8;
    safe static godwit_trampoline_gdt_base: u8;
    safe static godwit_trampoline_far: u8;
    safe static godwit_trampoline_parameters: u8;
    safe static godwit_trampoline_end: u8;
}

// Real mode, CS = DS = the page's segment. Long mode is entered at once: protection and paging come on together
// with EFER.LME already set (SDM volume 3, section 10.8.5 allows going straight from real mode).
global_asm!(
    r#"
    .pushsection .text
    .balign 16
    .code16
    .global godwit_trampoline
godwit_trampoline:
    cli
    cld
    mov ax, cs
    mov ds, ax
    mov eax, 1
    xchg [godwit_trampoline_claimed_offset], eax
    test eax, eax
    jz 3f
2:
    hlt
    jmp 2b
3:
    mov eax, 0x20
    mov cr4, eax
    mov eax, [godwit_trampoline_parameters_offset]
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x900
    wrmsr
    lgdt [godwit_trampoline_gdt_offset]
    mov eax, 0x80010001
    mov cr0, eax
    .byte 0x66, 0xff, 0x2e
    .word godwit_trampoline_far - godwit_trampoline

    .balign 8
godwit_trampoline_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
godwit_trampoline_gdt_pointer:
    .word 23
    .global godwit_trampoline_gdt_base
godwit_trampoline_gdt_base:
    .long godwit_trampoline_gdt - godwit_trampoline
    .balign 8
    .global godwit_trampoline_far
godwit_trampoline_far:
    .long godwit_trampoline_long - godwit_trampoline
    .word 8

    .code64
    .balign 8
    .global godwit_trampoline_long
godwit_trampoline_long:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    xor eax, eax
    mov fs, ax
    mov gs, ax
    mov rsp, [rip + godwit_trampoline_parameters + 8]
    mov rdi, [rip + godwit_trampoline_parameters + 24]
    xor ebp, ebp
    mov rax, [rip + godwit_trampoline_parameters + 16]
    call rax
    ud2

    .balign 8
    .global godwit_trampoline_parameters
godwit_trampoline_parameters:
    .quad 0, 0, 0, 0, 0
    .global godwit_trampoline_end
godwit_trampoline_end:
    .set godwit_trampoline_parameters_offset, godwit_trampoline_parameters - godwit_trampoline
    .set godwit_trampoline_claimed_offset, godwit_trampoline_parameters_offset + 32
    .set godwit_trampoline_gdt_offset, godwit_trampoline_gdt_pointer - godwit_trampoline
    .popsection
    "#
);

/// Who got to the trampoline first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Whoever asks: a processor that comes from now on halts, until the trampoline is placed anew.
    First,
    /// Some processor, which is on its way.
    Late,
}

/// Claims the trampoline as a processor that comes does.
///
/// # Safety
/// [`place`] was called for the page that `at` maps, and nobody has unmapped it.
pub unsafe fn claim(at: VirtAddr) -> Claim {
    let offset = offset(&godwit_trampoline_parameters) + core::mem::offset_of!(Parameters, claimed);
    let claimed = (at + offset as u64).as_mut_ptr::<u32>();
    // SAFETY: an aligned word of the parameters, which processors change only by a locked exchange of this width.
    let claimed = unsafe { AtomicU32::from_ptr(claimed) };
    match claimed.swap(1, Ordering::AcqRel) {
        0 => Claim::First,
        _ => Claim::Late,
    }
}

/// Makes a processor that comes late halt at its first instruction. To be called before the page is unmapped.
///
/// # Safety
/// As for [`place`], which was called for this page.
pub unsafe fn retire(at: VirtAddr) {
    /// CLI; HLT; a jump back to HLT: the same in all modes.
    const HALT: u32 = u32::from_le_bytes([0xfa, 0xf4, 0xeb, 0xfd]);
    // SAFETY: by the contract, the page holds the trampoline, which nobody needs any more.
    unsafe { at.as_mut_ptr::<u32>().write_volatile(HALT) };
}

fn offset(label: &u8) -> usize {
    core::ptr::from_ref(label) as usize - core::ptr::from_ref(&godwit_trampoline) as usize
}

/// Places the trampoline in the page at physical address `page` (below 1 MiB), seen by the hypervisor at `at`.
///
/// # Safety
/// `at` maps the whole page at `page`, writable, and nobody else uses it while processors are started.
pub unsafe fn place(page: PhysAddr, at: VirtAddr, parameters: &Parameters) {
    let length = offset(&godwit_trampoline_end);
    let base = page.as_u64() as u32;
    let target = at.as_mut_ptr::<u8>();
    // SAFETY: source and target are `length` bytes, less than a page, and do not overlap.
    unsafe { core::ptr::copy_nonoverlapping(&raw const godwit_trampoline, target, length) };
    for label in [&godwit_trampoline_gdt_base, &godwit_trampoline_far] {
        // SAFETY: the label lies in the copy.
        let word = unsafe { target.add(offset(label)) }.cast::<u32>();
        // SAFETY: `word` is a word of the copy; it holds an offset so far.
        let offset = unsafe { word.read_unaligned() };
        // SAFETY: as above; it holds an address from here.
        unsafe { word.write_unaligned(offset + base) };
    }
    // SAFETY: the label lies in the copy.
    let slot = unsafe { target.add(offset(&godwit_trampoline_parameters)) }.cast::<Parameters>();
    // SAFETY: the copy ends with room for the parameters.
    unsafe { slot.write_unaligned(*parameters) };
}
