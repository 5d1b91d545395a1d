"""What is refused before a data key is asked for, and a device that several hosts can reach."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.file_system import run
from tests.formats.samples import COPIED, COPY_SEAL
from volcrypt.errors import (
    AccessDeniedError,
    CustomerKeyMissingError,
    IntegrityError,
    InvalidArgumentError,
    KmsError,
)
from volcrypt.formats.record_copy import encode_record_copy
from volcrypt.formats.volume_record import KeySource, VolumeRecord
from volcrypt.operations.audit import list_audit
from volcrypt.operations.home import Home
from volcrypt.operations.keys import KeyChoice
from volcrypt.operations.placement import Placement
from volcrypt.operations.records import load_records
from volcrypt.operations.registration import CopySource, register_volume
from volcrypt.operations.volumes import create_volume
from volcrypt.volume import block_device

MIB = 2**20
RECORD = msgspec.structs.replace(COPIED, data_path="/data", device=None, lease=None)


def register(home: Home, tmp_path: Path, record: VolumeRecord, *, kms_key: str | None) -> None:
    (tmp_path / "data").write_bytes(bytes(record.size_bytes))
    (tmp_path / "copy").write_bytes(encode_record_copy(record, COPY_SEAL))
    source = CopySource(record=tmp_path / "copy")
    register_volume(home, tmp_path / "data", source, kms_key=kms_key)


def with_key(**members: object) -> VolumeRecord:
    assert RECORD.wrapped_key is not None
    wrapped = msgspec.structs.replace(RECORD.wrapped_key, **members)
    return msgspec.structs.replace(RECORD, wrapped_key=wrapped)


def test_a_key_of_another_account_is_not_asked_unless_it_is_named(
    home: Home, tmp_path: Path
) -> None:
    """Its owner may know the data key that it would release."""
    arn = "arn:aws:kms:us-east-1:666666666666:key/00000000-0000-0000-0000-000000000000"
    with pytest.raises(AccessDeniedError, match="belongs to another account") as caught:
        register(home, tmp_path, with_key(kms_key_arn=arn), kms_key=None)
    assert caught.value.hint == f"if that is right: --kms-key-id {arn}"
    assert "Decrypt" not in [record.event_name for record in list_audit(home)]
    # Named, it is asked for; this home's KMS has no such key.
    with pytest.raises(KmsError):
        register(home, tmp_path, with_key(kms_key_arn=arn), kms_key=arn)
    assert "Decrypt" in [record.event_name for record in list_audit(home)]


@pytest.mark.parametrize(
    ("record", "error", "message"),
    [
        (
            with_key(encryption_context={"volcrypt:volume-id": "vol-0123456789abcdef0"}),
            IntegrityError,
            "bound to something else",
        ),
        (with_key(encryption_context={}), IntegrityError, "bound to something else"),
        (
            msgspec.structs.replace(
                with_key(kms_key_arn=None, encryption_context={}), key_source=KeySource.CUSTOMER
            ),
            CustomerKeyMissingError,
            "customer-provided",
        ),
        (
            msgspec.structs.replace(RECORD, region="eu-west-1"),
            InvalidArgumentError,
            "belongs to region eu-west-1",
        ),
    ],
    ids=["another volume's key", "no context", "customer", "region"],
)
def test_copies_that_are_not_for_this_home(
    home: Home, tmp_path: Path, record: VolumeRecord, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        register(home, tmp_path, record, kms_key=None)
    assert load_records(home) == {}


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A loop device that sysfs calls a Ceph RBD image."""
    image = tmp_path / "disk"
    image.touch()
    os.truncate(image, 2 * MIB)
    made = Path(run("losetup", "--find", "--show", image).strip())
    number = made.stat().st_rdev
    assert stat.S_ISBLK(made.stat().st_mode)
    sysfs = tmp_path / "sys"
    (sysfs / "devices" / "rbd0" / "device").mkdir(parents=True)
    (sysfs / "devices" / "rbd0" / "device" / "image_id").write_text("1022")
    (sysfs / "dev" / "block").mkdir(parents=True)
    link = sysfs / "dev" / "block" / f"{os.major(number)}:{os.minor(number)}"
    link.symlink_to(sysfs / "devices" / "rbd0")
    monkeypatch.setattr(block_device, "SYSFS", sysfs)
    try:
        yield made
    finally:
        run("losetup", "--detach", made)


def test_a_device_that_several_hosts_reach_needs_a_lease_or_a_word(
    home: Home, device: Path
) -> None:
    def create(placement: Placement) -> VolumeRecord:
        choice = KeyChoice()
        return create_volume(home, size_bytes=MIB, name=None, choice=choice, placement=placement)

    with pytest.raises(InvalidArgumentError, match="is a Ceph RBD image, which several") as caught:
        create(Placement(data=device))
    assert caught.value.hint is not None
    assert "--lease STORE" in caught.value.hint
    assert "--single-host" in caught.value.hint
    with pytest.raises(InvalidArgumentError, match="which several hosts can reach"):
        create(Placement(data=device, force=True, assume_zeroed=True))
    made = create(Placement(data=device, single_host=True))
    assert (made.device, made.lease) == ("rbd:1022", None)
