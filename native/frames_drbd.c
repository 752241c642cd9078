/* DRBD packets: header, fixed part, [digest], [data]; a batch at a time. All numbers are big-endian.
 *
 *   h80   u32 magic 0x83740267, u16 command, u16 length
 *   h95   u16 magic 0x835a, u16 command, u32 length
 *   h100  u32 magic 0x8620ec20, u16 volume, u16 command, u32 length, u32 0
 *
 *   p_data        u64 sector, u64 block_id, u32 seq_num, u32 dp_flags; p_trim, P_WSAME: and u32 size in bytes
 *   p_block_ack   u64 sector, u64 block_id, u32 size in bytes, u32 seq_num
 *   p_block_req   u64 sector, u64 block_id, u32 size in bytes, u32 that is ignored
 *   p_block_desc  u64 sector, u32 size in bytes, u32 that is ignored
 *
 * A format of 100 is h100; 95 is h80, or h95 for a payload of more than 32768 bytes; 80 is h80.
 */

#include "internal.h"

#define MAGIC_80 0x83740267u
#define MAGIC_95 0x835au
#define MAGIC_100 0x8620ec20u

enum {
    H80_SIZE = 8,
    H100_SIZE = 16,
    H80_PAYLOAD_MAX = 32768, /* where format 95 goes over to h95 */
    P_DATA_SIZE = 24,
    P_TRIM_SIZE = 28,
    P_BLOCK_SIZE = 24, /* p_block_ack and p_block_req */
    P_BLOCK_DESC_SIZE = 16,
};

enum { NBD_CMD_WRITE = 1, NBD_CMD_TRIM = 4, NBD_CMD_WRITE_ZEROES = 6, NBD_FLAG_FUA = 1, NBD_FLAG_NO_HOLE = 2 };

enum { DP_FUA = 16, DP_DISCARD = 64, DP_ZEROES = 1024 };

enum {
    P_DATA = 0x00,
    P_DATA_REPLY = 0x01,
    P_RS_DATA_REPLY = 0x02,
    P_DATA_REQUEST = 0x08,
    P_RS_DATA_REQUEST = 0x09,
    P_RECV_ACK = 0x15,
    P_WRITE_ACK = 0x16,
    P_RS_WRITE_ACK = 0x17,
    P_SUPERSEDED = 0x18,
    P_NEG_ACK = 0x19,
    P_NEG_DREPLY = 0x1a,
    P_NEG_RS_DREPLY = 0x1b,
    P_OV_REQUEST = 0x1e,
    P_OV_REPLY = 0x1f,
    P_OV_RESULT = 0x20,
    P_CSUM_RS_REQUEST = 0x21,
    P_RS_IS_IN_SYNC = 0x22,
    P_OUT_OF_SYNC = 0x28,
    P_RS_CANCEL = 0x29,
    P_RETRY_WRITE = 0x2c,
    P_TRIM = 0x31,
    P_RS_THIN_REQ = 0x32,
    P_RS_DEALLOCATED = 0x33,
    P_WSAME = 0x34,
    P_ZEROES = 0x36,
};

/* What a reader of a packet's inside has to know: where its payload is, and how long. */
struct payload {
    const uint8_t *bytes;
    uint32_t size;
    uint32_t digest_size; /* of data packets on this connection */
};

/* Fills command and volume; the payload's length, or an error. Enough bytes for the header are there. */
static int64_t read_header(const uint8_t *from, int format, struct pydrbd_record *record) {
    *record = (struct pydrbd_record){0};
    if (format >= 100) {
        if (get_be32(from) != MAGIC_100 || get_be32(from + 12) != 0) {
            return PYDRBD_E_MAGIC;
        }
        record->volume = get_be16(from + 4);
        record->command = get_be16(from + 6);
        return get_be32(from + 8);
    }
    if (get_be32(from) == MAGIC_80) {
        record->command = get_be16(from + 4);
        return get_be16(from + 6);
    }
    if (get_be16(from) != MAGIC_95) {
        return PYDRBD_E_MAGIC;
    }
    record->command = get_be16(from + 2);
    return get_be32(from + 4);
}

static int read_sector(const uint8_t *from, struct pydrbd_record *record) {
    uint64_t sector = get_be64(from);

    record->offset = sector * SECTOR_SIZE_BYTES;
    return sector > UINT64_MAX / SECTOR_SIZE_BYTES ? PYDRBD_E_LENGTH : 0;
}

/* p_data of `fixed` bytes, then a digest, then data. `data` is relative to the payload, here and below. */
static int read_data(const struct payload *payload, uint32_t fixed, uint32_t digest_size,
                     struct pydrbd_record *record) {
    if (payload->size < fixed + digest_size) {
        return PYDRBD_E_LENGTH;
    }
    record->id = get_be64(payload->bytes + 8);
    record->seq = get_be32(payload->bytes + 16);
    record->flags = get_be32(payload->bytes + 20);
    record->digest = digest_size;
    record->data = fixed + digest_size;
    record->length = payload->size - fixed - digest_size;
    return record->length % SECTOR_SIZE_BYTES != 0 ? PYDRBD_E_LENGTH : read_sector(payload->bytes, record);
}

