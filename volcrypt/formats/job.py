"""Job record: a snapshot or copy that is being made, or was and failed. HOME/jobs/SNAP-ID.

    volcrypt job 1\\n      magic and version
    {...}\\n               JobRecord as JSON

Not sealed, since nothing is believed because of it: what is completed is what the store's signed
manifest says, and what is being made is what a process holds a lock on (`operations.jobs`). It says
what that will be, for people who ask before it is there. Example of its body:

    {"snapshot_id":"snap-0123456789abcdef0","name":"nightly","volume_id":"vol-0123456789abcdef0",
     "size_bytes":1073741824,"store_id":"store-0123456789abcdef0","store_name":"local",
     "region":"us-east-1","kms_key_arn":"arn:...","data_key_id":"dk-...","together":[],
     "consistency":"crash-consistent","rate":null,"started_at":1760000000,"captured_at":1760000001,
     "barrier_us":180,"pid":4711,"boot_id":"...","reason":null}

That of a copy has its original too, as its manifest will:

     "origin":{"store_id":"store-...","snapshot_id":"snap-...","root":"(base64)"}
"""

from enum import Enum
from typing import Final

import msgspec

from volcrypt.crypto.digest import DIGEST_BYTES
from volcrypt.errors import (
    BadMagicError,
    MalformedError,
    UnsupportedVersionError,
    VolcryptError,
)
from volcrypt.formats.manifest import Consistency, Origin
from volcrypt.geometry import MAX_VOLUME_BYTES
from volcrypt.names import (
    SnapshotId,
    StoreId,
    VolumeId,
    is_snapshot_id,
    is_volume_id,
    parse_name,
    parse_store_id,
)

_MAGIC: Final = b"volcrypt job "
_VERSION: Final = 1


class JobKind(Enum):
    """What is being made: a snapshot of a volume, or a copy of a snapshot."""

    SNAPSHOT = "snapshot"
    COPY = "copy"


class JobRecord(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Version 1.

    `together` are the ids of a consistent set, this one included; empty for a snapshot alone.
    `rate` is in bytes a second, None for as fast as it goes. Times count seconds since 1970-01-01
    UTC; `captured_at` and `barrier_us` (how long writers were held up, microseconds) are None until
    the point in time is fixed. `reason` says why it failed, when its process could say so.

    `origin` is what a copy is made of, None for a snapshot of a volume. A copy has the volume and
    the point in time of its original.
    """

    snapshot_id: SnapshotId
    name: str | None
    volume_id: VolumeId
    size_bytes: int
    store_id: StoreId
    store_name: str
    region: str
    kms_key_arn: str | None
    data_key_id: str | None
    together: tuple[SnapshotId, ...]
    consistency: Consistency
    rate: int | None
    started_at: int
    captured_at: int | None
    barrier_us: int | None
    pid: int
    boot_id: str
    reason: str | None
    origin: Origin | None = None

    @property
    def kind(self) -> JobKind:
        return JobKind.SNAPSHOT if self.origin is None else JobKind.COPY

    @property
    def is_encrypted(self) -> bool:
        return self.data_key_id is not None


def encode_job(record: JobRecord) -> bytes:
    return _MAGIC + b"%d\n" % _VERSION + msgspec.json.encode(record) + b"\n"


def decode_job(data: bytes, *, what: str) -> JobRecord:
    """Raises FormatError; `what` names the record in it."""
    if not data.startswith(_MAGIC):
        raise BadMagicError(what)
    version, _, body = data[len(_MAGIC) :].partition(b"\n")
    if not (version.isdigit() and len(version) < 10 and body.endswith(b"\n")):
        raise MalformedError(what, "truncated or damaged")
    if int(version) != _VERSION:
        raise UnsupportedVersionError(what, int(version), _VERSION)
    try:
        record = msgspec.json.decode(body, type=JobRecord)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(what, "truncated or damaged") from error
    if not _is_possible(record):
        raise MalformedError(what, "its values contradict each other")
    return record


def _is_possible(record: JobRecord) -> bool:
    try:
        parse_store_id(record.store_id)
        parse_name(record.store_name)
        if record.name is not None:
            parse_name(record.name)
        if record.origin is not None:
            parse_store_id(record.origin.store_id)
    except VolcryptError:
        return False
    return (
        is_snapshot_id(record.snapshot_id)
        and is_volume_id(record.volume_id)
        and all(map(is_snapshot_id, record.together))
        and (not record.together or record.snapshot_id in record.together)
        and 0 < record.size_bytes <= MAX_VOLUME_BYTES
        and (record.rate is None or record.rate > 0)
        and (
            record.origin is None
            or (
                is_snapshot_id(record.origin.snapshot_id)
                and record.origin.snapshot_id != record.snapshot_id
                and len(record.origin.root) == DIGEST_BYTES
            )
        )
    )
