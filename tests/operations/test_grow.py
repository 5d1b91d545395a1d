"""What a growing volume waits for; the rest needs real mounts (`tests/e2e/test_grow.py`)."""

import os
from pathlib import Path

import pytest

from volcrypt.errors import MountError
from volcrypt.operations import grow


def test_a_kernel_that_learns_of_the_size_late_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "volume"
    file.write_bytes(bytes(4096))
    pauses = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            os.truncate(file, 8192)

    monkeypatch.setattr("time.sleep", pause)
    grow._await_kernel(file, 8192)
    assert len(pauses) == 3


def test_one_that_never_learns_of_it_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "volume"
    file.write_bytes(bytes(4096))
    monkeypatch.setattr(grow, "_KERNEL_SECONDS", 0.0)
    with pytest.raises(MountError, match="has 4096 bytes, it should have 8192"):
        grow._await_kernel(file, 8192)
