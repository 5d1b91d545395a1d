"""A volume that is being migrated, for the process that is about to serve it.

Who opens the source for writing has the migration go on with it, or makes what was copied void,
durably: a write that only the source has, and that nobody knows of, would be lost at the switch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from volcrypt.crypto.data_key import DataKey
from volcrypt.errors import VolcryptError
from volcrypt.formats.migration import Migration, MigrationStep
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.operations.home import Home
from volcrypt.operations.keys import unwrap_key
from volcrypt.operations.migrations import load_migration, migrated_record
from volcrypt.operations.watching import Watching, order_for
from volcrypt.operations.write_budget import count_path
from volcrypt.volume.control_messages import MigrationOrder
from volcrypt.volume.launch import MigrationAssignment
from volcrypt.volume.migration_files import void_intents


@dataclass(frozen=True, slots=True, kw_only=True)
class Continued:
    """For the process that is about to serve a volume. `problem` is why a migration that there is
    does not go on with it, and has to begin anew."""

    assignment: MigrationAssignment | None = None
    target_key: DataKey | None = None
    problem: str | None = None


@contextmanager
def continued(
    home: Home, record: VolumeRecord, *, read_only: bool, watching: Watching | None
) -> Iterator[Continued]:
    """The migration that goes on with a process that is about to serve the volume, which the
    caller holds; its key is wiped at the end. Where the target's key cannot be had, the volume is
    served alone, and what was copied is void.

    Raises IntegrityError and FormatError for a record that does not hold, since it may say that the
    data has another key, and OSError.
    """
    migration = load_migration(home, record.volume_id)
    if (
        migration is None
        or read_only  # so nothing is written that the target has not
        or migration.step not in (MigrationStep.COPY, MigrationStep.VERIFY)
    ):
        yield Continued()
        return
    try:
        key = unwrap_key(home, migration.target_key)
    except VolcryptError as error:
        void_intents(home.volumes.path_of(record.volume_id))
        yield Continued(problem=str(error))
        return
    with key:
        order = order_of(home, record, migration, watching)
        yield Continued(
            assignment=MigrationAssignment(order=order, cursor=migration.cursor), target_key=key
        )


def order_of(
    home: Home, record: VolumeRecord, migration: Migration, watching: Watching | None
) -> MigrationOrder:
    """What a process that serves the volume has to know. Raises as `watching.watch_order`."""
    return MigrationOrder(
        migration=migration.migration,
        region_bytes=migration.region_bytes,
        target_key_id=migration.target_key.data_key_id,
        kms_key_arn=migration.target_key.kms_key_arn,
        count_path=str(count_path(home, migration.target_key)),
        watch=order_for(home, migrated_record(record, migration), watching),
    )
