# Entry by Linux's boot protocols. 64-bit: long mode, paging on, interrupts off, RSI = boot parameters.
# 32-bit: protected mode, flat segments, paging and interrupts off, ESI = boot parameters; it goes on at the other.
# Tables: a flat map of 4 GiB (2 MiB pages), a GDT and an IDT of 48 vectors.

# From protected to the compatibility mode of long mode, from where a far jump leads on.
.macro to_long_mode stack
    mov $0x18, %eax                     # __BOOT_DS: who comes from real mode has not loaded it
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $\stack, %esp
    mov %cr4, %eax
    or $0x20, %eax                      # PAE
    mov %eax, %cr4
    mov $pml4, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx               # IA32_EFER
    rdmsr
    or $0x100, %eax                     # LME
    wrmsr
    mov %cr0, %eax
    or $0x80000000, %eax                # PG
    mov %eax, %cr0
.endm

.section .head, "ax"
.code32
head:
    cli
    cld
    to_long_mode stack_top
    lgdt gdt_pointer
    ljmp $0x10, $entry
.org 0x200, 0xf4                         # up to the 64-bit entry
.code64

# The second processor: the code between second_begin and second_end is copied to a page below 1 MiB, where a start-up message
# has it begin in real mode; from there to protected and to long mode, on a stack of its own. In real mode it reads an MSR
# that does not exist: that exception has no error code there.
.section .rodata.second, "a"
.globl second_begin
.globl second_faults
.globl second_end
.code16
second_begin:
    cli
    cld
    mov %cs, %ax
    mov %ax, %ds
    mov %ax, %ss
    mov $0x1000, %sp                    # the end of the page
    xor %bx, %bx
    mov %bx, %es
    movw $second_fault - second_begin, %es:13 * 4
    mov %ax, %es:13 * 4 + 2
    mov $0xdead0000, %ecx
    rdmsr
    lgdtl second_gdt_pointer - second_begin
    mov %cr0, %eax
    and $0x9fffffff, %eax               # caches on
    or $1, %eax                         # PE
    mov %eax, %cr0
    ljmpl $0x08, $second_protected
second_fault:
    incw second_faults - second_begin
    mov %sp, %bp
    addw $2, (%bp)                      # behind RDMSR
    iret
second_gdt_pointer:
    .short 31
    .long gdt
.balign 4
second_faults:
    .long 0
second_end:

.section .text.second, "ax"
.code32
second_protected:
    to_long_mode second_stack_top
    ljmp $0x10, $second_long
.code64
second_long:
    lidt idt_pointer(%rip)
    call {second}
5:  cli
    hlt
    jmp 5b

.section .text.entry, "ax"
.globl entry
entry:
    cli
    cld
    lea stack_top(%rip), %rsp
    push %rsi

    # IDT: stubs are 16 bytes apart; interrupt gates, selector 0x10.
    lea stubs(%rip), %rax
    lea idt(%rip), %rdi
    mov $48, %rcx
3:  mov %ax, (%rdi)
    movw $0x10, 2(%rdi)
    movw $0x8e00, 4(%rdi)
    mov %rax, %rdx
    shr $16, %rdx
    mov %dx, 6(%rdi)
    shr $16, %rdx
    mov %edx, 8(%rdi)
    movl $0, 12(%rdi)
    add $16, %rax
    add $16, %rdi
    loop 3b

    pop %rdi
    call {start}
4:  cli
    hlt
    jmp 4b

.text
.globl load_tables
load_tables:
    lea pml4(%rip), %rax
    mov %rax, %cr3
    lgdt gdt_pointer(%rip)
    lidt idt_pointer(%rip)
    mov $0x18, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    pop %rax
    push $0x10
    push %rax
    lretq

.globl load_empty_idt
load_empty_idt:
    lidt empty_pointer(%rip)
    ret

# From here on debug exceptions have a stack of their own, whose top a breakpoint watches, so that each delivery raises the
# next; then the first.
.globl watch_own_delivery
watch_own_delivery:
    lea debug_stack_top(%rip), %rdx
    lea tss(%rip), %rax
    mov %rdx, 36(%rax)                  # IST1
    lea tss_descriptor(%rip), %rdi      # in the low 4 GiB, as all of the program
    mov %ax, 2(%rdi)
    shr $16, %eax
    mov %al, 4(%rdi)
    mov %ah, 7(%rdi)
    mov $0x20, %eax
    ltr %ax
    movb $1, idt + 16 + 4(%rip)         # vector 1 uses IST1
    lea -8(%rdx), %rax                  # SS goes there
    mov %rax, %dr0
    mov $0x90402, %eax                  # DR0 on, writes, 8 bytes
    mov %rax, %dr7
    .byte 0xf1                          # INT1
    ret

# Interrupts on, and a stack where no memory is (RDI), while one string load (RSI) goes on for ever.
.globl lose_stack
lose_stack:
    mov %rdi, %rsp
    mov $-1, %rcx
    sti
    rep lodsb
    ud2

# 48 stubs: the processor pushes an error code for 8, 10-14, 17, 21, 29 and 30; the others push a zero.
.balign 16
stubs:
.set vector, 0
.rept 48
    .balign 16
    .if (vector != 8) && ((vector < 10) || (vector > 14)) && (vector != 17) && (vector != 21) && (vector != 29) && (vector != 30)
    push $0
    .endif
    push $vector
    jmp trap_common
    .set vector, vector + 1
.endr
.balign 16

trap_common:
    push %rax
    push %rcx
    push %rdx
    push %rsi
    push %rdi
    push %r8
    push %r9
    push %r10
    push %r11
    mov 72(%rsp), %rdi
    mov 80(%rsp), %rsi
    mov 88(%rsp), %rdx
    mov %rsp, %rax
    and $-16, %rsp
    push %rax
    push %rax
    call {trap}
    pop %rax
    mov %rax, %rsp
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rdi
    pop %rsi
    pop %rdx
    pop %rcx
    pop %rax
    add $16, %rsp
    iretq

.section .rodata
gdt_pointer:
    .short 47
    .quad gdt
idt_pointer:
    .short 48 * 16 - 1
    .quad idt
empty_pointer:
    .short 0
    .quad 0

# A flat map needs no code to make: it is loaded as it is. The last GiB, where devices are, is uncached.
.data
.balign 8
gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00af9b000000ffff, 0x00cf93000000ffff
tss_descriptor:
    .quad 0x0000890000000067, 0         # a 64-bit TSS; its base is filled in
.balign 4096
pml4: .quad pdpt + 0x3
    .skip 4088
pdpt: .quad page_directories + 0x3, page_directories + 0x1003, page_directories + 0x2003, page_directories + 0x3003
    .skip 4064
page_directories:
.set address, 0
.rept 1536
    .quad address + 0x83
    .set address, address + 0x200000
.endr
.rept 512
    .quad address + 0x9b
    .set address, address + 0x200000
.endr

.bss
.balign 4096
idt: .skip 48 * 16
.balign 16
tss: .skip 112
.skip 1024
debug_stack_top:
.skip 16384
stack_top:
.skip 16384
second_stack_top:
