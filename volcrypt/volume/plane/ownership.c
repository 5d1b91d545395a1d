/* Who may do what now, and who is doing it. See plane.h. */
#define _GNU_SOURCE
#include "internal.h"

#include "xts_units.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

void plane_tell(struct plane *plane)
{
    /* Cannot fail: the counter never comes near its end. */
    (void)!eventfd_write(plane->event, 1);
}

static struct grant *grant_of(struct plane *plane, uint64_t chunk)
{
    return &plane->grants[chunk % GRANTS];
}

static bool is_granted(struct plane *plane, uint64_t chunk, unsigned kind)
{
    const struct grant *grant = grant_of(plane, chunk);
    if (grant->chunk != chunk)
        return false;
    return kind == PLANE_READ ? grant->read_epoch == plane->read_epoch
                              : grant->write_epoch == plane->write_epoch;
}

static bool overlaps(const struct lane *lane, uint64_t offset, uint64_t size)
{
    return offset < lane->offset + lane->size && lane->offset < offset + size;
}

/* Looked at by each write itself, so that nothing has to run in time: as `lease_gate.py`. What began
 * before is under way, and who wants to see no writer waits for it. */
static bool is_time_to_write(const struct plane *plane)
{
    struct timespec now;
    if (plane->write_until == WRITE_ALWAYS)
        return true;
    return clock_gettime(CLOCK_BOOTTIME, &now) == 0 &&
           now.tv_sec * 1000000000LL + now.tv_nsec < plane->write_until;
}

static bool may_begin(struct plane *plane, const struct entry *entry)
{
    uint64_t offset = entry->offset, size = entry->size;
    if (plane->is_fenced || plane->is_wiped || size == 0 || offset % XTS_UNIT || size % XTS_UNIT)
        return false;
    if (offset > plane->size_bytes || size > plane->size_bytes - offset)
        return false;
    if (entry->kind == PLANE_WRITE && (plane->budget < (int64_t)size || !is_time_to_write(plane)))
        return false;
    for (uint64_t chunk = offset >> CHUNK_SHIFT; chunk <= (offset + size - 1) >> CHUNK_SHIFT; chunk++)
        if (!is_granted(plane, chunk, entry->kind))
            return false;
    for (unsigned i = 0; i < plane->lane_count; i++) {
        const struct lane *other = &plane->lanes[i];
        if (other->in_io && (entry->kind == PLANE_WRITE || other->kind == PLANE_WRITE) &&
            overlaps(other, offset, size))
            return false;
    }
    return true;
}

bool plane_begin(struct lane *lane)
{
    struct plane *plane = lane->plane;
    const struct entry *entry = lane->entry;
    if (lane->is_relief && entry->kind != PLANE_READ)
        return false;
    pthread_mutex_lock(&plane->lock);
    bool begins = may_begin(plane, entry);
    if (begins) {
        if (entry->kind == PLANE_WRITE)
            plane->budget -= (int64_t)entry->size;
        lane->kind = entry->kind;
        lane->offset = entry->offset;
        lane->size = entry->size;
        lane->ticket++;
        lane->in_io = lane->is_busy = true;
        lane->is_alone = true;
        for (unsigned i = 0; i < plane->lane_count; i++)
            if (plane->lanes[i].is_busy && &plane->lanes[i] != lane)
                lane->is_alone = false;
        lane->is_given_up = false;
        plane_call_relief(plane);
    }
    pthread_mutex_unlock(&plane->lock);
    return begins;
}

bool plane_leave_range(struct lane *lane)
{
    pthread_mutex_lock(&lane->plane->lock);
    lane->in_io = false;
    bool is_open = !lane->is_given_up;
    pthread_mutex_unlock(&lane->plane->lock);
    return is_open;
}

bool plane_is_fenced(const struct plane *plane)
{
    return __atomic_load_n(&plane->is_fenced, __ATOMIC_ACQUIRE);
}

static void wipe_lane(struct lane *lane)
{
    for (unsigned who = 0; who < 2; who++) {
        EVP_CIPHER_CTX_free(lane->encrypt[who]); /* cleanses the key schedule */
        EVP_CIPHER_CTX_free(lane->decrypt[who]);
        lane->encrypt[who] = lane->decrypt[who] = NULL;
    }
    OPENSSL_cleanse(lane->out, BUFFER_BYTES);
}

