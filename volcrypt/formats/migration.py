"""The record of a migration: a volume's data moves to a new file, under a new data key, while it is
in use. Kind `migration`.

Sealed as a workflow's cursor is (`volcrypt.formats.workflow`): who only writes to storage cannot
make one up, and the register knows the current `generation`, so an older one is refused. There is
always a target key: a migration can only go towards encrypted. It is written after what it says is
durable, but for RENAME, which is what decides: from then on the target is the volume.
"""

from enum import Enum
from typing import Final

import msgspec

from volcrypt.errors import MalformedError
from volcrypt.formats.document import (
    Sealer,
    Verifier,
    decode_document,
    encode_document,
    known_bodies,
)
from volcrypt.formats.volume_record import WrappedDataKey
from volcrypt.formats.write_intents import MIGRATION_BYTES, IntentsHeader
from volcrypt.geometry import CHUNK_BYTES, MAX_VOLUME_BYTES, UNIT_BYTES, chunk_count
from volcrypt.names import DataKeyId, VolumeId, is_volume_id

KIND: Final = "migration"
VERSION: Final = 1


class MigrationStep(Enum):
    """What is to be done next, in this order."""

    COPY = "copy"
    VERIFY = "verify"
    RENAME = "rename"
    DESTROY = "destroy"


class Migration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of version 1.

    `source_key_id` is the data key of the source, None when that is unencrypted; `target_key` the
    target's. `migration` is in the header of the write intents too. Chunks before `cursor` are on
    both sides, those before `verified` were compared. `rate_bytes` a second at most, None for as
    fast as can be; `paused`: until somebody says so. `delete_plain_snapshots` at the end.
    `volume_record` is the volume's current record, should that be damaged.

    For the report, over all `runs` of the command: `copied_bytes`, what each step took in `seconds`
    (what a killed run did since it last saved is not in them), and `worst_us`, the longest write.
    """

    volume_id: VolumeId
    generation: int
    step: MigrationStep
    migration: bytes
    size_bytes: int
    region_bytes: int
    source_key_id: DataKeyId | None
    target_key: WrappedDataKey
    started_at: int
    cursor: int = 0
    verified: int = 0
    rate_bytes: int | None = None
    paused: bool = False
    delete_plain_snapshots: bool = False
    volume_record: bytes = b""
    runs: int = 1
    copied_bytes: int = 0
    seconds: dict[str, float] = {}
    worst_us: int = 0

    @property
    def called(self) -> str:
        """What people call it."""
        return "encryption" if self.source_key_id is None else "rekeying"

    @property
    def intents(self) -> IntentsHeader:
        """What its write intents begin with."""
        return IntentsHeader(
            volume_id=self.volume_id,
            size_bytes=self.size_bytes,
            region_bytes=self.region_bytes,
            migration=self.migration,
        )


def encode_migration(migration: Migration, sealer: Sealer) -> bytes:
    return encode_document(KIND, VERSION, migration, sealer)


_BODIES: Final = known_bodies({VERSION: Migration})


def decode_migration(data: bytes, verifier: Verifier, *, what: str) -> Migration:
    """Raises FormatError and SealError; `what` names the record in them."""
    migration = decode_document(data, KIND, _BODIES, verifier, what=what)
    chunks = chunk_count(migration.size_bytes)
    if not (
        is_volume_id(migration.volume_id)
        and migration.generation >= 1
        and len(migration.migration) == MIGRATION_BYTES
        and 0 < migration.size_bytes <= MAX_VOLUME_BYTES
        and migration.size_bytes % UNIT_BYTES == 0
        and migration.region_bytes > 0
        and migration.region_bytes % CHUNK_BYTES == 0
        and migration.source_key_id != migration.target_key.data_key_id
        and 0 <= migration.verified <= migration.cursor <= chunks
        and (migration.step is MigrationStep.COPY or migration.cursor == chunks)
        and (
            migration.step in (MigrationStep.COPY, MigrationStep.VERIFY)
            or migration.verified == chunks
        )
        and (migration.rate_bytes is None or migration.rate_bytes > 0)
        and min(migration.runs - 1, migration.copied_bytes, migration.worst_us) >= 0
    ):
        raise MalformedError(what, "its values contradict each other")
    return migration
