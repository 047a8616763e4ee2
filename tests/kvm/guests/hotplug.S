/* Handles PCI hot-plug by itself, as ACPI methods do, with reads of the disk under way: no interrupts, it
 * polls the general-purpose event. For each disk: prints "plug SLOT", keeps 16 reads under way until the
 * disk is asked for, then ejects it with reads under way and prints "eject SLOT". A byte on the serial
 * line ends it once it has nothing plugged; with "q" as the command line's last character it never
 * answers a request. */
#include "guest.inc"
#include "disk.inc"

.set GPE_STATUS, 0xafe0
.set GPE_ENABLE, 0xafe2
.set HOTPLUG, 2
.set UP, 0xae00
.set EJECT, 0xae08
.set BUS, 0xae10
.set ASKED, 0xae18
.set REQUESTS, 16
.set SIZE, 4096
.set DATA, 0x1000000

guest_main:
    call last_argument
    movb %al, argument
    movw $BUS, %dx
    xorl %eax, %eax
    outl %eax, %dx
    movw $GPE_ENABLE, %dx
    movw $HOTPLUG, %ax
    outw %ax, %dx
wait_for_disk:
    movq $ready, %rsi
    call puts
1:  movw $COM1 + LINE_STATUS, %dx
    inb %dx, %al
    testb $1, %al                     /* a byte is there: enough */
    jnz done
    call event
    jz 1b
    movw $UP, %dx
    inl %dx, %eax
    bsfl %eax, %edi
    jz 1b
    movl %edi, slot
    movq $plug, %rsi
    call put_slot
    movw $1, available                /* no interrupts */
    movw $0, available_index
    movw $0, used_index
    movw $0, taken
    call fill_descriptors
    xorl %edi, %edi
    call disk_start
    movl $REQUESTS, %ecx              /* all of them */
2:  call offer
    loop 2b
    movw $0, NOTIFY(%rbx)

3:  movzwl taken, %eax                /* what came back is made again */
    cmpw %ax, used_index
    je 4f
    andl $RING - 1, %eax
    movl used_ring(,%rax,8), %edx     /* the head: three times the number */
    imull $0xab, %edx
    shrl $9, %edx
    cmpb $0, statuses(%rdx)
    jne wrong_status
    movb $0xff, statuses(%rdx)
    incw taken
    call offer
    movw $0, NOTIFY(%rbx)
4:  call event
    jz 3b
    cmpb $'q', argument
    je 3b
    movw $ASKED, %dx
    inl %dx, %eax
    movl slot, %ecx
    btl %ecx, %eax
    jnc 3b

    movl $1, %eax                     /* with requests under way */
    shll %cl, %eax
    movw $EJECT, %dx
    outl %eax, %dx
    movq $ejected, %rsi
    call put_slot
    movl slot, %ecx                   /* until it has gone: its memory is not touched afterwards */
    shll $11, %ecx
    orl $0x80000000, %ecx
5:  pause
    movl %ecx, %eax
    movw $CONFIG_ADDRESS, %dx
    outl %eax, %dx
    movw $CONFIG_DATA, %dx
    inl %dx, %eax
    cmpl $-1, %eax
    jne 5b
    jmp wait_for_disk

done:
    movq $bye, %rsi
    jmp puts

/* ZF clear if the hot-plug event was raised; it is lowered then. Clobbers rax, rdx. */
event:
    movw $GPE_STATUS, %dx
    inw %dx, %ax
    testw $HOTPLUG, %ax
    jz 1f
    movw $HOTPLUG, %ax
    outw %ax, %dx
    testw %ax, %ax                    /* outw leaves the flags, this does not */
1:  ret

/* Prints %rsi, the slot, and the end of the line. */
put_slot:
    call puts
    movl slot, %edi
    call put_number
    movq $line_end, %rsi
    jmp puts

/* Three descriptors for each request: header, data, status. */
fill_descriptors:
    movl $descriptors, %edi
    xorl %ecx, %ecx
1:  leal 1(%rcx,%rcx,2), %edx
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
    addl $48, %edi
    incl %ecx
    cmpl $REQUESTS, %ecx
    jb 1b
    movl $0, next
    ret

/* Offers the request in %edx, or the next that was never offered. Clobbers rax, rdx, rdi. */
offer:
    movzwl available_index, %eax
    movl %eax, %edi
    andl $RING - 1, %edi
    cmpl $REQUESTS, next
    jae 1f
    movl next, %edx
    incl next
1:  imull $3, %edx, %edx
    movw %dx, available_ring(,%rdi,2)
    incw %ax
    movw %ax, available_index
    ret

wrong_status:
    movq $status_text, %rsi
    call puts
    jmp power_off

.section .rodata
ready:       .asciz "ready\n"
plug:        .asciz "plug "
ejected:     .asciz "eject "
line_end:    .asciz "\n"
bye:         .asciz "bye\n"
status_text: .asciz "wrong status\n"

.data
.balign 16
header: .long IN, 0, 0, 0

.bss
.balign 8
statuses: .skip REQUESTS
slot:     .skip 4
next:     .skip 4
taken:    .skip 2
argument: .skip 1
