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

static long wait_for(uint64_t context, long count, struct io_event *events, struct timespec *wait) {
    return syscall(SYS_io_getevents, (aio_context_t)context, count, count, events, wait);
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
    disk->done = 0;
}

/* Takes what is done, and waits for all of it: for ever, or for so long. What is still pending then. */
static uint32_t gather(struct pydrbd_lane_disk *disk, const struct pydrbd_record *places, struct timespec *wait) {
    while (disk->pending != 0) {
        struct io_event events[PYDRBD_BATCH_MAX];
        const long got = wait_for(disk->context, (long)disk->pending, events, wait);

        if (got < 0 && errno != EINTR) {
            __builtin_trap(); /* requests that nobody can wait for would write from memory that is used again */
        }
        for (long i = 0; i < got; i++) {
            const uint64_t number = events[i].data;

            disk->done |= (uint64_t)(events[i].res == (int64_t)places[number].length) << number;
        }
        disk->pending -= got > 0 ? (uint32_t)got : 0;
        if (wait != NULL) {
            break;
        }
    }
    return disk->pending;
}

/* Waits for all that was taken; the members that are to be done one by one. */
static uint64_t wait_all(struct pydrbd_lane_disk *disk, const struct pydrbd_record *places, uint32_t count) {
    gather(disk, places, NULL);
    return members(count, ~disk->done);
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
    if (disk->block == 0) {
        return pydrbd_pwrite_records(disk->fd, disk->base, buffer, records, count, UINT64_MAX, first_errno);
    }
    struct pydrbd_record places[PYDRBD_BATCH_MAX] = {0}; /* a compiler can't see that what is looked at is laid out */

    lay_out(records, count, places);
    return pydrbd_pwrite_records(disk->fd, disk->base, disk->bounce, places, count, wait_all(disk, places, count),
                                 first_errno);
}

uint64_t pydrbd_lane_disk_read(struct pydrbd_lane_disk *disk, const struct pydrbd_record *records, uint32_t count) {
    struct pydrbd_record places[PYDRBD_BATCH_MAX] = {0};
    int error;

    lay_out(records, count, places);
    begin_all(disk, IOCB_CMD_PREAD, places, count);
    return pydrbd_pread_records(disk->fd, disk->base, disk->bounce, places, count, wait_all(disk, places, count),
                                &error);
}

/* --- batches of the node itself, by the same way. They are laid out anew by each function: alike, as long as nobody
 * changes the records --- */

/* Members that follow each other on the disk are one request: `runs` are their places, `who` is in which of them.
 * `places` are the members' own. Returns the number of runs. */
static uint32_t lay_out_runs(const struct pydrbd_record *records, uint64_t mask, struct pydrbd_record *places,
                             struct pydrbd_record *runs, uint64_t *who) {
    uint64_t used = 0;
    uint32_t count = 0;

    for (; mask != 0; mask = without_lowest(mask)) {
        const uint32_t i = lowest(mask);

        places[i] = records[i];
        places[i].data = used;
        used += records[i].length;
        if (count != 0 && end_of(runs[count - 1].offset, runs[count - 1].length) == records[i].offset) {
            runs[count - 1].length += records[i].length;
            who[count - 1] |= mask & -mask;
        } else {
            runs[count] = places[i];
            who[count++] = mask & -mask;
        }
    }
    return count;
}

/* Who failed, of the runs that did, and who may be well if tried alone: of a run nobody knows who is to blame. */
static uint64_t blamed(uint64_t failed_runs, const uint64_t *who, uint64_t *again) {
    uint64_t failed = 0;

    *again = 0;
    for (; failed_runs != 0; failed_runs = without_lowest(failed_runs)) {
        const uint64_t members_of = who[lowest(failed_runs)];

        *(without_lowest(members_of) == 0 ? &failed : again) |= members_of;
    }
    return failed;
}

void pydrbd_direct_begin(struct pydrbd_lane_disk *disk, int is_write, const uint8_t *buffer,
                         const struct pydrbd_record *records, uint32_t count, uint64_t mask) {
    struct pydrbd_record places[PYDRBD_BATCH_MAX], runs[PYDRBD_BATCH_MAX];
    uint64_t who[PYDRBD_BATCH_MAX];

    mask = members(count, mask);
    count = lay_out_runs(records, mask, places, runs, who);
    for (; is_write && mask != 0; mask = without_lowest(mask)) {
        const uint32_t i = lowest(mask);

        memcpy(disk->bounce + places[i].data, buffer + records[i].data, records[i].length);
    }
    begin_all(disk, is_write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD, runs, count);
}

uint32_t pydrbd_direct_wait(struct pydrbd_lane_disk *disk, const struct pydrbd_record *records, uint32_t count,
                            uint64_t mask, uint32_t wait_us) {
    struct pydrbd_record places[PYDRBD_BATCH_MAX], runs[PYDRBD_BATCH_MAX];
    struct timespec wait = {.tv_sec = wait_us / 1000000u, .tv_nsec = (long)(wait_us % 1000000u) * 1000};
    uint64_t who[PYDRBD_BATCH_MAX];

    lay_out_runs(records, members(count, mask), places, runs, who);
    return gather(disk, runs, &wait);
}

uint64_t pydrbd_direct_end(struct pydrbd_lane_disk *disk, int is_write, uint8_t *buffer,
                           const struct pydrbd_record *records, uint32_t count, uint64_t mask, int *first_errno) {
    struct pydrbd_record places[PYDRBD_BATCH_MAX], runs[PYDRBD_BATCH_MAX];
    uint64_t who[PYDRBD_BATCH_MAX], failed, again, left;
    uint32_t run_count;

    mask = members(count, mask);
    run_count = lay_out_runs(records, mask, places, runs, who);
    left = wait_all(disk, runs, run_count);
    failed = is_write
                 ? pydrbd_pwrite_records(disk->fd, disk->base, disk->bounce, runs, run_count, left, first_errno)
                 : pydrbd_pread_records(disk->fd, disk->base, disk->bounce, runs, run_count, left, first_errno);
    failed = blamed(failed, who, &again);
    if (again != 0) {
        int error;

        failed |= is_write ? pydrbd_pwrite_records(disk->fd, disk->base, disk->bounce, places, count, again, &error)
                           : pydrbd_pread_records(disk->fd, disk->base, disk->bounce, places, count, again, &error);
        *first_errno = failed == 0 ? 0 : *first_errno;
    }
    for (mask &= ~failed; !is_write && mask != 0; mask = without_lowest(mask)) {
        const uint32_t i = lowest(mask);

        memcpy(buffer + records[i].data, disk->bounce + places[i].data, records[i].length);
    }
    return failed;
}
