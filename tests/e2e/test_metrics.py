"""The figures of volumes, as a monitoring system gets them from real processes."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.command import VOLCRYPT, Command, disposable_home
from tests.metrics_page import Page, UnixConnection, ask, names, parsed, total, value
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES

SIZE = 8 * CHUNK_BYTES


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    with disposable_home(tmp_path / "home") as made:
        made.run("init")
        made.run("volume", "create", "--size", str(SIZE), "--name", "orders")
        (tmp_path / "mnt").mkdir()
        yield made


@contextmanager
def exporter(command: Command, address: Path | str) -> Iterator[str]:
    """The process that serves figures; where."""
    process = subprocess.Popen(
        [VOLCRYPT, "--home", command.home, "status", "--metrics", address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().rpartition(" ")[2].strip()
        process.send_signal(signal.SIGTERM)
        assert (process.communicate(timeout=30)[1], process.returncode) == ("", 0)
    finally:
        process.kill()
        process.communicate()


def scrape(path: Path) -> Page:
    status, content_type, body = ask(UnixConnection(path))
    assert (status, content_type.split(";")[0]) == (200, "application/openmetrics-text")
    return parsed(body)


def write_and_read(path: Path, count: int) -> None:
    """So many writes, reads and syncs of a unit each."""
    file = os.open(path, os.O_RDWR)
    try:
        for number in range(count):
            os.pwrite(file, bytes([number + 1]) * UNIT_BYTES, number * UNIT_BYTES)
            os.fsync(file)
            assert os.pread(file, UNIT_BYTES, number * UNIT_BYTES)[0] == number + 1
    finally:
        os.close(file)


def test_a_volume_from_its_first_request_to_its_end(command: Command, tmp_path: Path) -> None:
    """On either data plane: what was done is what is counted, and nothing else in the KMS."""
    socket = tmp_path / "metrics.sock"
    with exporter(command, socket) as url:
        assert url == f"unix:{socket}"
        before = scrape(socket)
        assert "volcrypt_volume_info" not in names(before)
        assert value(before, "volcrypt_home_free_bytes") > 0
        command.run("mount", "orders", tmp_path / "mnt")
        (volume,) = command.json("volume", "list")["Volumes"]
        label = volume["VolumeId"]
        recorded = command.json("audit", "verify")["Records"]
        first = scrape(socket)
        write_and_read(tmp_path / "mnt" / "volume", 20)
        second = scrape(socket)
        assert command.json("audit", "verify")["Records"] == recorded
        for operation, count, size in (
            ("read", 20, 20 * UNIT_BYTES),
            ("write", 20, 20 * UNIT_BYTES),
            ("sync", 20, 0),
            ("discard", 0, 0),
        ):
            for name, more in (
                ("volcrypt_volume_request_seconds_count", count),
                ("volcrypt_volume_moved_bytes_total", size),
                ("volcrypt_volume_request_errors_total", 0),
            ):
                counted = [
                    total(page, name, volume=label, operation=operation) for page in (first, second)
                ]
                assert counted[1] - counted[0] == more, (operation, name)
        assert value(second, "volcrypt_volume_size_bytes", volume=label) == SIZE
        assert value(second, "volcrypt_volume_fenced", volume=label) == 0
        assert value(second, "volcrypt_volume_free_bytes", volume=label) > 0
        assert value(second, "volcrypt_volume_encrypted_bytes", volume=label) > 0
        assert value(second, "volcrypt_volumes_silent") == 0
        command.run("unmount", "orders")
        assert "volcrypt_volume_info" not in names(scrape(socket))
    assert not socket.exists()


def test_a_process_that_was_killed_is_seen(command: Command, tmp_path: Path) -> None:
    command.run("mount", "orders", tmp_path / "mnt")
    command.kill_processes()
    page = parsed(command.run("status", "--metrics", "-") + "\n")
    assert value(page, "volcrypt_volumes_silent") == 1
    command.clear_dead_mount(tmp_path / "mnt")


def test_a_lazy_volume_and_a_failed_snapshot(command: Command, tmp_path: Path) -> None:
    command.run("mount", "orders", tmp_path / "mnt")
    write_and_read(tmp_path / "mnt" / "volume", 2)
    command.run("unmount", "orders")
    command.run("snapshot", "create", "orders", "--name", "first", "--wait")
    command.run("volume", "create", "--snapshot-id", "first", "--name", "copy", "--fill-rate", "0")
    command.run("mount", "copy", tmp_path / "mnt")
    (served,) = [v for v in command.json("volume", "list")["Volumes"] if v["Name"] == "copy"]
    page = parsed(command.run("status", "--metrics", "-") + "\n")
    label = served["VolumeId"]
    here = value(page, "volcrypt_volume_lazy_present_chunks", volume=label)
    assert 0 <= here <= value(page, "volcrypt_volume_lazy_chunks", volume=label)
    assert value(page, "volcrypt_volume_lazy_problem", volume=label) == 0
    assert value(page, "volcrypt_snapshots_in_flight", kind="snapshot") == 0


def test_an_address_that_others_reach_is_refused(command: Command) -> None:
    refused = command.fails(2, "status", "--metrics", "0.0.0.0:0")
    assert "loopback" in refused
    assert "TLS" not in refused
    assert "or the path of a socket" in refused
    assert "--tls-cert" not in refused, "an option that status has not"
    command.fails(2, "status", "--metrics", "nowhere")
    command.fails(2, "status", "--metrics", "-", "--watch")
    command.fails(2, "--json", "status", "--metrics", "-")
