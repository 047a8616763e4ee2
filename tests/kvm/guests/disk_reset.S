/* Resets a disk that holds 64 reads. Prints "offered" and waits for a byte; resets the device, and prints
 * "resetting" when it has polled the status a thousand times without seeing 0, "reset" when it reads 0, and
 * "quiet" if its memory has not changed a while later. */
#include "guest.inc"
#include "disk.inc"

.set REQUESTS, 64
.set SIZE, 512
.set DATA, 0x1000000
.set POLLS, 1000
.set WHILE, 20000

guest_main:
    xorl %edi, %edi
    call disk_start
    movl $DATA, %edi
    movl $REQUESTS * SIZE, %ecx
    movl $0x55, %eax
    rep stosb
    movl $descriptors, %edi
    xorl %ecx, %ecx
1:  leal 1(%rcx,%rcx,2), %edx         /* the second of the three descriptors of request %ecx */
    movq $header, (%rdi)
    movl $16, 8(%rdi)
    movw $NEXT, 12(%rdi)
    movw %dx, 14(%rdi)
    incl %edx
    movl %ecx, %eax
    imull $SIZE, %eax
    addl $DATA, %eax
    movq %rax, 16(%rdi)
    movl $SIZE, 24(%rdi)
    movw $NEXT + WRITE, 28(%rdi)
    movw %dx, 30(%rdi)
    leaq statuses(%rcx), %rax
    movq %rax, 32(%rdi)
    movl $1, 40(%rdi)
    movw $WRITE, 44(%rdi)
    movb $0xff, statuses(%rcx)
    decl %edx
    decl %edx
    movw %dx, available_ring(,%rcx,2)
    addl $48, %edi
    incl %ecx
    cmpl $REQUESTS, %ecx
    jb 1b
    movw $REQUESTS, available_index
    movw $0, NOTIFY(%rbx)
    movq $offered, %rsi
    call puts
    movw $COM1 + LINE_STATUS, %dx
2:  inb %dx, %al
    testb $1, %al                     /* a byte is there */
    jz 2b

    movb $0, STATUS(%rbx)
    xorl %ebp, %ebp
3:  incl %ebp
    cmpl $POLLS, %ebp
    jne 4f
    movq $resetting, %rsi
    call puts
4:  movw $0, NOTIFY(%rbx)             /* to no effect */
    cmpb $0, STATUS(%rbx)
    jne 3b
    call sum
    movq %rax, %r12
    movq $reset, %rsi
    call puts
    movl $WHILE, %ebp
5:  pause
    decl %ebp
    jnz 5b
    call sum
    cmpq %rax, %r12
    jne 6f
    cmpw $0, used_index
    jne 6f
    movq $quiet, %rsi
    jmp puts
6:  movq $changed, %rsi
    jmp puts

/* Something like a sum of all that the device was given to write, in %rax. */
sum:
    xorl %eax, %eax
    movl $DATA, %esi
    movl $REQUESTS * SIZE / 8, %ecx
1:  rolq $7, %rax
    addq (%rsi), %rax
    addl $8, %esi
    decl %ecx
    jnz 1b
    movl $used, %esi
    movl $2 + REQUESTS * 2, %ecx
2:  rolq $7, %rax
    movl (%rsi), %edx
    addq %rdx, %rax
    addl $4, %esi
    decl %ecx
    jnz 2b
    movl $statuses, %esi
    movl $REQUESTS / 8, %ecx
3:  rolq $7, %rax
    addq (%rsi), %rax
    addl $8, %esi
    decl %ecx
    jnz 3b
    ret

.section .rodata
offered:   .asciz "offered\n"
resetting: .asciz "resetting\n"
reset:     .asciz "reset\n"
quiet:     .asciz "quiet\n"
changed:   .asciz "memory has changed after the reset\n"

.data
.balign 16
header: .long IN, 0, 0, 0

.bss
.balign 8
statuses: .skip REQUESTS
