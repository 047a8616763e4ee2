/* Prints a line on the first serial port and powers off. */
#include "guest.inc"

guest_main:
    movq $message, %rsi
    jmp puts

.section .rodata
message:
    .asciz "hello from a micro-guest\n"
