"""A snapshot store with its keys, and the whole of making, copying and restoring in one call each.

Fixed keys and ids, so that what is written is the same in every run.
"""

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.fakes.chunks import MemoryChunks
from volcrypt.chunk_set import ChunkSet
from volcrypt.crypto.digest import ZERO_DIGEST, DigestAlgorithm
from volcrypt.errors import VolcryptError
from volcrypt.formats.copy_cursor import CopyCursor
from volcrypt.formats.manifest import Consistency, Manifest, Origin, SnapshotPoint
from volcrypt.formats.volume_record import KeySource, WrappedDataKey
from volcrypt.geometry import chunk_count
from volcrypt.names import (
    DataKeyId,
    SnapshotId,
    make_data_key_id,
    make_snapshot_id,
    make_store_id,
    make_volume_id,
)
from volcrypt.snapshot import log
from volcrypt.snapshot.copying import copy_chunks
from volcrypt.snapshot.draft import SnapshotDraft, StoredTable
from volcrypt.snapshot.objects import ObjectStore
from volcrypt.snapshot.pin import Pin
from volcrypt.snapshot.plan import mark_grown, plan_store
from volcrypt.snapshot.signer import LogHead, Signer
from volcrypt.snapshot.store import SnapshotStore
from volcrypt.snapshot.sweep import Swept, condemn, delete_condemned
from volcrypt.snapshot.transfer import (
    chunk_table,
    find_parent,
    restore_chunks,
    store_chunks,
)

ROOT_KEY = Ed25519PrivateKey.from_private_bytes(b"root".ljust(32, b"\0"))
ROOT_PUBLIC_KEY = ROOT_KEY.public_key().public_bytes_raw()
SIGNER = Signer(Ed25519PrivateKey.from_private_bytes(b"host one".ljust(32, b"\0")))
OTHER_SIGNER = Signer(Ed25519PrivateKey.from_private_bytes(b"host two".ljust(32, b"\0")))
STORE_ID = make_store_id(bytes([1] * 9))
VOLUME_ID = make_volume_id(bytes([2] * 9))
DATA_KEY_ID = make_data_key_id(bytes([3] * 9))
NOW = 1_760_000_000


def snapshot_id(number: int) -> SnapshotId:
    return make_snapshot_id(number.to_bytes(8, "big") + b"\0")


def wrapped_key(data_key_id: DataKeyId = DATA_KEY_ID) -> WrappedDataKey:
    return WrappedDataKey(
        data_key_id=data_key_id,
        ciphertext=b"wrapped",
        kms_key_arn="arn:aws:kms:us-east-1:000000000000:key/00000000-0000-0000-0000-000000000000",
        encryption_context={"volcrypt:volume-id": VOLUME_ID},
    )


def create_store(
    objects: ObjectStore, *, digest: DigestAlgorithm = DigestAlgorithm.BLAKE3, number: int = 1
) -> SnapshotStore:
    """A new store that knows both signers."""
    SnapshotStore.create(
        objects,
        store_id=make_store_id(bytes([number] * 9)),
        region="us-east-1",
        digest=digest,
        root_key=ROOT_KEY,
    )
    store = open_store(objects)
    store.certify(SIGNER.public_key, ROOT_KEY)
    store.certify(OTHER_SIGNER.public_key, ROOT_KEY)
    return store


def open_store(objects: ObjectStore) -> SnapshotStore:
    return SnapshotStore.open(objects, root_public_key=ROOT_PUBLIC_KEY)


