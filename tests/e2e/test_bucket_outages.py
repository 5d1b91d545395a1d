"""Snapshots in the background, and volumes that fetch their chunks, on a bucket that fails while
they are at work: what was begun ends in a state that says why, and nothing wrong is ever served."""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.command import Command, disposable_home
from tests.faulty_proxy import Answer, Fault, FaultyProxy, Request, failure
from tests.forked import IMPATIENT
from tests.s3_server import BUCKET, S3Server

CHUNK = 2**19
CHUNKS = 12
SIZE = CHUNKS * CHUNK
PREFIX = "bucket/outages"
IMAGE = os.urandom(SIZE)


@pytest.fixture(scope="module")
def proxy(s3_server: S3Server) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3_server.port) as running:
        yield running


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory,
    s3_server: S3Server,
    proxy: FaultyProxy,
) -> Iterator[Command]:
    """A home with a volume, and a snapshot of it in a bucket behind the proxy."""
    root = tmp_path_factory.mktemp("outages")
    (root / "image").write_bytes(IMAGE)
    (root / "mnt").mkdir()
    with pytest.MonkeyPatch.context() as patch, disposable_home(root / "home") as command:
        for name, value in s3_server.environment.items():
            patch.setenv(name, value)
        command.run("init")
        command.run("volume", "import", root / "image", "--name", "data")
        url = f"s3://{BUCKET}/{PREFIX}"
        command.run("store", "create", "far", "--url", url, "--endpoint", proxy.endpoint)
        command.run("snapshot", "create", "--wait", "data", "--name", "base", "--store", "far")
        yield command
        assert command.json("snapshot", "verify", "--store", "far")["Damages"] == []


