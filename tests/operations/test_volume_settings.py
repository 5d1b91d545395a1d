"""Encryption by default and the default key: what new volumes, imports and copies are, with the
setting off and on; which key goes before which."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes.kms import ACCOUNT, MemoryKms, memory_kms
from tests.snapshots import create_snapshot
from volcrypt.crypto.customer_key import CustomerKey
from volcrypt.crypto.digest import DigestAlgorithm
from volcrypt.errors import (
    AccessDeniedError,
    ConfigurationError,
    InvalidArgumentError,
    KeyDisabledError,
    KeyNotFoundError,
)
from volcrypt.formats.manifest import Manifest
from volcrypt.formats.volume_record import KeySource, VolumeRecord
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.kms.messages.aliases import CreateAliasRequest, UpdateAliasRequest
from volcrypt.kms.messages.keys import CreateKeyRequest, DisableKeyRequest
from volcrypt.kms.messages.policies import PutKeyPolicyRequest
from volcrypt.kms.messages.principals import CreateUserRequest, PutUserPolicyRequest
from volcrypt.kms.model import DEFAULT_KEY_ALIAS
from volcrypt.operations.copy_creation import copy_snapshot
from volcrypt.operations.encrypt import encrypt_volume
from volcrypt.operations.home import Home
from volcrypt.operations.images import import_volume
from volcrypt.operations.keys import KeyChoice
from volcrypt.operations.progress import SILENT
from volcrypt.operations.records import data_path, load_record
from volcrypt.operations.restore import volume_from_snapshot
from volcrypt.operations.status import read_status
from volcrypt.operations.store_admin import create_store
from volcrypt.operations.vault import Access
from volcrypt.operations.volume_export import export_volume
from volcrypt.operations.volume_settings import (
    DefaultKeySource,
    set_default_key,
    set_encryption_by_default,
    view_settings,
)
from volcrypt.operations.volumes import create_volume
from volcrypt.settings import DEFAULT_REGION

PLAIN = KeyChoice(encrypted=False)
SIZE = 2 * CHUNK_BYTES
CONTENT = b"very plain text " * (SIZE // 16)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def plain(home: Home, image: Path) -> Manifest:
    """An unencrypted snapshot of an unencrypted volume, from before the setting."""
    import_volume(home, image, name="plain", choice=PLAIN, progress=SILENT)
    return create_snapshot(home, "plain", name="plain-1", store=None, progress=SILENT)


def new_key(home: Home) -> str:
    return home.kms.perform(home.caller, CreateKeyRequest()).key_metadata.arn


@contextmanager
def acting(home: Home, access: Access) -> Iterator[Home]:
    """The home as another profile has it: a process opens a token once."""
    before = home.access, home.key_region
    try:
        home.access, home.key_region = access, access.region or home.region
        for cached in ("caller", "kms"):
            vars(home).pop(cached, None)
        yield home
    finally:
        home.access, home.key_region = before
        for cached in ("caller", "kms"):
            vars(home).pop(cached, None)


def copy(home: Home, snapshot: str, choice: KeyChoice, **wishes: str | None) -> Manifest:
    asked: dict[str, str | None] = {"name": None, "store": None, "region": None, **wishes}
    return copy_snapshot(
        home,
        snapshot,
        choice=choice,
        name=asked["name"],
        store=asked["store"],
        region=asked["region"],
        progress=SILENT,
    )


def restore(home: Home, snapshot: str, choice: KeyChoice | None) -> VolumeRecord:
    return volume_from_snapshot(
        home, snapshot, size_bytes=None, name=None, choice=choice, progress=SILENT
    )


MAKERS: dict[str, Callable[[Home, Path, KeyChoice], VolumeRecord | Manifest]] = {
    "create": lambda home, _, choice: create_volume(
        home, size_bytes=SIZE, name=None, choice=choice
    ),
    "import": lambda home, image, choice: (
        import_volume(home, image, name=None, choice=choice, progress=SILENT).record
    ),
    "copy": lambda home, _, choice: copy(home, "plain-1", choice),
    "restore": lambda home, _, choice: restore(home, "plain-1", choice),
}


@pytest.mark.parametrize("what", MAKERS)
def test_unencrypted_is_made_while_it_is_off_and_refused_while_it_is_on(
    home: Home, image: Path, plain: Manifest, what: str
) -> None:
    make = MAKERS[what]
    assert not make(home, image, PLAIN).is_encrypted
    key = new_key(home)
    set_default_key(home, key)
    set_encryption_by_default(home, on=True)
    volumes = sorted(path.name for path in home.volumes.path.iterdir())
    with pytest.raises(InvalidArgumentError, match="encryption by default is on") as refused:
        make(home, image, PLAIN)
    assert "--unencrypted" in str(refused.value.hint)
    assert sorted(path.name for path in home.volumes.path.iterdir()) == volumes
    made = make(home, image, KeyChoice())
    assert made.wrapped_key is not None
    assert made.wrapped_key.kms_key_arn == key
    own = CustomerKey(bytearray(b"k" * 32))
    home.customer_keys.append(own)
    assert make(home, image, KeyChoice(customer_key=own)).key_source is KeySource.CUSTOMER
    home.wipe_customer_keys()
    set_encryption_by_default(home, on=False)
    assert not make(home, image, PLAIN).is_encrypted


def test_a_volume_from_an_unencrypted_snapshot(home: Home, plain: Manifest, tmp_path: Path) -> None:
    """Nothing is said of a key. Off: as unencrypted as the snapshot. On: encrypted, while its
    chunks are fetched; no plaintext comes into its data file."""
    assert not restore(home, "plain-1", None).is_encrypted
    set_encryption_by_default(home, on=True)
    made = restore(home, "plain-1", None)
    assert made.wrapped_key is not None
    assert made.wrapped_key.kms_key_arn is not None
    assert made.source is not None, "it is lazy"
    assert made.source.wrapped_key is None
    export_volume(home, made.volume_id, tmp_path / "out", progress=SILENT)
    assert (tmp_path / "out").read_bytes() == CONTENT
    stored = data_path(home, made).read_bytes()
    assert len(stored) == SIZE
    assert CONTENT[:512] not in stored
    # The control: that is how it looks unencrypted.
    assert CONTENT[:512] in data_path(home, load_record(home, "plain")).read_bytes()


def test_what_is_there_stays_as_it_is(home: Home, plain: Manifest, image: Path) -> None:
    first = create_volume(home, size_bytes=SIZE, name="first", choice=KeyChoice())
    before = load_record(home, "plain")
    set_encryption_by_default(home, on=True)
    set_default_key(home, new_key(home))
    assert load_record(home, "plain") == before
    assert load_record(home, "first") == first
    # Its snapshots are of what it is, and a volume of an encrypted one keeps that one's key.
    again = create_snapshot(home, "plain", name="plain-2", store=None, progress=SILENT)
    assert not again.is_encrypted
    create_snapshot(home, "first", name="first-1", store=None, progress=SILENT)
    shared = restore(home, "first-1", None)
    assert first.wrapped_key is not None
    assert shared.wrapped_key is not None
    assert shared.wrapped_key.data_key_id == first.wrapped_key.data_key_id


def test_an_unencrypted_volume_can_still_be_encrypted(home: Home, plain: Manifest) -> None:
    """The unencrypted snapshot on the way is the workflow's own business."""
    set_encryption_by_default(home, on=True)
    report = encrypt_volume(
        home,
        "plain",
        choice=KeyChoice(),
        keep_old=False,
        delete_plain_snapshots=False,
        progress=SILENT,
    )
    assert load_record(home, "plain").volume_id == report.volume_id
    assert load_record(home, "plain").is_encrypted


