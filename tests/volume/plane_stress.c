/* Stress of the data plane's C, for builds with a sanitizer: plane_stress DATA_FILE SECONDS THREADS.
 *
 * Threads that are the kernel ask for reads, writes and discards in a small volume over a pair of
 * sockets, each in places of its own and in some that all share. One thread is Python: it takes chunks
 * away and gives them back all the time, answers what is handed on, and sees that nothing is under way
 * in a chunk that it took and waited for, nor written anywhere when the lease has run out. One is
 * libfuse. At the end the medium hangs, and all is fenced, given up, wiped; it comes back, and all is
 * stopped.
 */
#define _GNU_SOURCE
#include "plane.h"
#include "xts_units.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { UNIT = 4096, CHUNK = 1 << 19, CHUNKS = 4, OWN_UNITS = 8, LANES = 3 };
enum { PUNCH = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE };

static const unsigned char no_bytes[UNIT];
/* So large that a helper takes part; no caller's own places are there. */
enum { LARGE = CHUNK / 2, LARGE_AT = CHUNKS * CHUNK - LARGE };

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static struct plane *plane;
static int kernel, libfuse, data, done;
static unsigned char key[64];
static unsigned callers_count;
static pthread_t threads[8];
static uint64_t asked, answered;

/* One write of each caller is on its way at a time, so its last one is what it must read. */
struct caller {
    unsigned number, seed;
    unsigned char last[OWN_UNITS];
};

/* The medium, of which the linker tells us (--wrap). One that hangs keeps whoever writes, and who
 * reads; not the relief, which asks for nothing that waits. */
static pthread_mutex_t medium_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t medium_returned = PTHREAD_COND_INITIALIZER;
static bool medium_hangs;

static bool is_hung(void)
{
    pthread_mutex_lock(&medium_lock);
    bool is_hung = medium_hangs;
    pthread_mutex_unlock(&medium_lock);
    return is_hung;
}

static void set_hung(bool is_hung)
{
    pthread_mutex_lock(&medium_lock);
    medium_hangs = is_hung;
    pthread_cond_broadcast(&medium_returned);
    pthread_mutex_unlock(&medium_lock);
}

static void ask_medium(void)
{
    pthread_mutex_lock(&medium_lock);
    while (medium_hangs)
        pthread_cond_wait(&medium_returned, &medium_lock);
    pthread_mutex_unlock(&medium_lock);
}

ssize_t __real_pwrite(int, const void *, size_t, off_t);
ssize_t __wrap_pwrite(int, const void *, size_t, off_t);
ssize_t __real_preadv2(int, const struct iovec *, int, off_t, int);
ssize_t __wrap_preadv2(int, const struct iovec *, int, off_t, int);

ssize_t __wrap_pwrite(int file, const void *bytes, size_t size, off_t offset)
{
    ask_medium();
    return __real_pwrite(file, bytes, size, offset);
}

ssize_t __wrap_preadv2(int file, const struct iovec *parts, int count, off_t offset, int flags)
{
    if (!plane_is_held_up(plane))
        ask_medium();
    return __real_preadv2(file, parts, count, offset, flags);
}

static bool is_done(void) { return __atomic_load_n(&done, __ATOMIC_ACQUIRE); }

static uint64_t own_offset(const struct caller *caller, unsigned unit)
{
    /* Each caller has units in every chunk. */
    return (uint64_t)(unit % CHUNKS) * CHUNK + (caller->number * OWN_UNITS + unit) * UNIT;
}

/* The sockets of the kernel are shared: replies go to who waits, by number. */
static pthread_mutex_t reply_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t reply_came = PTHREAD_COND_INITIALIZER;
static struct {
    uint64_t unique;
    int error;
    bool is_there;
    unsigned char body[LARGE];
} replies[16];

