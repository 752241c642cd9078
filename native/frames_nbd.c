/* NBD transmission: requests in, replies out, a batch at a time. All numbers are big-endian.
 *
 *   request       u32 magic 0x25609513, u16 flags, u16 type, u64 cookie, u64 offset, u32 length, [WRITE: payload]
 *   simple reply  u32 magic 0x67446698, u32 error, u64 cookie, [READ: data]
 *   chunk         u32 magic 0x668e33ef, u16 flags, u16 type, u64 cookie, u32 length, `length` bytes
 *
 * With structured replies a READ is answered by one chunk: its offset and data, or an error. Everything else that is
 * answered here has no payload, and its simple reply is right in both styles.
 */

#include "internal.h"

enum {
    NBD_CMD_READ = 0,
    NBD_CMD_WRITE = 1,
    NBD_CMD_DISC = 2,
    NBD_CMD_FLUSH = 3,
    NBD_CMD_TRIM = 4,
    NBD_CMD_WRITE_ZEROES = 6,
    NBD_CMD_FLAG_FUA = 1,
};

enum { REQUEST_SIZE = 28 };

#define REQUEST_MAGIC 0x25609513u
#define REPLY_MAGIC 0x67446698u
#define CHUNK_MAGIC 0x668e33efu

enum { CHUNK_DONE = 1, CHUNK_NONE = 0, CHUNK_OFFSET_DATA = 1, CHUNK_ERROR = 32769 };
enum { OFFSET_SIZE = 8, ERROR_SIZE = 6 };

/* The bytes of the request that starts here, or an error; the record is filled but for what depends on the place. */
static int64_t read_request(const uint8_t *from, uint32_t length_max, struct pydrbd_record *record) {
    if (get_be32(from) != REQUEST_MAGIC) {
        return PYDRBD_E_MAGIC;
    }
    *record = (struct pydrbd_record){
        .flags = get_be16(from + 4),
        .command = get_be16(from + 6),
        .id = get_be64(from + 8),
        .offset = get_be64(from + 16),
        .length = get_be32(from + 24),
    };
    if (record->command != NBD_CMD_WRITE) {
        return REQUEST_SIZE;
    }
    return record->length > length_max ? PYDRBD_E_LENGTH : REQUEST_SIZE + (int64_t)record->length;
}

int pydrbd_nbd_split(const uint8_t *buffer, size_t start, size_t end, uint32_t length_max,
                     struct pydrbd_record *out, uint32_t room, size_t *consumed, size_t *need) {
    size_t at = start;
    uint32_t count = 0;
    int64_t size = 0;

    *need = 0;
    for (; count < room && at < end; at += (size_t)size, count++) {
        size = end - at < REQUEST_SIZE ? REQUEST_SIZE : read_request(buffer + at, length_max, out + count);
        if (size < 0) {
            break;
        }
        if ((size_t)size > end - at) {
            *need = (size_t)size;
            break;
        }
        out[count].data = at + REQUEST_SIZE;
    }
    *consumed = at - start;
    return count == 0 && size < 0 ? (int)size : (int)count;
}

static uint8_t *put_reply(uint8_t *to, uint32_t error, const struct pydrbd_record *record) {
    return put_be64(put_be32(put_be32(to, REPLY_MAGIC), error), record->id);
}

/* A READ's only chunk: its header, for `length` bytes that come after it. */
static uint8_t *put_chunk(uint8_t *to, uint16_t type, uint32_t length, const struct pydrbd_record *record) {
    to = put_be16(put_be16(put_be32(to, CHUNK_MAGIC), CHUNK_DONE), type);
    return put_be32(put_be64(to, record->id), length);
}

static uint8_t *put_read_error(uint8_t *to, uint32_t error, const struct pydrbd_record *record) {
    if (error == 0) {
        return put_chunk(to, CHUNK_NONE, 0, record); /* of no bytes at all */
    }
    return put_be16(put_be32(put_chunk(to, CHUNK_ERROR, ERROR_SIZE, record), error), 0);
}

size_t pydrbd_nbd_replies(const struct pydrbd_record *records, uint32_t count, uint64_t mask, uint32_t error,
                          int structured, uint8_t *out) {
    uint8_t *to = out;

    for (mask = members(count, mask); mask != 0; mask = without_lowest(mask)) {
        const struct pydrbd_record *record = records + lowest(mask);
        const int as_chunk = structured && record->command == NBD_CMD_READ;

        to = as_chunk ? put_read_error(to, error, record) : put_reply(to, error, record);
    }
    return (size_t)(to - out);
}

uint8_t *pydrbd_nbd_put_read_header(uint8_t *to, const struct pydrbd_record *record, int structured) {
    if (!structured) {
        return put_reply(to, 0, record);
    }
    return put_be64(put_chunk(to, CHUNK_OFFSET_DATA, OFFSET_SIZE + record->length, record), record->offset);
}

/* Each reply is followed by room for its data, and the record then says where that is. */
size_t pydrbd_nbd_read_replies(struct pydrbd_record *records, uint32_t count, uint64_t mask, int structured,
                               uint8_t *out) {
    uint8_t *to = out;

    for (mask = members(count, mask); mask != 0; mask = without_lowest(mask)) {
        struct pydrbd_record *record = records + lowest(mask);

        to = pydrbd_nbd_put_read_header(to, record, structured);
        record->data = (uint64_t)(to - out);
        to += record->length;
    }
    return (size_t)(to - out);
}

static uint64_t *place_of(uint16_t command, struct pydrbd_nbd_commands *out) {
    switch (command) {
    case NBD_CMD_READ:
        return &out->read;
    case NBD_CMD_WRITE:
        return &out->write;
    case NBD_CMD_DISC:
        return &out->disc;
    case NBD_CMD_FLUSH:
        return &out->flush;
    case NBD_CMD_TRIM:
        return &out->trim;
    case NBD_CMD_WRITE_ZEROES:
        return &out->zeroes;
    default:
        return &out->other;
    }
}

void pydrbd_nbd_commands(const struct pydrbd_record *records, uint32_t count, uint64_t mask,
                         struct pydrbd_nbd_commands *out) {
    *out = (struct pydrbd_nbd_commands){0};
    for (mask = members(count, mask); mask != 0; mask = without_lowest(mask)) {
        const struct pydrbd_record *record = records + lowest(mask);

        *place_of(record->command, out) |= mask & -mask;
        out->fua |= record->flags & NBD_CMD_FLAG_FUA ? mask & -mask : 0;
    }
}
