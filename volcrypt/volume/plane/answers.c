/* Requests in hand, and their answers. See plane.h. */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <linux/fuse.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef MADV_DONTNEED_LOCKED /* Linux 5.18; older kernels refuse it */
#define MADV_DONTNEED_LOCKED 24
#endif

enum { GIVEN_BACK_BYTES = 128 * 1024 };

/* ---------------------------------------------------------------- answers */

void plane_refuse(struct plane *plane, uint64_t unique, int error)
{
    struct fuse_out_header head = {.len = sizeof head, .error = -error, .unique = unique};
    /* Fails when nobody waits any more: the caller was killed, or the connection is gone. */
    (void)!write(plane->device, &head, sizeof head);
}

void plane_reply(struct plane *plane, uint64_t unique, const void *body, size_t size)
{
    struct fuse_out_header head = {.len = (uint32_t)(sizeof head + size), .unique = unique};
    struct iovec parts[2] = {{&head, sizeof head}, {(void *)(uintptr_t)body, size}};
    if (writev(plane->device, parts, 2) < 0 && errno != ENOENT)
        plane_refuse(plane, unique, EIO);
}

/* ---------------------------------------------------------------- entries */

void plane_release(struct plane *plane, struct entry *entry) /* locked */
{
    entry->holder = entry->is_being_sent ? ANSWERED : FREE;
    if (entry->holder == FREE)
        pthread_cond_signal(&plane->freed);
}

bool plane_take_entry(struct lane *lane)
{
    struct plane *plane = lane->plane;
    pthread_mutex_lock(&plane->lock);
    while (lane->entry == NULL && !plane->is_stopping && !plane->is_leaving) {
        /* The lowest first: how many buffers were ever used is what they cost. */
        for (unsigned i = 0; i < ENTRIES && lane->entry == NULL; i++)
            if (plane->entries[i].holder == FREE && plane->waiting_bytes < PLANE_WAITING_BYTES)
                lane->entry = &plane->entries[i];
        if (lane->entry == NULL)
            pthread_cond_wait(&plane->freed, &plane->lock);
        else
            lane->entry->holder = LANE;
    }
    bool goes_on = !plane->is_stopping && !plane->is_leaving;
    if (!goes_on && lane->entry != NULL) {
        lane->entry->holder = FREE;
        lane->entry = NULL;
    }
    pthread_mutex_unlock(&plane->lock);
    return goes_on;
}

void plane_take_back(struct plane *plane, struct entry *entry, uint64_t unique)
{
    pthread_mutex_lock(&plane->lock);
    bool is_open = entry->holder == LIBFUSE && entry->unique == unique;
    if (is_open)
        entry->holder = LANE;
    pthread_mutex_unlock(&plane->lock);
    if (!is_open)
        return;
    plane_refuse(plane, unique, EIO);
    pthread_mutex_lock(&plane->lock);
    plane_release(plane, entry);
    pthread_mutex_unlock(&plane->lock);
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
            .mode = entry->mode,
            .data = entry->buffer + sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in),
        };
    }
    pthread_mutex_unlock(&plane->lock);
    return is_there;
}

static void wipe_buffer(struct entry *entry, uint32_t number)
{
    /* Many callers use all buffers for a moment, and memory is to be small after it too. */
    if (number >= KEPT_BUFFERS && entry->size >= GIVEN_BACK_BYTES &&
        madvise(entry->buffer, BUFFER_BYTES, MADV_DONTNEED_LOCKED) == 0)
        return;
    memset(entry->buffer + sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in), 0, entry->size);
}

uint64_t plane_bytes_of(const struct entry *entry)
{
    return entry->kind == PLANE_DISCARD ? 0 : entry->size;
}

void plane_answer(struct plane *plane, uint32_t number, int error, const void *data, uint32_t size)
{
    struct entry *entry = &plane->entries[number];
    uint64_t unique = entry->unique;
    if (entry->kind == PLANE_WRITE) /* its plaintext must not stay */
        wipe_buffer(entry, number);
    if (error)
        plane_refuse(plane, unique, error);
    else if (entry->kind == PLANE_WRITE)
        plane_reply(plane, unique, &(struct fuse_write_out){.size = size}, sizeof(struct fuse_write_out));
    else
        plane_reply(plane, unique, data, size);
    pthread_mutex_lock(&plane->lock);
    plane->waiting_bytes -= plane_bytes_of(entry);
    plane_release(plane, entry);
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
