"""In which region the key of a copy has to be, where another KMS than the home's has the keys."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import disposable_home
from tests.fakes.kms import ACCOUNT, memory_kms
from tests.snapshots import create_snapshot
from volcrypt.crypto.digest import DigestAlgorithm
from volcrypt.errors import InvalidArgumentError
from volcrypt.formats.manifest import Manifest
from volcrypt.kms.messages.keys import CreateKeyRequest
from volcrypt.kms.model import Caller, root_arn
from volcrypt.operations.copy_creation import copy_snapshot
from volcrypt.operations.home import Home
from volcrypt.operations.home_directory import init_home
from volcrypt.operations.keys import KeyChoice
from volcrypt.operations.progress import SILENT
from volcrypt.operations.store_admin import create_store
from volcrypt.operations.vault import Access
from volcrypt.operations.volumes import create_volume
from volcrypt.settings import DEFAULT_REGION, runtime_root

ELSEWHERE = "eu-west-1"
ROOT = Caller(arn=root_arn(ACCOUNT), account=ACCOUNT)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A home whose profile has its keys in another KMS and region."""
    with disposable_home(tmp_path / "home") as made, memory_kms(tmp_path / "other") as other:
        init_home(made.home, runtime_root(), account=ACCOUNT, region=DEFAULT_REGION, pin=None)
        there = other.service.scope(ACCOUNT, ELSEWHERE)
        key = there.perform(ROOT, CreateKeyRequest()).key_metadata.arn
        access = Access(region=ELSEWHERE, other_kms=lambda: there, default_kms_key=key)
        with Home(made.home, runtime_root(), access=access) as opened:
            yield opened


def copy(home: Home, *, store: str | None) -> Manifest:
    return copy_snapshot(
        home,
        "first",
        choice=KeyChoice(),
        name=None,
        store=store,
        region=None,
        progress=SILENT,
    )


def test_the_key_of_a_copy_is_of_the_profile_s_region(home: Home, tmp_path: Path) -> None:
    for name, region in (("far", ELSEWHERE), ("mars", "mars-north-1")):
        create_store(
            home,
            name,
            url=(tmp_path / name).as_uri(),
            region=region,
            endpoint=None,
            encryption=None,
            digest=DigestAlgorithm.BLAKE3,
        )
    create_volume(home, size_bytes=2**20, name="data", choice=KeyChoice())
    create_snapshot(home, "data", name="first", store=None, progress=SILENT)
    # In the home's own region, and in that of the key.
    for store, region in ((None, DEFAULT_REGION), ("far", ELSEWHERE)):
        made = copy(home, store=store)
        assert made.region == region
        assert made.wrapped_key is not None
        assert made.wrapped_key.kms_key_arn == home.default_kms_key
    with pytest.raises(InvalidArgumentError, match="under a key of region mars-north-1"):
        copy(home, store="mars")
