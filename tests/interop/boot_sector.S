# A machine's whole software, for a disk that something happens to: it writes sector after sector, each with its number in
# it, says "." on the serial line when the disk has one, and ends QEMU with code 1 after the last one, with 3 if one failed.

        .code16
        .globl  start

        FIRST = 2048
        BUFFER = 0x8000

start:  cli
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $0x7c00, %sp
        sti
        cld
        movb    %dl, drive

next:   movl    number, %eax
        movw    $BUFFER, %di
        movw    $128, %cx
        rep     stosl
        movb    drive, %dl
        movw    $packet, %si
        movw    $0x4300, %ax
        int     $0x13
        jc      failed
        movw    $0x3f8, %dx
        movb    $'.', %al
        outb    %al, %dx
        incl    sector
        incl    number
        cmpl    $COUNT, number
        jb      next
        xorw    %ax, %ax
        jmp     exit
failed: movw    $1, %ax
exit:   movw    $0x501, %dx
        outw    %ax, %dx
halt:   hlt
        jmp     halt

drive:  .byte   0
number: .long   0
        .balign 4
packet: .word   16, 1, BUFFER, 0
sector: .long   FIRST, 0

        .org    start + 510
        .word   0xaa55
