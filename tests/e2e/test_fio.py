"""Verify jobs of fio on the file of a mount and on the loop device: at once, after the volume was
closed and opened, and after its process was killed.

fio writes blocks that carry their place, a sequence number and a checksum, and reads them again.
"""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.served_volume import ServedVolume, served_volume
from volcrypt.volume.loop import attach_loop, detach_dead_loops, detach_loop

MIB = 2**20
Door = Literal["file", "loop-512", "loop-4096"]

JOBS: dict[str, list[str]] = {
    "sequential": ["--rw=write", "--bs=1M"],
    "random": ["--rw=randwrite", "--bs=4k"],
    "mixed": ["--rw=randwrite", "--bssplit=512/20:4k/30:20k/20:128k/20:1536k/10", "--fsync=40"],
    "many": ["--rw=randrw", "--rwmixwrite=70", "--bsrange=4k-96k", "--numjobs=6", "--fsync=64"],
}
LOOP_ENGINE = ["--ioengine=libaio", "--iodepth=8"]
SIZES = [8 * MIB, pytest.param(600 * MIB, marks=pytest.mark.soak)]


@pytest.fixture(params=SIZES, ids=lambda size: f"{size // MIB}MiB")
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServedVolume]:
    with served_volume(tmp_path, size_bytes=request.param) as made:
        made.mount()
        yield made


@contextmanager
def opened(volume: ServedVolume, door: Door) -> Iterator[Path]:
    """What fio works on."""
    if door == "file":
        yield volume.file
        return
    sector_size = int(door.removeprefix("loop-"))
    device = attach_loop(volume.file, sector_size=sector_size, read_only=False)
    try:
        yield device
    finally:
        if volume.pid:
            detach_loop(device, volume="books")
        else:
            detach_dead_loops(volume.file, volume="books")


def fio(volume: ServedVolume, path: Path, *options: str) -> dict[str, Any]:
    """The report of a job over all of the volume; the job must not find a fault."""
    done = try_fio(volume, path, *options)
    assert done.returncode == 0, f"{options}\n{done.stdout}\n{done.stderr}"
    report = json.loads(done.stdout[done.stdout.index("{") :])
    assert all(job["error"] == 0 for job in report["jobs"])
    job: dict[str, Any] = report["jobs"][0]
    return job


def try_fio(volume: ServedVolume, path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    count = next((int(o.removeprefix("--numjobs=")) for o in options if "numjobs" in o), 1)
    share = volume.size_bytes // count // MIB * MIB
    command = ["fio", "--name=job", f"--filename={path}", "--direct=1", "--allow_file_create=0"]
    command += [f"--size={share}", f"--offset_increment={share}", "--group_reporting"]
    command += ["--output-format=json", "--verify=crc32c", "--verify_fatal=1", "--randseed=4711"]
    if not any(option.startswith("--ioengine") for option in options):
        command.append("--ioengine=psync")
    return subprocess.run(
        [*command, *options],
        cwd=volume.runtime,  # where it saves its state
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )


@pytest.mark.parametrize(
    ("door", "job"),
    [
        *(("file", job) for job in JOBS),
        ("loop-512", "mixed"),
        ("loop-512", "many"),
        ("loop-4096", "random"),
        pytest.param("loop-512", "sequential", marks=pytest.mark.soak),
        pytest.param("loop-512", "random", marks=pytest.mark.soak),
        pytest.param("loop-4096", "many", marks=pytest.mark.soak),
    ],
)
def test_what_was_written_is_there(volume: ServedVolume, door: Door, job: str) -> None:
    options = [*JOBS[job], *(LOOP_ENGINE if door != "file" else [])]
    with opened(volume, door) as path:
        report = fio(volume, path, *options)
        assert report["write"]["io_bytes"] > volume.size_bytes // 2
        assert report["read"]["total_ios"] > 0
    volume.unmount()
    volume.mount()
    with opened(volume, door) as path:
        again = fio(volume, path, *options, "--verify_only")
        assert again["read"]["total_ios"] > 0
    volume.unmount()


def test_control_a_damaged_block_is_found(volume: ServedVolume) -> None:
    """Its ciphertext, by one bit; so fio does look."""
    fio(volume, volume.file, *JOBS["random"])
    volume.unmount()
    with volume.data_path.open("r+b") as file:
        (byte,) = os.pread(file.fileno(), 1, MIB + 700)
        os.pwrite(file.fileno(), bytes([byte ^ 4]), MIB + 700)
    volume.mount()
    done = try_fio(volume, volume.file, *JOBS["random"], "--verify_only")
    assert done.returncode != 0
    assert "verify" in done.stdout + done.stderr


@pytest.mark.parametrize("door", ["file", "loop-512"])
def test_what_was_synced_survives_a_kill(volume: ServedVolume, door: Door) -> None:
    """fio kills the process in the middle of its work, and remembers how far it came."""
    options = ["--rw=randwrite", "--bsrange=4k-64k", "--sync=dsync"]
    # Slow enough that there is work left when the kill comes.
    rate = max(volume.size_bytes // 4, MIB)
    with opened(volume, door) as path:
        killed = try_fio(
            volume,
            path,
            *options,
            f"--rate={rate}",
            "--verify_state_save=1",
            "--trigger-timeout=2",
            f"--trigger=kill -9 {volume.pid}",
        )
        assert volume.reap() == -signal.SIGKILL
    written = json.loads(killed.stdout[killed.stdout.index("{") :])["jobs"][0]["write"]["io_bytes"]
    assert 0 < written < volume.size_bytes
    volume.mount()
    with opened(volume, door) as path:
        report = fio(volume, path, *options, "--verify_state_load=1", "--verify_only")
        assert report["read"]["io_bytes"] > written // 2
    volume.unmount()
