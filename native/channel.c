/* A request of another program's thread, on a blocking socket whose other end is an NBD connection of ours: out, and
 * its simple reply in, by one call. In between nobody needs the interpreter, for which many threads would queue. */

#define _GNU_SOURCE

#include <errno.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "internal.h"

enum { NBD_CMD_READ = 0, NBD_CMD_WRITE = 1 };
enum { REQUEST_SIZE = 28, REPLY_SIZE = 16 };
enum { REQUEST_MAGIC = 0x25609513, REPLY_MAGIC = 0x67446698 };

/* Moves on by what a call has moved; 0 when all of it is done. */
static size_t advance(struct msghdr *message, size_t moved) {
    while (message->msg_iovlen != 0 && moved >= message->msg_iov->iov_len) {
        moved -= message->msg_iov->iov_len;
        message->msg_iov++;
        message->msg_iovlen--;
    }
    if (message->msg_iovlen != 0) {
        message->msg_iov->iov_base = (uint8_t *)message->msg_iov->iov_base + moved;
        message->msg_iov->iov_len -= moved;
    }
    return message->msg_iovlen;
}

/* All of two pieces of memory; whether that went well. */
static int send_all(int fd, struct iovec *parts, size_t count) {
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};

    do {
        const ssize_t moved = sendmsg(fd, &message, MSG_NOSIGNAL);

        if (moved < 0 && errno != EINTR) {
            return 0;
        }
        count = advance(&message, moved < 0 ? 0 : (size_t)moved);
    } while (count != 0);
    return 1;
}

/* The reply, and behind one without an error its data; whether the stream went on for so long. */
static int receive_reply(int fd, uint8_t *reply, uint8_t *data, size_t length) {
    struct iovec parts[2] = {{reply, REPLY_SIZE}, {data, length}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = length != 0 ? 2 : 1};
    size_t received = 0;

    while (received < REPLY_SIZE || (received < REPLY_SIZE + length && get_be32(reply + 4) == 0)) {
        const ssize_t moved = recvmsg(fd, &message, 0);

        if (moved == 0 || (moved < 0 && errno != EINTR)) {
            return 0;
        }
        received += moved < 0 ? 0 : (size_t)moved;
        advance(&message, moved < 0 ? 0 : (size_t)moved);
    }
    return 1;
}

int64_t pydrbd_channel_call(int fd, uint16_t command, uint16_t flags, uint64_t offset, uint32_t length, uint8_t *data) {
    uint8_t request[REQUEST_SIZE], reply[REPLY_SIZE];
    struct iovec parts[2] = {{request, REQUEST_SIZE}, {data, length}};

    put_be64(put_be16(put_be16(put_be32(request, REQUEST_MAGIC), flags), command), 0);
    put_be32(put_be64(request + 16, offset), length);
    if (!send_all(fd, parts, command == NBD_CMD_WRITE && length != 0 ? 2 : 1) ||
        !receive_reply(fd, reply, data, command == NBD_CMD_READ ? length : 0)) {
        return PYDRBD_E_LENGTH;
    }
    return get_be32(reply) == REPLY_MAGIC ? (int64_t)get_be32(reply + 4) : PYDRBD_E_MAGIC;
}
