/* A second processor for one large request. See plane.h.
 *
 * The cipher takes most of the time of 1 MiB, and a lane is one processor. Where no other lane is at
 * work, the lane offers its request to the *helper*, a thread that sleeps otherwise; both take
 * pieces of it until there are none, and the lane waits for the helper's last. So the helper works
 * only while its lane is busy, on the lane's buffers and with keys of the lane's: who revokes,
 * fences, wipes or stops has to do with lanes alone. A helper that comes too late finds nothing.
 */
#include "internal.h"

enum {
    PIECE_BYTES = 128 * 1024,
    /* Below this waking the helper takes longer than what it would do. */
    SHARED_BYTES = 2 * PIECE_BYTES,
    SPINS = 1000,
};

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void do_pieces(struct lane *lane, unsigned who)
{
    size_t size = lane->entry->size, bytes = lane->piece_bytes, at;
    while ((at = __atomic_fetch_add(&lane->next, bytes, __ATOMIC_RELAXED)) < size)
        if (!lane->piece(lane, who, at, size - at < bytes ? size - at : bytes))
            __atomic_store_n(&lane->has_failed, true, __ATOMIC_RELAXED);
}

static bool offer(struct lane *lane)
{
    struct helper *helper = &lane->plane->helper;
    if (!helper->is_started || !lane->is_alone || lane->entry->size < SHARED_BYTES)
        return false;
    pthread_mutex_lock(&lane->plane->lock);
    bool is_free = helper->offered == NULL && helper->joined == NULL;
    if (is_free)
        helper->offered = lane;
    pthread_mutex_unlock(&lane->plane->lock);
    if (is_free)
        pthread_cond_signal(&helper->begun);
    return is_free;
}

static void withdraw(struct lane *lane)
{
    struct helper *helper = &lane->plane->helper;
    /* It is at its last piece, which takes less than to sleep and to be woken. */
    for (int i = 0; i < SPINS && __atomic_load_n(&helper->joined, __ATOMIC_RELAXED) == lane; i++)
        relax();
    pthread_mutex_lock(&lane->plane->lock);
    if (helper->offered == lane)
        helper->offered = NULL;
    while (helper->joined == lane)
        pthread_cond_wait(&helper->left, &lane->plane->lock);
    pthread_mutex_unlock(&lane->plane->lock);
}

bool plane_share(struct lane *lane, plane_piece *piece)
{
    lane->piece = piece;
    lane->next = 0;
    lane->has_failed = false;
    lane->piece_bytes = PIECE_BYTES;
    bool is_shared = offer(lane);
    if (!is_shared)
        lane->piece_bytes = lane->entry->size;
    do_pieces(lane, 0);
    if (is_shared)
        withdraw(lane);
    return !lane->has_failed;
}

void *plane_run_helper(void *argument)
{
    struct plane *plane = argument;
    struct helper *helper = &plane->helper;
    pthread_mutex_lock(&plane->lock);
    for (;;) {
        while (helper->offered == NULL && !plane->is_stopping)
            pthread_cond_wait(&helper->begun, &plane->lock);
        if (helper->offered == NULL)
            break;
        struct lane *lane = helper->offered;
        helper->offered = NULL;
        __atomic_store_n(&helper->joined, lane, __ATOMIC_RELAXED);
        pthread_mutex_unlock(&plane->lock);
        do_pieces(lane, 1);
        pthread_mutex_lock(&plane->lock);
        __atomic_store_n(&helper->joined, NULL, __ATOMIC_RELAXED);
        pthread_cond_signal(&helper->left);
    }
    pthread_mutex_unlock(&plane->lock);
    __atomic_store_n(&helper->has_ended, true, __ATOMIC_RELEASE);
    return NULL;
}
