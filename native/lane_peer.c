/* A Secondary's lane: the peer's plain writes to our disk, and their acknowledgements, while nothing has to be decided.
 *
 *   peer's data socket -> [split, check] -> disk (its page cache) -> P_WRITE_ACK on the meta socket
 *
 * Writes are carried out one after the other, in the order in which they came. The first packet that is anything else
 * (a barrier that nobody waits for, a discard, a write with other flags or outside of the device) ends the lane and
 * stays in its buffer. */

#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64

#include "lane_io.h"

enum { P_DATA = 0x00, P_WRITE_ACK = 0x16 };
enum { FORMAT = 100, HEADER_SIZE = 40, ACK_SIZE = 40 };

static void send_acks(struct pydrbd_lane_peer *lane) {
    lane->out_start += send_some(lane->meta_fd, lane->out + lane->out_start, lane->out_end - lane->out_start);
    if (lane->out_start == lane->out_end) {
        lane->out_start = lane->out_end = 0;
    }
}

/* How many of the first packets are writes that may pass. */
static uint32_t count_passing(const struct pydrbd_lane_peer *lane, const struct pydrbd_record *records,
                              uint32_t count) {
    uint32_t passing = 0;

    for (; passing < count; passing++) {
        const struct pydrbd_record *record = records + passing;

        if (record->command != P_DATA || record->volume != lane->volume || record->flags != lane->dp_flags ||
            record->length == 0 || record->offset > lane->capacity ||
            record->length > lane->capacity - record->offset) {
            break;
        }
    }
    return passing;
}

/* Carries out a run of writes and acknowledges them. 0, or why the lane ends. */
static int write_run(struct pydrbd_lane_peer *lane, const struct pydrbd_record *records, uint32_t count) {
    const uint64_t began = lane->now;
    uint64_t failed;
    uint32_t good;

    pydrbd_lane_disk_begin_write(&lane->disk, lane->data.buffer, records, count);
    failed = pydrbd_lane_disk_end_write(&lane->disk, lane->data.buffer, records, count, &lane->error);
    good = failed == 0 ? count : (uint32_t)__builtin_ctzll(failed);

    lane->out_end += pydrbd_drbd_acks(records, good, UINT64_MAX, FORMAT, P_WRITE_ACK, lane->next_seq,
                                      lane->out + lane->out_end);
    lane->next_seq += good;
    lane->packets += good;
    lane->epoch_count += good;
    for (uint32_t i = 0; i < good; i++) {
        lane->written += records[i].length;
        lane->data.start = records[i].data + records[i].length;
        lane->peer_seq = records[i].seq;
    }
    send_acks(lane);
    lane->now = now_us();
    if (failed != 0 || lane->now - began > lane->disk.slow_us) {
        return PYDRBD_LANE_DISK;
    }
    return pydrbd_lane_flush_ahead(&lane->flush, &lane->disk, records, count, lane->epoch_count);
}

/* All whole packets in the buffer. 0, or why the lane ends. */
static int serve(struct pydrbd_lane_peer *lane, uint64_t *need_out) {
    struct pydrbd_stream *data = &lane->data;

    *need_out = 0;
    while (data->start != data->end && lane->out_start == lane->out_end) {
        struct pydrbd_record records[PYDRBD_BATCH_MAX];
        size_t consumed, need;
        int count = pydrbd_drbd_split(data->buffer, data->start, data->end, FORMAT, 0, lane->payload_max, records,
                                      PYDRBD_BATCH_MAX, &consumed, &need);
        uint32_t passing;
        int reason;

        if (count == 0) {
            *need_out = need;
            data->stuck = need > data->size;
            return data->stuck ? PYDRBD_LANE_FOREIGN : 0;
        }
        passing = count < 0 ? 0 : count_passing(lane, records, (uint32_t)count);
        passing = pydrbd_lane_disk_fits(&lane->disk, records, passing);
        if (passing != 0) {
            reason = write_run(lane, records, passing);
        } else {
            reason = count < 0 ? PYDRBD_LANE_FOREIGN : pydrbd_lane_peer_flush(lane, records);
            data->stuck = reason == PYDRBD_LANE_FOREIGN;
            send_acks(lane);
        }
        if (reason != 0) {
            return reason;
        }
    }
    return 0;
}

int pydrbd_lane_peer_run(struct pydrbd_lane_peer *lane, uint32_t slice_us, uint32_t idle_us) {
    uint64_t need, until;
    int reason;

    lane->now = now_us();
    until = lane->now + slice_us;
    reason = serve(lane, &need);
    while (reason == 0) {
        const uint64_t left = until < lane->now ? 0 : until - lane->now;
        const int answered = lane->out_start == lane->out_end;
        struct pollfd sockets[2] = {
            {.fd = lane->data.fd, .events = answered ? POLLIN : 0},
            {.fd = lane->meta_fd, .events = answered ? POLLIN : POLLIN | POLLOUT},
        };
        const int ready = wait_any(sockets, 2, left < idle_us ? left : idle_us);

        lane->now = now_us();
        if (ready == 0) {
            return lane->now >= until ? PYDRBD_LANE_SLICE : PYDRBD_LANE_IDLE;
        }
        if (sockets[1].revents & POLLOUT) {
            send_acks(lane);
        }
        if (sockets[0].revents & (POLLERR | POLLNVAL) || sockets[1].revents & ~POLLOUT) {
            return PYDRBD_LANE_FOREIGN; /* what has been read by now is whole packets, done, and the start of one */
        }
        if (sockets[0].revents != 0) {
            stream_receive(&lane->data, need);
            reason = lane->data.stuck ? PYDRBD_LANE_FOREIGN : serve(lane, &need);
        }
        if (reason == 0 && lane->now >= until) {
            return PYDRBD_LANE_SLICE;
        }
    }
    return reason;
}
