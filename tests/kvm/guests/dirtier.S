/* Increments every page of a large area for ever: a load for live migration, and a witness of it.
 *
 * Each step adds one to the page's first and last 8 bytes, in order of address. So at any moment there is one
 * page such that all pages before it stand at n + 1 and all behind it at n; of itself the first word may be
 * one ahead of the last. A page that was copied late, early, or not at all breaks that, and after a migration
 * no page is lower than it was before.
 *
 * Runs at CPL 3, natively also where KVM interprets CPL 0. Every few milliseconds of TSC it writes a line,
 * eight hexadecimal digits of how many sweeps are done, to the debug port: the guest's heartbeat.
 *
 * The area begins at AREA and has as many MiB as the command line's last digit times eight. */
#include "guest.inc"
#include "user.inc"

.set AREA, 0x1000000
.set PAGE_SHIFT, 12
.set BEAT_CYCLES, 1 << 25

guest_main:
    call last_argument
    subb $'0', %al
    movzbl %al, %eax
    shll $23 - PAGE_SHIFT, %eax       /* pages */
    movl %eax, pages
    jmp to_user

user_main:
    xorl %r9d, %r9d                   /* sweeps */
    xorl %r10d, %r10d                 /* TSC of the last heartbeat */
sweep:
    movl $AREA, %ebx
    movl pages, %ecx
1:  incq (%rbx)
    incq 4088(%rbx)
    addq $4096, %rbx
    decl %ecx
    jnz 1b
    incl %r9d
    rdtsc
    shlq $32, %rdx
    orq %rdx, %rax
    movq %rax, %rcx
    subq %r10, %rcx
    cmpq $BEAT_CYCLES, %rcx
    jb sweep
    movq %rax, %r10
    movl %r9d, %r8d
    call put_beat
    jmp sweep

.data
pages: .long 0
