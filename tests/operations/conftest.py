"""A home for the tests of operations."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import disposable_home
from volcrypt.operations.home import Home
from volcrypt.operations.home_directory import init_home
from volcrypt.settings import DEFAULT_ACCOUNT, DEFAULT_REGION, runtime_root


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with disposable_home(tmp_path / "home") as command:
        init_home(
            command.home,
            runtime_root(),
            account=DEFAULT_ACCOUNT,
            region=DEFAULT_REGION,
            pin=None,
        )
        with Home(command.home, runtime_root()) as opened:
            yield opened
