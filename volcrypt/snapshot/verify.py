"""Verify snapshots without any data key: read all that they name, and name what is wrong.

Everything that a digest or a signature covers is checked: chunks, pages, tables, manifests,
tombstones, certificates; then the logs of all signers for gaps, for two entries with one number,
and for being shorter than, or different from, the head that somebody kept.

As many reads are in flight as the store makes good use of, each with one buffer; findings come in
the order of the chunks all the same. What was found hides nothing that comes after it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from volcrypt.crypto.digest import ZERO_DIGEST
from volcrypt.errors import (
    ChunkCorruptError,
    ChunkMissingError,
    FormatError,
    IntegrityError,
    ObjectNotFoundError,
    SnapshotNotFoundError,
)
from volcrypt.formats.certificate import NO_ENTRY, SignerId
from volcrypt.formats.manifest import Manifest, SnapshotPoint
from volcrypt.formats.pages import PAGE_CHUNKS, digest_at, page_range, stored_positions
from volcrypt.formats.tombstone import Tombstone
from volcrypt.geometry import chunk_range
from volcrypt.names import SnapshotId
from volcrypt.snapshot import layout
from volcrypt.snapshot.damage import Damage, DamageKind, Verification, name_affected
from volcrypt.snapshot.layout import EntryName
from volcrypt.snapshot.log import SignerLog
from volcrypt.snapshot.read_ahead import InOrder, StoreView, read_ahead, readers
from volcrypt.snapshot.signer import LogHead, empty_log
from volcrypt.snapshot.store import SnapshotStore
from volcrypt.snapshot.table import ChunkTable

Entry = TypeVar("Entry", Manifest, Tombstone)


def verify(
    store: SnapshotStore,
    snapshot_ids: list[SnapshotId] | None = None,
    *,
    lineage: bool = False,
    expected_head: LogHead | None = None,
    expected_heads: Sequence[LogHead] = (),
) -> Verification:
    """Verify snapshots (None: all), with `lineage` also their ancestors, and all logs, which must
    not end before, or differ from, the heads that are given, one of a signer.

    Raises SnapshotNotFoundError for one that does not exist and never did, ObjectStoreError.
    Everything else that is wrong is in the answer.
    """
    heads = [*expected_heads, *([expected_head] if expected_head is not None else [])]
    found = _verify_once(store, snapshot_ids, lineage=lineage, heads=heads)
    if not found.damages:
        return found
    # Others may create and delete while this reads: what is wrong is wrong the second time too.
    again = _verify_once(store, snapshot_ids, lineage=lineage, heads=heads)
    return replace(again, damages=[each for each in again.damages if each in found.damages])


def _verify_once(
    store: SnapshotStore,
    snapshot_ids: list[SnapshotId] | None,
    *,
    lineage: bool,
    heads: Sequence[LogHead],
) -> Verification:
    with readers(store.objects.in_flight) as pool:
        view = StoreView(store, pool)
        verifier = _Verifier(view, pool)
        wanted = view.snapshot_ids() if snapshot_ids is None else list(snapshot_ids)
        for snapshot_id in wanted:
            verifier.verify_snapshot(snapshot_id, lineage=lineage)
        verifier.verify_logs({head.signer: head for head in heads})
        return Verification(
            snapshots=sorted(verifier.verified),
            chunk_count=verifier.chunk_count,
            freshness_checked=bool(heads),
            damages=name_affected(view, verifier.manifests, verifier.finish()),
            heads=verifier.heads,
        )


@dataclass(slots=True)
class _Verifier:
    store: SnapshotStore
    pool: ThreadPoolExecutor
    verified: set[SnapshotId] = field(default_factory=set)
    chunk_count: int = 0
    heads: list[LogHead] = field(default_factory=list)
    manifests: list[Manifest] = field(default_factory=list)
    _damages: dict[Damage, None] = field(default_factory=dict)
    """In order; each once."""
    _found: InOrder[Damage | None] = field(init=False)
    _pages: set[bytes] = field(default_factory=set)
    _bad_pages: set[bytes] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._found = InOrder(self.pool, self._take, in_flight=self._in_flight)

    @property
    def _in_flight(self) -> int:
        return self.store.objects.in_flight

    def finish(self) -> list[Damage]:
        """All findings."""
        self._found.finish()
        return list(self._damages)

    def _take(self, damage: Damage | None) -> None:
        if damage is not None:
            self._damages[damage] = None

    def _report(self, kind: DamageKind, what: str, name: str = "") -> None:
        self._found.add(Damage(kind=kind, what=what, name=name))

    # ------------------------------------------------------------ snapshots

    def verify_snapshot(self, snapshot_id: SnapshotId, *, lineage: bool) -> None:
        if not self._is_known(snapshot_id):
            raise SnapshotNotFoundError(snapshot_id)
        chain: list[Manifest] = []
        point: SnapshotPoint | None = SnapshotPoint(snapshot_id=snapshot_id, root=b"")
        seen: set[SnapshotId] = set()
        while point is not None and point.snapshot_id not in seen:
            seen.add(point.snapshot_id)
            manifest, parent = self._resolve(point)
            if manifest is not None:
                chain.append(manifest)
            point = parent if lineage else None
        # Oldest first: a child is compared with what was just verified.
        older: ChunkTable | None = None
        for manifest in reversed(chain):
            if manifest.snapshot_id not in self.verified:
                self.verified.add(manifest.snapshot_id)
                self.manifests.append(manifest)
                older = self._verify_chunks(manifest, older)
            else:
                older = self._table_of(manifest)

    def _is_known(self, snapshot_id: SnapshotId) -> bool:
        return (
            next(self.store.manifest_names(snapshot_id), None) is not None
            or next(self.store.tombstone_names(snapshot_id), None) is not None
        )

    def _resolve(self, point: SnapshotPoint) -> tuple[Manifest | None, SnapshotPoint | None]:
        """The snapshot at a point, if it is there, and the point of its parent, if known.

        An empty root stands for any: the snapshot that was asked for.
        """
        snapshot_id = point.snapshot_id
        what = f"snapshot {snapshot_id}"
        for name in self.store.tombstone_names(snapshot_id):
            if (tombstone := self._read_entry(name, self.store.read_tombstone)) is not None:
                if point.root not in (b"", tombstone.root) and not tombstone.damaged:
                    self._report(DamageKind.SUBSTITUTED, what, name.text)
                return None, tombstone.parent
        for name in self.store.manifest_names(snapshot_id):
            if (manifest := self._read_entry(name, self.store.read_manifest)) is not None:
                if point.root not in (b"", manifest.root):
                    self._report(DamageKind.SUBSTITUTED, what, name.text)
                return manifest, manifest.parent
            return None, None
        self._report(DamageKind.MISSING, f"manifest of {what}")
        return None, None

    def _verify_chunks(self, manifest: Manifest, older: ChunkTable | None) -> ChunkTable | None:
        what = f"snapshot {manifest.snapshot_id}"
        try:
            table = ChunkTable(
                self.store, manifest.root, size_bytes=manifest.size_bytes, where=what
            )
        except (IntegrityError, FormatError) as error:
            self._report_page(error, f"table of {what}", manifest.root)
            return None
        held = 0
        complete = True
        pages = read_ahead(
            self.pool,
            lambda number: _read_page(table, older, number),
            table.stored_pages(),
            count=self._in_flight,
        )
        for number, page in pages:
            digest = table.page_digest(number)
            try:
                digests = page.result()
            except (IntegrityError, FormatError) as error:
                # Another snapshot that has it too is named with the finding.
                if digest not in self._bad_pages:
                    self._bad_pages.add(digest)
                    self._report_page(error, f"page {number} of {what}", digest)
                complete = False
                continue
            held += len(stored_positions(digests))
            if digest not in self._pages:
                self._pages.add(digest)
                self._verify_page(manifest, number, digests, older)
        if complete and held != manifest.data_chunks:
            self._report(DamageKind.DAMAGED, f"count of the chunks of {what}")
        return table

    def _table_of(self, manifest: Manifest) -> ChunkTable | None:
        """Of a snapshot that was verified before."""
        try:
            return ChunkTable(self.store, manifest.root, size_bytes=manifest.size_bytes)
        except (IntegrityError, FormatError):
            return None

    def _verify_page(
        self, manifest: Manifest, number: int, digests: bytes, older: ChunkTable | None
    ) -> None:
        known = b""
        if older is not None and older.size_bytes == manifest.size_bytes:
            # A page of the older one that cannot be read was reported already.
            try:
                known = older.page(number)
            except (IntegrityError, FormatError):
                known = b""
        first = page_range(number, manifest.size_bytes).start
        for position in stored_positions(digests):
            digest = digest_at(digests, position)
            if known and digest_at(known, position) == digest:
                continue
            length = chunk_range(first + position, manifest.size_bytes).length
            what = f"chunk {number * PAGE_CHUNKS + position} of snapshot {manifest.snapshot_id}"
            self.chunk_count += 1
            self._found.begin(partial(self._look_at_chunk, digest, length, what))

    def _look_at_chunk(
        self, digest: bytes, length: int, what: str, buffer: memoryview
    ) -> Damage | None:
        """Runs in several threads."""
        name = layout.chunk_name(digest)
        try:
            self.store.get_chunk(digest, buffer[:length], where=what)
        except ChunkMissingError:
            return Damage(kind=DamageKind.MISSING, what=what, name=name)
        except ChunkCorruptError:
            kind = self._kind_of_damage(name, prefix=layout.CHUNKS)
            return Damage(kind=kind, what=what, name=name)
        return None

    def _report_page(self, error: Exception, what: str, digest: bytes) -> None:
        name = layout.page_name(digest)
        if isinstance(error, ChunkMissingError):
            self._report(DamageKind.MISSING, what, name)
        elif isinstance(error, ChunkCorruptError):
            self._report(self._kind_of_damage(name, prefix=layout.PAGES), what, name)
        else:
            self._report(DamageKind.SUBSTITUTED, what, name)

    def _kind_of_damage(self, name: str, *, prefix: str) -> DamageKind:
        """Damaged, or the bytes of another object of this store?"""
        try:
            data = self.store.objects.get(name)
        except ObjectNotFoundError:
            return DamageKind.MISSING
        except FormatError:  # longer than anything of ours
            return DamageKind.DAMAGED
        digest = self.store.digest.digest(data)
        other = layout.chunk_name(digest) if prefix == layout.CHUNKS else layout.page_name(digest)
        substituted = digest != ZERO_DIGEST and other in self.store.objects.list(other)
        return DamageKind.SUBSTITUTED if substituted else DamageKind.DAMAGED

    # ------------------------------------------------------------ logs

    def verify_logs(self, expected: Mapping[SignerId, LogHead]) -> None:
        signers = {name.place.signer for name in self._entries()}
        signers |= {name.deleted.signer for name in self._entries() if name.deleted is not None}
        for signer in sorted(signers | expected.keys()):
            log = SignerLog(self.store, signer)
            expected_head = expected.get(signer)
            last = log.last
            if expected_head is not None:
                last = max(last, expected_head.sequence)
            digest = self._verify_log(log, empty_log(signer), last, expected_head)
            if digest is not None and last > 0:
                self.heads.append(LogHead(signer, last, digest))

    def _verify_log(
        self, log: SignerLog, head: LogHead, last: int, expected_head: LogHead | None
    ) -> bytes | None:
        """The digest of the last entry, if that is sound."""
        previous: bytes | None = head.digest
        known = log.manifests.keys() | log.tombstones.keys() | log.deletions.keys()
        before_it = 0
        for sequence in sorted((known | {last}) - {0}):
            if sequence > before_it + 1:
                # A forged name may have any number: a gap is one finding, however wide.
                self._report(
                    DamageKind.MISSING if sequence <= log.last else DamageKind.ROLLED_BACK,
                    f"entries {before_it + 1} to {sequence - 1} of the log of signer {log.signer}"
                    if sequence > before_it + 2
                    else f"entry {sequence - 1} of the log of signer {log.signer}",
                )
                previous = None
            before_it = sequence
            what = f"entry {sequence} of the log of signer {log.signer}"
            names = [
                entries[sequence]
                for entries in (log.tombstones, log.deletions, log.manifests)
                if sequence in entries
            ]
            digest = None
            if not names:
                # The end of the log being gone is a rollback; a hole in it is a lost entry.
                kind = DamageKind.MISSING if sequence <= log.last else DamageKind.ROLLED_BACK
                self._report(kind, what)
            elif sum(self._check_entry(name) for name in names) == len(names):
                digest, before = self._entry(log, sequence, what)
                if None not in (before, previous) and before != previous:
                    self._report(DamageKind.SUBSTITUTED, what, names[0].text)
            is_head = expected_head is not None and (log.signer, sequence) == (
                expected_head.signer,
                expected_head.sequence,
            )
            if is_head and expected_head is not None and digest not in (None, expected_head.digest):
                self._report(DamageKind.ROLLED_BACK, what, names[0].text)
            previous = digest
        return previous

    def _entry(self, log: SignerLog, sequence: int, what: str) -> tuple[bytes | None, bytes | None]:
        """Digest of a sound entry and of the one before it, where they are known."""
        try:
            digest, before = log.entry(sequence) or (None, None)
        except IntegrityError:
            self._report(DamageKind.SUBSTITUTED, what)
            return None, None
        # Of a damaged manifest that was deleted it may be that nobody knew.
        return None if digest == NO_ENTRY else digest, before

    def _entries(self) -> Iterator[EntryName]:
        yield from self.store.manifest_names()
        yield from self.store.tombstone_names()

    def _check_entry(self, name: EntryName) -> bool:
        """Whether a manifest or tombstone is sound; reported when it is not."""
        if name.deleted is None:
            return self._read_entry(name, self.store.read_manifest) is not None
        return self._read_entry(name, self.store.read_tombstone) is not None

    def _read_entry(
        self, name: EntryName, read: Callable[[EntryName], tuple[Entry, bytes]]
    ) -> Entry | None:
        """A sound entry; None when it is not, which is reported."""
        if not self._check_certificate(name.place.signer):
            return None
        kind = "manifest" if name.deleted is None else "tombstone"
        what = f"{kind} of snapshot {name.snapshot_id}"
        try:
            return read(name)[0]
        except ObjectNotFoundError:
            self._report(DamageKind.MISSING, what, name.text)
        except (IntegrityError, FormatError):
            self._report_entry(name, what)
        return None

    def _bytes_of(self, name: EntryName) -> bytes | None:
        try:
            return self.store.objects.get(name.text)
        except (ObjectNotFoundError, FormatError):
            return None

    def _check_certificate(self, signer: SignerId) -> bool:
        what = f"certificate of signer {signer}"
        name = layout.certificate_name(signer)
        try:
            self.store.verifier_of(signer)
        except (IntegrityError, FormatError):
            missing = name not in self.store.objects.list(name)
            self._report(DamageKind.MISSING if missing else DamageKind.DAMAGED, what, name)
            return False
        return True

    def _report_entry(self, name: EntryName, what: str) -> None:
        """Damaged, or the valid bytes of another entry?"""
        data = self._bytes_of(name)
        others = (other for other in self._entries() if other != name)
        copied = data is not None and any(self._bytes_of(other) == data for other in others)
        kind = DamageKind.SUBSTITUTED if copied else DamageKind.DAMAGED
        self._report(kind, what, name.text)


def _read_page(table: ChunkTable, older: ChunkTable | None, number: int) -> bytes:
    """Read ahead: also the page that it will be compared with. Raises as `table.page`."""
    digests = table.page(number)
    if older is not None and older.size_bytes == table.size_bytes:
        with suppress(IntegrityError, FormatError):
            older.page(number)
    return digests