def test_a_copy_goes_by_the_setting_of_the_region_it_goes_to(
    home: Home, plain: Manifest, tmp_path: Path
) -> None:
    create_store(
        home,
        "far",
        url=(tmp_path / "far").as_uri(),
        region="eu-west-1",
        endpoint=None,
        encryption=None,
        digest=DigestAlgorithm.BLAKE3,
    )
    set_encryption_by_default(home, on=True)
    assert not copy(home, "plain-1", PLAIN, store="far").is_encrypted
    set_encryption_by_default(home, on=False)
    with acting(home, Access(region="eu-west-1", served_regions=frozenset({"eu-west-1"}))):
        set_encryption_by_default(home, on=True)
    assert not copy(home, "plain-1", PLAIN).is_encrypted
    with pytest.raises(InvalidArgumentError, match="region eu-west-1"):
        copy(home, "plain-1", PLAIN, store="far")


def test_which_key_goes_before_which(home: Home) -> None:
    def made(choice: KeyChoice = KeyChoice()) -> str | None:  # noqa: B008 it is a value
        record = create_volume(home, size_bytes=SIZE, name=None, choice=choice)
        assert record.wrapped_key is not None
        return record.wrapped_key.kms_key_arn

    assert view_settings(home).default_key_source is DefaultKeySource.SERVICE
    service_managed = made()
    set_here, of_profile, named = (new_key(home) for _ in range(3))
    assert set_default_key(home, set_here) == set_here
    assert view_settings(home).default_key_source is DefaultKeySource.SETTING
    assert view_settings(home).default_kms_key == made() == set_here != service_managed
    home.access = Access(default_kms_key=of_profile)
    assert view_settings(home).default_key_source is DefaultKeySource.PROFILE
    assert made() == of_profile
    assert made(KeyChoice(kms_key=named)) == named
    home.access = Access()
    assert set_default_key(home, None) is None
    assert view_settings(home).default_kms_key == DEFAULT_KEY_ALIAS
    assert made() == service_managed


