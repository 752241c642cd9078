/* Requests of another program's threads, on one blocking socket whose other end is an NBD connection of ours.
 *
 *   a thread   puts its request in the queue, and waits for its answer
 *   one of those that wait sends the whole queue by one call, another one reads all answers that are there
 *
 * So what many threads ask at a time arrives together, is one group of the lane's, and comes back together. Nobody
 * needs the interpreter meanwhile, for which many threads would queue.
 *
 * A request whose thread has gone to sleep is always somebody's: who leaves the sending with something in the queue
 * wakes one that waits, but the reader sleeps in the kernel, and can't be woken: if only its request is left, it is
 * sent first. Who leaves the reading wakes one that waits. Who waits and finds either undone does it. */

#define _GNU_SOURCE

#include <errno.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "internal.h"

enum { NBD_CMD_READ = 0, NBD_CMD_WRITE = 1 };
enum { REQUEST_SIZE = 28, REPLY_SIZE = 16, STAGE_SIZE = 128 * 1024 };
enum { REQUEST_MAGIC = 0x25609513, REPLY_MAGIC = 0x67446698 };
enum { SLOTS = PYDRBD_BATCH_MAX, NOBODY = -1 };

struct slot {
    pthread_cond_t woken;
    uint8_t request[REQUEST_SIZE];
    uint8_t *data;
    size_t sent_length;     /* of data behind the request */
    size_t received_length; /* and behind its reply */
    int64_t answer;
};

struct pydrbd_channel {
    pthread_mutex_t lock;
    pthread_cond_t room;    /* for one more request */
    int fd;
    int broken;             /* why nothing is sent or read any more: PYDRBD_E_... */
    int sender, reader;     /* slots whose threads are at it, or NOBODY */
    uint64_t used;          /* slots; the number is the request's cookie */
    uint64_t sent;          /* those of them that have left the queue */
    uint64_t answered;      /* and that have their answer */
    uint32_t queue[SLOTS];
    uint32_t queued;
    size_t start, end;      /* what is read and not used up: stage[start:end], the reader's */
    struct slot slots[SLOTS];
    uint8_t stage[STAGE_SIZE];
};

size_t pydrbd_channel_size(void) {
    return sizeof(struct pydrbd_channel);
}

void pydrbd_channel_open(struct pydrbd_channel *channel, int fd) {
    memset(channel, 0, sizeof(*channel));
    channel->fd = fd;
    channel->sender = channel->reader = NOBODY;
    pthread_mutex_init(&channel->lock, NULL);
    pthread_cond_init(&channel->room, NULL);
    for (int i = 0; i < SLOTS; i++) {
        pthread_cond_init(&channel->slots[i].woken, NULL);
    }
}

void pydrbd_channel_close(struct pydrbd_channel *channel) {
    for (int i = 0; i < SLOTS; i++) {
        pthread_cond_destroy(&channel->slots[i].woken);
    }
    pthread_cond_destroy(&channel->room);
    pthread_mutex_destroy(&channel->lock);
}

static void wake(struct pydrbd_channel *channel, uint64_t slots) {
    for (; slots != 0; slots = without_lowest(slots)) {
        pthread_cond_signal(&channel->slots[lowest(slots)].woken);
    }
}

static uint64_t member(int slot) {
    return slot == NOBODY ? 0 : UINT64_C(1) << slot;
}

/* Nothing is said any more: whoever sends or reads now comes back. */
static void give_up(struct pydrbd_channel *channel, int why) {
    channel->broken = channel->broken != 0 ? channel->broken : why;
    shutdown(channel->fd, SHUT_RDWR);
    wake(channel, channel->used);
    pthread_cond_broadcast(&channel->room);
}

/* --- sending --- */

