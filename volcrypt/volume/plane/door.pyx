# cython: freethreading_compatible=False
"""Python's door to the compiled data plane; see `plane.h` for what each call means.

It decides nothing, and checks only what would corrupt memory. All calls may come from any thread
except `next_request` and the answers, which are the loop's.
"""

from cpython.buffer cimport PyObject_GetBuffer, PyBuffer_Release, PyBUF_SIMPLE
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.buffer cimport PyBUF_READ
from libc.errno cimport EINVAL
from libc.stdint cimport int64_t, uint32_t, uint64_t

import os
from typing import NamedTuple

cdef extern from "plane.h" nogil:
    enum:
        PLANE_READ
        PLANE_WRITE
        PLANE_DISCARD
        PLANE_TAKES_DISCARDS
        PLANE_DROPS_ZEROS
        PLANE_MAX_LANES
        PLANE_MAX_TRANSFER
    struct plane:
        pass
    struct plane_agreement:
        unsigned char request[64]
        unsigned char reply[64]
    struct plane_work:
        uint32_t lane
        uint32_t kind
        uint64_t ticket
        uint64_t offset
        uint64_t size
    struct plane_request:
        uint32_t entry
        uint32_t kind
        uint64_t offset
        uint64_t size
        uint32_t mode
        unsigned char *data
    struct plane_counts_t "plane_counts":
        uint64_t fast
        uint64_t handed_on
        uint64_t read_bytes
        uint64_t written_bytes
    enum:
        PLANE_LATENCIES
    const uint64_t *plane_latency_bounds
    struct plane_latencies_t "plane_latencies":
        uint64_t *requests
        uint64_t nanoseconds
    plane *plane_new(int device, int control, int data, uint64_t size_bytes,
                     const unsigned char *key, unsigned lanes, unsigned options)
    int plane_start(plane *self)
    int plane_stop(plane *self, unsigned milliseconds)
    void plane_free(plane *self)
    int plane_leave(plane *self)
    int plane_agreed(plane *self, plane_agreement *agreement)
    int plane_device(const plane *self)
    int plane_event(const plane *self)
    int plane_has_ended(plane *self)
    plane_counts_t plane_get_counts "plane_counts"(plane *self)
    plane_latencies_t plane_get_latencies "plane_latencies"(const plane *self, uint32_t kind)
    void plane_grant(plane *self, uint32_t chunk, unsigned rights)
    unsigned plane_rights(plane *self, uint32_t chunk)
    size_t plane_revoke(plane *self, uint32_t first, uint32_t count, unsigned rights,
                        plane_work *found)
    size_t plane_revoke_all(plane *self, unsigned rights, plane_work *found)
    int plane_is_over(plane *self, uint32_t lane, uint64_t ticket)
    int plane_is_held_up(plane *self)
    void plane_refuse_writes(plane *self)
    void plane_write_until(plane *self, int64_t nanoseconds)
    void plane_fence(plane *self)
    void plane_give_up(plane *self)
    unsigned plane_wipe(plane *self)
    int plane_switch(plane *self, int data, const unsigned char *key)
    void plane_set_size(plane *self, uint64_t size_bytes)
    int64_t plane_add_budget(plane *self, int64_t size)
    int plane_next(plane *self, plane_request *request)
    void plane_answer(plane *self, uint32_t entry, int error, const void *data, uint32_t size)
    int plane_invalidate(plane *self)

READ = PLANE_READ
WRITE = PLANE_WRITE
DISCARD = PLANE_DISCARD
MAX_LANES = PLANE_MAX_LANES
MAX_TRANSFER = PLANE_MAX_TRANSFER


class Work(NamedTuple):
    """What a lane is doing."""

    lane: int
    ticket: int
    is_write: bool
    offset: int
    size: int


class Request(NamedTuple):
    """A READ, WRITE or DISCARD that has to be answered; a write's `data` is gone then. `mode` is a
    discard's, as fallocate(2) has it; a write's is O_DSYNC if it is to be durable when answered."""

    entry: int
    kind: int
    offset: int
    size: int
    data: memoryview | None
    mode: int


class Counts(NamedTuple):
    """Requests that the plane answered itself, and those that it handed on; the bytes are those of
    the former."""

    fast: int
    handed_on: int
    read_bytes: int
    written_bytes: int


