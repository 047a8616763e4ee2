/* Increments every page of a large area for ever: a load for live migration, and a witness of it.
 *
 * Each step adds one to the page's first and last 8 bytes, in order of address. So at any moment there is one
 * page such that all pages before it stand at n + 1 and all behind it at n; of itself the first word may be
 * one ahead of the last. A page that was copied late, early, or not at all breaks that, and after a migration
 * no page is lower than it was before.
 *
 * Runs at CPL 3, natively also where KVM interprets CPL 0. Every few milliseconds of TSC it writes a line,
 * eight hexadecimal digits of how many sweeps are done, to the debug port: the guest's heartbeat.
 *
 * The area begins at AREA and has as many MiB as the command line's last digit times eight. */
#include "guest.inc"

.set AREA, 0x1000000
.set PAGE_SHIFT, 12
.set PORT_HEARTBEAT, 0x402
.set BEAT_CYCLES, 1 << 25
.set USER, 4                          /* of a page table entry */
.set USER_CODE, 0x18 | 3
.set USER_DATA, 0x20 | 3
.set TASK, 0x28
.set TSS_SIZE, 0x68

guest_main:
    movb $0xff, %al                   /* nothing is to interrupt: both PICs and LINT0 are masked */
    outb %al, $0x21
    outb %al, $0xa1
    movl $0xfee00350, %ebx
    movl $0x10000, (%rbx)

    call last_argument
    subb $'0', %al
    movzbl %al, %eax
    shll $23 - PAGE_SHIFT, %eax       /* pages */
    movl %eax, pages

    orl $USER, pml4
    orl $USER, pdpt
    movl $512, %ecx
    movl $pd, %ebx
1:  orl $USER, (%rbx)
    addl $8, %ebx
    decl %ecx
    jnz 1b
    movq %cr3, %rax
    movq %rax, %cr3

    /* The only ports that CPL 3 may use: a zero in the bitmap behind the TSS, which ends with ones. */
    movl $tss, %eax
    movw $TSS_SIZE, tss + 0x66        /* where the bitmap begins */
    movw %ax, user_gdt_task + 2
    shrl $16, %eax
    movb %al, user_gdt_task + 4
    movb %ah, user_gdt_task + 7
    lgdt user_gdt_pointer
    movw $TASK, %ax
    ltr %ax

    movq $ready, %rsi
    call puts
    pushq $USER_DATA
    pushq $stack_top
    pushq $2                          /* flags: no interrupts */
    pushq $USER_CODE
    pushq $user_main
    iretq

user_main:
    xorl %r9d, %r9d                   /* sweeps */
    xorl %r10d, %r10d                 /* TSC of the last heartbeat */
sweep:
    movl $AREA, %ebx
    movl pages, %ecx
1:  incq (%rbx)
    incq 4088(%rbx)
    addq $4096, %rbx
    decl %ecx
    jnz 1b
    incl %r9d
    rdtsc
    shlq $32, %rdx
    orq %rdx, %rax
    movq %rax, %rcx
    subq %r10, %rcx
    cmpq $BEAT_CYCLES, %rcx
    jb sweep
    movq %rax, %r10
    movl %r9d, %r8d
    movl $8, %ecx
    movw $PORT_HEARTBEAT, %dx
2:  roll $4, %r8d
    movl %r8d, %eax
    andl $15, %eax
    movb digits(%rax), %al
    outb %al, %dx
    decl %ecx
    jnz 2b
    movb $'\n', %al
    outb %al, %dx
    jmp sweep

.section .rodata
ready:  .asciz "ready\n"
digits: .ascii "0123456789abcdef"

.data
.balign 8
user_gdt:
    .quad 0
    .quad 0x00af9b000000ffff          /* 64-bit code, CPL 0 */
    .quad 0x00cf93000000ffff          /* data, CPL 0 */
    .quad 0x00affb000000ffff          /* 64-bit code, CPL 3 */
    .quad 0x00cff3000000ffff          /* data, CPL 3 */
user_gdt_task:                        /* 64-bit TSS; its base is filled in */
    .quad 0x0000890000000000 | (tss_end - tss - 1)
    .quad 0
user_gdt_end:
user_gdt_pointer:
    .word user_gdt_end - user_gdt - 1
    .quad user_gdt
pages: .long 0

.balign 8
tss:
    .skip TSS_SIZE
    .fill PORT_HEARTBEAT / 8, 1, 0xff
    .byte 0xff & ~(1 << (PORT_HEARTBEAT % 8))
    .fill 3, 1, 0xff
tss_end:
