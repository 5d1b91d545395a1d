"""The mark of a sweep that deletes: who is about to take hold gives way to it, as does any other
sweep.

A mark is renewed while its sweep lives, so one that is old is a dead sweep's, and is removed. But
clocks of hosts differ, and jump. So who finds it old by his own clock watches it, for longer than a
sweep deletes without renewing it: if it does not change in that time the sweep is dead, whatever
clocks say. And a sweep that could not renew its mark in time, by a clock that nobody sets, stops
before its next deletion: it may have been suspended, and its mark removed.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from volcrypt.errors import ObjectNotFoundError, TryAgainError
from volcrypt.formats.condemned import SweepingMark, decode_sweeping, encode_sweeping
from volcrypt.snapshot import layout
from volcrypt.snapshot.signer import Signer
from volcrypt.snapshot.store import SnapshotStore

PIN_LIFETIME_SECONDS = 3600
"""A pin, or the mark of a sweep, that was not renewed for so long belongs to a dead process."""
RENEW_SECONDS: Final = 20
GIVE_UP_SECONDS: Final = 60
"""No deletion is begun when the mark was renewed longer ago."""
WATCH_SECONDS: Final = 240
"""How long an old mark is watched: GIVE_UP_SECONDS, and the longest request with its repetitions
(`snapshot.s3`)."""


def steady_seconds() -> float:
    """A clock that nobody sets, and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def is_recent(renewed_at: int, now: int) -> bool:
    """Whether a pin or mark is that of a process that lives, as far as clocks can say. One from the
    future is not: nobody waits for years since a clock was wrong once."""
    return abs(now - renewed_at) < PIN_LIFETIME_SECONDS


def is_swept(store: SnapshotStore, *, now: int, pause: Callable[[float], object]) -> bool:
    """Whether a sweep is deleting; the mark of a dead one is removed, after `pause`, which waits
    for so many seconds. `now` counts seconds since 1970-01-01 UTC."""
    try:
        data = store.objects.get(layout.SWEEPING)
        mark = decode_sweeping(data, store.verifier_of, what="mark of a sweep")
        if is_recent(mark.renewed_at, now):
            return True
        pause(WATCH_SECONDS)
        if store.objects.get(layout.SWEEPING) != data:
            return True
    except ObjectNotFoundError:
        return False
    store.objects.delete(layout.SWEEPING)
    store.objects.sync()
    return False


def being_swept(store: SnapshotStore) -> TryAgainError:
    return TryAgainError(f"snapshot store {store.objects.location} is being swept")


class HeldMark:
    """The mark of our own sweep. The caller keeps sweeps of one signer apart."""

    def __init__(
        self,
        store: SnapshotStore,
        signer: Signer,
        *,
        clock: Callable[[], int],
        steady: Callable[[], float],
    ) -> None:
        self._store = store
        self._signer = signer
        self._clock = clock
        self._steady = steady
        self._renewed = steady()
        self._data = self._encode()

    def take(self, pause: Callable[[float], object]) -> None:
        """Put the mark. Raises TryAgainError while another sweep is at work."""
        if self._put():
            return
        with suppress(ObjectNotFoundError):
            present = self._store.objects.get(layout.SWEEPING)
            mark = decode_sweeping(present, self._store.verifier_of, what="mark of a sweep")
            if mark.signer == self._signer.id:
                # Ours, and we are the only one: that sweep was killed. Makers go on giving way.
                self._store.objects.replace(layout.SWEEPING, self._data)
                return
        if is_swept(self._store, now=self._clock(), pause=pause) or not self._put():
            raise TryAgainError(f"another sweep of {self._store.objects.location} is under way")

    def check(self) -> None:
        """Raises TryAgainError when the mark is not ours any more."""
        self.tick()
        self._check_ours()

    def tick(self) -> None:
        """To be called again and again, and before each deletion: renews the mark when that is due.
        Raises TryAgainError when it was not called for too long."""
        silent = self._steady() - self._renewed
        if silent >= GIVE_UP_SECONDS:
            raise TryAgainError("the sweep was given up, it took too long")
        if silent >= RENEW_SECONDS:
            begun = self._steady()
            self._check_ours()
            data = self._encode()
            self._store.objects.replace(layout.SWEEPING, data)
            self._data, self._renewed = data, begun

    def release(self) -> None:
        """Take it away, if it is ours still."""
        with suppress(ObjectNotFoundError):
            if self._store.objects.get(layout.SWEEPING) == self._data:
                self._store.objects.delete(layout.SWEEPING)
                self._store.objects.sync()

    def _put(self) -> bool:
        self._renewed = self._steady()
        self._data = self._encode()
        objects = self._store.objects
        with suppress(ObjectNotFoundError):
            # One that has our very bytes is ours: an answer was lost on its way.
            return (
                objects.put_if_absent(layout.SWEEPING, self._data)
                or objects.get(layout.SWEEPING) == self._data
            )
        return False

    def _check_ours(self) -> None:
        try:
            if self._store.objects.get(layout.SWEEPING) != self._data:
                raise TryAgainError("the sweep was overtaken by another")
        except ObjectNotFoundError as error:
            raise TryAgainError("the sweep was given up, it took too long") from error

    def _encode(self) -> bytes:
        mark = SweepingMark(
            store_id=self._store.store_id, signer=self._signer.id, renewed_at=self._clock()
        )
        return encode_sweeping(mark, self._signer.seal)
