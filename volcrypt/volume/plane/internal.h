/* What the parts of the plane share. */
#ifndef VOLCRYPT_PLANE_INTERNAL_H
#define VOLCRYPT_PLANE_INTERNAL_H

#include "plane.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <stdbool.h>

enum {
    CHUNK_SHIFT = 19,
    ENTRIES = PLANE_WAITING + PLANE_MAX_LANES,
    /* libfuse's: the largest write, and a page for headers. The kernel asks for as much. */
    BUFFER_BYTES = PLANE_MAX_TRANSFER + 4096,
    /* These many buffers are resident; those beyond give large requests' memory back when they were
     * answered, and are not read into. */
    KEPT_BUFFERS = 8,
    REPLY_BYTES = 128 * 1024, /* of libfuse, of what is not a read or write */
    /* What libfuse knows the volume's file and its two handles by (fuse.py). */
    FILE_NODE = 2,
    FILE_HANDLE = 2,
    SYNCED_HANDLE = 3,
    /* Chunks that are granted at once, at most: 512 GiB. Two that fall together displace each
     * other, which costs time and nothing else. */
    GRANTS = 1 << 20,
};

#define WRITE_ALWAYS INT64_MAX

/* Good while its epoch is the plane's; those begin with 1. */
struct grant {
    uint32_t chunk;
    uint32_t read_epoch;
    uint32_t write_epoch;
};

/* A request in hand: with a lane, then perhaps with Python or libfuse. */
struct entry {
    enum { FREE, LANE, QUEUED, PYTHON, LIBFUSE, ANSWERED } holder;
    bool is_being_sent; /* a lane still reads the buffer: then ANSWERED comes before FREE */
    uint32_t opcode;
    uint64_t unique;
    uint64_t offset;
    uint32_t kind; /* PLANE_READ, PLANE_WRITE, PLANE_DISCARD or 0 */
    uint32_t mode; /* of a discard; of a write O_DSYNC or 0 */
    uint64_t size;
    unsigned char *buffer;
};

struct lane;
/* Some of a lane's request: `size` bytes from `at`, with the keys of `who`, 0 for the lane. */
typedef bool plane_piece(struct lane *lane, unsigned who, size_t at, size_t size);

struct lane {
    struct plane *plane;
    pthread_t thread;
    bool is_started, has_ended, is_relief;
    struct entry *entry;
    unsigned char *out; /* BUFFER_BYTES, resident */
    EVP_CIPHER_CTX *encrypt[2], *decrypt[2]; /* the lane's, and the helper's at the lane's work */
    plane_piece *piece;
    size_t piece_bytes, next; /* `next` is where the next piece begins: atomic, as is `has_failed` */
    bool has_failed;
    bool was_fast;            /* the last request was answered by the lane itself */
    uint64_t begun;           /* nanoseconds: when the request was read */
    unsigned rest, last_rest; /* requests before which it does not wait awake */
    /* Under the plane's lock: */
    bool in_io;       /* others keep away from the range */
    bool is_given_up; /* somebody else answered the request */
    bool is_busy;     /* the buffer or the cipher is in use: from `begin` to `end` */
    bool is_watched;  /* somebody waits for the end */
    bool is_alone;    /* no other lane was busy when this one began */
    uint32_t kind;
    uint64_t ticket, offset, size;
};

/* Takes part in the work of one lane at a time; helper.c. */
struct helper {
    pthread_t thread;
    bool is_started, has_ended;
    pthread_cond_t begun, left;
    /* Under the plane's lock: the lane whose work it may join, and the one that it is with. */
    struct lane *offered, *joined;
};

struct plane {
    int device, control, data, event;
    pthread_mutex_t lock;
    pthread_cond_t freed, kept;
    pthread_t replies;
    bool replies_started, replies_ended;
    unsigned lane_count; /* the last one is the relief */
    bool relief_sleeps;
    uint64_t held_up_since; /* the sum of the tickets when the medium had kept all lanes for long */
    bool has_cipher, takes_discards, drops_zeros, is_stopping, is_leaving, has_ended;
    bool has_agreed;
    struct plane_agreement agreement;
    /* Ownership. */
    bool is_fenced, is_wiped, refuses_writes;
    uint32_t read_epoch, write_epoch;
    int64_t write_until; /* nanoseconds of CLOCK_BOOTTIME, or WRITE_ALWAYS */
    uint64_t size_bytes;
    int64_t budget;
    struct grant *grants;
    /* Requests in hand; `queue` holds those for Python, in order. */
    uint32_t queue[ENTRIES], queue_first, queue_count;
    uint64_t waiting_bytes;
    struct plane_counts counts;
    struct plane_latencies read_latencies, write_latencies;
    unsigned char *memory;
    struct entry entries[ENTRIES];
    struct lane lanes[PLANE_MAX_LANES];
    struct helper helper;
};

/* ownership.c: begin a read or write at the lane's entry; false where it is not the lane's to do. */
bool plane_begin(struct lane *lane);
/* The medium is done with; whether the request is still to be answered. */
bool plane_leave_range(struct lane *lane);
/* Also that, where the range was not left before. */
bool plane_end(struct lane *lane);
bool plane_is_fenced(const struct plane *plane);
void plane_tell(struct plane *plane);

/* relief.c: wait until the medium keeps all other lanes; false at the end. */
bool plane_await_need(struct plane *plane);
/* The medium has one more lane: if it is the last, the relief looks whether it is needed; locked. */
void plane_call_relief(struct plane *plane);

/* lifecycle.c: both contexts, or neither and false. */
bool plane_set_up_cipher(EVP_CIPHER_CTX **encrypt, EVP_CIPHER_CTX **decrypt,
                         const unsigned char *key);

/* answers.c: a request is answered by one of these, and by nothing else. */
void plane_refuse(struct plane *plane, uint64_t unique, int error);
void plane_reply(struct plane *plane, uint64_t unique, const void *body, size_t size);
/* Wait for an entry to read the next request into; false at the end. */
bool plane_take_entry(struct lane *lane);
/* What its data takes in memory: a discard has none, however much it discards. */
uint64_t plane_bytes_of(const struct entry *entry);
/* It was answered; locked. */
void plane_release(struct plane *plane, struct entry *entry);
/* Answer a request that libfuse does not, unless somebody just did. */
void plane_take_back(struct plane *plane, struct entry *entry, uint64_t unique);

/* helper.c: all of the lane's request, piece by piece; false when one failed. */
bool plane_share(struct lane *lane, plane_piece *piece);

/* What the threads run: requests.c, replies.c, helper.c. */
void *plane_run_lane(void *lane);
void *plane_run_replies(void *plane);
void *plane_run_helper(void *plane);

#endif
