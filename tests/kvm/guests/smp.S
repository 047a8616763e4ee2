/* Starts the other CPUs (how many: the command line's last digit, all CPUs counted), counts them, then
 * runs one of them in lock-step with this one: both write one word in turn. That ends only if the two
 * run at the same time or are switched fairly.
 * [SDM vol. 3, 9.4.4 MP initialisation, 11.6.1 interrupt command register] */
#include "guest.inc"

.set APIC_ICR, 0xfee00300
.set INIT_ALL_OTHERS, 0xc4500
.set STARTUP_ALL_OTHERS, 0xc4600
.set TRAMPOLINE, 0x8000
.set ROUNDS, 1000

guest_main:
    call last_argument
    subb $'1', %al                    /* the others */
    movzbl %al, %eax
    movl %eax, expected
    testl %eax, %eax
    jz report

    movl $TRAMPOLINE, %edi
    movl $ap_start, %esi
    movl $ap_end - ap_start, %ecx
    rep movsb
    movl $APIC_ICR, %ebx
    movl $INIT_ALL_OTHERS, (%rbx)
    call settle
    movl $STARTUP_ALL_OTHERS | (TRAMPOLINE >> 12), (%rbx)
1:  pause
    movl arrived, %eax
    cmpl expected, %eax
    jne 1b

    /* lock-step: this CPU makes even numbers odd, the first AP odd numbers even */
    movl $ROUNDS, %ecx
2:  movl turn, %eax
    testl $1, %eax
    pause
    jnz 2b
    incl turn
    decl %ecx
    jnz 2b
3:  pause
    cmpl $2 * ROUNDS, turn
    jne 3b
report:
    movq $cpus, %rsi
    call puts
    movl arrived, %edi
    incl %edi
    call put_number
    movq $lockstep, %rsi
    call puts
    movl turn, %edi
    call put_number
    movq $newline, %rsi
    jmp puts

/* The specification asks for a pause between INIT and the start-up message. */
settle:
    movl $2000, %ecx
1:  pause
    decl %ecx
    jnz 1b
    ret

ap_long:
    movl $1, %eax
    lock xaddl %eax, arrived
    testl %eax, %eax
    jnz 5f                            /* only the first to arrive takes part */
    movl $ROUNDS, %ecx
4:  movl turn, %eax
    testl $1, %eax
    pause
    jz 4b
    incl turn
    decl %ecx
    jnz 4b
5:  cli
    hlt
    jmp 5b

/* Copied to TRAMPOLINE and entered in real mode. */
.code16
ap_start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl ap_gdt_pointer - ap_start + TRAMPOLINE
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $0x18, $ap_protected
.balign 4
ap_gdt_pointer:
    .word ap_gdt_end - ap_gdt - 1
    .long ap_gdt
ap_end:

.code32
ap_protected:
    movl $0x10, %eax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    /* no stack: the call's return address goes where nobody else looks */
1:  lock btsl $0, stack_lock
    jc 1b
    movl $ap_stack_top, %esp
    call enter_long_mode_tables
    movl $0, stack_lock
    ljmp $0x08, $ap_long

.data
.balign 8
ap_gdt:
    .quad 0
    .quad 0x00af9b000000ffff          /* 64-bit code */
    .quad 0x00cf93000000ffff          /* data */
    .quad 0x00cf9b000000ffff          /* 32-bit code */
ap_gdt_end:
arrived:  .long 0
expected: .long 0
turn:     .long 0
stack_lock: .long 0
    .skip 64
ap_stack_top:
cpus:     .asciz "cpus="
lockstep: .asciz " turns="
newline:  .asciz "\n"
