"""What only a store in a directory can get wrong: modes, leftovers, full disks, failed syncs."""

import errno
import mmap
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.syncs import recorded_syncs
from volcrypt.errors import MalformedError, NoSpaceError, ObjectStoreError, StoreNotFoundError
from volcrypt.snapshot.local import LocalObjects


class FailingSync(LocalObjects):
    """A store whose disk loses what it is asked to write back."""

    def _sync_file_system(self) -> None:
        raise OSError(5, "Input/output error")


class WithoutUnnamedFiles(LocalObjects):
    """A store on a file system that has no O_TMPFILE, as on NFS."""

    def _open_unnamed(self, directory: str, *, direct: bool) -> int:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")


KINDS = pytest.mark.parametrize("kind", [LocalObjects, WithoutUnnamedFiles])


@pytest.mark.parametrize("refused_by", ["nobody", "open", "write"])
def test_batched_objects_go_past_the_page_cache_where_they_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused_by: str
) -> None:
    direct: list[bool] = []
    real_open = os.open

    def spy(path: str, flags: int, *arguments: int, **options: int) -> int:
        is_new = flags & os.O_TMPFILE == os.O_TMPFILE
        if is_new and refused_by == "open" and flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        descriptor = real_open(path, flags, *arguments, **options)
        if is_new:
            direct.append(bool(flags & os.O_DIRECT))
        return descriptor

    monkeypatch.setattr(os, "open", spy)
    # A buffer that does not lie on a boundary is refused by the write itself.
    shift = 1 if refused_by == "write" else 0
    with mmap.mmap(-1, 2**20) as memory, LocalObjects.create(tmp_path / "store") as objects:
        for number in range(2):
            data = memoryview(memory)[shift : shift + 2**19]
            data[:] = os.urandom(2**19)
            assert objects.put_if_absent(f"chunks/{number}", data, batched=True)
            assert objects.get(f"chunks/{number}") == data
            data.release()
        assert objects.put_if_absent("pages/odd", bytes(4097), batched=True)
        assert objects.put_if_absent("document", bytes(4096))
        objects.sync()
    assert direct == [refused_by != "open"] * 2 + [False, False]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", mount], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", mount], check=True)


def files_below(path: Path) -> list[str]:
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


@KINDS
def test_nobody_else_may_look(tmp_path: Path, kind: type[LocalObjects]) -> None:
    with kind.create(tmp_path / "store") as objects:
        objects.put_if_absent("chunks/ab/abcd", b"x", batched=True)
        objects.put_if_absent("manifests/a", b"x")
        objects.replace("pins/a", b"x")
        for path in (tmp_path / "store").rglob("*"):
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o700


def test_a_missing_directory_is_a_missing_store(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match=r"snapshot store .*/none does not exist"):
        LocalObjects(tmp_path / "none")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreNotFoundError):
        LocalObjects(tmp_path / "file")


@KINDS
def test_nothing_but_objects_stays_behind(tmp_path: Path, kind: type[LocalObjects]) -> None:
    with kind.create(tmp_path) as objects:
        for name in ("a", "b/c"):
            assert objects.put_if_absent(name, b"1")
            assert not objects.put_if_absent(name, b"2")
            assert not objects.put_if_absent(name, b"2", batched=True)
            assert objects.get(name) == b"1"
        objects.replace("a", b"3")
        assert objects.get("a") == b"3"
    assert files_below(tmp_path) == ["a", "b/c"]
    assert list((tmp_path / "tmp").iterdir()) == []


