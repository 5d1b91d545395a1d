"""The file descriptor store of a service manager, and what a service finds at its start."""

import os
from pathlib import Path

import pytest

from tests.service_manager import service_manager
from volcrypt.daemons import notify
from volcrypt.daemons.notify import DescriptorStore, passed_descriptors


def test_descriptors_are_kept_under_their_names_and_forgotten(tmp_path: Path) -> None:
    with service_manager(tmp_path) as manager:
        store = DescriptorStore(str(manager.address))
        ours = os.memfd_create("ours")
        os.write(ours, b"content")
        store.keep({"one": ours, "two": ours})
        assert manager.names == ["one", "two"]
        store.keep({"one": ours})
        assert manager.names == ["one", "two"]
        os.close(ours)
        passed = manager.passed()
        assert os.pread(passed["two"], 10, 0) == b"content"
        for descriptor in passed.values():
            os.close(descriptor)
        store.forgotten(["one", "nothing"])
        assert manager.names == ["two"]


def test_a_manager_that_is_silent_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    monkeypatch.setattr(notify, "_BARRIER_SECONDS", 0.01)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as silent:
        silent.bind(str(tmp_path / "silent"))
        with pytest.raises(TimeoutError):
            DescriptorStore(str(tmp_path / "silent")).keep({})
    with pytest.raises(OSError, match="refused"):
        DescriptorStore(str(tmp_path / "silent")).keep({})


def test_only_our_own_descriptors_are_taken() -> None:
    assert passed_descriptors({}, 7) == {}
    assert passed_descriptors({"LISTEN_PID": "8", "LISTEN_FDS": "1"}, 7) == {}
    assert passed_descriptors({"LISTEN_PID": "7", "LISTEN_FDS": "x"}, 7) == {}
