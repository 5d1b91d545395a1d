"""Signed and yet contradictory: a signer with a bug must not be believed either."""

from typing import Any

import msgspec
import pytest

from tests.fakes.snapshots import (
    ROOT_KEY,
    ROOT_PUBLIC_KEY,
    SIGNER,
    STORE_ID,
    snapshot_id,
    wrapped_key,
)
from tests.formats.samples import (
    CERTIFICATE,
    CONDEMNED,
    CURSOR,
    CURSOR_SEAL,
    MANIFEST,
    PIN,
    STORE,
    verifier_of,
)
from tests.formats.samples import ROOT as SOME_ROOT
from volcrypt.crypto.digest import ZERO_DIGEST
from volcrypt.errors import MalformedError, SealError
from volcrypt.formats.certificate import decode_certificate, encode_certificate
from volcrypt.formats.condemned import decode_condemned, encode_condemned
from volcrypt.formats.copy_cursor import decode_copy_cursor, encode_copy_cursor
from volcrypt.formats.document import SignatureVerifier, SigningSeal
from volcrypt.formats.manifest import (
    Manifest,
    Origin,
    SnapshotPoint,
    decode_manifest,
    encode_manifest,
)
from volcrypt.formats.pin import decode_pin, encode_pin
from volcrypt.formats.store import decode_store_document, encode_store_document
from volcrypt.formats.volume_record import KeySource
from volcrypt.geometry import MAX_VOLUME_BYTES
from volcrypt.names import SnapshotId, VolumeId


def changed(**members: Any) -> Manifest:
    return msgspec.structs.replace(MANIFEST, **members)


@pytest.mark.parametrize(
    "manifest",
    [
        changed(snapshot_id=SnapshotId("../../etc")),
        changed(volume_id=VolumeId("vol-1")),
        changed(sequence=0),
        changed(previous=b""),
        changed(chunk_bytes=4096),
        changed(size_bytes=0),
        changed(size_bytes=4097),
        changed(size_bytes=2**50),
        changed(root=b"short"),
        changed(root=ZERO_DIGEST),
        changed(data_chunks=0, stored_chunks=0),
        changed(stored_chunks=3),
        changed(stored_chunks=-1),
        changed(data_chunks=4),
        changed(wrapped_key=None),
        changed(key_source=KeySource.NONE),
        changed(parent=SnapshotPoint(snapshot_id=snapshot_id(1), root=b"")),
        changed(written_bytes=-1),
        changed(size_bytes=0, data_chunks=0, stored_chunks=0, root=ZERO_DIGEST),
        changed(origin=Origin(store_id=STORE_ID, snapshot_id=snapshot_id(1), root=b"x")),
    ],
)
def test_values_that_contradict_each_other_are_refused(manifest: Manifest) -> None:
    with pytest.raises(MalformedError, match=r"^some manifest: its values contradict each other"):
        decode_manifest(encode_manifest(manifest, SIGNER.seal), verifier_of, what="some manifest")


@pytest.mark.parametrize(
    "manifest",
    [
        changed(sequence=1),
        changed(size_bytes=MAX_VOLUME_BYTES),
        changed(size_bytes=4096, data_chunks=1, stored_chunks=1),
        changed(size_bytes=4096, data_chunks=1, stored_chunks=0),
        changed(data_chunks=0, stored_chunks=0, root=ZERO_DIGEST),
        changed(written_bytes=0),
        changed(origin=None),
        changed(origin=Origin(store_id=STORE_ID, snapshot_id=snapshot_id(1), root=b"")),
        changed(origin=Origin(store_id=STORE_ID, snapshot_id=snapshot_id(1), root=bytes(32))),
        changed(parent=None),
    ],
)
def test_the_least_and_the_most_that_can_be(manifest: Manifest) -> None:
    data = encode_manifest(manifest, SIGNER.seal)
    assert decode_manifest(data, verifier_of, what="manifest") == manifest


def test_a_manifest_that_was_changed_is_named() -> None:
    data = encode_manifest(MANIFEST, SIGNER.seal).replace(b"us-east-1", b"us-east-2")
    with pytest.raises(SealError, match=r"^some manifest:"):
        decode_manifest(data, verifier_of, what="some manifest")


def test_an_unencrypted_snapshot_has_no_key() -> None:
    manifest = changed(key_source=KeySource.NONE, wrapped_key=None)
    data = encode_manifest(manifest, SIGNER.seal)
    decoded = decode_manifest(data, verifier_of, what="manifest")
    assert not decoded.is_encrypted
    assert MANIFEST.is_encrypted
    assert decoded.point == SnapshotPoint(snapshot_id=MANIFEST.snapshot_id, root=SOME_ROOT)


def test_a_list_reaches_nothing_but_chunks_and_pages() -> None:
    data = encode_condemned(msgspec.structs.replace(CONDEMNED, names=["manifests/x"]), SIGNER.seal)
    with pytest.raises(MalformedError):
        decode_condemned(data, verifier_of, what="list")


@pytest.mark.parametrize(
    "members",
    [
        {"snapshot_id": "x"},
        {"roots": [b""]},
        {"size_bytes": 0},
        {"size_bytes": 4097},
    ],
)
def test_contradictions_in_a_pin_are_refused(members: dict[str, Any]) -> None:
    data = encode_pin(msgspec.structs.replace(PIN, **members), SIGNER.seal)
    with pytest.raises(MalformedError):
        decode_pin(data, verifier_of, what="pin")


@pytest.mark.parametrize(
    "members",
    [
        {"root": b""},
        {"source_root": b""},
        {"next_chunk": -1},
        {"stored_chunks": 3},
        {"base": SnapshotPoint(snapshot_id=CURSOR.source_snapshot_id, root=b"")},
    ],
)
def test_contradictions_in_a_cursor_are_refused(members: dict[str, Any]) -> None:
    data = encode_copy_cursor(msgspec.structs.replace(CURSOR, **members), CURSOR_SEAL)
    with pytest.raises(MalformedError):
        decode_copy_cursor(data, CURSOR_SEAL, what="cursor")


def test_contradictions_in_what_the_root_signs_are_refused() -> None:
    root = SigningSeal(ROOT_KEY)
    certificate = msgspec.structs.replace(CERTIFICATE, public_key=bytes(32))
    with pytest.raises(MalformedError):
        decode_certificate(
            encode_certificate(certificate, root),
            SignatureVerifier(ROOT_PUBLIC_KEY),
            what="certificate",
        )
    for members in ({"chunk_bytes": 1}, {"root_public_key": b""}):
        store = msgspec.structs.replace(STORE, **members)
        with pytest.raises(MalformedError):
            decode_store_document(encode_store_document(store, root), what="store")


def test_the_samples_are_of_one_store() -> None:
    assert {MANIFEST.store_id, PIN.store_id, CURSOR.target_store_id} == {STORE_ID}
    assert MANIFEST.wrapped_key == wrapped_key()
