/* Requests from the kernel, and who answers them. See plane.h. */
#define _GNU_SOURCE
#include "internal.h"

#include "xts_units.h"

#include <errno.h>
#include <linux/fuse.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { FILE_NODE = 2, FILE_HANDLE = 2, REPLY_BYTES = 128 * 1024, STACK_BYTES = 1 << 20 };

/* Wakes a thread out of a system call; nothing else uses it, and by default it is ignored. */
#define KICK SIGURG

static void do_nothing(int number) { (void)number; }

/* ---------------------------------------------------------------- answers */

static void answer_error(struct plane *plane, uint64_t unique, int error)
{
    struct fuse_out_header head = {.len = sizeof head, .error = -error, .unique = unique};
    /* Fails when nobody waits any more: the caller was killed, or the connection is gone. */
    (void)!write(plane->device, &head, sizeof head);
}

static void answer(struct plane *plane, uint64_t unique, const void *body, size_t size)
{
    struct fuse_out_header head = {.len = (uint32_t)(sizeof head + size), .unique = unique};
    struct iovec parts[2] = {{&head, sizeof head}, {(void *)(uintptr_t)body, size}};
    if (writev(plane->device, parts, 2) < 0 && errno != ENOENT)
        answer_error(plane, unique, EIO);
}

/* ---------------------------------------------------------------- entries */

static void release(struct plane *plane, struct entry *entry) /* locked */
{
    entry->holder = entry->is_being_sent ? ANSWERED : FREE;
    if (entry->holder == FREE)
        pthread_cond_signal(&plane->freed);
}

/* Wait for an entry to read the next request into; false at the end. */
static bool take_entry(struct lane *lane)
{
    struct plane *plane = lane->plane;
    pthread_mutex_lock(&plane->lock);
    while (lane->entry == NULL && !plane->is_stopping) {
        for (unsigned i = 0; i < ENTRIES && lane->entry == NULL; i++)
            if (plane->entries[i].holder == FREE)
                lane->entry = &plane->entries[i];
        if (lane->entry == NULL)
            pthread_cond_wait(&plane->freed, &plane->lock);
        else
            lane->entry->holder = LANE;
    }
    bool goes_on = !plane->is_stopping;
    pthread_mutex_unlock(&plane->lock);
    return goes_on;
}

/* Answer a request that libfuse does not, unless somebody just did. */
static void take_back(struct plane *plane, struct entry *entry, uint64_t unique)
{
    pthread_mutex_lock(&plane->lock);
    bool is_open = entry->holder == LIBFUSE && entry->unique == unique;
    if (is_open)
        entry->holder = LANE;
    pthread_mutex_unlock(&plane->lock);
    if (!is_open)
        return;
    answer_error(plane, unique, EIO);
    pthread_mutex_lock(&plane->lock);
    release(plane, entry);
    pthread_mutex_unlock(&plane->lock);
}

/* ---------------------------------------------------------------- a lane */

static void answer_fast(struct plane *plane, uint64_t unique, const void *body, size_t size)
{
    __atomic_fetch_add(&plane->counts.fast, 1, __ATOMIC_RELAXED);
    answer(plane, unique, body, size);
}

static bool fast_read(struct lane *lane)
{
    struct plane *plane = lane->plane;
    const struct entry *entry = lane->entry;
    struct iovec into = {lane->out, entry->size};
    /* Never waits for the medium: what is not in the page cache is Python's. */
    bool is_good =
        preadv2(plane->data, &into, 1, (off_t)entry->offset, RWF_NOWAIT) == (ssize_t)entry->size &&
        (!plane->has_cipher ||
         xts_decrypt_sparse(lane->decrypt, lane->out, lane->out, entry->size / XTS_UNIT,
                            entry->offset / XTS_SECTOR));
    bool may_be_handed_out = plane_leave_range(lane);
    if (is_good && may_be_handed_out)
        answer_fast(plane, entry->unique, lane->out, entry->size);
    plane_end(lane);
    return is_good && may_be_handed_out;
}

