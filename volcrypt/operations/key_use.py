"""What depends on a KMS key: the volumes and snapshots whose data keys it wraps."""

from dataclasses import dataclass

from volcrypt.errors import AccessDeniedError, VolcryptError
from volcrypt.formats.manifest import Manifest
from volcrypt.formats.volume_record import VolumeRecord, WrappedDataKey
from volcrypt.kms.messages.keys import DescribeKeyRequest
from volcrypt.operations.home import Home
from volcrypt.operations.records import load_records
from volcrypt.operations.snapshot_lookup import list_snapshots


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUse:
    """What dies with a key. `unreadable` are objects of which it could not be told."""

    key_arn: str
    volumes: list[VolumeRecord]
    snapshots: list[Manifest]
    unreadable: list[str]

    def lines(self, fate: str) -> list[str]:
        """For a person, one object a line, and what becomes of it."""
        found = [
            f"{record.volume_id} {record.name or ''}".rstrip() + f" {fate}"
            for record in self.volumes
        ]
        found += [
            f"{manifest.snapshot_id} {manifest.name or ''}".rstrip() + f" {fate}"
            for manifest in self.snapshots
        ]
        found += [f"{name} is not legible, and may be under the key" for name in self.unreadable]
        return found or [f"no volume or snapshot of this home is under {self.key_arn}"]


def find_key_use(home: Home, key: str) -> KeyUse:
    """What is under the key that an id, ARN or alias names, in the home's stores and volumes.

    Raises KeyNotFoundError. Who may not describe the key has to name it by id or ARN.
    """
    try:
        request = DescribeKeyRequest(key_id=key)
        arn = home.kms.perform(home.caller, request).key_metadata.arn
    except AccessDeniedError:
        if "alias/" in key:
            raise
        arn = key
    records = load_records(home)
    unreadable: list[str] = [id_ for id_, found in records.items() if isinstance(found, Exception)]
    manifests: list[Manifest] = []
    try:
        found = list_snapshots(home)
        manifests = found.manifests
        unreadable += list(found.damaged)
        unreadable += [f"snapshot store {name} ({error})" for name, error in found.unread.items()]
    except VolcryptError as error:
        unreadable.append(f"the snapshot stores ({error})")
    return KeyUse(
        key_arn=arn,
        volumes=[
            record
            for record in records.values()
            if isinstance(record, VolumeRecord) and _is_under(record.wrapped_key, arn)
        ],
        snapshots=[each for each in manifests if _is_under(each.wrapped_key, arn)],
        unreadable=unreadable,
    )


def _is_under(wrapped: WrappedDataKey | None, key: str) -> bool:
    arn = wrapped.kms_key_arn if wrapped is not None else None
    return arn is not None and key in (arn, arn.rpartition("/")[2])