/* p_data and a size that is not the payload's: P_TRIM and P_ZEROES without, P_WSAME with one block of data. */
static int read_sized_data(const struct payload *payload, int has_block, struct pydrbd_record *record) {
    int error = read_data(payload, P_TRIM_SIZE, has_block ? payload->digest_size : 0, record);

    if (error != 0) {
        return error;
    }
    record->block = record->length;
    record->length = get_be32(payload->bytes + P_DATA_SIZE);
    return (record->block != 0) != has_block || record->length % SECTOR_SIZE_BYTES != 0 ? PYDRBD_E_LENGTH : 0;
}

static int read_block_ack(const struct payload *payload, struct pydrbd_record *record) {
    if (payload->size != P_BLOCK_SIZE) {
        return PYDRBD_E_LENGTH;
    }
    record->id = get_be64(payload->bytes + 8);
    record->length = get_be32(payload->bytes + 16);
    record->seq = get_be32(payload->bytes + 20);
    record->data = P_BLOCK_SIZE;
    return read_sector(payload->bytes, record);
}

static int read_block_req(const struct payload *payload, int has_digest, struct pydrbd_record *record) {
    if (payload->size < P_BLOCK_SIZE || (!has_digest && payload->size > P_BLOCK_SIZE)) {
        return PYDRBD_E_LENGTH;
    }
    record->id = get_be64(payload->bytes + 8);
    record->length = get_be32(payload->bytes + 16);
    record->digest = payload->size - P_BLOCK_SIZE;
    record->data = P_BLOCK_SIZE;
    return record->length % SECTOR_SIZE_BYTES != 0 ? PYDRBD_E_LENGTH : read_sector(payload->bytes, record);
}

static int read_block_desc(const struct payload *payload, struct pydrbd_record *record) {
    if (payload->size != P_BLOCK_DESC_SIZE) {
        return PYDRBD_E_LENGTH;
    }
    record->length = get_be32(payload->bytes + 8);
    record->data = P_BLOCK_DESC_SIZE;
    return record->length % SECTOR_SIZE_BYTES != 0 ? PYDRBD_E_LENGTH : read_sector(payload->bytes, record);
}

/* The inside of a complete packet. What we have no fixed part for is left to Python as it is. */
static int read_payload(const struct payload *payload, struct pydrbd_record *record) {
    switch (record->command) {
    case P_DATA:
    case P_DATA_REPLY:
    case P_RS_DATA_REPLY:
        return read_data(payload, P_DATA_SIZE, payload->digest_size, record);
    case P_TRIM:
    case P_ZEROES:
        return read_sized_data(payload, 0, record);
    case P_WSAME:
        return read_sized_data(payload, 1, record);
    case P_RECV_ACK:
    case P_WRITE_ACK:
    case P_RS_WRITE_ACK:
    case P_SUPERSEDED:
    case P_NEG_ACK:
    case P_NEG_DREPLY:
    case P_NEG_RS_DREPLY:
    case P_OV_RESULT:
    case P_RS_IS_IN_SYNC:
    case P_RS_CANCEL:
    case P_RETRY_WRITE:
        return read_block_ack(payload, record);
    case P_DATA_REQUEST:
    case P_RS_DATA_REQUEST:
    case P_OV_REQUEST:
    case P_RS_THIN_REQ:
        return read_block_req(payload, 0, record);
    case P_OV_REPLY:
    case P_CSUM_RS_REQUEST:
        return read_block_req(payload, 1, record);
    case P_OUT_OF_SYNC:
    case P_RS_DEALLOCATED:
        return read_block_desc(payload, record);
    default:
        record->length = payload->size;
        return 0;
    }
}

int pydrbd_drbd_split(const uint8_t *buffer, size_t start, size_t end, int format, uint32_t digest_size,
                      uint32_t payload_max, struct pydrbd_record *out, uint32_t room, size_t *consumed, size_t *need) {
    const size_t header_size = format >= 100 ? H100_SIZE : H80_SIZE;
    size_t at = start;
    uint32_t count = 0;
    int64_t error = 0;

    *need = 0;
    while (count < room && at < end) {
        struct payload payload = {.digest_size = digest_size};
        int64_t size;

        if (end - at < header_size) {
            *need = header_size;
            break;
        }
        size = read_header(buffer + at, format, out + count);
        error = size < 0 ? size : size > payload_max ? PYDRBD_E_LENGTH : 0;
        if (error != 0) {
            break;
        }
        if ((size_t)size > end - at - header_size) {
            *need = header_size + (size_t)size;
            break;
        }
        payload.bytes = buffer + at + header_size;
        payload.size = (uint32_t)size;
        error = read_payload(&payload, out + count);
        if (error != 0) {
            break;
        }
        out[count++].data += at + header_size;
        at += header_size + (size_t)size;
    }
    *consumed = at - start;
    return count == 0 && error != 0 ? (int)error : (int)count;
}

