"""Import: resumed, given up, refused; what is on the medium is compared with what was read."""

import errno
import hashlib
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import blake3
import pytest

from volcrypt.durable import write_durably
from volcrypt.errors import (
    FormatError,
    IntegrityError,
    InvalidArgumentError,
    MalformedError,
    RollbackError,
    SourceChangedError,
    VerificationError,
    VolcryptError,
    VolumeInUseError,
    WorkNotFoundError,
)
from volcrypt.formats.import_cursor import KIND
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES, ByteRange
from volcrypt.names import VolumeId
from volcrypt.operations import image_sources, images, import_run
from volcrypt.operations.home import Home
from volcrypt.operations.image_sources import ImageSource, LuksAccess, OpenImage
from volcrypt.operations.images import abort_import, import_volume
from volcrypt.operations.import_cursors import load_import, log_path, unfinished_imports
from volcrypt.operations.import_run import ImportReport
from volcrypt.operations.keys import KeyChoice
from volcrypt.operations.progress import SILENT, Progress
from volcrypt.operations.records import data_path, load_records
from volcrypt.operations.volume_deletion import delete_volume
from volcrypt.operations.volume_export import export_volume
from volcrypt.operations.volume_settings import set_encryption_by_default
from volcrypt.operations.volumes import create_volume
from volcrypt.settings import runtime_root
from volcrypt.volume.owner import hold_volume

SIZE = 32 * CHUNK_BYTES
LARGE = 128 * CHUNK_BYTES
COMPARING = "comparing with the medium"


class StoppedError(Exception):
    pass


class At:
    """A progress that does something in a step, when so many bytes of it are done."""

    def __init__(self, step: str, done_bytes: int, action: Callable[[], None]) -> None:
        self._step, self._done_bytes, self._action = step, done_bytes, action
        self._is_now = False
        self.totals: dict[str, int | None] = {}

    def begin(self, step: str, total_bytes: int | None) -> None:
        self.totals[step.split()[0]] = total_bytes
        self._is_now = step.startswith(self._step)
        self.advance(0)

    def advance(self, done_bytes: int) -> None:
        if self._is_now and done_bytes >= self._done_bytes:
            self._is_now = False
            self._action()


def stop() -> None:
    raise StoppedError


def never() -> None:
    raise AssertionError


