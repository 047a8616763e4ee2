/* Hammers ports and MMIO: the PM timer never runs backwards, what nobody decodes reads as all ones, and
 * writes to it go nowhere. Prints "storm ok" or what went wrong. */
#include "guest.inc"

.set ROUNDS, 2000
.set PM_TIMER, 0x608
.set NOWHERE_PORT, 0x5000
.set NOWHERE_MEMORY, 0xd0000000

guest_main:
    movl $ROUNDS, %ebx
    xorl %ebp, %ebp                   /* the timer's last value */
1:  movw $PM_TIMER, %dx
    inl %dx, %eax
    movl %eax, %ecx
    subl %ebp, %ecx
    andl $0xffffff, %ecx              /* 24 bits that wrap */
    cmpl $0x800000, %ecx
    jae bad_timer
    movl %eax, %ebp

    movw $NOWHERE_PORT, %dx
    xorl %eax, %eax
    inl %dx, %eax
    cmpl $0xffffffff, %eax
    jne bad_port
    outl %eax, %dx
    inw %dx, %ax
    inb %dx, %al
    outb %al, %dx

    movl $NOWHERE_MEMORY, %esi
    movq (%rsi), %rax
    cmpq $-1, %rax
    jne bad_memory
    movq %rax, (%rsi)
    movw 2(%rsi), %ax
    movb %al, 5(%rsi)
    decl %ebx
    jnz 1b
    movq $good, %rsi
    jmp puts
bad_timer:
    movq $timer, %rsi
    jmp puts
bad_port:
    movq $port, %rsi
    jmp puts
bad_memory:
    movq $memory, %rsi
    jmp puts

.section .rodata
good:   .asciz "storm ok\n"
timer:  .asciz "the PM timer ran backwards\n"
port:   .asciz "an unassigned port did not read as ones\n"
memory: .asciz "unassigned memory did not read as ones\n"
