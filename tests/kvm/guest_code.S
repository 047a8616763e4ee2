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

/* What the guests below share. DATA[2] is the test's wish, DATA[3] what went wrong. */
.set SECONDARY, 0x20000
.set FXSAVE_IN, 0x21000
.set FXSAVE_OUT, 0x21400
.set TICKS, DATA + 16
.set APIC, 0xfee00000
.set MMIO, 0xd0000000

.macro set_up_interrupts
    movl $STACK, %esp
    subl $10, %esp
    movw $0xfff, (%rsp)
    movq $IDT, 2(%rsp)
    lidt (%rsp)
    movl $STACK, %esp
    movl $APIC + 0xf0, %ebx           /* spurious vector register: APIC on */
    movl $0x1ff, (%rbx)
    movl $APIC + 0x350, %ebx          /* LVT LINT0: masked */
    movl $0x10000, (%rbx)
.endm

.macro end_of_interrupt
    movl $APIC + 0xb0, %ebx
    movl $0, (%rbx)
.endm

/* Counts in nine registers, on the stack and in memory at TICKS, compares all of them in each round, and
 * marks DATA[3] if two differ. Until DATA[2] is set; then writes DONE. */
blob code_count
    movl $STACK, %esp
    xorl %eax, %eax
    movq %rax, %rcx
    movq %rax, %rsi
    movq %rax, %r8
    movq %rax, %r9
    movq %rax, %r15
    movq %rax, %rbp
    movq %rax, TICKS
    pushq %rax
1:  incq %rax
    incq %rcx
    addq $3, %rsi
    decq %r8
    incq %r9
    addq $5, %r15
    incq %rbp
    incq (%rsp)
    incq TICKS
    cmpq %rax, %rcx
    jne 8f
    leaq (%rax,%rax,2), %rdi
    cmpq %rdi, %rsi
    jne 8f
    movq %r8, %rdi
    negq %rdi
    cmpq %rax, %rdi
    jne 8f
    cmpq %rax, %r9
    jne 8f
    leaq (%rax,%rax,4), %rdi
    cmpq %rdi, %r15
    jne 8f
    cmpq %rax, %rbp
    jne 8f
    cmpq %rax, (%rsp)
    jne 8f
    cmpq %rax, TICKS
    jne 8f
    cmpl $0, DATA + 8
    je 1b
    jmp 7f
8:  movl $1, DATA + 12
7:  write_and_sleep DONE
code_count_end:

/* Loads the x87 and SSE registers from FXSAVE_IN, spins until DATA[2] is set, stores them to FXSAVE_OUT. */
blob code_vectors
    movq %cr4, %rax
    orq $0x600, %rax                  /* OSFXSR, OSXMMEXCPT */
    movq %rax, %cr4
    fxrstor64 FXSAVE_IN
    movw $DONE, %dx                   /* loaded */
    outl %eax, %dx
1:  incq TICKS
    cmpl $0, DATA + 8
    je 1b
    fxsave64 FXSAVE_OUT
    write_and_sleep DONE
code_vectors_end:

/* With interrupts off, sends VECTOR to itself and says DONE; takes it when DATA[2] is set: TICKS counts, DONE. */
blob code_latched
    gate VECTOR, latched_handler
    set_up_interrupts
    movl $APIC + 0x300, %ebx
    movl $0x40000 + VECTOR, (%rbx)    /* to self */
    movw $DONE, %dx
    outl %eax, %dx
1:  cmpl $0, DATA + 8
    je 1b
2:  sti
    hlt
    jmp 2b
latched_handler:
    incl TICKS
    end_of_interrupt
    movw $DONE, %dx
    outl %eax, %dx
    iretq
code_latched_end:

/* Sleeps until its one-shot APIC timer fires, counts TICKS, tells DOORBELL, starts it again, for ever. If one
 * interrupt is lost there is never another. */
blob code_timer
    gate VECTOR, timer_handler
    set_up_interrupts
    movl $APIC + 0x3e0, %ebx
    movl $0xb, (%rbx)                 /* divide by one: nanoseconds in KVM */
    movl $APIC + 0x320, %ebx
    movl $VECTOR, (%rbx)              /* one-shot */
    movl $APIC + 0x380, %ebx
    movl $2000000, (%rbx)
1:  sti
    hlt
    jmp 1b
timer_handler:
    incl TICKS
    movw $DOORBELL, %dx
    outl %eax, %dx
    end_of_interrupt
    movl $APIC + 0x380, %ebx
    movl $2000000, (%rbx)
    iretq
