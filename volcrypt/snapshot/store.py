"""SnapshotStore: what the objects of a store are, and what makes them true.

A reader pins the root's public key; the root certifies signers; signers sign manifests; a manifest
names its chunks by digest. So nothing that a store answers is believed before it was checked, and
nothing here needs a data key.

How a snapshot comes in: hold a pin (`snapshot.pin`), put chunks and pages (`snapshot.transfer`),
`commit`. The manifest is written last, after everything it names is durable: a snapshot that was
interrupted leaves unreferenced objects and no trace of itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typing_extensions import Buffer

from volcrypt.crypto.digest import DigestAlgorithm
from volcrypt.errors import (
    FormatError,
    IntegrityError,
    InvalidArgumentError,
    ObjectNotFoundError,
    SealError,
    SnapshotNotFoundError,
    StoreNotFoundError,
    VolcryptError,
)
from volcrypt.formats.certificate import (
    SignerCertificate,
    SignerId,
    decode_certificate,
    encode_certificate,
    signer_id,
)
from volcrypt.formats.document import SignatureVerifier, SigningSeal, Verifier
from volcrypt.formats.manifest import Manifest, decode_manifest
from volcrypt.formats.store import StoreDocument, decode_store_document, encode_store_document
from volcrypt.formats.tombstone import Tombstone, decode_tombstone
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.names import SnapshotId, StoreId
from volcrypt.snapshot import layout
from volcrypt.snapshot.checked_objects import CheckedObjects
from volcrypt.snapshot.layout import EntryName, LogPlace
from volcrypt.snapshot.objects import ObjectStore


class Stored(Enum):
    """What became of an object that was to be put."""

    NEW = "new"
    PRESENT = "present"
    REPAIRED = "repaired"
    """The name held other bytes than it promises; they were replaced."""


class SnapshotStore(CheckedObjects):
    """An open store. Safe for several threads at once."""

    def __init__(self, objects: ObjectStore, document: StoreDocument) -> None:
        """For `open`: `document` was checked against the pinned root."""
        super().__init__(objects, document.digest)
        self.document = document
        self._root = SignatureVerifier(document.root_public_key)
        self._verifiers: dict[SignerId, Verifier] = {}

    @classmethod
    def create(
        cls,
        objects: ObjectStore,
        *,
        store_id: StoreId,
        region: str,
        digest: DigestAlgorithm,
        root_key: Ed25519PrivateKey,
    ) -> None:
        """Make an empty place a store; again with the same arguments after a kill is fine.

        Raises InvalidArgumentError when another store is there.
        """
        document = StoreDocument(
            store_id=store_id,
            region=region,
            digest=digest,
            chunk_bytes=CHUNK_BYTES,
            root_public_key=root_key.public_key().public_bytes_raw(),
        )
        data = encode_store_document(document, SigningSeal(root_key))
        if not objects.put_if_absent(layout.STORE, data) and objects.get(layout.STORE) != data:
            raise InvalidArgumentError(f"{objects.location} holds another snapshot store already")

    @classmethod
    def open(cls, objects: ObjectStore, *, root_public_key: bytes) -> Self:
        """Raises StoreNotFoundError, FormatError, SealError when the root is not the pinned one."""
        document = read_store_document(objects)
        if document.root_public_key != root_public_key:
            raise SealError(f"snapshot store {objects.location}")
        return cls(objects, document)

    @property
    def store_id(self) -> StoreId:
        return self.document.store_id

    # ------------------------------------------------------------ signers

    def certify(self, public_key: bytes, root_key: Ed25519PrivateKey) -> None:
        """Let the signer with this public key sign here; durable. Again is fine."""
        certificate = SignerCertificate(
            store_id=self.store_id, signer=signer_id(public_key), public_key=public_key
        )
        data = encode_certificate(certificate, SigningSeal(root_key))
        name = layout.certificate_name(certificate.signer)
        if not self.objects.put_if_absent(name, data) and self.objects.get(name) != data:
            self.objects.replace(name, data)

    def verifier_of(self, signer: SignerId) -> Verifier:
        """Checks the signatures of a certified signer. Raises SealError and FormatError."""
        if (verifier := self._verifiers.get(signer)) is not None:
            return verifier
        what = f"certificate of signer {signer}"
        try:
            data = self.objects.get(layout.certificate_name(SignerId(_checked_word(signer, what))))
        except ObjectNotFoundError as error:
            raise SealError(f"document of signer {signer}, who has no certificate here") from error
        certificate = decode_certificate(data, self._root, what=what)
        if certificate.signer != signer or certificate.store_id != self.store_id:
            raise SealError(what)
        verifier = self._verifiers[signer] = SignatureVerifier(certificate.public_key)
        return verifier

    # ------------------------------------------------------------ snapshots

    def snapshot_ids(self) -> list[SnapshotId]:
        """Ids of the snapshots, sorted, as the listing of the store has them: not yet checked."""
        listed = {entry.snapshot_id for entry in self.manifest_names()}
        # Both are there only while a deletion is under way, or when somebody forged a tombstone.
        doubtful = listed & {entry.snapshot_id for entry in self.tombstone_names()}
        return sorted(listed - {each for each in doubtful if self.is_deleted(each)})

    def is_deleted(self, snapshot_id: SnapshotId) -> bool:
        """Whether there is a sound record of its deletion."""
        try:
            return self.tombstone(snapshot_id) is not None
        except (FormatError, IntegrityError):
            return False

    @contextmanager
    def reading(self, snapshot_id: SnapshotId) -> Iterator[None]:
        """While the block reads a snapshot that it has no pin on: what is missing since another
        host deleted it meanwhile is no damage. Raises SnapshotNotFoundError then."""
        try:
            yield
        except (FormatError, IntegrityError) as error:
            if self.is_deleted(snapshot_id):
                raise SnapshotNotFoundError(snapshot_id) from error
            raise

    def manifest(self, snapshot_id: SnapshotId) -> Manifest:
        """A completed snapshot, checked. Raises SnapshotNotFoundError, FormatError, IntegrityError.

        A snapshot with a tombstone is deleted, whatever else the store still holds of it.
        """
        if self.tombstone(snapshot_id) is not None:
            raise SnapshotNotFoundError(snapshot_id)
        names = list(self.manifest_names(snapshot_id))
        if not names:
            raise SnapshotNotFoundError(snapshot_id)
        try:
            return self.read_manifest(names[0])[0]
        except ObjectNotFoundError as error:
            raise SnapshotNotFoundError(snapshot_id) from error

    def tombstone(self, snapshot_id: SnapshotId) -> Tombstone | None:
        """The checked record of a deletion; None for a snapshot that was not deleted.

        Raises FormatError and IntegrityError when there is one that cannot be read, and no other.
        """
        failure: VolcryptError | None = None
        for name in self.tombstone_names(snapshot_id):
            try:
                return self.read_tombstone(name)[0]
            except (FormatError, IntegrityError) as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return None

    def manifest_names(self, snapshot_id: SnapshotId | None = None) -> Iterator[EntryName]:
        return self._entry_names(layout.MANIFESTS, snapshot_id)

    def tombstone_names(self, snapshot_id: SnapshotId | None = None) -> Iterator[EntryName]:
        return self._entry_names(layout.TOMBSTONES, snapshot_id)

    def read_manifest(self, name: EntryName) -> tuple[Manifest, bytes]:
        """The checked manifest under a name, and its bytes.

        Raises ObjectNotFoundError, FormatError and IntegrityError.
        """
        what = f"manifest of snapshot {name.snapshot_id}"
        data = self.objects.get(name.text)
        manifest = decode_manifest(data, self.verifier_of, what=what)
        place = LogPlace(manifest.signer, manifest.sequence)
        if (
            EntryName(manifest.snapshot_id, place) != name
            or manifest.store_id != self.store_id
            or manifest.digest is not self.digest
        ):
            raise SealError(what)
        return manifest, data

    def read_tombstone(self, name: EntryName) -> tuple[Tombstone, bytes]:
        """The checked tombstone under a name, and its bytes; raises as `read_manifest`."""
        what = f"tombstone of snapshot {name.snapshot_id}"
        data = self.objects.get(name.text)
        tombstone = decode_tombstone(data, self.verifier_of, what=what)
        place = LogPlace(tombstone.signer, tombstone.sequence)
        deleted = LogPlace(tombstone.deleted_signer, tombstone.deleted_sequence)
        if (
            EntryName(tombstone.snapshot_id, place, deleted) != name
            or tombstone.store_id != self.store_id
        ):
            raise SealError(what)
        return tombstone, data

    def _entry_names(self, prefix: str, snapshot_id: SnapshotId | None) -> Iterator[EntryName]:
        narrowed = prefix if snapshot_id is None else f"{prefix}{snapshot_id}."
        for text in self.objects.list(narrowed):
            if (entry := layout.parse_entry_name(text)) is not None:
                yield entry

    # ------------------------------------------------------------ chunks and pages

    def put_chunk(self, digest: bytes, data: Buffer) -> Stored:
        """Store a chunk under its digest; durable after `sync`."""
        return self._put(layout.chunk_name(digest), digest, data)

    def put_page(self, data: bytes) -> tuple[bytes, Stored]:
        """Store an encoded page or table; answers its digest. Durable after `sync`."""
        digest = self.digest.digest(data)
        return digest, self._put(layout.page_name(digest), digest, data)

    def _put(self, name: str, digest: bytes, data: Buffer) -> Stored:
        while not self.objects.put_if_absent(name, data, batched=True):
            # A power cut or a bad writer leaves wrong bytes under a final name: that is no proof.
            try:
                present = self.objects.get(name)
            except ObjectNotFoundError:
                continue  # a sweep took what nobody held
            if len(present) == memoryview(data).nbytes and self.digest.digest(present) == digest:
                return Stored.PRESENT
            self.objects.replace(name, data)
            return Stored.REPAIRED
        return Stored.NEW


def read_store_document(objects: ObjectStore) -> StoreDocument:
    """What a store says about itself, for `trust` to show and pin: proves nothing on its own.

    Raises StoreNotFoundError, FormatError and SealError.
    """
    try:
        data = objects.get(layout.STORE)
    except ObjectNotFoundError as error:
        raise StoreNotFoundError(objects.location) from error
    return decode_store_document(data, what=f"snapshot store {objects.location}")


def _checked_word(text: str, what: str) -> str:
    """A signer's id comes from a document not yet checked and becomes part of a name."""
    if not text.isascii() or not text.isalnum():
        raise SealError(what)
    return text
