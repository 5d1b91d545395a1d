"""Copies for tests: a volume of which snapshots are taken, another key, and a second store."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.snapshots import create_snapshot
from volcrypt.crypto.digest import DigestAlgorithm
from volcrypt.formats.manifest import Manifest
from volcrypt.geometry import CHUNK_BYTES, UNITS_PER_CHUNK, chunk_range
from volcrypt.kms.messages.keys import CreateKeyRequest
from volcrypt.operations.copy_creation import copy_snapshot
from volcrypt.operations.home import Home
from volcrypt.operations.keys import KeyChoice, unwrap_key
from volcrypt.operations.progress import SILENT
from volcrypt.operations.records import load_record
from volcrypt.operations.store_admin import create_store
from volcrypt.operations.stores import open_store, store_of
from volcrypt.operations.volumes import create_volume, opened_volume
from volcrypt.snapshot.store import SnapshotStore
from volcrypt.snapshot.transfer import chunk_table

SIZE = 1100 * CHUNK_BYTES + 4096  # two pages, and a short last chunk
LAST = SIZE // CHUNK_BYTES


class Begun:
    """How many chunks a copy set out to look at."""

    chunks = 0

    def begin(self, _step: str, total_bytes: int | None) -> None:
        assert total_bytes is not None
        self.chunks = total_bytes // CHUNK_BYTES

    def advance(self, done_bytes: int) -> None:
        pass


@dataclass
class Place:
    """A volume under the default key, another key, and a second store."""

    home: Home
    key: str
    image: dict[int, bytes]
    """Chunks that are not all zero."""
    began: Begun

    def write(self, *chunks: int, data: bytes | None = None) -> None:
        """Write `data`, or 4096 random bytes, to the beginning of each of these chunks."""
        record = load_record(self.home, "data")
        with opened_volume(self.home, record, read_only=False) as (volume, file):
            for chunk in chunks:
                written = data or os.urandom(4096)
                volume.write(chunk * CHUNK_BYTES, written)
                self.keep(chunk, written)
            file.sync()

    def keep(self, chunk: int, written: bytes) -> None:
        before = self.image.pop(chunk, b"")
        content = written + before[len(written) :]
        if any(content):
            self.image[chunk] = content.rstrip(b"\0")

    def snapshot(self, name: str) -> Manifest:
        return create_snapshot(self.home, "data", name=name, store=None, progress=SILENT)

    def copy(self, snapshot: str, **options: Any) -> Manifest:
        given: dict[str, Any] = {"name": None, "store": "away", "region": None}
        choice = KeyChoice(kms_key=self.key)
        self.began = Begun()
        given |= {"choice": choice, "progress": self.began}
        return copy_snapshot(self.home, snapshot, **(given | options))

    def content(self, manifest: Manifest) -> dict[int, bytes]:
        """The plaintext of a snapshot."""
        table = chunk_table(store_of(self.home, manifest.store_id), manifest)
        found = {}
        assert manifest.wrapped_key is not None
        with unwrap_key(self.home, manifest.wrapped_key) as key:
            kernel = key.kernel()
            for index in table.candidate_chunks():
                view = memoryview(bytearray(chunk_range(index, manifest.size_bytes).length))
                table.read_chunk(index, view)
                kernel.decrypt_sparse_units(index * UNITS_PER_CHUNK, view, view)
                if any(view):
                    found[index] = bytes(view).rstrip(b"\0")
            kernel.wipe()
        return found

    @property
    def away(self) -> SnapshotStore:
        return open_store(self.home, "away")


def data_key(manifest: Manifest) -> str:
    assert manifest.wrapped_key is not None
    return manifest.wrapped_key.data_key_id


@pytest.fixture
def place(home: Home, tmp_path: Path) -> Place:
    create_store(
        home,
        "away",
        url=(tmp_path / "away").as_uri(),
        region=home.region,
        endpoint=None,
        encryption=None,
        digest=DigestAlgorithm.SHA256,
    )
    key = home.kms.perform(home.caller, CreateKeyRequest()).key_metadata.arn
    create_volume(home, size_bytes=SIZE, name="data", choice=KeyChoice())
    place = Place(home, key, {}, Begun())
    place.write(0, 1, 700, 1050, LAST)
    return place
