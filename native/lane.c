/* A Primary's lane: clients' plain writes to both disks and their answers, and reads, while nothing has to be decided.
 *
 *   client's socket -> [split, check] -> peer's socket and disk -> peer's acknowledgement -> client's socket
 *
 * What may pass is what Python would let pass without a second look: whole sectors inside of the device, in extents
 * that the activity log names as hot, no flags, and no byte in common with a write under way. The first request that
 * is anything else ends the lane, with all that came before it done, and stays in its buffer.
 *
 * A group of writes leaves for the peer in one call and is on our disk (lane_disk.c) when the next one is looked
 * at; so a write is answered as soon as the peer acknowledges it, and payload is never copied. */

#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64

#include "lane_io.h"

enum { NBD_CMD_READ = 0, NBD_CMD_WRITE = 1, NBD_CMD_FLUSH = 3 };
enum { P_WRITE_ACK = 0x16 };
enum { DP_SEND_WRITE_ACK = 256 };
enum { REQUEST_SIZE = 28, REPLY_SIZE = 16 };
enum { HEADER_SIZE = 40, FORMAT = 100, ACK_PAYLOAD_MAX = 4096 };
enum { EXTENT_SHIFT = 22, SPILL_WAIT_US = 20000, CLIENTS_MAX = 64 };

static struct pydrbd_lane_group *group_of(const struct pydrbd_lane *lane, uint64_t serial) {
    return lane->groups + serial % PYDRBD_LANE_GROUPS;
}

uint64_t pydrbd_lane_in_flight(const struct pydrbd_lane *lane) {
    uint64_t count = 0;

    for (uint64_t serial = lane->oldest_serial; serial < lane->next_serial; serial++) {
        count += (uint64_t)__builtin_popcountll(group_of(lane, serial)->busy);
    }
    return count;
}

/* --- what may pass --- */

static int is_hot(const struct pydrbd_lane *lane, const struct pydrbd_record *record) {
    const uint64_t last = (record->offset + record->length - 1) >> EXTENT_SHIFT;

    for (uint64_t extent = record->offset >> EXTENT_SHIFT; lane->hot != NULL && extent <= last; extent++) {
        if (!(lane->hot[extent / 8] >> (extent % 8) & 1)) {
            return 0;
        }
    }
    return 1;
}

static void touch(const struct pydrbd_lane *lane, const struct pydrbd_record *record) {
    const uint64_t last = (record->offset + record->length - 1) >> EXTENT_SHIFT;

    for (uint64_t extent = record->offset >> EXTENT_SHIFT; lane->hot != NULL && extent <= last; extent++) {
        lane->touched[extent / 8] |= (uint8_t)(1u << (extent % 8));
    }
}

/* The members that share a byte with a write under way. */
static uint64_t overlapping(const struct pydrbd_lane *lane, const struct pydrbd_record *records, uint32_t count,
                            uint64_t mask) {
    uint64_t found = 0;

    for (uint64_t serial = lane->oldest_serial; serial < lane->next_serial; serial++) {
        const struct pydrbd_lane_group *group = group_of(lane, serial);

        if (group->busy != 0) {
            found |= pydrbd_records_overlap(group->records, group->count, group->busy, records, count, mask);
        }
    }
    return found;
}

/* How many of the first requests are of the first one's kind and may pass. */
static uint32_t count_passing(const struct pydrbd_lane *lane, const struct pydrbd_record *records, uint32_t count) {
    const uint16_t command = records[0].command;
    uint64_t good = members(count, UINT64_MAX);
    uint64_t outside = good;

    if (command != NBD_CMD_READ && command != NBD_CMD_WRITE) {
        return 0;
    }
    good = pydrbd_records_with_command(records, count, good, command);
    good &= ~pydrbd_records_with_flags(records, count, good, UINT32_MAX);
    good &= ~pydrbd_records_longer(records, count, good, lane->length_max);
    good &= pydrbd_records_longer(records, count, good, 0);
    good &= ~pydrbd_records_unaligned(records, count, good, SECTOR_SIZE_BYTES);
    pydrbd_records_out_of_bounds(records, count, lane->capacity, &outside);
    good &= ~outside;
    good &= ~overlapping(lane, records, count, good);
    if (command == NBD_CMD_WRITE) {
        good &= ~pydrbd_records_overlap_self(records, count, good);
        for (uint64_t rest = good; rest != 0; rest = without_lowest(rest)) {
            good &= is_hot(lane, records + lowest(rest)) ? UINT64_MAX : ~(rest & -rest);
        }
    }
    return good == UINT64_MAX ? PYDRBD_BATCH_MAX : (uint32_t)__builtin_ctzll(~good);
}

