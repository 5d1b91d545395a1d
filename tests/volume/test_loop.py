"""Loop devices: probing of sector sizes on real file systems, attaching, naming who uses one."""

import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from volcrypt.errors import MountError, VolumeInUseError
from volcrypt.volume import loop
from volcrypt.volume.loop import PROBE_BYTES, attach_loop, detach_loop, loops_of, probe_sector_size

SIZE = 16 * 2**20


def image(path: Path, size: int = SIZE) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def head_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(PROBE_BYTES)


@pytest.fixture
def attached(tmp_path: Path) -> Iterator[Path]:
    """A loop device of 4096-byte sectors on a blank image."""
    device = attach_loop(image(tmp_path / "image"), sector_size=4096, read_only=False)
    yield device
    if loop.backing_file(device) is not None:
        subprocess.run(["losetup", "-d", str(device)], check=True)


def test_a_blank_volume_gets_large_sectors_and_unknown_content_small_ones() -> None:
    assert probe_sector_size(bytes(PROBE_BYTES)) == 4096
    assert probe_sector_size(bytes(4096)) == 4096
    assert probe_sector_size(bytes(4095) + b"x") == 512


@pytest.mark.parametrize(("block_size", "expected"), [(1024, 512), (2048, 512), (4096, 4096)])
def test_ext4_is_probed_by_its_block_size(tmp_path: Path, block_size: int, expected: int) -> None:
    path = image(tmp_path / "image")
    subprocess.run(["mkfs.ext4", "-q", "-b", str(block_size), str(path)], check=True)
    assert probe_sector_size(head_of(path)) == expected


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_xfs_is_probed_by_its_sector_size(tmp_path: Path, sector_size: int) -> None:
    path = image(tmp_path / "image", 320 * 2**20)
    subprocess.run(["mkfs.xfs", "-q", "-s", f"size={sector_size}", str(path)], check=True)
    assert probe_sector_size(head_of(path)) == sector_size


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_a_partition_table_is_probed_by_where_its_header_lies(sector_size: int) -> None:
    head = bytearray(PROBE_BYTES)
    head[510:512] = b"\x55\xaa"
    head[sector_size : sector_size + 8] = b"EFI PART"
    assert probe_sector_size(bytes(head)) == sector_size


@pytest.mark.parametrize("sector_size", [4096, 16384])
def test_btrfs_works_on_large_sectors(sector_size: int) -> None:
    head = bytearray(PROBE_BYTES)
    head[65600:65608] = b"_BHRfS_M"
    struct.pack_into("<I", head, 65536 + 144, sector_size)
    assert probe_sector_size(bytes(head)) == 4096


def test_attach_and_detach(attached: Path, tmp_path: Path) -> None:
    file = tmp_path / "image"
    assert loops_of(file) == [attached]
    size = subprocess.run(
        ["blockdev", "--getss", "--getsize64", str(attached)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert size == ["4096", str(SIZE)]
    with attached.open("r+b") as device:
        device.write(b"written to the cache of the device alone")
    detach_loop(attached, volume="books")
    assert file.read_bytes().startswith(b"written to the cache")
    assert loops_of(file) == []
    detach_loop(attached, volume="books")


def test_whoever_uses_a_device_is_named(attached: Path, tmp_path: Path) -> None:
    mount_point = tmp_path / "mnt"
    mount_point.mkdir()
    with (
        attached.open("rb"),
        pytest.raises(VolumeInUseError, match=r"volume books is in use by .*this command itself"),
    ):
        detach_loop(attached, volume="books")
    subprocess.run(["mkfs.ext4", "-q", str(attached)], check=True)
    subprocess.run(["mount", str(attached), str(mount_point)], check=True)
    try:
        with pytest.raises(VolumeInUseError, match=f"ext4 file system mounted at {mount_point}"):
            detach_loop(attached, volume="books")
    finally:
        subprocess.run(["umount", str(mount_point)], check=True)
    detach_loop(attached, volume="books")


def test_a_read_only_device_says_so(tmp_path: Path) -> None:
    device = attach_loop(image(tmp_path / "image"), sector_size=512, read_only=True)
    try:
        assert Path("/sys/block", device.name, "ro").read_text() == "1\n"
    finally:
        detach_loop(device, volume="books")


def test_what_losetup_says_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(MountError, match=r"^losetup failed: .*No such file"):
        attach_loop(tmp_path / "missing", sector_size=512, read_only=False)
