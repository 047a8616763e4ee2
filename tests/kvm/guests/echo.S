/* Says "ready", then sends each byte it receives on the first serial port back, and to the second port
 * too; powers off at 'q'. */
#include "guest.inc"

.set COM2, 0x2f8

guest_main:
    movq $ready, %rsi
    call puts
1:  movw $COM1 + LINE_STATUS, %dx
    inb %dx, %al
    testb $1, %al
    jz 1b
    movw $COM1, %dx
    inb %dx, %al
    outb %al, %dx
    movw $COM2, %dx
    outb %al, %dx
    cmpb $'q', %al
    jne 1b
    ret

.section .rodata
ready: .asciz "ready\n"
