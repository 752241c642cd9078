/* FLUSH in a lane: both disks flush at the same time, and no thread and no Python is woken for it.
 *
 *   Primary     FLUSH -> P_BARRIER that says that somebody waits -> our own flush -> P_BARRIER_ACK -> reply
 *   Secondary   such a P_BARRIER -> flush -> P_BARRIER_ACK
 *
 * A lane flushes only if nothing else is under way, so that the barrier's epoch is all that the peer has not confirmed.
 * Until the reply no other request is looked at. The request stays in its buffer until then: a lane that ends before
 * leaves it to Python, which begins anew, after a barrier that has been sent.
 *
 * Where a FLUSH comes after a few writes only, as a database's log does it, the disk begins with each write at once: by
 * the time the FLUSH is here, and the peer has heard of it, most of the wait is over.
 *
 * Who waits here does nothing else. A disk that takes its time therefore flushes in Python's threads. */

#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lane_io.h"

enum { P_BARRIER = 0x03, P_BARRIER_ACK = 0x1c };
enum { HEADER_SIZE = 16, BARRIER_SIZE = 8, REQUEST_SIZE = 28, REPLY_SIZE = 16 };
enum { SEND_WAIT_US = 20000, SEND_TRIES = 50 };
enum { FEW_WRITES = 8 };

#define MAGIC_100 0x8620ec20u

static uint8_t *put_packet(uint8_t *to, uint16_t command, uint32_t number, uint32_t word) {
    to = put_be16(put_be16(put_be32(to, MAGIC_100), 0), command);
    to = put_be32(put_be32(to, BARRIER_SIZE), 0);
    return put_be32(put_be32(to, number), word);
}

/* Makes durable what is in the page cache. 0, or why the lane ends. */
static int flush_disk(struct pydrbd_lane_flush *flush, int fd) {
    const uint64_t began = now_us();
    struct stat now;

    flush->count++;
    if (fdatasync(fd) != 0 || (flush->size_min != 0 && fstat(fd, &now) != 0)) {
        flush->error = errno;
    } else if (flush->size_min != 0 && (uint64_t)now.st_size < flush->size_min) {
        flush->error = EIO; /* cut off while in use: what was written behind its end is gone */
    }
    if (now_us() - began > flush->slow_us) {
        flush->was_slow = 1;
        flush->allowed = 0;
    }
    return flush->error != 0 ? PYDRBD_LANE_DISK : 0;
}

int pydrbd_lane_flush_ahead(struct pydrbd_lane_flush *flush, const struct pydrbd_lane_disk *disk,
                            const struct pydrbd_record *records, uint32_t count, uint64_t epoch_count) {
    flush->comes_soon &= flush->allowed && flush->beside && disk->block == 0 && epoch_count <= FEW_WRITES;
    for (uint32_t i = 0; flush->comes_soon && i < count; i++) {
        const off_t place = (off_t)(disk->base + records[i].offset);

        if (sync_file_range(disk->fd, place, (off_t)records[i].length, SYNC_FILE_RANGE_WRITE) == 0) {
            continue;
        }
        flush->comes_soon = 0;
        if (errno == EIO || errno == ENOSPC || errno == EDQUOT) {
            flush->error = errno; /* what could not be written may be gone from the page cache: no flush would know */
            return PYDRBD_LANE_DISK;
        }
    }
    return 0;
}

/* --- on the Primary --- */

/* The whole barrier, or nothing of it (the lane then ends); a socket that takes a part is waited for. */
static int send_barrier(struct pydrbd_lane *lane) {
    uint8_t packet[HEADER_SIZE + BARRIER_SIZE];
    uint64_t sent = 0;

    put_packet(packet, P_BARRIER, (uint32_t)lane->epoch, 1);
    for (int tries = 0; tries < SEND_TRIES; tries++) {
        struct pollfd room = {.fd = lane->data_fd, .events = POLLOUT};

        sent += send_some(lane->data_fd, packet + sent, sizeof(packet) - sent);
        if (sent == 0) {
            return PYDRBD_LANE_FOREIGN;
        }
        if (sent == sizeof(packet)) {
            return 0;
        }
        wait_any(&room, 1, SEND_WAIT_US);
    }
    lane->error = ETIMEDOUT;
    return PYDRBD_LANE_LOST;
}

