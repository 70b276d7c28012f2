# Entry by Linux's 64-bit boot protocol: long mode, paging on, interrupts off, RSI = boot parameters.
# Builds a flat map of 4 GiB (2 MiB pages), a GDT and an IDT of 48 vectors.

.section .text.entry, "ax"
.globl entry
entry:
    cli
    cld
    lea stack_top(%rip), %rsp
    push %rsi

    # PDs: 2048 entries of 2 MiB, present, writable, large.
    lea page_directories(%rip), %rdi
    mov $0x83, %rax
    mov $2048, %rcx
1:  mov %rax, (%rdi)
    add $0x200000, %rax
    add $8, %rdi
    loop 1b
    lea pdpt(%rip), %rdi
    lea page_directories+3(%rip), %rax
    mov $4, %rcx
2:  mov %rax, (%rdi)
    add $0x1000, %rax
    add $8, %rdi
    loop 2b
    lea pdpt+3(%rip), %rax
    mov %rax, pml4(%rip)

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
.balign 8
gdt:
    .quad 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
    .short 31
    .quad gdt
idt_pointer:
    .short 48 * 16 - 1
    .quad idt
empty_pointer:
    .short 0
    .quad 0

.bss
.balign 4096
pml4: .skip 4096
pdpt: .skip 4096
page_directories: .skip 16384
idt: .skip 48 * 16
.balign 16
.skip 16384
stack_top:
