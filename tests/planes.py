"""On which data plane the tests that mount volumes run, where they do not say it themselves.

`VOLCRYPT_TEST_DATA_PLANE=python .venv/bin/pytest tests/e2e` runs them all on Python's. Which tests
that are is found out as they run: each that asks is noted in the file that VOLCRYPT_TEST_MOUNTS
names, if it names one. `scripts/test` runs those again on the other plane.
"""

import os
from collections.abc import Iterator
from typing import Final, cast

import pytest

from volcrypt.volume.launch import DataPlaneKind

DATA_PLANE: Final = cast(DataPlaneKind, os.environ.get("VOLCRYPT_TEST_DATA_PLANE", "native"))
assert DATA_PLANE in {"python", "native"}


def data_plane() -> DataPlaneKind:
    """For a mount that a test is about to make; notes the test."""
    current = os.environ.get("PYTEST_CURRENT_TEST")
    if current is not None:
        _note(current.rpartition(" (")[0])
    return DATA_PLANE


def _noted_bytes() -> int:
    """How much was noted up to now."""
    path = os.environ.get("VOLCRYPT_TEST_MOUNTS")
    return os.path.getsize(path) if path and os.path.exists(path) else 0


def _note(*tests: str) -> None:
    """Note tests, of this process or others, as ones that mount."""
    if path := os.environ.get("VOLCRYPT_TEST_MOUNTS"):
        with open(path, "a") as file:
            file.writelines(f"{test}\n" for test in tests)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
) -> Iterator[None]:
    """A hook of pytest: what a fixture of several tests mounts, all of them use."""
    before = _noted_bytes()
    yield
    if fixturedef.scope != "function" and _noted_bytes() > before:
        _note(
            *(
                item.nodeid
                for item in request.session.items
                if isinstance(item, pytest.Function)
                and fixturedef.argname in item.fixturenames
                and item.nodeid.startswith(fixturedef.baseid)
            )
        )
