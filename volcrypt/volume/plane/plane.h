/* The data plane: compiled threads that own /dev/fuse and answer what needs no thought.
 *
 * Theory of operation. Each thread is a *lane*: it reads a request, and answers it itself when it
 * is a whole-unit read or write of the volume's file, in chunks that Python has *granted* for it,
 * that overlaps nothing another lane is at, and that works at the first try. Everything else is
 * handed on: reads and writes to Python (`plane_next`, `plane_answer`), all other requests over the
 * control socket to libfuse. So are discards, if Python takes any; libfuse has none, and says ENOSYS,
 * after which the kernel asks for no more. No rule of the engine is repeated here: any doubt is Python's.
 *
 * One lane more, the *relief*, sleeps until the medium keeps all others (a writer is throttled, a disk
 * hangs), and then reads requests in their place; it writes nothing itself, so it cannot be kept.
 *
 * Ownership. One mutex protects who may do what and who is doing it. A lane *begins* under it
 * (grants, size, budget, no overlap: all looked at together), works without it, and *ends* under
 * it. Revoking happens under it too, so a lane either began before, and is reported to who revokes,
 * or finds that it may not. How Python uses that is in `volcrypt/volume/ownership.py`.
 *
 * Exactly one reply. A lane reads into an *entry* that it took before, so there is always one to
 * keep the request in, and no more are read than there are entries. An entry is free again when
 * its request was answered; a request that cannot be handed on, or whose reply the kernel refuses,
 * is answered EIO. When the medium lets go of a lane, the lane finds out under the mutex whether its
 * request was given up, and so answered, meanwhile. Interrupts are not obeyed: what waits ends by itself, as without the plane.
 *
 * What the kernel sends is checked like what a stranger sends: lengths, node, handle, range.
 *
 * Leaving. The connection may outlive the process, and be taken over by another (`kept_mount.py`), to
 * which the kernel sends again what was not answered. `plane_leave` has lanes take nothing more, and
 * says when all that was taken is answered. For a process that is killed instead, requests are read
 * into memory that is resident: a page fault of a thread that dies would end the request with EIO.
 */
#ifndef VOLCRYPT_PLANE_H
#define VOLCRYPT_PLANE_H

#include <stddef.h>
#include <stdint.h>

enum {
    PLANE_READ = 1, /* rights, and kinds of work */
    PLANE_WRITE = 2,
    PLANE_DISCARD = 4, /* a kind of work that is always Python's */
    /* What Python does, besides reading and writing: */
    PLANE_TAKES_DISCARDS = 1,
    PLANE_DROPS_ZEROS = 2, /* no lane writes a data unit of zeros */
    PLANE_MAX_LANES = 8,   /* with the relief */
    PLANE_WAITING = 32, /* requests that Python and libfuse have in hand at most */
    PLANE_MAX_TRANSFER = 1 << 20,
    /* With so many bytes of reads and writes in Python's hand no more requests are taken. */
    PLANE_WAITING_BYTES = 16 * PLANE_MAX_TRANSFER,
};

struct plane;

/* What libfuse and the kernel agreed on: the bodies of FUSE_INIT and of its reply, zeros at the end. */
struct plane_agreement {
    unsigned char request[64];
    unsigned char reply[64];
};

/* What a lane is doing; over when `plane_is_over` says so of lane and ticket. */
struct plane_work {
    uint32_t lane;
    uint32_t kind;
    uint64_t ticket;
    uint64_t offset;
    uint64_t size;
};

/* A read, write or discard for Python; `data` is what to write, valid until it is answered. `mode` is
 * that of a discard, as fallocate(2) has it; of a write O_DSYNC if it is to be durable when it is
 * answered, which is always Python's, and else 0. */
struct plane_request {
    uint32_t entry;
    uint32_t kind;
    uint64_t offset;
    uint64_t size;
    uint32_t mode;
    unsigned char *data;
};

/* Requests; the bytes are those of the fast ones. */
struct plane_counts {
    uint64_t fast;
    uint64_t handed_on;
    uint64_t read_bytes;
    uint64_t written_bytes;
};

