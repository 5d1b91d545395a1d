"""Random operations against a model (`tests/fsx.py`): on the file of a mount, on the loop device,
and on ext4 and XFS above it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.file_system import run
from tests.fsx import Exerciser, Options
from tests.served_volume import ServedVolume, served_volume
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES
from volcrypt.volume.loop import attach_loop, detach_loop

SIZE = 3 * CHUNK_BYTES + UNIT_BYTES
LONG_BYTES = 1024 * 1024 + 3 * UNIT_BYTES
"""More than one request of FUSE, and more than one lane."""

QUICK = [1]
RUNS = [*QUICK, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 22))]


def operations(seed: int, quick: int) -> int:
    return quick if seed in QUICK else 20 * quick


@contextmanager
def attached(volume: ServedVolume, sector_size: int) -> Iterator[Path]:
    device = attach_loop(volume.file, sector_size=sector_size, read_only=False)
    try:
        yield device
    finally:
        detach_loop(device, volume="books")


def exercise_loop(
    volume: ServedVolume,
    directory: Path,
    *,
    seed: int,
    sector_size: int,
    deallocates: bool = False,
) -> None:
    """On the loop device of a volume of `SIZE`, which is mounted for that."""
    volume.mount()
    with attached(volume, sector_size) as device:
        options = Options(
            seed=seed,
            operations=operations(seed, 600),
            size_bytes=SIZE,
            longest_bytes=LONG_BYTES,
            fixed_size=True,
            deallocates=deallocates,
            alignment=sector_size,
        )
        exerciser = Exerciser(device, options, directory=directory)
        exerciser.run()
    assert volume.file.read_bytes() == exerciser.expected
    volume.unmount()


@pytest.mark.parametrize("encrypted", [True, False])
@pytest.mark.parametrize("seed", RUNS)
def test_on_the_file_of_a_mount(tmp_path: Path, seed: int, encrypted: bool) -> None:
    """Twice: the second run begins with reading what the first one left, in another process."""
    with served_volume(tmp_path, size_bytes=SIZE, encrypted=encrypted) as volume:
        for turn in range(2):
            volume.mount()
            options = Options(
                seed=1000 * turn + seed,
                operations=operations(seed, 600),
                size_bytes=SIZE,
                longest_bytes=LONG_BYTES,
                fixed_size=True,
                # Direct I/O on this file is for the loop device: it has no page cache to map.
                alignment=1,
                map_write=False,
            )
            before = volume.file.read_bytes()
            exerciser = Exerciser(volume.file, options, directory=tmp_path)
            counts = exerciser.run()
            assert counts["refused_truncate"] > 0
            volume.unmount()
            volume.mount(read_only=True)
            assert volume.file.read_bytes() == exerciser.expected != before
            volume.unmount()


@pytest.mark.parametrize("sector_size", [512, 4096])
@pytest.mark.parametrize("seed", RUNS)
def test_on_the_loop_device(tmp_path: Path, seed: int, sector_size: int) -> None:
    with served_volume(tmp_path, size_bytes=SIZE) as volume:
        exercise_loop(volume, tmp_path, seed=seed, sector_size=sector_size)


@pytest.mark.parametrize(
    ("kind", "size_bytes", "sector_size"),
    [("ext4", 32 * 2**20, 4096), ("xfs", 320 * 2**20, 4096), ("xfs", 320 * 2**20, 512)],
)
@pytest.mark.parametrize("seed", RUNS)
def test_on_a_file_system_above_it(
    tmp_path: Path, seed: int, kind: str, size_bytes: int, sector_size: int
) -> None:
    """The file is looked at once more after everything was taken down and put up again."""
    point = tmp_path / "point"
    point.mkdir()
    with served_volume(tmp_path, size_bytes=size_bytes) as volume:
        volume.mount()
        with attached(volume, sector_size) as device:
            run(f"mkfs.{kind}", "-q", device)
            run("mount", device, point)
            try:
                options = Options(
                    seed=seed, operations=operations(seed, 1500), alignment=sector_size
                )
                exerciser = Exerciser(point / "file", options, directory=tmp_path)
                exerciser.run()
            finally:
                run("umount", point)
        volume.unmount()
        volume.mount()
        with attached(volume, sector_size) as device:
            if kind == "ext4":
                run("e2fsck", "-fn", device)
            else:
                run("xfs_repair", "-n", device)
            run("mount", "-o", "ro", device, point)
            try:
                assert (point / "file").read_bytes() == exerciser.expected
            finally:
                run("umount", point)
        volume.unmount()