static bool fast_write(struct lane *lane)
{
    struct plane *plane = lane->plane;
    const struct entry *entry = lane->entry;
    unsigned char *data = entry->buffer + sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in);
    uint64_t tweak = entry->offset / XTS_SECTOR;
    size_t units = entry->size / XTS_UNIT;
    struct fuse_write_out done = {.size = entry->size};
    /* In place, so that no plaintext stays in a buffer of which nobody knows. */
    bool is_lost = plane->has_cipher && !xts_crypt(lane->encrypt, data, data, XTS_UNIT, units, tweak, 0, 1);
    bool is_good = !is_lost && pwrite(plane->data, data, entry->size, (off_t)entry->offset) ==
                                   (ssize_t)entry->size;
    if (!is_good && !is_lost && plane->has_cipher)
        is_lost = !xts_crypt(lane->decrypt, data, data, XTS_UNIT, units, tweak, 0, 0);
    plane_end(lane);
    if (is_good)
        answer_fast(plane, entry->unique, &done, sizeof done);
    else if (is_lost)
        answer_error(plane, entry->unique, EIO);
    return is_good || is_lost;
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
        entry->offset = in->offset;
        entry->size = in->size;
        handle = in->fh;
    }
    return head->nodeid == FILE_NODE && handle == FILE_HANDLE && entry->size <= PLANE_MAX_TRANSFER &&
           entry->offset <= (uint64_t)INT64_MAX - entry->size;
}

static void hand_to_python(struct lane *lane)
{
    struct plane *plane = lane->plane;
    pthread_mutex_lock(&plane->lock);
    plane->queue[(plane->queue_first + plane->queue_count++) % ENTRIES] =
        (uint32_t)(lane->entry - plane->entries);
    lane->entry->holder = QUEUED;
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
        take_back(plane, entry, unique);
    pthread_mutex_lock(&plane->lock);
    entry->is_being_sent = false;
    if (entry->holder == ANSWERED)
        release(plane, entry);
    pthread_mutex_unlock(&plane->lock);
}

static void serve_request(struct lane *lane, size_t length)
{
    struct plane *plane = lane->plane;
    struct entry *entry = lane->entry;
    const struct fuse_in_header *head = (const void *)entry->buffer;
    if (length < sizeof *head)
        return; /* nobody to answer */
    entry->unique = head->unique;
    entry->opcode = head->opcode;
    entry->kind = 0;
    if (head->len != length) {
        answer_error(plane, head->unique, EIO);
        return;
    }
    switch (head->opcode) {
    case FUSE_READ:
    case FUSE_WRITE:
        if (!parse_transfer(entry, length))
            answer_error(plane, head->unique, EIO);
        else if (!plane_begin(lane) || !(entry->kind == PLANE_READ ? fast_read(lane) : fast_write(lane)))
            hand_to_python(lane);
        return;
    case FUSE_INTERRUPT:
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
        return; /* no reply is wanted, and the two nodes are never forgotten */
    default:
        hand_to_libfuse(lane, length);
    }
}

static void note_end(struct plane *plane)
{
    pthread_mutex_lock(&plane->lock);
    plane->has_ended = true;
    pthread_mutex_unlock(&plane->lock);
    plane_tell(plane);
}

static void *run_lane(void *argument)
{
    struct lane *lane = argument;
    struct plane *plane = lane->plane;
    while (take_entry(lane)) {
        ssize_t length = read(plane->device, lane->entry->buffer, BUFFER_BYTES);
        if (length > 0)
            serve_request(lane, (size_t)length);
        else if (length == 0 || (errno != EINTR && errno != EAGAIN && errno != ENOENT))
            break; /* ENODEV: unmounted; ECONNABORTED; nothing else is known to come */
    }
    note_end(plane);
    __atomic_store_n(&lane->has_ended, true, __ATOMIC_RELEASE);
    return NULL;
}

