"""Snapshots that go on when their command has ended, as a user sees them.

At `SLOW` the first chunk is read at once and the second minutes later: what is to be seen while
data moves can be looked at for as long as it takes.
"""

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import VOLCRYPT, Command, disposable_home
from tests.listed import log_of_the_local_store_held, rows

CHUNK = 512 * 1024
CHUNKS = 8
SIZE = CHUNKS * CHUNK
SLOW = ("--rate", "1KiB")


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    """A home with the volume `data`, full of random bytes."""
    with disposable_home(tmp_path / "home") as made:
        made.run("init")
        (tmp_path / "image").write_bytes(os.urandom(SIZE))
        made.run("volume", "import", tmp_path / "image", "--name", "data")
        yield made


@pytest.fixture
def point(command: Command, tmp_path: Path) -> Path:
    """The volume `data`, mounted."""
    (tmp_path / "point").mkdir()
    command.run("mount", "data", tmp_path / "point")
    return tmp_path / "point"


def write(point: Path, offset: int, length: int = 4096) -> None:
    with open(point / "volume", "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), os.urandom(length), offset)
        os.fsync(file.fileno())


def chunk_objects(command: Command) -> int:
    return len(list((command.home / "stores/local/chunks").glob("*/*")))


def worker_of(command: Command, snapshot: str) -> int:
    pending = command.json("status")["PendingSnapshots"]
    (pid,) = [row["Pid"] for row in pending if row["SnapshotId"] == snapshot]
    assert isinstance(pid, int)
    return pid


def check_is_what_the_volume_is(command: Command, tmp_path: Path, snapshot: str) -> None:
    """The volume is free, and nothing was written to it since."""
    volume = command.run("volume", "create", "--snapshot-id", snapshot)
    images = []
    for each in (volume, "data"):
        target = tmp_path / "exported"
        command.run("volume", "export", "--yes", each, target)
        images.append(target.read_bytes())
        target.unlink()
    command.run("volume", "delete", volume)
    assert images[0] == images[1]
    assert command.json("snapshot", "verify")["Damages"] == []


def test_the_command_returns_while_the_data_still_moves(
    command: Command, point: Path, tmp_path: Path
) -> None:
    begun = command.json("snapshot", "create", "data", "--name", "first", *SLOW)
    snapshot = begun["SnapshotId"]
    expected = {
        "State": "pending",
        "Progress": "0%",
        "Name": "first",
        "VolumeSize": SIZE,
        "Encrypted": True,
        "StoreName": "local",
        "SnapshotSet": [],
        "BytesPerSecondLimit": 1024,
        "Consistency": "crash-consistent",
    }
    assert expected.items() <= begun.items()
    assert begun["BarrierMicroseconds"] > 0
    assert begun["StartTime"].startswith("20")
    assert chunk_objects(command) < CHUNKS

    row = rows(command)[snapshot]
    assert (row["State"], row["Name"], row["VolumeId"]) == ("pending", "first", begun["VolumeId"])
    assert int(row["Progress"].rstrip("%")) < 100
    assert command.json("snapshot", "show", "first")["State"] == "pending"
    pending = command.json("status")["PendingSnapshots"]
    assert [(each["SnapshotId"], each["VolumeId"]) for each in pending] == [
        (snapshot, begun["VolumeId"])
    ]
    for shown in (["status"], ["snapshot", "list"], ["snapshot", "show", snapshot]):
        assert snapshot in command.run(*shown)

    # Whoever needs it completed is told to come again, by name and by id, and how.
    for needs in (
        ["snapshot", "copy", "first"],
        ["volume", "create", "--snapshot-id", snapshot],
        ["snapshot", "verify", snapshot],
        ["snapshot", "verify", "first"],
    ):
        assert f"hint: volcrypt snapshot wait {snapshot}" in command.fails(7, *needs)
    assert "still being made" in command.fails(7, "snapshot", "wait", "first", "--timeout", "0")
    # Its name, its volume and the process that serves that are needed.
    command.run("volume", "create", "--size", "4096", "--name", "other")
    assert "named first" in command.fails(4, "snapshot", "create", "other", "--name", "first")
    assert f"wait {snapshot}" in command.fails(7, "snapshot", "create", "data")
    assert f"wait {snapshot}" in command.fails(7, "unmount", "data")

    process = os.pidfd_open(worker_of(command, snapshot))
    command.run("snapshot", "delete", "first")
    assert rows(command) == {}
    assert select.select([process], [], [], 30)[0]
    os.close(process)
    assert list((command.home / "jobs").glob("*snap*")) == []
    assert list(command.runtime.glob("*snap*")) == []
    command.fails(3, "snapshot", "wait", snapshot)
    # The changes went back into the map, the chunks that were stored are gone.
    assert chunk_objects(command) == 0
    made = command.json("snapshot", "create", "--wait", "data", "--name", "first")
    assert made["StoredChunks"] == CHUNKS
    command.run("unmount", "data")
    check_is_what_the_volume_is(command, tmp_path, "first")


def test_pending_becomes_completed(command: Command, point: Path, tmp_path: Path) -> None:
    command.run("snapshot", "create", "--wait", "data", "--name", "first")
    write(point, 3 * CHUNK)
    with log_of_the_local_store_held(command):
        snapshot = command.run("snapshot", "create", "data", "--name", "second")
        assert rows(command)[snapshot]["State"] == "pending"
        waiting = command.start("snapshot", "wait", snapshot)
        assert waiting.wait_for(0.5) is None
    assert waiting.wait_for(60) == 0
    made = command.json("snapshot", "wait", "second")
    assert (made["State"], made["Progress"], made["StoredChunks"]) == ("completed", "100%", 1)
    assert rows(command)[snapshot] == made
    assert list(command.runtime.glob("*snap*")) == []
    command.run("unmount", "data")
    check_is_what_the_volume_is(command, tmp_path, "second")


def test_a_volume_that_is_not_in_use_cannot_be_used_meanwhile(
    command: Command, tmp_path: Path
) -> None:
    snapshot = command.run("snapshot", "create", "data", *SLOW)
    (tmp_path / "point").mkdir()
    said = command.fails(4, "mount", "data", tmp_path / "point")
    assert f"hint: volcrypt snapshot wait {snapshot}" in said
    command.run("snapshot", "delete", snapshot)
    command.run("mount", "data", tmp_path / "point")
    command.run("unmount", "data")
    made = command.json("snapshot", "create", "--wait", "data")
    assert made["StoredChunks"] == CHUNKS
    check_is_what_the_volume_is(command, tmp_path, made["SnapshotId"])


@pytest.mark.parametrize("is_mounted", [True, False])
def test_a_killed_worker_leaves_an_error_and_no_change_is_lost(
    command: Command, tmp_path: Path, is_mounted: bool
) -> None:
    (tmp_path / "point").mkdir()
    command.run("mount", "data", tmp_path / "point")
    command.run("snapshot", "create", "--wait", "data", "--name", "first")
    for index in (1, 4, 6):
        write(tmp_path / "point", index * CHUNK)
    if not is_mounted:
        command.run("unmount", "data")
    snapshot = command.run("snapshot", "create", "data", "--name", "second", *SLOW)
    waiting = command.start("snapshot", "wait", snapshot)
    command.kill_workers()
    assert waiting.wait_for(60) == 1
    assert "was not completed: its process was killed" in command.fails(
        1, "snapshot", "wait", "second"
    )
    row = rows(command)[snapshot]
    assert (row["State"], row["StateReason"]) == ("error", "its process was killed")
    assert "its process was killed" in command.run("status")
    assert "was not completed" in command.fails(1, "snapshot", "copy", snapshot)
    # The name is free, and the next snapshot has everything.
    made = command.json("snapshot", "create", "--wait", "data", "--name", "second")
    assert made["StoredChunks"] <= 3
    assert made["ParentSnapshotId"] is not None
    assert command.json("snapshot", "show", "second")["SnapshotId"] == made["SnapshotId"]
    complaint = command.fails(2, "snapshot", "delete", "second")
    assert "two snapshots are named second" in complaint
    assert snapshot in complaint
    command.run("snapshot", "delete", snapshot)
    assert set(rows(command)) == {made["SnapshotId"], made["ParentSnapshotId"]}
    if is_mounted:
        command.run("unmount", "data")
    check_is_what_the_volume_is(command, tmp_path, "second")


def test_a_host_that_goes_down_leaves_an_error(command: Command) -> None:
    snapshot = command.run("snapshot", "create", "data", *SLOW)
    command.kill_processes()
    job = command.home / "jobs" / snapshot
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    job.write_text(job.read_text().replace(boot_id, "11111111-2222-3333-4444-555555555555"))
    command.forget_runtime()
    assert "the host went down" in command.fails(1, "snapshot", "wait", snapshot)
    command.run("snapshot", "create", "--wait", "data")
    command.run("snapshot", "delete", snapshot)
    assert len(rows(command)) == 1


def test_snapshots_of_two_volumes_are_made_beside_each_other(
    command: Command, tmp_path: Path
) -> None:
    command.run("volume", "import", tmp_path / "image", "--name", "other")
    slow = command.run("snapshot", "create", "data", *SLOW)
    quick = command.json("snapshot", "create", "--wait", "other")
    assert quick["State"] == "completed"
    assert rows(command)[slow]["State"] == "pending"
    # A deletion does not wait for the slow one, whose end makes up for the sweep.
    before = chunk_objects(command)
    command.run("snapshot", "delete", quick["SnapshotId"])
    assert chunk_objects(command) == before
    command.run("snapshot", "delete", slow)
    assert chunk_objects(command) == 0


def test_a_put_off_sweep_is_made_up_for(command: Command, point: Path, tmp_path: Path) -> None:
    old = command.run("snapshot", "create", "--wait", "data")
    write(point, 0, SIZE)
    with log_of_the_local_store_held(command):
        new = command.run("snapshot", "create", "data")
        deleting = command.start("snapshot", "delete", old)
        assert deleting.wait_for(0.3) is None  # it needs the log, too
    assert deleting.wait_for(60) == 0
    command.run("snapshot", "wait", new)
    while command.workers():
        time.sleep(0.02)
    assert chunk_objects(command) == CHUNKS
    assert list((command.home / "stores").glob("*.unswept")) == []


def test_a_set_is_of_one_moment_and_named_after_its_volumes(
    command: Command, point: Path, tmp_path: Path
) -> None:
    command.run("volume", "import", tmp_path / "image", "--name", "other")
    begun = command.json("snapshot", "create", "data", "other", "--name", "both", *SLOW)
    ids = [each["SnapshotId"] for each in begun["Snapshots"]]
    assert [each["Name"] for each in begun["Snapshots"]] == ["both-data", "both-other"]
    assert all(each["SnapshotSet"] == ids for each in begun["Snapshots"])
    assert begun["Snapshots"][0]["StartTime"] == begun["Snapshots"][1]["StartTime"]
    assert {rows(command)[each]["State"] for each in ids} == {"pending"}
    # One that is stopped, or fails, ends all.
    command.run("snapshot", "delete", ids[0])
    assert rows(command)[ids[1]]["StateReason"] == "it was stopped"
    command.run("snapshot", "delete", "both-other")
    assert rows(command) == {}

    printed = command.run("snapshot", "create", "data", "other", "--name", "both").split()
    done = command.json("snapshot", "wait", *printed)["Snapshots"]
    assert [each["SnapshotId"] for each in done] == printed
    waited = command.json("snapshot", "create", "--wait", "data", "other")["Snapshots"]
    assert [each["StoredChunks"] for each in waited] == [0, 0]
    for wrong in (["data", "data"], ["data", "none"]):
        assert command.try_run("snapshot", "create", *wrong).returncode in (2, 3)
    assert len(rows(command)) == 4
    command.run("unmount", "data")
    check_is_what_the_volume_is(command, tmp_path, "both-data")


def test_a_set_of_which_one_cannot_be_made_is_not_made(command: Command, tmp_path: Path) -> None:
    command.run("volume", "import", tmp_path / "image", "--name", "other")
    slow = command.run("snapshot", "create", "other", *SLOW)
    command.fails(7, "snapshot", "create", "data", "other")
    command.fails(7, "snapshot", "create", "--wait", "data", "other")
    assert set(rows(command)) == {slow}
    command.run("snapshot", "delete", slow)
    # The second is missing in the middle of it: data that cannot be read.
    (volume,) = [v for v in command.json("volume", "list")["Volumes"] if v["Name"] == "other"]
    data = command.home / "volumes" / volume["VolumeId"] / "data"
    data.rename(data.with_name("away"))
    assert command.try_run("snapshot", "create", "data", "other").returncode != 0
    assert rows(command) == {}
    assert command.json("status")["InUse"] == []


def test_errors_before_it_begins_are_those_of_the_command(command: Command) -> None:
    command.fails(3, "snapshot", "create", "none")
    command.fails(3, "snapshot", "create", "data", "--store", "none")
    command.fails(2, "snapshot", "create", "data", "--name", "snap-me")
    command.fails(2, "snapshot", "create", "data", "--rate", "0")
    command.fails(2, "snapshot", "create", "data", "--rate", "fast")
    command.fails(3, "snapshot", "wait", "none")
    command.fails(3, "snapshot", "wait", "snap-0123456789abcdef0")
    assert rows(command) == {}
    assert list((command.home / "jobs").glob("*snap*")) == []


def test_it_outlives_the_terminal_that_it_was_begun_at(command: Command, point: Path) -> None:
    command.run("snapshot", "create", "--wait", "data")
    write(point, 0)
    with log_of_the_local_store_held(command):
        child, terminal = pty.fork()
        if child == 0:
            os.execv(
                VOLCRYPT, ["volcrypt", "--home", str(command.home), "snapshot", "create", "data"]
            )
        shown = b""
        while select.select([terminal], [], [], 60)[0]:
            try:
                shown += os.read(terminal, 1000)
            except OSError:
                break  # everybody has left it
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        os.close(terminal)
        snapshot = shown.decode().partition("snapshot")[2].split()[0]
        assert b"pending" in shown
        assert rows(command)[snapshot]["State"] == "pending"
    assert command.json("snapshot", "wait", snapshot)["State"] == "completed"


def test_who_waits_at_a_terminal_sees_a_bar(command: Command) -> None:
    def at_a_terminal(*arguments: str) -> str:
        line = " ".join([str(VOLCRYPT), "--home", str(command.home), *arguments])
        done = subprocess.run(
            ["script", "--quiet", "--return", "--command", line, "/dev/null"],
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "120"},
        )
        return done.stdout

    shown = at_a_terminal("snapshot", "create", "data", "--wait")
    assert "storing snap-" in shown
    assert "━" in shown
    assert " 4 MiB" in shown
    assert "newly stored" in shown