/* All of these pieces of memory; whether that went well. */
static int send_all(int fd, struct iovec *parts, size_t count) {
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};

    while (message.msg_iovlen != 0) {
        ssize_t moved = sendmsg(fd, &message, MSG_NOSIGNAL);

        if (moved < 0 && errno != EINTR) {
            return 0;
        }
        moved = moved < 0 ? 0 : moved;
        for (; message.msg_iovlen != 0 && (size_t)moved >= message.msg_iov->iov_len; message.msg_iov++) {
            moved -= (ssize_t)message.msg_iov->iov_len;
            message.msg_iovlen--;
        }
        if (message.msg_iovlen != 0) {
            message.msg_iov->iov_base = (uint8_t *)message.msg_iov->iov_base + moved;
            message.msg_iov->iov_len -= (size_t)moved;
        }
    }
    return 1;
}

/* Takes the whole queue and sends it; with the lock, which is let go of meanwhile. */
static void send_queue(struct pydrbd_channel *channel) {
    struct iovec parts[2 * SLOTS];
    size_t count = 0;
    int went_well;

    for (uint32_t i = 0; i < channel->queued; i++) {
        struct slot *slot = channel->slots + channel->queue[i];

        channel->sent |= member((int)channel->queue[i]);
        parts[count++] = (struct iovec){slot->request, REQUEST_SIZE};
        if (slot->sent_length != 0) {
            parts[count++] = (struct iovec){slot->data, slot->sent_length};
        }
    }
    channel->queued = 0;
    pthread_mutex_unlock(&channel->lock);
    went_well = send_all(channel->fd, parts, count);
    pthread_mutex_lock(&channel->lock);
    if (!went_well) {
        give_up(channel, PYDRBD_E_LENGTH);
    }
}

/* Whose request is in the queue, and can be woken to send it. */
static uint64_t who_could_send(const struct pydrbd_channel *channel) {
    uint64_t found = 0;

    for (uint32_t i = 0; i < channel->queued; i++) {
        found |= member((int)channel->queue[i]);
    }
    return found & ~member(channel->reader);
}

static void be_sender(struct pydrbd_channel *channel, int me) {
    uint64_t others;

    channel->sender = me;
    do {
        send_queue(channel);
        others = who_could_send(channel);
    } while (channel->broken == 0 && channel->queued != 0 && (others == 0 || !(channel->answered & member(me))));
    channel->sender = NOBODY;
    wake(channel, channel->queued != 0 ? others & -others : 0);
}

/* --- reading --- */

static ssize_t receive(int fd, uint8_t *to, size_t length) {
    ssize_t moved;

    do {
        moved = recv(fd, to, length, 0);
    } while (moved < 0 && errno == EINTR);
    return moved;
}

/* The data of a READ: what is in the stage already, and the rest from the socket. 0, or why that is not possible. */
static int take_data(struct pydrbd_channel *channel, uint8_t *to, size_t length) {
    const size_t held = channel->end - channel->start;
    size_t taken = held < length ? held : length;

    memcpy(to, channel->stage + channel->start, taken);
    channel->start += taken;
    while (taken < length) {
        const ssize_t moved = receive(channel->fd, to + taken, length - taken);

        if (moved <= 0) {
            return PYDRBD_E_LENGTH;
        }
        taken += (size_t)moved;
    }
    return 0;
}

/* The reply at the front: adds its slot to those that are answered. 0, or why that is not possible. */
static int take_reply(struct pydrbd_channel *channel, uint64_t waiting, uint64_t *answered) {
    const uint8_t *reply = channel->stage + channel->start;
    const uint64_t cookie = get_be64(reply + 8);
    struct slot *slot = channel->slots + (cookie < SLOTS ? cookie : 0);
    int error = 0;

    if (get_be32(reply) != REPLY_MAGIC || cookie >= SLOTS || !((waiting & ~*answered) >> cookie & 1)) {
        return PYDRBD_E_MAGIC;
    }
    slot->answer = get_be32(reply + 4);
    channel->start += REPLY_SIZE;
    if (slot->answer == 0) {
        error = take_data(channel, slot->data, slot->received_length);
    }
    *answered |= error == 0 ? UINT64_C(1) << cookie : 0;
    return error;
}

