/* Questions about the places of a batch's members. A member of length 0 is nowhere: it overlaps and touches nothing. */

#include "internal.h"

#define EXTENT_SIZE_BYTES (UINT64_C(4) << 20)

int pydrbd_records_out_of_bounds(const struct pydrbd_record *records, uint32_t count, uint64_t capacity,
                                 uint64_t *mask) {
    uint64_t outside = 0;

    for (uint64_t rest = members(count, *mask); rest != 0; rest = without_lowest(rest)) {
        const struct pydrbd_record *record = records + lowest(rest);

        if (record->offset > capacity || record->length > capacity - record->offset) {
            outside |= rest & -rest;
        }
    }
    *mask = outside;
    return __builtin_popcountll(outside);
}

uint64_t pydrbd_records_outside_buffer(const struct pydrbd_record *records, uint32_t count, uint64_t mask,
                                       uint64_t buffer_size) {
    uint64_t outside = 0;

    for (mask = members(count, mask); mask != 0; mask = without_lowest(mask)) {
        const struct pydrbd_record *record = records + lowest(mask);

        if (record->data > buffer_size || record->length > buffer_size - record->data) {
            outside |= mask & -mask;
        }
    }
    return outside;
}

uint64_t pydrbd_records_unaligned(const struct pydrbd_record *records, uint32_t count, uint64_t mask,
                                  uint32_t alignment) {
    uint64_t unaligned = 0;

    for (mask = members(count, mask); mask != 0; mask = without_lowest(mask)) {
        const struct pydrbd_record *record = records + lowest(mask);

        if (((record->offset | record->length) & (alignment - 1)) != 0) {
            unaligned |= mask & -mask;
        }
    }
    return unaligned;
}

uint64_t pydrbd_records_longer(const struct pydrbd_record *records, uint32_t count, uint64_t mask, uint32_t length) {
    uint64_t found = 0;

    for (mask = members(count, mask); mask != 0; mask = without_lowest(mask)) {
        found |= records[lowest(mask)].length > length ? mask & -mask : 0;
    }
    return found;
}

uint64_t pydrbd_records_with_command(const struct pydrbd_record *records, uint32_t count, uint64_t mask,
                                     uint16_t command) {
    uint64_t found = 0;

    for (mask = members(count, mask); mask != 0; mask = without_lowest(mask)) {
        found |= records[lowest(mask)].command == command ? mask & -mask : 0;
    }
    return found;
}

uint64_t pydrbd_records_with_flags(const struct pydrbd_record *records, uint32_t count, uint64_t mask,
                                   uint32_t flags) {
    uint64_t found = 0;

    for (mask = members(count, mask); mask != 0; mask = without_lowest(mask)) {
        found |= (records[lowest(mask)].flags & flags) != 0 ? mask & -mask : 0;
    }
    return found;
}

uint64_t pydrbd_records_length_sum(const struct pydrbd_record *records, uint32_t count, uint64_t mask) {
    uint64_t sum = 0;

    for (mask = members(count, mask); mask != 0; mask = without_lowest(mask)) {
        sum += records[lowest(mask)].length;
    }
    return sum;
}

/* The bytes from the first to the last that a set of records touches; nothing if start >= end. */
struct span {
    uint64_t start;
    uint64_t end;
};

static inline struct span span_of(const struct pydrbd_record *record) {
    return (struct span){record->offset, end_of(record->offset, record->length)};
}

static inline int spans_meet(struct span a, struct span b) {
    return a.start < b.end && b.start < a.end && a.start < a.end && b.start < b.end;
}

static inline struct span widened(struct span span, struct span by) {
    if (by.start < by.end) {
        span.start = by.start < span.start ? by.start : span.start;
        span.end = by.end > span.end ? by.end : span.end;
    }
    return span;
}

static int meets_any(struct span span, const struct pydrbd_record *records, uint64_t mask) {
    for (; mask != 0; mask = without_lowest(mask)) {
        if (spans_meet(span, span_of(records + lowest(mask)))) {
            return 1;
        }
    }
    return 0;
}