def test_a_full_disk_fails_the_snapshot_and_says_so(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", small], check=True)
    try:
        with disposable_home(small / "home") as command:
            command.run("init")
            (tmp_path / "image").write_bytes(os.urandom(2 * SIZE))
            command.run("volume", "import", tmp_path / "image", "--name", "data")
            begun = command.run("snapshot", "create", "data", "--rate", "1MiB")
            space = os.statvfs(small)
            (small / "ballast").write_bytes(bytes(space.f_bavail * space.f_frsize - 2**20))
            assert "pace" in command.fails(1, "snapshot", "wait", begun)
            row = rows(command)[begun]
            assert row["State"] == "error"
            assert "space" in row["StateReason"]
            (small / "ballast").unlink()
            command.run("snapshot", "delete", begun)
            made = command.json("snapshot", "create", "--wait", "data")
            assert made["StoredChunks"] == 2 * CHUNKS
            assert set(rows(command)) == {made["SnapshotId"]}
    finally:
        subprocess.run(["umount", small], check=True)


def test_the_home_can_be_served_while_a_snapshot_is_made(command: Command) -> None:
    """The process does not keep the token open while it only moves data."""
    snapshot = command.run("snapshot", "create", "data", *SLOW)
    served = subprocess.Popen(
        [VOLCRYPT, "--home", command.home, "kms", "serve"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert served.stdout is not None
        assert select.select([served.stdout], [], [], 20)[0]
        assert rows(command)[snapshot]["State"] == "pending"
        command.run("snapshot", "delete", snapshot)
        begun = command.run("snapshot", "create", "data")
        command.run("snapshot", "wait", begun)
    finally:
        served.send_signal(signal.SIGTERM)
        served.communicate()
    assert rows(command)[begun]["State"] == "completed"


def test_it_needs_little_memory_however_large_the_volume_is(
    command: Command, tmp_path: Path
) -> None:
    command.run("volume", "create", "--size", "1TiB", "--name", "large", "--unencrypted")
    (tmp_path / "point").mkdir()
    command.run("mount", "large", tmp_path / "point")
    for index in range(3):
        write(tmp_path / "point", index * 2**38)
    snapshot = command.run("snapshot", "create", "large", *SLOW)
    pid = worker_of(command, snapshot)
    while command.json("snapshot", "show", snapshot)["Progress"] == "0%":
        time.sleep(0.1)
    peak = Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0]
    assert int(peak) * 1024 < 150 * 2**20
    command.run("snapshot", "delete", snapshot)
    command.run("unmount", "large")


def test_a_snapshot_is_given_up_when_the_volume_is_closed(
    command: Command, point: Path, tmp_path: Path
) -> None:
    snapshot = command.run("snapshot", "create", "data", *SLOW)
    command.fails(7, "unmount", "data")
    command.run("unmount", "data", "--stop-snapshot")
    assert rows(command)[snapshot]["StateReason"] == "it was stopped"
    command.run("volume", "create", "--size", "16MiB", "--name", "disk")
    (tmp_path / "fs").mkdir()
    command.run("attach", "disk", "--mkfs", "ext4", "--mount", tmp_path / "fs")
    other = command.run("snapshot", "create", "disk", *SLOW)
    assert f"wait {other}" in command.fails(7, "detach", "disk")
    assert os.path.ismount(tmp_path / "fs")  # nothing was taken down
    command.run("detach", "disk", "--stop-snapshot")
    assert rows(command)[other]["State"] == "error"


def test_a_frozen_file_system_needs_no_journal(command: Command, tmp_path: Path) -> None:
    command.run("volume", "create", "--size", "32MiB", "--name", "disk")
    mounted = tmp_path / "fs"
    mounted.mkdir()
    command.run("attach", "disk", "--mkfs", "ext4", "--mount", mounted)
    (mounted / "before").write_bytes(os.urandom(100_000))
    still = command.json("snapshot", "create", "disk", "--freeze", mounted, "--wait")
    assert still["Consistency"] == "file-system-consistent"
    (mounted / "after").write_bytes(b"it is thawed")
    os.sync()
    begun = command.json("snapshot", "create", "disk", "data", "--freeze", mounted)
    assert [each["Consistency"] for each in begun["Snapshots"]] == [
        "file-system-consistent",
        "crash-consistent",
    ]
    command.run("snapshot", "wait", *[each["SnapshotId"] for each in begun["Snapshots"]])
    plain = command.json("snapshot", "create", "disk", "--wait")
    assert plain["Consistency"] == "crash-consistent"

    for directory, says in (
        (tmp_path, "the home lies on the file system"),
        ("/proc", "not on a volume"),
        (mounted / "before", "is not a directory"),
    ):
        assert says in command.fails(2, "snapshot", "create", "disk", "--freeze", directory)
    said = command.fails(2, "snapshot", "create", "data", "--freeze", mounted)
    assert "not on a volume that the snapshot is of" in said
    assert all(row["State"] == "completed" for row in rows(command).values())
    command.run("detach", "disk")

    def features(snapshot: str) -> str:
        command.run("snapshot", "export", "--yes", snapshot, tmp_path / "image-of-it")
        shown = subprocess.run(
            ["dumpe2fs", "-h", tmp_path / "image-of-it"], check=True, capture_output=True, text=True
        ).stdout
        (tmp_path / "image-of-it").unlink()
        return shown.partition("Filesystem features:")[2].splitlines()[0]

    assert "needs_recovery" not in features(still["SnapshotId"])
    assert "needs_recovery" in features(plain["SnapshotId"])


def test_a_second_file_system_of_the_volume_has_to_be_frozen_too(
    command: Command, tmp_path: Path
) -> None:
    """One half of a volume that is still says nothing about the other."""
    command.run("volume", "create", "--size", "64MiB", "--name", "disk")
    command.run("attach", "disk")
    device = Path("/dev/volcrypt/disk").resolve()
    halves = [tmp_path / "one", tmp_path / "two"]
    inner = []
    try:
        for number, half in enumerate(halves):
            half.mkdir()
            made = subprocess.run(
                [
                    "losetup",
                    "--find",
                    "--show",
                    f"--offset={number * 2**25}",
                    f"--sizelimit={2**25}",
                    device,
                ],
                check=True,
                capture_output=True,
                text=True,
            ).stdout.strip()
            inner.append(made)
            subprocess.run(["mkfs.ext4", "-q", made], check=True)
            subprocess.run(["mount", made, half], check=True)
        said = command.fails(2, "snapshot", "create", "disk", "--freeze", halves[0])
        assert f"hint: add --freeze {halves[1]}" in said
        both = command.json(
            "snapshot", "create", "disk", "--freeze", halves[0], "--freeze", halves[1], "--wait"
        )
        assert both["Consistency"] == "file-system-consistent"
    finally:
        for half in halves:
            subprocess.run(["umount", half], check=False)
        for made in inner:
            subprocess.run(["losetup", "--detach", made], check=False)
    command.run("detach", "disk")


def test_a_pin_is_asked_for_once_and_before_the_command_returns(tmp_path: Path) -> None:
    pin = "a pin that is typed"
    (tmp_path / "pin").write_text(pin)
    with disposable_home(tmp_path / "home") as command:
        command.run("init", "--pin-file", tmp_path / "pin")

        def typing(*arguments: str) -> str:
            child, terminal = pty.fork()
            if child == 0:
                os.execv(VOLCRYPT, ["volcrypt", "--home", str(command.home), *arguments])
            shown = ""
            while select.select([terminal], [], [], 60)[0]:
                try:
                    shown += os.read(terminal, 1000).decode()
                except OSError:
                    break
                if shown.endswith("PIN of the token: "):
                    os.write(terminal, pin.encode() + b"\n")
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, shown
            os.close(terminal)
            assert shown.count("PIN of the token") == 1
            return shown

        typing("volume", "create", "--size", "4MiB", "--name", "data", "--unencrypted")
        shown = typing("snapshot", "create", "data", "--name", "first")
        assert "pending" in shown
        assert "is completed" in typing("snapshot", "wait", "first")
        # The default key is another than none, so there is data to move.
        assert "pending" in typing("snapshot", "copy", "first", "--name", "copied")
        assert "is completed" in typing("snapshot", "wait", "copied")
