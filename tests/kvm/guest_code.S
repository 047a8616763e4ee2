/* Guest code for kvm_test: flat 64-bit, position-independent, a few instructions each. The tests copy it to
 * CODE and describe there what it does; numbers are shared through guest RAM at DATA. */
.set DATA, 0x8000
.set STACK, 0x7000
.set IDT, 0x6000
.set DOORBELL, 0x5000
.set DONE, 0x5010
.set SLOW, 0x5020
.set FAST, 0x5030
.set EJECT, 0x5040
.set VECTOR, 0x31
.set LOW_VECTOR, 0x21
.set IOAPIC_PIN, 5

.macro blob name
    .globl \name, \name\()_end
\name:
.endm

.macro write_and_sleep port
    movw $\port, %dx
    outl %eax, %dx
9:  cli
    hlt
    jmp 9b
.endm

.section .rodata
.code64

/* Rings the doorbell DATA[0] times, then writes DONE and sleeps. */
blob code_doorbells
    movl DATA, %ecx
    movw $DOORBELL, %dx
1:  outl %eax, %dx
    decl %ecx
    jnz 1b
    write_and_sleep DONE
code_doorbells_end:

/* Stores queue number 0 to the 16-bit doorbell at DATA[1], DATA[0] times, then writes DONE and sleeps. */
blob code_mmio_doorbells
    movl DATA, %ecx
    movl DATA + 4, %ebx
1:  movw $0, (%rbx)
    decl %ecx
    jnz 1b
    write_and_sleep DONE
code_mmio_doorbells_end:

.macro gate vector handler            /* [SDM vol. 3, 6.14.1 64-bit IDT gates] */
    leaq \handler(%rip), %rax
    movl $IDT + 16 * \vector, %edi
    movw %ax, (%rdi)
    movw $0x10, 2(%rdi)               /* the code segment that the vCPU starts with */
    movw $0x8e00, 4(%rdi)
    shrq $16, %rax
    movw %ax, 6(%rdi)
    shrq $16, %rax
    movl %eax, 8(%rdi)
    movl $0, 12(%rdi)
.endm

/* Answers each interrupt of VECTOR, and of the IOAPIC's pin, with a doorbell, for ever. LOW_VECTOR, which comes
 * when none of them is left, is answered with DONE. */
blob code_interrupts
    movl $STACK, %esp
    gate VECTOR, handler
    gate LOW_VECTOR, low_handler
    subl $10, %esp
    movw $0xfff, (%rsp)
    movq $IDT, 2(%rsp)
    lidt (%rsp)
    movl $STACK, %esp
    movl $0xfee000f0, %ebx            /* spurious vector register: APIC on */
    movl $0x1ff, (%rbx)
    movl $0xfee00350, %ebx            /* LVT LINT0: masked, so that the PIC stays out of it */
    movl $0x10000, (%rbx)
    movl $0xfec00000, %ebx            /* IOAPIC: edge, this CPU */
    movl $0x10 + 2 * IOAPIC_PIN + 1, (%rbx)
    movl $0, 0x10(%rbx)
    movl $0x10 + 2 * IOAPIC_PIN, (%rbx)
    movl $VECTOR, 0x10(%rbx)
    movw $DONE, %dx                   /* ready */
    outl %eax, %dx
1:  sti
    hlt
    jmp 1b
handler:
    incl DATA
    movw $DOORBELL, %dx
    outl %eax, %dx
    movl $0xfee000b0, %ebx            /* EOI */
    movl $0, (%rbx)
    iretq
low_handler:
    movw $DONE, %dx
    outl %eax, %dx
    movl $0xfee000b0, %ebx
    movl $0, (%rbx)
    iretq
code_interrupts_end:

/* Counts up DATA[0] for ever: a guest that never leaves by itself. */
blob code_spin
1:  incl DATA
    jmp 1b
code_spin_end:

/* Reads a port whose handler wants the BQL, once, then writes DONE. */
blob code_slow_read
    movw $SLOW, %dx
    inl %dx, %eax
    write_and_sleep DONE
code_slow_read_end:

/* Reads a lock-free port DATA[1] times, then rings the doorbell. */
blob code_fast_reads
    movl DATA + 4, %ecx
    movw $FAST, %dx
1:  inl %dx, %eax
    decl %ecx
    jnz 1b
    write_and_sleep DOORBELL
code_fast_reads_end:

/* Writes the eject port, then DONE. */
blob code_eject
    movw $EJECT, %dx
    movl $4, %eax
    outl %eax, %dx
    write_and_sleep DONE
code_eject_end:

/* On each change of DATA[0], which begins as 0, adds one to the word at DATA[1] and reports that on FAST. Only that page is written. */
blob code_write_on_command
    xorl %ecx, %ecx
    movw $FAST, %dx
1:  movl DATA, %eax
    cmpl %ecx, %eax
    je 1b
    movl %eax, %ecx
    movl DATA + 4, %ebx
    incl (%rbx)
    outl %eax, %dx
    jmp 1b
code_write_on_command_end:

/* Adds one to the first word of each of DATA[0] pages from DATA[1] on. Slowly: some kinds of KVM interpret a
 * thousand instructions before they look whether the dirty ring is full, and it has room for 64 pages then. */
.macro sweep
    movl DATA + 4, %ebx
    movl DATA, %ecx
2:  incl (%rbx)
    movl $20, %edx
3:  decl %edx
    jnz 3b
    addl $0x1000, %ebx
    decl %ecx
    jnz 2b
.endm

/* Sweeps for ever. */
blob code_sweep
1:  sweep
    jmp 1b
code_sweep_end:

/* Sweeps once, then writes DONE. */
blob code_sweep_once
    sweep
    write_and_sleep DONE
code_sweep_once_end:

    .section .note.GNU-stack, "", @progbits
