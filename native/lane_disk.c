/* The disk of a lane. Through the page cache, one call a record; with direct I/O, the members of a group at the same
 * time: they are copied into (or out of) aligned memory, handed to the kernel together, and waited for together.
 *
 * The wait has no limit: a disk that hangs holds the whole process. The peer hears nothing more, and goes on alone. */

#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64

#include <linux/aio_abi.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lane_io.h"

/* The library has no names for these calls. */
static long submit(uint64_t context, long count, struct iocb **requests) {
    return syscall(SYS_io_submit, (aio_context_t)context, count, requests);
}

static long wait_for(uint64_t context, long count, struct io_event *events) {
    return syscall(SYS_io_getevents, (aio_context_t)context, count, count, events, NULL);
}

uint64_t pydrbd_lane_aio_open(void) {
    aio_context_t context = 0;

    return syscall(SYS_io_setup, PYDRBD_BATCH_MAX, &context) == 0 ? (uint64_t)context : 0;
}

void pydrbd_lane_aio_close(uint64_t context) {
    syscall(SYS_io_destroy, (aio_context_t)context);
}

uint32_t pydrbd_lane_disk_fits(const struct pydrbd_lane_disk *disk, const struct pydrbd_record *records,
                               uint32_t count) {
    uint64_t room = disk->bounce_size;

    if (disk->block == 0) {
        return count;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (records[i].length > room || (records[i].offset | records[i].length) % disk->block != 0) {
            return i;
        }
        room -= records[i].length;
    }
    return count;
}

/* Hands the members to the kernel; `places` are where they lie in the bounce memory. What it does not take is left to
 * wait_all. */
static void begin_all(struct pydrbd_lane_disk *disk, uint16_t operation, const struct pydrbd_record *places,
                      uint32_t count) {
    struct iocb requests[PYDRBD_BATCH_MAX] = {0};
    struct iocb *list[PYDRBD_BATCH_MAX];
    uint32_t taken = 0;

    for (uint32_t i = 0; i < count; i++) {
        requests[i].aio_data = i;
        requests[i].aio_lio_opcode = operation;
        requests[i].aio_fildes = (uint32_t)disk->fd;
        requests[i].aio_buf = (uint64_t)(uintptr_t)(disk->bounce + places[i].data);
        requests[i].aio_nbytes = places[i].length;
        requests[i].aio_offset = (int64_t)(disk->base + places[i].offset);
        list[i] = requests + i;
    }
    while (disk->context != 0 && taken < count) {
        const long more = submit(disk->context, (long)(count - taken), list + taken);

        if (more <= 0 && errno != EINTR) {
            break;
        }
        taken += more > 0 ? (uint32_t)more : 0;
    }
    disk->pending = taken;
}

/* Waits for all that was taken; the members that are to be done one by one. */
static uint64_t wait_all(struct pydrbd_lane_disk *disk, const struct pydrbd_record *places, uint32_t count) {
    uint64_t left = members(count, UINT64_MAX);

    while (disk->pending != 0) {
        struct io_event events[PYDRBD_BATCH_MAX];
        const long got = wait_for(disk->context, (long)disk->pending, events);

        if (got < 0 && errno != EINTR) {
            __builtin_trap(); /* requests that nobody can wait for would write from memory that is used again */
        }
        for (long i = 0; i < got; i++) {
            const uint64_t number = events[i].data;

            left &= events[i].res == (int64_t)places[number].length ? ~(UINT64_C(1) << number) : UINT64_MAX;
        }
        disk->pending -= got > 0 ? (uint32_t)got : 0;
    }
    return left;
}

static void lay_out(const struct pydrbd_record *records, uint32_t count, struct pydrbd_record *places) {
    uint64_t used = 0;

    for (uint32_t i = 0; i < count; i++) {
        places[i] = records[i];
        places[i].data = used;
        used += records[i].length;
    }
}

void pydrbd_lane_disk_begin_write(struct pydrbd_lane_disk *disk, const uint8_t *buffer,
                                  const struct pydrbd_record *records, uint32_t count) {
    struct pydrbd_record places[PYDRBD_BATCH_MAX];

    if (disk->block == 0) {
        return;
    }
    lay_out(records, count, places);
    for (uint32_t i = 0; i < count; i++) {
        memcpy(disk->bounce + places[i].data, buffer + records[i].data, records[i].length);
    }
    begin_all(disk, IOCB_CMD_PWRITE, places, count);
}

uint64_t pydrbd_lane_disk_end_write(struct pydrbd_lane_disk *disk, const uint8_t *buffer,
                                    const struct pydrbd_record *records, uint32_t count, int *first_errno) {
    struct pydrbd_record places[PYDRBD_BATCH_MAX];

    if (disk->block == 0) {
        return pydrbd_pwrite_records(disk->fd, disk->base, buffer, records, count, UINT64_MAX, first_errno);
    }
    lay_out(records, count, places);
    return pydrbd_pwrite_records(disk->fd, disk->base, disk->bounce, places, count, wait_all(disk, places, count),
                                 first_errno);
}

uint64_t pydrbd_lane_disk_read(struct pydrbd_lane_disk *disk, const struct pydrbd_record *records, uint32_t count) {
    struct pydrbd_record places[PYDRBD_BATCH_MAX];
    int error;

    lay_out(records, count, places);
    begin_all(disk, IOCB_CMD_PREAD, places, count);
    return pydrbd_pread_records(disk->fd, disk->base, disk->bounce, places, count, wait_all(disk, places, count),
                                &error);
}
