/* pydrbd's native code: the whole contract, and (as it stands) cffi's cdef.
 *
 * Pure functions on buffers that the caller owns: no allocation, no globals, no Python. A length that does not fit is
 * the caller's bug and is asserted on the Python side (pydrbd/native.py), where each function has its documentation
 * and, in pydrbd/reference.py, its twin. Negative results are the error codes below.
 */

enum {
    PYDRBD_NATIVE_VERSION = 1,
    PYDRBD_BATCH_MAX = 64,
    PYDRBD_E_MAGIC = -1,   /* not the magic number that must stand here */
    PYDRBD_E_LENGTH = -2,  /* a length that the protocol or our limits do not allow */
    PYDRBD_E_CODE = -3,    /* a bit code that does not decode, or runs past the end */
};

/* One request, packet or acknowledgement inside a receive buffer. 48 bytes. */
struct pydrbd_record {
    uint64_t offset;    /* bytes on the device; 0 for packets without a place */
    uint64_t id;        /* NBD cookie or DRBD block_id, as a big-endian number; echoed */
    uint64_t data;      /* where the payload starts in the buffer */
    uint32_t length;    /* bytes: of the request (READ, TRIM, ...), else of the payload */
    uint32_t seq;       /* DRBD seq_num */
    uint32_t flags;     /* NBD command flags, or DRBD dp_flags */
    uint16_t command;   /* NBD command, or DRBD packet number */
    uint16_t volume;
    uint32_t digest;    /* bytes of digest just before data; 0 if none */
    uint32_t block;     /* P_WSAME: bytes of its one block at data; else 0 */
};

/* Which members of a batch are which NBD command; `fua` says which have that flag, and overlaps with the others. */
struct pydrbd_nbd_commands {
    uint64_t read;
    uint64_t write;
    uint64_t disc;
    uint64_t flush;
    uint64_t trim;
    uint64_t zeroes;
    uint64_t other;
    uint64_t fua;
};

/* --- crc32c.c --- */
uint32_t pydrbd_crc32c(uint32_t crc, const uint8_t *data, size_t length);
int pydrbd_crc32c_is_hardware(void);
uint32_t pydrbd_crc32c_table(uint32_t crc, const uint8_t *data, size_t length);

/* --- bitmap.c: bit i is bit (i % 8) of byte (i / 8) --- */
size_t pydrbd_bitmap_set(uint8_t *bits, size_t first, size_t count);
size_t pydrbd_bitmap_clear(uint8_t *bits, size_t first, size_t count);
size_t pydrbd_bitmap_count(const uint8_t *bits, size_t first, size_t count);
size_t pydrbd_bitmap_find_set(const uint8_t *bits, size_t first, size_t end);
size_t pydrbd_bitmap_find_clear(const uint8_t *bits, size_t first, size_t end);
size_t pydrbd_bitmap_merge(uint8_t *into, const uint8_t *from, size_t byte_count);
size_t pydrbd_bitmap_set_records(uint8_t *bits, size_t bit_count, const struct pydrbd_record *records, uint32_t count,
                                 uint64_t mask);
size_t pydrbd_bitmap_clear_records(uint8_t *bits, size_t bit_count, uint64_t capacity,
                                   const struct pydrbd_record *records, uint32_t count, uint64_t mask);
uint32_t pydrbd_bitmap_pieces(const uint8_t *bits, size_t bit_count, uint64_t capacity, size_t *next, uint32_t most,
                              int64_t room, struct pydrbd_record *out, uint32_t count);

/* --- vli.c --- */
int64_t pydrbd_vli_encode(const uint8_t *bits, uint64_t bit_count, uint64_t first, uint8_t *out, size_t room,
                          uint64_t *next, uint32_t *pad, uint32_t *polarity);
int64_t pydrbd_vli_decode(uint8_t *bits, uint64_t bit_count, uint64_t first, const uint8_t *code, size_t length,
                          uint32_t pad, uint32_t polarity, uint64_t *newly_set);

/* --- frames_nbd.c --- */
int pydrbd_nbd_split(const uint8_t *buffer, size_t start, size_t end, uint32_t length_max,
                     struct pydrbd_record *out, uint32_t room, size_t *consumed, size_t *need);
size_t pydrbd_nbd_replies(const struct pydrbd_record *records, uint32_t count, uint64_t mask, uint32_t error,
                          int structured, uint8_t *out);
size_t pydrbd_nbd_read_replies(struct pydrbd_record *records, uint32_t count, uint64_t mask, int structured,
                               uint8_t *out);
uint8_t *pydrbd_nbd_put_read_header(uint8_t *to, const struct pydrbd_record *record, int structured);
void pydrbd_nbd_commands(const struct pydrbd_record *records, uint32_t count, uint64_t mask,
                         struct pydrbd_nbd_commands *out);

