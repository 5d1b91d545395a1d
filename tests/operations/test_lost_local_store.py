"""The local store is lost: its home gets a new one when it is told so, and can join the old one."""

import os
import shutil
from pathlib import Path

import pytest

from tests.snapshots import create_snapshot
from volcrypt.crypto.digest import DigestAlgorithm
from volcrypt.errors import (
    InvalidArgumentError,
    NameTakenError,
    StoreNotFoundError,
    StoreReplacedError,
)
from volcrypt.formats.manifest import Manifest
from volcrypt.kms.register import RegisterEntry
from volcrypt.names import make_store_id
from volcrypt.operations.home import Home
from volcrypt.operations.keys import KeyChoice
from volcrypt.operations.progress import SILENT
from volcrypt.operations.snapshot_lookup import list_snapshots
from volcrypt.operations.store_admin import recreate_local_store, trust_store
from volcrypt.operations.stores import (
    KIND,
    LOCAL_STORE,
    home_signer,
    load_heads,
    open_local_store,
    root_key,
    store_names,
)
from volcrypt.operations.volumes import create_volume
from volcrypt.snapshot.local import LocalObjects
from volcrypt.snapshot.store import SnapshotStore


@pytest.fixture
def entry(home: Home) -> RegisterEntry:
    """What the home knows of its local store, which has a snapshot."""
    create_volume(home, size_bytes=2**20, name="data", choice=KeyChoice())
    snapshot(home, "before")
    found = home.register.find(KIND, LOCAL_STORE)
    assert found is not None
    return found


@pytest.fixture
def lost(home: Home, entry: RegisterEntry, tmp_path: Path) -> Path:
    """The local store as it lies elsewhere now."""
    home.open_stores.clear()
    return Path(shutil.move(home.stores_path / LOCAL_STORE, tmp_path / "lost"))


def snapshot(home: Home, name: str) -> Manifest:
    return create_snapshot(home, "data", name=name, store=None, progress=SILENT)


def names(home: Home) -> list[str]:
    return sorted(str(manifest.name) for manifest in list_snapshots(home).manifests)


def test_a_new_one_takes_snapshots(home: Home, entry: RegisterEntry, lost: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        snapshot(home, "refused")
    made, forgotten = recreate_local_store(home)
    assert forgotten == entry
    assert made.document.store_id != entry.id
    assert (made.made_here, made.may_write) == (True, True)
    assert store_names(home) == {made.document.store_id: LOCAL_STORE}
    assert load_heads(home, made.document.store_id) == []
    snapshot(home, "after")
    assert names(home) == ["after"]


def test_the_old_one_in_place_of_the_new_is_named(
    home: Home, entry: RegisterEntry, lost: Path
) -> None:
    """As from a backup of the home's directory of stores."""
    made, _ = recreate_local_store(home)
    home.open_stores.clear()
    shutil.rmtree(home.stores_path / LOCAL_STORE)
    shutil.move(lost, home.stores_path / LOCAL_STORE)
    with pytest.raises(StoreReplacedError, match=f"is {entry.id}.* in place of") as caught:
        open_local_store(home)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(f"put {made.document.store_id} back")


def test_the_old_one_can_be_joined(home: Home, entry: RegisterEntry, lost: Path) -> None:
    recreate_local_store(home)
    snapshot(home, "after")
    joined = trust_store(
        home,
        "found",
        url=lost.as_uri(),
        region=None,
        endpoint=None,
        encryption=None,
        confirm=lambda key: key == entry.digest,
    )
    assert (joined.document.store_id, joined.made_here) == (entry.id, True)
    assert names(home) == ["after", "before"]


def test_one_that_is_there_stays(home: Home, entry: RegisterEntry) -> None:
    with pytest.raises(NameTakenError):
        recreate_local_store(home)
    assert names(home) == ["before"]


def test_what_is_left_of_one_is_not_mixed_with_a_new_one(
    home: Home, entry: RegisterEntry, lost: Path
) -> None:
    place = home.stores_path / LOCAL_STORE
    place.mkdir()
    shutil.copytree(lost / "manifests", place / "manifests")
    with pytest.raises(InvalidArgumentError, match="what is left of") as refused:
        recreate_local_store(home)
    assert str(place) in (refused.value.hint or "")
    shutil.rmtree(place)
    place.mkdir()  # as a place where nothing is mounted
    recreate_local_store(home)


def test_another_store_is_not_taken_for_it(
    home: Home, entry: RegisterEntry, lost: Path, tmp_path: Path
) -> None:
    foreign = LocalObjects.create(home.stores_path / LOCAL_STORE)
    unfinished(home, foreign)
    snapshot_of_another = "manifests/snap-0123456789abcdef0.0000000001.abc"
    foreign.put_if_absent(snapshot_of_another, b"")
    foreign.close()
    with pytest.raises(InvalidArgumentError, match="another snapshot store"):
        recreate_local_store(home)
    assert home.register.find(KIND, LOCAL_STORE) == entry


def unfinished(home: Home, objects: LocalObjects) -> str:
    """What a call leaves that is killed before the register knows."""
    store_id = make_store_id(os.urandom(9))
    key = root_key(home, store_id)
    SnapshotStore.create(
        objects,
        store_id=store_id,
        region=home.region,
        digest=DigestAlgorithm.BLAKE3,
        root_key=key,
    )
    store = SnapshotStore.open(objects, root_public_key=key.public_key().public_bytes_raw())
    store.certify(home_signer(home).public_key, key)
    return store_id


def test_after_a_kill_the_same_call_finishes(home: Home, entry: RegisterEntry, lost: Path) -> None:
    with LocalObjects.create(home.stores_path / LOCAL_STORE) as objects:
        store_id = unfinished(home, objects)
    made, forgotten = recreate_local_store(home)
    assert (made.document.store_id, forgotten) == (store_id, entry)
    snapshot(home, "after")
    assert names(home) == ["after"]


def test_where_there_was_none_it_is_made(home: Home) -> None:
    made, forgotten = recreate_local_store(home)
    assert forgotten is None
    assert open_local_store(home).store_id == made.document.store_id
