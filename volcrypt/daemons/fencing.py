"""Fencing: the end of all requests and of the key, while the mount stays.

    1  from now on every request is answered with EIO, also those that wait for a snapshot
    2  those under way end as they would have; a medium that hangs has `GRACE_SECONDS` for them
    3  every cipher, the data key and the buffers with plaintext are wiped; what hangs wipes its
       cipher when it comes back, and encrypts nothing more; who waits for it gets EIO
    4  the note, which `status` shows, says when the key was gone
    5  what was written before is flushed: where a lease was lost, another host is about to write

The mount stays so that callers get errors instead of an empty directory, and so that unmounting
goes its usual way: what was written before is flushed, and the change map is kept. Both need no
key, nor does a snapshot, which moves ciphertext: one that runs goes on, and a new one may begin.
Nothing is fetched any more, though: a snapshot that wants what a lazy volume lacks fails.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import trio

from volcrypt.daemons.notify import notify
from volcrypt.errors import FencedError, VolcryptError
from volcrypt.volume.device import Device
from volcrypt.volume.fence import FenceNote

GRACE_SECONDS: Final = 10.0

_log: Final = logging.getLogger(__name__)


class Fencing:
    """Of one volume that is served. `note` is None until it is fenced."""

    def __init__(
        self,
        device: Device,
        *,
        wipe: Callable[[], None],
        stop_fetching: Callable[[VolcryptError], Awaitable[None]] | None = None,
        told: Callable[[FenceNote], None] = lambda _note: None,
    ) -> None:
        """`wipe` forgets the data keys and every cipher that no request uses; `stop_fetching` ends
        what a lazy volume still fetches; `told` hears of the fence first."""
        self._told = told
        self._device = device
        self._stop_fetching = stop_fetching
        self._wipe = wipe
        self.note: FenceNote | None = None

    async def fence(self, reason: str) -> None:
        """Returns when the key is gone and nothing more is going to be written. Does nothing the
        second time."""
        if self.note is not None:
            return
        self.note = note = FenceNote(reason=reason, fenced_at=time.time())
        self._told(note)
        self._device.fence(note.error())
        _log.error("%s", note.error())
        notify(f"STATUS={note.error()}")
        deadline = trio.current_time() + GRACE_SECONDS
        async with trio.open_nursery() as answering:
            async with trio.open_nursery() as nursery:
                if self._stop_fetching is not None:
                    nursery.start_soon(self._stop_fetching, note.error())
                with trio.move_on_at(deadline):
                    await self._device.drained()
                self._wipe()
                answering.start_soon(self._answer, note.error(), deadline)
            await self._device.drained()
            self.note = msgspec.structs.replace(note, wiped_at=time.time())
            _log.error("the data key was wiped")
            try:
                await self._device.settle()
            except (VolcryptError, OSError) as error:
                _log.error("what was written before the fence is lost: %s", error)

    async def _answer(self, error: FencedError, deadline: float) -> None:
        with trio.move_on_at(deadline):
            await self._device.answered()
        self._device.give_up(error)
