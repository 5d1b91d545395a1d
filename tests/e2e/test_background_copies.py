"""Copies that go on when their command has ended, as a user sees them, on disk and in S3.

How far one gets is said by a gate: the lock of the target's log, without which nothing is
committed, or a proxy that lets so many chunks pass.
"""

import os
import select
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.command import Command, disposable_home
from tests.faulty_proxy import Answer, FaultyProxy, Request, failure
from tests.key_search import found_in_process
from tests.listed import log_of_the_local_store_held, rows
from tests.s3_server import BUCKET

CHUNKS = 16
SIZE = CHUNKS * 2**19


def make_key(command: Command, alias: str) -> str:
    """The id of a new key that has an alias."""
    key = command.run("kms", "create-key")
    command.run("kms", "create-alias", "--alias-name", alias, "--target-key-id", key)
    return key


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    """A home with the volume `data`, full of random bytes, its snapshot `first`, and a key."""
    with disposable_home(tmp_path / "home") as made:
        made.run("init")
        (tmp_path / "image").write_bytes(os.urandom(SIZE))
        made.run("volume", "import", tmp_path / "image", "--name", "data")
        made.run("snapshot", "create", "--wait", "data", "--name", "first")
        make_key(made, "alias/other")
        yield made


OTHER = ("--kms-key-id", "alias/other")


class Gate:
    """A fault that lets some chunks into the store, and holds the others back."""

    def __init__(self, free: int) -> None:
        self._free = free
        self._drops = False
        self._changed = threading.Condition()
        self.put: list[str] = []
        """Chunks that were let in, by the path of their object."""

    def __call__(self, request: Request, forward: Callable[[], Answer]) -> Answer | None:
        if request.method != "PUT" or "/chunks/" not in request.path:
            return forward()
        with self._changed:
            self._changed.wait_for(lambda: self._free > 0 or self._drops, timeout=60)
            if self._drops:
                return None
            self._free -= 1
            self.put.append(request.path)
            self._changed.notify_all()
        return forward()

    def wait_until_shut(self) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._free == 0, timeout=60)

    def drop(self) -> None:
        """Close the connections of those that wait: who they are of is dead."""
        with self._changed:
            self._drops = True
            self._changed.notify_all()

    def open(self) -> None:
        with self._changed:
            self._free = 10**9
            self._changed.notify_all()


@pytest.fixture
def shared(command: Command, s3_proxy: FaultyProxy, prefix: str) -> Command:
    """The home, with a store `shared` in the bucket behind the s3_proxy."""
    url = f"s3://{BUCKET}/{prefix}"
    command.run("store", "create", "shared", "--url", url, "--endpoint", s3_proxy.endpoint)
    return command


AWAY = ("snapshot", "copy", "first", *OTHER, "--store", "shared", "--name", "away")


def check_is_what_the_volume_is(command: Command, tmp_path: Path, snapshot: str) -> None:
    command.run("snapshot", "export", "--yes", snapshot, tmp_path / "exported")
    assert (tmp_path / "exported").read_bytes() == (tmp_path / "image").read_bytes()
    (tmp_path / "exported").unlink()
    assert command.json("snapshot", "verify", snapshot)["Damages"] == []


def check_nothing_is_left(command: Command) -> None:
    """Of what makes copies; the worker may still be on its way out."""
    assert list((command.home / "jobs").glob("*snap*")) == []
    assert list((command.home / "work").iterdir()) == []
    assert list((command.home / "stores/local/pins").glob("*")) == []
    assert list(command.runtime.glob("*snap*")) == []


def worker_of(command: Command, snapshot: str) -> int:
    """The process that `status` names."""
    pending = command.json("status")["PendingSnapshots"]
    (pid,) = [row["Pid"] for row in pending if row["SnapshotId"] == snapshot]
    assert str(pid) in command.run("status")
    assert isinstance(pid, int)
    return pid