@dataclass
class Host:
    """One host at work on one store: its signer and the head of its log, kept safe."""

    store: SnapshotStore
    signer: Signer = SIGNER
    head: LogHead | None = None
    now: int = NOW
    points: dict[SnapshotId, SnapshotPoint] = field(default_factory=dict)

    def clock(self) -> int:
        return self.now

    def pause(self, seconds: float) -> None:
        """Time does not matter here."""

    def pin(self, number: int, size_bytes: int) -> Pin:
        return Pin(
            self.store,
            snapshot_id=snapshot_id(number),
            size_bytes=size_bytes,
            signer=self.signer,
            clock=self.clock,
            pause=self.pause,
        )

    async def store_volume(
        self,
        number: int,
        volume: MemoryChunks,
        *,
        parent: SnapshotPoint | None = None,
        changed: set[int] | None = None,
    ) -> tuple[SnapshotDraft, Pin]:
        """All of a snapshot but its commit. `changed` None: the change map is void."""
        pin = self.pin(number, volume.size_bytes)
        if parent is None:
            pin.hold()
        else:
            try:
                size_bytes = self.store.manifest(parent.snapshot_id).size_bytes
            except VolcryptError:
                size_bytes = volume.size_bytes
            pin.hold([parent.root], size_bytes=size_bytes)
        map_ = None
        if changed is not None:
            map_ = ChunkSet(chunk_count(volume.size_bytes), changed)
        manifest = find_parent(
            self.store,
            parent,
            volume_id=VOLUME_ID,
            size_bytes=volume.size_bytes,
            data_key_id=DATA_KEY_ID,
            changed=map_,
        )
        if manifest is not None and map_ is not None and manifest.size_bytes < volume.size_bytes:
            mark_grown(map_, manifest.size_bytes, volume.candidate_chunks)
        plan = plan_store(
            size_bytes=volume.size_bytes,
            parent=manifest,
            changed=map_,
            candidates=volume.candidate_chunks(),
        )
        stored = await store_chunks(volume, pin, plan)
        return self.draft(number, volume.size_bytes, stored, parent=parent), pin

    async def snapshot(
        self,
        number: int,
        volume: MemoryChunks,
        *,
        parent: SnapshotPoint | None = None,
        changed: set[int] | None = None,
    ) -> Manifest:
        """A whole snapshot."""
        draft, pin = await self.store_volume(number, volume, parent=parent, changed=changed)
        return self.commit(draft, pin)

    def draft(
        self,
        number: int,
        size_bytes: int,
        stored: StoredTable,
        *,
        parent: SnapshotPoint | None = None,
        origin: Origin | None = None,
    ) -> SnapshotDraft:
        return SnapshotDraft(
            snapshot_id=snapshot_id(number),
            volume_id=VOLUME_ID,
            size_bytes=size_bytes,
            parent=parent,
            root=stored.root,
            data_chunks=stored.data_chunks,
            stored_chunks=stored.stored_chunks,
            stored_bytes=stored.stored_bytes,
            key_source=KeySource.KMS,
            wrapped_key=wrapped_key(),
            account="000000000000",
            consistency=Consistency.CRASH,
            captured_at=self.clock(),
            completed_at=self.clock(),
            origin=origin,
        )

    def commit(self, draft: SnapshotDraft, pin: Pin) -> Manifest:
        manifest, self.head = log.commit(self.store, draft, self.signer, self.head)
        pin.release()
        return manifest

    def delete(self, number: int) -> None:
        self.head = log.delete(
            self.store, snapshot_id(number), self.signer, self.head, now=self.clock()
        )

    def condemn(self) -> int:
        return condemn(self.store, self.signer)

    def delete_condemned(self, *, later: int = 0) -> Swept:
        """`later`: by this host's clock, than it is now."""
        return delete_condemned(
            self.store, self.signer, clock=lambda: self.clock() + later, pause=self.pause
        )

    def cursor(self, source: Manifest, number: int) -> CopyCursor:
        """The cursor of a copy that has not begun."""
        return CopyCursor(
            source_store_id=source.store_id,
            source_snapshot_id=source.snapshot_id,
            source_root=source.root,
            target_store_id=self.store.store_id,
            target_snapshot_id=snapshot_id(number),
            wrapped_key=wrapped_key(),
            next_chunk=0,
            root=ZERO_DIGEST,
            data_chunks=0,
            stored_chunks=0,
            stored_bytes=0,
        )

    async def copy(self, number: int, source: SnapshotStore, manifest: Manifest) -> Manifest:
        """Copy a snapshot, under the same key, into this store."""
        pin = self.pin(number, manifest.size_bytes)
        pin.hold([manifest.root] if source is self.store else [])
        cursor = self.cursor(manifest, number)
        stored = await copy_chunks(
            chunk_table(source, manifest),
            pin,
            cursor,
            lambda _: None,
            data_chunks=manifest.data_chunks,
        )
        origin = Origin(
            store_id=source.store_id, snapshot_id=manifest.snapshot_id, root=manifest.root
        )
        return self.commit(self.draft(number, manifest.size_bytes, stored, origin=origin), pin)


async def restore(store: SnapshotStore, manifest: Manifest) -> dict[int, bytes]:
    """The chunks that a snapshot restores."""
    volume = MemoryChunks(manifest.size_bytes)
    await restore_chunks(chunk_table(store, manifest), volume)
    assert volume.synced
    return volume.chunks
