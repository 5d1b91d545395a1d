"""Hosts that share a store, and a model of what must hold there whatever they do, and when.

`SimHost` does what the operations do, without volumes and KMS: the engine's own calls in the same
order. What a host keeps durably (the head of its log, cursors of copies, lazy volumes) outlives its
kills; its clock may be wrong.

`StoreModel` looks at each change of the store as it happens:

- a manifest that is there, with no tombstone, is complete, from its first moment to its deletion;
- the same holds for what a lasting pin keeps, as long as its holder needs it;
- a number of a log is given once, and none is left out;
- nothing is removed but garbage, pins, sweep lists and deleted manifests; nothing false is put.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import trio

from tests.fakes.chunks import MemoryChunks
from tests.fakes.snapshots import ROOT_KEY, Host, create_store, open_store, restore, snapshot_id
from tests.interleaving import Call, GatedObjects, Task, World, pause
from volcrypt.crypto.digest import ZERO_DIGEST
from volcrypt.errors import SnapshotNotFoundError, VolcryptError
from volcrypt.formats.copy_cursor import CopyCursor
from volcrypt.formats.manifest import Manifest, Origin
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.names import SnapshotId, VolumeId
from volcrypt.snapshot import layout
from volcrypt.snapshot.copying import CopyBase, copy_chunks, restarted
from volcrypt.snapshot.draft import StoredTable
from volcrypt.snapshot.layout import LogPlace, parse_entry_name
from volcrypt.snapshot.log import SignerLog
from volcrypt.snapshot.pin import Pin, hold_lastingly, release_lasting
from volcrypt.snapshot.signer import LogHead, Signer
from volcrypt.snapshot.store import SnapshotStore
from volcrypt.snapshot.sweep import sweep_shared
from volcrypt.snapshot.table import ChunkTable
from volcrypt.snapshot.transfer import chunk_table
from volcrypt.snapshot.verify import verify

SIZE = 1024 * CHUNK_BYTES + 8192
PLACES = (0, 1024)
"""Of the chunks that hold anything: one in each of two pages; the second is short."""


class BrokenPromiseError(AssertionError):
    """The store is not what it must be."""


def volume_of(*seeds: int) -> MemoryChunks:
    """A volume with these contents at PLACES; 0 is a hole."""
    volume = MemoryChunks(SIZE)
    for place, seed in zip(PLACES, seeds, strict=True):
        volume.fill(place, seed)
    return volume


def reencrypt(_index: int, view: memoryview) -> None:
    """For copies under another key."""
    view[0] ^= 0xFF


# ---------------------------------------------------------------- the model


@dataclass
class StoreModel:
    """What must hold of the store of `world`."""

    world: World
    store: SnapshotStore = field(init=False)
    needed: dict[str, set[str]] = field(default_factory=dict)
    """Objects that have to be there, by who needs them."""
    deleted: set[SnapshotId] = field(default_factory=set)
    logs: dict[str, int] = field(default_factory=dict)
    images: dict[SnapshotId, dict[int, bytes]] = field(default_factory=dict)
    """What a snapshot that is there, answered for or not, must restore."""
    finally_deleted: set[SnapshotId] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = open_store(self.world.objects)
        self.world.watch = self.watch

    def check(self) -> None:
        """Raises BrokenPromiseError."""
        if self.broken:
            trace = "\n".join(self.world.trace[-60:])
            raise BrokenPromiseError("; ".join(self.broken) + "\n" + trace)

    def visible(self) -> list[SnapshotId]:
        """Snapshots that are there, in the order of their numbers."""
        return sorted(SnapshotId(name) for name in self.needed if name.startswith("snap-"))

    def watch(self, host: str, call: Call, data: bytes) -> None:
        """Look at a change that was just made."""
        name = call.name
        if name.startswith((layout.CHUNKS, layout.PAGES)):
            if call.method != "delete":
                if not self._is_sound(name):
                    self.broken.append(f"{host} put false bytes as {name}")
            elif users := [user for user, names in self.needed.items() if name in names]:
                self.broken.append(f"{host} removed {name}, which {users} need")
        elif name.startswith((layout.MANIFESTS, layout.TOMBSTONES)):
            self._watch_entry(host, call)
        elif not name.startswith((layout.PINS, layout.CONDEMNED, layout.SWEEPING)):
            self.broken.append(f"{host} changed {name}")

    def _watch_entry(self, host: str, call: Call) -> None:
        entry = parse_entry_name(call.name)
        assert entry is not None
        if call.method == "delete":
            if entry.deleted is not None or entry.snapshot_id not in self.deleted:
                self.broken.append(f"{host} removed {call.name}")
            return
        last = self.logs.get(entry.place.signer, 0)
        if entry.place != LogPlace(entry.place.signer, last + 1):
            self.broken.append(f"{host} put entry {entry.place.sequence} after {last}")
        self.logs[entry.place.signer] = entry.place.sequence
        if entry.deleted is not None:
            self.deleted.add(entry.snapshot_id)
            self.needed.pop(entry.snapshot_id, None)
        else:
            if entry.snapshot_id in self.deleted:
                self.broken.append(f"{host} put {call.name}, which was deleted")
            manifest = self.store.read_manifest(entry)[0]
            self.need(entry.snapshot_id, manifest.root, host)

    def need(self, user: str, root: bytes, host: str) -> None:
        """All below a root has to be there from now on."""
        names = self._below(root)
        self.needed[user] = names
        lost = [name for name in names if not self._is_sound(name)]
        if lost:
            self.broken.append(f"{host} made {user} without {lost}")

    def _below(self, root: bytes) -> set[str]:
        if root == ZERO_DIGEST:
            return set()
        names = {layout.page_name(root)}
        try:
            table = ChunkTable(self.store, root, size_bytes=SIZE)
            names |= {layout.page_name(table.page_digest(page)) for page in table.stored_pages()}
            names |= {layout.chunk_name(table.digest(at)) for at in table.candidate_chunks()}
        except VolcryptError:
            self.broken.append(f"what is below {root.hex()} cannot be read")
        return names

    def _is_sound(self, name: str) -> bool:
        data = self.world.objects.objects.get(name)
        return data is not None and self.store.digest.digest(data) == layout.digest_in_name(name)

    def check_end(self, hosts: "list[SimHost]") -> None:
        """Nobody is at work any more: what is left is just what is needed."""
        self.check()
        objects = self.world.objects.objects
        content = {name for name in objects if name.startswith((layout.CHUNKS, layout.PAGES))}
        needed = {name for names in self.needed.values() for name in names}
        assert content == needed, f"garbage that stayed: {sorted(content - needed)}"
        pins = {layout.pinning_volume(name) for name in objects if name.startswith(layout.PINS)}
        assert pins == {volume for host in hosts for volume in host.lazy}
        assert not [name for name in objects if name.startswith((layout.CONDEMNED, "sweeping"))]
        heads = [host.head for host in hosts if host.head is not None]
        keyless = verify(open_store(self.world.objects), expected_heads=heads)
        assert keyless.damages == []
        assert set(keyless.snapshots) == set(self.visible())
        for each in self.visible():
            assert trio.run(restore, self.store, self.store.manifest(each)) == self.images[each]
        for each in self.finally_deleted:
            assert self.store.tombstone(each) is not None
            assert list(self.store.manifest_names(each)) == []


# ---------------------------------------------------------------- a host


@dataclass
class SimHost(Host):
    """A host of `model`'s world. `begin` starts something on it."""

    name: str = ""
    model: StoreModel = field(kw_only=True)
    wrong_by: float = 0
    """Seconds that its clock is ahead."""
    known: dict[str, LogHead] = field(default_factory=dict)
    cursors: dict[int, CopyCursor] = field(default_factory=dict)
    lazy: dict[VolumeId, Manifest] = field(default_factory=dict)

    def clock(self) -> int:
        return int(self.now + self.model.world.seconds + self.wrong_by)

    def pause(self, seconds: float) -> None:
        pause(seconds)

    def begin(self, work: Callable[[], object]) -> Task:
        """Start a process that does this, with what the host has kept and nothing else."""

        def run() -> object:
            self.store = open_store(GatedObjects(self.model.world))
            return work()

        return self.model.world.run(self.name, run)

    # ------------------------------------------------------------ what it can do

    def create(
        self, number: int, volume: MemoryChunks, parent: SnapshotId | None = None
    ) -> Manifest:
        """A snapshot; with a parent, if it is there, only of what is not as in that."""
        self.model.images[snapshot_id(number)] = volume.image()
        point, changed = None, None
        if parent is not None:
            try:
                manifest = self.store.manifest(parent)
            except SnapshotNotFoundError:
                pass
            else:
                point = manifest.point
                before, now = self.model.images[parent], volume.image()
                changed = {at for at in PLACES if before.get(at) != now.get(at)}
        pin = self.pin(number, SIZE)
        try:
            draft, pin = trio.run(
                partial(self.store_volume, number, volume, parent=point, changed=changed)
            )
            pin.renew()  # as it is every ten minutes
            return self.commit(draft, pin)
        except VolcryptError:
            pin.release()
            raise

    def remove(self, which: SnapshotId) -> None:
        """Delete a snapshot."""
        number = int(which.removeprefix("snap-")[:16], 16)
        self.delete(number)
        self.model.finally_deleted.add(which)

    def remove_if_there(self, which: SnapshotId) -> None:
        try:
            self.remove(which)
        except SnapshotNotFoundError:
            assert which in self.model.deleted

    def sweep(self) -> int:
        for head in self.known.values():
            missing = SignerLog(self.store, head.signer).missing(head)
            assert missing == [], "a deletion looks like a rollback"
        return sweep_shared(
            self.store,
            self.signer,
            resumable=[snapshot_id(number) for number in self.cursors],
            lazy=self.lazy,
            clock=self.clock,
            steady=lambda: self.model.world.seconds,
            pause=self.pause,
        ).object_count

    def verify(self) -> None:
        """As a reader without keys; nothing may be wrong at any time."""
        found = verify(self.store, expected_heads=list(self.known.values()))
        assert found.damages == [], [str(damage) for damage in found.damages]
        self.known |= {str(head.signer): head for head in found.heads}

    def read(self, which: SnapshotId) -> dict[int, bytes] | None:
        """Restore a snapshot without a pin; None when it was deleted before or meanwhile."""
        try:
            with self.store.reading(which):
                return trio.run(restore, self.store, self.store.manifest(which))
        except SnapshotNotFoundError:
            assert which in self.model.deleted
            return None

    def copy_of(
        self, number: int, which: SnapshotId, base: SnapshotId | None = None
    ) -> Manifest | None:
        """A re-encrypted copy, resumed where it was killed; None when the source is deleted.
        `base` is an earlier copy, made of a snapshot that is there still, or not."""
        pin = self.pin(number, SIZE)
        try:
            with self.store.reading(which):
                source = self.store.manifest(which)
                self.model.images[snapshot_id(number)] = {
                    at: bytes([data[0] ^ 0xFF]) + data[1:]
                    for at, data in self.model.images[which].items()
                }
                stored = self._copied(number, pin, source, base)
            origin = Origin(store_id=self.store.store_id, snapshot_id=which, root=source.root)
            made = self.commit(self.draft(number, SIZE, stored, origin=origin), pin)
        except SnapshotNotFoundError:
            pin.release()
            self.cursors.pop(number, None)
            return None
        del self.cursors[number]
        return made

    def _copied(
        self, number: int, pin: Pin, source: Manifest, base: SnapshotId | None
    ) -> StoredTable:
        was_held = pin.hold([source.root])
        self.store.manifest(source.snapshot_id)
        found = self._base(pin, source, base)
        cursor = self.cursors.get(number)
        if cursor is None:
            cursor = self.cursor(source, number)
        elif not was_held or found is not None:
            cursor = restarted(cursor)
        self.cursors[number] = cursor
        return trio.run(
            partial(
                copy_chunks,
                chunk_table(self.store, source),
                pin,
                cursor,
                partial(self.cursors.__setitem__, number),
                data_chunks=source.data_chunks,
                base=found,
                step=reencrypt,
            )
        )

    def _base(self, pin: Pin, source: Manifest, base: SnapshotId | None) -> CopyBase | None:
        """An earlier copy to compare with, under the pin."""
        if base is None:
            return None
        try:
            manifest = self.store.manifest(base)
            pin.renew([source.root, manifest.root])
            self.store.manifest(base)
            return CopyBase(
                table=chunk_table(self.store, manifest),
                data_chunks=manifest.data_chunks,
                changed=None,
            )
        except SnapshotNotFoundError:
            return None

    def hold_lazily(self, which: SnapshotId, volume: VolumeId) -> bool:
        """Make a lazy volume of a snapshot; False when it is deleted."""
        try:
            manifest = self.store.manifest(which)
            hold_lastingly(
                self.store,
                volume,
                manifest,
                signer=self.signer,
                now=self.clock(),
                pause=self.pause,
            )
            # As `pinned` does: the snapshot itself says that no sweep was there before.
            self.store.manifest(which)
        except SnapshotNotFoundError:
            release_lasting(self.store, volume)
            return False
        self.lazy[volume] = manifest
        self.model.need(volume, manifest.root, self.name)
        return True

    def read_lazily(self, volume: VolumeId) -> dict[int, bytes]:
        """All chunks of a lazy volume, whatever became of the snapshot."""
        return trio.run(restore, self.store, self.lazy[volume])

    def give_up(self, volume: VolumeId) -> None:
        self.lazy.pop(volume, None)
        self.model.needed.pop(volume, None)
        release_lasting(self.store, volume)


def make_hosts(signers: list[Signer]) -> tuple[World, StoreModel, list[SimHost]]:
    """A new store, and its hosts."""
    world = World()
    store = create_store(world.objects)
    for signer in signers:
        store.certify(signer.public_key, ROOT_KEY)
    model = StoreModel(world)
    hosts = [
        SimHost(store, signer, name=name, model=model)
        for name, signer in zip("ABC", signers, strict=False)
    ]
    return world, model, hosts