/* ---------------------------------------------------------------- replies of libfuse */

/* What libfuse cannot say, or must not. */
static void amend(const struct entry *entry, unsigned char *reply, size_t length)
{
    struct fuse_out_header *head = (void *)reply;
    size_t body = length - sizeof *head;
    if (head->error)
        return;
    if (entry->opcode == FUSE_OPEN && body >= sizeof(struct fuse_open_out)) {
        struct fuse_open_out *out = (void *)(head + 1);
        /* Who keeps writes apart are the lanes and the range lock, not the kernel. */
        if (out->open_flags & FOPEN_DIRECT_IO)
            out->open_flags |= FOPEN_PARALLEL_DIRECT_WRITES;
    } else if (entry->opcode == FUSE_INIT && body >= sizeof(struct fuse_init_out)) {
        struct fuse_init_out *out = (void *)(head + 1);
        if (out->max_write > PLANE_MAX_TRANSFER)
            out->max_write = PLANE_MAX_TRANSFER;
        /* Bounds reads as well. */
        if (out->max_pages > PLANE_MAX_TRANSFER / 4096)
            out->max_pages = PLANE_MAX_TRANSFER / 4096;
    }
}

static struct entry *entry_of_reply(struct plane *plane, uint64_t unique)
{
    struct entry *found = NULL;
    pthread_mutex_lock(&plane->lock);
    for (unsigned i = 0; i < ENTRIES && found == NULL; i++)
        if (plane->entries[i].holder == LIBFUSE && plane->entries[i].unique == unique)
            found = &plane->entries[i];
    pthread_mutex_unlock(&plane->lock);
    return found;
}

static void *run_replies(void *argument)
{
    struct plane *plane = argument;
    unsigned char *reply = plane->memory + (size_t)ENTRIES * BUFFER_BYTES;
    for (;;) {
        ssize_t length = recv(plane->control, reply, REPLY_BYTES, MSG_TRUNC);
        if (length < 0 && errno == EINTR)
            continue;
        if (length <= 0)
            break; /* shut down, or closed by libfuse */
        const struct fuse_out_header *head = (const void *)reply;
        if ((size_t)length < sizeof *head)
            continue;
        /* Notifications have no entry, and may wait for a read under way: we send none this way. */
        struct entry *entry = entry_of_reply(plane, head->unique);
        if (entry == NULL)
            continue;
        uint64_t unique = head->unique;
        if ((size_t)length > REPLY_BYTES || head->len != (size_t)length) {
            answer_error(plane, unique, EIO);
        } else {
            amend(entry, reply, (size_t)length);
            if (write(plane->device, reply, (size_t)length) < 0 && errno != ENOENT)
                answer_error(plane, unique, EIO);
        }
        pthread_mutex_lock(&plane->lock);
        release(plane, entry);
        pthread_mutex_unlock(&plane->lock);
    }
    /* What is sent from here on is refused, and answered by who sent it. */
    shutdown(plane->control, SHUT_RDWR);
    for (unsigned i = 0; i < ENTRIES; i++) {
        struct entry *entry = &plane->entries[i];
        pthread_mutex_lock(&plane->lock);
        bool is_open = entry->holder == LIBFUSE;
        uint64_t unique = is_open ? entry->unique : 0;
        pthread_mutex_unlock(&plane->lock);
        if (is_open)
            take_back(plane, entry, unique);
    }
    __atomic_store_n(&plane->replies_ended, true, __ATOMIC_RELEASE);
    return NULL;
}

/* ---------------------------------------------------------------- for Python */