def test_an_alias_is_looked_up_once(home: Home) -> None:
    first, second = new_key(home), new_key(home)
    home.kms.perform(home.caller, CreateAliasRequest(alias_name="alias/mine", target_key_id=first))
    assert set_default_key(home, "alias/mine") == first
    home.kms.perform(home.caller, UpdateAliasRequest(alias_name="alias/mine", target_key_id=second))
    assert home.default_kms_key == first


def test_a_key_that_nothing_can_be_made_with_is_no_default(home: Home) -> None:
    disabled = new_key(home)
    home.kms.perform(home.caller, DisableKeyRequest(key_id=disabled))
    with pytest.raises(KeyDisabledError):
        set_default_key(home, disabled)
    with pytest.raises(KeyNotFoundError):
        set_default_key(home, "alias/nothing")
    assert home.default_kms_key == DEFAULT_KEY_ALIAS


def test_a_key_that_the_caller_may_not_use_is_no_default(home: Home) -> None:
    """He may change the setting, and look at the key; he may not make volumes with it."""
    key = new_key(home)
    root = home.caller
    home.kms.perform(root, CreateUserRequest(user_name="alice"))
    policy = (
        '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Resource": "*", "Action": '
        '["volcrypt:ModifyEbsDefaultKmsKeyId", "kms:DescribeKey"%s]}]}'
    )

    def allow(more: str) -> None:
        home.kms.perform(
            root,
            PutUserPolicyRequest(user_name="alice", policy_name="p", policy_document=policy % more),
        )

    allow("")
    access = Access(principal="alice")
    with acting(home, access) as hers:
        with pytest.raises(AccessDeniedError, match="GenerateDataKeyWithoutPlaintext"):
            set_default_key(hers, key)
        assert hers.default_kms_key == DEFAULT_KEY_ALIAS
        with pytest.raises(AccessDeniedError, match="EnableEbsEncryptionByDefault"):
            set_encryption_by_default(hers, on=True)
        assert not view_settings(hers).encryption_by_default, "looking takes no permission"
    allow(', "kms:GenerateDataKeyWithoutPlaintext"')
    with acting(home, access) as hers:
        set_default_key(hers, key)
        assert hers.default_kms_key == key


def test_a_policy_may_want_to_see_a_volume(home: Home) -> None:
    """A key that serves nothing but volumes can be the default one."""
    key = new_key(home)
    policy = f"""{{"Version": "2012-10-17", "Statement": [
        {{"Effect": "Allow", "Principal": {{"AWS": "arn:aws:iam::{ACCOUNT}:root"}},
          "Action": "kms:*", "Resource": "*"}},
        {{"Effect": "Deny", "Principal": "*", "Action": "kms:GenerateDataKey*", "Resource": "*",
          "Condition": {{"Null": {{"kms:EncryptionContext:volcrypt:volume-id": "true"}}}}}}]}}"""
    home.kms.perform(home.caller, PutKeyPolicyRequest(key_id=key, policy=policy))
    set_default_key(home, key)
    assert home.default_kms_key == key


@pytest.fixture
def other(tmp_path: Path) -> Iterator[MemoryKms]:
    with memory_kms(tmp_path / "other") as kms:
        yield kms


def test_with_another_kms_they_lie_in_the_home(home: Home, other: MemoryKms) -> None:
    """Under its seal. What is said of encryption holds for all; the default key is one for each."""
    away = Access(region="eu-west-1", other_kms=lambda: other.service, kms_name="https://o eu")
    key = other.new_key()
    with acting(home, away) as there:
        assert view_settings(there).default_key_source is DefaultKeySource.NOBODY
        assert view_settings(there).default_kms_key is None
        with pytest.raises(ConfigurationError, match="names no default_kms_key"):
            create_volume(there, size_bytes=SIZE, name=None, choice=KeyChoice())
        arn = set_default_key(there, key)
        made = create_volume(there, size_bytes=SIZE, name=None, choice=KeyChoice())
        assert made.wrapped_key is not None
        assert made.wrapped_key.kms_key_arn == arn
        assert view_settings(there).region == DEFAULT_REGION
        set_encryption_by_default(there, on=True)
    assert home.default_kms_key == DEFAULT_KEY_ALIAS
    with pytest.raises(InvalidArgumentError, match="encryption by default"):
        create_volume(home, size_bytes=SIZE, name=None, choice=PLAIN)
    with acting(home, away) as there:
        with pytest.raises(InvalidArgumentError, match="encryption by default"):
            create_volume(there, size_bytes=SIZE, name=None, choice=PLAIN)
        assert set_default_key(there, None) is None
        assert view_settings(there).default_kms_key is None


def test_status_says_it(home: Home) -> None:
    found = read_status(home).settings
    assert found is not None
    assert (found.encryption_by_default, found.default_kms_key) == (False, DEFAULT_KEY_ALIAS)
    set_encryption_by_default(home, on=True)
    found = read_status(home).settings
    assert found is not None
    assert found.encryption_by_default
