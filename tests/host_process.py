"""A host in a process of its own: it makes, deletes, sweeps and verifies snapshots at random in a
store that others use too, and writes down what it was told. Several of them, and what must hold.

    journal    JSON lines: begun, completed, deleting, refused, did; or at last `failed`, and why
"""

import json
import multiprocessing
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.context import SpawnProcess
from pathlib import Path
from random import Random
from typing import Any

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.fakes.chunks import MemoryChunks
from tests.fakes.snapshots import ROOT_KEY, Host, create_store, open_store, restore, snapshot_id
from tests.s3_server import S3Server
from volcrypt.crypto.digest import ZERO_DIGEST
from volcrypt.errors import SnapshotNotFoundError, TryAgainError
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.names import SnapshotId
from volcrypt.snapshot import layout
from volcrypt.snapshot.local import LocalObjects
from volcrypt.snapshot.objects import ObjectStore
from volcrypt.snapshot.signer import Signer
from volcrypt.snapshot.sweep import sweep_shared
from volcrypt.snapshot.transfer import chunk_table
from volcrypt.snapshot.verify import verify

Place = Path | tuple[S3Server, str]
"""A directory, or a prefix in the bucket of a server."""
SIZE = CHUNK_BYTES + 8192
_NUMBERS = 1_000_000
"""Snapshots of one process."""


def open_place(place: Place) -> ObjectStore:
    if isinstance(place, Path):
        return LocalObjects(place)
    server, prefix = place
    return server.objects(prefix)


def signer_of(number: int) -> Signer:
    seed = f"process {number}".encode().ljust(32, b"\0")
    return Signer(Ed25519PrivateKey.from_private_bytes(seed))


def volume_of(seeds: list[int]) -> MemoryChunks:
    volume = MemoryChunks(SIZE)
    for index, seed in enumerate(seeds):
        volume.fill(index, seed)
    return volume


@dataclass
class _Worker(Host):
    journal: Any = None
    random: Random = field(default_factory=Random)
    first: int = 0
    made: int = 0
    last: SnapshotId | None = None

    def clock(self) -> int:
        return int(time.time())

    def note(self, what: str, **more: object) -> None:
        self.journal.write(json.dumps({"what": what, **more}) + "\n")
        self.journal.flush()

    def create(self) -> None:
        self.made += 1
        number = self.first + self.made
        seeds = [self.random.randrange(3), self.random.randrange(3)]
        parent = None
        if self.last is not None and self.random.random() < 0.5:
            try:
                parent = self.store.manifest(self.last).point
            except SnapshotNotFoundError:
                parent = None
        self.note("begun", id=snapshot_id(number), seeds=seeds)
        try:
            draft, pin = trio.run(
                lambda: self.store_volume(number, volume_of(seeds), parent=parent)
            )
            self.commit(draft, pin)
        except TryAgainError:
            self.pin(number, SIZE).release()
            raise
        self.last = snapshot_id(number)
        self.note("completed", id=self.last)

    def remove(self) -> None:
        if there := self.store.snapshot_ids():
            doomed = self.random.choice(there)
            self.note("deleting", id=doomed)
            self.delete(int(doomed.removeprefix("snap-")[:16], 16))

    def sweep(self) -> None:
        sweep_shared(self.store, self.signer, resumable=(), lazy=(), clock=self.clock)

    def verify(self) -> None:
        damages = verify(self.store).damages
        assert damages == [], [str(damage) for damage in damages]

    def read(self) -> None:
        if there := self.store.snapshot_ids():
            chosen = self.random.choice(there)
            with self.store.reading(chosen):
                trio.run(restore, self.store, self.store.manifest(chosen))


