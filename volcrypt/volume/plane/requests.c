/* What a lane does with a request of the kernel. See plane.h. */
#define _GNU_SOURCE
#include "internal.h"

#include "xts_units.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fuse.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
    AWAKE_NANOSECONDS = 50000,
    MOST_REST = 255,
    /* As DataFile.write has it: the page cache keeps what is written at once in one piece, and ext4
     * goes through all blocks of a piece for each later write to any of them. */
    WRITTEN_AT_ONCE = 256 * 1024,
};

const uint64_t plane_latency_bounds[PLANE_LATENCIES - 1] = {
    10000,   25000,   50000,    100000,   250000,   500000,    1000000,   2500000,
    5000000, 10000000, 25000000, 50000000, 100000000, 250000000, 1000000000, 10000000000,
};

static uint64_t nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void count_latency(struct plane_latencies *latencies, uint64_t taken)
{
    unsigned at = 0;
    while (at < PLANE_LATENCIES - 1 && taken > plane_latency_bounds[at])
        at++;
    __atomic_fetch_add(&latencies->requests[at], 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&latencies->nanoseconds, taken, __ATOMIC_RELAXED);
}

static void answer_fast(struct lane *lane, const void *body, size_t size)
{
    struct plane *plane = lane->plane;
    uint64_t *bytes = lane->entry->kind == PLANE_READ ? &plane->counts.read_bytes
                                                      : &plane->counts.written_bytes;
    lane->was_fast = true;
    __atomic_fetch_add(&plane->counts.fast, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(bytes, lane->entry->size, __ATOMIC_RELAXED);
    count_latency(lane->entry->kind == PLANE_READ ? &plane->read_latencies : &plane->write_latencies,
                  nanoseconds() - lane->begun);
    plane_reply(plane, lane->entry->unique, body, size);
}

static bool read_piece(struct lane *lane, unsigned who, size_t at, size_t size)
{
    struct plane *plane = lane->plane;
    uint64_t offset = lane->entry->offset + at;
    unsigned char *out = lane->out + at;
    struct iovec into = {out, size};
    /* Never waits for the medium: what is not in the page cache is Python's. */
    return preadv2(plane->data, &into, 1, (off_t)offset, RWF_NOWAIT) == (ssize_t)size &&
           !plane_is_fenced(plane) && /* behind which nothing is decrypted */
           (!plane->has_cipher || xts_decrypt_sparse(lane->decrypt[who], out, out, size / XTS_UNIT,
                                                     offset / XTS_SECTOR));
}

static bool fast_read(struct lane *lane)
{
    const struct plane *plane = lane->plane;
    const struct entry *entry = lane->entry;
    bool is_good = plane_share(lane, read_piece);
    bool is_open = plane_leave_range(lane);
    is_good = is_good && is_open && !plane_is_fenced(plane);
    if (is_good)
        answer_fast(lane, lane->out, entry->size);
    plane_end(lane);
    return is_good || !is_open;
}

/* In place, so that no plaintext stays in a buffer of which nobody knows. */
static unsigned char *data_of(const struct entry *entry)
{
    return entry->buffer + sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in);
}

static bool encrypt_piece(struct lane *lane, unsigned who, size_t at, size_t size)
{
    unsigned char *data = data_of(lane->entry) + at;
    return xts_crypt(lane->encrypt[who], data, data, XTS_UNIT, size / XTS_UNIT,
                     (lane->entry->offset + at) / XTS_SECTOR, 0, 1);
}

static bool write_out(const struct plane *plane, const unsigned char *data, size_t size, uint64_t offset)
{
    while (size > 0) {
        size_t room = WRITTEN_AT_ONCE - offset % WRITTEN_AT_ONCE;
        size_t bytes = size < room ? size : room;
        if (plane_is_fenced(plane) || pwrite(plane->data, data, bytes, (off_t)offset) != (ssize_t)bytes)
            return false;
        data += bytes;
        offset += bytes;
        size -= bytes;
    }
    return true;
}