static void *receive(void *unused)
{
    static unsigned char buffer[1 << 20];
    (void)unused;
    for (;;) {
        ssize_t length = recv(kernel, buffer, sizeof buffer, 0);
        if (length <= 0)
            return NULL;
        struct fuse_out_header *head = (void *)buffer;
        CHECK((size_t)length == head->len);
        pthread_mutex_lock(&reply_lock);
        unsigned slot = head->unique % 16;
        CHECK(replies[slot].unique == head->unique && !replies[slot].is_there); /* exactly one */
        replies[slot].error = head->error;
        replies[slot].is_there = true;
        memcpy(replies[slot].body, head + 1, (size_t)length - sizeof *head);
        answered++;
        pthread_cond_broadcast(&reply_came);
        pthread_mutex_unlock(&reply_lock);
    }
}

static int ask(struct caller *caller, uint32_t opcode, uint64_t offset, uint32_t size,
               const unsigned char *bytes, unsigned char *into)
{
    static uint64_t turn;
    struct {
        struct fuse_in_header head;
        struct fuse_write_in in;
        unsigned char data[LARGE];
    } message;
    message.head = (struct fuse_in_header){.opcode = opcode, .nodeid = 2};
    message.in = (struct fuse_write_in){.fh = 2, .offset = offset, .size = size};
    size_t length = sizeof message.head + sizeof message.in;
    if (opcode == FUSE_WRITE) {
        memcpy(message.data, bytes, size);
        length += size;
    }
    if (opcode == FUSE_FALLOCATE) {
        struct fuse_fallocate_in in = {.fh = 2, .offset = offset, .length = size, .mode = PUNCH};
        memcpy(&message.in, &in, sizeof in);
        length = sizeof message.head + sizeof in;
    }
    message.head.len = (uint32_t)length;
    pthread_mutex_lock(&reply_lock);
    unsigned slot = caller->number;
    message.head.unique = 16 * ++turn + slot;
    replies[slot].unique = message.head.unique;
    replies[slot].is_there = false;
    asked++;
    pthread_mutex_unlock(&reply_lock);
    CHECK(send(kernel, &message, length, 0) == (ssize_t)length);
    pthread_mutex_lock(&reply_lock);
    while (!replies[slot].is_there)
        pthread_cond_wait(&reply_came, &reply_lock);
    if (into != NULL)
        memcpy(into, replies[slot].body, size);
    int error = replies[slot].error;
    pthread_mutex_unlock(&reply_lock);
    CHECK(error == 0 || (error == -EIO && is_hung()));
    return error;
}

/* When the medium hangs: what was written is not known any more. */
static void *keep_asking(struct caller *caller)
{
    unsigned char bytes[UNIT];
    memset(bytes, 1, UNIT); /* zeros would be Python's */
    while (!is_done())
        (void)ask(caller, FUSE_WRITE, own_offset(caller, 0), UNIT, bytes, NULL);
    return NULL;
}

static bool call_large(struct caller *caller)
{
    unsigned char *bytes = malloc(LARGE);
    CHECK(bytes != NULL);
    memset(bytes, rand_r(&caller->seed), LARGE);
    bool is_answered = ask(caller, FUSE_WRITE, LARGE_AT, LARGE, bytes, NULL) == 0 &&
                       ask(caller, FUSE_READ, LARGE_AT, LARGE, NULL, bytes) == 0;
    for (unsigned i = 0; is_answered && i < LARGE; i += UNIT) /* no unit is a mixture */
        CHECK(memcmp(bytes + i, bytes + i + 1, UNIT - 1) == 0);
    free(bytes);
    return is_answered;
}

