/* The out-of-sync bitmap: bit i is bit (i % 8) of byte (i / 8), as on DRBD's disk and wire. No alignment is needed. */

#include "internal.h"

/* The bits of one byte from `first` up to, and without, `end`; both 0 to 8. */
static inline uint8_t byte_mask(size_t first, size_t end) {
    return (uint8_t)((0xffu << first) & ~(0xffu << end));
}

static inline size_t ones(uint64_t word) {
    return (size_t)__builtin_popcountll(word);
}

/* The two loops over whole bitmaps are written once, and compiled twice where a processor may lack an instruction. */
#define TEMPLATE static inline __attribute__((always_inline))

/* Up to 8 bytes of `from` into `into`; how many bits were not set there. */
TEMPLATE size_t merge_word(uint8_t *into, const uint8_t *from, size_t byte_count) {
    uint64_t old = 0;
    uint64_t add = 0;
    size_t newly_set;

    memcpy(&old, into, byte_count);
    memcpy(&add, from, byte_count);
    newly_set = ones(add & ~old);
    old |= add;
    memcpy(into, &old, byte_count);
    return newly_set;
}

TEMPLATE size_t merge_words(uint8_t *into, const uint8_t *from, size_t byte_count) {
    size_t newly_set = 0;

    for (; byte_count >= 8; byte_count -= 8, into += 8, from += 8) {
        newly_set += merge_word(into, from, 8);
    }
    return newly_set + merge_word(into, from, byte_count);
}

TEMPLATE size_t count_words(const uint8_t *bytes, size_t byte_count) {
    size_t total = 0;

    for (; byte_count >= 8; byte_count -= 8, bytes += 8) {
        total += ones(get_le(bytes, 8));
    }
    return total + ones(get_le(bytes, byte_count));
}

#if defined(__x86_64__)

__attribute__((target("popcnt"))) static size_t merge_popcnt(uint8_t *into, const uint8_t *from, size_t byte_count) {
    return merge_words(into, from, byte_count);
}

__attribute__((target("popcnt"))) static size_t count_popcnt(const uint8_t *bytes, size_t byte_count) {
    return count_words(bytes, byte_count);
}

#define HAS_POPCNT __builtin_cpu_supports("popcnt")

#else

#define merge_popcnt merge_words
#define count_popcnt count_words
#define HAS_POPCNT 1

#endif

static size_t count_bytes(const uint8_t *bytes, size_t byte_count) {
    return HAS_POPCNT ? count_popcnt(bytes, byte_count) : count_words(bytes, byte_count);
}

size_t pydrbd_bitmap_merge(uint8_t *into, const uint8_t *from, size_t byte_count) {
    return HAS_POPCNT ? merge_popcnt(into, from, byte_count) : merge_words(into, from, byte_count);
}

size_t pydrbd_bitmap_count(const uint8_t *bits, size_t first, size_t count) {
    size_t end = first + count;
    size_t byte = first / 8;
    size_t total;

    if (count == 0) {
        return 0;
    }
    if (byte == (end - 1) / 8) {
        return ones(bits[byte] & byte_mask(first % 8, (end - 1) % 8 + 1));
    }
    total = ones(bits[byte] & byte_mask(first % 8, 8));
    total += count_bytes(bits + byte + 1, end / 8 - byte - 1);
    return end % 8 == 0 ? total : total + ones(bits[end / 8] & byte_mask(0, end % 8));
}

/* The bits under the mask become `value`'s, which is 0x00 or 0xff. */
static inline void assign(uint8_t *byte, uint8_t mask, uint8_t value) {
    *byte = (uint8_t)((*byte & ~mask) | (value & mask));
}

/* `count` is at least 1. */
static void assign_range(uint8_t *bits, size_t first, size_t count, uint8_t value) {
    size_t end = first + count;
    size_t byte = first / 8;

    if (byte == (end - 1) / 8) {
        assign(bits + byte, byte_mask(first % 8, (end - 1) % 8 + 1), value);
        return;
    }
    assign(bits + byte, byte_mask(first % 8, 8), value);
    memset(bits + byte + 1, value, end / 8 - byte - 1);
    if (end % 8 != 0) {
        assign(bits + end / 8, byte_mask(0, end % 8), value);
    }
}

size_t pydrbd_bitmap_set(uint8_t *bits, size_t first, size_t count) {
    size_t changed = count - pydrbd_bitmap_count(bits, first, count);

    if (changed > 0) {
        assign_range(bits, first, count, 0xff);
    }
    return changed;
}

