/* The local disk: one system call a record. What failed comes back as a mask, with the errno of the first failure. */

#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64

#include <errno.h>
#include <sys/types.h>
#include <unistd.h>

#include "internal.h"

/* The place in the file, or -1 if no file is that long. */
static int64_t place_in_file(uint64_t base, const struct pydrbd_record *record) {
    uint64_t offset = end_of(base, record->offset);

    return end_of(offset, record->length) > INT64_MAX ? -1 : (int64_t)offset;
}

/* 0, or an errno. A call that moves nothing is an error: end of file when reading, a broken driver when writing. */
static int write_all(int fd, const uint8_t *from, size_t length, int64_t offset) {
    while (length > 0) {
        ssize_t moved = pwrite(fd, from, length, offset);

        if (moved > 0) {
            from += moved;
            offset += moved;
            length -= (size_t)moved;
        } else if (moved == 0) {
            return EIO;
        } else if (errno != EINTR) {
            return errno;
        }
    }
    return 0;
}

static int read_all(int fd, uint8_t *to, size_t length, int64_t offset) {
    while (length > 0) {
        ssize_t moved = pread(fd, to, length, offset);

        if (moved > 0) {
            to += moved;
            offset += moved;
            length -= (size_t)moved;
        } else if (moved == 0) {
            return EIO;
        } else if (errno != EINTR) {
            return errno;
        }
    }
    return 0;
}

/* Adds a member that failed, and keeps the errno of the first. */
static void note(int error, uint64_t member, uint64_t *failed, int *first_errno) {
    if (error != 0) {
        *first_errno = *failed == 0 ? error : *first_errno;
        *failed |= member;
    }
}

uint64_t pydrbd_pwrite_records(int fd, uint64_t base, const uint8_t *buffer, const struct pydrbd_record *records,
                               uint32_t count, uint64_t mask, int *first_errno) {
    uint64_t failed = 0;

    *first_errno = 0;
    for (mask = members(count, mask); mask != 0; mask = without_lowest(mask)) {
        const struct pydrbd_record *record = records + lowest(mask);
        int64_t place = place_in_file(base, record);

        note(place < 0 ? EINVAL : write_all(fd, buffer + record->data, record->length, place), mask & -mask, &failed,
             first_errno);
    }
    return failed;
}

uint64_t pydrbd_pread_records(int fd, uint64_t base, uint8_t *buffer, const struct pydrbd_record *records,
                              uint32_t count, uint64_t mask, int *first_errno) {
    uint64_t failed = 0;

    *first_errno = 0;
    for (mask = members(count, mask); mask != 0; mask = without_lowest(mask)) {
        const struct pydrbd_record *record = records + lowest(mask);
        int64_t place = place_in_file(base, record);

        note(place < 0 ? EINVAL : read_all(fd, buffer + record->data, record->length, place), mask & -mask, &failed,
             first_errno);
    }
    return failed;
}