/* How long the fast requests took, from when they were read until they were answered: `requests` by
 * the first bound that they keep, the last of them those that keep none. */
enum { PLANE_LATENCIES = 17 };
extern const uint64_t plane_latency_bounds[PLANE_LATENCIES - 1]; /* nanoseconds */
struct plane_latencies {
    uint64_t requests[PLANE_LATENCIES];
    uint64_t nanoseconds; /* the sum */
};

/* Takes `device`, `control` and `data` over; `lanes` without the relief; `options` are
 * PLANE_TAKES_DISCARDS and PLANE_DROPS_ZEROS. `key` has 64 bytes, or is NULL for no cipher. NULL with
 * errno set on failure, and then takes nothing over. */
struct plane *plane_new(int device, int control, int data, uint64_t size_bytes,
                        const unsigned char *key, unsigned lanes, unsigned options);
int plane_start(struct plane *plane); /* 0, or an errno */
/* End all threads; 0 when one did not within `milliseconds`: then nothing may be freed. */
int plane_stop(struct plane *plane, unsigned milliseconds);
/* Take no more requests, for good; whether all that were taken are answered. Ask again until then. */
int plane_leave(struct plane *plane);
/* 0 before there was an agreement on this plane. */
int plane_agreed(struct plane *plane, struct plane_agreement *agreement);
void plane_free(struct plane *plane);

/* The event is readable when there are requests, when watched work ended, and when the connection has. */
int plane_device(const struct plane *plane);
int plane_event(const struct plane *plane);
int plane_has_ended(struct plane *plane);
struct plane_counts plane_counts(struct plane *plane);
/* Of PLANE_READ or PLANE_WRITE. */
struct plane_latencies plane_latencies(const struct plane *plane, uint32_t kind);

/* Ownership; each may be called from any thread. Those that revoke report the work under way that
 * used such a right, in `found` (PLANE_MAX_LANES long), and make `plane_event` tell of its end. */
void plane_grant(struct plane *plane, uint32_t chunk, unsigned rights);
unsigned plane_rights(struct plane *plane, uint32_t chunk);
size_t plane_revoke(struct plane *plane, uint32_t first, uint32_t count, unsigned rights,
                    struct plane_work *found);
size_t plane_revoke_all(struct plane *plane, unsigned rights, struct plane_work *found);
int plane_is_over(struct plane *plane, uint32_t lane, uint64_t ticket);

/* Whether the medium keeps all lanes but the relief, for tests. */
int plane_is_held_up(struct plane *plane);

/* Nothing is written fast any more, for good. */
void plane_refuse_writes(struct plane *plane);
/* No write begins at this time of CLOCK_BOOTTIME or later. At first there is no such time. */
void plane_write_until(struct plane *plane, int64_t nanoseconds);
/* Nothing is granted any more, and what is being read is not handed out. */
void plane_fence(struct plane *plane);
/* Behind a fence: answer EIO for the lanes that the medium keeps. They are busy until they return. */
void plane_give_up(struct plane *plane);
/* Forget the key, and wipe the buffers; what lanes still use, they wipe at their end. How many. */
unsigned plane_wipe(struct plane *plane);
/* Serve another file, which holds the same content under another `key` (NULL: none), and close the
 * old one. Takes `data` over. All rights were revoked, and all work is over: else EBUSY; ENOMEM, or
 * EPERM when it is fenced or wiped; then nothing has changed, and nothing is taken over. */
int plane_switch(struct plane *plane, int data, const unsigned char *key);
void plane_set_size(struct plane *plane, uint64_t size_bytes);
/* How many bytes may be encrypted; each fast write spends of it. Returns the new amount. */
int64_t plane_add_budget(struct plane *plane, int64_t bytes);

int plane_next(struct plane *plane, struct plane_request *request); /* 0: there is none */
/* Answer a request of `plane_next`: an errno, or for a read its `size` bytes of `data`, for a write
 * `size` alone, for a discard nothing. */
void plane_answer(struct plane *plane, uint32_t entry, int error, const void *data, uint32_t size);
/* Have the kernel ask again how large the file is; 0 or an errno. */
int plane_invalidate(struct plane *plane);

#endif
