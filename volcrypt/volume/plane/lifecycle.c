/* The plane from first to last: its memory and its threads. See plane.h. */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { STACK_BYTES = 1 << 20 };

/* Wakes a thread out of a system call; nothing else uses it, and by default it is ignored. */
#define KICK SIGURG

static void do_nothing(int number) { (void)number; }

int plane_device(const struct plane *plane) { return plane->device; }

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
        .read_bytes = __atomic_load_n(&plane->counts.read_bytes, __ATOMIC_RELAXED),
        .written_bytes = __atomic_load_n(&plane->counts.written_bytes, __ATOMIC_RELAXED),
    };
    pthread_mutex_unlock(&plane->lock);
    return counts;
}

struct plane_latencies plane_latencies(const struct plane *plane, uint32_t kind)
{
    const struct plane_latencies *from =
        kind == PLANE_READ ? &plane->read_latencies : &plane->write_latencies;
    struct plane_latencies latencies;
    for (unsigned at = 0; at < PLANE_LATENCIES; at++)
        latencies.requests[at] = __atomic_load_n(&from->requests[at], __ATOMIC_RELAXED);
    latencies.nanoseconds = __atomic_load_n(&from->nanoseconds, __ATOMIC_RELAXED);
    return latencies;
}

static void *map(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                        -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

bool plane_set_up_cipher(EVP_CIPHER_CTX **encrypt, EVP_CIPHER_CTX **decrypt,
                         const unsigned char *key)
{
    *encrypt = EVP_CIPHER_CTX_new();
    *decrypt = EVP_CIPHER_CTX_new();
    if (*encrypt != NULL && *decrypt != NULL &&
        EVP_CipherInit_ex(*encrypt, EVP_aes_256_xts(), NULL, key, NULL, 1) == 1 &&
        EVP_CipherInit_ex(*decrypt, EVP_aes_256_xts(), NULL, key, NULL, 0) == 1)
        return true;
    EVP_CIPHER_CTX_free(*encrypt);
    EVP_CIPHER_CTX_free(*decrypt);
    *encrypt = *decrypt = NULL;
    return false;
}

static size_t buffers_size(const struct plane *plane)
{
    return (size_t)ENTRIES * BUFFER_BYTES + REPLY_BYTES + (size_t)plane->lane_count * BUFFER_BYTES;
}

/* What requests are read into. */
static void make_resident(unsigned char *memory, size_t size)
{
    for (size_t at = 0; at < size; at += 4096)
        ((volatile unsigned char *)memory)[at] = 0;
}

static void free_memory(struct plane *plane)
{
    for (unsigned i = 0; i < plane->lane_count; i++) {
        for (unsigned who = 0; who < 2; who++) {
            EVP_CIPHER_CTX_free(plane->lanes[i].encrypt[who]);
            EVP_CIPHER_CTX_free(plane->lanes[i].decrypt[who]);
        }
    }
    if (plane->event >= 0)
        close(plane->event);
    if (plane->memory != NULL)
        munmap(plane->memory, buffers_size(plane));
    if (plane->grants != NULL)
        munmap(plane->grants, GRANTS * sizeof *plane->grants);
    pthread_cond_destroy(&plane->helper.begun);
    pthread_cond_destroy(&plane->helper.left);
    pthread_cond_destroy(&plane->freed);
    pthread_cond_destroy(&plane->kept);
    pthread_mutex_destroy(&plane->lock);
    free(plane);
}

struct plane *plane_new(int device, int control, int data, uint64_t size_bytes,
                        const unsigned char *key, unsigned lanes, unsigned options)
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
        .takes_discards = options & PLANE_TAKES_DISCARDS,
        .drops_zeros = options & PLANE_DROPS_ZEROS,
        .read_epoch = 1,
        .write_epoch = 1,
        .write_until = WRITE_ALWAYS,
        .lane_count = 1 + (lanes < 1 ? 1 : lanes >= PLANE_MAX_LANES ? PLANE_MAX_LANES - 1 : lanes),
    };
    pthread_mutex_init(&plane->lock, NULL);
    pthread_cond_init(&plane->freed, NULL);
    pthread_cond_init(&plane->helper.begun, NULL);
    pthread_cond_init(&plane->helper.left, NULL);
    pthread_cond_init(&plane->kept, NULL);
    plane->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    plane->grants = map(GRANTS * sizeof *plane->grants);
    plane->memory = map(buffers_size(plane));
    bool is_good = plane->event >= 0 && plane->grants != NULL && plane->memory != NULL;
    for (unsigned i = 0; is_good && i < ENTRIES; i++)
        plane->entries[i].buffer = plane->memory + (size_t)i * BUFFER_BYTES;
    for (unsigned i = 0; is_good && i < plane->lane_count; i++) {
        struct lane *lane = &plane->lanes[i];
        lane->plane = plane;
        lane->is_relief = i + 1 == plane->lane_count;
        lane->out = plane->memory + (size_t)ENTRIES * BUFFER_BYTES + REPLY_BYTES +
                    (size_t)i * BUFFER_BYTES;
        for (unsigned who = 0; is_good && key != NULL && who < 2; who++)
            is_good = plane_set_up_cipher(&lane->encrypt[who], &lane->decrypt[who], key);
    }
    if (is_good) {
        make_resident(plane->memory, (size_t)KEPT_BUFFERS * BUFFER_BYTES);
        make_resident(plane->lanes[0].out, (size_t)plane->lane_count * BUFFER_BYTES);
        return plane;
    }
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
    int error = pthread_create(&plane->replies, &attributes, plane_run_replies, plane);
    plane->replies_started = error == 0;
    for (unsigned i = 0; error == 0 && i < plane->lane_count; i++) {
        struct lane *lane = &plane->lanes[i];
        error = pthread_create(&lane->thread, &attributes, plane_run_lane, lane);
        lane->is_started = error == 0;
    }
    /* Also without a cipher: one may come by a switch. */
    if (error == 0 && sysconf(_SC_NPROCESSORS_ONLN) > 1) {
        error = pthread_create(&plane->helper.thread, &attributes, plane_run_helper, plane);
        plane->helper.is_started = error == 0;
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
    if (plane->helper.is_started && !__atomic_load_n(&plane->helper.has_ended, __ATOMIC_ACQUIRE))
        running++;
    return running + (plane->replies_started && !__atomic_load_n(&plane->replies_ended, __ATOMIC_ACQUIRE));
}

