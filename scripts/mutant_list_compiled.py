"""Bugs of the compiled data plane and of the cipher's loop (`scripts/mutant_list.py`)."""

from typing import Final

from scripts.mutant import mutant

PLANE = "volcrypt/volume/plane"
ANSWERS, HELPER, LIFECYCLE, OWNERSHIP, REPLIES, REQUESTS = (
    f"{PLANE}/{n}.c" for n in ("answers", "helper", "lifecycle", "ownership", "replies", "requests")
)
DOOR, XTS = f"{PLANE}/door.pyx", "volcrypt/crypto/xts.pyx"
T_PLANE, T_LIMITS, T_MEMORY = (f"tests/volume/test_plane{n}.py" for n in ("", "_limits", "_memory"))

COMPILED: Final = [
    mutant(
        "the compiled plane takes a part of a write for all of it",
        REQUESTS,
        [T_PLANE],
        ("(off_t)offset) != (ssize_t)bytes)", "(off_t)offset) < 0)"),
    ),
    mutant(
        "the compiled plane hands a failed write on as ciphertext",
        REQUESTS,
        [T_PLANE],
        ("    if (!is_good && !is_lost && plane->has_cipher)\n", "    if (0)\n"),
    ),
    mutant(
        "the compiled plane gives all pieces of a write one tweak",
        REQUESTS,
        [T_PLANE],
        (
            "(lane->entry->offset + at) / XTS_SECTOR, 0, 1);",
            "lane->entry->offset / XTS_SECTOR, 0, 1);",
        ),
    ),
    mutant(
        "the compiled plane counts no latencies",
        REQUESTS,
        [T_PLANE],
        ("    __atomic_fetch_add(&latencies->requests[at], 1, __ATOMIC_RELAXED);\n", ""),
    ),
    mutant(
        "the compiled plane: lanes take requests of any number of bytes",
        ANSWERS,
        [T_LIMITS],
        (" && plane->waiting_bytes < PLANE_WAITING_BYTES)", ")"),
    ),
    mutant(
        "the compiled plane: what was answered counts as in hand",
        ANSWERS,
        [T_LIMITS],
        ("    plane->waiting_bytes -= plane_bytes_of(entry);\n", ""),
    ),
    mutant(
        "the compiled plane: a write of Python's stays as plaintext",
        ANSWERS,
        [T_MEMORY],
        ("        wipe_buffer(entry, number);", "        (void)number;"),
    ),
    mutant(
        "the compiled plane: a resident buffer is given back",
        ANSWERS,
        [T_MEMORY],
        ("number >= KEPT_BUFFERS && ", ""),
    ),
    mutant(
        "the compiled plane: growth has the kernel forget data",
        ANSWERS,
        [T_LIMITS],
        (".off = -1}", ".off = 0}"),
    ),
    mutant(
        "the compiled plane: a piece that the helper could not do counts as done",
        HELPER,
        [T_LIMITS],
        ("size - at : bytes))", "size - at : bytes) && who == 0)"),
    ),
    mutant(
        "the compiled plane: a plane that has stopped leaves key schedules",
        LIFECYCLE,
        [T_MEMORY],
        ("            EVP_CIPHER_CTX_free(plane->lanes[i].encrypt[who]);\n", ""),
    ),
    mutant(
        "the compiled plane: a plane that has stopped keeps the data file",
        LIFECYCLE,
        [T_LIMITS],
        ("    close(plane->data);\n", ""),
    ),
    mutant(
        "the compiled plane: there is one lane more than room for it",
        LIFECYCLE,
        [T_LIMITS],
        (
            "lanes >= PLANE_MAX_LANES ? PLANE_MAX_LANES - 1",
            "lanes > PLANE_MAX_LANES ? PLANE_MAX_LANES - 1",
        ),
    ),
    mutant(
        "the compiled plane: signals stay blocked where a plane was started",
        LIFECYCLE,
        [T_LIMITS],
        ("    pthread_sigmask(SIG_SETMASK, &before, NULL);\n", ""),
    ),
    mutant(
        "the compiled plane: a lease goes on while the machine is suspended",
        OWNERSHIP,
        [T_LIMITS],
        ("clock_gettime(CLOCK_BOOTTIME", "clock_gettime(CLOCK_MONOTONIC"),
    ),
    mutant(
        "the compiled plane: a write begins where a lane is reading",
        OWNERSHIP,
        [T_LIMITS],
        (
            "(entry->kind == PLANE_WRITE || other->kind == PLANE_WRITE)",
            "(other->kind == PLANE_WRITE)",
        ),
    ),
    mutant(
        "the compiled plane: what a lane has read may still be given up",
        OWNERSHIP,
        [T_MEMORY],
        (
            "    pthread_mutex_lock(&lane->plane->lock);\n    lane->in_io = false;\n",
            "    pthread_mutex_lock(&lane->plane->lock);\n",
        ),
    ),
    mutant(
        "the compiled plane: a lane that was busy keeps its key",
        OWNERSHIP,
        [T_MEMORY],
        ("    if (plane->is_wiped)\n        wipe_lane(lane);\n", ""),
    ),
    mutant(
        "the compiled plane: a wipe leaves what was read",
        OWNERSHIP,
        [T_MEMORY],
        ("    OPENSSL_cleanse(lane->out, BUFFER_BYTES);\n", ""),
    ),
    mutant(
        "the compiled plane: a wipe takes the key of a busy lane",
        OWNERSHIP,
        [T_MEMORY],
        (
            "            busy++;\n        else\n            wipe_lane",
            "            busy++;\n        wipe_lane",
        ),
    ),
    mutant(
        "the compiled plane: a lane that is answering is under way for nobody",
        OWNERSHIP,
        [T_MEMORY],
        ("if (!lane->is_busy || !(lane->kind", "if (!lane->in_io || !(lane->kind"),
    ),
    mutant(
        "the compiled plane: the plane goes over to another key under a busy lane",
        OWNERSHIP,
        [T_MEMORY],
        ("        if (plane->lanes[i].is_busy)\n            return EBUSY;", "        {}"),
    ),
    mutant(
        "the compiled plane: the helper keeps the old key",
        OWNERSHIP,
        [T_MEMORY],
        (
            "        for (unsigned i = 0; i < 2 * plane->lane_count; i++) {\n            swap",
            "        for (unsigned i = 0; i < 2 * plane->lane_count; i += 2) {\n            swap",
        ),
    ),
    mutant(
        "the compiled plane: work is under way as long as its lane works",
        OWNERSHIP,
        [T_LIMITS],
        (" || plane->lanes[lane].ticket != ticket", ""),
    ),
    mutant(
        "the compiled plane: an interrupted call ends the replies",
        REPLIES,
        [T_LIMITS],
        ("        if (length < 0 && errno == EINTR)\n            continue;\n", ""),
    ),
    mutant(
        "the compiled plane: an agreement of any length is kept",
        REPLIES,
        [T_LIMITS],
        (
            "at_most(length - sizeof(struct fuse_out_header), sizeof agreement->reply)",
            "length - sizeof(struct fuse_out_header)",
        ),
    ),
    mutant(
        "the compiled plane: libfuse answers for Python",
        REPLIES,
        [T_LIMITS],
        ("plane->entries[i].holder == LIBFUSE && ", ""),
    ),
    mutant(
        "the compiled plane: an interrupted call ends a lane",
        REQUESTS,
        [T_LIMITS],
        ("(errno != EINTR && errno != EAGAIN", "(errno != EAGAIN"),
    ),
    mutant(
        "the compiled plane: the last byte of a request is the one before's",
        REQUESTS,
        [T_LIMITS],
        (
            "memcpy(lane->entry->buffer, into, (size_t)length);",
            "memcpy(lane->entry->buffer, into, (size_t)length - 1);",
        ),
    ),
    mutant(
        "the compiled plane: a write goes on behind a fence",
        REQUESTS,
        [T_MEMORY],
        ("plane_is_fenced(plane) || pwrite", "pwrite"),
    ),
    mutant(
        "the compiled plane: a write that was given up stays as plaintext",
        REQUESTS,
        [T_MEMORY],
        ("        memset(data, 0, entry->size);\n    else if", "        {}\n    else if"),
    ),
    mutant(
        "the compiled plane: a request is as durable as the one before",
        REQUESTS,
        [T_LIMITS],
        ("    entry->mode = 0;\n", ""),
    ),
    mutant(
        "the compiled plane: an answer of Python's is kept",
        DOOR,
        [T_LIMITS],
        (
            "<uint32_t> view.len)\n        finally:\n            PyBuffer_Release(&view)",
            "<uint32_t> view.len)\n        finally:\n            pass",
        ),
    ),
    mutant(
        "the cipher: a wiped kernel has its key",
        XTS,
        [T_MEMORY],
        (
            'every later call raises ValueError."""\n        EVP_CIPHER_CTX_free(self._encrypt)\n',
            'every later call raises ValueError."""\n',
        ),
    ),
]