static bool fast_write(struct lane *lane)
{
    struct plane *plane = lane->plane;
    const struct entry *entry = lane->entry;
    unsigned char *data = data_of(entry);
    uint64_t tweak = entry->offset / XTS_SECTOR;
    size_t units = entry->size / XTS_UNIT;
    struct fuse_write_out done = {.size = (uint32_t)entry->size};
    bool is_lost = plane->has_cipher && !plane_share(lane, encrypt_piece);
    bool is_good = !is_lost && write_out(plane, data, entry->size, entry->offset);
    if (!is_good && !is_lost && plane->has_cipher)
        is_lost = !xts_crypt(lane->decrypt[0], data, data, XTS_UNIT, units, tweak, 0, 0);
    bool is_open = plane_end(lane);
    if (!is_open)
        memset(data, 0, entry->size);
    else if (is_good)
        answer_fast(lane, &done, sizeof done);
    else if (is_lost)
        plane_refuse(plane, entry->unique, EIO);
    return is_good || is_lost || !is_open;
}

static bool is_of_file(const struct fuse_in_header *head, uint64_t handle)
{
    return head->nodeid == FILE_NODE && (handle == FILE_HANDLE || handle == SYNCED_HANDLE);
}

/* A read or write of the volume's file, as long as it says; else false. */
static bool parse_transfer(struct entry *entry, size_t length)
{
    const struct fuse_in_header *head = (const void *)entry->buffer;
    uint64_t handle;
    size_t expected = sizeof *head;
    if (head->opcode == FUSE_READ) {
        const struct fuse_read_in *in = (const void *)(head + 1);
        expected += sizeof *in;
        if (length != expected)
            return false;
        entry->kind = PLANE_READ;
        entry->offset = in->offset;
        entry->size = in->size;
        handle = in->fh;
    } else {
        const struct fuse_write_in *in = (const void *)(head + 1);
        expected += sizeof *in;
        if (length < expected || length != expected + in->size)
            return false;
        entry->kind = PLANE_WRITE;
        entry->mode = in->flags & O_DSYNC; /* of the open file, or of this write alone (RWF_DSYNC) */
        entry->offset = in->offset;
        entry->size = in->size;
        handle = in->fh;
    }
    return is_of_file(head, handle) && entry->size <= PLANE_MAX_TRANSFER &&
           entry->offset <= (uint64_t)INT64_MAX - entry->size;
}

/* Whether a write has a data unit of zeros that is to become a hole. */
static bool has_zeros_to_drop(const struct plane *plane, const struct entry *entry)
{
    const unsigned char *data =
        entry->buffer + sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in);
    for (size_t i = 0; plane->drops_zeros && i + XTS_UNIT <= entry->size; i += XTS_UNIT)
        if (xts_is_zero(data + i, XTS_UNIT))
            return true;
    return false;
}

/* A discard in the volume's file; 0, or the errno to refuse it with. Never ENOSYS: after that the
 * kernel would ask for no other. */
static int parse_discard(struct entry *entry, size_t length)
{
    const struct fuse_in_header *head = (const void *)entry->buffer;
    const struct fuse_fallocate_in *in = (const void *)(head + 1);
    if (length != sizeof *head + sizeof *in || !is_of_file(head, in->fh))
        return EIO;
    if (in->mode != (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE) &&
        in->mode != (FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE) && in->mode != FALLOC_FL_ZERO_RANGE)
        return EOPNOTSUPP;
    if (in->length == 0)
        return EINVAL;
    if (in->offset > INT64_MAX || in->length > (uint64_t)INT64_MAX - in->offset)
        return EFBIG;
    entry->kind = PLANE_DISCARD;
    entry->mode = in->mode;
    entry->offset = in->offset;
    entry->size = in->length;
    return 0;
}

static void hand_to_python(struct lane *lane)
{
    struct plane *plane = lane->plane;
    pthread_mutex_lock(&plane->lock);
    plane->queue[(plane->queue_first + plane->queue_count++) % ENTRIES] =
        (uint32_t)(lane->entry - plane->entries);
    lane->entry->holder = QUEUED;
    plane->waiting_bytes += plane_bytes_of(lane->entry);
    lane->entry = NULL;
    plane->counts.handed_on++;
    pthread_mutex_unlock(&plane->lock);
    plane_tell(plane);
}

static void hand_to_libfuse(struct lane *lane, size_t length)
{
    struct plane *plane = lane->plane;
    struct entry *entry = lane->entry;
    uint64_t unique = entry->unique;
    /* Before it is sent: the reply may come at once, and make the entry free. */
    pthread_mutex_lock(&plane->lock);
    entry->holder = LIBFUSE;
    entry->is_being_sent = true;
    lane->entry = NULL;
    plane->counts.handed_on++;
    pthread_mutex_unlock(&plane->lock);
    if (send(plane->control, entry->buffer, length, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)length)
        plane_take_back(plane, entry, unique);
    pthread_mutex_lock(&plane->lock);
    entry->is_being_sent = false;
    if (entry->holder == ANSWERED)
        plane_release(plane, entry);
    pthread_mutex_unlock(&plane->lock);
}