int plane_next(struct plane *plane, struct plane_request *request)
{
    pthread_mutex_lock(&plane->lock);
    bool is_there = plane->queue_count > 0;
    if (is_there) {
        uint32_t number = plane->queue[plane->queue_first];
        plane->queue_first = (plane->queue_first + 1) % ENTRIES;
        plane->queue_count--;
        struct entry *entry = &plane->entries[number];
        entry->holder = PYTHON;
        *request = (struct plane_request){
            .entry = number,
            .kind = entry->kind,
            .offset = entry->offset,
            .size = entry->size,
            .data = entry->buffer + sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in),
        };
    }
    pthread_mutex_unlock(&plane->lock);
    return is_there;
}

void plane_answer(struct plane *plane, uint32_t number, int error, const void *data, uint32_t size)
{
    struct entry *entry = &plane->entries[number];
    uint64_t unique = entry->unique;
    if (entry->kind == PLANE_WRITE) /* its plaintext must not stay */
        memset(entry->buffer + sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in), 0,
               entry->size);
    if (error)
        answer_error(plane, unique, error);
    else if (entry->kind == PLANE_WRITE)
        answer(plane, unique, &(struct fuse_write_out){.size = size}, sizeof(struct fuse_write_out));
    else
        answer(plane, unique, data, size);
    pthread_mutex_lock(&plane->lock);
    release(plane, entry);
    pthread_mutex_unlock(&plane->lock);
}

int plane_invalidate(struct plane *plane)
{
    struct {
        struct fuse_out_header head;
        struct fuse_notify_inval_inode_out body;
    } message = {
        .head = {.len = sizeof message, .error = FUSE_NOTIFY_INVAL_INODE},
        /* An offset below zero: attributes alone, so that it waits for no read. */
        .body = {.ino = FILE_NODE, .off = -1},
    };
    return write(plane->device, &message, sizeof message) < 0 && errno != ENOENT ? errno : 0;
}

/* ---------------------------------------------------------------- from first to last */

int plane_event(const struct plane *plane) { return plane->event; }

int plane_has_ended(struct plane *plane)
{
    pthread_mutex_lock(&plane->lock);
    bool has_ended = plane->has_ended;
    pthread_mutex_unlock(&plane->lock);
    return has_ended;
}

struct plane_counts plane_counts(struct plane *plane)
{
    pthread_mutex_lock(&plane->lock);
    struct plane_counts counts = {
        .fast = __atomic_load_n(&plane->counts.fast, __ATOMIC_RELAXED),
        .handed_on = plane->counts.handed_on,
    };
    pthread_mutex_unlock(&plane->lock);
    return counts;
}