bool plane_end(struct lane *lane)
{
    struct plane *plane = lane->plane;
    pthread_mutex_lock(&plane->lock);
    lane->in_io = lane->is_busy = false;
    if (plane->is_wiped)
        wipe_lane(lane);
    bool is_watched = lane->is_watched, is_open = !lane->is_given_up;
    lane->is_watched = false;
    pthread_mutex_unlock(&plane->lock);
    if (is_watched)
        plane_tell(plane);
    return is_open;
}

/* The work under way that uses one of `rights` in a range of bytes; locked. */
static size_t find_work(struct plane *plane, uint64_t offset, uint64_t size, unsigned rights,
                        struct plane_work *found)
{
    size_t count = 0;
    for (unsigned i = 0; i < plane->lane_count; i++) {
        struct lane *lane = &plane->lanes[i];
        if (!lane->is_busy || !(lane->kind & rights) || !overlaps(lane, offset, size))
            continue;
        lane->is_watched = true;
        found[count++] = (struct plane_work){.lane = i,
                                             .kind = lane->kind,
                                             .ticket = lane->ticket,
                                             .offset = lane->offset,
                                             .size = lane->size};
    }
    return count;
}

void plane_grant(struct plane *plane, uint32_t chunk, unsigned rights)
{
    pthread_mutex_lock(&plane->lock);
    if (plane->refuses_writes)
        rights &= ~(unsigned)PLANE_WRITE;
    if (!plane->is_fenced)
        *grant_of(plane, chunk) = (struct grant){
            .chunk = chunk,
            .read_epoch = rights & PLANE_READ ? plane->read_epoch : 0,
            .write_epoch = rights & PLANE_WRITE ? plane->write_epoch : 0,
        };
    pthread_mutex_unlock(&plane->lock);
}

unsigned plane_rights(struct plane *plane, uint32_t chunk)
{
    pthread_mutex_lock(&plane->lock);
    unsigned rights = (is_granted(plane, chunk, PLANE_READ) ? PLANE_READ : 0) |
                      (is_granted(plane, chunk, PLANE_WRITE) ? PLANE_WRITE : 0);
    pthread_mutex_unlock(&plane->lock);
    return rights;
}

size_t plane_revoke(struct plane *plane, uint32_t first, uint32_t count, unsigned rights,
                    struct plane_work *found)
{
    pthread_mutex_lock(&plane->lock);
    for (uint64_t chunk = first; chunk < (uint64_t)first + count; chunk++) {
        struct grant *grant = grant_of(plane, chunk);
        if (grant->chunk != chunk)
            continue;
        if (rights & PLANE_READ)
            grant->read_epoch = 0;
        if (rights & PLANE_WRITE)
            grant->write_epoch = 0;
    }
    size_t works = find_work(plane, (uint64_t)first << CHUNK_SHIFT, (uint64_t)count << CHUNK_SHIFT,
                             rights, found);
    pthread_mutex_unlock(&plane->lock);
    return works;
}

/* No table is gone through, so it takes as long for 64 TiB as for one; locked. */
static void begin_epochs(struct plane *plane, unsigned rights)
{
    if (rights & PLANE_READ)
        plane->read_epoch++;
    if (rights & PLANE_WRITE)
        plane->write_epoch++;
    if (plane->read_epoch == 0 || plane->write_epoch == 0) {
        memset(plane->grants, 0, GRANTS * sizeof *plane->grants);
        plane->read_epoch = plane->write_epoch = 1;
    }
}

size_t plane_revoke_all(struct plane *plane, unsigned rights, struct plane_work *found)
{
    pthread_mutex_lock(&plane->lock);
    begin_epochs(plane, rights);
    size_t works = find_work(plane, 0, UINT64_MAX, rights, found);
    pthread_mutex_unlock(&plane->lock);
    return works;
}

int plane_is_over(struct plane *plane, uint32_t lane, uint64_t ticket)
{
    pthread_mutex_lock(&plane->lock);
    bool is_over = !plane->lanes[lane].is_busy || plane->lanes[lane].ticket != ticket;
    pthread_mutex_unlock(&plane->lock);
    return is_over;
}

void plane_refuse_writes(struct plane *plane)
{
    pthread_mutex_lock(&plane->lock);
    plane->refuses_writes = true;
    begin_epochs(plane, PLANE_WRITE);
    pthread_mutex_unlock(&plane->lock);
}

