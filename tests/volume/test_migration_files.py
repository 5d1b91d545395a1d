"""The files of a migration: killed before each call that changes something, and gone on with."""

import errno
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.kills import CALLS
from tests.file_system import DisposableFileSystem
from tests.syncs import recorded_syncs
from volcrypt.errors import FormatError, IntegrityError, RecordMissingError
from volcrypt.formats.write_intents import IntentsHeader
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.names import VolumeId
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.migration_files import (
    Destroyed,
    destroy_old,
    finish_rename,
    make_files,
    remove_files,
    void_intents,
)
from volcrypt.volume.write_intents import WriteIntents

SIZE = 2 * CHUNK_BYTES
HEADER = IntentsHeader(
    volume_id=VolumeId("vol-0123456789abcdef0"),
    size_bytes=SIZE,
    region_bytes=CHUNK_BYTES,
    migration=bytes(16),
)
SOURCE, TARGET = b"in the clear" * 5000, b"encrypted" * 5000


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    place = tmp_path / "volume"
    place.mkdir()
    begin(place)
    return place


def begin(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()
    with DataFile.create(directory / "data", SIZE) as data:
        data.write(0, SOURCE)
        data.sync()
    make_files(directory, HEADER)
    with DataFile.open(directory / "data.next", SIZE) as data:
        data.write(0, TARGET)
        data.sync()


def content(directory: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes().rstrip(b"\0")
        for path in directory.iterdir()
        if path.name != "intents"
    }


def test_they_are_new_and_clear(directory: Path) -> None:
    """Whatever lay there before: who has that open does not meet who has the new ones."""
    with (directory / "data.next").open("rb") as before:
        make_files(directory, HEADER)
        assert before.read().rstrip(b"\0") == TARGET
    assert content(directory) == {"data": SOURCE, "data.next": b""}
    with DataFile.open(directory / "intents", HEADER.file_bytes) as file:
        assert WriteIntents.open(file, HEADER).set_regions() == []
    void_intents(directory)
    void_intents(directory)
    assert content(directory) == {"data": SOURCE, "data.next": b""}
    assert not (directory / "intents").exists()
    remove_files(directory)
    remove_files(directory)
    assert sorted(path.name for path in directory.iterdir()) == ["data"]


def test_names_change_and_the_source_is_destroyed(directory: Path) -> None:
    assert finish_rename(directory, keeps_old=True)
    assert content(directory) == {"data": TARGET, "data.old": SOURCE}
    assert not finish_rename(directory, keeps_old=True)
    with (directory / "data.old").open("rb") as old:
        seen: list[int] = []
        destroyed = destroy_old(directory, progress=seen.append)
        assert destroyed.punched
        assert destroyed.freed_bytes >= len(SOURCE)
        assert seen == [SIZE]
        assert old.read() == bytes(SIZE)  # the content is gone, and not only its name
    assert sorted(path.name for path in directory.iterdir()) == ["data"]
    assert destroy_old(directory).freed_bytes == 0
    (directory / "data").unlink()
    with pytest.raises(RecordMissingError):
        finish_rename(directory)


def test_each_change_of_a_name_is_durable(directory: Path) -> None:
    with recorded_syncs() as synced:
        finish_rename(directory)
        assert synced == [directory] * 2
        finish_rename(directory)  # perhaps of one who was cut off before that
        assert synced == [directory] * 3
        destroy_old(directory)
        assert synced[3:] == [directory / "data.old", directory]
        void_intents(directory)
    assert synced[5:] == [directory]


def test_what_an_earlier_migration_left_is_destroyed_first(directory: Path) -> None:
    (directory / "data.old").write_bytes(b"much older" * 1000)
    with (directory / "data.old").open("rb") as older:
        assert finish_rename(directory)
        assert not older.read().strip(b"\0")
    assert content(directory) == {"data": TARGET, "data.old": SOURCE}


@pytest.mark.parametrize("make", [os.link, os.symlink])
def test_nothing_of_others_is_destroyed_by_a_name_that_leads_there(
    directory: Path, tmp_path: Path, make: Callable[[Path, Path], None]
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"of somebody else")
    make(victim, directory / "data.old")
    assert finish_rename(directory)
    assert content(directory) == {"data": TARGET, "data.old": SOURCE}
    (directory / "data.old").unlink()
    make(victim, directory / "data.old")
    with pytest.raises((IntegrityError, FormatError), match=r"hard link|not a regular file"):
        destroy_old(directory)
    assert victim.read_bytes() == b"of somebody else"


def test_a_link_to_nowhere_is_in_nobody_s_way(directory: Path) -> None:
    (directory / "data.old").symlink_to("nothing")
    assert finish_rename(directory)
    assert content(directory) == {"data": TARGET, "data.old": SOURCE}


@pytest.mark.parametrize("has_links", [True, False])
def test_data_elsewhere_has_its_files_beside_it(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "elsewhere").symlink_to("other")  # as an administrator may have it
    data = tmp_path / "elsewhere" / "disk"
    data.write_bytes(SOURCE)
    make_files(directory, HEADER, data=data)
    following, old = (data.with_name(f"disk.volume.{end}") for end in ("next", "old"))
    assert {path.name for path in data.parent.iterdir()} == {"disk", following.name}
    following.write_bytes(TARGET)
    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", rename_once(os.rename))
            with pytest.raises(PermissionError):
                finish_rename(directory, data=data)
        assert not data.exists(), "the control: it was interrupted in between"
    assert finish_rename(directory, data=data)
    assert (data.read_bytes(), old.read_bytes()) == (TARGET, SOURCE)
    assert not finish_rename(directory, data=data)
    destroy_old(directory, data=data)
    assert list(data.parent.iterdir()) == [data]
    # What lies in the volume's own directory is another's business.
    assert content(directory) == {"data": SOURCE, "data.next": TARGET}
    make_files(directory, HEADER, data=data)
    remove_files(directory, data=data)
    assert list(data.parent.iterdir()) == [data]


def refuse(*_: object, **__: object) -> None:
    raise PermissionError(errno.EPERM, "no hard links here")


def rename_once(real: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
    """The second one is refused."""
    calls: list[Path] = []

    def rename(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) > 1:
            refuse()
        real(source, target)

    return rename


@pytest.mark.parametrize("has_old_name", [False, True])
def test_a_target_that_vanished_costs_nobody_the_source(
    directory: Path, has_old_name: bool
) -> None:
    """A disk that lost it, or somebody who took it away, between the decision and the names."""
    (directory / "data.next").unlink()
    if has_old_name:
        os.link(directory / "data", directory / "data.old")
        with pytest.raises(RecordMissingError, match=r"data\.next"):
            finish_rename(directory)
        with pytest.raises(RecordMissingError, match=r"data\.next"):
            destroy_old(directory)
    with pytest.raises(RecordMissingError, match=r"data\.next"):
        finish_rename(directory, keeps_old=True)
    assert content(directory)["data"] == SOURCE


def run(directory: Path, *prefix: str) -> int:
    """All that comes after the decision, in a process of its own; its exit code."""
    program = (
        "import sys; from pathlib import Path; "
        "from volcrypt.volume.migration_files import destroy_old, finish_rename; "
        "path = Path(sys.argv[1]); finish_rename(path); destroy_old(path)"
    )
    command = [*prefix, sys.executable, "-B", "-c", program, str(directory)]
    return subprocess.run(command, check=False).returncode


def test_killed_before_every_call_it_can_be_finished(directory: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run(directory, "strace", "-f", "-o", str(log), "-e", f"trace={CALLS}") == 0
    counts = Counter(re.findall(rf"\b({CALLS.replace(',', '|')})\(", log.read_text()))
    points = [(call, number) for call in counts for number in range(1, counts[call] + 1)]
    assert counts["fsync"] == 4
    assert len(points) >= 9
    seen: set[frozenset[str]] = set()
    for call, number in points:
        begin(directory)
        kill = f"inject={call}:signal=KILL:when={number}"
        command = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e", kill]
        assert run(directory, *command) in (-9, 137)
        found = content(directory)
        seen.add(frozenset(found))
        # The source has a name until it has no content, and the target one all the time.
        assert found["data"] in (SOURCE, TARGET)
        assert TARGET in found.values()
        assert SOURCE in found.values() or found.get("data.old", b"") == b""
        finish_rename(directory)
        destroy_old(directory)
        assert content(directory) == {"data": TARGET}
        assert sorted(path.name for path in directory.iterdir()) == ["data"]
    assert seen == {
        frozenset({"data", "data.next"}),
        frozenset({"data", "data.old", "data.next"}),
        frozenset({"data", "data.old"}),
        frozenset({"data"}),
    }


STEPS: list[Callable[[Path], bool | Destroyed]] = [finish_rename, destroy_old]


@pytest.mark.parametrize("done", [1, 2])
def test_what_returned_survives_a_power_cut(file_system: DisposableFileSystem, done: int) -> None:
    place = file_system.directory / "volume"
    place.mkdir()
    begin(place)
    os.sync()
    for step in STEPS[:done]:
        step(place)
    file_system.cut_power()
    names = {1: {"data", "data.old", "intents"}, 2: {"data"}}[done]
    assert {path.name for path in place.iterdir()} == names
    assert content(place)["data"] == TARGET
    finish_rename(place)
    destroy_old(place)
    assert content(place) == {"data": TARGET}
