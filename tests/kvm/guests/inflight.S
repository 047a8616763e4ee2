/* Keeps eight writes under way on a disk, for ever, each to come back once.
 *
 * Request i writes to sectors 8 * i to 8 * i + 7 in turn, each full of a number that tells which write it was:
 * 8 * n + i + 1 is the nth of request i. When it has come back, it goes out again. A line for each 64 that came
 * back, or one that says what went wrong, and the end. support/inflight.py reads what is at RECORD. */
#include "guest.inc"
#include "disk.inc"
#include "requests.inc"

.set REQUESTS, 8
.set SECTOR, 512
.set SECTORS, 8                       /* of each request */
.set LINE, 64                         /* completions */
.set DATA, 0x1010000
.set RECORD, 0x1000000
.set COMPLETED, 0                     /* 8 bytes each */
.set RUNG, 8                          /* the device was told of the first ones */
.set AVAILABLE_AT, 16                 /* address of the available ring's index */
.set USED_AT, 24
.set WRITES, 64                       /* of each request, that came back */

guest_main:
    xorl %edi, %edi
    call disk_start
    movw $1, available                /* no interrupts */
    movl $RECORD, %ebp
    movq $available_index, AVAILABLE_AT(%rbp)
    movq $used_index, USED_AT(%rbp)
    xorl %r12d, %r12d
1:  call offer
    incl %r12d
    cmpl $REQUESTS, %r12d
    jb 1b
    movw $0, NOTIFY(%rbx)
    movq $1, RUNG(%rbp)

    xorl %r13d, %r13d                 /* taken of the used ring */
wait:
    pause
    cmpw %r13w, used_index
    je wait
    movl %r13d, %eax
    andl $RING - 1, %eax
    movl used_ring(,%rax,8), %eax
    xorl %edx, %edx                   /* head = 3 * request */
    movl $3, %ecx
    divl %ecx
    movl %eax, %r12d
    testl %edx, %edx
    jnz came_twice
    cmpl $REQUESTS, %r12d
    jae came_twice
    cmpb $1, under_way(%r12)
    jne came_twice
    cmpb $0, statuses(%r12)
    jne wrong_status
    movb $0, under_way(%r12)
    incl %r13d
    incq WRITES(%rbp,%r12,8)
    incq COMPLETED(%rbp)
    call offer
    movw $0, NOTIFY(%rbx)
    testb $LINE - 1, COMPLETED(%rbp)
    jnz wait
    movq $line, %rsi
    call puts
    jmp wait

/* Makes request %r12 available for its next write. */
offer:
    movb $1, under_way(%r12)
    movb $0xff, statuses(%r12)
    movq WRITES(%rbp,%r12,8), %rax
    leaq 1(%r12,%rax,8), %r8          /* what it writes */
    andl $SECTORS - 1, %eax
    leaq (%rax,%r12,8), %rax
    movl %r12d, %esi
    shll $4, %esi
    movl $OUT, headers(%rsi)
    movl $0, headers + 4(%rsi)
    movq %rax, headers + 8(%rsi)
    movl %r12d, %edi
    shll $9, %edi
    addl $DATA, %edi
    movq %rdi, %rdx
    movq %r8, %rax
    movl $SECTOR / 8, %ecx
    rep stosq

    imull $48, %r12d, %edi            /* three descriptors */
    addq $descriptors, %rdi
    imull $3, %r12d, %ecx
    leaq headers(%rsi), %rax
    movq %rax, (%rdi)
    movl $16, 8(%rdi)
    movw $NEXT, 12(%rdi)
    leal 1(%rcx), %eax
    movw %ax, 14(%rdi)
    movq %rdx, 16(%rdi)
    movl $SECTOR, 24(%rdi)
    movw $NEXT, 28(%rdi)
    incl %eax
    movw %ax, 30(%rdi)
    leaq statuses(%r12), %rax
    movq %rax, 32(%rdi)
    movl $1, 40(%rdi)
    movw $WRITE, 44(%rdi)

    movzwl available_index, %eax
    movl %eax, %edx
    andl $RING - 1, %edx
    movw %cx, available_ring(,%rdx,2)
    incl %eax
    movw %ax, available_index
    ret

.section .rodata
line: .asciz "written\n"

.bss
.balign 16
headers:   .skip 16 * REQUESTS
statuses:  .skip REQUESTS
under_way: .skip REQUESTS