static uint8_t *put_header(uint8_t *to, int format, uint16_t volume, uint16_t command, uint32_t payload_size) {
    if (format >= 100) {
        to = put_be16(put_be16(put_be32(to, MAGIC_100), volume), command);
        return put_be32(put_be32(to, payload_size), 0);
    }
    if (format == 95 && payload_size > H80_PAYLOAD_MAX) {
        return put_be32(put_be16(put_be16(to, MAGIC_95), command), payload_size);
    }
    return put_be16(put_be16(put_be32(to, MAGIC_80), command), (uint16_t)payload_size);
}

static uint32_t dp_flags_of(const struct pydrbd_record *record) {
    uint32_t flags = record->flags & NBD_FLAG_FUA ? DP_FUA : 0;

    if (record->command == NBD_CMD_WRITE_ZEROES) {
        flags |= DP_ZEROES | (record->flags & NBD_FLAG_NO_HOLE ? 0u : DP_DISCARD);
    }
    return record->command == NBD_CMD_TRIM ? flags | DP_DISCARD : flags;
}

size_t pydrbd_drbd_data_headers(const struct pydrbd_record *records, uint32_t count, uint64_t mask, int format,
                                uint16_t volume, uint64_t first_id, uint32_t first_seq, uint32_t dp_flags,
                                uint32_t digest_size, uint8_t *out) {
    uint8_t *to = out;

    for (mask = members(count, mask); mask != 0; mask = without_lowest(mask)) {
        const struct pydrbd_record *record = records + lowest(mask);
        const int is_write = record->command == NBD_CMD_WRITE;

        if (is_write) {
            to = put_header(to, format, volume, P_DATA, P_DATA_SIZE + digest_size + record->length);
        } else if (record->command == NBD_CMD_TRIM) {
            to = put_header(to, format, volume, P_TRIM, P_TRIM_SIZE);
        } else if (record->command == NBD_CMD_WRITE_ZEROES) {
            to = put_header(to, format, volume, P_ZEROES, P_TRIM_SIZE);
        } else {
            continue;
        }
        to = put_be64(to, record->offset / SECTOR_SIZE_BYTES);
        to = put_be64(to, first_id + lowest(mask));
        to = put_be32(to, first_seq++);
        to = put_be32(to, dp_flags | dp_flags_of(record));
        if (!is_write) {
            to = put_be32(to, record->length);
        }
    }
    return (size_t)(to - out);
}

size_t pydrbd_drbd_acks(const struct pydrbd_record *records, uint32_t count, uint64_t mask, int format,
                        uint16_t packet, uint32_t first_seq, uint8_t *out) {
    uint8_t *to = out;

    for (mask = members(count, mask); mask != 0; mask = without_lowest(mask)) {
        const struct pydrbd_record *record = records + lowest(mask);

        to = put_header(to, format, record->volume, packet, P_BLOCK_SIZE);
        to = put_be64(to, record->offset / SECTOR_SIZE_BYTES);
        to = put_be64(to, record->id);
        to = put_be32(to, record->length);
        to = put_be32(to, first_seq++);
    }
    return (size_t)(to - out);
}

size_t pydrbd_drbd_requests(const struct pydrbd_record *records, uint32_t count, uint64_t mask, int format,
                            uint16_t volume, uint16_t packet, uint64_t id, uint8_t *out) {
    uint8_t *to = out;

    for (mask = members(count, mask); mask != 0; mask = without_lowest(mask)) {
        const struct pydrbd_record *record = records + lowest(mask);

        to = put_header(to, format, volume, packet, P_BLOCK_SIZE);
        to = put_be64(to, record->offset / SECTOR_SIZE_BYTES);
        to = put_be64(to, id);
        to = put_be32(to, record->length);
        to = put_be32(to, 0);
    }
    return (size_t)(to - out);
}

/* Before each member's payload, in place. Those that have no room for it there are left alone, and told. */
uint64_t pydrbd_drbd_reply_headers(const struct pydrbd_record *records, uint32_t count, uint64_t mask, int format,
                                   uint16_t volume, uint16_t packet, uint8_t *buffer, uint64_t buffer_size) {
    const uint64_t size = P_DATA_SIZE + (format >= 100 ? H100_SIZE : H80_SIZE);
    uint64_t without_room = 0;

    for (mask = members(count, mask); mask != 0; mask = without_lowest(mask)) {
        const struct pydrbd_record *record = records + lowest(mask);
        uint8_t *to;

        if (record->data < size || record->data > buffer_size) {
            without_room |= mask & -mask;
            continue;
        }
        to = put_header(buffer + (record->data - size), format, volume, packet, P_DATA_SIZE + record->length);
        to = put_be64(to, record->offset / SECTOR_SIZE_BYTES);
        to = put_be64(to, record->id);
        put_be64(to, 0);
    }
    return without_room;
}