/* --- replies --- */

static void send_replies(struct pydrbd_lane_client *client) {
    client->out_start += send_some(client->in.fd, client->out + client->out_start, client->out_end - client->out_start);
    if (client->out_start == client->out_end) {
        client->out_start = client->out_end = 0;
    }
}

static uint64_t reply_room(const struct pydrbd_lane_client *client) {
    return client->out_size - client->out_end;
}

/* --- writes --- */

/* The packets of a group, to the peer; how long its socket had to be waited for. 0, or why the lane ends. */
static int send_group(struct pydrbd_lane *lane, struct pydrbd_lane_group *group, const uint8_t *payload,
                      uint64_t *waited_us) {
    struct iovec parts[2 * PYDRBD_BATCH_MAX];
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2 * (size_t)group->count};
    uint64_t left = 0, sent = 0;

    pydrbd_drbd_data_headers(group->records, group->count, UINT64_MAX, FORMAT, lane->volume, group->serial << 6,
                             lane->next_seq, DP_SEND_WRITE_ACK, 0, lane->headers);
    lane->next_seq += group->count;
    for (uint32_t i = 0; i < group->count; i++) {
        parts[2 * i] = (struct iovec){lane->headers + HEADER_SIZE * i, HEADER_SIZE};
        parts[2 * i + 1] = (struct iovec){(uint8_t *)payload + group->records[i].data, group->records[i].length};
        left += HEADER_SIZE + group->records[i].length;
    }
    while (left != 0) {
        ssize_t taken = sendmsg(lane->data_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        struct pollfd room = {.fd = lane->data_fd, .events = POLLOUT};

        if (taken < 0 && errno != EAGAIN && errno != EINTR) {
            lane->error = errno;
            return PYDRBD_LANE_LOST;
        }
        taken = taken < 0 ? 0 : taken;
        sent += (uint64_t)taken;
        left -= (uint64_t)taken;
        for (; taken > 0 && (size_t)taken >= message.msg_iov->iov_len; message.msg_iov++, message.msg_iovlen--) {
            taken -= (ssize_t)message.msg_iov->iov_len;
        }
        if (left != 0) {
            message.msg_iov->iov_base = (uint8_t *)message.msg_iov->iov_base + taken;
            message.msg_iov->iov_len -= (size_t)taken;
            const uint64_t full = now_us();
            const int ready = wait_any(&room, 1, SPILL_WAIT_US);

            *waited_us += now_us() - full;
            if (ready == 0) {
                lane->spill_serial = group->serial;
                lane->spill_sent = sent;
                return PYDRBD_LANE_SPILL;
            }
        }
    }
    return 0;
}

/* One group: to the peer, to our disk, into the epoch's log. 0, or why the lane ends. */
static int write_group(struct pydrbd_lane *lane, uint32_t client, const struct pydrbd_record *records,
                       uint32_t count) {
    struct pydrbd_lane_group *group = group_of(lane, lane->next_serial);
    const uint8_t *payload = lane->clients[client].in.buffer;
    const uint64_t began = lane->now;
    uint64_t waited = 0;
    int reason, error;

    *group = (struct pydrbd_lane_group){
        .serial = lane->next_serial++, .epoch = lane->epoch, .client = client, .count = count};
    memcpy(group->records, records, count * sizeof(*records));
    group->busy = members(count, UINT64_MAX);
    memcpy(lane->log + lane->log_count, records, count * sizeof(*records));
    lane->log_count += count;
    lane->epoch_sent += count;
    lane->sent += count;
    for (uint32_t i = 0; i < count; i++) {
        touch(lane, records + i);
        lane->written += records[i].length;
    }
    pydrbd_lane_disk_begin_write(&lane->disk, payload, group->records, count);
    reason = send_group(lane, group, payload, &waited);
    group->failed = pydrbd_lane_disk_end_write(&lane->disk, payload, group->records, count, &error);
    lane->now = now_us();
    if (group->failed != 0 || lane->now - began - waited > lane->disk.slow_us) {
        lane->error = reason == PYDRBD_LANE_LOST ? lane->error : group->failed != 0 ? error : 0;
        reason = reason != 0 ? reason : PYDRBD_LANE_DISK;
    }
    return reason != 0 ? reason
                       : pydrbd_lane_flush_ahead(&lane->flush, &lane->disk, records, count, lane->epoch_sent);
}

/* --- requests --- */

static int is_plain_flush(const struct pydrbd_record *record) {
    return record->command == NBD_CMD_FLUSH && (record->flags | record->offset | record->length) == 0;
}

