"""Fixtures of the KMS tests."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.fakes.kms import MemoryKms, memory_kms


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """A directory in memory: a sync costs nothing, where a test is not about power cuts."""
    with TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


@pytest.fixture
def kms(memory_path: Path) -> Iterator[MemoryKms]:
    with memory_kms(memory_path / "kms") as memory:
        yield memory
