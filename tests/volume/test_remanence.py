"""What a medium may keep of deleted data, from what the kernel says; and of this machine."""

import os
from pathlib import Path

import pytest

from volcrypt.volume.remanence import Medium, medium_of


def sysfs(root: Path, path: Path, files: dict[str, str]) -> Path:
    """A /sys in which the device below `path` has these files."""
    number = path.stat().st_dev
    directory = root / "devices" / "sda"
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text + "\n")
    links = root / "dev" / "block"
    links.mkdir(parents=True)
    (links / f"{os.major(number)}:{os.minor(number)}").symlink_to(directory)
    return root


def look(
    tmp_path: Path, fs_type: str, files: dict[str, str], options: str = "rw,discard"
) -> Medium:
    line = f"36 35 8:1 / {tmp_path.parent} rw,noatime shared:1 - {fs_type} /dev/none {options}\n"
    (tmp_path / "file").write_bytes(b"")
    root = sysfs(tmp_path / "sys", tmp_path / "file", files)
    found = medium_of(
        tmp_path / "file", mountinfo="1 0 8:9 / / rw - xfs /dev/x rw\n" + line, sysfs=root
    )
    assert found is not None
    return found


SSD = {"queue/rotational": "0", "queue/discard_max_bytes": "2147450880"}
DISK = {"queue/rotational": "1", "queue/discard_max_bytes": "0"}


@pytest.mark.parametrize(
    ("fs_type", "files", "options", "said", "unsaid"),
    [
        ("ext4", SSD, "rw,discard", "an SSD keeps", "fstrim"),
        ("ext4", SSD, "rw", "fstrim", "rotating"),
        ("ext4", DISK, "rw", "rotating disk", "SSD"),
        ("btrfs", SSD, "rw,discard=async", "btrfs never writes in place", "fstrim"),
        ("xfs", SSD, "rw", "reflinks", "rotating"),
        ("overlay", SSD, "rw", "lower layers", "rotating"),
        ("nfs4", {}, "rw", "on a server (nfs4)", "fstrim"),
        ("tmpfs", {}, "rw", "in memory", "fstrim"),
        ("ext4", {**SSD, "dm/uuid": "LVM-abc"}, "rw", "a logical volume", "rotating"),
        ("ext4", {**SSD, "dm/uuid": "CRYPT-LUKS2-abc"}, "rw", "device-mapper", "logical volume"),
        ("ext4", {**SSD, "loop/backing_file": "/srv/image"}, "rw", "the file /srv/image", "md"),
        ("ext4", {**SSD, "queue/discard_max_bytes": "0"}, "rw", "cannot be told", "fstrim"),
        ("ext4", {**SSD, "md/level": "raid1"}, "rw", "several disks", "rotating"),
    ],
)
def test_what_is_said(
    tmp_path: Path, fs_type: str, files: dict[str, str], options: str, said: str, unsaid: str
) -> None:
    found = look(tmp_path, fs_type, files, options)
    assert found.file_system == fs_type
    notes = "\n".join(found.notes())
    assert said in notes
    assert unsaid not in notes


def test_of_this_machine(tmp_path: Path) -> None:
    found = medium_of(tmp_path)
    assert found is not None
    assert found.file_system is not None
    assert all(isinstance(note, str) for note in found.notes())
    assert medium_of(tmp_path / "nothing") is None
