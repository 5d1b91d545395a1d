"""What is found wrong with snapshots, and which of them are incomplete for it."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum

from volcrypt.crypto.digest import DIGEST_BYTES
from volcrypt.errors import FormatError, IntegrityError
from volcrypt.formats.manifest import Manifest
from volcrypt.names import SnapshotId
from volcrypt.snapshot import layout
from volcrypt.snapshot.signer import LogHead
from volcrypt.snapshot.store import SnapshotStore
from volcrypt.snapshot.table import ChunkTable


class DamageKind(Enum):
    """What is wrong with something."""

    DAMAGED = "damaged"
    """Its bytes are not what they should be: changed, or cut."""
    MISSING = "missing"
    SUBSTITUTED = "substituted"
    """Another's valid bytes in its place."""
    ROLLED_BACK = "rolled back"
    """The store is older than, or another than, what was seen of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One finding. `what` names the thing for people, `name` the object, where there is one.
    `snapshots` are all of those looked at that are incomplete for it, where it is one of content.
    """

    kind: DamageKind
    what: str
    name: str
    snapshots: tuple[SnapshotId, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.what}" + (f" ({self.name})" if self.name else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was looked at, and what was wrong with it."""

    snapshots: list[SnapshotId]
    chunk_count: int
    """Chunks read; one that a snapshot has in common with the one before it is read once."""
    freshness_checked: bool
    """False: nothing to compare with was given, so a store rolled back as a whole goes unseen."""
    damages: list[Damage]
    heads: list[LogHead]
    """How far each signer's log has come, where its last entry is sound: to be kept, and compared
    with next time."""


def name_affected(
    store: SnapshotStore, manifests: Sequence[Manifest], damages: Sequence[Damage]
) -> list[Damage]:
    """The same findings, where they are of content with all those of the snapshots that have it:
    what several have in common is read, and found, once."""
    digests = [layout.digest_in_name(damage.name) for damage in damages]
    damaged = {digest for digest in digests if digest is not None}
    if not damaged:
        return list(damages)
    found = {
        manifest.snapshot_id: _damaged_parts(store, manifest, damaged) for manifest in manifests
    }
    return [
        replace(damage, snapshots=tuple(sorted(each for each in found if digest in found[each])))
        if digest is not None
        else damage
        for damage, digest in zip(damages, digests, strict=True)
    ]


def _damaged_parts(store: SnapshotStore, manifest: Manifest, damaged: set[bytes]) -> set[bytes]:
    """Those of its chunks, pages and table that are among the damaged."""
    found = {manifest.root} & damaged
    try:
        table = ChunkTable(store, manifest.root, size_bytes=manifest.size_bytes)
    except (IntegrityError, FormatError):
        return found
    for number in table.stored_pages():
        found |= {table.page_digest(number)} & damaged
        with suppress(IntegrityError, FormatError):
            digests = table.page(number)
            found |= {digest for digest in damaged if _holds(digests, digest)}
    return found


def _holds(digests: bytes, digest: bytes) -> bool:
    """Whether a page has a digest: at the place of one, not across two."""
    at = digests.find(digest)
    while at >= 0 and at % DIGEST_BYTES:
        at = digests.find(digest, at + 1)
    return at >= 0