static void *call(void *argument)
{
    struct caller *caller = argument;
    unsigned char bytes[2 * UNIT];
    while (!is_done()) {
        if (rand_r(&caller->seed) % 16 == 0 && !call_large(caller))
            return keep_asking(caller);
        unsigned unit = (unsigned)rand_r(&caller->seed) % OWN_UNITS;
        switch (rand_r(&caller->seed) % 4) {
        case 0: /* where all write */
            memset(bytes, rand_r(&caller->seed), sizeof bytes);
            if (ask(caller, FUSE_WRITE, CHUNK - UNIT, 2 * UNIT, bytes, NULL))
                return keep_asking(caller);
            break;
        case 1:
            if (ask(caller, FUSE_READ, CHUNK - UNIT, 2 * UNIT, NULL, bytes))
                return keep_asking(caller);
            for (unsigned i = 0; i < 2 * UNIT; i++)
                CHECK(bytes[i] == bytes[i / UNIT * UNIT]); /* no unit is a mixture */
            break;
        case 2:
            caller->last[unit]++;
            memset(bytes, caller->last[unit], UNIT);
            if (ask(caller, FUSE_WRITE, own_offset(caller, unit), UNIT, bytes, NULL))
                return keep_asking(caller);
            break;
        default:
            if (ask(caller, FUSE_READ, own_offset(caller, unit), UNIT, NULL, bytes))
                return keep_asking(caller);
            CHECK(bytes[0] == caller->last[unit] && bytes[UNIT - 1] == caller->last[unit]);
            if (rand_r(&caller->seed) % 4 == 0) {
                caller->last[unit] = 0;
                if (ask(caller, FUSE_FALLOCATE, own_offset(caller, unit), UNIT, NULL, NULL))
                    return keep_asking(caller);
            }
            if (rand_r(&caller->seed) % 8 == 0) /* a reply of libfuse's */
                (void)ask(caller, FUSE_GETATTR, 0, 0, NULL, NULL);
            if (rand_r(&caller->seed) % 8 == 0) { /* a part of a unit */
                if (ask(caller, FUSE_READ, own_offset(caller, unit) + 700, 512, NULL, bytes))
                    return keep_asking(caller);
                CHECK(bytes[0] == caller->last[unit] && bytes[511] == caller->last[unit]);
            }
        }
    }
    return NULL;
}

static bool await_ends(size_t works, const struct plane_work *found)
{
    for (size_t i = 0; i < works; i++)
        while (!plane_is_over(plane, found[i].lane, found[i].ticket)) {
            if (is_hung())
                return false;
            sched_yield();
        }
    return true;
}

/* Take a chunk, wait for what was under way, and hand over to `plane_grant` again. False when it
 * hangs. */
static bool take(uint32_t first, uint32_t count)
{
    struct plane_work found[PLANE_MAX_LANES];
    size_t works = plane_revoke(plane, first, count, PLANE_READ | PLANE_WRITE, found);
    if (!await_ends(works, found))
        return false;
    CHECK(plane_revoke(plane, first, count, PLANE_READ | PLANE_WRITE, found) == 0);
    return true;
}

static void give_back(uint32_t first, uint32_t count)
{
    for (uint32_t chunk = first; chunk < first + count; chunk++)
        plane_grant(plane, chunk, PLANE_READ | PLANE_WRITE);
}

static void transform(unsigned char *bytes, uint64_t offset, uint32_t size, int encrypt)
{
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    CHECK(EVP_CipherInit_ex(context, EVP_aes_256_xts(), NULL, key, NULL, encrypt) == 1);
    if (encrypt)
        CHECK(xts_crypt(context, bytes, bytes, UNIT, size / UNIT, offset / 512, 0, 1));
    else
        CHECK(xts_decrypt_sparse(context, bytes, bytes, size / UNIT, offset / 512));
    EVP_CIPHER_CTX_free(context);
}