/* --- frames_drbd.c --- */
int pydrbd_drbd_split(const uint8_t *buffer, size_t start, size_t end, int format, uint32_t digest_size,
                      uint32_t payload_max, struct pydrbd_record *out, uint32_t room, size_t *consumed, size_t *need);
size_t pydrbd_drbd_data_headers(const struct pydrbd_record *records, uint32_t count, uint64_t mask, int format,
                                uint16_t volume, uint64_t first_id, uint32_t first_seq, uint32_t dp_flags,
                                uint32_t digest_size, uint8_t *out);
size_t pydrbd_drbd_acks(const struct pydrbd_record *records, uint32_t count, uint64_t mask, int format,
                        uint16_t packet, uint32_t first_seq, uint8_t *out);
size_t pydrbd_drbd_requests(const struct pydrbd_record *records, uint32_t count, uint64_t mask, int format,
                            uint16_t volume, uint16_t packet, uint64_t id, uint8_t *out);
uint64_t pydrbd_drbd_reply_headers(const struct pydrbd_record *records, uint32_t count, uint64_t mask, int format,
                                   uint16_t volume, uint16_t packet, uint8_t *buffer, uint64_t buffer_size);

/* --- records.c --- */
int pydrbd_records_out_of_bounds(const struct pydrbd_record *records, uint32_t count, uint64_t capacity,
                                 uint64_t *mask);
uint64_t pydrbd_records_outside_buffer(const struct pydrbd_record *records, uint32_t count, uint64_t mask,
                                       uint64_t buffer_size);
uint64_t pydrbd_records_unaligned(const struct pydrbd_record *records, uint32_t count, uint64_t mask,
                                  uint32_t alignment);
uint64_t pydrbd_records_longer(const struct pydrbd_record *records, uint32_t count, uint64_t mask, uint32_t length);
uint64_t pydrbd_records_with_command(const struct pydrbd_record *records, uint32_t count, uint64_t mask,
                                     uint16_t command);
uint64_t pydrbd_records_with_flags(const struct pydrbd_record *records, uint32_t count, uint64_t mask, uint32_t flags);
uint64_t pydrbd_records_length_sum(const struct pydrbd_record *records, uint32_t count, uint64_t mask);
uint64_t pydrbd_records_overlap(const struct pydrbd_record *live, uint32_t live_count, uint64_t live_mask,
                                const struct pydrbd_record *records, uint32_t count, uint64_t mask);
uint64_t pydrbd_records_overlap_self(const struct pydrbd_record *records, uint32_t count, uint64_t mask);
uint32_t pydrbd_records_extents(const struct pydrbd_record *records, uint32_t count, uint64_t mask,
                                uint32_t *out, uint32_t room);
uint64_t pydrbd_records_dirty(const uint8_t *bits, size_t bit_count, const struct pydrbd_record *records,
                              uint32_t count, uint64_t mask);
uint64_t pydrbd_records_lay_out(const struct pydrbd_record *records, uint32_t count, uint64_t mask, uint64_t first,
                                uint64_t gap, struct pydrbd_record *out);
uint64_t pydrbd_records_zero(const uint8_t *buffer, const struct pydrbd_record *records, uint32_t count,
                             uint64_t mask);

/* --- io.c: one system call a record, errors as a mask --- */
uint64_t pydrbd_pwrite_records(int fd, uint64_t base, const uint8_t *buffer, const struct pydrbd_record *records,
                               uint32_t count, uint64_t mask, int *first_errno);
uint64_t pydrbd_pread_records(int fd, uint64_t base, uint8_t *buffer, const struct pydrbd_record *records,
                              uint32_t count, uint64_t mask, int *first_errno);

/* --- channel.c: an error number of NBD's, or 0; E_LENGTH: the stream has ended; E_MAGIC: an answer to nothing --- */
struct pydrbd_channel;
size_t pydrbd_channel_size(void); /* of the memory that the caller gives */
void pydrbd_channel_open(struct pydrbd_channel *channel, int fd);
void pydrbd_channel_close(struct pydrbd_channel *channel);
int64_t pydrbd_channel_call(struct pydrbd_channel *channel, uint16_t command, uint16_t flags, uint64_t offset,
                            uint32_t length, uint8_t *data);

/* --- threads.c: for a thread that the interpreter has not made; without its lock, as cffi calls --- */
void pydrbd_keep_thread(void);

/* --- lane.c, lane_disk.c, lane_flush.c, lane_read.c, lane_peer.c: the way of plain writes, reads and flushes while
 * nothing has to be decided ---
 *
 * Python lays down the terms, calls, and takes back what has happened; nothing else runs on the node meanwhile. A lane
 * ends at the first thing that it was not told about, and leaves that where it lies. */