def test_leftovers_of_a_killed_writer_go_and_those_of_a_living_one_stay(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\n"
        "from volcrypt.snapshot.local import LocalObjects\n"
        "objects = LocalObjects(Path(sys.argv[1]))\n"
        "objects._stage(b'left', durable=False)\nprint('staged', flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"staged\n"
            with LocalObjects(tmp_path) as objects:
                objects.replace("a", b"1")
                assert len(list((tmp_path / "tmp").iterdir())) == 2
        finally:
            process.kill()
    assert len(files_below(tmp_path / "tmp")) == 1
    with LocalObjects(tmp_path) as objects:
        assert list(objects.list("")) == ["a"]
        objects.replace("b", b"1")
    assert files_below(tmp_path) == ["a", "b"]


@KINDS
@pytest.mark.parametrize("batched", [False, True])
def test_a_full_disk_is_named_and_leaves_nothing(
    small_disk: Path, kind: type[LocalObjects], *, batched: bool
) -> None:
    with kind(small_disk) as objects:
        with pytest.raises(NoSpaceError, match="no space left for"):
            objects.put_if_absent("chunks/ab/abcd", bytes(2**21), batched=batched)
        with pytest.raises(NoSpaceError):
            objects.replace("chunks/ab/abcd", bytes(2**21))
        assert files_below(small_disk) == []
        assert objects.put_if_absent("chunks/ab/abcd", bytes(2**18))
        objects.sync()


@KINDS
def test_what_is_put_alone_is_durable_with_its_name(
    tmp_path: Path, kind: type[LocalObjects]
) -> None:
    with kind.create(tmp_path / "store") as objects:
        objects.put_if_absent("pins/a", b"0")
        for put in (
            lambda: objects.put_if_absent("pins/b", b"1"),
            lambda: objects.put_if_absent("pins/b", b"2"),  # perhaps of one who was killed
            lambda: objects.replace("pins/b", b"3"),
        ):
            with recorded_syncs() as synced:
                put()
            assert len(synced) == 2
            assert synced[0].is_relative_to(tmp_path / "store")
            assert synced[1] == tmp_path / "store" / "pins"
        with recorded_syncs() as synced:
            objects.put_if_absent("chunks/a", b"4", batched=True)
        assert synced == []


def test_after_a_failed_sync_nothing_counts_as_stored(tmp_path: Path) -> None:
    with FailingSync.create(tmp_path) as objects:
        objects.put_if_absent("chunks/ab/lost", b"x", batched=True)
        with pytest.raises(ObjectStoreError, match=r"could not be made durable .*Input/output"):
            objects.sync()
        with pytest.raises(ObjectStoreError, match="must be reopened"):
            objects.sync()
        with pytest.raises(ObjectStoreError, match="must be reopened"):
            objects.put_if_absent("manifests/a", b"x")
        assert list(objects.list("")) == []
    with LocalObjects(tmp_path) as objects:
        assert objects.put_if_absent("chunks/ab/lost", b"x", batched=True)
        objects.sync()


def test_what_is_no_file_is_never_followed_or_read(tmp_path: Path) -> None:
    with LocalObjects(tmp_path) as objects:
        objects.put_if_absent("a", b"1")
        os.unlink(tmp_path / "a")
        os.symlink("a", tmp_path / "a")
        for ask in (lambda: objects.get("a"), lambda: objects.get_into("a", bytearray(1))):
            with pytest.raises(MalformedError, match="not a regular file"):
                ask()


def test_names_are_never_paths_out_of_the_store(tmp_path: Path) -> None:
    with LocalObjects(tmp_path) as objects:
        for name in ("../a", "/a", "a//b", "a/", "", "a/../b", ".hidden", "a\0b", "a\n"):
            with pytest.raises(AssertionError, match="internal error"):
                objects.get(name)


def test_names_that_are_no_objects_are_not_listed(tmp_path: Path) -> None:
    """Whoever can write to the store makes any; by none of them could an object be asked for."""
    with LocalObjects(tmp_path) as objects:
        objects.put_if_absent("chunks/right", b"right")
        for name in (".hidden", "a b", "new\nline", "..\\x", "\x1b[31m", "ü", "a%2fb"):
            (tmp_path / "chunks" / name).write_bytes(b"junk")
        assert list(objects.list("chunks/")) == ["chunks/right"]