code_timer_end:

/* Has the PIT interrupt 200 times a second through the IOAPIC's pin 2, counts TICKS and tells DOORBELL. */
blob code_pit
    gate VECTOR, pit_handler
    set_up_interrupts
    movb $0xff, %al                   /* the PICs stay out of it */
    outb %al, $0x21
    outb %al, $0xa1
    movl $0xfec00000, %ebx
    movl $0x10 + 2 * 2 + 1, (%rbx)
    movl $0, 0x10(%rbx)
    movl $0x10 + 2 * 2, (%rbx)
    movl $VECTOR, 0x10(%rbx)
    movb $0x34, %al                   /* channel 0, both bytes, mode 2 */
    outb %al, $0x43
    movb $0x4e, %al                   /* 1193182 / 200 = 0x174e */
    outb %al, $0x40
    movb $0x17, %al
    outb %al, $0x40
1:  sti
    hlt
    jmp 1b
pit_handler:
    incl TICKS
    movw $DOORBELL, %dx
    outl %eax, %dx
    end_of_interrupt
    iretq
code_pit_end:

/* Sends INIT to the other CPU, says DONE; when DATA[2] is set the start-up message, and waits until that CPU has
 * written 0x5150 to TICKS; DONE. */
blob code_start_secondary
    movl $SECONDARY, %edi
    leaq secondary(%rip), %rsi
    movl $secondary_end - secondary, %ecx
    cld
    rep movsb
    movl $APIC + 0xf0, %ebx
    movl $0x1ff, (%rbx)
    movl $APIC + 0x300, %ebx
    movl $0xc4500, (%rbx)             /* INIT, all others */
    movw $DONE, %dx
    outl %eax, %dx
1:  cmpl $0, DATA + 8
    je 1b
    movl $0xc4600 + (SECONDARY >> 12), (%rbx)  /* start-up, all others */
2:  cmpw $0x5150, TICKS
    jne 2b
    write_and_sleep DONE
.code16
secondary:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw $0x5150, TICKS
3:  hlt
    jmp 3b
secondary_end:
.code64
code_start_secondary_end:

/* Adds what it reads from SLOW to TICKS, adds one to the word at MMIO, and counts in DATA[8], DATA[0] times; then
 * writes DONE. */
blob code_io
    movl DATA, %ecx
    movl $MMIO, %ebx
    movl $0, DATA + 32
1:  movw $SLOW, %dx
    inl %dx, %eax
    addq %rax, TICKS
    addl $1, (%rbx)
    incl DATA + 32
    decl %ecx
    jnz 1b
    write_and_sleep DONE
code_io_end:

/* Reads the TSC and kvmclock for ever. TICKS counts, DATA[10] and DATA[12] keep the largest step back of each
 * (64 bits), DATA[14] the last kvmclock. The clock's page is at PVCLOCK.
 * [KVM: Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW] */
.set PVCLOCK, 0x22000
.macro keep_step_back now last worst
    movq \last, %rdi
    subq \now, %rdi
    jle 9f
    cmpq \worst, %rdi
    jle 9f
    movq %rdi, \worst
9:
.endm
blob code_clock
    movl $0x4b564d01, %ecx
    movl $PVCLOCK + 1, %eax
    xorl %edx, %edx
    wrmsr
    xorl %r8d, %r8d                   /* the last TSC */
    xorl %r9d, %r9d                   /* the last kvmclock */
1:  rdtsc
    shlq $32, %rdx
    orq %rdx, %rax
    keep_step_back %rax %r8 DATA+40
    movq %rax, %r8
2:  movl PVCLOCK, %esi
    testl $1, %esi
    jnz 2b
    rdtsc
    shlq $32, %rdx
    orq %rdx, %rax
    subq PVCLOCK + 8, %rax
    movsbl PVCLOCK + 28, %ecx         /* the shift: left if positive */
    testl %ecx, %ecx
    js 3f
    shlq %cl, %rax
    jmp 4f
3:  negl %ecx
    shrq %cl, %rax
4:  movl PVCLOCK + 24, %edx
    mulq %rdx
    shrdq $32, %rdx, %rax
    addq PVCLOCK + 16, %rax
    cmpl PVCLOCK, %esi
    jne 2b
    keep_step_back %rax %r9 DATA+48
    movq %rax, %r9
    movq %rax, DATA + 56
    incl TICKS
    jmp 1b
code_clock_end:

    .section .note.GNU-stack, "", @progbits
