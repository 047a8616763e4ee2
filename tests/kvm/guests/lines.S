/* Prints 2,000 numbered lines as fast as it can, and powers off. */
#include "guest.inc"

.set LINES, 2000

guest_main:
    xorl %ebx, %ebx
1:  incl %ebx
    movq $line, %rsi
    call puts
    movl %ebx, %edi
    call put_number
    movq $newline, %rsi
    call puts
    cmpl $LINES, %ebx
    jb 1b
    ret

.section .rodata
line:    .asciz "line "
newline: .asciz "\n"
