/* Counts on a disk for ever, and says so: a witness of what a guest was told is flushed.
 *
 * Each step reads the SECTORS sectors at the disk's begin and compares them with what it has written there,
 * writes the next number n to sector n modulo SECTORS, and flushes. Only when the flush has come back it writes
 * n to the debug port, eight hexadecimal digits and a line's end. One request is under way at a time. So
 * wherever it is stopped, the highest number on the disk is the last one that it wrote to the port, or the
 * one behind that; and a write that comes late, of another instance of this guest too, is seen by the next
 * step, which says "stale" to the debug port and stops.
 *
 * Some MiB of its memory are not zero, so that a move of it takes more than a socket can hold. */
#include "guest.inc"
#include "disk.inc"

.set FLUSH_FEATURE, 1 << 9
.set FLUSH, 4
.set SECTORS, 8
.set SECTOR, 512
.set AREA, 0x1000000
.set AREA_PAGES, 2048

guest_main:
    movl $FLUSH_FEATURE, %edi
    call disk_start
    movw $1, available                /* no interrupts */
    movl $AREA, %edi
    movl $AREA_PAGES, %ecx
1:  movq %rdi, (%rdi)
    addq $4096, %rdi
    decl %ecx
    jnz 1b
    xorl %r12d, %r12d                 /* the number */

step:
    movl $IN, %ebp
    xorl %eax, %eax
    movl $seen, %esi
    movl $SECTORS * SECTOR, %ecx
    movl $NEXT + WRITE, %edi
    call request
    xorl %ecx, %ecx
1:  movl %ecx, %eax
    imull $SECTOR, %eax
    movq seen(%rax), %rax
    cmpq kept(, %rcx, 8), %rax
    jne stale
    incl %ecx
    cmpl $SECTORS, %ecx
    jb 1b

    incl %r12d
    movl %r12d, %eax
    andl $SECTORS - 1, %eax
    movq %r12, kept(, %rax, 8)
    movq %r12, next
    movl $OUT, %ebp
    movl $next, %esi
    movl $SECTOR, %ecx
    movl $NEXT, %edi
    call request

    movl $FLUSH, %ebp
    xorl %eax, %eax
    xorl %ecx, %ecx
    call request
    movl %r12d, %r8d
    call put_beat
    jmp step

/* Offers a request of the type in %ebp for sector %eax, and waits until it is done. Its data is %ecx bytes at
 * %esi, by a descriptor with the flags in %edi; with %ecx 0 it has none. Clobbers rax, rdx. */
request:
    movl %ebp, header
    movq %rax, header + 8
    movb $0xff, status
    movq $header, descriptors
    movl $16, descriptors + 8
    movw $NEXT, descriptors + 12
    movw $1, descriptors + 14
    movq %rsi, descriptors + 16
    movl %ecx, descriptors + 24
    movw %di, descriptors + 28
    movw $2, descriptors + 30
    movq $status, descriptors + 32
    movl $1, descriptors + 40
    movw $WRITE, descriptors + 44
    testl %ecx, %ecx
    jnz 1f
    movw $2, descriptors + 14
1:  movw available_index, %dx         /* the ring is all zeros: each entry is descriptor 0 */
    incw %dx
    movw %dx, available_index
    movw $0, NOTIFY(%rbx)
2:  pause
    cmpw %dx, used_index
    jne 2b
    cmpb $0, status
    jne bad_status
    ret

stale:
    movq $stale_text, %rsi
    jmp complain
bad_status:
    movq $status_text, %rsi
complain:
    movw $DEBUG_PORT, %dx
1:  lodsb
    testb %al, %al
    jz 2f
    outb %al, %dx
    jmp 1b
2:  hlt
    jmp 2b

.section .rodata
stale_text:  .asciz "stale\n"
status_text: .asciz "bad status\n"

.bss
.balign 4096
seen:   .skip SECTORS * SECTOR
next:   .skip SECTOR
kept:   .skip 8 * SECTORS
header: .skip 16
status: .skip 1
.text
