/* What libfuse answers, and what becomes of it. See plane.h. */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <linux/fuse.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef FOPEN_PARALLEL_DIRECT_WRITES /* Linux 6.2; older kernels pass over it */
#define FOPEN_PARALLEL_DIRECT_WRITES (1 << 6)
#endif

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
        /* Of what many callers or a loop device have under way, the kernel holds back all but so
         * many reads and writes; at 12, as libfuse has it, cold storage would idle. More than
         * there are entries would only wait in another queue. */
        out->max_background = PLANE_WAITING;
        out->congestion_threshold = PLANE_WAITING * 3 / 4;
        /* Bounds reads as well. */
        if (out->max_pages > PLANE_MAX_TRANSFER / 4096)
            out->max_pages = PLANE_MAX_TRANSFER / 4096;
    }
}

static size_t at_most(size_t size, size_t limit) { return size < limit ? size : limit; }

/* For who takes the connection over. */
static void note_agreement(struct plane *plane, const struct entry *entry, const unsigned char *reply,
                           size_t length)
{
    const struct fuse_in_header *in = (const void *)entry->buffer;
    struct plane_agreement *agreement = &plane->agreement;
    pthread_mutex_lock(&plane->lock);
    memcpy(agreement->request, in + 1, at_most(in->len - sizeof *in, sizeof agreement->request));
    memcpy(agreement->reply, reply + sizeof(struct fuse_out_header),
           at_most(length - sizeof(struct fuse_out_header), sizeof agreement->reply));
    plane->has_agreed = true;
    pthread_mutex_unlock(&plane->lock);
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

void *plane_run_replies(void *argument)
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
            plane_refuse(plane, unique, EIO);
        } else {
            amend(entry, reply, (size_t)length);
            if (entry->opcode == FUSE_INIT && head->error == 0)
                note_agreement(plane, entry, reply, (size_t)length);
            if (write(plane->device, reply, (size_t)length) < 0 && errno != ENOENT)
                plane_refuse(plane, unique, EIO);
        }
        pthread_mutex_lock(&plane->lock);
        plane_release(plane, entry);
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
            plane_take_back(plane, entry, unique);
    }
    __atomic_store_n(&plane->replies_ended, true, __ATOMIC_RELEASE);
    return NULL;
}
