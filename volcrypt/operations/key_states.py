"""KMS keys of a home's volumes that something is wrong with: one DescribeKey for each key."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from volcrypt.errors import AccessDeniedError, KeyNotFoundError
from volcrypt.formats.volume_record import VolumeRecord, key_arn_of
from volcrypt.kms.messages.keys import DescribeKeyRequest
from volcrypt.operations.home import Home

NOT_FOUND: Final = "NotFound"
SOON_SECONDS: Final = 30 * 86400


@dataclass(frozen=True, slots=True, kw_only=True)
class TroubledKey:
    """A key of volumes that cannot be used, or not for long. `state` is the KMS's word for it, or
    `NotFound`; `until` the date of its deletion or of the end of its material, in seconds since
    1970. `volumes` are called by name, or by id."""

    key_arn: str
    state: str
    until: float | None
    volumes: list[str]


def troubled_keys(home: Home, records: Sequence[VolumeRecord], *, now: float) -> list[TroubledKey]:
    """Keys that the caller may not describe are left out.

    Raises VolcryptError when the KMS can tell of none.
    """
    found = []
    for arn, volumes in _volumes_by_key(records).items():
        try:
            request = DescribeKeyRequest(key_id=arn)
            key = home.kms.perform(home.volume_service, request).key_metadata
        except AccessDeniedError:
            continue
        except KeyNotFoundError:
            found.append(TroubledKey(key_arn=arn, state=NOT_FOUND, until=None, volumes=volumes))
            continue
        until = key.deletion_date if key.deletion_date is not None else key.valid_to
        if not key.enabled or (until is not None and until - now < SOON_SECONDS):
            found.append(
                TroubledKey(key_arn=arn, state=key.key_state, until=until, volumes=volumes)
            )
    return found


def _volumes_by_key(records: Sequence[VolumeRecord]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for record in records:
        arn = key_arn_of(record.wrapped_key)
        if arn is not None:
            found.setdefault(arn, []).append(record.name or record.volume_id)
    return found
