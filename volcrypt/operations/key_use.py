"""What depends on a KMS key: all that becomes unreadable with it, in all stores of a home.

    a volume, its snapshots, copies        their data key is under it
    a lazy volume                          under whatever key it is, what it has not fetched yet of
                                           a snapshot under the key
    what is being made, unfinished work    a snapshot or copy that is pending, a copy or an
                                           encryption that was begun and not finished
    the copy of a volume's record          sealed under the volume's data key

What another home made of it, and is in no store of this one, is not known here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from volcrypt.errors import AccessDeniedError
from volcrypt.formats.volume_record import WrappedDataKey, key_arn_of
from volcrypt.kms.messages.keys import DescribeKeyRequest
from volcrypt.operations.home import Home
from volcrypt.operations.inventory import Inventory, take_inventory
from volcrypt.operations.key_facts import kms_of

SHORT = 20
"""So many objects are named before something is asked."""


class Kind(Enum):
    """What depends on a key."""

    VOLUME = "volume"
    SNAPSHOT = "snapshot"
    COPY = "copy"
    UNFETCHED = "unfetched chunks of volume"
    PENDING = "pending snapshot"
    UNFINISHED_COPY = "unfinished copy"
    UNFINISHED_ENCRYPTION = "unfinished encryption of"
    RECORD_COPY = "copy of the record of volume"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependent:
    """`store` is the snapshot store that it is in; `place` is for people: where it lies, or what
    it is made of. `exported_at`: a header of the volume is outside, and opens it without the
    key."""

    kind: Kind
    id: str
    name: str | None = None
    store: str | None = None
    place: str | None = None
    exported_at: int | None = None

    def __str__(self) -> str:
        return " ".join(word for word in (self.kind.value, self.id, self.name) if word)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUse:
    """What dies with a key. `unreadable` are objects of which it could not be told, and stores that
    did not answer."""

    key_arn: str
    dependents: list[Dependent]
    unreadable: list[str]
    is_default: bool = False

    def lines(self, fate: str) -> Iterator[str]:
        """For a person who is asked: what becomes of it, one object a line, the first of many."""
        for each in self.dependents[:SHORT]:
            yield f"{each} {fate}" + (f" ({each.place})" if each.place else "")
        more = len(self.dependents) - SHORT
        if more > 0:
            yield f"... and so do {more} more: 'volcrypt report key {self.key_arn}' names them"
        if not self.dependents:
            yield f"no volume or snapshot of this home is under {self.key_arn}"
        for each in self.dependents:
            if each.exported_at is not None:
                yield f"{each} can still be read by whoever has an exported header of it"
        if self.is_default:
            yield "it is the default key: new volumes and copies need another one"
        for name in self.unreadable:
            yield f"{name} is not legible, and may be under the key"


def find_key_use(home: Home, key: str) -> KeyUse:
    """What is under the key that an id, ARN or alias names, in the home's stores and volumes.

    Raises KeyNotFoundError. Who may not describe the key has to name it by id or ARN.
    """
    try:
        request = DescribeKeyRequest(key_id=key)
        arn = kms_of(home, key).perform(home.caller, request).key_metadata.arn
    except AccessDeniedError:
        if "alias/" in key:
            raise
        arn = key
    inventory = take_inventory(home)
    # Those of another KMS are set for the home's region, whatever theirs is.
    is_elsewhere = home.access.other_kms is not None or not arn.startswith("arn:")
    settings = home.volume_settings(None if is_elsewhere else arn.split(":")[3])
    return KeyUse(
        key_arn=arn,
        dependents=list(dependents_of(inventory, arn)),
        unreadable=[
            *inventory.unreadable,
            *(f"snapshot store {name} ({reason})" for name, reason in inventory.unread.items()),
        ],
        is_default=arn in settings.default_kms_keys.values(),
    )


def dependents_of(inventory: Inventory, key: str) -> Iterator[Dependent]:
    """What becomes unreadable with a key, given by ARN or id."""

    def is_under(wrapped: WrappedDataKey | None) -> bool:
        arn = key_arn_of(wrapped)
        return arn is not None and key in (arn, arn.rpartition("/")[2])

    yield from _volumes(inventory, is_under)
    for manifest in inventory.snapshots:
        if is_under(manifest.wrapped_key):
            store = inventory.store_name(manifest.store_id)
            yield Dependent(
                kind=Kind.SNAPSHOT if manifest.origin is None else Kind.COPY,
                id=manifest.snapshot_id,
                name=manifest.name,
                store=store,
                place=f"store {store}",
            )
    for job in inventory.pending:
        arn = job.kms_key_arn
        if arn is not None and key in (arn, arn.rpartition("/")[2]):
            yield Dependent(
                kind=Kind.PENDING,
                id=job.snapshot_id,
                name=job.name,
                store=job.store_name,
                place=f"store {job.store_name}",
            )
    pending = {job.snapshot_id for job in inventory.pending}
    owned = {workflow.copy_snapshot_id for workflow in inventory.workflows}
    for cursor in inventory.unfinished_copies:
        id_ = cursor.target_snapshot_id
        if is_under(cursor.wrapped_key) and id_ not in pending | owned:
            store = inventory.store_name(cursor.target_store_id)
            yield Dependent(
                kind=Kind.UNFINISHED_COPY,
                id=id_,
                store=store,
                place=f"of {cursor.source_snapshot_id}, store {store}",
            )
    for workflow in inventory.workflows:
        if is_under(workflow.target_key):
            # The unencrypted volume stays as it is; what was done is lost.
            yield Dependent(kind=Kind.UNFINISHED_ENCRYPTION, id=workflow.source_id)
    for migration in inventory.migrations:
        if is_under(migration.target_key):
            yield Dependent(kind=Kind.UNFINISHED_ENCRYPTION, id=migration.volume_id)


def _volumes(
    inventory: Inventory, is_under: Callable[[WrappedDataKey | None], bool]
) -> Iterator[Dependent]:
    for record in inventory.volumes:
        if is_under(record.wrapped_key):
            yield Dependent(
                kind=Kind.VOLUME,
                id=record.volume_id,
                name=record.name,
                exported_at=record.exported_at,
            )
            if record.volume_id in inventory.record_copies:
                yield Dependent(
                    kind=Kind.RECORD_COPY,
                    id=record.volume_id,
                    name=record.name,
                    place=inventory.record_copies[record.volume_id],
                )
        elif (
            record.source is not None
            and inventory.absent_chunks[record.volume_id]
            and is_under(record.source.wrapped_key)
        ):
            yield Dependent(
                kind=Kind.UNFETCHED,
                id=record.volume_id,
                name=record.name,
                store=inventory.store_name(record.source.store_id),
                place=f"of {record.source.snapshot_id}",
            )
