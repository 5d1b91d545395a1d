"""SharedWork: work that several tasks want done. Who comes first does it, the others wait for what
comes of it. Knows trio, and nothing of what the work is."""

from collections.abc import Awaitable, Callable, Hashable

import trio

from volcrypt.errors import VolcryptError


class SharedWork:
    """Raises what the work raises, and the reason when it was given up."""

    def __init__(self) -> None:
        self._under_way: dict[Hashable, _Work] = {}

    async def run(self, key: Hashable, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work `key`, or wait for who is doing it."""
        shared = self._under_way.get(key)
        if shared is None:
            shared = self._under_way[key] = _Work()
            try:
                with shared.scope:
                    await work()
                    shared.error = None
            except (VolcryptError, OSError) as error:
                shared.error = error
            finally:
                del self._under_way[key]
                shared.done.set()
        else:
            await shared.done.wait()
        if shared.error is not None:
            raise shared.error

    def is_under_way(self, key: Hashable) -> bool:
        return key in self._under_way

    async def give_up(self, reason: VolcryptError) -> None:
        """End all that is under way; returns when it has ended."""
        under_way = list(self._under_way.values())
        for work in under_way:
            work.error = reason
            work.scope.cancel()
        for work in under_way:
            await work.done.wait()


class _Work:
    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.done = trio.Event()
        self.error: VolcryptError | OSError | None = None
