/* What the files of native/ share: members of a batch, big-endian numbers in unaligned memory, saturated ends. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "pydrbd.h"

#define BIT_SIZE_BYTES 4096u
#define SECTOR_SIZE_BYTES 512u

/* The members of a batch of this many records that are in the mask. */
static inline uint64_t members(uint32_t count, uint64_t mask) {
    return count >= PYDRBD_BATCH_MAX ? mask : mask & ((UINT64_C(1) << count) - 1);
}

/* Walks a mask: the lowest member, and the mask without it. The mask is not 0. */
static inline uint32_t lowest(uint64_t mask) {
    return (uint32_t)__builtin_ctzll(mask);
}

static inline uint64_t without_lowest(uint64_t mask) {
    return mask & (mask - 1);
}

/* One past the last byte; a sum that overflows ends at the last address, so that it can't pass a bounds check. */
static inline uint64_t end_of(uint64_t offset, uint64_t length) {
    return length > UINT64_MAX - offset ? UINT64_MAX : offset + length;
}

struct bit_range {
    size_t first;
    size_t end;
};

/* The 4 KiB blocks that a record touches at all, within the bitmap; first == end if none. */
static inline struct bit_range touched_bits(const struct pydrbd_record *record, size_t bit_count) {
    uint64_t first = record->offset / BIT_SIZE_BYTES;
    uint64_t end;

    if (record->length == 0 || first >= bit_count) {
        return (struct bit_range){0, 0};
    }
    end = (end_of(record->offset, record->length) - 1) / BIT_SIZE_BYTES + 1;
    return (struct bit_range){(size_t)first, end < bit_count ? (size_t)end : bit_count};
}

static inline uint16_t get_be16(const uint8_t *from) {
    return (uint16_t)((from[0] << 8) | from[1]);
}

static inline uint32_t get_be32(const uint8_t *from) {
    return ((uint32_t)get_be16(from) << 16) | get_be16(from + 2);
}

static inline uint64_t get_be64(const uint8_t *from) {
    return ((uint64_t)get_be32(from) << 32) | get_be32(from + 4);
}

/* The put functions return the place after what they wrote. */
static inline uint8_t *put_be16(uint8_t *to, uint16_t value) {
    to[0] = (uint8_t)(value >> 8);
    to[1] = (uint8_t)value;
    return to + 2;
}

static inline uint8_t *put_be32(uint8_t *to, uint32_t value) {
    return put_be16(put_be16(to, (uint16_t)(value >> 16)), (uint16_t)value);
}

static inline uint8_t *put_be64(uint8_t *to, uint64_t value) {
    return put_be32(put_be32(to, (uint32_t)(value >> 32)), (uint32_t)value);
}

/* Up to 8 bytes as a little-endian number, whatever the machine; bytes that are not there count as 0. */
static inline uint64_t get_le(const uint8_t *from, size_t byte_count) {
    uint64_t word = 0;

    memcpy(&word, from, byte_count < 8 ? byte_count : 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word;
}