/* Reads what is there, at least something; with the lock, which is let go of meanwhile. */
static void read_replies(struct pydrbd_channel *channel) {
    uint64_t answered = 0, waiting;
    ssize_t moved;
    int error;

    pthread_mutex_unlock(&channel->lock);
    memmove(channel->stage, channel->stage + channel->start, channel->end - channel->start);
    channel->end -= channel->start;
    channel->start = 0;
    moved = receive(channel->fd, channel->stage + channel->end, STAGE_SIZE - channel->end);
    channel->end += moved > 0 ? (size_t)moved : 0;
    error = moved > 0 ? 0 : PYDRBD_E_LENGTH;
    pthread_mutex_lock(&channel->lock);
    waiting = channel->sent & ~channel->answered;
    pthread_mutex_unlock(&channel->lock);
    while (error == 0 && channel->end - channel->start >= REPLY_SIZE) {
        error = take_reply(channel, waiting, &answered);
    }
    pthread_mutex_lock(&channel->lock);
    channel->answered |= answered;
    if (error != 0) {
        give_up(channel, error);
    }
    pthread_mutex_unlock(&channel->lock); /* who is woken needs it */
    wake(channel, answered & ~member(channel->reader));
    pthread_mutex_lock(&channel->lock);
}

static void be_reader(struct pydrbd_channel *channel, int me) {
    uint64_t others;

    channel->reader = me;
    do {
        read_replies(channel);
    } while (channel->broken == 0 && !(channel->answered & member(me)));
    channel->reader = NOBODY;
    others = channel->used & ~channel->answered & ~member(channel->sender) & ~member(me);
    wake(channel, others & -others);
}

/* --- a request --- */

static int begin(struct pydrbd_channel *channel, uint16_t command, uint16_t flags, uint64_t offset, uint32_t length,
                 uint8_t *data) {
    const int me = (int)lowest(~channel->used);
    struct slot *slot = channel->slots + me;
    uint8_t *rest = put_be16(put_be16(put_be32(slot->request, REQUEST_MAGIC), flags), command);

    put_be32(put_be64(put_be64(rest, (uint64_t)me), offset), length);
    slot->data = data;
    slot->sent_length = command == NBD_CMD_WRITE ? length : 0;
    slot->received_length = command == NBD_CMD_READ ? length : 0;
    channel->used |= member(me);
    channel->queue[channel->queued++] = (uint32_t)me;
    return me;
}

/* Whether this thread may leave: with its answer, or because there will be none, and nobody uses its memory. */
static int is_over(const struct pydrbd_channel *channel, int me) {
    return (channel->answered & member(me)) != 0 ||
           (channel->broken != 0 && channel->sender == NOBODY && channel->reader == NOBODY);
}

int64_t pydrbd_channel_call(struct pydrbd_channel *channel, uint16_t command, uint16_t flags, uint64_t offset,
                            uint32_t length, uint8_t *data) {
    int64_t answer;
    int me;

    pthread_mutex_lock(&channel->lock);
    while (channel->used == UINT64_MAX && channel->broken == 0) {
        pthread_cond_wait(&channel->room, &channel->lock);
    }
    if (channel->broken != 0) {
        answer = channel->broken;
        pthread_mutex_unlock(&channel->lock);
        return answer;
    }
    me = begin(channel, command, flags, offset, length, data);
    while (!is_over(channel, me)) {
        if (channel->broken == 0 && channel->sender == NOBODY && channel->queued != 0) {
            be_sender(channel, me);
        } else if (channel->broken == 0 && channel->reader == NOBODY) {
            be_reader(channel, me);
        } else {
            pthread_cond_wait(&channel->slots[me].woken, &channel->lock);
        }
    }
    answer = channel->answered & member(me) ? channel->slots[me].answer : channel->broken;
    channel->used &= ~member(me);
    channel->sent &= ~member(me);
    channel->answered &= ~member(me);
    if (channel->broken != 0) {
        wake(channel, channel->used); /* the last one that was at it lets them go */
    }
    pthread_cond_signal(&channel->room);
    pthread_mutex_unlock(&channel->lock);
    return answer;
}
