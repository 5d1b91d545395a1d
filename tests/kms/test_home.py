"""Making and opening the KMS of a home, on a real token."""

import os
import shutil
from pathlib import Path

import pytest

from tests.fakes.kms import ACCOUNT, REGION, ROOT, VOLUMES
from volcrypt.errors import (
    ConfigurationError,
    FormatError,
    HomeNotInitialisedError,
    IntegrityError,
    InvalidArgumentError,
    VolcryptError,
)
from volcrypt.kms.home import create_kms, has_kms, open_kms
from volcrypt.kms.messages.data import (
    DecryptRequest,
    EncryptRequest,
    GenerateDataKeyWithoutPlaintextRequest,
)
from volcrypt.kms.messages.keys import CreateKeyRequest


def create(path: Path, pin: bytes | None = None, *, region: str = REGION) -> None:
    given = None if pin is None else bytearray(pin)
    create_kms(path / "kms", path / "run", account=ACCOUNT, region=region, pin=given)


def make_key(path: Path, pin: bytes | None = None) -> str:
    given = None if pin is None else bytearray(pin)
    with open_kms(path / "kms", path / "run", account=ACCOUNT, region=REGION, pin=given) as service:
        return service.perform(ROOT, CreateKeyRequest()).key_metadata.key_id


def test_a_new_home_works_and_keeps_what_it_did(memory_path: Path) -> None:
    create(memory_path)
    with open_kms(
        memory_path / "kms", memory_path / "run", account=ACCOUNT, region=REGION
    ) as service:
        made = service.perform(
            VOLUMES,
            GenerateDataKeyWithoutPlaintextRequest(key_id="alias/aws/ebs", number_of_bytes=64),
        )
        home_key = service.derive_home_key(b"volume vol-1")
    with open_kms(
        memory_path / "kms", memory_path / "run", account=ACCOUNT, region=REGION
    ) as service:
        request = DecryptRequest(ciphertext_blob=made.ciphertext_blob)
        assert len(service.perform(VOLUMES, request).plaintext) == 64
        assert service.derive_home_key(b"volume vol-1") == home_key
        assert service.audit_log.verify(service.audit_head()) == 0


def test_files_are_for_their_owner_alone(memory_path: Path) -> None:
    before = os.umask(0)
    try:
        create(memory_path)
        make_key(memory_path)
    finally:
        os.umask(before)
    for path in [memory_path / "kms", *(memory_path / "kms").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path
    names = {p.name for p in (memory_path / "kms").iterdir()}
    assert names == {
        *("lock", "serving", "pin", "token", "audit"),
        *("catalog.sqlite3", "catalog.sqlite3-journal"),
    }
    assert os.listdir(memory_path / "run") == ["token.lock"]


def test_a_given_pin_is_kept_nowhere(memory_path: Path) -> None:
    create(memory_path, b"correct horse battery")
    make_key(memory_path, b"correct horse battery")
    assert not (memory_path / "kms" / "pin").exists()
    for path in memory_path.rglob("*"):
        if path.is_file():
            assert b"correct horse" not in path.read_bytes()
    with pytest.raises(ConfigurationError, match="not kept"):
        make_key(memory_path)
    with pytest.raises(ConfigurationError, match="does not open the token"):
        make_key(memory_path, b"another pin")


def test_making_it_again_changes_nothing(memory_path: Path) -> None:
    create(memory_path)
    key_id = make_key(memory_path)
    create(memory_path)
    with open_kms(
        memory_path / "kms", memory_path / "run", account=ACCOUNT, region=REGION
    ) as service:
        service.perform(ROOT, EncryptRequest(key_id=key_id, plaintext=bytearray(1)))
    with pytest.raises(ConfigurationError, match="does not open the token"):
        create(memory_path, b"another pin")
    with pytest.raises(ConfigurationError, match="belongs to account"):
        create(memory_path, region="eu-west-1")


def test_a_pin_that_no_token_takes_leaves_nothing(memory_path: Path) -> None:
    with pytest.raises(InvalidArgumentError):
        create(memory_path, b"abc")
    assert os.listdir(memory_path) == []


def test_a_home_that_is_none_and_one_of_another_region(memory_path: Path) -> None:
    assert not has_kms(memory_path / "kms")
    with pytest.raises(HomeNotInitialisedError):
        make_key(memory_path)
    create(memory_path)
    assert has_kms(memory_path / "kms")
    with (
        pytest.raises(ConfigurationError, match="region us-east-1"),
        open_kms(memory_path / "kms", memory_path / "run", account=ACCOUNT, region="eu-west-1"),
    ):
        pass


@pytest.mark.parametrize("name", ["catalog.sqlite3", "token/master"])
def test_damage_is_a_clear_error(memory_path: Path, name: str) -> None:
    create(memory_path)
    path = memory_path / "kms" / name
    data = path.read_bytes()
    for broken in (b"", data[: len(data) // 2], b"x" * 100, data[:40] + b"\xff" * 400):
        path.write_bytes(broken)
        with pytest.raises((FormatError, IntegrityError)) as raised:
            make_key(memory_path)
        assert name in str(raised.value)
        assert "\n" not in str(raised.value)
    path.write_bytes(data)
    make_key(memory_path)


def test_a_lost_catalogue_is_not_made_anew(memory_path: Path) -> None:
    create(memory_path)
    make_key(memory_path)
    token = (memory_path / "kms/token/master").read_bytes()
    (memory_path / "kms/catalog.sqlite3").unlink()
    with pytest.raises(IntegrityError, match=r"catalog\.sqlite3 is registered, and missing"):
        create(memory_path)
    assert (memory_path / "kms/token/master").read_bytes() == token


def test_an_unfinished_attempt_with_another_pin_is_started_over(memory_path: Path) -> None:
    create(memory_path)
    (memory_path / "kms/catalog.sqlite3").unlink()
    create(memory_path, b"a given pin")
    make_key(memory_path, b"a given pin")
    assert not (memory_path / "kms/pin").exists()


def test_a_lost_token_is_said_and_not_replaced_by_opening(memory_path: Path) -> None:
    create(memory_path)
    shutil.rmtree(memory_path / "kms" / "token")
    with pytest.raises(IntegrityError, match="missing on disk"):
        make_key(memory_path)


def test_the_token_of_another_home_is_refused(memory_path: Path) -> None:
    for name in ("one", "other"):
        (memory_path / name).mkdir()
        create(memory_path / name, b"the same pin")
    shutil.copy(memory_path / "other/kms/token/master", memory_path / "one/kms/token/master")
    with pytest.raises(IntegrityError):
        make_key(memory_path / "one", b"the same pin")


def test_a_damaged_pin_file_is_a_clear_error(memory_path: Path) -> None:
    create(memory_path)
    for broken in (b"", b"\xff\xff\xff\xff", b"another pin"):
        (memory_path / "kms/pin").write_bytes(broken)
        with pytest.raises(VolcryptError, match="PIN"):
            make_key(memory_path)
