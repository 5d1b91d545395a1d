"""Object stores for tests: one in memory that records, fails and forgets; one that never syncs."""

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from typing_extensions import Buffer

from volcrypt.errors import ObjectNotFoundError, ObjectStoreError
from volcrypt.snapshot.local import LocalObjects
from volcrypt.snapshot.objects import ObjectStore


class MemoryObjects:
    """Objects in memory. `calls` records `(method, name)`; `crash` forgets what was not synced."""

    in_flight = 4

    def __init__(self) -> None:
        self.location = "memory"
        self.objects: dict[str, bytes] = {}
        self.calls: list[tuple[str, str]] = []
        self.writes_until_failure: int | None = None
        """Puts, replaces and deletes that still succeed; None: all of them."""
        self._unsynced: dict[str, bytes | None] = {}
        """What was there before."""
        self._lock = threading.RLock()

    def count(self, method: str, prefix: str = "") -> int:
        """How many calls of a method were recorded, for names that start with `prefix`."""
        return sum(1 for call, name in self.calls if call == method and name.startswith(prefix))

    def crash(self) -> None:
        """A power cut: batched objects since the last sync are gone, or as they were before."""
        for name, before in self._unsynced.items():
            self.objects.pop(name, None)
            if before is not None:
                self.objects[name] = before
        self._unsynced.clear()

    def put_if_absent(self, name: str, data: Buffer, *, batched: bool = False) -> bool:
        with self._lock:
            self.calls.append(("put_if_absent", name))
            if name in self.objects:
                return False
            self._may_fail()
            self.objects[name] = bytes(data)
            if batched:
                self._unsynced[name] = None
            return True

    def replace(self, name: str, data: Buffer, *, batched: bool = False) -> None:
        with self._lock:
            self.calls.append(("replace", name))
            self._may_fail()
            before = self._unsynced.pop(name, self.objects.get(name))
            self.objects[name] = bytes(data)
            if batched:
                self._unsynced[name] = before

    def get(self, name: str) -> bytes:
        with self._lock:
            self.calls.append(("get", name))
            try:
                return self.objects[name]
            except KeyError as error:
                raise ObjectNotFoundError(name) from error

    def get_into(self, name: str, buffer: Buffer) -> int:
        data = self.get(name)
        view = memoryview(buffer)
        length = min(len(data), view.nbytes)
        view[:length] = data[:length]
        return len(data)

    def list(self, prefix: str) -> Iterator[str]:
        with self._lock:
            self.calls.append(("list", prefix))
            names = sorted(name for name in self.objects if name.startswith(prefix))
        yield from names

    def delete(self, name: str) -> None:
        with self._lock:
            self.calls.append(("delete", name))
            self._may_fail()
            self.objects.pop(name, None)

    def sync(self) -> None:
        with self._lock:
            self.calls.append(("sync", ""))
            self._unsynced.clear()

    def _may_fail(self) -> None:
        if self.writes_until_failure is not None:
            if self.writes_until_failure == 0:
                raise ObjectStoreError("the object store failed")
            self.writes_until_failure -= 1


class UnsyncedObjects(LocalObjects):
    """A local store that only pretends to make anything durable: the control of crash tests."""

    def _sync_file(self, descriptor: int) -> None:
        pass

    def _sync_file_system(self) -> None:
        pass


if TYPE_CHECKING:

    def _conforms(objects: MemoryObjects) -> ObjectStore:
        return objects
