/* The relief: one lane more, for when the medium keeps all others. See plane.h. */
#define _GNU_SOURCE
#include "internal.h"

#include <time.h>

/* Longer than a write into the page cache takes, shorter than anybody minds. */
enum { PATIENCE_NS = 5000000 };

/* Whether the medium has all lanes but the relief, and the sum of their tickets: as long as it is
 * the same, nothing has ended. Locked. */
static bool are_all_in_io(const struct plane *plane, uint64_t *tickets)
{
    *tickets = 0;
    for (unsigned i = 0; i + 1 < plane->lane_count; i++) {
        if (!plane->lanes[i].in_io)
            return false;
        *tickets += plane->lanes[i].ticket;
    }
    return true;
}

int plane_is_held_up(struct plane *plane)
{
    uint64_t tickets;
    pthread_mutex_lock(&plane->lock);
    bool is_held_up = are_all_in_io(plane, &tickets) && tickets == plane->held_up_since;
    pthread_mutex_unlock(&plane->lock);
    return is_held_up;
}

bool plane_await_need(struct plane *plane)
{
    const struct timespec patience = {.tv_nsec = PATIENCE_NS};
    uint64_t before = 0, now;
    pthread_mutex_lock(&plane->lock);
    while (!plane->is_stopping && !plane->is_leaving) {
        bool are_kept = are_all_in_io(plane, &now);
        if (are_kept && (now == plane->held_up_since || now == before)) {
            plane->held_up_since = now;
            break;
        }
        before = are_kept ? now : 0;
        if (are_kept) {
            pthread_mutex_unlock(&plane->lock);
            nanosleep(&patience, NULL);
            pthread_mutex_lock(&plane->lock);
        } else {
            plane->relief_sleeps = true;
            pthread_cond_wait(&plane->kept, &plane->lock);
            plane->relief_sleeps = false;
        }
    }
    bool goes_on = !plane->is_stopping && !plane->is_leaving;
    pthread_mutex_unlock(&plane->lock);
    return goes_on;
}

/* It is woken at most once in PATIENCE_NS, however many requests there are. */
void plane_call_relief(struct plane *plane)
{
    uint64_t tickets;
    if (plane->relief_sleeps && are_all_in_io(plane, &tickets)) {
        plane->relief_sleeps = false;
        pthread_cond_signal(&plane->kept);
    }
}