@pytest.fixture
def command(
    made: Command, proxy: FaultyProxy, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Command]:
    """The home. Afterwards the bucket holds the first snapshot, and no trace of another."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    yield made
    proxy.fault = None
    proxy.requests.clear()
    for snapshot in made.json("snapshot", "list")["Snapshots"]:
        if snapshot["Name"] != "base":
            made.run("snapshot", "delete", snapshot["SnapshotId"])
    objects = s3_server.objects(PREFIX)
    assert list(objects.list("pins/")) == []
    assert len(list(objects.list("chunks/"))) == CHUNKS


@pytest.fixture
def point(command: Command) -> Path:
    return command.home.parent / "mnt"


class Gate:
    """Holds requests for chunks back, but for the first `passes`, until it is opened."""

    def __init__(self, method: str, *, passes: int = 0) -> None:
        self._method = method
        self._lock = threading.Lock()
        self._passes = passes
        self._open = threading.Event()
        self.reached = threading.Event()

    def __call__(self, request: Request, forward: Callable[[], Answer]) -> Answer | None:
        if request.method == self._method and "/chunks/" in request.path:
            with self._lock:
                self._passes -= 1
                is_held = self._passes < 0
            if is_held:
                self.reached.set()
                self._open.wait(60)
        return forward()

    def open(self) -> None:
        self._open.set()


def on_chunks(answer: Answer | None, method: str = "PUT") -> Fault:
    def fault(request: Request, forward: Callable[[], Answer]) -> Answer | None:
        hit = request.method == method and "/chunks/" in request.path
        return answer if hit else forward()

    return fault


def change_all(command: Command, point: Path) -> bytes:
    """All of the volume is new; it stays as it was for the snapshots that there are."""
    data = os.urandom(SIZE)
    command.run("mount", "data", point)
    with open(point / "volume", "r+b") as file:
        file.write(data)
    command.run("unmount", "data")
    return data


def row(command: Command, snapshot: str) -> dict[str, object]:
    shown = command.json("snapshot", "show", snapshot)
    assert isinstance(shown, dict)
    return shown


def begin(command: Command, *options: str) -> str:
    return command.run("snapshot", "create", "data", "--store", "far", *options)


def exported(command: Command, snapshot: str, tmp_path: Path) -> bytes:
    command.run("snapshot", "export", "--yes", snapshot, tmp_path / "exported")
    return (tmp_path / "exported").read_bytes()


# ---------------------------------------------------------------- in the background


def test_pending_becomes_completed_in_a_bucket(
    command: Command, proxy: FaultyProxy, point: Path, tmp_path: Path
) -> None:
    data = change_all(command, point)
    gate = proxy.fault = Gate("PUT", passes=CHUNKS // 2)
    snapshot = begin(command, "--name", "later")
    assert gate.reached.wait(30)
    while row(command, snapshot)["Progress"] == "0%":
        time.sleep(0.05)
    shown = row(command, snapshot)
    assert (shown["State"], shown["StoreName"]) == ("pending", "far")
    (pending,) = command.json("status")["PendingSnapshots"]
    assert pending["SnapshotId"] == snapshot
    for needs in (["snapshot", "copy", snapshot], ["volume", "create", "--snapshot-id", snapshot]):
        assert f"hint: volcrypt snapshot wait {snapshot}" in command.fails(7, *needs)
    waiting = command.start("snapshot", "wait", snapshot)
    assert waiting.wait_for(0.3) is None
    gate.open()
    assert waiting.wait_for(60) == 0
    shown = row(command, snapshot)
    assert (shown["State"], shown["Progress"]) == ("completed", "100%")
    assert exported(command, "later", tmp_path) == data


def test_a_worker_that_is_killed_leaves_an_error_and_what_it_put_goes(
    command: Command, proxy: FaultyProxy, point: Path, s3_server: S3Server, tmp_path: Path
) -> None:
    data = change_all(command, point)
    gate = proxy.fault = Gate("PUT", passes=CHUNKS // 2)
    snapshot = begin(command)
    assert gate.reached.wait(30)
    command.kill_workers()
    gate.open()
    assert "its process was killed" in command.fails(1, "snapshot", "wait", snapshot)
    assert row(command, snapshot)["State"] == "error"
    # It is not in the way of the next, which has all of it.
    proxy.fault = None
    made = command.json("snapshot", "create", "--wait", "data", "--store", "far")
    assert exported(command, made["SnapshotId"], tmp_path) == data
    pinned = {name.removesuffix(".hold") for name in s3_server.objects(PREFIX).list("pins/")}
    assert pinned == {f"pins/{snapshot}"}
    command.run("snapshot", "delete", snapshot)
    assert list(s3_server.objects(PREFIX).list("pins/")) == []


def test_a_pending_one_is_deleted_with_what_it_put(
    command: Command, proxy: FaultyProxy, point: Path, s3_server: S3Server
) -> None:
    change_all(command, point)
    gate = proxy.fault = Gate("PUT", passes=CHUNKS // 2)
    snapshot = begin(command)
    assert gate.reached.wait(30)
    deleting = command.start("snapshot", "delete", snapshot)
    # What is under way is waited for, and nothing more is begun.
    assert deleting.wait_for(0.5) is None
    gate.open()
    assert deleting.wait_for(60) == 0
    assert command.fails(3, "snapshot", "show", snapshot)
    objects = s3_server.objects(PREFIX)
    assert list(objects.list("pins/")) == []
    assert len(list(objects.list("chunks/"))) == CHUNKS


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (on_chunks(failure(503, "SlowDown")), "SlowDown (503)"),
        (on_chunks(failure(403, "ExpiredToken")), "the session token has expired"),
        (on_chunks(Answer(200, {"ETag": '"1"'}, b"")), "said that it stored object chunks/"),
    ],
    ids=["slow down", "expired", "lies"],
)
def test_what_ends_it_in_the_background_is_kept_as_the_reason(
    command: Command,
    proxy: FaultyProxy,
    point: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    fault: Fault,
    says: str,
) -> None:
    monkeypatch.setenv(IMPATIENT, "1")
    data = change_all(command, point)
    proxy.fault = fault
    command.run("mount", "data", point)
    try:
        snapshot = begin(command)
        assert says in command.fails(1, "snapshot", "wait", snapshot)
        shown = row(command, snapshot)
        assert shown["State"] == "error"
        assert says in str(shown["StateReason"])
        # The volume goes on, and nothing that was changed is lost to the next snapshot.
        proxy.fault = None
        made = command.run("snapshot", "create", "--wait", "data", "--store", "far")
    finally:
        command.run("unmount", "data")
    assert exported(command, made, tmp_path) == data


# ---------------------------------------------------------------- lazy volumes


@pytest.fixture
def lazy(command: Command, proxy: FaultyProxy, point: Path) -> Iterator[Path]:
    """A mounted volume of which only the first chunk is here."""
    options = ("--snapshot-id", "base", "--name", "lazy", "--fill-rate", "0")
    command.run("volume", "create", *options)
    command.run("mount", "lazy", point)
    yield point / "volume"
    proxy.fault = None
    command.try_run("unmount", "lazy")
    command.run("volume", "delete", "lazy")


def read(file: Path, chunk: int) -> bytes:
    with open(file, "rb", buffering=0) as opened:
        return os.pread(opened.fileno(), 4096, chunk * CHUNK)


def check_is_an_error(file: Path, chunk: int) -> None:
    with pytest.raises(OSError, match="Input/output") as raised:
        read(file, chunk)
    assert raised.value.errno == errno.EIO


def altered(change: Callable[[bytes], bytes], length: int | None = None) -> Fault:
    def fault(request: Request, forward: Callable[[], Answer]) -> Answer:
        answer = forward()
        if request.method == "GET" and "/chunks/" in request.path:
            answer.body, answer.length = change(answer.body), length
        return answer

    return fault


def test_every_trouble_is_an_error_of_that_range_until_it_is_over(
    command: Command, proxy: FaultyProxy, lazy: Path
) -> None:
    assert read(lazy, 0) == IMAGE[:4096]
    troubles: list[Fault] = [
        on_chunks(failure(403, "AccessDenied"), "GET"),
        on_chunks(failure(404, "NoSuchKey"), "GET"),
        on_chunks(failure(404, "NoSuchBucket"), "GET"),
        on_chunks(failure(400, "ExpiredToken"), "GET"),
        on_chunks(Answer(200, {"ETag": '"1"'}, b"<html>"), "GET"),
        altered(lambda body: body[:-1]),
        altered(lambda body: body + b"x"),
        altered(lambda body: IMAGE[:CHUNK]),
        altered(lambda body: bytes(len(body))),
    ]
    for fault in troubles:
        proxy.fault = fault
        for chunk in (5, 6):
            check_is_an_error(lazy, chunk)
        assert read(lazy, 0) == IMAGE[:4096]
        # What was never fetched cannot be written to either.
        with pytest.raises(OSError, match="Input/output"), open(lazy, "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), b"x", 7 * CHUNK)
        (used,) = command.json("status")["InUse"]
        assert used["Initialization"]["Problem"]
    proxy.fault = None
    for chunk in range(CHUNKS):
        assert read(lazy, chunk) == IMAGE[chunk * CHUNK :][:4096]
    (used,) = command.json("status")["InUse"]
    assert used["Initialization"] is None or used["Initialization"]["Problem"] is None


def test_unmounting_does_not_wait_for_a_bucket_that_hangs(
    command: Command, proxy: FaultyProxy, lazy: Path
) -> None:
    command.run("unmount", "lazy")
    gate = proxy.fault = Gate("GET")
    command.run("mount", "lazy", lazy.parent, "--fill-rate", "10GiB")
    assert gate.reached.wait(30)
    begun = time.monotonic()
    command.run("unmount", "lazy")
    assert time.monotonic() - begun < 15  # a request that nobody answers takes 20 s
    gate.open()
    command.run("mount", "lazy", lazy.parent)
    assert read(lazy, 9) == IMAGE[9 * CHUNK :][:4096]