static void *map(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                        -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

static bool set_up_cipher(struct lane *lane, const unsigned char *key)
{
    lane->encrypt = EVP_CIPHER_CTX_new();
    lane->decrypt = EVP_CIPHER_CTX_new();
    return lane->encrypt != NULL && lane->decrypt != NULL &&
           EVP_CipherInit_ex(lane->encrypt, EVP_aes_256_xts(), NULL, key, NULL, 1) == 1 &&
           EVP_CipherInit_ex(lane->decrypt, EVP_aes_256_xts(), NULL, key, NULL, 0) == 1;
}

static size_t buffers_size(const struct plane *plane)
{
    return (size_t)ENTRIES * BUFFER_BYTES + REPLY_BYTES +
           (size_t)plane->lane_count * PLANE_MAX_TRANSFER;
}

static void free_memory(struct plane *plane)
{
    for (unsigned i = 0; i < plane->lane_count; i++) {
        EVP_CIPHER_CTX_free(plane->lanes[i].encrypt);
        EVP_CIPHER_CTX_free(plane->lanes[i].decrypt);
    }
    if (plane->event >= 0)
        close(plane->event);
    if (plane->memory != NULL)
        munmap(plane->memory, buffers_size(plane));
    if (plane->grants != NULL)
        munmap(plane->grants, GRANTS * sizeof *plane->grants);
    pthread_cond_destroy(&plane->freed);
    pthread_mutex_destroy(&plane->lock);
    free(plane);
}

struct plane *plane_new(int device, int control, int data, uint64_t size_bytes,
                        const unsigned char *key, unsigned lanes)
{
    struct plane *plane = calloc(1, sizeof *plane);
    if (plane == NULL)
        return NULL;
    *plane = (struct plane){
        .device = device,
        .control = control,
        .data = data,
        .size_bytes = size_bytes,
        .has_cipher = key != NULL,
        .read_epoch = 1,
        .write_epoch = 1,
        .lane_count = lanes < 1 ? 1 : lanes > PLANE_MAX_LANES ? PLANE_MAX_LANES : lanes,
    };
    pthread_mutex_init(&plane->lock, NULL);
    pthread_cond_init(&plane->freed, NULL);
    plane->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    plane->grants = map(GRANTS * sizeof *plane->grants);
    plane->memory = map(buffers_size(plane));
    bool is_good = plane->event >= 0 && plane->grants != NULL && plane->memory != NULL;
    for (unsigned i = 0; is_good && i < ENTRIES; i++)
        plane->entries[i].buffer = plane->memory + (size_t)i * BUFFER_BYTES;
    for (unsigned i = 0; is_good && i < plane->lane_count; i++) {
        struct lane *lane = &plane->lanes[i];
        lane->plane = plane;
        lane->out = plane->memory + (size_t)ENTRIES * BUFFER_BYTES + REPLY_BYTES +
                    (size_t)i * PLANE_MAX_TRANSFER;
        is_good = key == NULL || set_up_cipher(lane, key);
    }
    if (is_good)
        return plane;
    free_memory(plane);
    errno = ENOMEM;
    return NULL;
}

int plane_start(struct plane *plane)
{
    sigset_t all, before;
    pthread_attr_t attributes;
    struct sigaction kick = {.sa_handler = do_nothing}; /* no SA_RESTART: calls return EINTR */
    sigaction(KICK, &kick, NULL);
    sigfillset(&all);
    sigdelset(&all, KICK);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    int error = pthread_create(&plane->replies, &attributes, run_replies, plane);
    plane->replies_started = error == 0;
    for (unsigned i = 0; error == 0 && i < plane->lane_count; i++) {
        struct lane *lane = &plane->lanes[i];
        error = pthread_create(&lane->thread, &attributes, run_lane, lane);
        lane->is_started = error == 0;
    }
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

/* Kick the threads that run; how many that were. */
static unsigned kick_threads(struct plane *plane)
{
    unsigned running = 0;
    for (unsigned i = 0; i < plane->lane_count; i++) {
        struct lane *lane = &plane->lanes[i];
        if (lane->is_started && !__atomic_load_n(&lane->has_ended, __ATOMIC_ACQUIRE)) {
            pthread_kill(lane->thread, KICK);
            running++;
        }
    }
    return running + (plane->replies_started && !__atomic_load_n(&plane->replies_ended, __ATOMIC_ACQUIRE));
}

int plane_stop(struct plane *plane, unsigned milliseconds)
{
    const struct timespec turn = {.tv_nsec = 1000000};
    pthread_mutex_lock(&plane->lock);
    plane->is_stopping = true;
    pthread_cond_broadcast(&plane->freed);
    pthread_mutex_unlock(&plane->lock);
    shutdown(plane->control, SHUT_RDWR);
    /* Again and again: a kick is lost on a thread that is just about to call. */
    while (kick_threads(plane) > 0) {
        if (milliseconds-- == 0)
            return 0;
        nanosleep(&turn, NULL);
    }
    for (unsigned i = 0; i < plane->lane_count; i++)
        if (plane->lanes[i].is_started)
            pthread_join(plane->lanes[i].thread, NULL);
    if (plane->replies_started)
        pthread_join(plane->replies, NULL);
    return 1;
}

void plane_free(struct plane *plane)
{
    close(plane->device);
    close(plane->control);
    close(plane->data);
    free_memory(plane);
}
