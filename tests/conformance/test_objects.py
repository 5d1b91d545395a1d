"""What every object store promises: the fake, a directory, and a bucket of a real S3 server."""

import multiprocessing
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.objects import MemoryObjects
from tests.fakes.snapshots import create_store
from tests.s3_server import S3Server
from volcrypt.errors import ChunkCorruptError, ObjectNotFoundError
from volcrypt.snapshot.layout import chunk_name
from volcrypt.snapshot.local import LocalObjects
from volcrypt.snapshot.objects import ObjectStore
from volcrypt.snapshot.store import Stored


@pytest.fixture(params=["memory", "local", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    if request.param == "memory":
        yield MemoryObjects()
    elif request.param == "local":
        with LocalObjects.create(tmp_path / "store") as local:
            yield local
    else:
        server: S3Server = request.getfixturevalue("s3_server")
        yield server.objects(request.getfixturevalue("prefix"))


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


def race(location: Path | tuple[S3Server, str], number: int, names: int, start: Any) -> None:
    """One process of the race: exits with how many names it won."""
    objects: ObjectStore
    if isinstance(location, Path):
        objects = LocalObjects(location)
    else:
        server, prefix = location
        objects = server.objects(prefix)
    won = 0
    for name in range(names):
        start.wait()
        won += objects.put_if_absent(f"manifests/{name}", bytes([number]) * 100_000)
    raise SystemExit(won)


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_of_two_processes_one_wins(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    names = 100 if kind == "local" else 6
    location: Path | tuple[S3Server, str] = tmp_path
    objects: ObjectStore = LocalObjects(tmp_path)
    if kind == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        location = (server, request.getfixturevalue("prefix"))
        objects = server.objects(location[1])
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(2)
    # What the fixture started stays the test's: a copy for the racers has only its address.
    racers = [
        spawn.Process(target=race, args=(addressed(location), number, names, start))
        for number in (1, 2)
    ]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    won = [racer.exitcode for racer in racers]
    contents = [objects.get(f"manifests/{name}") for name in range(names)]
    assert [contents.count(bytes([number]) * 100_000) for number in (1, 2)] == won
    assert sum(count or 0 for count in won) == names


def addressed(location: Path | tuple[S3Server, str]) -> Path | tuple[S3Server, str]:
    if isinstance(location, Path):
        return location
    server = S3Server(location[0].directory)
    server.port = location[0].port
    return server, location[1]


@pytest.mark.parametrize("batched", [False, True])
def test_replace_takes_the_place_of_an_object_or_of_none(
    objects: ObjectStore, *, batched: bool
) -> None:
    objects.replace("pins/a", b"one", batched=batched)
    objects.replace("pins/a", b"two", batched=batched)
    objects.sync()
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


@pytest.mark.parametrize("prefix", ["m/s-0", "m/s-1", "m/s-", "m/s--", "m/s-1.", "m/s-zz", "m/"])
def test_list_by_any_part_of_a_name(objects: ObjectStore, prefix: str) -> None:
    names = ["m/s--1", "m/s-0.1", "m/s-0.2", "m/s-00", "m/s-1", "m/s-1.0", "m/s-Z", "m/s-zz.zz"]
    for name in names:
        objects.put_if_absent(name, b"")
    assert sorted(objects.list(prefix)) == [name for name in names if name.startswith(prefix)]


def test_a_listing_has_every_name_however_many(objects: ObjectStore) -> None:
    names = [f"pages/{number:04d}" for number in range(1100)]
    with ThreadPoolExecutor(objects.in_flight) as pool:
        list(pool.map(lambda name: objects.put_if_absent(name, b"", batched=True), names))
    assert sorted(objects.list("pages/")) == names
    assert sorted(objects.list("pages/1")) == names[1000:]


@pytest.mark.parametrize("found", [b"", b"short", b"W" * 5000], ids=["empty", "short", "wrong"])
def test_a_chunk_under_its_final_name_is_looked_at_and_replaced(
    objects: ObjectStore, found: bytes
) -> None:
    store = create_store(objects)
    data = b"R" * 5000
    digest = store.digest.digest(data)
    objects.put_if_absent(chunk_name(digest), found)
    with pytest.raises(ChunkCorruptError):
        store.get_chunk(digest, bytearray(5000), where="chunk 0")
    assert store.put_chunk(digest, data) is Stored.REPAIRED
    assert store.put_chunk(digest, data) is Stored.PRESENT
    buffer = bytearray(5000)
    store.get_chunk(digest, buffer, where="chunk 0")
    assert buffer == data
