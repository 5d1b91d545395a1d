"""A store against a model: whatever happens, every committed snapshot restores its image.

The store runs in memory, where a kill is a failing write and a power cut forgets what was not
synced. After each step the store must hold exactly the snapshots of the model.
"""

from dataclasses import dataclass, replace

import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from tests.fakes.chunks import MemoryChunks
from tests.fakes.objects import MemoryObjects
from tests.fakes.snapshots import (
    OTHER_SIGNER,
    SIGNER,
    Host,
    create_store,
    open_store,
    restore,
    snapshot_id,
)
from volcrypt.errors import ObjectStoreError, SnapshotNotFoundError, TryAgainError
from volcrypt.formats.manifest import SnapshotPoint
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.snapshot.sweep import sweep
from volcrypt.snapshot.verify import verify

SIZE = 1500 * CHUNK_BYTES - 4096
INDEXES = (0, 1, 2, 1023, 1024, 1499)
LARGER = (
    1500 * CHUNK_BYTES,  # the last chunk becomes whole
    1700 * CHUNK_BYTES + 4096,  # in the same page
    2048 * CHUNK_BYTES,  # to the end of a page
    3100 * CHUNK_BYTES - 4096,  # more pages
)


@dataclass(frozen=True)
class Committed:
    """What the model knows of a snapshot."""

    number: int
    image: dict[int, bytes]
    size_bytes: int


class SnapshotModel(RuleBasedStateMachine):
    snapshots: Bundle[int] = Bundle("snapshots")

    @initialize()
    def start(self) -> None:
        self.objects = MemoryObjects()
        create_store(self.objects)
        self.hosts = [
            Host(open_store(self.objects), SIGNER),
            Host(open_store(self.objects), OTHER_SIGNER),
        ]
        self.volume = MemoryChunks(SIZE)
        self.changed: set[int] = set()
        self.parent: SnapshotPoint | None = None
        self.model: dict[int, Committed] = {}
        self.count = 0

    def _next_number(self) -> int:
        self.count += 1
        return self.count

    @rule(index=st.sampled_from(INDEXES), seed=st.integers(0, 3))
    def write(self, index: int, seed: int) -> None:
        self.changed.add(index)
        self.volume.fill(index, seed)

    @rule(size_bytes=st.sampled_from(LARGER))
    def grow(self, size_bytes: int) -> None:
        if size_bytes > self.volume.size_bytes:
            self.volume.grow(size_bytes)

    @rule(seed=st.integers(0, 3), is_marked=st.booleans())
    def write_at_the_end(self, seed: int, *, is_marked: bool) -> None:
        """A map that was made before the growth knows nothing of it."""
        last = (self.volume.size_bytes - 1) // CHUNK_BYTES
        if is_marked or last * CHUNK_BYTES < self._parent_bytes():
            self.changed.add(last)
        self.volume.fill(last, seed)

    def _parent_bytes(self) -> int:
        """What was written behind its end is found without the map."""
        if self.parent is None:
            return 0
        committed = self.model.get(self.parent_number)
        return self.volume.size_bytes if committed is None else committed.size_bytes

    @rule(
        target=snapshots,
        host=st.integers(0, 1),
        void=st.booleans(),
        keeps_head=st.booleans(),
    )
    def snapshot(self, host: int, *, void: bool, keeps_head: bool) -> int:
        number = self._next_number()
        at_work = self.hosts[host]
        head = at_work.head
        changed = None if void or self.parent is None else set(self.changed)
        manifest = trio.run(
            lambda: at_work.snapshot(number, self.volume, parent=self.parent, changed=changed)
        )
        if not keeps_head:
            # Killed after the commit, before the new head was kept.
            at_work.head = head
        self.model[number] = Committed(number, self.volume.image(), self.volume.size_bytes)
        self.parent = manifest.point
        self.parent_number = number
        self.changed.clear()
        return number

    @rule(target=snapshots, host=st.integers(0, 1), allowed=st.integers(0, 12), power=st.booleans())
    def snapshot_killed(
        self, host: int, allowed: int, *, power: bool
    ) -> MultipleResults[int] | int:
        """A kill or a power cut after some writes; complete if the manifest was one of them."""
        number = self._next_number()
        at_work = self.hosts[host]
        self.objects.writes_until_failure = allowed
        try:
            trio.run(
                lambda: at_work.snapshot(
                    number, self.volume, parent=self.parent, changed=set(self.changed)
                )
            )
        except ObjectStoreError:
            pass
        finally:
            self.objects.writes_until_failure = None
        if power:
            self.objects.crash()
        if snapshot_id(number) not in at_work.store.snapshot_ids():
            return multiple()
        self.model[number] = Committed(number, self.volume.image(), self.volume.size_bytes)
        return number

    @rule(target=snapshots, host=st.integers(0, 1), number=snapshots)
    def copy(self, host: int, number: int) -> MultipleResults[int] | int:
        if number not in self.model:
            return multiple()
        at_work = self.hosts[host]
        copy = self._next_number()
        source = at_work.store.manifest(snapshot_id(number))
        trio.run(at_work.copy, copy, at_work.store, source)
        self.model[copy] = replace(self.model[number], number=copy)
        return copy

    @rule(host=st.integers(0, 1), number=consumes(snapshots), allowed=st.integers(0, 5))
    def delete(self, host: int, number: int, allowed: int) -> None:
        if number not in self.model:
            return
        self.objects.writes_until_failure = allowed
        try:
            self.hosts[host].delete(number)
        except ObjectStoreError:
            pass
        finally:
            self.objects.writes_until_failure = None
        try:
            self.hosts[1 - host].store.manifest(snapshot_id(number))
        except SnapshotNotFoundError:
            del self.model[number]

    @rule(host=st.integers(0, 1), allowed=st.integers(0, 30))
    def sweep_alone(self, host: int, allowed: int) -> None:
        self.objects.writes_until_failure = allowed
        try:
            sweep(self.hosts[host].store)
        except ObjectStoreError:
            pass
        finally:
            self.objects.writes_until_failure = None

    @rule(host=st.integers(0, 1))
    def condemn(self, host: int) -> None:
        self.hosts[host].condemn()

    @rule(host=st.integers(0, 1))
    def delete_condemned(self, host: int) -> None:
        at_work = self.hosts[host]
        try:
            at_work.delete_condemned()
        except TryAgainError:
            # The pin of a maker who was killed: only time, or the sweep alone, removes it.
            assert list(self.objects.list("pins/")) or list(self.objects.list("sweeping"))

    @rule()
    def sweep_everything(self) -> None:
        sweep(self.hosts[0].store)
        if not self.model:
            assert not [n for n in self.objects.objects if n.startswith(("chunks/", "pages/"))]

    @rule()
    def power_cut(self) -> None:
        self.objects.crash()
        self.hosts = [Host(open_store(self.objects), host.signer, host.head) for host in self.hosts]

    @invariant()
    def every_committed_snapshot_restores_its_image(self) -> None:
        if not hasattr(self, "model"):
            return
        store = self.hosts[0].store
        assert store.snapshot_ids() == sorted(map(snapshot_id, self.model))
        for committed in self.model.values():
            manifest = store.manifest(snapshot_id(committed.number))
            assert trio.run(restore, store, manifest) == committed.image
            assert manifest.size_bytes == committed.size_bytes
            assert manifest.data_chunks == len(committed.image)

    def teardown(self) -> None:
        if hasattr(self, "hosts"):
            for host in self.hosts:
                assert verify(host.store, expected_head=host.head).damages == []


TestSnapshotModel = SnapshotModel.TestCase
TestSnapshotModel.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