def test_the_command_returns_and_the_copy_goes_on(command: Command, tmp_path: Path) -> None:
    first = command.json("snapshot", "show", "first")
    with log_of_the_local_store_held(command):
        begun = command.json("snapshot", "copy", "first", *OTHER, "--name", "copied")
        snapshot = begun["SnapshotId"]
        expected = {
            "State": "pending",
            "Name": "copied",
            "StoreName": "local",
            "Encrypted": True,
            "VolumeId": first["VolumeId"],
            "VolumeSize": SIZE,
            "SourceSnapshotId": first["SnapshotId"],
            "StartTime": first["StartTime"],
        }
        assert expected.items() <= begun.items()
        assert begun["KmsKeyId"] not in (None, first["KmsKeyId"])
        assert expected.items() <= rows(command)[snapshot].items()
        assert expected.items() <= command.json("snapshot", "show", "copied").items()
        worker_of(command, snapshot)
        for shown in (["snapshot", "list"], ["snapshot", "show", "copied"]):
            assert snapshot in command.run(*shown)
        # What it is of is free, its name is not, and it is none to work with yet.
        slow = command.run("snapshot", "create", "data", "--rate", "1KiB")
        assert {slow, snapshot} < set(rows(command))
        (tmp_path / "mnt").mkdir()
        assert f"wait {slow}" in command.fails(4, "mount", "data", tmp_path / "mnt")
        command.fails(4, "snapshot", "copy", "first", "--name", "copied")
        for needs in (["snapshot", "copy", "copied"], ["snapshot", "verify", snapshot]):
            assert f"hint: volcrypt snapshot wait {snapshot}" in command.fails(7, *needs)
        command.fails(7, "snapshot", "wait", "copied", "--timeout", "0")
        waiting = command.start("snapshot", "wait", slow, "copied")
        command.kill_workers_of(slow)
        assert waiting.wait_for(60) == 1
        waiting = command.start("snapshot", "wait", "copied")
        assert waiting.wait_for(0.3) is None
    assert waiting.wait_for(60) == 0
    made = command.json("snapshot", "wait", "copied")
    assert (made["SnapshotId"], made["State"]) == (snapshot, "completed")
    assert made["SourceSnapshotId"] == first["SnapshotId"]
    command.run("snapshot", "delete", slow)
    check_nothing_is_left(command)
    check_is_what_the_volume_is(command, tmp_path, "copied")


def test_a_copy_without_data_to_move_is_completed_at_once(command: Command) -> None:
    made = command.json("snapshot", "copy", "first", "--name", "same")
    assert (made["State"], made["StoredChunks"]) == ("completed", 0)
    assert rows(command)[made["SnapshotId"]] == made
    assert command.run("snapshot", "copy", "first") in rows(command)


def test_what_is_wrong_is_the_command_s_error_and_leaves_nothing(
    command: Command, tmp_path: Path
) -> None:
    command.run("kms", "disable-key", "--key-id", make_key(command, "alias/off"))
    (tmp_path / "own.key").write_bytes(os.urandom(32))
    (tmp_path / "short.key").write_bytes(os.urandom(31))
    copy = ("snapshot", "copy", "first")
    before = rows(command)
    for code, options in (
        (5, ["--kms-key-id", "alias/off"]),
        (3, ["--kms-key-id", "alias/none"]),
        (3, ["--store", "none"]),
        (4, ["--name", "first", *OTHER]),
        (2, ["--unencrypted"]),
        (2, ["--unencrypted", *OTHER]),
        (2, ["--customer-key-file", tmp_path / "short.key"]),
        (2, ["--source-customer-key-file", tmp_path / "own.key", *OTHER]),
        (2, ["--name", "snap-mine"]),
    ):
        command.fails(code, *copy, *options)
        check_nothing_is_left(command)
    command.fails(3, "snapshot", "copy", "none")
    # The key that the snapshot is under is asked for before anything moves, too.
    key = make_key(command, "alias/more")
    command.run("volume", "create", "--size", "1MiB", "--kms-key-id", key, "--name", "v")
    command.run("snapshot", "create", "--wait", "v", "--name", "of-other")
    command.run("kms", "disable-key", "--key-id", key)
    assert "disabled" in command.fails(5, "snapshot", "copy", "of-other", "--name", "x")
    check_nothing_is_left(command)
    assert len(rows(command)) == len(before) + 1


