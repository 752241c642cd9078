/* What a batch of 32 writes of 4 KiB costs, by the way in which the kernel is asked: why pydrbd has no io_uring.
 *
 *     cc -O2 -o /tmp/batch_writes benchmarks/batch_writes.c
 *     /tmp/batch_writes FILE          through the page cache; FILE is overwritten, 256 MiB
 *     /tmp/batch_writes FILE direct   past it
 *
 * io_uring has the file and the buffers registered. CPU is that of the process and of the kernel's threads in it. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { COUNT = 32, BLOCK = 4096, SIZE = 256 << 20, REPEAT = 3 };

static int fd, ring;
static uint8_t *memory;
static off_t places[COUNT];
static aio_context_t context;
static struct io_uring_sqe *entries;
static struct io_uring_cqe *results;
static uint32_t *sq_tail, *sq_mask, *sq_array, *cq_head, *cq_tail, *cq_mask;

static void must(int good, const char *what) {
    if (!good) {
        perror(what);
        exit(1);
    }
}

static void by_pwrite(void) {
    for (int i = 0; i < COUNT; i++) {
        must(pwrite(fd, memory + i * BLOCK, BLOCK, places[i]) == BLOCK, "pwrite");
    }
}

static void by_pwritev(void) {
    struct iovec parts[COUNT];

    for (int i = 0; i < COUNT; i++) {
        parts[i] = (struct iovec){memory + i * BLOCK, BLOCK};
    }
    must(pwritev(fd, parts, COUNT, places[0]) == COUNT * BLOCK, "pwritev");
}

static void by_io_submit(void) {
    struct iocb requests[COUNT] = {0}, *list[COUNT];
    struct io_event events[COUNT];

    for (int i = 0; i < COUNT; i++) {
        requests[i].aio_lio_opcode = IOCB_CMD_PWRITE;
        requests[i].aio_fildes = (uint32_t)fd;
        requests[i].aio_buf = (uint64_t)(uintptr_t)(memory + i * BLOCK);
        requests[i].aio_nbytes = BLOCK;
        requests[i].aio_offset = places[i];
        list[i] = requests + i;
    }
    must(syscall(SYS_io_submit, context, COUNT, list) == COUNT, "io_submit");
    must(syscall(SYS_io_getevents, context, COUNT, COUNT, events, NULL) == COUNT, "io_getevents");
}

static void by_io_uring(void) {
    const uint32_t tail = *sq_tail, head = *cq_head;

    for (uint32_t i = 0; i < COUNT; i++) {
        const uint32_t at = (tail + i) & *sq_mask;

        entries[at] = (struct io_uring_sqe){.opcode = IORING_OP_WRITE_FIXED, .flags = IOSQE_FIXED_FILE, .len = BLOCK,
                                            .addr = (uint64_t)(uintptr_t)(memory + i * BLOCK),
                                            .off = (uint64_t)places[i]};
        sq_array[at] = at;
    }
    __atomic_store_n(sq_tail, tail + COUNT, __ATOMIC_RELEASE);
    must(syscall(SYS_io_uring_enter, ring, COUNT, COUNT, IORING_ENTER_GETEVENTS, NULL, 0) == COUNT, "io_uring_enter");
    must(__atomic_load_n(cq_tail, __ATOMIC_ACQUIRE) - head == COUNT, "all results");
    for (uint32_t i = 0; i < COUNT; i++) {
        must(results[(head + i) & *cq_mask].res == BLOCK, "a write by io_uring");
    }
    __atomic_store_n(cq_head, head + COUNT, __ATOMIC_RELEASE);
}

static void open_ring(void) {
    struct io_uring_params of = {0};
    const struct iovec buffer = {memory, COUNT * BLOCK};
    const int how = PROT_READ | PROT_WRITE;
    uint8_t *sq, *cq;

    ring = (int)syscall(SYS_io_uring_setup, COUNT, &of);
    must(ring >= 0, "io_uring_setup");
    sq = mmap(NULL, of.sq_off.array + of.sq_entries * sizeof(uint32_t), how, MAP_SHARED, ring, IORING_OFF_SQ_RING);
    cq = mmap(NULL, of.cq_off.cqes + of.cq_entries * sizeof(*results), how, MAP_SHARED, ring, IORING_OFF_CQ_RING);
    entries = mmap(NULL, of.sq_entries * sizeof(*entries), how, MAP_SHARED, ring, IORING_OFF_SQES);
    must(sq != MAP_FAILED && cq != MAP_FAILED && entries != MAP_FAILED, "mmap");
    sq_tail = (uint32_t *)(sq + of.sq_off.tail);
    sq_mask = (uint32_t *)(sq + of.sq_off.ring_mask);
    sq_array = (uint32_t *)(sq + of.sq_off.array);
    cq_head = (uint32_t *)(cq + of.cq_off.head);
    cq_tail = (uint32_t *)(cq + of.cq_off.tail);
    cq_mask = (uint32_t *)(cq + of.cq_off.ring_mask);
    results = (struct io_uring_cqe *)(cq + of.cq_off.cqes);
    must(syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &buffer, 1) == 0, "registering buffers");
    must(syscall(SYS_io_uring_register, ring, IORING_REGISTER_FILES, &fd, 1) == 0, "registering files");
}

static double wall_us(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static double cpu_us(void) {
    struct rusage used;

    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1e6 +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}

static void measure(const char *name, void (*way)(void), int adjacent, int rounds) {
    const double wall = wall_us(), cpu = cpu_us();

    for (int round = 0; round < rounds; round++) {
        const off_t first = random() % (SIZE / BLOCK - COUNT);

        for (int i = 0; i < COUNT; i++) {
            places[i] = (adjacent ? first + i : random() % (SIZE / BLOCK)) * BLOCK;
        }
        way();
    }
    printf("%-10s %-9s %8.1f us, %7.1f us of CPU\n", name, adjacent ? "adjacent" : "random", (wall_us() - wall) / rounds,
           (cpu_us() - cpu) / rounds);
    fflush(stdout);
}

int main(int argc, char **argv) {
    const int direct = argc > 2, rounds = direct ? 400 : 3000;

    must(argc > 1, "FILE [direct]");
    fd = open(argv[1], O_RDWR | O_CREAT | (direct ? O_DIRECT : 0), 0600);
    must(fd >= 0, argv[1]);
    memory = mmap(NULL, COUNT * BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(memory != MAP_FAILED, "mmap");
    memset(memory, 7, COUNT * BLOCK);
    for (off_t at = 0; at < SIZE; at += COUNT * BLOCK) {
        must(pwrite(fd, memory, COUNT * BLOCK, at) == COUNT * BLOCK, "pwrite");
    }
    must(fsync(fd) == 0, "fsync");
    open_ring();
    must(syscall(SYS_io_setup, COUNT, &context) == 0, "io_setup");
    for (int again = 0; again < REPEAT; again++) {
        measure("pwrite", by_pwrite, 0, rounds);
        measure("io_uring", by_io_uring, 0, rounds);
        measure("io_submit", by_io_submit, 0, rounds);
        measure("pwrite", by_pwrite, 1, rounds);
        measure("pwritev", by_pwritev, 1, rounds);
        measure("io_uring", by_io_uring, 1, rounds);
        measure("io_submit", by_io_submit, 1, rounds);
    }
    return 0;
}
