"""Copies under another key that continue the copy of an earlier snapshot."""

import pytest

from tests.operations.copying import LAST, Begun, Place, data_key, place
from volcrypt.errors import SnapshotNotFoundError
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.kms.messages.keys import CreateKeyRequest
from volcrypt.operations.grow import grow_volume
from volcrypt.operations.keys import KeyChoice
from volcrypt.operations.records import load_record
from volcrypt.operations.snapshot_deletion import delete_snapshot
from volcrypt.operations.stores import store_of
from volcrypt.snapshot.verify import verify

__all__ = ["place"]


@pytest.mark.parametrize("store", ["away", "local"])
def test_a_copy_reads_and_stores_what_changed_since_the_one_before(
    place: Place, store: str
) -> None:
    place.snapshot("monday")
    first = place.copy("monday", store=store)
    assert (place.began.chunks, first.stored_chunks, first.parent) == (5, 5, None)
    place.write(700, 5)
    place.write(LAST, data=bytes(4096))  # encrypted zeros: this is no hole
    place.snapshot("tuesday")
    second = place.copy("tuesday", store=store)
    assert (place.began.chunks, second.stored_chunks, second.data_chunks) == (3, 3, 6)
    assert second.parent == first.point
    assert data_key(second) == data_key(first) != data_key(place.snapshot("x"))
    assert second.wrapped_key != first.wrapped_key
    assert place.content(second) == place.image
    # Nothing to do: the pages are shared as well.
    place.snapshot("wednesday")
    third = place.copy("wednesday", store=store)
    assert (place.began.chunks, third.stored_chunks, third.root) == (0, 0, second.root)
    # Any of them goes without harm to the others.
    for gone in (first, third):
        delete_snapshot(place.home, gone.snapshot_id)
    assert place.content(second) == place.image
    assert verify(store_of(place.home, second.store_id)).damages == []


def test_a_chunk_that_became_a_hole_is_one_in_the_copy(place: Place) -> None:
    place.snapshot("monday")
    place.copy("monday")
    record = load_record(place.home, "data")
    path = place.home.volumes.path_of(record.volume_id) / "data"
    with path.open("r+b") as file:
        file.seek(700 * CHUNK_BYTES)
        file.write(bytes(CHUNK_BYTES))
    del place.image[700]
    place.snapshot("tuesday")
    copied = place.copy("tuesday")
    assert (place.began.chunks, copied.stored_chunks, copied.data_chunks) == (1, 0, 4)
    assert place.content(copied) == place.image


def test_an_older_snapshot_is_copied_after_a_newer_one(place: Place) -> None:
    place.snapshot("monday")
    monday = dict(place.image)
    place.write(1)
    place.snapshot("tuesday")
    first = place.copy("tuesday")
    second = place.copy("monday")
    assert (place.began.chunks, second.stored_chunks) == (1, 1)
    assert data_key(first) == data_key(second)
    assert place.content(second) == monday


def test_a_volume_that_has_grown(place: Place) -> None:
    place.snapshot("monday")
    first = place.copy("monday")
    grow_volume(place.home, "data", size_bytes=2100 * CHUNK_BYTES, resize_fs=False)
    place.write(2050)
    place.snapshot("tuesday")
    second = place.copy("tuesday")
    # The last chunk, which was short, and the new one.
    assert (place.began.chunks, second.stored_chunks, second.data_chunks) == (2, 2, 6)
    assert data_key(second) == data_key(first)
    assert place.content(second) == place.image
    assert verify(place.away).damages == []
    # Unchanged from then on.
    place.snapshot("wednesday")
    assert place.copy("wednesday").stored_chunks == 0


def test_without_the_original_all_is_read_and_what_is_the_same_is_shared(place: Place) -> None:
    place.snapshot("monday")
    first = place.copy("monday")
    place.write(1)
    place.snapshot("tuesday")
    delete_snapshot(place.home, "monday")
    second = place.copy("tuesday")
    assert (place.began.chunks, second.stored_chunks, second.parent) == (5, 1, None)
    assert data_key(second) == data_key(first)
    assert place.content(second) == place.image


def test_another_key_is_another_lineage(place: Place) -> None:
    place.snapshot("monday")
    first = place.copy("monday")
    key = place.home.kms.perform(place.home.caller, CreateKeyRequest()).key_metadata.arn
    other = place.copy("monday", choice=KeyChoice(kms_key=key))
    assert (other.stored_chunks, other.parent) == (5, None)
    assert data_key(other) != data_key(first)


def test_a_copy_signed_by_another_home_is_not_continued(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its data key could be one that he knows, and its chunks what he likes."""
    place.snapshot("monday")
    first = place.copy("monday")
    place.write(1)
    place.snapshot("tuesday")
    monkeypatch.setattr("volcrypt.operations.copy_bases.home_signer", lambda _: _Stranger)
    second = place.copy("tuesday")
    assert (second.stored_chunks, second.parent) == (5, None)
    assert data_key(second) != data_key(first)


class _Stranger:
    id = "stranger"


def test_a_killed_copy_goes_on_where_it_was(place: Place) -> None:
    place.snapshot("monday")
    first = place.copy("monday")
    place.write(*range(100, 160))
    place.snapshot("tuesday")

    class Killed(Begun):
        def advance(self, done_bytes: int) -> None:
            if done_bytes >= 30 * CHUNK_BYTES:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        place.copy("tuesday", progress=Killed())
    done: list[int] = []

    class Resumed(Begun):
        def advance(self, done_bytes: int) -> None:
            done.append(done_bytes // CHUNK_BYTES)

    second = place.copy("tuesday", progress=Resumed())
    assert 28 <= done[0] <= 31
    assert done[-1] == 60
    assert second.parent == first.point
    assert (second.stored_chunks, second.data_chunks) == (60, 65)
    assert place.content(second) == place.image


def test_what_a_killed_copy_continued_is_deleted(place: Place) -> None:
    """It starts over, under the data key that it has."""
    place.snapshot("monday")
    first = place.copy("monday")
    place.write(*range(100, 130))
    place.write(1, data=bytes(4096))
    place.snapshot("tuesday")

    class Killed(Begun):
        def advance(self, done_bytes: int) -> None:
            if done_bytes >= 20 * CHUNK_BYTES:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        place.copy("tuesday", progress=Killed())
    delete_snapshot(place.home, first.snapshot_id)
    with pytest.raises(SnapshotNotFoundError):
        place.away.manifest(first.snapshot_id)
    second = place.copy("tuesday")
    assert second.parent is None
    assert data_key(second) == data_key(first)
    assert place.content(second) == place.image
    assert verify(place.away).damages == []
