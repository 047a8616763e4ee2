/* Steps for ever, and keeps book of its own pauses: what a migration costs, as its guest sees it.
 *
 * A step adds one to each of 64 pages and reads the TSC. If that is far ahead of the step before it, or behind it,
 * the guest was kept from running: (steps until then, TSC before, TSC after) goes into a ring. So whoever knows at
 * which step a machine was stopped finds in the ring for how long that was, whatever else the host did to it.
 *
 * Runs at CPL 3, natively also where KVM interprets CPL 0. Every few milliseconds of TSC it writes a line, which
 * is empty, to the debug port, and reads it four times as often: who keeps the VMM from answering stops the guest.
 * support/pace.py reads what is at RECORD. */
#include "guest.inc"
#include "user.inc"

.set RECORD, 0x1000000
.set STEPS, 0                         /* 8 bytes each */
.set LATEST, 8                        /* TSC of the latest step */
.set BACKWARD, 16                     /* steps whose TSC was behind that of the one before */
.set PAUSES, 24                       /* written to the ring so far */
.set RING, RECORD + 0x1000
.set RING_ENTRIES, 4096               /* of 32 bytes */
.set WORK, RECORD + 0x100000
.set WORK_PAGES, 64
.set PAUSE_CYCLES, 1 << 26
.set ASK_CYCLES, 1 << 22
.set ASKED_PER_BEAT, 4

guest_main:
    jmp to_user

user_main:
    movl $RECORD, %ebp
    xorl %r9d, %r9d                   /* steps */
    xorl %r11d, %r11d                 /* how often it has asked */
    xorl %r12d, %r12d                 /* TSC when it did */
    call read_tsc
    movq %rax, %r10                   /* TSC of the step before */
step:
    movl $WORK, %ebx
    movl $WORK_PAGES, %ecx
1:  incq (%rbx)
    addq $4096, %rbx
    decl %ecx
    jnz 1b
    call read_tsc
    movq %rax, %rcx
    subq %r10, %rcx
    jae 2f
    incq BACKWARD(%rbp)
2:  cmpq $PAUSE_CYCLES, %rcx          /* backward is far ahead */
    jae paused
3:  movq %rax, %r10
    movq %rax, LATEST(%rbp)
    incq %r9
    movq %r9, STEPS(%rbp)
    subq %r12, %rax
    cmpq $ASK_CYCLES, %rax
    jb step
    movq %r10, %r12
    movw $DEBUG_PORT, %dx
    inb %dx, %al
    incl %r11d
    testb $ASKED_PER_BEAT - 1, %r11b
    jnz step
    movb $'\n', %al
    outb %al, %dx
    jmp step

paused:
    movq PAUSES(%rbp), %rdx
    andl $RING_ENTRIES - 1, %edx
    shll $5, %edx
    movq %r9, RING(%rdx)
    movq %r10, RING + 8(%rdx)
    movq %rax, RING + 16(%rdx)
    incq PAUSES(%rbp)
    jmp 3b

/* Returns it in %rax. Clobbers rdx. */
read_tsc:
    rdtsc
    shlq $32, %rdx
    orq %rdx, %rax
    ret