enum {
    PYDRBD_LANE_SLICE = 0,     /* the time given is over: others may run; call again */
    PYDRBD_LANE_IDLE = 1,      /* nothing has come for as long as it was told to wait */
    PYDRBD_LANE_FOREIGN = 2,   /* a buffer or a socket holds something that is not for a lane */
    PYDRBD_LANE_DISK = 3,      /* the disk failed (groups name the members, `error` the errno) or was slow (0) */
    PYDRBD_LANE_SPILL = 4,     /* the peer's socket took a part only: `spill_serial`, `spill_sent` */
    PYDRBD_LANE_LOST = 5,      /* the peer's socket failed: `error` */

    PYDRBD_LANE_GROUPS = 256,  /* writes that came together; a power of two */
    PYDRBD_LANE_HEADERS_SIZE = 2560, /* of one group's packets: 64 x (16 + 24) */
};

/* A socket that does not block, and the bytes that were read from it and are not used up: buffer[start:end]. */
struct pydrbd_stream {
    uint8_t *buffer;
    uint64_t size;
    uint64_t start;
    uint64_t end;
    uint64_t wakeups;   /* reads that brought something */
    uint64_t received;  /* bytes */
    int32_t fd;
    int32_t stuck;      /* what is at the front, or the end of the stream, is not for a lane */
};

struct pydrbd_lane_client {
    struct pydrbd_stream in;
    uint8_t *out;       /* replies that the socket has not taken: out[out_start:out_end] */
    uint64_t out_size;
    uint64_t out_start;
    uint64_t out_end;
    int32_t structured; /* READs are answered by chunks */
    uint64_t need;      /* bytes of the request at the front, as far as is known */
    uint64_t batches;
    uint64_t requests;
};

/* A lane's disk: through the page cache, or with direct I/O. */
struct pydrbd_lane_disk {
    uint64_t base;          /* of the data area */
    uint8_t *bounce;        /* aligned memory, for direct I/O */
    uint64_t bounce_size;
    uint64_t context;       /* of pydrbd_lane_aio_open; 0: one request after the other */
    uint32_t block;         /* that direct I/O goes by; 0: through the page cache */
    uint32_t pending;       /* requests that are waited for */
    uint64_t done;          /* those that were carried out whole */
    uint32_t slow_us;       /* a disk that takes longer for one group is slow */
    int32_t fd;
};
uint64_t pydrbd_lane_aio_open(void);
void pydrbd_lane_aio_close(uint64_t context);
uint32_t pydrbd_lane_disk_fits(const struct pydrbd_lane_disk *disk, const struct pydrbd_record *records,
                               uint32_t count);
void pydrbd_lane_disk_begin_write(struct pydrbd_lane_disk *disk, const uint8_t *buffer,
                                  const struct pydrbd_record *records, uint32_t count);
uint64_t pydrbd_lane_disk_end_write(struct pydrbd_lane_disk *disk, const uint8_t *buffer,
                                    const struct pydrbd_record *records, uint32_t count, int *first_errno);
uint64_t pydrbd_lane_disk_read(struct pydrbd_lane_disk *disk, const struct pydrbd_record *records, uint32_t count);

/* With direct I/O as pydrbd_pwrite_records and pydrbd_pread_records, all at the same time: the members are whole
 * blocks, and fit the bounce memory together. `wait`: how many requests are not done yet; `end` waits for them. */
void pydrbd_direct_begin(struct pydrbd_lane_disk *disk, int is_write, const uint8_t *buffer,
                         const struct pydrbd_record *records, uint32_t count, uint64_t mask);
uint32_t pydrbd_direct_wait(struct pydrbd_lane_disk *disk, const struct pydrbd_record *records, uint32_t count,
                            uint64_t mask, uint32_t wait_us);
uint64_t pydrbd_direct_end(struct pydrbd_lane_disk *disk, int is_write, uint8_t *buffer,
                           const struct pydrbd_record *records, uint32_t count, uint64_t mask, int *first_errno);

/* What a lane may do about flushes, and what has come of it. */
struct pydrbd_lane_flush {
    uint64_t size_min;  /* bytes that the disk's file must have; 0: that is not looked at */
    uint32_t slow_us;   /* a flush that takes longer is the last one */
    uint32_t count;
    int32_t allowed;
    int32_t was_slow;
    int32_t error;      /* errno of a flush that failed: that is final */
    int32_t beside;     /* there is another processor: nothing is begun or looked for ahead without one */
    int32_t comes_soon; /* the last one came after a few writes only: the next one will, too */
};

