"""Fixtures of the KMS tests."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.fakes.kms import MemoryKms, memory_kms
from tests.kms.people import add_user
from volcrypt.kms.model import Caller


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """A directory in memory: a sync costs nothing, where a test is not about power cuts."""
    with TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


@pytest.fixture
def kms(memory_path: Path) -> Iterator[MemoryKms]:
    with memory_kms(memory_path / "kms") as memory:
        yield memory


@pytest.fixture
def alice(kms: MemoryKms) -> Caller:
    """A user who may nothing by policy."""
    return add_user(kms, "alice")


@pytest.fixture
def bob(kms: MemoryKms) -> Caller:
    return add_user(kms, "bob")