/* All whole requests in a client's buffer. 0, or why the lane ends. */
static int serve(struct pydrbd_lane *lane, uint32_t number) {
    struct pydrbd_lane_client *client = lane->clients + number;
    struct pydrbd_stream *in = &client->in;

    while (lane->flush_client < 0 && in->start != in->end && client->out_start == client->out_end) {
        struct pydrbd_record records[PYDRBD_BATCH_MAX];
        size_t consumed, need;
        int reason = 0;
        int count = pydrbd_nbd_split(in->buffer, in->start, in->end, lane->length_max, records, PYDRBD_BATCH_MAX,
                                     &consumed, &need);
        uint32_t passing;

        if (count == 0) {
            client->need = need;
            in->stuck = need > in->size;
            return in->stuck ? PYDRBD_LANE_FOREIGN : 0;
        }
        if (count > 0 && is_plain_flush(records)) {
            reason = pydrbd_lane_flush_begin(lane, number);
            in->stuck = reason == PYDRBD_LANE_FOREIGN;
            if (reason != 0) {
                return reason;
            }
            client->need = REQUEST_SIZE;
            send_replies(client);
            continue;
        }
        passing = count < 0 ? 0 : count_passing(lane, records, (uint32_t)count);
        passing = pydrbd_lane_disk_fits(&lane->disk, records, passing);
        if (passing != 0 && records[0].command == NBD_CMD_READ) {
            passing = pydrbd_lane_read_group(lane, client, records, passing);
        } else if (passing != 0 && (passing > lane->log_room - lane->log_count ||
                                    lane->next_serial - lane->oldest_serial >= PYDRBD_LANE_GROUPS)) {
            passing = 0;
        } else if (passing != 0) {
            reason = write_group(lane, number, records, passing);
        }
        if (passing == 0) {
            in->stuck = 1;
            return PYDRBD_LANE_FOREIGN;
        }
        client->batches++;
        client->requests += passing;
        lane->lone = passing == 1;
        client->need = REQUEST_SIZE;
        in->start = records[passing - 1].data +
                    (records[passing - 1].command == NBD_CMD_WRITE ? records[passing - 1].length : 0);
        send_replies(client);
        if (reason != 0) {
            return reason;
        }
    }
    return 0;
}

/* --- acknowledgements --- */

/* Whether a packet is the acknowledgement of a write of this lane, and its client's reply has room. */
static int settle_ack(struct pydrbd_lane *lane, const struct pydrbd_record *ack) {
    struct pydrbd_lane_group *group = group_of(lane, ack->id >> 6);
    const uint64_t member = UINT64_C(1) << (ack->id & 63);
    struct pydrbd_lane_client *client;

    if (ack->command != P_WRITE_ACK || group->serial != ack->id >> 6 || !(group->busy & member)) {
        return 0;
    }
    client = lane->clients + group->client;
    if (reply_room(client) < REPLY_SIZE) {
        return 0;
    }
    pydrbd_nbd_replies(group->records + (ack->id & 63), 1, 1, 0, 0, client->out + client->out_end);
    client->out_end += REPLY_SIZE;
    group->busy &= ~member;
    lane->peer_seq = ack->seq;
    return 1;
}

/* All whole packets in the peer's buffer. 0, or why the lane ends. */
static int settle_acks(struct pydrbd_lane *lane) {
    struct pydrbd_stream *meta = &lane->meta;
    int reason = 0;

    while (reason == 0 && meta->start != meta->end) {
        struct pydrbd_record records[PYDRBD_BATCH_MAX];
        size_t consumed, need;
        int count = pydrbd_drbd_split(meta->buffer, meta->start, meta->end, FORMAT, 0, ACK_PAYLOAD_MAX, records,
                                      PYDRBD_BATCH_MAX, &consumed, &need);
        int done = 0;

        if (count == 0) {
            break;
        }
        for (; done < count; done++) {
            const struct pydrbd_record *ack = records + done;

            if (settle_ack(lane, ack)) {
                meta->start = ack->data; /* it has no data: this is its end */
            } else if (pydrbd_lane_flush_settle(lane, ack)) {
                meta->start = ack->data + ack->length;
            } else {
                break;
            }
        }
        meta->stuck = done != count;
        reason = meta->stuck ? PYDRBD_LANE_FOREIGN : 0;
    }
    while (lane->oldest_serial < lane->next_serial && group_of(lane, lane->oldest_serial)->busy == 0) {
        lane->oldest_serial++;
    }
    for (uint32_t i = 0; i < lane->client_count; i++) {
        if (lane->clients[i].out_end != 0) {
            send_replies(lane->clients + i);
        }
    }
    return reason;
}

