"""One value of each format of the snapshot store, with what seals it: for golden and fuzz tests."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.fakes.snapshots import (
    DATA_KEY_ID,
    NOW,
    ROOT_KEY,
    ROOT_PUBLIC_KEY,
    SIGNER,
    STORE_ID,
    VOLUME_ID,
    snapshot_id,
    wrapped_key,
)
from volcrypt.crypto.digest import DigestAlgorithm
from volcrypt.formats.certificate import (
    NO_ENTRY,
    SignerCertificate,
    SignerId,
    decode_certificate,
    encode_certificate,
)
from volcrypt.formats.condemned import (
    CondemnedList,
    SweepingMark,
    decode_condemned,
    decode_sweeping,
    encode_condemned,
    encode_sweeping,
)
from volcrypt.formats.copy_cursor import CopyCursor, decode_copy_cursor, encode_copy_cursor
from volcrypt.formats.document import MacSeal, SignatureVerifier, SigningSeal, Verifier
from volcrypt.formats.lease import (
    Lease,
    LeaseRelease,
    decode_lease,
    decode_lease_release,
    encode_lease,
    encode_lease_release,
)
from volcrypt.formats.manifest import (
    Consistency,
    Manifest,
    Origin,
    SnapshotPoint,
    decode_manifest,
    encode_manifest,
)
from volcrypt.formats.pages import decode_page, decode_table, encode_page, encode_table
from volcrypt.formats.pin import PinBody, decode_pin, encode_pin
from volcrypt.formats.record_copy import (
    copy_seal_key,
    decode_record_copy,
    encode_record_copy,
)
from volcrypt.formats.store import StoreDocument, decode_store_document, encode_store_document
from volcrypt.formats.store_place import (
    StorePlace,
    decode_store_place,
    encode_store_place,
)
from volcrypt.formats.tombstone import Tombstone, decode_tombstone, encode_tombstone
from volcrypt.formats.volume_record import KeySource, VolumeRecord
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.snapshot.layout import chunk_name

GOLDEN: Final = Path(__file__).parent.parent / "golden" / "v1" / "snapshot"
SIZE: Final = 3 * CHUNK_BYTES
CURSOR_SEAL: Final = MacSeal(bytes(range(32)))

ROOT = bytes([0xAA]) * 32
PARENT = SnapshotPoint(snapshot_id=snapshot_id(1), root=bytes([0xBB]) * 32)

STORE = StoreDocument(
    store_id=STORE_ID,
    region="us-east-1",
    digest=DigestAlgorithm.BLAKE3,
    chunk_bytes=CHUNK_BYTES,
    root_public_key=ROOT_PUBLIC_KEY,
)
CERTIFICATE = SignerCertificate(store_id=STORE_ID, signer=SIGNER.id, public_key=SIGNER.public_key)
MANIFEST = Manifest(
    store_id=STORE_ID,
    signer=SIGNER.id,
    sequence=2,
    previous=bytes([0xCC]) * 32,
    snapshot_id=snapshot_id(2),
    name="nightly",
    description="before the upgrade",
    volume_id=VOLUME_ID,
    size_bytes=SIZE,
    chunk_bytes=CHUNK_BYTES,
    digest=DigestAlgorithm.BLAKE3,
    parent=PARENT,
    root=ROOT,
    data_chunks=2,
    stored_chunks=1,
    stored_bytes=CHUNK_BYTES,
    key_source=KeySource.KMS,
    wrapped_key=wrapped_key(DATA_KEY_ID),
    region="us-east-1",
    account="000000000000",
    consistency=Consistency.CRASH,
    captured_at=NOW,
    completed_at=NOW + 7,
    origin=Origin(store_id=STORE_ID, snapshot_id=snapshot_id(9), root=ROOT),
    written_bytes=3 * CHUNK_BYTES,
)
TOMBSTONE = Tombstone(
    store_id=STORE_ID,
    signer=SIGNER.id,
    sequence=1,
    previous=NO_ENTRY,
    snapshot_id=snapshot_id(2),
    volume_id=VOLUME_ID,
    deleted_signer=SIGNER.id,
    deleted_sequence=2,
    deleted_digest=bytes([0xDD]) * 32,
    root=ROOT,
    parent=PARENT,
    deleted_at=NOW,
)
PIN = PinBody(
    store_id=STORE_ID,
    signer=SIGNER.id,
    snapshot_id=snapshot_id(2),
    size_bytes=SIZE,
    roots=[ROOT],
    renewed_at=NOW,
)
CONDEMNED = CondemnedList(store_id=STORE_ID, signer=SIGNER.id, names=[chunk_name(ROOT)])
SWEEPING = SweepingMark(store_id=STORE_ID, signer=SIGNER.id, renewed_at=NOW)
CURSOR = CopyCursor(
    source_store_id=STORE_ID,
    source_snapshot_id=snapshot_id(1),
    source_root=PARENT.root,
    target_store_id=STORE_ID,
    target_snapshot_id=snapshot_id(2),
    wrapped_key=wrapped_key(),
    next_chunk=2,
    root=ROOT,
    data_chunks=2,
    stored_chunks=1,
    stored_bytes=CHUNK_BYTES,
    base=PARENT,
)
LEASE = Lease(
    store_id=STORE_ID,
    signer=SIGNER.id,
    volume_id=VOLUME_ID,
    epoch=7,
    home_id="0011223344556677",
    machine_id="0123456789abcdef0123456789abcdef",
    host_name="alpha",
    taken_over=False,
    taken_at=NOW,
)
RELEASE = LeaseRelease(
    store_id=STORE_ID, signer=SIGNER.id, volume_id=VOLUME_ID, epoch=7, released_at=NOW + 500
)
COPIED = VolumeRecord(
    volume_id=VOLUME_ID,
    counter=3,
    name="orders",
    size_bytes=SIZE,
    unit_bytes=4096,
    key_source=KeySource.KMS,
    wrapped_key=wrapped_key(DATA_KEY_ID),
    data_path="/dev/rbd0",
    account="000000000000",
    region="us-east-1",
    created_at=NOW,
    device="rbd:1",
    lease=STORE_ID,
)
COPY_SEAL: Final = MacSeal(copy_seal_key(memoryview(bytes(range(64))), VOLUME_ID))
PLACE = StorePlace(
    store_id=STORE_ID,
    url="s3://bucket/prefix",
    region="eu-west-1",
    endpoint="https://s3.example.com",
    encryption="kms:alias/snapshots",
)
PAGE = bytes(32) + ROOT + bytes([0xBB]) * 32
TABLE = ROOT


def verifier_of(signer: SignerId) -> Verifier:
    return SignatureVerifier(SIGNER.public_key)


_ROOT_SEAL = SigningSeal(ROOT_KEY)
_ROOT_VERIFIER = SignatureVerifier(ROOT_PUBLIC_KEY)


@dataclass(frozen=True)
class Sample:
    """A known value, and how it becomes bytes and back."""

    value: object
    encode: Callable[[], bytes]
    decode: Callable[[bytes], object]


SAMPLES: Final = {
    "store": Sample(
        STORE,
        lambda: encode_store_document(STORE, _ROOT_SEAL),
        lambda data: decode_store_document(data, what="store"),
    ),
    "certificate": Sample(
        CERTIFICATE,
        lambda: encode_certificate(CERTIFICATE, _ROOT_SEAL),
        lambda data: decode_certificate(data, _ROOT_VERIFIER, what="certificate"),
    ),
    "manifest": Sample(
        MANIFEST,
        lambda: encode_manifest(MANIFEST, SIGNER.seal),
        lambda data: decode_manifest(data, verifier_of, what="manifest"),
    ),
    "tombstone": Sample(
        TOMBSTONE,
        lambda: encode_tombstone(TOMBSTONE, SIGNER.seal),
        lambda data: decode_tombstone(data, verifier_of, what="tombstone"),
    ),
    "pin": Sample(
        PIN,
        lambda: encode_pin(PIN, SIGNER.seal),
        lambda data: decode_pin(data, verifier_of, what="pin"),
    ),
    "condemned": Sample(
        CONDEMNED,
        lambda: encode_condemned(CONDEMNED, SIGNER.seal),
        lambda data: decode_condemned(data, verifier_of, what="condemned"),
    ),
    "sweeping": Sample(
        SWEEPING,
        lambda: encode_sweeping(SWEEPING, SIGNER.seal),
        lambda data: decode_sweeping(data, verifier_of, what="sweeping"),
    ),
    "copy": Sample(
        CURSOR,
        lambda: encode_copy_cursor(CURSOR, CURSOR_SEAL),
        lambda data: decode_copy_cursor(data, CURSOR_SEAL, what="copy"),
    ),
    "store-place": Sample(
        PLACE,
        lambda: encode_store_place(PLACE, CURSOR_SEAL),
        lambda data: decode_store_place(data, CURSOR_SEAL, what="place"),
    ),
    "lease": Sample(
        LEASE,
        lambda: encode_lease(LEASE, SIGNER.seal),
        lambda data: decode_lease(data, verifier_of, what="lease"),
    ),
    "lease-release": Sample(
        RELEASE,
        lambda: encode_lease_release(RELEASE, SIGNER.seal),
        lambda data: decode_lease_release(data, verifier_of, what="release"),
    ),
    "volume-copy": Sample(
        COPIED,
        lambda: encode_record_copy(COPIED, COPY_SEAL),
        lambda data: decode_record_copy(data, COPY_SEAL, what="copy of a record"),
    ),
    "page": Sample(
        PAGE,
        lambda: encode_page(PAGE),
        lambda data: decode_page(data, number=0, size_bytes=SIZE, what="page"),
    ),
    "table": Sample(
        TABLE,
        lambda: encode_table(TABLE),
        lambda data: decode_table(data, size_bytes=SIZE, what="table"),
    ),
}