/* Writes of one client that came together; block_id is serial << 6 | member. Free when nothing of it is busy. */
struct pydrbd_lane_group {
    uint64_t serial;
    uint64_t epoch;     /* in which they were sent */
    uint64_t busy;      /* members that the peer has not acknowledged */
    uint64_t failed;    /* members that our disk does not have */
    uint32_t client;
    uint32_t count;
    struct pydrbd_record records[64]; /* PYDRBD_BATCH_MAX */
};

struct pydrbd_lane {
    struct pydrbd_stream meta;            /* the peer's acknowledgements */
    struct pydrbd_lane_client *clients;
    struct pydrbd_lane_group *groups;     /* PYDRBD_LANE_GROUPS of them: serial s is at s % PYDRBD_LANE_GROUPS */
    struct pydrbd_record *log;            /* what was written in this epoch */
    const uint8_t *hot;                   /* a bit for each 4 MiB extent: may be written; NULL: all may */
    uint8_t *touched;                     /* likewise: has been */
    struct pydrbd_lane_disk disk;
    uint64_t capacity;                    /* bytes of the device */
    uint64_t oldest_serial;               /* what is older is free */
    uint64_t next_serial;
    uint64_t epoch;
    uint64_t epoch_sent;                  /* writes that the peer has got in this epoch */
    uint64_t sent;                        /* writes that it has got from this lane */
    uint64_t now;                         /* us, when the clock was last read: that is a system call on some machines */
    uint64_t flush_began;                 /* us */
    uint64_t written;                     /* bytes */
    uint64_t read;                        /* bytes */
    uint64_t spill_serial;
    uint64_t spill_sent;                  /* bytes of its packets that the socket has taken */
    uint32_t client_count;
    uint32_t log_count;
    uint32_t log_room;
    uint32_t next_seq;
    uint32_t peer_seq;                    /* of the newest acknowledgement */
    uint32_t length_max;                  /* of one write or read */
    int32_t data_fd;                      /* to the peer */
    int32_t error;
    int32_t flush_client;                 /* whose FLUSH waits for the peer; -1: nobody's */
    int32_t spin_credit;                  /* see wait_soon: for the peer's word */
    int32_t client_spin_credit;           /* for the next request of a client that has one at a time */
    int32_t lone;                         /* the last request came alone, and has its answer */
    int32_t barrier_sent;                 /* the epoch's barrier is on its way to the peer */
    struct pydrbd_lane_flush flush;
    uint16_t volume;
    uint8_t headers[2560];                /* PYDRBD_LANE_HEADERS_SIZE */
};
uint32_t pydrbd_lane_read_group(struct pydrbd_lane *lane, struct pydrbd_lane_client *client,
                                const struct pydrbd_record *records, uint32_t count);
int pydrbd_lane_flush_ahead(struct pydrbd_lane_flush *flush, const struct pydrbd_lane_disk *disk,
                            const struct pydrbd_record *records, uint32_t count, uint64_t epoch_count);
int pydrbd_lane_flush_begin(struct pydrbd_lane *lane, uint32_t client);
int pydrbd_lane_flush_is_late(struct pydrbd_lane *lane);
int pydrbd_lane_flush_settle(struct pydrbd_lane *lane, const struct pydrbd_record *ack);
int pydrbd_lane_run(struct pydrbd_lane *lane, uint32_t slice_us, uint32_t idle_us);
uint64_t pydrbd_lane_in_flight(const struct pydrbd_lane *lane);

struct pydrbd_lane_peer {
    struct pydrbd_stream data;            /* the peer's writes */
    uint8_t *out;                         /* acknowledgements that the socket has not taken: out[out_start:out_end] */
    uint64_t out_size;
    uint64_t out_start;
    uint64_t out_end;
    struct pydrbd_lane_disk disk;
    uint64_t capacity;
    uint64_t written;                     /* bytes */
    uint64_t packets;                     /* writes that were carried out */
    uint64_t epoch_count;                 /* of these, and of earlier ones, in the open epoch */
    uint64_t epochs;                      /* that were flushed and acknowledged */
    uint64_t now;                         /* us, when the clock was last read */
    struct pydrbd_lane_flush flush;
    uint32_t next_seq;
    uint32_t peer_seq;                    /* of the newest write */
    uint32_t payload_max;
    uint32_t dp_flags;                    /* what a write must say to be for a lane */
    int32_t meta_fd;
    int32_t error;
    uint16_t volume;
};
int pydrbd_lane_peer_flush(struct pydrbd_lane_peer *lane, const struct pydrbd_record *barrier);
int pydrbd_lane_peer_run(struct pydrbd_lane_peer *lane, uint32_t slice_us, uint32_t idle_us);