def test_a_killed_worker_leaves_what_the_same_command_continues(
    shared: Command, s3_proxy: FaultyProxy, tmp_path: Path
) -> None:
    before = Gate(CHUNKS // 2)
    s3_proxy.fault = before
    snapshot = shared.run(*AWAY)
    waiting = shared.start("snapshot", "wait", snapshot)
    before.wait_until_shut()
    shared.kill_workers()
    assert waiting.wait_for(60) == 1
    before.drop()
    row = rows(shared)[snapshot]
    assert (row["State"], row["StateReason"]) == ("error", "its process was killed")
    said = shared.fails(1, "snapshot", "wait", "away")
    assert "its process was killed" in said
    assert f"the same 'volcrypt snapshot copy {row['SourceSnapshotId']} ...' goes on" in said
    assert "its process was killed" in shared.run("status")

    after = Gate(1)
    s3_proxy.fault = after
    assert shared.run(*AWAY) == snapshot
    after.wait_until_shut()
    assert rows(shared)[snapshot]["State"] == "pending"
    assert int(rows(shared)[snapshot]["Progress"].rstrip("%")) >= 40
    # It is not begun once more while it is being made: that is another copy.
    shared.fails(4, *AWAY)
    after.open()
    assert shared.json("snapshot", "wait", snapshot)["State"] == "completed"
    assert len(set(before.put)) == CHUNKS // 2
    assert len(set(before.put) & set(after.put)) <= 1  # 2 %, and one chunk in any case
    assert set(rows(shared)[snapshot]) == set(rows(shared)[row["SourceSnapshotId"]])
    check_nothing_is_left(shared)
    check_is_what_the_volume_is(shared, tmp_path, "away")


def test_a_store_that_fails_leaves_an_error_with_the_reason(
    shared: Command, s3_proxy: FaultyProxy, tmp_path: Path
) -> None:
    gate = Gate(4)

    def fault(request: Request, forward: Callable[[], Answer]) -> Answer | None:
        if request.method == "PUT" and "/chunks/" in request.path and len(gate.put) >= 4:
            return failure(403, "AccessDenied")
        return gate(request, forward)

    s3_proxy.fault = fault
    snapshot = shared.run(*AWAY)
    said = shared.fails(1, "snapshot", "wait", snapshot)
    assert "denied" in said
    assert "denied" in rows(shared)[snapshot]["StateReason"]
    s3_proxy.fault = None
    again = shared.json(*AWAY, "--wait")
    assert (again["SnapshotId"], again["State"]) == (snapshot, "completed")
    check_nothing_is_left(shared)
    check_is_what_the_volume_is(shared, tmp_path, "away")


def test_a_worker_that_is_killed_when_all_is_done_has_done_it(
    shared: Command, s3_proxy: FaultyProxy, tmp_path: Path
) -> None:
    def fault(request: Request, forward: Callable[[], Answer]) -> Answer | None:
        answer = forward()
        if request.method == "PUT" and "/manifests/" in request.path:
            shared.kill_workers()
        return answer

    s3_proxy.fault = fault
    snapshot = shared.run(*AWAY)
    assert shared.json("snapshot", "wait", snapshot)["State"] == "completed"
    s3_proxy.fault = None
    assert rows(shared)[snapshot]["State"] == "completed"
    assert shared.json("status")["FailedSnapshots"] == []
    assert list((shared.home / "work").iterdir()) != []
    shared.run("snapshot", "copy", "first")
    check_nothing_is_left(shared)
    check_is_what_the_volume_is(shared, tmp_path, "away")


def test_one_that_is_deleted_is_stopped_and_leaves_nothing(
    command: Command, tmp_path: Path
) -> None:
    chunks = command.home / "stores/local/chunks"
    before = sorted(chunks.glob("*/*"))
    with log_of_the_local_store_held(command):
        snapshot = command.run("snapshot", "copy", "first", *OTHER)
        process = os.pidfd_open(worker_of(command, snapshot))
        deleting = command.start("snapshot", "delete", snapshot)
        assert select.select([process], [], [], 30)[0]
        os.close(process)
    assert deleting.wait_for(60) == 0
    assert len(rows(command)) == 1
    check_nothing_is_left(command)
    assert sorted(chunks.glob("*/*")) == before
    command.fails(3, "snapshot", "wait", snapshot)
    # One that was killed can go, too: then the same command begins another one.
    with log_of_the_local_store_held(command):
        killed = command.run("snapshot", "copy", "first", *OTHER)
        command.kill_workers()
    assert list((command.home / "work").iterdir()) != []
    command.run("snapshot", "delete", killed)
    check_nothing_is_left(command)
    assert sorted(chunks.glob("*/*")) == before
    assert command.run("snapshot", "copy", "first", *OTHER, "--wait") not in (snapshot, killed)


def test_a_deletion_waits_for_no_copy_and_the_copy_sweeps(
    shared: Command, s3_proxy: FaultyProxy, tmp_path: Path
) -> None:
    """Also not in the store that is copied from."""
    gate = Gate(2)
    s3_proxy.fault = gate
    snapshot = shared.run(*AWAY)
    gate.wait_until_shut()
    shared.run("snapshot", "delete", "first")
    chunks = shared.home / "stores/local/chunks"
    assert len(list(chunks.glob("*/*"))) == CHUNKS
    process = os.pidfd_open(worker_of(shared, snapshot))
    gate.open()
    shared.run("snapshot", "wait", snapshot)
    assert select.select([process], [], [], 30)[0]
    os.close(process)
    assert list(chunks.glob("*/*")) == []
    check_nothing_is_left(shared)
    check_is_what_the_volume_is(shared, tmp_path, "away")


def test_a_customer_s_key_is_only_in_the_worker_and_only_as_long_as_it_is_needed(
    shared: Command, s3_proxy: FaultyProxy, tmp_path: Path
) -> None:
    key = os.urandom(32)
    (tmp_path / "own.key").write_bytes(key)
    by_key = ("--customer-key-file", tmp_path / "own.key")
    shared.run("volume", "import", tmp_path / "image", "--name", "own", *by_key)
    shared.run("snapshot", "create", "--wait", "own", "--name", "own-1")
    gate = Gate(2)
    s3_proxy.fault = gate
    copy = ("snapshot", "copy", "own-1", *OTHER, "--store", "shared", "--name", "away")
    assert "none was given" in shared.fails(2, *copy)
    done = shared.try_run(*copy, "--source-customer-key-file", "-", stdin=key)
    assert done.returncode == 0, done.stderr
    gate.wait_until_shut()
    pid = worker_of(shared, done.stdout.strip())
    assert found_in_process(pid, {"the key": key}) == set()
    assert found_in_process(pid, {"its name": b"alias/other"}) == {"its name"}
    gate.open()
    shared.run("snapshot", "wait", "away")
    check_is_what_the_volume_is(shared, tmp_path, "away")
