"""A full disk in every write path: a clear error, no half change, and all is well with room."""

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fakes.keystore import MemoryKeyStore
from tests.fakes.kms import ACCOUNT, REGION, ROOT, memory_kms
from volcrypt.errors import NoSpaceError
from volcrypt.kms.home import create_kms, open_kms
from volcrypt.kms.messages.data import EncryptRequest
from volcrypt.kms.messages.keys import CreateKeyRequest, ListKeysRequest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def fill(disk: Path, *, leave_bytes: int = 0) -> Path:
    """Take all space but `leave_bytes`; the file that takes it."""
    path = disk / "filler"
    with suppress(OSError), path.open("ab", buffering=0) as file:
        while file.write(bytes(4096)) == 4096:
            pass
    with path.open("r+b") as file:
        file.truncate(max(0, path.stat().st_size - leave_bytes))
    return path


@pytest.mark.parametrize("leave_kib", range(0, 64, 4))
def test_creating_a_key_on_a_full_disk(small_disk: Path, leave_kib: int) -> None:
    keystore = MemoryKeyStore()
    with memory_kms(small_disk / "kms", keystore) as kms:
        before = kms.new_key()
        filler = fill(small_disk, leave_bytes=leave_kib * 1024)
        acknowledged = [before]
        with suppress(NoSpaceError):
            while len(acknowledged) < 200:
                acknowledged.append(kms.new_key())
        assert len(acknowledged) < 200
        filler.unlink()
        acknowledged.append(kms.new_key())
    with memory_kms(small_disk / "kms", keystore) as kms:
        listed = kms.service.perform(ROOT, ListKeysRequest())
        assert {key.key_id for key in listed.keys} == set(acknowledged)
        names = [r.event_name for r in kms.records() if r.error_code is None]
        assert names.count("CreateKey") >= len(acknowledged)


def test_no_record_no_effect(small_disk: Path) -> None:
    with memory_kms(small_disk / "kms") as kms:
        key_id = kms.new_key()
        fill(small_disk)
        encryptions = kms.keystore.encryptions
        request = EncryptRequest(key_id=key_id, plaintext=bytearray(1))
        with suppress(NoSpaceError):
            while encryptions < 1000:
                kms.service.perform(ROOT, request)
                encryptions += 1
        assert encryptions < 1000
        assert kms.keystore.encryptions == encryptions


@pytest.mark.parametrize("leave_kib", range(0, 68, 4))
def test_init_on_a_full_disk_can_be_repeated(
    small_disk: Path, memory_path: Path, leave_kib: int
) -> None:
    home = small_disk / "kms"
    filler = fill(small_disk, leave_bytes=leave_kib * 1024)
    with suppress(NoSpaceError):
        create_kms(home, memory_path / "run", account=ACCOUNT, region=REGION, pin=None)
    filler.unlink()
    create_kms(home, memory_path / "run", account=ACCOUNT, region=REGION, pin=None)
    with open_kms(home, memory_path / "run", account=ACCOUNT, region=REGION) as service:
        service.perform(ROOT, CreateKeyRequest())


def test_opening_where_copies_do_not_fit(small_disk: Path, memory_path: Path) -> None:
    home = memory_path / "kms"
    create_kms(home, memory_path / "run", account=ACCOUNT, region=REGION, pin=None)
    runtime = small_disk / "run"
    runtime.mkdir(mode=0o700)
    fill(small_disk)
    with (
        pytest.raises(NoSpaceError),
        open_kms(home, runtime, account=ACCOUNT, region=REGION),
    ):
        pass
    assert not list(runtime.glob("token-*"))
