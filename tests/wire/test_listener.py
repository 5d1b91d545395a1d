"""Where a daemon listens: what others reach has TLS, and what is a file's is its owner's."""

import os
import socket
import ssl
from pathlib import Path

import pytest

from volcrypt.errors import ConfigurationError, InvalidArgumentError
from volcrypt.wire.listener import listen_tcp, listen_unix, passed_listeners


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"])
def test_what_others_reach_needs_tls(address: str) -> None:
    with pytest.raises(InvalidArgumentError, match="is no loopback address"):
        listen_tcp(address, None)


@pytest.mark.parametrize("others", [("127.0.0.1", "192.0.2.1"), ("192.0.2.1", "127.0.0.1")])
def test_a_name_that_is_also_of_another_address_needs_tls(
    monkeypatch: pytest.MonkeyPatch, others: tuple[str, str]
) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in others]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_members: found)
    with pytest.raises(InvalidArgumentError, match="is no loopback address"):
        listen_tcp("myself:0", None)


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0"])
def test_this_host_needs_none(address: str) -> None:
    listener = listen_tcp(address, None)
    with listener.socket:
        assert listener.url.startswith("http://")


def test_with_tls_others_may_reach_it() -> None:
    listener = listen_tcp("0.0.0.0:0", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    with listener.socket:
        assert listener.url.startswith("https://")


@pytest.mark.parametrize("mode", [0o600, 0o660])
def test_a_socket_is_for_whom_its_mode_says(tmp_path: Path, mode: int) -> None:
    before = os.umask(0o022)
    try:
        with listen_unix(tmp_path / "socket", mode=mode).socket:
            assert (tmp_path / "socket").stat().st_mode & 0o777 == mode
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_a_socket_is_for_its_owner_and_in_the_place_of_nothing_that_lives(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    first = listen_unix(path).socket
    with first:
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(ConfigurationError, match="somebody listens on"):
            listen_unix(path)
    with listen_unix(path).socket:  # who listened is dead
        pass
    path.unlink()
    path.write_text("kept")
    with pytest.raises(ConfigurationError, match="is no socket"):
        listen_unix(path)
    assert path.read_text() == "kept"


def test_a_passed_socket_that_others_reach_needs_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as passed:
        passed.bind(("0.0.0.0", 0))
        monkeypatch.setattr("volcrypt.wire.listener._FIRST_PASSED", os.dup(passed.fileno()))
        environment = {"LISTEN_PID": "7", "LISTEN_FDS": "1"}
        assert passed_listeners(environment, 8, None).http == []
        with pytest.raises(ConfigurationError, match="which is no loopback address"):
            passed_listeners(environment, 7, None)