static void answer_request(const struct plane_request *request)
{
    static unsigned char bytes[LARGE];
    uint32_t first = (uint32_t)(request->offset / CHUNK);
    uint32_t count = (uint32_t)((request->offset + request->size - 1) / CHUNK) - first + 1;
    if (!take(first, count))
        plane_answer(plane, request->entry, EIO, NULL, 0);
    else if (request->kind == PLANE_DISCARD) {
        CHECK(request->mode == PUNCH && request->size == UNIT);
        CHECK(__real_pwrite(data, no_bytes, UNIT, (off_t)request->offset) == UNIT);
        plane_answer(plane, request->entry, 0, NULL, 0);
    } else if (request->kind == PLANE_WRITE) {
        uint32_t size = (uint32_t)request->size;
        memcpy(bytes, request->data, size);
        transform(bytes, request->offset, size, 1);
        CHECK(__real_pwrite(data, bytes, size, (off_t)request->offset) == size);
        plane_answer(plane, request->entry, 0, NULL, size);
    } else {
        uint32_t inside = (uint32_t)(request->offset % UNIT);
        uint64_t offset = request->offset - inside;
        uint32_t size = (inside + (uint32_t)request->size + UNIT - 1) / UNIT * UNIT;
        CHECK(pread(data, bytes, size, (off_t)offset) == size);
        transform(bytes, offset, size, 0);
        plane_answer(plane, request->entry, 0, bytes + inside, (uint32_t)request->size);
    }
    give_back(first, count);
}

/* Until the lease is held again nothing is written fast, though it is granted; what is handed on
 * waits meanwhile. */
static void let_lease_run_out(void)
{
    struct plane_work found[PLANE_MAX_LANES];
    static unsigned char before[CHUNKS * CHUNK], after[CHUNKS * CHUNK];
    plane_write_until(plane, 0);
    size_t works = plane_revoke(plane, 0, CHUNKS, PLANE_WRITE, found);
    give_back(0, CHUNKS);
    if (!await_ends(works, found))
        return;
    CHECK(pread(data, before, sizeof before, 0) == sizeof before);
    for (unsigned i = 0; i < 20; i++)
        sched_yield();
    CHECK(pread(data, after, sizeof after, 0) == sizeof after);
    CHECK(memcmp(before, after, sizeof before) == 0);
    struct timespec now;
    CHECK(clock_gettime(CLOCK_BOOTTIME, &now) == 0);
    plane_write_until(plane, (now.tv_sec + 60) * 1000000000LL);
}

/* Behind a fence it goes over to nothing. */
static bool switch_to(const unsigned char *next_key, bool may_be_busy)
{
    int next = dup(data);
    int error = plane_switch(plane, next, next_key);
    CHECK(error == 0 || error == EPERM || (may_be_busy && error == EBUSY));
    if (error)
        close(next);
    return error == 0;
}

/* Another descriptor and other ciphers, while callers go on: at once where nothing is under way, or
 * else when all was taken. Without a key nothing is granted, since Python writes under that. */
static void switch_over(void)
{
    struct plane_work found[PLANE_MAX_LANES];
    (void)switch_to(key, true);
    size_t works = plane_revoke_all(plane, PLANE_READ | PLANE_WRITE, found);
    if (await_ends(works, found) && switch_to(NULL, false))
        (void)switch_to(key, false); /* but behind a fence, where nothing matters any more */
}

static void *be_python(void *unused)
{
    unsigned seed = 7;
    struct plane_work found[PLANE_MAX_LANES];
    (void)unused;
    while (!plane_has_ended(plane)) {
        struct plane_request request;
        struct pollfd poll_event = {.fd = plane_event(plane), .events = POLLIN};
        eventfd_t count;
        poll(&poll_event, 1, 1);
        (void)!eventfd_read(plane_event(plane), &count);
        while (plane_next(plane, &request))
            answer_request(&request);
        uint32_t chunk = (uint32_t)rand_r(&seed) % CHUNKS;
        if (take(chunk, 1) && rand_r(&seed) % 16 == 0)
            plane_revoke_all(plane, PLANE_WRITE, found);
        if (rand_r(&seed) % 16 == 0)
            switch_over();
        give_back(chunk, 1);
        if (rand_r(&seed) % 64 == 0)
            let_lease_run_out();
        /* It grows, and what is new is nobody's. */
        plane_set_size(plane, (uint64_t)(CHUNKS + rand_r(&seed) % 2) * CHUNK);
        plane_add_budget(plane, 1 << 20);
    }
    return NULL;
}