int plane_stop(struct plane *plane, unsigned milliseconds)
{
    const struct timespec turn = {.tv_nsec = 1000000};
    pthread_mutex_lock(&plane->lock);
    plane->is_stopping = true;
    pthread_cond_broadcast(&plane->freed);
    pthread_cond_signal(&plane->helper.begun);
    pthread_cond_broadcast(&plane->kept);
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
    if (plane->helper.is_started)
        pthread_join(plane->helper.thread, NULL);
    return 1;
}

int plane_leave(struct plane *plane)
{
    pthread_mutex_lock(&plane->lock);
    plane->is_leaving = true;
    pthread_cond_broadcast(&plane->freed);
    pthread_cond_broadcast(&plane->kept);
    bool is_done = true;
    for (unsigned i = 0; i < ENTRIES; i++)
        if (plane->entries[i].holder != FREE)
            is_done = false;
    pthread_mutex_unlock(&plane->lock);
    for (unsigned i = 0; i < plane->lane_count; i++) {
        struct lane *lane = &plane->lanes[i];
        if (lane->is_started && !__atomic_load_n(&lane->has_ended, __ATOMIC_ACQUIRE)) {
            pthread_kill(lane->thread, KICK);
            is_done = false;
        }
    }
    return is_done;
}

int plane_agreed(struct plane *plane, struct plane_agreement *agreement)
{
    pthread_mutex_lock(&plane->lock);
    bool has_agreed = plane->has_agreed;
    *agreement = plane->agreement;
    pthread_mutex_unlock(&plane->lock);
    return has_agreed;
}

void plane_free(struct plane *plane)
{
    close(plane->device);
    close(plane->control);
    close(plane->data);
    free_memory(plane);
}
