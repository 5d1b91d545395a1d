"""Power cuts under imports and exports on a real ext4 and XFS: what a cursor covers is there, an
exported image is whole; with controls that do not sync, and lose."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.command import disposable_home
from tests.file_system import DisposableFileSystem, disposable_file_system
from tests.operations.test_images import At, StoppedError, stop
from volcrypt.errors import VerificationError, VolcryptError
from volcrypt.operations import import_run
from volcrypt.operations.home import Home
from volcrypt.operations.home_directory import init_home
from volcrypt.operations.images import import_volume
from volcrypt.operations.import_logs import ImportLog
from volcrypt.operations.keys import KeyChoice
from volcrypt.operations.new_files import new_image
from volcrypt.operations.progress import SILENT
from volcrypt.operations.volume_export import export_volume
from volcrypt.settings import DEFAULT_ACCOUNT, DEFAULT_REGION, runtime_root
from volcrypt.volume.volume import Volume

SIZE = 8 * 2**20


class Scene:
    """A home on a file system that loses its power, and an image elsewhere."""

    def __init__(self, disk: DisposableFileSystem, image: Path) -> None:
        self.disk = disk
        self.home_path = disk.directory / "home"
        self.image = image

    @contextmanager
    def home(self) -> Iterator[Home]:
        with Home(self.home_path, runtime_root()) as opened:
            yield opened

    def interrupt(self) -> None:
        """Begin an import, stop in its middle, and lose the power."""
        with self.home() as home, pytest.raises(StoppedError):
            self.run(home, At("importing", SIZE // 2, stop))
        self.disk.cut_power()

    def run(self, home: Home, progress: At | None = None) -> None:
        import_volume(
            home,
            self.image,
            name="data",
            choice=KeyChoice(),
            progress=progress or SILENT,
        )


@pytest.fixture(params=["ext4", "xfs"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> Iterator[Scene]:
    monkeypatch.setattr(import_run, "CURSOR_BYTES", 1)
    monkeypatch.setattr(import_run, "CURSOR_PARTS", 8)
    (tmp_path / "image").write_bytes(random.Random(4).randbytes(SIZE))
    os.makedirs(tmp_path / "disk")
    with disposable_file_system(tmp_path / "disk", kind=kind, size_bytes=2**26) as disk:
        scene = Scene(disk, tmp_path / "image")
        with disposable_home(scene.home_path):
            init_home(
                scene.home_path,
                runtime_root(),
                account=DEFAULT_ACCOUNT,
                region=DEFAULT_REGION,
                pin=None,
            )
            yield scene


def test_what_a_cursor_covers_is_there(scene: Scene) -> None:
    scene.interrupt()
    with scene.home() as home:
        scene.run(home)
        export_volume(home, "data", scene.image.with_name("out"), progress=SILENT)
    assert scene.image.with_name("out").read_bytes() == scene.image.read_bytes()


def dropped(_: object) -> None:
    """A sync that is none."""


@pytest.mark.parametrize(
    ("part", "method", "error"), [(Volume, "flush", VerificationError), (ImportLog, "sync", None)]
)
def test_the_control(
    scene: Scene,
    monkeypatch: pytest.MonkeyPatch,
    part: type,
    method: str,
    error: type[VolcryptError] | None,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(part, method, dropped)
        scene.interrupt()
    with scene.home() as home, pytest.raises(error or VolcryptError):
        scene.run(home)


@pytest.mark.parametrize("is_unnamed", [True, False])
@pytest.mark.parametrize("syncs", [True, False])
def test_an_image_is_whole_or_not_there(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, syncs: bool, is_unnamed: bool
) -> None:
    """Also where a file system has no files without a name; its kernel says EISDIR."""
    target = scene.disk.directory / "out"
    content = random.Random(6).randbytes(2**20)
    with monkeypatch.context() as patch:
        if not is_unnamed:
            patch.setattr(os, "O_TMPFILE", os.O_DIRECTORY)
        if not syncs:
            patch.setattr(os, "fsync", dropped)
        with new_image(target, len(content)) as descriptor:
            os.pwrite(descriptor, content, 0)
            names = [path.name for path in scene.disk.directory.glob("*out*")]
            assert names == ([] if is_unnamed else [".out.new"])
    assert target.read_bytes() == content
    scene.disk.cut_power()
    assert (target.exists() and target.read_bytes() == content) is syncs
    assert not target.with_name(".out.new").exists()


@pytest.mark.parametrize("is_unnamed", [True, False])
def test_an_image_that_is_not_finished(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, is_unnamed: bool
) -> None:
    if not is_unnamed:
        monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY)
    target = scene.disk.directory / "out"

    def begin_and_fail() -> None:
        with new_image(target, SIZE) as descriptor:
            os.pwrite(descriptor, b"plaintext", 0)
            raise StoppedError

    with pytest.raises(StoppedError):
        begin_and_fail()
    assert list(scene.disk.directory.glob("*out*")) == []