uint64_t pydrbd_records_overlap(const struct pydrbd_record *live, uint32_t live_count, uint64_t live_mask,
                                const struct pydrbd_record *records, uint32_t count, uint64_t mask) {
    struct span hull = {UINT64_MAX, 0};
    uint64_t overlapping = 0;

    live_mask = members(live_count, live_mask);
    for (uint64_t rest = live_mask; rest != 0; rest = without_lowest(rest)) {
        hull = widened(hull, span_of(live + lowest(rest)));
    }
    for (mask = members(count, mask); mask != 0; mask = without_lowest(mask)) {
        struct span span = span_of(records + lowest(mask));

        if (spans_meet(span, hull) && meets_any(span, live, live_mask)) {
            overlapping |= mask & -mask;
        }
    }
    return overlapping;
}

uint64_t pydrbd_records_overlap_self(const struct pydrbd_record *records, uint32_t count, uint64_t mask) {
    struct span hull = {UINT64_MAX, 0};
    uint64_t earlier = 0;
    uint64_t overlapping = 0;

    for (mask = members(count, mask); mask != 0; mask = without_lowest(mask)) {
        struct span span = span_of(records + lowest(mask));

        if (spans_meet(span, hull) && meets_any(span, records, earlier)) {
            overlapping |= mask & -mask;
        }
        hull = widened(hull, span);
        earlier |= mask & -mask;
    }
    return overlapping;
}

/* Where the extent is, or belongs, in the sorted list. */
static uint32_t place_of(const uint32_t *extents, uint32_t count, uint32_t extent) {
    uint32_t low = 0;

    while (low < count) {
        uint32_t middle = low + (count - low) / 2;

        if (extents[middle] < extent) {
            low = middle + 1;
        } else {
            count = middle;
        }
    }
    return low;
}

uint32_t pydrbd_records_extents(const struct pydrbd_record *records, uint32_t count, uint64_t mask,
                                uint32_t *out, uint32_t room) {
    uint32_t found = 0;

    for (mask = members(count, mask); mask != 0; mask = without_lowest(mask)) {
        struct span span = span_of(records + lowest(mask));

        for (uint64_t at = span.start; at < span.end; at = end_of(at - at % EXTENT_SIZE_BYTES, EXTENT_SIZE_BYTES)) {
            uint32_t extent = (uint32_t)(at / EXTENT_SIZE_BYTES);
            uint32_t place = found > 0 && out[found - 1] < extent ? found : place_of(out, found, extent);

            if (place < found && out[place] == extent) {
                continue;
            }
            if (found == room) {
                return room + 1;
            }
            memmove(out + place + 1, out + place, (found - place) * sizeof(*out));
            out[place] = extent;
            found++;
        }
    }
    return found;
}

uint64_t pydrbd_records_dirty(const uint8_t *bits, size_t bit_count, const struct pydrbd_record *records,
                              uint32_t count, uint64_t mask) {
    uint64_t dirty = 0;

    for (mask = members(count, mask); mask != 0; mask = without_lowest(mask)) {
        struct bit_range range = touched_bits(records + lowest(mask), bit_count);

        if (pydrbd_bitmap_find_set(bits, range.first, range.end) < range.end) {
            dirty |= mask & -mask;
        }
    }
    return dirty;
}

static int is_zero(const uint8_t *bytes, size_t length) {
    for (; length >= 32; length -= 32, bytes += 32) {
        if ((get_le(bytes, 8) | get_le(bytes + 8, 8) | get_le(bytes + 16, 8) | get_le(bytes + 24, 8)) != 0) {
            return 0;
        }
    }
    for (; length > 0; length--, bytes++) {
        if (*bytes != 0) {
            return 0;
        }
    }
    return 1;
}

uint64_t pydrbd_records_zero(const uint8_t *buffer, const struct pydrbd_record *records, uint32_t count,
                             uint64_t mask) {
    uint64_t zero = 0;

    for (mask = members(count, mask); mask != 0; mask = without_lowest(mask)) {
        const struct pydrbd_record *record = records + lowest(mask);

        zero |= is_zero(buffer + record->data, record->length) ? mask & -mask : 0;
    }
    return zero;
}

uint64_t pydrbd_records_lay_out(const struct pydrbd_record *records, uint32_t count, uint64_t mask, uint64_t first,
                                uint64_t gap, struct pydrbd_record *out) {
    uint64_t place = first;

    for (mask = members(count, mask); mask != 0; mask = without_lowest(mask), out++) {
        const struct pydrbd_record *record = records + lowest(mask);

        *out = (struct pydrbd_record){.offset = record->offset, .id = record->id, .data = place,
                                      .length = record->length, .command = record->command,
                                      .volume = record->volume};
        place += record->length + gap;
    }
    return place;
}