size_t pydrbd_bitmap_clear(uint8_t *bits, size_t first, size_t count) {
    size_t changed = pydrbd_bitmap_count(bits, first, count);

    if (changed > 0) {
        assign_range(bits, first, count, 0x00);
    }
    return changed;
}

/* The first bit from `first` on that differs from `same` (all ones or all zeros), or `end`. */
static inline size_t find(const uint8_t *bits, size_t first, size_t end, uint64_t same) {
    size_t byte_end = end / 8 + (end % 8 != 0);
    size_t byte = first / 8;
    uint64_t word;

    if (first >= end) {
        return end;
    }
    word = ((get_le(bits + byte, byte_end - byte) ^ same) >> (first % 8)) << (first % 8);
    while (word == 0) {
        byte += 8;
        while (byte + 32 <= byte_end && ((get_le(bits + byte, 8) ^ same) | (get_le(bits + byte + 8, 8) ^ same) |
                                         (get_le(bits + byte + 16, 8) ^ same) |
                                         (get_le(bits + byte + 24, 8) ^ same)) == 0) {
            byte += 32;
        }
        if (byte >= byte_end) {
            return end;
        }
        word = get_le(bits + byte, byte_end - byte) ^ same;
    }
    first = byte * 8 + lowest(word);
    return first < end ? first : end;
}

size_t pydrbd_bitmap_find_set(const uint8_t *bits, size_t first, size_t end) {
    return find(bits, first, end, 0);
}

size_t pydrbd_bitmap_find_clear(const uint8_t *bits, size_t first, size_t end) {
    return find(bits, first, end, UINT64_MAX);
}

size_t pydrbd_bitmap_set_records(uint8_t *bits, size_t bit_count, const struct pydrbd_record *records, uint32_t count,
                                 uint64_t mask) {
    size_t newly_set = 0;

    for (mask = members(count, mask); mask != 0; mask = without_lowest(mask)) {
        struct bit_range range = touched_bits(records + lowest(mask), bit_count);

        newly_set += pydrbd_bitmap_set(bits, range.first, range.end - range.first);
    }
    return newly_set;
}

size_t pydrbd_bitmap_clear_records(uint8_t *bits, size_t bit_count, uint64_t capacity,
                                   const struct pydrbd_record *records, uint32_t count, uint64_t mask) {
    size_t newly_clear = 0;

    for (mask = members(count, mask); mask != 0; mask = without_lowest(mask)) {
        const struct pydrbd_record *record = records + lowest(mask);
        uint64_t end_bytes = end_of(record->offset, record->length);
        uint64_t first = record->offset / BIT_SIZE_BYTES + (record->offset % BIT_SIZE_BYTES != 0);
        uint64_t end = end_bytes >= capacity ? bit_count : end_bytes / BIT_SIZE_BYTES;

        end = end < bit_count ? end : bit_count;
        if (first < end) {
            newly_clear += pydrbd_bitmap_clear(bits, (size_t)first, (size_t)(end - first));
        }
    }
    return newly_clear;
}

#define PIECE_EXTENT_BYTES (UINT64_C(16) << 20)

uint32_t pydrbd_bitmap_pieces(const uint8_t *bits, size_t bit_count, uint64_t capacity, size_t *next, uint32_t most,
                              int64_t room, struct pydrbd_record *out, uint32_t count) {
    uint32_t found = 0;

    for (; found < count && room > 0; found++) {
        size_t first = find(bits, *next, bit_count, 0);
        uint64_t offset = (uint64_t)first * BIT_SIZE_BYTES;
        uint64_t align = offset & -offset;
        uint64_t limit = PIECE_EXTENT_BYTES - offset % PIECE_EXTENT_BYTES;
        size_t end;

        if (first == bit_count) {
            break;
        }
        limit = limit < most ? limit : most;
        limit = offset != 0 && align < limit ? align : limit;
        end = first + (size_t)(limit / BIT_SIZE_BYTES);
        *next = find(bits, first, end < bit_count ? end : bit_count, UINT64_MAX);
        limit = (uint64_t)*next * BIT_SIZE_BYTES;
        out[found].offset = offset;
        out[found].length = (uint32_t)((limit < capacity ? limit : capacity) - offset);
        room -= out[found].length;
    }
    return found;
}
