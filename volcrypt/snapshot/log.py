"""The log of a signer: continue it, commit a snapshot to it, delete one with a tombstone.

A head that is kept outside the store says how far the log had come. An operation may have been
killed after its entry was durable and before the new head was kept; so an operation first walks on
from the head that it is given: valid entries of the signer himself that continue it are accepted,
since nobody else can make them. Everything else is a rollback: an entry missing at or after the
head, one with another digest, a chain that does not hold.

A damaged manifest is still an entry: its name says which, and the next entry, or the head that was
kept, what its digest was. So the log goes on behind it, and it can be deleted like any other. Where
nobody knows the digest any more, it is NO_ENTRY, and the link to the next entry is not checked.

Operations of one signer are kept apart by the caller (a host's lock); several signers share a store
freely.
"""

from collections.abc import Iterable, Sequence

from volcrypt.crypto.digest import ZERO_DIGEST
from volcrypt.errors import (
    FormatError,
    IntegrityError,
    InvalidArgumentError,
    ObjectLostError,
    ObjectNotFoundError,
    ObjectStoreError,
    RollbackError,
    SnapshotNotFoundError,
    TryAgainError,
    UnsupportedVersionError,
)
from volcrypt.formats.certificate import NO_ENTRY, SignerId, entry_digest
from volcrypt.formats.manifest import Manifest, encode_manifest
from volcrypt.formats.pin import PinBody, encode_pin
from volcrypt.formats.tombstone import Tombstone, encode_tombstone
from volcrypt.names import SnapshotId
from volcrypt.snapshot import layout
from volcrypt.snapshot.draft import SnapshotDraft
from volcrypt.snapshot.layout import EntryName, LogPlace
from volcrypt.snapshot.signer import LogHead, Signer, empty_log
from volcrypt.snapshot.store import SnapshotStore


class SignerLog:
    """The entries of one signer, as the store lists them now."""

    def __init__(self, store: SnapshotStore, signer: SignerId) -> None:
        self._store = store
        self.signer = signer
        self.manifests: dict[int, EntryName] = {}
        self.tombstones: dict[int, EntryName] = {}
        self.deletions: dict[int, EntryName] = {}
        """Tombstones, of any signer, by the number that they delete from this log."""
        # Manifests first: one that is deleted meanwhile is then found by its tombstone.
        for name in store.manifest_names():
            if name.place.signer == signer:
                self.manifests[name.place.sequence] = name
        for name in store.tombstone_names():
            if name.place.signer == signer:
                self.tombstones[name.place.sequence] = name
            if name.deleted is not None and name.deleted.signer == signer:
                self.deletions[name.deleted.sequence] = name

    @property
    def last(self) -> int:
        """The highest number that the store lists; 0 for none."""
        return max((0, *self.manifests, *self.tombstones, *self.deletions))

    def entry(self, sequence: int) -> tuple[bytes, bytes | None] | None:
        """`(digest, digest of the one before)` of a checked entry, or None when it is missing.

        Of a deleted manifest only the digest is known, from its tombstone; NO_ENTRY when not even
        that is.
        Raises FormatError and IntegrityError; RollbackError when a number is there twice.
        """
        if sequence in self.manifests and sequence in self.tombstones:
            raise self._rollback()
        try:
            if (name := self.tombstones.get(sequence)) is not None:
                tombstone, data = self._store.read_tombstone(name)
                return entry_digest(data), tombstone.previous
            if (name := self.deletions.get(sequence)) is not None:
                return self._store.read_tombstone(name)[0].deleted_digest, None
            if (name := self.manifests.get(sequence)) is not None:
                manifest, data = self._store.read_manifest(name)
                return entry_digest(data), manifest.previous
        except ObjectNotFoundError:
            return self._deleted_meanwhile(sequence) if sequence in self.manifests else None
        return None

    def _deleted_meanwhile(self, sequence: int) -> tuple[bytes, None] | None:
        """The entry of a manifest that was listed and is gone: another signer deleted it."""
        snapshot_id = self.manifests[sequence].snapshot_id
        for name in self._store.tombstone_names(snapshot_id):
            if name.deleted == LogPlace(self.signer, sequence):
                return self._store.read_tombstone(name)[0].deleted_digest, None
        return None

    def _rollback(self) -> RollbackError:
        return _rollback(self._store, self.signer)

    def missing(self, head: LogHead) -> list[int]:
        """The numbers up to a head that somebody kept of which the store lists nothing: lost
        manifests, or tombstones that were taken away so that deleted snapshots come back."""
        known = self.manifests.keys() | self.tombstones.keys() | self.deletions.keys()
        return [number for number in range(1, head.sequence + 1) if number not in known]

    def continue_from(self, head: LogHead | None) -> LogHead:
        """The present head. Raises RollbackError, FormatError and IntegrityError."""
        current = head or empty_log(self.signer)
        if current.signer != self.signer:
            raise InvalidArgumentError("the log head is another signer's")
        if current.sequence > 0 and not self._is_at(current):
            raise self._rollback()
        while current.sequence < self.last:
            entry = self.entry(current.sequence + 1)
            if entry is None or not _follows(current, entry[1]):
                raise self._rollback()
            current = LogHead(self.signer, current.sequence + 1, entry[0])
        return current

    def _is_at(self, head: LogHead) -> bool:
        """Whether the entry of a head that was kept is there, sound or damaged, and no other."""
        try:
            entry = self.entry(head.sequence)
        except (RollbackError, UnsupportedVersionError):
            raise
        except (FormatError, IntegrityError):
            return True
        return entry is not None and (
            NO_ENTRY in (entry[0], head.digest) or entry[0] == head.digest
        )

    def digest_of_damaged(self, sequence: int, heads: Iterable[LogHead]) -> bytes:
        """What the digest of an entry was that cannot be read: a head that was kept knows it, or
        the entry behind it. NO_ENTRY when neither does."""
        for head in heads:
            if (head.signer, head.sequence) == (self.signer, sequence):
                return head.digest
        try:
            following = self.entry(sequence + 1)
        except (FormatError, IntegrityError):
            return NO_ENTRY
        return NO_ENTRY if following is None or following[1] is None else following[1]