class Latencies(NamedTuple):
    """How long the requests took that the plane answered itself, from when they were read until
    they were answered: how many kept each of `LATENCY_BOUNDS` and none before, and at last those
    that kept none; the sum is in nanoseconds."""

    requests: tuple[int, ...]
    nanoseconds: int


LATENCY_BOUNDS = tuple(plane_latency_bounds[i] for i in range(PLANE_LATENCIES - 1))
"""Nanoseconds."""


cdef list _works(plane_work *found, size_t count):
    return [
        Work(found[i].lane, found[i].ticket, found[i].kind == PLANE_WRITE, found[i].offset,
             found[i].size)
        for i in range(count)
    ]


cdef class Plane:
    cdef plane *_plane
    cdef dict _open

    def __cinit__(self, int device, int control, int data, *, uint64_t size_bytes, key, int lanes,
                  bint takes_discards=False, bint drops_zeros=False):
        """Takes `device` and `control` over, and a copy of `data`. `key` is that of a DataKey, or
        None for an unencrypted volume. `takes_discards`: they are requests too; `drops_zeros`: a
        write with a data unit of zeros is always handed on. Raises OSError, and then takes nothing
        over."""
        cdef unsigned options = ((PLANE_TAKES_DISCARDS if takes_discards else 0) |
                                 (PLANE_DROPS_ZEROS if drops_zeros else 0))
        cdef Py_buffer view
        cdef const unsigned char *material = NULL
        self._open = {}
        data = os.dup(data)
        try:
            if key is None:
                self._plane = plane_new(device, control, data, size_bytes, NULL, lanes, options)
            else:
                PyObject_GetBuffer(key, &view, PyBUF_SIMPLE)
                try:
                    if view.len != 64:
                        raise ValueError("a data key has 64 bytes")
                    material = <const unsigned char *> view.buf
                    self._plane = plane_new(device, control, data, size_bytes, material, lanes,
                                            options)
                finally:
                    PyBuffer_Release(&view)
            if self._plane == NULL:
                raise MemoryError
        except BaseException:
            os.close(data)
            raise


    def __reduce__(self):
        raise TypeError("a plane holds a key and is never serialised")

    def start(self):
        """Raises OSError; `stop` it all the same."""
        self._check()
        cdef int error = plane_start(self._plane)
        if error:
            raise OSError(error, os.strerror(error))

    def stop(self, *, unsigned milliseconds=5000):
        """End all threads and close what was taken over: whoever has the file open gets ENOTCONN.
        False when a thread hangs in the medium: then that is left to the end of the process. Later
        calls of anything but this raise ValueError."""
        cdef int ended
        if self._plane == NULL:
            return True
        with nogil:
            ended = plane_stop(self._plane, milliseconds)
        if ended:
            plane_free(self._plane)
            self._plane = NULL
        return bool(ended)

    def leave(self):
        """Take no more requests, for good; whether all that were taken are answered. The kernel keeps
        those that come for who takes the connection over."""
        self._check()
        return bool(plane_leave(self._plane))

    @property
    def agreement(self):
        """What libfuse and the kernel agreed on: the bodies of FUSE_INIT and of its reply, 64 bytes
        each; None where there was no FUSE_INIT on this plane."""
        cdef plane_agreement found
        self._check()
        if not plane_agreed(self._plane, &found):
            return None
        return bytes(found.request[:64]), bytes(found.reply[:64])

    cdef int _check(self) except -1:
        if self._plane == NULL:
            raise ValueError("the data plane was stopped")
        return 0

    def duplicate(self):
        """Another descriptor of the connection; it lives as long as one of them."""
        self._check()
        return os.dup(plane_device(self._plane))

    @property
    def event_descriptor(self):
        self._check()
        return plane_event(self._plane)

    @property
    def has_ended(self):
        """Whether the connection to the kernel is gone."""
        return self._plane == NULL or bool(plane_has_ended(self._plane))

    @property
    def counts(self):
        self._check()
        counts = plane_get_counts(self._plane)
        return Counts(counts.fast, counts.handed_on, counts.read_bytes, counts.written_bytes)

    def latencies(self, uint32_t kind):
        """Of READ or WRITE."""
        self._check()
        found = plane_get_latencies(self._plane, kind)
        return Latencies(
            tuple([found.requests[i] for i in range(PLANE_LATENCIES)]), found.nanoseconds
        )

    def grant(self, uint32_t chunk, unsigned rights):
        self._check()
        plane_grant(self._plane, chunk, rights)

    def rights(self, uint32_t chunk):
        """What is granted of a chunk, for tests."""
        self._check()
        return plane_rights(self._plane, chunk)

    def revoke(self, chunks, unsigned rights):
        """Take rights to a range of chunks away; the work under way that used them."""
        cdef plane_work found[8]
        self._check()
        return _works(found, plane_revoke(self._plane, chunks.start, len(chunks), rights, found))

    def revoke_all(self, unsigned rights):
        cdef plane_work found[8]
        self._check()
        return _works(found, plane_revoke_all(self._plane, rights, found))

    def is_over(self, work):
        return self._plane == NULL or bool(plane_is_over(self._plane, work.lane, work.ticket))

    def is_held_up(self):
        """Whether the medium keeps its lanes, for tests."""
        return self._plane != NULL and bool(plane_is_held_up(self._plane))

    def refuse_writes(self):
        if self._plane != NULL:
            plane_refuse_writes(self._plane)

    def write_until(self, int64_t nanoseconds):
        """Begin no write at that time of CLOCK_BOOTTIME or later."""
        if self._plane != NULL:
            plane_write_until(self._plane, nanoseconds)

    def fence(self):
        if self._plane != NULL:
            plane_fence(self._plane)

    def give_up(self):
        """Behind a fence: answer EIO for what the medium keeps. It is not over before it returns."""
        if self._plane != NULL:
            plane_give_up(self._plane)

    def wipe(self):
        """How many lanes still use the key; they wipe it when they end."""
        return 0 if self._plane == NULL else plane_wipe(self._plane)

    def switch(self, int data, key):
        """Serve a copy of another descriptor under another key, or none. Raises OSError, with
        nothing changed, when something is under way, and behind a fence."""
        cdef Py_buffer view
        cdef int error
        self._check()
        data = os.dup(data)
        if key is None:
            error = plane_switch(self._plane, data, NULL)
        else:
            PyObject_GetBuffer(key, &view, PyBUF_SIMPLE)
            try:
                error = EINVAL
                if view.len == 64:
                    error = plane_switch(self._plane, data, <const unsigned char *> view.buf)
            finally:
                PyBuffer_Release(&view)
        if error:
            os.close(data)
            raise OSError(error, os.strerror(error))

    def set_size(self, uint64_t size_bytes):
        self._check()
        plane_set_size(self._plane, size_bytes)

    def add_budget(self, int64_t size_bytes):
        """What is left then."""
        self._check()
        return plane_add_budget(self._plane, size_bytes)

    def next_request(self):
        """None when there is none; otherwise it has to be answered."""
        cdef plane_request request
        self._check()
        if not plane_next(self._plane, &request):
            return None
        data = None
        if request.kind == PLANE_WRITE:
            data = PyMemoryView_FromMemory(<char *> request.data, request.size, PyBUF_READ)
        self._open[request.entry] = (request.kind, request.size)
        return Request(request.entry, request.kind, request.offset, request.size, data,
                       request.mode)

    def answer_read(self, entry, data):
        """Plaintext, no more than was asked for."""
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            kind, size = self._open[entry]
            if kind != PLANE_READ or view.len > size:
                raise ValueError("not the answer of this request")
            self._take(entry)
            plane_answer(self._plane, entry, 0, view.buf, <uint32_t> view.len)
        finally:
            PyBuffer_Release(&view)

    def answer_write(self, entry, uint32_t size):
        self._take(entry)
        plane_answer(self._plane, entry, 0, NULL, size)

    def answer_discard(self, entry):
        self._take(entry)
        plane_answer(self._plane, entry, 0, NULL, 0)

    def answer_error(self, entry, int number):
        self._take(entry)
        plane_answer(self._plane, entry, number, NULL, 0)

    def _take(self, entry):
        self._check()
        del self._open[entry]  # KeyError for one that was answered

    def invalidate_attributes(self):
        """Have the kernel ask again how large the file is. Raises OSError."""
        cdef int error
        self._check()
        with nogil:
            error = plane_invalidate(self._plane)
        if error:
            raise OSError(error, os.strerror(error))
