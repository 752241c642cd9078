/* Reads in a Primary's lane: the replies' headers and the data between them, into the client's reply memory. */

#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64

#include "lane_io.h"

enum { REPLY_SIZE = 16, CHUNK_HEADER_SIZE = 28 };

/* How many of the first replies with their data have room. */
static uint32_t count_with_room(const struct pydrbd_lane_client *client, const struct pydrbd_record *records,
                                uint32_t count, uint64_t header) {
    uint64_t room = client->out_size - client->out_end;
    uint32_t fit = 0;

    while (fit < count && header + records[fit].length <= room) {
        room -= header + records[fit++].length;
    }
    return fit;
}

/* From the disk itself: all at the same time. */
static uint32_t read_group_direct(struct pydrbd_lane *lane, struct pydrbd_lane_client *client,
                                  const struct pydrbd_record *records, uint32_t count) {
    const uint64_t failed = pydrbd_lane_disk_read(&lane->disk, records, count);
    const uint32_t good = failed == 0 ? count : (uint32_t)__builtin_ctzll(failed);
    const uint8_t *from = lane->disk.bounce;

    for (uint32_t i = 0; i < good; i++) {
        uint8_t *to = client->out + client->out_end;
        uint8_t *place = pydrbd_nbd_put_read_header(to, records + i, client->structured);

        memcpy(place, from, records[i].length);
        from += records[i].length;
        client->out_end += (uint64_t)(place - to) + records[i].length;
        lane->read += records[i].length;
    }
    return good;
}

/* Reads what the page cache has, with the replies' headers between; how many members that were. */
uint32_t pydrbd_lane_read_group(struct pydrbd_lane *lane, struct pydrbd_lane_client *client,
                                const struct pydrbd_record *records, uint32_t count) {
    const uint64_t header = client->structured ? CHUNK_HEADER_SIZE : REPLY_SIZE;
    uint32_t done = 0;

    count = count_with_room(client, records, count, header);
    if (lane->disk.block != 0) {
        return read_group_direct(lane, client, records, count);
    }

    for (; done < count; done++) {
        const struct pydrbd_record *record = records + done;
        uint8_t *to = client->out + client->out_end;
        struct iovec part = {to + header, record->length};
        ssize_t moved;

        moved = preadv2(lane->disk.fd, &part, 1, (off_t)(lane->disk.base + record->offset), RWF_NOWAIT);
        if (moved != (ssize_t)record->length) {
            break;
        }
        pydrbd_nbd_put_read_header(to, record, client->structured);
        client->out_end += header + record->length;
        lane->read += record->length;
    }
    return done;
}
