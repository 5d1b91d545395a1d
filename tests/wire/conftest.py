"""Fixtures of the wire tests."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.wire.in_process import Wire, wire_on
from tests.wire.served import Served, served


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """A directory in memory: a sync costs nothing, where a test is not about power cuts."""
    with TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


@pytest.fixture
def wire(memory_path: Path) -> Iterator[Wire]:
    with wire_on(memory_path / "kms") as made:
        yield made


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A real daemon, for all tests of a module that do not end it."""
    with served(tmp_path_factory.mktemp("served")) as made:
        yield made
