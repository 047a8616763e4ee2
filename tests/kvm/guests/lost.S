/* Jumps to an address that no memory backs: KVM can not go on. */
#include "guest.inc"

guest_main:
    movq $going, %rsi
    call puts
    movl $0xd0000000, %eax
    jmp *%rax

.section .rodata
going: .asciz "going nowhere\n"
