/* Prints "tick N" about twenty times a second of PM timer, until the power button is pressed. */
#include "guest.inc"

.set PM1_STATUS, 0x600
.set PM1_ENABLE, 0x602
.set POWER_BUTTON, 0x100
.set PM_TIMER, 0x608
.set TICK, 3579545 / 20

guest_main:
    movw $PM1_ENABLE, %dx
    movw $POWER_BUTTON, %ax
    outw %ax, %dx
    xorl %ebx, %ebx
1:  movq $tick, %rsi
    call puts
    incl %ebx
    movl %ebx, %edi
    call put_number
    movq $newline, %rsi
    call puts
    movw $PM_TIMER, %dx
    inl %dx, %eax
    movl %eax, %ebp
2:  movw $PM1_STATUS, %dx
    inw %dx, %ax
    testw $POWER_BUTTON, %ax
    jnz 3f
    movw $PM_TIMER, %dx
    inl %dx, %eax
    subl %ebp, %eax
    andl $0xffffff, %eax
    cmpl $TICK, %eax
    jb 2b
    jmp 1b
3:  movw $PM1_STATUS, %dx             /* write 1 to clear */
    movw $POWER_BUTTON, %ax
    outw %ax, %dx
    movq $button, %rsi
    jmp puts

.section .rodata
tick:    .asciz "tick "
newline: .asciz "\n"
button:  .asciz "power button\n"