static void answer(struct pydrbd_lane *lane) {
    struct pydrbd_lane_client *client = lane->clients + lane->flush_client;
    const struct pydrbd_record request = {.command = 3, .id = get_be64(client->in.buffer + client->in.start + 8)};

    client->out_end += pydrbd_nbd_replies(&request, 1, 1, 0, 0, client->out + client->out_end);
    client->in.start += REQUEST_SIZE;
    client->requests++;
    client->batches++;
    lane->flush_client = -1;
}

int pydrbd_lane_flush_begin(struct pydrbd_lane *lane, uint32_t client) {
    int reason = 0;

    if (!lane->flush.allowed || pydrbd_lane_in_flight(lane) != 0 ||
        lane->clients[client].out_size - lane->clients[client].out_end < REPLY_SIZE) {
        return PYDRBD_LANE_FOREIGN;
    }
    lane->flush.comes_soon = lane->epoch_sent <= FEW_WRITES;
    if (lane->epoch_sent != 0) {
        reason = send_barrier(lane);
        lane->barrier_sent = reason == 0;
    }
    if (reason == 0) {
        lane->flush_began = now_us();
        reason = flush_disk(&lane->flush, lane->disk.fd);
    }
    if (reason == 0) {
        lane->flush_client = (int32_t)client;
        if (!lane->barrier_sent) {
            answer(lane); /* nothing was written since the last one */
        }
    }
    return reason;
}

int pydrbd_lane_flush_is_late(struct pydrbd_lane *lane) {
    if (lane->flush_client < 0 || now_us() - lane->flush_began <= lane->flush.slow_us) {
        return 0;
    }
    lane->flush.was_slow = 1;
    return 1;
}

/* Whether a packet is the acknowledgement that a FLUSH waits for: then that is answered, and the next epoch begins. */
int pydrbd_lane_flush_settle(struct pydrbd_lane *lane, const struct pydrbd_record *ack) {
    const uint8_t *payload = lane->meta.buffer + ack->data;

    if (ack->command != P_BARRIER_ACK || ack->length != BARRIER_SIZE || lane->flush_client < 0 ||
        get_be32(payload) != (uint32_t)lane->epoch || get_be32(payload + 4) != lane->epoch_sent) {
        return 0;
    }
    lane->barrier_sent = 0;
    lane->epoch++;
    lane->epoch_sent = 0;
    lane->log_count = 0;
    answer(lane);
    return 1;
}

/* --- on the Secondary --- */

int pydrbd_lane_peer_flush(struct pydrbd_lane_peer *lane, const struct pydrbd_record *barrier) {
    const uint8_t *payload = lane->data.buffer + barrier->data;
    int reason;

    if (barrier->command != P_BARRIER || barrier->length != BARRIER_SIZE || !lane->flush.allowed ||
        get_be32(payload + 4) == 0 || lane->epoch_count == 0 || lane->epoch_count > UINT32_MAX ||
        lane->out_size - lane->out_end < HEADER_SIZE + BARRIER_SIZE) {
        return PYDRBD_LANE_FOREIGN;
    }
    lane->flush.comes_soon = lane->epoch_count <= FEW_WRITES;
    reason = flush_disk(&lane->flush, lane->disk.fd);
    if (reason != 0) {
        return reason;
    }
    put_packet(lane->out + lane->out_end, P_BARRIER_ACK, get_be32(payload), (uint32_t)lane->epoch_count);
    lane->out_end += HEADER_SIZE + BARRIER_SIZE;
    lane->epoch_count = 0;
    lane->epochs++;
    lane->data.start = barrier->data + barrier->length;
    return 0;
}