void plane_write_until(struct plane *plane, int64_t nanoseconds)
{
    pthread_mutex_lock(&plane->lock);
    plane->write_until = nanoseconds;
    pthread_mutex_unlock(&plane->lock);
}

void plane_fence(struct plane *plane)
{
    pthread_mutex_lock(&plane->lock);
    __atomic_store_n(&plane->is_fenced, true, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&plane->lock);
}

void plane_give_up(struct plane *plane)
{
    uint64_t kept[PLANE_MAX_LANES];
    unsigned count = 0;
    pthread_mutex_lock(&plane->lock);
    for (unsigned i = 0; i < plane->lane_count; i++) {
        struct lane *lane = &plane->lanes[i];
        if (lane->in_io && !lane->is_given_up) {
            lane->is_given_up = true;
            kept[count++] = lane->entry->unique;
        }
    }
    pthread_mutex_unlock(&plane->lock);
    while (count > 0)
        plane_refuse(plane, kept[--count], EIO);
}

unsigned plane_wipe(struct plane *plane)
{
    unsigned busy = 0;
    pthread_mutex_lock(&plane->lock);
    plane->is_wiped = true;
    for (unsigned i = 0; i < plane->lane_count; i++) {
        if (plane->lanes[i].is_busy)
            busy++;
        else
            wipe_lane(&plane->lanes[i]);
    }
    pthread_mutex_unlock(&plane->lock);
    return busy;
}

/* What a lane encrypts and decrypts with, to be put in place for all of them at once. */
struct ciphers {
    EVP_CIPHER_CTX *encrypt[PLANE_MAX_LANES][2], *decrypt[PLANE_MAX_LANES][2];
};

static void free_ciphers(struct ciphers *ciphers)
{
    for (unsigned i = 0; i < 2 * PLANE_MAX_LANES; i++) {
        EVP_CIPHER_CTX_free(ciphers->encrypt[i / 2][i % 2]); /* cleanses the key schedule */
        EVP_CIPHER_CTX_free(ciphers->decrypt[i / 2][i % 2]);
    }
}

static int why_not_now(const struct plane *plane) /* locked */
{
    if (plane->is_fenced || plane->is_wiped)
        return EPERM;
    for (unsigned i = 0; i < plane->lane_count; i++)
        if (plane->lanes[i].is_busy)
            return EBUSY;
    return 0;
}

static void swap(EVP_CIPHER_CTX **one, EVP_CIPHER_CTX **other)
{
    EVP_CIPHER_CTX *first = *one;
    *one = *other;
    *other = first;
}

int plane_switch(struct plane *plane, int data, const unsigned char *key)
{
    struct ciphers ciphers = {0};
    for (unsigned i = 0; key != NULL && i < 2 * plane->lane_count; i++)
        if (!plane_set_up_cipher(&ciphers.encrypt[i / 2][i % 2], &ciphers.decrypt[i / 2][i % 2],
                                 key)) {
            free_ciphers(&ciphers);
            return ENOMEM;
        }
    pthread_mutex_lock(&plane->lock);
    int error = why_not_now(plane);
    int before = plane->data;
    if (!error) {
        begin_epochs(plane, PLANE_READ | PLANE_WRITE);
        plane->data = data;
        plane->has_cipher = key != NULL;
        for (unsigned i = 0; i < 2 * plane->lane_count; i++) {
            swap(&plane->lanes[i / 2].encrypt[i % 2], &ciphers.encrypt[i / 2][i % 2]);
            swap(&plane->lanes[i / 2].decrypt[i % 2], &ciphers.decrypt[i / 2][i % 2]);
        }
    }
    pthread_mutex_unlock(&plane->lock);
    free_ciphers(&ciphers);
    if (!error)
        close(before);
    return error;
}

void plane_set_size(struct plane *plane, uint64_t size_bytes)
{
    pthread_mutex_lock(&plane->lock);
    plane->size_bytes = size_bytes;
    pthread_mutex_unlock(&plane->lock);
}

int64_t plane_add_budget(struct plane *plane, int64_t bytes)
{
    pthread_mutex_lock(&plane->lock);
    int64_t budget = plane->budget += bytes;
    pthread_mutex_unlock(&plane->lock);
    return budget;
}
