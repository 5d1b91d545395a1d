"""Fixtures for all tests, and the check that no test leaves a mount or a loop device behind."""

import os
import resource
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.cryptsetup import CHEAP_PROGRAM
from tests.faulty_proxy import FaultyProxy
from tests.file_system import DisposableFileSystem, disposable_file_system
from tests.forked import FORKER
from tests.planes import pytest_fixture_setup
from tests.s3_server import BUCKET, S3Server
from volcrypt.operations.home_directory import HOME_LINK
from volcrypt.settings import runtime_root
from volcrypt.volume.kept_mount import kernel_resends

__all__ = ["pytest_fixture_setup"]

# Where pytest sees one of these it compares long bytes line by line when an assertion fails, as
# those of controls do: that takes minutes.
for _name in ("CI", "BUILD_NUMBER"):
    os.environ.pop(_name, None)


KERNEL: Final = os.uname().release


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Older kernels, Debian 12's among them, end a mount with the process that serves it: volcrypt
    says so there, and promises nothing else."""
    if kernel_resends(KERNEL):
        return
    kept = [item for item in items if item.get_closest_marker("kept_mount")]
    items[:] = [item for item in items if item not in kept]
    config.hook.pytest_deselected(items=kept)


def pytest_report_header() -> str | None:
    if kernel_resends(KERNEL):
        return None
    return f"Linux {KERNEL} ends mounts with their processes: no test of mounts that outlive them"


@pytest.fixture(params=["ext4", "xfs"])
def file_system(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DisposableFileSystem]:
    """A small file system that can lose its power; the test runs once on ext4, once on XFS."""
    with disposable_file_system(tmp_path, kind=request.param) as made:
        yield made


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[DisposableFileSystem]:
    """A small ext4 that can lose its power, for tests to which the kind does not matter."""
    with disposable_file_system(tmp_path) as made:
        yield made


@pytest.fixture
def cheap_keyslots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands export headers whose passphrase costs nothing to try: with cryptsetup's own defaults
    each costs seconds of all processors."""
    program = tmp_path / "cheap" / "cryptsetup"
    program.parent.mkdir()
    program.write_text(CHEAP_PROGRAM)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


@pytest.fixture(scope="session", autouse=True)
def cores_can_be_allowed() -> Iterator[None]:
    """Operations that unwrap a key in this process forbid it core files for ever, and all that it
    starts with it. Here it forbids them as long as nobody allows them: controls must leave some."""
    real, (_, hard) = resource.setrlimit, resource.getrlimit(resource.RLIMIT_CORE)

    def setrlimit(which: int, limits: tuple[int, int]) -> None:
        real(which, (limits[0], hard) if which == resource.RLIMIT_CORE else limits)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resource, "setrlimit", setrlimit)
        yield


@pytest.fixture(scope="session", autouse=True)
def forker() -> Iterator[None]:
    """The processes that start commands quickly, at the end."""
    yield
    FORKER.close()


@pytest.fixture(scope="session", autouse=True)
def runtime_directories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What homes of tests had on tmpfs goes with them."""
    yield
    for directory in runtime_root().glob("*"):
        home = directory / HOME_LINK
        if home.is_symlink() and home.readlink().is_relative_to(tmp_path_factory.getbasetemp()):
            shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server with the bucket `BUCKET`."""
    with S3Server(tmp_path_factory.mktemp("s3") / "server") as server:
        server.make_bucket(BUCKET)
        # The first put takes it seconds, which tests with little patience do not have.
        server.objects("warm").replace("a", b"a")
        yield server


@pytest.fixture
def s3_proxy(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy in front of the S3 server. The server's credentials are where the aws command looks
    for them, and none of this machine's."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.environment.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    with FaultyProxy(s3_server.port) as running:
        yield running


@pytest.fixture
def prefix() -> str:
    """A place of a test's own in the bucket; a bucket for each would take the server seconds."""
    return f"some/{secrets.token_hex(6)}"


@pytest.fixture(autouse=True)
def no_leftovers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail a test that leaves a mount or a loop device in the temporary directory.

    Only that directory counts: other things on the machine come and go as they like. What a
    fixture of a wider scope holds was there before the test.
    """
    root = str(tmp_path_factory.getbasetemp())
    before = kernel_objects(root)
    yield
    assert kernel_objects(root) <= before


def kernel_objects(root: str) -> set[str]:
    """Mounts at or below `root` and loop devices on files below it."""
    with open("/proc/self/mountinfo") as file:
        found = {f"mount at {line.split(' ')[4]}" for line in file if f" {root}/" in line}
    for loop in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            backing = os.fspath(loop.read_text().strip())
        except OSError:
            continue  # detached in this moment
        if backing.startswith(f"{root}/"):
            found.add(f"loop device on {backing}")
    return found
