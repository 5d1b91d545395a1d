"""Work under a customer-provided key that is interrupted: it goes on with the same key alone."""

import os
from pathlib import Path

import msgspec
import pytest

from tests.snapshots import create_snapshot
from volcrypt.crypto.customer_key import CustomerKey
from volcrypt.errors import (
    CustomerKeyMissingError,
    InvalidArgumentError,
    MalformedError,
    WrongCustomerKeyError,
)
from volcrypt.formats.document import MacSeal
from volcrypt.formats.manifest import Manifest
from volcrypt.formats.volume_record import (
    KeySource,
    VolumeRecord,
    decode_volume_record,
    encode_volume_record,
)
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.operations.copy_creation import copy_snapshot
from volcrypt.operations.encrypt import EncryptionReport, encrypt_volume
from volcrypt.operations.home import Home
from volcrypt.operations.images import import_volume
from volcrypt.operations.keys import KeyChoice
from volcrypt.operations.progress import SILENT, Progress
from volcrypt.operations.records import load_record
from volcrypt.operations.volume_export import export_volume

SIZE = 40 * CHUNK_BYTES


class StoppedError(Exception):
    """The end of a command before its time."""


class Stops:
    """Progress that ends the work in the middle of a step."""

    def __init__(self, step: str) -> None:
        self._step = step
        self._is_there = False
        self.steps: list[str] = []

    def begin(self, step: str, total_bytes: int | None) -> None:
        self.steps.append(step)
        self._is_there = step.startswith(self._step)

    def advance(self, done_bytes: int) -> None:
        if self._is_there and done_bytes > SIZE // 4:
            raise StoppedError


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "image").write_bytes(os.urandom(SIZE))
    return tmp_path / "image"


def give(home: Home, seed: int) -> CustomerKey:
    """The only key that this command is given."""
    home.customer_keys[:] = [CustomerKey(bytearray([seed]) * 32)]
    return home.customer_keys[0]


def copy(home: Home, choice: KeyChoice, progress: Progress = SILENT) -> Manifest:
    return copy_snapshot(
        home, "first", choice=choice, name=None, store=None, region=None, progress=progress
    )


def test_a_copy_goes_on_under_the_same_key_alone(home: Home, image: Path) -> None:
    import_volume(home, image, name="data", choice=KeyChoice(), progress=SILENT)
    create_snapshot(home, "data", name="first", store=None, progress=SILENT)
    with pytest.raises(StoppedError):
        copy(home, KeyChoice(customer_key=give(home, 1)), Stops("copying"))
    (cursor,) = home.work_path.iterdir()
    # Another key, or a KMS key: another copy.
    for choice in (KeyChoice(customer_key=give(home, 2)), KeyChoice()):
        if choice.customer_key is None:
            home.customer_keys.clear()
        assert copy(home, choice).snapshot_id not in cursor.name
        assert cursor.exists()
    made = copy(home, KeyChoice(customer_key=give(home, 1)))
    assert cursor.name.startswith(made.snapshot_id)
    assert made.key_source is KeySource.CUSTOMER
    assert list(home.work_path.iterdir()) == []


def encrypt(home: Home, choice: KeyChoice, progress: Progress = SILENT) -> EncryptionReport:
    return encrypt_volume(
        home,
        "data",
        choice=choice,
        keep_old=False,
        delete_plain_snapshots=False,
        progress=progress,
    )


@pytest.mark.parametrize("step", ["copying", "restoring", "comparing"])
def test_an_encryption_goes_on_under_the_same_key_alone(
    home: Home, image: Path, tmp_path: Path, step: str
) -> None:
    choice = KeyChoice(encrypted=False)
    old = import_volume(home, image, name="data", choice=choice, progress=SILENT).record
    with pytest.raises(StoppedError):
        encrypt(home, KeyChoice(customer_key=give(home, 1)), Stops(step))
    assert load_record(home, "data") == old
    home.customer_keys.clear()
    with pytest.raises(CustomerKeyMissingError, match="the unfinished encryption of data"):
        encrypt(home, KeyChoice())
    with pytest.raises(WrongCustomerKeyError):
        encrypt(home, KeyChoice(customer_key=give(home, 2)))
    home.customer_keys.clear()
    with pytest.raises(InvalidArgumentError):
        encrypt(home, KeyChoice(kms_key=home.default_kms_key))
    assert load_record(home, "data") == old
    report = encrypt(home, KeyChoice(customer_key=give(home, 1)))
    assert report.kms_key_arn is None
    assert load_record(home, "data").key_source is KeySource.CUSTOMER
    export_volume(home, "data", tmp_path / "out", progress=SILENT)
    assert (tmp_path / "out").read_bytes() == image.read_bytes()


def test_an_encryption_under_a_kms_key_is_not_continued_under_a_customer_s(
    home: Home, image: Path
) -> None:
    choice = KeyChoice(encrypted=False)
    import_volume(home, image, name="data", choice=choice, progress=SILENT)
    with pytest.raises(StoppedError):
        encrypt(home, KeyChoice(), Stops("comparing"))
    with pytest.raises(InvalidArgumentError, match="begun with other options: key arn:"):
        encrypt(home, KeyChoice(customer_key=give(home, 1)))


def test_a_record_says_one_thing_of_its_key(home: Home, image: Path) -> None:
    record = import_volume(
        home, image, name="data", choice=KeyChoice(customer_key=give(home, 1)), progress=SILENT
    ).record
    seal = MacSeal(bytearray(32))
    assert decode(record, seal) == record
    for source in (KeySource.KMS, KeySource.NONE):
        with pytest.raises(MalformedError, match="contradict"):
            decode(msgspec.structs.replace(record, key_source=source), seal)


def decode(record: VolumeRecord, seal: MacSeal) -> VolumeRecord:
    return decode_volume_record(encode_volume_record(record, seal), seal, what="it")


def test_the_keys_are_wiped_with_the_command(home: Home) -> None:
    material = bytearray(b"k" * 32)
    home.customer_keys.append(CustomerKey(material))
    home.__exit__(None, None, None)
    assert material == bytes(32)