/* --- the loop --- */

/* One client with something to say, or with room for what we have to say. 0, or why the lane ends. */
static int attend(struct pydrbd_lane *lane, uint32_t number, short events) {
    struct pydrbd_lane_client *client = lane->clients + number;

    if (events & POLLOUT) {
        send_replies(client);
    }
    if (events & POLLIN && client->out_start == client->out_end) {
        stream_receive(&client->in, client->need);
    }
    if (client->in.stuck || events & (POLLERR | POLLHUP | POLLNVAL)) {
        client->in.stuck = 1;
        return PYDRBD_LANE_FOREIGN;
    }
    return serve(lane, number);
}

/* Whether little is under way, so that the peer's next word is all that anybody waits for. */
static int answer_is_near(const struct pydrbd_lane *lane) {
    return lane->flush_client >= 0 ||
           (lane->next_serial - lane->oldest_serial == 1 &&
            __builtin_popcountll(group_of(lane, lane->oldest_serial)->busy) == 1);
}

/* Waits for any of the sockets. Who has one request at a time under way is soon answered by the peer, and soon asks
 * again. */
static int wait_for_all(struct pydrbd_lane *lane, struct pollfd *sockets, uint64_t wait_us) {
    const uint32_t count = lane->client_count + 2;

    if (answer_is_near(lane)) {
        return wait_soon(sockets, count, wait_us, &lane->spin_credit);
    }
    if (lane->flush.beside && lane->lone && lane->next_serial == lane->oldest_serial) {
        return wait_soon(sockets, count, wait_us, &lane->client_spin_credit);
    }
    return wait_any(sockets, count, wait_us);
}

/* One look at all sockets. 0, or why the lane ends. */
static int turn(struct pydrbd_lane *lane, uint64_t wait_us) {
    struct pollfd sockets[CLIENTS_MAX + 2] = {
        {.fd = lane->meta.fd, .events = POLLIN},
        {.fd = lane->data_fd, .events = POLLIN},
    };
    int reason = 0, ready;

    for (uint32_t i = 0; i < lane->client_count; i++) {
        const struct pydrbd_lane_client *client = lane->clients + i;
        const int listens = lane->flush_client < 0; /* else it has to wait for the flush */

        sockets[2 + i].fd = client->in.fd;
        sockets[2 + i].events = (short)(client->out_start != client->out_end ? POLLOUT : listens ? POLLIN : 0);
    }
    ready = wait_for_all(lane, sockets, wait_us);
    lane->now = now_us();
    if (ready == 0) {
        return PYDRBD_LANE_IDLE;
    }
    if (sockets[0].revents != 0) {
        const int flushing = lane->flush_client >= 0;

        stream_receive(&lane->meta, 0);
        reason = lane->meta.stuck ? PYDRBD_LANE_FOREIGN : settle_acks(lane);
        for (uint32_t i = 0; flushing && reason == 0 && i < lane->client_count; i++) {
            reason = serve(lane, i); /* what has waited for the flush */
        }
    }
    for (uint32_t i = 0; reason == 0 && i < lane->client_count; i++) {
        if (sockets[2 + i].revents != 0) {
            reason = attend(lane, i, sockets[2 + i].revents);
        }
    }
    return reason != 0 || sockets[1].revents == 0 ? reason : PYDRBD_LANE_FOREIGN;
}

int pydrbd_lane_run(struct pydrbd_lane *lane, uint32_t slice_us, uint32_t idle_us) {
    uint64_t until;
    int reason;

    lane->now = now_us();
    until = lane->now + slice_us;
    reason = settle_acks(lane);
    for (uint32_t i = 0; reason == 0 && i < lane->client_count; i++) {
        reason = serve(lane, i);
    }
    while (reason == 0) {
        const uint64_t left = until < lane->now ? 0 : until - lane->now;

        reason = turn(lane, left < idle_us ? left : idle_us);
        if (pydrbd_lane_flush_is_late(lane)) {
            return PYDRBD_LANE_IDLE;
        }
        if (reason == PYDRBD_LANE_IDLE &&
            (lane->flush_client >= 0 || pydrbd_lane_in_flight(lane) != 0 || lane->now >= until)) {
            reason = 0; /* an answer is awaited; or it was the end of the slice that cut the wait short */
        }
        if (reason == 0 && lane->now >= until) {
            return PYDRBD_LANE_SLICE;
        }
    }
    return reason;
}