/* All lanes are kept; others are served, and those who are not are told. */
static void hang_and_return(unsigned lanes)
{
    struct caller other = {.number = 15};
    struct timespec moment = {.tv_nsec = 1000000};
    set_hung(true);
    while (!plane_is_held_up(plane))
        nanosleep(&moment, NULL);
    CHECK(ask(&other, FUSE_GETATTR, 0, 0, NULL, NULL) == 0);
    plane_fence(plane);
    plane_give_up(plane);
    plane_give_up(plane);
    __atomic_store_n(&done, 1, __ATOMIC_RELEASE);
    for (unsigned i = 0; i < callers_count; i++)
        pthread_join(threads[i], NULL);
    CHECK(asked == answered);
    CHECK(plane_wipe(plane) == lanes);
    set_hung(false);
    while (plane_wipe(plane) > 0)
        nanosleep(&moment, NULL);
    CHECK(ask(&other, FUSE_GETATTR, 0, 0, NULL, NULL) == 0);
    CHECK(asked == answered);
}

static void *be_libfuse(void *unused)
{
    unsigned char buffer[1 << 16];
    (void)unused;
    while (recv(libfuse, buffer, sizeof buffer, 0) > 0) {
        const struct fuse_in_header *head = (const void *)buffer;
        struct fuse_out_header reply = {.len = sizeof reply, .unique = head->unique};
        CHECK(send(libfuse, &reply, sizeof reply, MSG_NOSIGNAL) == sizeof reply);
    }
    return NULL;
}

int main(int count, char **arguments)
{
    int device_pair[2], control_pair[2];
    pthread_t receiver, python, fuse;
    struct caller callers[8] = {0};
    CHECK(count == 4);
    callers_count = (unsigned)atoi(arguments[3]);
    CHECK(callers_count >= 1 && callers_count <= 8);
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, device_pair) == 0);
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, control_pair) == 0);
    /* So that neither end ever finds a message too large. */
    for (unsigned i = 0; i < 2; i++)
        CHECK(setsockopt(device_pair[i], SOL_SOCKET, SO_SNDBUFFORCE, &(int){1 << 24}, sizeof(int)) == 0);
    for (unsigned i = 0; i < sizeof key; i++)
        key[i] = (unsigned char)i;
    kernel = device_pair[0];
    libfuse = control_pair[0];
    data = open(arguments[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(data >= 0 && ftruncate(data, (off_t)CHUNKS * CHUNK) == 0);
    plane = plane_new(device_pair[1], control_pair[1], dup(data), (uint64_t)CHUNKS * CHUNK, key, LANES,
                      PLANE_TAKES_DISCARDS | PLANE_DROPS_ZEROS);
    CHECK(plane != NULL && plane_start(plane) == 0);
    give_back(0, CHUNKS);
    CHECK(pthread_create(&receiver, NULL, receive, NULL) == 0);
    CHECK(pthread_create(&python, NULL, be_python, NULL) == 0);
    CHECK(pthread_create(&fuse, NULL, be_libfuse, NULL) == 0);
    for (unsigned i = 0; i < callers_count; i++) {
        callers[i] = (struct caller){.number = i, .seed = i + 1};
        CHECK(pthread_create(&threads[i], NULL, call, &callers[i]) == 0);
    }
    sleep((unsigned)atoi(arguments[2]));
    hang_and_return(LANES);
    struct plane_counts counts = plane_counts(plane);
    CHECK(counts.fast > 0 && counts.handed_on > 0);
    shutdown(kernel, SHUT_RDWR);
    pthread_join(receiver, NULL);
    pthread_join(python, NULL);
    CHECK(plane_stop(plane, 5000));
    pthread_join(fuse, NULL);
    plane_free(plane);
    close(data);
    printf("%llu fast, %llu handed on\n", (unsigned long long)counts.fast,
           (unsigned long long)counts.handed_on);
    return 0;
}
