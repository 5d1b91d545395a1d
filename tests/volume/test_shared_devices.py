"""Which devices several hosts can reach, as sysfs says; trees like those of real machines."""

import os
from pathlib import Path

import pytest

from volcrypt.volume import block_device
from volcrypt.volume.block_device import identity_of, shared_kind

NUMBER = "252:3"


class Sysfs:
    """A tree of /sys in a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "dev" / "block").mkdir(parents=True)

    def device(self, number: str, place: str, files: dict[str, str] | None = None) -> Path:
        """A block device at `place` below devices/."""
        directory = self.root / "devices" / place
        directory.mkdir(parents=True)
        for name, content in (files or {}).items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(content)
        (self.root / "dev" / "block" / number).symlink_to(directory)
        return directory


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sysfs:
    monkeypatch.setattr(block_device, "SYSFS", tmp_path / "sys")
    return Sysfs(tmp_path / "sys")


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A device node; nothing but its number is looked at."""
    path = tmp_path / "node"
    os.mknod(path, 0o600 | 0o060000, os.makedev(*map(int, NUMBER.split(":"))))
    return path


@pytest.mark.parametrize(
    ("place", "files", "kind"),
    [
        ("virtual/block/rbd0", {}, "a Ceph RBD image"),
        ("virtual/block/nbd12", {}, "a network block device"),
        ("virtual/block/drbd1", {}, "a DRBD device"),
        ("platform/host3/session1/target3:0:0/3:0:0:1/block/sdb", {}, "an iSCSI disk"),
        (
            "pci0000:00/0000:00:03.0/host1/rport-1:0-2/target1:0:0/1:0:0:0/block/sdc",
            {},
            "a Fibre Channel disk",
        ),
        ("virtual/nvme-fabrics/ctl/nvme1/nvme1n1", {"device/transport": "tcp\n"}, "over tcp"),
        (
            "virtual/nvme-subsystem/nvme-subsys0/nvme0n1",
            {"device/nvme2/transport": "rdma\n"},
            "over rdma",
        ),
        ("virtual/block/rbd0/rbd0p2", {"partition": "2\n"}, "a Ceph RBD image"),
        ("pci0000:00/ata1/host0/target0:0:0/0:0:0:0/block/sda", {}, None),
        ("pci0000:00/0000:00:04.0/nvme/nvme0/nvme0n1", {"device/transport": "pcie\n"}, None),
        ("pci0000:00/virtio1/block/vda", {}, None),
        ("virtual/block/loop3", {"loop/backing_file": "/image"}, None),
        ("virtual/block/md0", {}, None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_kinds(
    sysfs: Sysfs, node: Path, place: str, files: dict[str, str], kind: str | None
) -> None:
    sysfs.device(NUMBER, place, files)
    found = shared_kind(node)
    if kind is None:
        assert found is None
    else:
        assert found is not None
        assert kind in found


def test_what_lies_on_a_shared_disk_is_shared(sysfs: Sysfs, node: Path) -> None:
    """A logical volume on a multipath device on an iSCSI disk."""
    disk = sysfs.device("8:16", "platform/host3/session1/target3:0:0/3:0:0:1/block/sdb")
    multipath = sysfs.device("253:0", "virtual/block/dm-0")
    volume = sysfs.device(NUMBER, "virtual/block/dm-1")
    for upper, lower in ((multipath, disk), (volume, multipath)):
        (upper / "slaves").mkdir()
        (upper / "slaves" / lower.name).symlink_to(lower)
    assert shared_kind(node) == "an iSCSI disk below dm-0 below dm-1"


def test_nothing_is_known_of_what_sysfs_does_not_show(sysfs: Sysfs, node: Path) -> None:
    assert sysfs.root.exists()
    assert shared_kind(node) is None
    assert identity_of(node) == ""


def test_an_image_in_ceph_says_which_it_is(sysfs: Sysfs, node: Path) -> None:
    sysfs.device(NUMBER, "virtual/block/rbd0", {"device/image_id": "10226b8b4567\n"})
    assert identity_of(node) == "rbd:10226b8b4567"
