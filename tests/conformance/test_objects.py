"""What every object store promises, on the fake and on the real one."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.objects import MemoryObjects
from volcrypt.errors import ObjectNotFoundError
from volcrypt.snapshot.local import LocalObjects
from volcrypt.snapshot.objects import ObjectStore


@pytest.fixture(params=["memory", "local"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    if request.param == "memory":
        yield MemoryObjects()
    else:
        with LocalObjects.create(tmp_path / "store") as local:
            yield local


@pytest.mark.parametrize("batched", [False, True])
def test_an_object_reads_back_as_it_was_put(objects: ObjectStore, *, batched: bool) -> None:
    assert objects.put_if_absent("chunks/ab/abcd", memoryview(b"data"), batched=batched)
    assert objects.get("chunks/ab/abcd") == b"data"
    objects.sync()
    assert objects.get("chunks/ab/abcd") == b"data"


@pytest.mark.parametrize("batched", [False, True])
def test_the_second_put_is_refused_and_changes_nothing(
    objects: ObjectStore, *, batched: bool
) -> None:
    assert objects.put_if_absent("manifests/a", b"first", batched=batched)
    assert not objects.put_if_absent("manifests/a", b"second", batched=batched)
    assert objects.get("manifests/a") == b"first"


def test_of_many_writers_of_one_name_one_wins(objects: ObjectStore) -> None:
    barrier = threading.Barrier(8)
    wins: list[int] = []

    def put(number: int) -> None:
        barrier.wait()
        if objects.put_if_absent("chunks/00/00", bytes([number]) * 100_000, batched=True):
            wins.append(number)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert objects.get("chunks/00/00") == bytes(wins) * 100_000


def test_replace_takes_the_place_of_an_object_or_of_none(objects: ObjectStore) -> None:
    objects.replace("pins/a", b"one")
    objects.replace("pins/a", b"two")
    assert objects.get("pins/a") == b"two"


def test_a_missing_object_is_named(objects: ObjectStore) -> None:
    objects.put_if_absent("chunks/aa", b"")
    for name in ("chunks/ab", "nothing/at/all", "chunks/aa/below"):
        with pytest.raises(ObjectNotFoundError, match=f"object {name} does not exist"):
            objects.get(name)
        with pytest.raises(ObjectNotFoundError):
            objects.get_into(name, bytearray(1))


@pytest.mark.parametrize("room", [0, 3, 10, 20])
def test_get_into_fills_what_fits_and_tells_the_length(objects: ObjectStore, room: int) -> None:
    objects.put_if_absent("a", b"0123456789")
    buffer = bytearray(b"." * room)
    assert objects.get_into("a", memoryview(buffer)) == 10
    assert buffer == b"0123456789.........."[:room]


def test_list_goes_by_prefix_of_the_whole_name(objects: ObjectStore) -> None:
    for name in ("a/b/1", "a/b/2", "a/bc", "a/c/1", "b"):
        objects.put_if_absent(name, b"")
    assert sorted(objects.list("a/b")) == ["a/b/1", "a/b/2", "a/bc"]
    assert sorted(objects.list("a/b/")) == ["a/b/1", "a/b/2"]
    assert sorted(objects.list("a/b/2")) == ["a/b/2"]
    assert sorted(objects.list("")) == ["a/b/1", "a/b/2", "a/bc", "a/c/1", "b"]
    assert list(objects.list("none/")) == []


def test_delete_forgets_and_may_be_repeated(objects: ObjectStore) -> None:
    objects.put_if_absent("a/b", b"1")
    objects.delete("a/b")
    objects.delete("a/b")
    objects.delete("never/was")
    assert list(objects.list("")) == []
    assert objects.put_if_absent("a/b", b"2")


def test_an_empty_object_is_an_object(objects: ObjectStore) -> None:
    assert objects.put_if_absent("empty", b"")
    assert objects.get("empty") == b""