static void serve_request(struct lane *lane, size_t length)
{
    struct plane *plane = lane->plane;
    struct entry *entry = lane->entry;
    const struct fuse_in_header *head = (const void *)entry->buffer;
    int error;
    if (length < sizeof *head)
        return; /* nobody to answer */
    entry->unique = head->unique;
    entry->opcode = head->opcode;
    entry->kind = 0;
    entry->mode = 0;
    if (head->len != length) {
        plane_refuse(plane, head->unique, EIO);
        return;
    }
    switch (head->opcode) {
    case FUSE_READ:
    case FUSE_WRITE:
        if (!parse_transfer(entry, length))
            plane_refuse(plane, head->unique, EIO);
        else if (entry->mode || (entry->kind == PLANE_WRITE && has_zeros_to_drop(plane, entry)) ||
                 !plane_begin(lane) ||
                 !(entry->kind == PLANE_READ ? fast_read(lane) : fast_write(lane)))
            hand_to_python(lane);
        return;
    case FUSE_FALLOCATE:
        if (!plane->takes_discards)
            hand_to_libfuse(lane, length);
        else if ((error = parse_discard(entry, length)) != 0)
            plane_refuse(plane, head->unique, error);
        else
            hand_to_python(lane);
        return;
    case FUSE_INTERRUPT:
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
        return; /* no reply is wanted, and the two nodes are never forgotten */
    case FUSE_FLUSH:
        /* close(2) promises nothing, and the kernel asks no more. Else who closes, or executes a
         * program, while nobody serves would wait, and with him all who look at him in /proc. */
        plane_refuse(plane, head->unique, ENOSYS);
        return;
    default:
        hand_to_libfuse(lane, length);
    }
}

static void note_end(struct plane *plane)
{
    pthread_mutex_lock(&plane->lock);
    if (!plane->is_leaving) /* else the connection goes on, without us */
        plane->has_ended = true;
    pthread_mutex_unlock(&plane->lock);
    plane_tell(plane);
}

/* Wait awake for a request that comes soon: to sleep, and to be woken from another processor, takes
 * longer than a small request does. Where that was in vain, or one was there already, it is left
 * for a while, twice as long each time: so a lane burns nothing on a caller that needs its
 * processor, nor on one that is slow. */
static void await_awake(struct lane *lane)
{
    struct pollfd device = {.fd = lane->plane->device, .events = POLLIN};
    bool was_late = false;
    if (lane->rest > 0) {
        lane->rest--;
        return;
    }
    for (uint64_t end = nanoseconds() + AWAKE_NANOSECONDS; nanoseconds() < end; was_late = true)
        if (poll(&device, 1, 0) != 0) {
            if (!was_late)
                break;
            lane->last_rest = 0;
            return;
        }
    lane->last_rest = lane->last_rest < MOST_REST ? 2 * lane->last_rest + 1 : MOST_REST;
    lane->rest = lane->last_rest;
}

void *plane_run_lane(void *argument)
{
    struct lane *lane = argument;
    struct plane *plane = lane->plane;
    while ((!lane->is_relief || plane_await_need(plane)) && plane_take_entry(lane)) {
        if (lane->was_fast && !lane->is_relief)
            await_awake(lane);
        lane->was_fast = false;
        bool is_resident = lane->entry < plane->entries + KEPT_BUFFERS;
        unsigned char *into = is_resident ? lane->entry->buffer : lane->out;
        ssize_t length = read(plane->device, into, BUFFER_BYTES);
        if (length > 0 && !is_resident)
            memcpy(lane->entry->buffer, into, (size_t)length);
        if (length > 0) {
            lane->begun = nanoseconds();
            serve_request(lane, (size_t)length);
        } else if (length == 0 || (errno != EINTR && errno != EAGAIN && errno != ENOENT))
            break; /* ENODEV: unmounted; ECONNABORTED; nothing else is known to come */
    }
    note_end(plane);
    __atomic_store_n(&lane->has_ended, true, __ATOMIC_RELEASE);
    return NULL;
}