class Recorded:
    """The content of an image, as it is read; the read at `bad` fails."""

    def __init__(self, content: ImageSource, bad: int | None) -> None:
        self.size_bytes = content.size_bytes
        self.data_extents: Callable[[int, int], Iterator[ByteRange]] = content.data_extents
        self.read: list[int] = []
        self._content = content
        self._bad = bad

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if self._bad is not None and offset <= self._bad < offset + len(buffer):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._content.read_into(offset, buffer)
        self.read.append(len(buffer))


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch, *, bad: int | None = None) -> Iterator[list[int]]:
    """The lengths of what is read of sources."""
    read: list[int] = []

    @contextmanager
    def open_image(path: Path, luks: LuksAccess | None) -> Iterator[OpenImage]:
        with image_sources.open_image(path, luks) as image:
            content = Recorded(image.content, bad)
            content.read = read
            image.content = content
            yield image

    with monkeypatch.context() as patch:
        patch.setattr(images, "open_image", open_image)
        yield read


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cursor moves on its way, as that of a large image does."""
    monkeypatch.setattr(import_run, "CURSOR_BYTES", 1)
    monkeypatch.setattr(import_run, "CURSOR_PARTS", 8)


@pytest.fixture(scope="module")
def content() -> bytes:
    return random.Random(1).randbytes(SIZE)


@pytest.fixture
def image(tmp_path: Path, content: bytes) -> Path:
    (tmp_path / "image").write_bytes(content)
    return tmp_path / "image"


def run(
    home: Home,
    image: Path,
    progress: Progress = SILENT,
    *,
    choice: KeyChoice | None = None,
    name: str | None = "data",
    sha256: str | None = None,
) -> ImportReport:
    choice = KeyChoice() if choice is None else choice
    return import_volume(
        home, image, name=name, choice=choice, progress=progress, expect_sha256=sha256
    )


def interrupt(home: Home, image: Path, step: str = "importing", done: int = SIZE // 2) -> VolumeId:
    """An import that ended there; the volume to be."""
    with pytest.raises(StoppedError):
        run(home, image, At(step, done, stop))
    (volume_id,) = unfinished_imports(home)
    return volume_id


def check_nothing_left(home: Home) -> None:
    assert load_records(home) == {}
    assert unfinished_imports(home) == {}
    assert list(home.work_path.iterdir()) == []
    assert list(home.volumes.path.iterdir()) == []
    assert not (home.path / "written").is_dir() or list((home.path / "written").iterdir()) == []


def check_whole(home: Home, content: bytes) -> None:
    (record,) = load_records(home).values()
    assert not isinstance(record, Exception)
    target = home.path.parent / "exported"
    export_volume(home, record.volume_id, target, progress=SILENT)
    assert target.read_bytes() == content
    assert unfinished_imports(home) == {}
    assert list(home.work_path.iterdir()) == []
    assert len(list(home.volumes.path.iterdir())) == 1


# ---------------------------------------------------------------- going on


def test_goes_on_and_repeats_no_more_than_2_percent(
    home: Home, image: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of copying and of comparing, with the parts that a large image has."""
    monkeypatch.setattr(import_run, "CURSOR_PARTS", 64)
    content *= 4
    image.write_bytes(content)
    with recorded(monkeypatch) as read:
        volume_id = interrupt(home, image, done=LARGE // 2)
        assert sum(read) >= LARGE // 2
        interrupt(home, image, COMPARING, LARGE // 3)
    # One chunk is read again to see that the source is the same.
    assert sum(read) - LARGE <= 0.02 * LARGE + CHUNK_BYTES
    seen = At("importing", 0, never)
    report = run(home, image, seen)
    assert report.record.volume_id == volume_id
    assert (report.was_resumed, report.read_bytes) == (True, 0)
    left = seen.totals["comparing"]
    assert left is not None
    assert LARGE * 2 // 3 - CHUNK_BYTES <= left <= LARGE * 2 // 3 + 0.02 * LARGE
    check_whole(home, content)


def test_all_that_is_said_is_the_same_after_interruptions(
    home: Home, image: Path, content: bytes
) -> None:
    straight = run(home, image, name="straight")
    for place in (0.1, 0.4, 0.7):
        with pytest.raises(StoppedError):
            run(home, image, At("importing", int(SIZE * place / 2), stop))
    with pytest.raises(StoppedError):
        run(home, image, At(COMPARING, SIZE // 3, stop))
    report = run(home, image)
    assert report.content_digest == straight.content_digest
    assert report.data_bytes == straight.data_bytes == SIZE
    exported = export_volume(home, "data", home.path.parent / "out", progress=SILENT)
    assert exported.content_digest == straight.content_digest


def test_the_name_may_be_another(home: Home, image: Path, content: bytes) -> None:
    volume_id = interrupt(home, image)
    report = run(home, image, name="other")
    assert (report.record.volume_id, report.record.name) == (volume_id, "other")
    check_whole(home, content)


def test_another_image_meanwhile(home: Home, image: Path) -> None:
    """Another image begins anew; the unfinished one waits."""
    volume_id = interrupt(home, image)
    other = image.with_name("other")
    other.write_bytes(b"x" * UNIT_BYTES)
    run(home, other, name="other")
    assert list(unfinished_imports(home)) == [volume_id]
    # What other commands tidy up is not what an import needs.
    create_volume(home, size_bytes=UNIT_BYTES, name="new", choice=KeyChoice())
    assert run(home, image).was_resumed


def test_one_at_a_time(home: Home, image: Path) -> None:
    volume_id = interrupt(home, image)
    with hold_volume(home.volumes.path_of(volume_id), purpose="import"):
        with pytest.raises(VolumeInUseError):
            run(home, image)
        with pytest.raises(VolumeInUseError):
            abort_import(home, str(image))
    assert run(home, image).was_resumed


@pytest.mark.parametrize("by_id", [False, True])
@pytest.mark.parametrize("step", ["importing", COMPARING])
def test_given_up(home: Home, image: Path, content: bytes, step: str, by_id: bool) -> None:
    volume_id = interrupt(home, image, step)
    assert abort_import(home, volume_id if by_id else str(image)) == volume_id
    check_nothing_left(home)
    with pytest.raises(WorkNotFoundError, match="no unfinished import"):
        abort_import(home, str(image))
    assert not run(home, image).was_resumed
    check_whole(home, content)


def test_begun_under_another_key(home: Home, image: Path) -> None:
    create_volume(home, size_bytes=UNIT_BYTES, name="new", choice=KeyChoice())
    interrupt(home, image)
    with pytest.raises(InvalidArgumentError, match="was begun under arn:") as refused:
        run(home, image, choice=KeyChoice(encrypted=False))
    assert "--abort" in (refused.value.hint or "")
    abort_import(home, str(image))
    with pytest.raises(StoppedError):
        run(
            home,
            image,
            At("importing", SIZE // 2, stop),
            choice=KeyChoice(encrypted=False),
        )
    # Who asks for an encrypted volume gets no unencrypted one.
    with pytest.raises(InvalidArgumentError, match="was begun under no key"):
        run(home, image)


def test_plaintext_goes_nowhere_else(home: Home, image: Path, content: bytes) -> None:
    """Neither while it is unfinished, nor when it is done; nor do digests of it."""
    chunks = [content[at : at + CHUNK_BYTES] for at in range(0, SIZE, 4 * CHUNK_BYTES)]
    secrets = [each[at : at + 32] for each in chunks for at in (0, CHUNK_BYTES // 2)]
    secrets += [blake3.blake3(each).digest() for each in chunks]

    def found() -> list[tuple[str, int]]:
        places = [path for root in (home.path, home.runtime) for path in root.rglob("*")]
        texts = [(path.name, path.read_bytes()) for path in places if path.is_file()]
        counts = [(name, sum(secret in text for secret in secrets)) for name, text in texts]
        return [each for each in counts if each[1]]

    for step in ("importing", COMPARING):
        interrupt(home, image, step)
        assert found() == []
    run(home, image)
    assert found() == []
    # The control.
    run(home, image, name="plain", choice=KeyChoice(encrypted=False))
    assert found() == [("data", len(secrets) * 2 // 3)]


# ---------------------------------------------------------------- what is refused


def test_an_unencrypted_one_ends_where_encryption_by_default_was_turned_on(
    home: Home, image: Path
) -> None:
    plain = KeyChoice(encrypted=False)
    with pytest.raises(StoppedError):
        run(home, image, At("importing", SIZE // 2, stop), choice=plain)
    set_encryption_by_default(home, on=True)
    with pytest.raises(InvalidArgumentError, match="nothing unencrypted is made"):
        run(home, image, choice=plain)
    set_encryption_by_default(home, on=False)
    run(home, image, choice=plain)


def cursor_path(home: Home, volume_id: VolumeId) -> Path:
    return home.work_path / f"{volume_id}.import"


def test_an_edited_a_foreign_and_an_older_cursor(home: Home, image: Path) -> None:
    volume_id = interrupt(home, image, done=SIZE // 4)
    path = cursor_path(home, volume_id)
    path.with_name(f"{path.name}.next").unlink()
    older = path.read_bytes()
    interrupt(home, image, done=SIZE // 4)
    path.with_name(f"{path.name}.next").unlink()
    current = path.read_bytes()
    other = image.with_name("other")
    other.write_bytes(image.read_bytes())
    with pytest.raises(StoppedError):
        run(home, other, At("importing", SIZE // 4, stop), name="other")
    (foreign_id,) = set(unfinished_imports(home)) - {volume_id}
    foreign = cursor_path(home, foreign_id).read_bytes()
    edited = current.replace(b'"step":"copy"', b'"step":"verify"')
    assert edited != current
    for wrong in (older, foreign, edited, current[:-1], b""):
        write_durably(path, wrong)
        with pytest.raises(IntegrityError) as refused:
            run(home, image)
        assert "--abort" in (refused.value.hint or "")
    assert load_records(home) == {}
    # A damaged one stands in nobody else's way.
    assert run(home, other, name="other").was_resumed
    write_durably(path, current)  # the control
    assert run(home, image).was_resumed


@pytest.mark.parametrize("forgets", [True, False])
def test_a_disk_that_fills_up_when_the_register_knows(
    home: Home, image: Path, content: bytes, monkeypatch: pytest.MonkeyPatch, forgets: bool
) -> None:
    """The same command goes on when there is room, also if the register was to forget the import
    and could not."""
    replace, sync = os.replace, os.fdatasync
    is_full = False

    def replace_while_there_is_room(source: Path, target: Path, **directories: int) -> None:
        nonlocal is_full
        if forgets and str(target).endswith(".import"):
            is_full = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        replace(source, target, **directories)
        is_full = is_full or str(target).endswith(".import.next")

    def sync_while_there_is_room(descriptor: int) -> None:
        kind = os.readlink(f"/proc/self/fd/{descriptor}")
        if is_full and not forgets and "/kms/" in kind:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace_while_there_is_room)
        patch.setattr(os, "fdatasync", sync_while_there_is_room)
        with pytest.raises((VolcryptError, OSError)):
            run(home, image)
        assert is_full
    allocated = [path.stat().st_blocks for path in home.volumes.path.glob("*/data")]
    assert allocated == ([] if forgets else [0])
    home.__exit__(None, None, None)
    with Home(home.path, runtime_root()) as later:
        assert len(later.register.entries(KIND)) == (0 if forgets else 1)
        run(later, image)
        check_whole(later, content)


def test_a_cursor_that_is_gone_is_given_up(home: Home, image: Path) -> None:
    volume_id = interrupt(home, image)
    for path in home.work_path.glob(f"{volume_id}.import*"):
        path.unlink()
    with pytest.raises(IntegrityError, match="missing on disk"):
        run(home, image)
    abort_import(home, str(image))
    assert list(home.volumes.path.iterdir()) == []


def test_data_that_is_gone(home: Home, image: Path) -> None:
    """As in a home that was restored from a backup of while it was imported."""
    volume_id = interrupt(home, image)
    home.volumes.remove(volume_id)
    with pytest.raises(IntegrityError, match="missing on disk") as refused:
        run(home, image)
    assert f"import {volume_id} --abort" in (refused.value.hint or "")
    abort_import(home, volume_id)
    assert not run(home, image).was_resumed


@pytest.mark.parametrize("place", [3, 20, 10 * 40 + 12])
def test_a_log_that_was_edited(home: Home, image: Path, place: int) -> None:
    """It would have other data pass for what was read."""
    volume_id = interrupt(home, image)
    log = bytearray(log_path(home, volume_id).read_bytes())
    log[place] ^= 1
    log_path(home, volume_id).write_bytes(log)
    with pytest.raises((IntegrityError, FormatError, InvalidArgumentError)):
        run(home, image)
    assert load_records(home) == {}


def test_a_log_and_data_that_were_edited_alike(home: Home, image: Path, content: bytes) -> None:
    """By somebody who knows what was in a chunk, and so its mask; of an unencrypted volume."""
    choice = KeyChoice(encrypted=False)
    with pytest.raises(StoppedError):
        run(home, image, At(COMPARING, 0, stop), choice=choice)
    (volume_id,) = unfinished_imports(home)
    chunk, forged = content[5 * CHUNK_BYTES : 6 * CHUNK_BYTES], bytes(range(256)) * 2048
    known, wanted = (blake3.blake3(each).digest() for each in (chunk, forged))
    log = bytearray(log_path(home, volume_id).read_bytes())
    for at in range(32):
        log[5 * 40 + 8 + at] ^= known[at] ^ wanted[at]
    log_path(home, volume_id).write_bytes(log)
    with (home.volumes.path_of(volume_id) / "data").open("r+b") as file:
        file.seek(5 * CHUNK_BYTES)
        file.write(forged)
    with pytest.raises(RollbackError):
        run(home, image, choice=choice)
    assert load_records(home) == {}


def test_a_log_that_was_cut_or_is_gone(home: Home, image: Path) -> None:
    volume_id = interrupt(home, image)
    path = log_path(home, volume_id)
    os.truncate(path, load_import(home, volume_id).entries * 40 - 1)
    with pytest.raises(MalformedError, match="cut short"):
        run(home, image)
    path.unlink()
    with pytest.raises(IntegrityError, match="missing on disk"):
        run(home, image)
    assert load_records(home) == {}


def test_log_and_data_of_before_do_not_go_with_a_later_cursor(home: Home, image: Path) -> None:
    volume_id = interrupt(home, image, done=SIZE // 4)
    before = log_path(home, volume_id).read_bytes()
    interrupt(home, image, done=SIZE // 4)
    after = log_path(home, volume_id).read_bytes()
    changed = bytearray(after)
    changed[: len(before)] = bytes(len(before))
    log_path(home, volume_id).write_bytes(changed)
    with pytest.raises((RollbackError, MalformedError, InvalidArgumentError)):
        run(home, image)
    assert load_records(home) == {}


# ---------------------------------------------------------------- the source


def test_a_source_that_is_written_to(home: Home, image: Path) -> None:
    def write() -> None:
        with image.open("r+b") as file:
            file.write(b"changed")

    with pytest.raises(SourceChangedError, match="was changed while it was read"):
        run(home, image, At("importing", SIZE // 2, write))
    check_nothing_left(home)


def test_a_source_that_becomes_shorter(home: Home, image: Path) -> None:
    with pytest.raises(SourceChangedError):
        run(home, image, At("importing", SIZE // 2, lambda: os.truncate(image, SIZE // 2 + 99)))
    check_nothing_left(home)


def test_a_source_that_was_changed_in_between(home: Home, image: Path, content: bytes) -> None:
    interrupt(home, image)
    times = image.stat()
    with image.open("r+b") as file:
        file.write(b"changed")
    with pytest.raises(InvalidArgumentError, match="was changed since") as refused:
        run(home, image)
    assert "--abort" in (refused.value.hint or "")
    # With its old times, as a device has none: the beginning is looked at.
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(InvalidArgumentError, match="was changed since"):
        run(home, image)
    with image.open("r+b") as file:
        file.write(content[:7])
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert run(home, image).was_resumed


def test_a_source_that_cannot_be_read(
    home: Home, image: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with recorded(monkeypatch, bad=0), pytest.raises(VolcryptError, match="cannot be read"):
        run(home, image)
    check_nothing_left(home)
    with recorded(monkeypatch, bad=SIZE // 2):
        with pytest.raises(VolcryptError, match="Input/output error") as failed:
            run(home, image)
        assert f"between bytes {SIZE // 2} and" in str(failed.value)
        assert "the same command goes on" in (failed.value.hint or "")
    assert load_records(home) == {}
    assert run(home, image).was_resumed
    check_whole(home, content)


# ---------------------------------------------------------------- what is on the medium


def flip(home: Home, offset: int) -> None:
    (volume,) = home.volumes.path.iterdir()
    with (volume / "data").open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize("encrypted", [True, False])
@pytest.mark.parametrize("place", [SIZE - 1, 3 * CHUNK_BYTES, 0])
def test_a_medium_that_gives_back_something_else(
    home: Home, image: Path, place: int, encrypted: bool
) -> None:
    with image.open("r+b") as file:  # these chunks are holes, and must stay so
        for chunk in (0, 3):
            file.seek(chunk * CHUNK_BYTES)
            file.write(bytes(CHUNK_BYTES))
    choice = KeyChoice(encrypted=encrypted)
    with pytest.raises(VerificationError, match="is not what the medium gives back"):
        run(home, image, At(COMPARING, 0, lambda: flip(home, place)), choice=choice)
    check_nothing_left(home)
    run(home, image, choice=choice)


@pytest.mark.parametrize("size", [SIZE // 4, SIZE // 4 - 1, 5000, 1])
def test_an_expected_digest(home: Home, image: Path, content: bytes, size: int) -> None:
    os.truncate(image, size)
    if size > 4096:
        with image.open("r+b") as file:
            file.seek(size - 4096)
            file.write(bytes(4000))
    found = hashlib.sha256(image.read_bytes()).hexdigest()
    with pytest.raises(VerificationError, match=f"has the SHA-256 {found}"):
        run(home, image, sha256=hashlib.sha256(b"").hexdigest())
    check_nothing_left(home)
    assert run(home, image, sha256=found).sha256 == found


def test_what_was_compared_is_not_again_and_all_else_is(
    home: Home, image: Path, content: bytes
) -> None:
    """The hole behind the last chunk that was compared belongs to what is left."""
    hole = SIZE // 4
    with image.open("r+b") as file:
        file.seek(hole)
        file.write(bytes(CHUNK_BYTES))
    volume_id = interrupt(home, image, COMPARING, hole + CHUNK_BYTES)
    assert load_import(home, volume_id).verified_entries * CHUNK_BYTES == hole
    flip(home, 0)  # by somebody who writes to the storage, as he can at any time
    assert run(home, image).was_resumed
    delete_volume(home, "data")
    interrupt(home, image, COMPARING, hole + CHUNK_BYTES)
    flip(home, hole)
    with pytest.raises(VerificationError, match=f"between bytes {hole} and"):
        run(home, image)


def test_an_expected_digest_after_an_interruption(home: Home, image: Path, content: bytes) -> None:
    found = hashlib.sha256(content).hexdigest()
    for step in ("importing", COMPARING):
        with pytest.raises(StoppedError):
            run(home, image, At(step, SIZE // 3, stop), sha256=found)
    report = run(home, image, sha256=found)
    assert (report.was_resumed, report.sha256) == (True, found)


# ---------------------------------------------------------------- holes


@pytest.mark.parametrize("encrypted", [True, False])
def test_there_and_back_with_its_holes(home: Home, tmp_path: Path, encrypted: bool) -> None:
    size, dice = 2**40, random.Random(2)
    places = {0: 1, 3 * CHUNK_BYTES - 4096: 8192, 2**39 + 4096: 70000, size - 512: 512}
    source, target = tmp_path / "image", tmp_path / "out"
    with source.open("wb") as file:
        file.truncate(size)
        for place, length in places.items():
            file.seek(place)
            file.write(dice.randbytes(length))
        file.seek(2**38)
        file.write(bytes(2**20))  # zeros that are written become holes
    report = run(home, source, choice=KeyChoice(encrypted=encrypted))
    assert report.read_bytes <= 2 * 2**20
    assert report.data_bytes <= 100 * 1024
    stored = data_path(home, report.record).stat()
    assert stored.st_size == size
    assert stored.st_blocks * 512 <= 128 * 1024
    exported = export_volume(home, "data", target, progress=SILENT)
    assert exported.content_digest == report.content_digest
    assert target.stat().st_size == size
    assert target.stat().st_blocks * 512 <= 128 * 1024
    with source.open("rb") as one, target.open("rb") as other:
        for place, length in places.items():
            for opened in (one, other):
                opened.seek(max(place - 4096, 0))
            assert one.read(length + 8192) == other.read(length + 8192)
    delete_volume(home, "data")


def test_an_end_within_a_data_unit(home: Home, image: Path, content: bytes) -> None:
    os.truncate(image, SIZE // 8 + 100)
    report = run(home, image)
    assert report.record.size_bytes == SIZE // 8 + UNIT_BYTES
    check_whole(home, content[: SIZE // 8 + 100] + bytes(UNIT_BYTES - 100))
