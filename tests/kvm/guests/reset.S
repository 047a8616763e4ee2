/* Resets itself in every way there is, once each, counting boots in RAM (which a reset keeps), then
 * powers off. */
#include "guest.inc"

.set COUNTER, 0x200000

guest_main:
    movq $boot, %rsi
    call puts
    incl COUNTER
    movl COUNTER, %edi
    movl %edi, %ebx
    call put_number
    movq $newline, %rsi
    call puts
    cmpl $1, %ebx
    je by_cf9
    cmpl $2, %ebx
    je by_keyboard
    cmpl $3, %ebx
    je by_port92
    cmpl $4, %ebx
    je by_triple_fault
    ret

by_cf9:
    movw $0xcf9, %dx
    movb $0x06, %al
    outb %al, %dx
    jmp stuck
by_keyboard:
    movb $0xfe, %al
    outb %al, $0x64
    jmp stuck
by_port92:
    movb $0x01, %al
    outb %al, $0x92
    jmp stuck
by_triple_fault:
    lidt no_idt
    ud2
stuck:                                /* what asked for the reset must not run on */
    movq $still_here, %rsi
    call puts
    ret

.section .rodata
boot:       .asciz "boot "
newline:    .asciz "\n"
still_here: .asciz "still here\n"
no_idt:     .word 0
            .quad 0