def work(place: Place, number: int, life: int, acts: int, journal: Path) -> None:
    """The whole life of a process, of so many acts."""
    with open(journal, "a") as file:
        worker = _Worker(
            open_store(open_place(place)),
            signer_of(number),
            journal=file,
            random=Random(f"{number} {life}"),
            first=(number * 1000 + life) * _NUMBERS,
        )
        kinds: list[Callable[[], None]] = [worker.create] * 4
        kinds += [worker.remove] * 2 + [worker.sweep] * 2 + [worker.verify, worker.read]
        try:
            for count in range(acts):
                # The first is a snapshot, so that there is something.
                act = worker.random.choice(kinds) if count > 0 else worker.create
                try:
                    act()
                except (TryAgainError, SnapshotNotFoundError) as error:
                    worker.note("refused", act=act.__name__, why=str(error))
                worker.note("did", act=act.__name__)
        except BaseException:
            worker.note("failed", why=traceback.format_exc())
            raise


# ---------------------------------------------------------------- several


@dataclass
class Hosts:
    """`count` of them, of which the last is killed and started again `kills` times."""

    place: Place
    directory: Path
    acts: int
    count: int = 3
    kills: int = 1

    def run(self) -> None:
        """All of it, and the check of what is left."""
        store = create_store(open_place(self.place))
        for number in range(self.count):
            store.certify(signer_of(number).public_key, ROOT_KEY)
        begun = [self._start(number, 0) for number in range(self.count)]
        try:
            for life in range(1, self.kills + 1):
                self._await_acts(begun[-1], life * self.acts // (self.kills + 1))
                begun[-1].kill()
                begun[-1].join()
                begun[-1] = self._start(self.count - 1, life)
            for process in begun:
                process.join()
        finally:
            for process in begun:
                process.kill()
                process.join()
        self.check()

    def _start(self, number: int, life: int) -> SpawnProcess:
        self._journal(number).touch()
        process = multiprocessing.get_context("spawn").Process(
            target=work, args=(self.place, number, life, self.acts, self._journal(number))
        )
        process.start()
        return process

    def _await_acts(self, process: SpawnProcess, acts: int) -> None:
        """Until the last process, in all its lives, has done so much, or has failed."""
        while (
            process.is_alive() and self._journal(self.count - 1).read_text().count('"did"') < acts
        ):
            process.join(0.005)

    def _journal(self, number: int) -> Path:
        return self.directory / f"journal-{number}"

    def entries(self) -> Iterator[dict[str, Any]]:
        for number in range(self.count):
            for line in self._journal(number).read_text().splitlines():
                # A process that was killed may have written half of a line.
                if line.endswith("}"):
                    yield json.loads(line)

    def check(self) -> None:
        """What every process was told holds; when all have swept, only what is needed is left."""
        entries = list(self.entries())
        assert [each["why"] for each in entries if each["what"] == "failed"] == []
        ids = {
            what: {each["id"] for each in entries if each["what"] == what}
            for what in ("begun", "completed", "deleting")
        }
        seeds = {each["id"]: each["seeds"] for each in entries if each["what"] == "begun"}
        store = open_store(open_place(self.place))
        there = set(store.snapshot_ids())
        assert ids["completed"] - ids["deleting"] <= there <= ids["begun"]
        for number in range(self.count):
            sweep_shared(
                store, signer_of(number), resumable=(), lazy=(), clock=lambda: int(time.time())
            )
        assert verify(store).damages == []
        needed: set[str] = set()
        for each in there:
            manifest = store.manifest(each)
            assert trio.run(restore, store, manifest) == volume_of(seeds[each]).image()
            table = chunk_table(store, manifest)
            if manifest.root != ZERO_DIGEST:
                needed.add(layout.page_name(manifest.root))
            needed |= {layout.page_name(table.page_digest(page)) for page in table.stored_pages()}
            needed |= {layout.chunk_name(table.digest(at)) for at in table.candidate_chunks()}
        content = {*store.objects.list(layout.CHUNKS), *store.objects.list(layout.PAGES)}
        assert content == needed
        assert list(store.objects.list(layout.PINS)) == []