def _rollback(store: SnapshotStore, signer: SignerId) -> RollbackError:
    return RollbackError(
        f"log of signer {signer} in {store.objects.location}",
        hint="was an older copy of the store put back? then put the newer one there; 'volcrypt "
        "snapshot verify' says what is missing, or is another",
    )


def _follows(head: LogHead, previous: bytes | None) -> bool:
    """Whether an entry that names this one as the one before may come after `head`."""
    unknown = head.sequence > 0 and head.digest == NO_ENTRY
    return unknown or previous in (None, head.digest)


def commit(
    store: SnapshotStore, draft: SnapshotDraft, signer: Signer, head: LogHead | None
) -> tuple[Manifest, LogHead]:
    """Complete a snapshot whose chunks and pages were put under a pin: durable on return.

    After a kill, the same commit again finds its own manifest. Raises RollbackError when the store
    does not continue `head`, TryAgainError when the pin was lost, ObjectStoreError, NoSpaceError.
    """
    store.objects.sync()
    # A manifest that readers would not accept must not be reported as a snapshot.
    store.verifier_of(signer.id)
    if store.tombstone(draft.snapshot_id) is not None:
        raise InvalidArgumentError(f"snapshot {draft.snapshot_id} was deleted")
    head = SignerLog(store, signer.id).continue_from(head)
    for name in store.manifest_names(draft.snapshot_id):
        manifest = store.read_manifest(name)[0]
        if manifest.root != draft.root or manifest.signer != signer.id:
            raise InvalidArgumentError(f"snapshot {draft.snapshot_id} exists already")
        return manifest, head
    manifest = draft.manifest(
        store=store.document,
        signer=signer.id,
        sequence=head.sequence + 1,
        previous=head.digest,
    )
    data = encode_manifest(manifest, signer.seal)
    # Without its pin a sweep may have taken what this snapshot shares with deleted ones.
    _secure(store, draft, signer)
    place = LogPlace(signer.id, manifest.sequence)
    return manifest, _append(store, EntryName(draft.snapshot_id, place), data)


def _secure(store: SnapshotStore, draft: SnapshotDraft, signer: Signer) -> None:
    """Keep all of a snapshot that has a pin until its manifest is there, whatever anybody's clock
    says (see `snapshot.pin`); durable on return. Raises TryAgainError when the hold was lost."""
    body = PinBody(
        store_id=store.store_id,
        signer=signer.id,
        snapshot_id=draft.snapshot_id,
        size_bytes=draft.size_bytes,
        roots=[draft.root] if draft.root != ZERO_DIGEST else [],
        renewed_at=draft.completed_at,
        lasting=True,
    )
    store.objects.replace(layout.pin_name(draft.snapshot_id), encode_pin(body, signer.seal))
    # Say first, look second; a sweep removes the hold first and reads the pin second.
    hold = layout.hold_name(draft.snapshot_id)
    if hold not in store.objects.list(hold):
        store.objects.delete(layout.pin_name(draft.snapshot_id))
        raise TryAgainError(
            f"snapshot {draft.snapshot_id} lost its hold on the store",
            hint="another host swept the store and took this one for dead; are their clocks right?",
        )


