/* What both lanes share: time, sockets, and the memory that they are read into. */

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#include "internal.h"

static inline uint64_t now_us(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

/* Waits for any of the sockets; how many have something to say. An interrupted wait is a short one. */
static inline int wait_any(struct pollfd *sockets, uint32_t count, uint64_t wait_us) {
    struct timespec wait = {.tv_sec = (time_t)(wait_us / 1000000u), .tv_nsec = (long)(wait_us % 1000000u) * 1000};
    int ready = ppoll(sockets, count, &wait, NULL);

    return ready < 0 ? 0 : ready;
}

enum { SPIN_US = 60, SPIN_CREDIT_MAX = 8, SPIN_DEBT = 200 };

/* As wait_any, but looks again and again for a moment before it sleeps: to be woken costs more than a short answer
 * takes. Looking pays only if it finds something. On a busy machine it doesn't, because whoever is to answer has no
 * processor: after some failures (`credit` is used up) nobody looks for the next SPIN_DEBT times. */
static inline int wait_soon(struct pollfd *sockets, uint32_t count, uint64_t wait_us, int32_t *credit) {
    uint64_t until;

    if (*credit < 0) {
        ++*credit;
        return wait_any(sockets, count, wait_us);
    }
    until = now_us() + (wait_us < SPIN_US ? wait_us : SPIN_US);
    do {
        const int ready = wait_any(sockets, count, 0);

        if (ready != 0) {
            *credit += *credit < SPIN_CREDIT_MAX;
            return ready;
        }
    } while (now_us() < until);
    *credit = *credit > 1 ? *credit - 2 : -SPIN_DEBT;
    return wait_any(sockets, count, wait_us);
}

/* Room behind what is there, so that `need` bytes from its start can be completed; no more than the buffer has. */
static inline void stream_make_room(struct pydrbd_stream *stream, uint64_t need) {
    const uint64_t held = stream->end - stream->start;

    if (stream->start != 0 && (held == 0 || stream->size - stream->start < need || stream->end == stream->size)) {
        memmove(stream->buffer, stream->buffer + stream->start, held);
        stream->start = 0;
        stream->end = held;
    }
}

/* Reads what is there. 0: nothing, or no room, or the stream has ended; then it is stuck, and Python sees to it. */
static inline int stream_receive(struct pydrbd_stream *stream, uint64_t need) {
    ssize_t count;

    stream_make_room(stream, need);
    if (stream->end == stream->size) {
        stream->stuck = 1;
        return 0;
    }
    count = recv(stream->fd, stream->buffer + stream->end, stream->size - stream->end, MSG_DONTWAIT);
    if (count > 0) {
        stream->end += (uint64_t)count;
        stream->received += (uint64_t)count;
        stream->wakeups++;
        return 1;
    }
    stream->stuck = count == 0 || (errno != EAGAIN && errno != EINTR);
    return 0;
}

/* Sends one piece of memory as far as the socket takes it; the bytes that it took. A socket that failed takes none:
 * who reads from it will see why. */
static inline uint64_t send_some(int fd, const uint8_t *from, uint64_t length) {
    ssize_t count = length == 0 ? 0 : send(fd, from, length, MSG_DONTWAIT | MSG_NOSIGNAL);

    return count > 0 ? (uint64_t)count : 0;
}
