"""Names of things: ids, ARNs and the rules for names that users give. Pure; draws no randomness.

An id is a prefix and 17 lower-case hexadecimal digits, as in EBS: `vol-0a1b...`, `snap-...`.
A name given by a user never starts like an id: one word on a command line is one or the other.
"""

import re
from typing import Final, NewType

from volcrypt.errors import InvalidArgumentError

VolumeId = NewType("VolumeId", str)
SnapshotId = NewType("SnapshotId", str)
DataKeyId = NewType("DataKeyId", str)
StoreId = NewType("StoreId", str)

ID_DIGITS: Final = 17
ID_RANDOM_BYTES: Final = 9
"""Random bytes from which an id is made; the last half byte is dropped."""

_VOLUME_ID = re.compile(r"vol-[0-9a-f]{17}")
_SNAPSHOT_ID = re.compile(r"snap-[0-9a-f]{17}")
_DATA_KEY_ID = re.compile(r"dk-[0-9a-f]{17}")
_STORE_ID = re.compile(r"store-[0-9a-f]{17}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
NOBODYS_VOLUME: Final = VolumeId("vol-" + "0" * ID_DIGITS)
"""For a request that is only tried: a policy may want to see what a volume's context looks like."""
_ID_PREFIXES: Final = ("vol-", "snap-", "store-", "dk-")


def _make(prefix: str, random_bytes: bytes) -> str:
    assert len(random_bytes) == ID_RANDOM_BYTES, "internal error: wrong amount of randomness"
    return prefix + random_bytes.hex()[:ID_DIGITS]


def make_volume_id(random_bytes: bytes) -> VolumeId:
    return VolumeId(_make("vol-", random_bytes))


def make_snapshot_id(random_bytes: bytes) -> SnapshotId:
    return SnapshotId(_make("snap-", random_bytes))


def make_data_key_id(random_bytes: bytes) -> DataKeyId:
    """The id of a data key names a lineage: volumes and snapshots that share one key share it."""
    return DataKeyId(_make("dk-", random_bytes))


def make_store_id(random_bytes: bytes) -> StoreId:
    return StoreId(_make("store-", random_bytes))


def is_volume_id(text: str) -> bool:
    return _VOLUME_ID.fullmatch(text) is not None


def is_snapshot_id(text: str) -> bool:
    return _SNAPSHOT_ID.fullmatch(text) is not None


def is_data_key_id(text: str) -> bool:
    return _DATA_KEY_ID.fullmatch(text) is not None


def parse_volume_id(text: str) -> VolumeId:
    """Raises InvalidArgumentError when `text` is no volume id."""
    if not is_volume_id(text):
        raise InvalidArgumentError(f"{text!r} is not a volume id")
    return VolumeId(text)


def parse_snapshot_id(text: str) -> SnapshotId:
    """Raises InvalidArgumentError when `text` is no snapshot id."""
    if not is_snapshot_id(text):
        raise InvalidArgumentError(f"{text!r} is not a snapshot id")
    return SnapshotId(text)


def parse_store_id(text: str) -> StoreId:
    """Raises InvalidArgumentError when `text` is no store id."""
    if _STORE_ID.fullmatch(text) is None:
        raise InvalidArgumentError(f"{text!r} is not a store id")
    return StoreId(text)


def parse_name(text: str) -> str:
    """A name that a user gives to a volume, snapshot or store.

    It may stand in a path, a unit name and a device name: letters, digits, `.`, `_` and `-`, at
    most 128, not starting with punctuation and not like an id.
    Raises InvalidArgumentError.
    """
    if _NAME.fullmatch(text) is None or text.startswith(_ID_PREFIXES):
        raise InvalidArgumentError(
            f"{text!r} is not acceptable as a name",
            hint="use 1 to 128 letters, digits, '.', '_' or '-', not starting like an id",
        )
    return text
