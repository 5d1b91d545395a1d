"""Trees of files under random operations (`tests/fs_stress.py`) beside a verify job of fio, on
ext4, XFS and btrfs above the loop device of a volume; then the file system checks itself,
read-only, and all is there in another mount of another process."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from tests.e2e.test_exerciser import QUICK, attached
from tests.file_system import run
from tests.fs_stress import Stressor, stress
from tests.served_volume import served_volume
from volcrypt.volume.launch import DataPlaneKind

MIB = 2**20
MAKE = {
    "ext4": (48 * MIB, ["mkfs.ext4", "-q"]),
    "xfs": (320 * MIB, ["mkfs.xfs", "-q"]),
    "btrfs": (128 * MIB, ["mkfs.btrfs", "-q"]),
}
CHECK = {
    "ext4": ["e2fsck", "-fn"],
    "xfs": ["xfs_repair", "-n"],
    "btrfs": ["btrfs", "check", "--readonly", "--check-data-csum"],
}
LAYERS = [("ext4", 4096), ("ext4", 512), ("xfs", 4096), ("xfs", 512), ("btrfs", 4096)]
"""btrfs works in units of at least 4096 bytes, whatever the sectors of its device."""
ALWAYS = {("ext4", 512), ("xfs", 4096), ("btrfs", 4096)}


PLANES: tuple[DataPlaneKind, ...] = ("python", "native")
RUNS = [
    pytest.param(
        *layer, seed, marks=[] if seed in QUICK and layer in ALWAYS else [pytest.mark.soak]
    )
    for seed in range(1, 11)
    for layer in LAYERS
]


@contextmanager
def mounted(device: Path, kind: str, point: Path) -> Iterator[None]:
    run("mount", "-t", kind, device, point)
    try:
        yield
    finally:
        run("umount", point)


def fio(directory: Path, seed: int, *options: str, is_quick: bool) -> list[str]:
    size = 2 * MIB if is_quick else 12 * MIB
    return [
        *("fio", "--name=job", f"--directory={directory}", f"--size={size}", "--rw=randwrite"),
        *("--bssplit=512/20:4k/40:20k/30:128k/10", "--fsync=30", "--ioengine=psync"),
        *("--verify=crc32c", "--verify_fatal=1", f"--randseed={seed}", "--numjobs=2"),
        *("--verify_state_save=0", *options),
    ]


@pytest.mark.parametrize(("kind", "sector_size", "seed"), RUNS)
def test_trees_and_blocks(tmp_path: Path, kind: str, sector_size: int, seed: int) -> None:
    is_quick = seed in QUICK and (kind, sector_size) in ALWAYS
    point = tmp_path / "point"
    point.mkdir()
    size_bytes, make = MAKE[kind]
    data_plane = PLANES[(seed + LAYERS.index((kind, sector_size))) % 2]
    with served_volume(tmp_path, size_bytes=size_bytes, data_plane=data_plane) as volume:
        volume.mount()
        with attached(volume, sector_size) as device:
            run(*make, device)
            with mounted(device, kind, point):
                stressors = busy(point, seed, is_quick=is_quick)
        volume.unmount()
        volume.mount()
        with attached(volume, sector_size) as device:
            run(*CHECK[kind], device)
            with mounted(device, kind, point):
                for each in stressors:
                    each.check()
                again = fio(point, seed, "--verify_only", is_quick=is_quick)
                run(*again)
        volume.unmount()


def busy(point: Path, seed: int, *, is_quick: bool) -> list[Stressor]:
    """A verify job while trees change."""
    job = subprocess.Popen(
        fio(point, seed, is_quick=is_quick),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        operations = 300 if is_quick else 6000
        stressors = stress(point, seed=seed, workers=3, operations=operations)
    except BaseException:
        job.kill()
        raise
    finally:
        said, _ = job.communicate()
    assert job.returncode == 0, said
    return stressors


def test_control_a_changed_byte_is_found(tmp_path: Path) -> None:
    """The exerciser looks at contents, names, links and attributes."""
    (stressor,) = stress(tmp_path, seed=3, workers=1, operations=500)
    assert set(stressor.counts) > {"_punch", "_rename", "_link", "_attribute"}
    name = next(name for name, file in stressor._files.items() if file.content)
    path = tmp_path / "tree-0" / name
    content = bytearray(path.read_bytes())
    for wrong in (True, False):
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(AssertionError, match="reads wrong") if wrong else nullcontext():
            stressor.check()
    (tmp_path / "tree-0" / "surplus").touch()
    with pytest.raises(AssertionError):
        stressor.check()
