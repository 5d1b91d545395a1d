"""What is kept of a mount for the process that takes it over."""

import errno
import os
import struct
from collections.abc import Iterator

import msgspec
import pytest

from volcrypt.errors import (
    FormatError,
    IntegrityError,
    LostMountError,
    MountError,
    UnsupportedVersionError,
)
from volcrypt.names import VolumeId
from volcrypt.operations.kept_mounts import check_handed
from volcrypt.volume.fence import FenceNote
from volcrypt.volume.kept_mount import (
    NAMES,
    HandedMount,
    KeptMount,
    add_fence,
    kernel_resends,
    read_facts,
    resend_requests,
    write_facts,
)

VOLUME = VolumeId("vol-0123456789abcdef0")
NOTE = FenceNote(reason="the key was disabled", fenced_at=1.5)
REQUEST = struct.pack("<IIIII", 7, 45, 131072, 0xFFFF, 1 << 7 | 1).ljust(64, b"\0")
REPLY = struct.pack("<IIIIHHIIHHI", 7, 38, 131072, 0x0F0F, 32, 24, 2**20, 1, 256, 0, 1).ljust(
    64, b"\0"
)
KEPT = KeptMount(
    volume_id=VOLUME,
    mount_directory="/mnt",
    device="0:57",
    read_only=False,
    discard=True,
    discard_zeros=False,
    init_request=REQUEST,
    init_reply=REPLY,
    lease_epoch=3,
)


@pytest.fixture
def facts() -> Iterator[int]:
    descriptor = write_facts(KEPT)
    yield descriptor
    os.close(descriptor)


def file_of(content: bytes) -> int:
    descriptor = os.memfd_create("test")
    os.write(descriptor, content)
    return descriptor


def test_what_is_written_is_read(facts: int) -> None:
    assert read_facts(facts) == (KEPT, None)
    add_fence(facts, NOTE)
    assert read_facts(facts) == (KEPT, NOTE)


def test_damaged_facts_are_refused(facts: int) -> None:
    whole = os.pread(facts, 10000, 0)
    for length in range(len(whole) - 1):
        descriptor = file_of(whole[:length])
        with pytest.raises((FormatError, IntegrityError)):
            read_facts(descriptor)
        os.close(descriptor)


def test_a_newer_version_is_refused() -> None:
    newer = msgspec.json.encode(KEPT).replace(b'"version":1', b'"version":2') + b"\n"
    descriptor = file_of(newer)
    with pytest.raises(UnsupportedVersionError, match=r"version 2 .* knows 1"):
        read_facts(descriptor)
    os.close(descriptor)


def test_libfuse_is_introduced_to_what_was_agreed() -> None:
    message = KEPT.introduction()
    length, opcode, unique = struct.unpack_from("<IIQ", message)
    assert (length, opcode) == (len(message), 26)
    assert unique % 2  # requests of the kernel are even
    assert struct.unpack_from("<IIIII", message, 40) == (7, 38, 131072, 0x0F0F, 1)
    assert KEPT.max_write == 2**20
    assert KEPT.resends
    older = msgspec.structs.replace(KEPT, init_request=bytes(64))
    assert not older.resends


def test_only_a_whole_mount_is_handed_on(facts: int) -> None:
    whole = dict.fromkeys(NAMES, facts)
    for name in NAMES:
        assert HandedMount.find({n: d for n, d in whole.items() if n != name}) is None
    found = HandedMount.find(whole)
    assert found is not None
    assert not found.is_alive()  # there is no such mount
    check_handed(VOLUME, "books", found)
    with pytest.raises(LostMountError, match="is of volume"):
        check_handed(VolumeId("vol-00000000000000000"), "books", found)


def test_a_fenced_volume_stays_fenced(facts: int) -> None:
    add_fence(facts, NOTE)
    found = HandedMount.find(dict.fromkeys(NAMES, facts))
    assert found is not None
    with pytest.raises(LostMountError, match="the key was disabled"):
        check_handed(VOLUME, "books", found)


@pytest.mark.parametrize(
    ("release", "can"),
    [("6.8.12-arch", False), ("6.9", True), ("6.18.44", True), ("7.0-rc1", True), ("odd", False)],
)
def test_the_kernel_that_can_is_known(release: str, can: bool) -> None:
    assert kernel_resends(release) is can


def test_a_connection_that_cannot_is_an_error() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(MountError, match=os.strerror(errno.ENOSPC)):
        resend_requests(descriptor)
    os.close(descriptor)
