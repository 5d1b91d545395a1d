"""Attached volumes: what is on them decides the sector size, partitions can be used, and nothing is
left of what failed or was killed in the middle."""

import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import Command, disposable_home, kill_and_wait
from tests.failing_programs import FailingPrograms
from tests.file_system import run
from volcrypt.volume.device_links import DEVICE_DIRECTORY
from volcrypt.volume.mountpoint import mounts

MIB = 2**20
GPT = "label: gpt\n,16M\n,24M\n"
DOS = "label: dos\n,16M\n,24M\n"
RECOVER_AT, RECOVER = 1024 + 0x60, 4
"""In the superblock of an ext4: its journal has to be replayed."""


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    with disposable_home(tmp_path / "home") as made:
        made.run("init")
        yield made


@pytest.fixture
def point(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "point"
    path.mkdir()
    yield path
    for mount in reversed(mounts()):
        if mount.mount_point.startswith(f"{tmp_path}/") and "home" not in mount.mount_point:
            subprocess.run(["umount", "--lazy", mount.mount_point], check=False)


@pytest.fixture
def name() -> str:
    """/dev/volcrypt is one for all homes of a machine."""
    return f"v{secrets.token_hex(5)}"


def sparse(path: Path, size: int) -> Path:
    path.touch()
    os.truncate(path, size)
    return path


def partitioned(path: Path, table: str = GPT, size: int = 64 * MIB) -> Path:
    image = sparse(path, size)
    subprocess.run(["sfdisk", "-q", image], input=table.encode(), check=True)
    return image


def links() -> dict[str, str]:
    if not DEVICE_DIRECTORY.exists():
        return {}
    return {link.name: os.readlink(link) for link in DEVICE_DIRECTORY.iterdir()}


def links_of(name: str) -> dict[str, str]:
    return {key: value for key, value in links().items() if key.startswith(name)}


def loops_of(command: Command) -> list[str]:
    found = []
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            backing = path.read_text()
        except OSError:
            continue
        if backing.startswith(str(command.runtime)):
            found.append(path.parts[3])
    return found


def check_nothing_is_left(command: Command, name: str) -> None:
    """Of an attached volume."""
    assert links_of(name) == {}
    assert loops_of(command) == []
    assert [m.mount_point for m in mounts() if m.mount_point.startswith(str(command.runtime))] == []
    assert command.processes() == []
    assert list(command.runtime.glob("*.mnt")) == []
    assert list(command.runtime.glob("*.sock")) == []
    assert list(command.home.glob("volumes/*/grant")) == []


@pytest.mark.parametrize(
    ("make", "size", "sector_size"),
    [
        (("mkfs.xfs", "-q", "-s", "size=512"), 320 * MIB, 512),
        (("mkfs.xfs", "-q", "-s", "size=4096"), 320 * MIB, 4096),
        (("mkfs.ext4", "-q", "-b", "1024"), 16 * MIB, 512),
        (("mkfs.ext4", "-q"), 16 * MIB, 512),
        (("mkfs.ext4", "-q", "-b", "4096"), 32 * MIB, 4096),
        (("mkfs.btrfs", "-q"), 128 * MIB, 4096),
        (("mkfs.btrfs", "-q", "--mixed", "--sectorsize", "4096"), 64 * MIB, 4096),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_file_system_from_elsewhere_decides_the_sector_size(
    command: Command,
    tmp_path: Path,
    point: Path,
    name: str,
    make: tuple[str, ...],
    size: int,
    sector_size: int,
) -> None:
    image = sparse(tmp_path / "image", size)
    run(*make, image)
    command.run("volume", "import", image, "--name", name)
    attached = command.json("attach", name, "--mount", point)
    assert attached["SectorSize"] == sector_size
    assert int(run("blockdev", "--getss", attached["Loop"])) == sector_size
    content = os.urandom(MIB)
    (point / "file").write_bytes(content)
    command.run("detach", name)
    assert not point.is_mount()
    command.run("attach", name, "--mount", point, "--read-only")
    assert (point / "file").read_bytes() == content
    command.run("detach", name)
    check_nothing_is_left(command, name)


@pytest.mark.parametrize(("kind", "size"), [("ext4", 32), ("xfs", 320), ("btrfs", 128)])
def test_what_volcrypt_formats_has_large_sectors(
    command: Command, point: Path, name: str, kind: str, size: int
) -> None:
    command.run("volume", "create", "--size", f"{size}MiB", "--name", name)
    attached = command.json("attach", name, "--mkfs", kind, "--mount", point)
    assert attached["SectorSize"] == 4096
    assert [m.fs_type for m in mounts() if m.mount_point == str(point)] == [kind]
    (point / "file").write_text("kept")
    command.run("detach", name)
    assert command.json("attach", name, "--mount", point)["SectorSize"] in (512, 4096)
    assert (point / "file").read_text() == "kept"
    command.run("detach", name)


def test_what_helps_a_file_system_that_is_not_mounted(
    command: Command, tmp_path: Path, point: Path, name: str
) -> None:
    command.run("volume", "create", "--size", "16MiB", "--name", name)
    said = command.fails(1, "attach", name, "--mount", point)
    assert f"hint: the volume is empty: make a file system with 'volcrypt attach {name}" in said
    command.run("volume", "delete", name)
    image = sparse(tmp_path / "image", 16 * MIB)
    run("mkfs.ext4", "-q", "-O", "^metadata_csum", image)
    with image.open("r+b") as file:
        file.seek(RECOVER_AT)
        features = file.read(1)[0]
        file.seek(RECOVER_AT)
        file.write(bytes([features | RECOVER]))
    command.run("volume", "import", image, "--name", name)
    said = command.fails(1, "attach", name, "--mount", point, "--read-only")
    assert "attach it once without --read-only" in said
    command.run("attach", name, "--mount", point)
    command.run("detach", name)
    command.run("attach", name, "--mount", point, "--read-only")
    command.run("detach", name)
    check_nothing_is_left(command, name)


@pytest.mark.parametrize("table", [GPT, DOS], ids=["gpt", "dos"])
def test_the_partitions_of_an_image_can_be_used(
    command: Command, tmp_path: Path, point: Path, name: str, table: str
) -> None:
    """Also where the kernel was built without the code for such tables, as on this machine."""
    image = partitioned(tmp_path / "image", table)
    command.run("volume", "import", image, "--name", name)
    said = command.fails(2, "attach", name, "--mount", point)
    assert f"mount one of its partitions, /dev/volcrypt/{name}-part1" in said
    check_nothing_is_left(command, name)
    attached = command.json("attach", name)
    assert attached["SectorSize"] == 512
    assert attached["Partitions"] == [f"/dev/volcrypt/{name}-part{n}" for n in (1, 2)]
    loop = attached["Loop"]
    assert links_of(name) == {
        name: loop,
        f"{name}-part1": f"{loop}p1",
        f"{name}-part2": f"{loop}p2",
    }
    sizes = [int(run("blockdev", "--getsize64", device)) for device in attached["Partitions"]]
    assert sizes == [16 * MIB, 24 * MIB]
    (point / "nested").mkdir()
    contents = {}
    for number, directory in ((1, point), (2, point / "nested")):
        device = f"/dev/volcrypt/{name}-part{number}"
        run("mkfs.ext4", "-q", device)
        run("mount", device, directory)
        (point / "nested").mkdir(exist_ok=True)
        contents[number] = os.urandom(MIB)
        (directory / "file").write_bytes(contents[number])
    with open(point / "file", "rb"):
        said = command.fails(4, "detach", name)
        assert f"(pid {os.getpid()})" in said
        assert f"on {point}" in said
        # Nothing was taken down for nothing.
        assert (point / "nested").is_mount()
        assert len(links_of(name)) == 3
    command.run("detach", name)
    assert not (point / "nested").is_mount()
    assert not point.is_mount()
    check_nothing_is_left(command, name)
    command.run("attach", name, "--read-only")
    for number in (1, 2):
        run("mount", "-o", "ro", f"/dev/volcrypt/{name}-part{number}", point)
        assert (point / "file").read_bytes() == contents[number]
        run("umount", point)
    command.run("detach", name)


def test_a_table_made_on_an_empty_volume(
    command: Command, tmp_path: Path, point: Path, name: str
) -> None:
    """On the large sectors of an empty volume; it is found on them again."""
    command.run("volume", "create", "--size", "64MiB", "--name", name)
    attached = command.json("attach", name)
    assert (attached["SectorSize"], attached["Partitions"]) == (4096, [])
    subprocess.run(
        ["sfdisk", "-q", "--no-reread", "--no-tell-kernel", attached["Loop"]],
        input=GPT.encode(),
        check=True,
    )
    command.run("detach", name)
    attached = command.json("attach", name)
    assert (attached["SectorSize"], len(attached["Partitions"])) == (4096, 2)
    command.run("detach", name)
    check_nothing_is_left(command, name)


def test_a_damaged_table_hinders_nobody(command: Command, tmp_path: Path, name: str) -> None:
    image = partitioned(tmp_path / "image")
    with image.open("r+b") as file:
        file.seek(512 + 16)
        file.write(b"\xff" * 4)
        file.seek(64 * MIB - 512)
        file.write(bytes(512))
    command.run("volume", "import", image, "--name", name)
    command.json("attach", name)
    command.run("detach", name)
    check_nothing_is_left(command, name)


def test_names_of_partitions_and_of_volumes(command: Command, tmp_path: Path, name: str) -> None:
    """A volume may be called as a partition of another is."""
    command.run("volume", "import", partitioned(tmp_path / "image"), "--name", name)
    other = f"{name}-part1"
    command.run("volume", "create", "--size", "1MiB", "--name", other)
    command.run("attach", other)
    before = links_of(name)
    assert "in use by another volume" in command.fails(4, "attach", name)
    assert links_of(name) == before
    command.run("detach", other)
    command.run("attach", name)
    before = links_of(name)
    assert "in use by another volume" in command.fails(4, "attach", other)
    assert links_of(name) == before
    command.run("detach", name)
    check_nothing_is_left(command, name)


@pytest.mark.parametrize("verb", ["attach", "detach"])
def test_after_a_kill_under_mounted_partitions(
    command: Command, tmp_path: Path, point: Path, name: str, verb: str
) -> None:
    command.run("volume", "import", partitioned(tmp_path / "image"), "--name", name)
    attached = command.json("attach", name)
    first = f"{attached['Loop']}p1"
    run("mkfs.ext4", "-q", first)
    run("mount", first, point)
    with open(point / "file", "w") as file:
        file.write("synced")
        file.flush()
        os.fsync(file.fileno())
    kill_and_wait(attached["Pid"])
    # The file system that lost its disk is somebody's, and is not taken away by an attach.
    assert f"mounted at {point}" in command.fails(4, "attach", name)
    if verb == "attach":
        subprocess.run(["umount", point], check=False, capture_output=True)
    else:
        command.try_run("detach", name)
        check_nothing_is_left(command, name)
    assert not point.is_mount()
    again = command.json("attach", name)
    assert links_of(name)[f"{name}-part1"] == f"{again['Loop']}p1"
    run("mount", f"{again['Loop']}p1", point)
    assert (point / "file").read_text() == "synced"
    command.run("detach", name)
    check_nothing_is_left(command, name)


def test_a_link_never_leads_to_a_device_of_somebody_else_for_long(
    command: Command, tmp_path: Path, name: str
) -> None:
    """After a kill somebody frees the loop device by hand, and its number is given away."""
    command.run("volume", "import", partitioned(tmp_path / "image"), "--name", name)
    command.run("volume", "create", "--size", "1MiB", "--name", f"{name}.other")
    attached = command.json("attach", name)
    loop = attached["Loop"]
    kill_and_wait(attached["Pid"])
    run("losetup", "--detach", loop)
    elsewhere = sparse(tmp_path / "elsewhere", MIB)
    run("losetup", loop, elsewhere)
    try:
        assert links_of(name)[name] == loop
        assert command.json("status")["InUse"] == []
        command.run("attach", f"{name}.other")
        assert list(links_of(name)) == [f"{name}.other"]
        command.run("detach", f"{name}.other")
        again = command.json("attach", name)
        assert again["Loop"] != loop
        kill_and_wait(again["Pid"])
        run("losetup", "--detach", again["Loop"])
        run("losetup", again["Loop"], sparse(tmp_path / "another", MIB))
        try:
            command.run("detach", name)
            assert links_of(name) == {}
        finally:
            run("losetup", "--detach", again["Loop"])
    finally:
        run("losetup", "--detach", loop)
    check_nothing_is_left(command, name)


PROGRAMS = ("losetup", "blkid", "partx", "mkfs.ext4", "mount", "umount")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FailingPrograms:
    made = FailingPrograms(tmp_path / "programs", *PROGRAMS)
    monkeypatch.setenv("PATH", made.search_path)
    return made


def test_nothing_is_left_of_an_attach_that_failed(
    command: Command, programs: FailingPrograms, point: Path, name: str
) -> None:
    """At each program that it runs."""
    command.run("volume", "create", "--size", "16MiB", "--name", name)
    attach = ("attach", name, "--mkfs", "ext4", "--mount", str(point))
    programs.work()
    command.run(*attach)
    calls = programs.calls
    assert {"losetup", "mkfs.ext4", "mount"} <= set(calls)
    command.run("detach", name)
    command.run("volume", "delete", name)
    for number, program in enumerate(calls, start=1):
        command.run("volume", "create", "--size", "16MiB", "--name", name)
        programs.fail(number)
        done = command.try_run(*attach)
        programs.work()
        if program == "blkid":
            assert done.returncode == 0  # a table that cannot be looked for is none
            command.run("detach", name)
        else:
            assert done.returncode == 1, (program, done.stderr)
            assert "told to fail" in done.stderr
        check_nothing_is_left(command, name)
        assert not point.is_mount()
        command.run("volume", "delete", name)


def test_an_attach_that_was_killed_can_be_detached(
    command: Command, programs: FailingPrograms, tmp_path: Path, point: Path, name: str
) -> None:
    image = partitioned(tmp_path / "image")
    command.run("volume", "import", image, "--name", name)
    programs.work()
    command.run("attach", name)
    calls = programs.calls
    assert "partx" in calls or Path("/sys/block/loop0").exists()
    command.run("detach", name)
    for number, _program in enumerate(calls, start=1):
        programs.fail(number, kill=True)
        killed = command.try_run("attach", name)
        assert killed.returncode == -9
        programs.work()
        assert f"volcrypt detach {name}" in command.fails(4, "attach", name)
        command.run("detach", name)
        check_nothing_is_left(command, name)
        command.run("attach", name)
        command.run("detach", name)


@pytest.mark.parametrize("kill", [False, True], ids=["fails", "is killed"])
def test_a_detach_that_did_not_come_to_its_end_is_finished_by_the_next(
    command: Command,
    programs: FailingPrograms,
    tmp_path: Path,
    point: Path,
    name: str,
    kill: bool,
) -> None:
    image = partitioned(tmp_path / "image")
    command.run("volume", "import", image, "--name", name)

    def attach() -> None:
        loop = command.json("attach", name)["Loop"]
        run("mkfs.ext4", "-q", f"{loop}p1")
        run("mount", f"{loop}p1", point)
        (point / "file").write_text("kept")

    attach()
    programs.work()
    command.run("detach", name)
    calls = programs.calls
    assert calls == ["umount", "losetup"]
    for number in range(1, len(calls) + 1):
        attach()
        programs.fail(number, kill=kill)
        done = command.try_run("detach", name)
        assert done.returncode == (-9 if kill else (4, 1)[number - 1]), done.stderr
        programs.work()
        assert command.json("status")["InUse"][0]["Name"] == name
        command.run("detach", name)
        check_nothing_is_left(command, name)
        assert not point.is_mount()
    loop = command.json("attach", name)["Loop"]
    run("mount", f"{loop}p1", point)
    assert (point / "file").read_text() == "kept"
    command.run("detach", name)


@pytest.mark.parametrize("call", ["mkdir", "symlink"])
def test_nothing_is_left_when_a_system_call_fails(
    command: Command, tmp_path: Path, name: str, call: str
) -> None:
    """At each of them that the command makes, until it makes none."""
    command.run("volume", "import", partitioned(tmp_path / "image"), "--name", name)
    failed = 0
    for number in range(1, 100):
        prefix = ("strace", "-o", "/dev/null", "-e", f"trace={call}")
        inject = ("-e", f"inject={call}:error=EIO:when={number}")
        done = Command(command.home).try_run("attach", name, prefix=(*prefix, *inject))
        if done.returncode == 0:
            command.run("detach", name)
            break
        failed += 1
        assert "Traceback" not in done.stderr
        check_nothing_is_left(command, name)
    else:
        raise AssertionError("it never succeeded")
    assert failed or call == "mkdir"
    check_nothing_is_left(command, name)
