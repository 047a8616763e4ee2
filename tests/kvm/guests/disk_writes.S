/* Writes eight pieces of a disk at once, each full of its own number, and reads them back. Prints "written"
 * and "read", or what went wrong, and powers off. */
#include "guest.inc"
#include "disk.inc"
#include "requests.inc"

.set REQUESTS, 8
.set SIZE, 65536
.set SPREAD, 2048                     /* sectors from one to the next */
.set DATA, 0x1000000

guest_main:
    xorl %edi, %edi
    call disk_start
    movw $1, available                /* no interrupts */

    movl $DATA, %edi
    movl $1, %eax                     /* piece i is full of i + 1 */
1:  movl $SIZE, %ecx
    rep stosb
    incl %eax
    cmpl $REQUESTS, %eax
    jbe 1b
    movl $OUT, %ebp
    call all_requests
    movq $written, %rsi
    call puts

    movl $DATA, %edi
    movl $REQUESTS * SIZE, %ecx
    xorl %eax, %eax
    rep stosb
    movl $IN, %ebp
    call all_requests
    movl $DATA, %edi
    movl $1, %eax
2:  movl $SIZE, %ecx
    repe scasb
    jne wrong_data
    incl %eax
    cmpl $REQUESTS, %eax
    jbe 2b
    movq $read, %rsi
    jmp puts

/* Offers every request, of the type in %ebp, and waits until each has come back once, with status 0. */
all_requests:
    xorl %ecx, %ecx                   /* the request's number */
1:  movl %ecx, %esi
    shll $4, %esi
    movl %ebp, headers(%rsi)
    movl $0, headers + 4(%rsi)
    movl %ecx, %eax
    imull $SPREAD, %eax
    movq %rax, headers + 8(%rsi)
    movb $0xff, statuses(%rcx)

    imull $48, %ecx, %edi             /* three descriptors each */
    addq $descriptors, %rdi
    imull $3, %ecx, %edx
    incl %edx
    leaq headers(%rsi), %rax          /* read by the device */
    movq %rax, (%rdi)
    movl $16, 8(%rdi)
    movw $NEXT, 12(%rdi)
    movw %dx, 14(%rdi)
    incl %edx
    imull $SIZE, %ecx, %eax           /* read or written */
    addl $DATA, %eax
    movq %rax, 16(%rdi)
    movl $SIZE, 24(%rdi)
    movw $NEXT, 28(%rdi)
    cmpl $OUT, %ebp
    je 2f
    movw $NEXT + WRITE, 28(%rdi)
2:  movw %dx, 30(%rdi)
    leaq statuses(%rcx), %rax         /* written */
    movq %rax, 32(%rdi)
    movl $1, 40(%rdi)
    movw $WRITE, 44(%rdi)

    movzwl available_index, %eax
    movl %eax, %esi
    andl $RING - 1, %esi
    decl %edx
    decl %edx
    movw %dx, available_ring(,%rsi,2)
    incw %ax
    movw %ax, available_index
    incl %ecx
    cmpl $REQUESTS, %ecx
    jb 1b

    movw $0, NOTIFY(%rbx)
    xorl %r9d, %r9d                   /* a bit for each that came back */
    movl $REQUESTS, %ecx
3:  movzwl taken, %eax
4:  pause
    cmpw %ax, used_index
    je 4b
    andl $RING - 1, %eax
    movl used_ring(,%rax,8), %edi
    movl %edi, %esi                   /* head = 3 * number: */
    imull $0xab, %esi
    shrl $9, %esi
    btsl %esi, %r9d
    jc came_twice
    cmpb $0, statuses(%rsi)
    jne wrong_status
    incw taken
    decl %ecx
    jnz 3b
    cmpl $(1 << REQUESTS) - 1, %r9d
    jne came_twice
    ret

wrong_data:
    movq $data_text, %rsi
    jmp complain

.section .rodata
written:   .asciz "written\n"
read:      .asciz "read\n"
data_text: .asciz "wrong data\n"

.bss
.balign 16
headers:  .skip 16 * REQUESTS
statuses: .skip REQUESTS
.balign 2
taken:    .skip 2                     /* of the used ring */
