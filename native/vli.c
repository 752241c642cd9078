/* The run-length code of P_COMPRESSED_BITMAP: runs of equal bits, polarity alternating, each run's length in a code of
 * 2 to 64 bits, least significant bit first. A code word is (length - base) << prefix_bits | prefix.
 */

#include "internal.h"

struct code_class {
    uint64_t base; /* the shortest run */
    uint64_t last; /* the longest run */
    uint8_t prefix;
    uint8_t prefix_bits;
    uint8_t total_bits;
};

static const struct code_class CLASSES[] = {
    {1, 2, 0x00, 1, 2},
    {3, 4, 0x01, 2, 3},
    {5, 8, 0x03, 3, 5},
    {9, 16, 0x07, 4, 7},
    {17, 48, 0x0f, 5, 10},
    {49, 304, 0x1f, 6, 14},
    {305, 8496, 0x3f, 8, 21},
    {8497, 2105648, 0x7f, 8, 29},
    {2105649, 17181974832, 0xbf, 8, 42},
    {17181974833, 72057611219902768, 0xff, 8, 64},
};

enum { LONG_PREFIX_ONES = 6 };

/* Bits that are written out byte by byte, lowest first; fewer than 8 wait in `pending`. */
struct bit_writer {
    uint8_t *out;
    size_t used;
    uint64_t pending;
    uint32_t pending_bits;
};

static void write_bits(struct bit_writer *writer, uint64_t value, uint32_t bit_count) {
    writer->pending |= value << writer->pending_bits;
    writer->pending_bits += bit_count;
    while (writer->pending_bits >= 8) {
        writer->out[writer->used++] = (uint8_t)writer->pending;
        writer->pending >>= 8;
        writer->pending_bits -= 8;
    }
}

int64_t pydrbd_vli_encode(const uint8_t *bits, uint64_t bit_count, uint64_t first, uint8_t *out, size_t room,
                          uint64_t *next, uint32_t *pad, uint32_t *polarity) {
    struct bit_writer writer = {.out = out};
    uint32_t is_set = first < bit_count && ((bits[first / 8] >> (first % 8)) & 1);

    *polarity = is_set;
    for (; first < bit_count; is_set = !is_set) {
        uint64_t end = is_set ? pydrbd_bitmap_find_clear(bits, first, bit_count)
                              : pydrbd_bitmap_find_set(bits, first, bit_count);
        const struct code_class *class = CLASSES;
        uint64_t code;

        while (end - first > class->last) {
            class++;
        }
        if (writer.used * 8 + writer.pending_bits + class->total_bits > room * 8) {
            break;
        }
        code = (end - first - class->base) << class->prefix_bits | class->prefix;
        write_bits(&writer, code & UINT32_MAX, class->total_bits < 32 ? class->total_bits : 32);
        if (class->total_bits > 32) {
            write_bits(&writer, code >> 32, class->total_bits - 32u);
        }
        first = end;
    }
    *pad = (8 - writer.pending_bits) % 8;
    if (*pad != 0) {
        write_bits(&writer, 0, *pad);
    }
    *next = first;
    return (int64_t)writer.used;
}

/* 64 bits from any bit position on; bits past the end are 0. */
static uint64_t peek_bits(const uint8_t *code, size_t length, uint64_t bit) {
    size_t byte = bit / 8;
    uint64_t word = get_le(code + byte, length - byte) >> (bit % 8);

    if (bit % 8 != 0 && length - byte > 8) {
        word |= (uint64_t)code[byte + 8] << (64 - bit % 8);
    }
    return word;
}

/* The class whose prefix stands in the lowest bits: up to five ones and a zero, or six ones and two more bits. */
static const struct code_class *class_of(uint64_t word) {
    uint32_t leading_ones = lowest(~word | (1u << LONG_PREFIX_ONES));
    const struct code_class *class = CLASSES + leading_ones;

    if (leading_ones == LONG_PREFIX_ONES) {
        while (class->prefix != (word & 0xff)) {
            class++;
        }
    }
    return class;
}

int64_t pydrbd_vli_decode(uint8_t *bits, uint64_t bit_count, uint64_t first, const uint8_t *code, size_t length,
                          uint32_t pad, uint32_t polarity, uint64_t *newly_set) {
    uint64_t code_bits = (uint64_t)length * 8 - pad;

    *newly_set = 0;
    if (length == 0 || pad > 7 || first > bit_count) {
        return PYDRBD_E_CODE;
    }
    for (uint64_t at = 0; at < code_bits; polarity = !polarity) {
        uint64_t word = peek_bits(code, length, at);
        const struct code_class *class = class_of(word);
        uint64_t run;

        if (class->total_bits > code_bits - at) {
            return PYDRBD_E_CODE;
        }
        if (class->total_bits < 64) {
            word &= (UINT64_C(1) << class->total_bits) - 1;
        }
        run = class->base + (word >> class->prefix_bits);
        if (run > bit_count - first) {
            return PYDRBD_E_CODE;
        }
        if (polarity) {
            *newly_set += pydrbd_bitmap_set(bits, first, run);
        }
        first += run;
        at += class->total_bits;
    }
    return (int64_t)first;
}