def delete(
    store: SnapshotStore,
    snapshot_id: SnapshotId,
    signer: Signer,
    head: LogHead | None,
    *,
    now: int,
    known_heads: Sequence[LogHead] = (),
) -> LogHead:
    """Delete a snapshot for good: tombstone, then manifest. Its chunks are left to a sweep.

    One whose manifest is damaged is deleted as well; `known_heads`, of any signers, help to say
    which entry that was. After a kill between the two, the same call again removes the manifest.
    Raises SnapshotNotFoundError, RollbackError, IntegrityError, ObjectStoreError.
    """
    head = SignerLog(store, signer.id).continue_from(head)
    names = list(store.manifest_names(snapshot_id))
    if not names:
        raise SnapshotNotFoundError(snapshot_id)
    if store.tombstone(snapshot_id) is None:
        try:
            manifest, data = store.read_manifest(names[0])
        except UnsupportedVersionError:
            raise
        except ObjectNotFoundError as error:  # by another signer, just now
            raise SnapshotNotFoundError(snapshot_id) from error
        except (FormatError, IntegrityError):
            known = [*known_heads, head]
            tombstone = _damaged_tombstone(store, names[0], signer, head, known, now)
        else:
            tombstone = Tombstone(
                store_id=store.store_id,
                signer=signer.id,
                sequence=head.sequence + 1,
                previous=head.digest,
                snapshot_id=snapshot_id,
                volume_id=manifest.volume_id,
                deleted_signer=manifest.signer,
                deleted_sequence=manifest.sequence,
                deleted_digest=entry_digest(data),
                root=manifest.root,
                parent=manifest.parent,
                deleted_at=now,
            )
        place = LogPlace(signer.id, tombstone.sequence)
        name = EntryName(snapshot_id, place, names[0].place)
        head = _append(store, name, encode_tombstone(tombstone, signer.seal))
    for name in names:
        store.objects.delete(name.text)
    store.objects.sync()
    return head


def _damaged_tombstone(
    store: SnapshotStore,
    name: EntryName,
    signer: Signer,
    head: LogHead,
    known_heads: Sequence[LogHead],
    now: int,
) -> Tombstone:
    """Of a manifest that cannot be read. Raises IntegrityError for one that is no entry: its number
    is behind the end of the log, which a tombstone would make longer for good."""
    place = name.place
    log = SignerLog(store, place.signer)
    numbers = {*log.manifests, *log.tombstones, *log.deletions} - {place.sequence}
    ends = [known.sequence for known in known_heads if known.signer == place.signer]
    if place.sequence > max((0, *numbers, *ends)) + 1:
        raise IntegrityError(
            f"{name.text} is not the manifest of a snapshot: the log of its signer does not come "
            "so far",
            hint="somebody put it there; remove that object from the store",
        )
    return Tombstone(
        store_id=store.store_id,
        signer=signer.id,
        sequence=head.sequence + 1,
        previous=head.digest,
        snapshot_id=name.snapshot_id,
        volume_id=None,
        deleted_signer=place.signer,
        deleted_sequence=place.sequence,
        deleted_digest=log.digest_of_damaged(place.sequence, known_heads),
        root=ZERO_DIGEST,
        parent=None,
        deleted_at=now,
        damaged=True,
    )


def _append(store: SnapshotStore, name: EntryName, data: bytes) -> LogHead:
    """Put an entry; what the store answers is not believed before the entry was read back."""
    failure: ObjectStoreError | None = None
    is_new = False
    try:
        is_new = store.objects.put_if_absent(name.text, data)
    except ObjectStoreError as error:
        failure = error  # and yet it may be there
    try:
        found = store.objects.get(name.text)
    except ObjectNotFoundError as error:
        if not _was_deleted(store, name, data):
            if failure is not None:
                raise failure from None
            raise ObjectLostError(store.objects.location, name.text, None) from error
        found = data
    except ObjectStoreError as error:
        if failure is None and not is_new:
            raise
        raise ObjectStoreError(
            f"{failure or error}; whether {name.text} is stored is not known",
            hint="'volcrypt snapshot list' tells when the store can be reached again",
        ) from error
    # An entry that is there with just these bytes is ours: an answer was lost on its way.
    if found != data:
        if is_new:
            raise ObjectLostError(store.objects.location, name.text, len(found))
        raise _rollback(store, name.place.signer)
    return LogHead(name.place.signer, name.place.sequence, entry_digest(data))


def _was_deleted(store: SnapshotStore, name: EntryName, data: bytes) -> bool:
    """Whether this manifest was there: another host saw it, and has deleted the snapshot since."""
    tombstone = None if name.deleted is not None else store.tombstone(name.snapshot_id)
    return (
        tombstone is not None
        and LogPlace(tombstone.deleted_signer, tombstone.deleted_sequence) == name.place
        and tombstone.deleted_digest == entry_digest(data)
    )
