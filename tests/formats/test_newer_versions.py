"""What a later release wrote is refused, and both versions are named: for every format there is.

That those of earlier releases open is what the golden files are for (`test_golden.py`).
"""

import hashlib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import volcrypt.formats
from volcrypt.errors import UnsupportedVersionError
from volcrypt.formats import audit_head, present_map, write_count, write_intents
from volcrypt.formats.document import MacSeal
from volcrypt.geometry import SECTOR_BYTES

NEWER = 99


def text(kind: str) -> bytes:
    """A document, table or page."""
    return f"volcrypt {kind} {NEWER}\n{{}}\n00\n".encode()


def binary(magic: bytes) -> bytes:
    return magic + bytes([NEWER]) + bytes(200)


def present_header() -> bytes:
    head = present_map.MAGIC + NEWER.to_bytes(4, "little")
    assert present_map._HEADER.format.startswith("<8sI")
    head = head.ljust(present_map._HEADER.size, b"\0")
    return (head + hashlib.sha256(head).digest())[:SECTOR_BYTES]


def intents_header() -> bytes:
    head = write_intents.MAGIC + NEWER.to_bytes(4, "little")
    assert write_intents._HEADER.format.startswith("<8sI")
    head = head.ljust(write_intents._HEADER.size, b"\0")
    return head + hashlib.sha256(head).digest()


def two_heads() -> bytes:
    data = bytearray(audit_head.FILE_BYTES)
    for offset in audit_head.SLOT_OFFSETS:
        data[offset : offset + len(text("audit-head"))] = text("audit-head")
    return bytes(data)


BYTES: dict[str, bytes] = {
    "audit_head.decode_file": two_heads(),
    "audit_record.decode_record": b'{"formatVersion":%d}' % NEWER,
    "backup.split_header": text("backup"),
    "certificate.decode_certificate": text("certificate"),
    "change_map.decode_change_map": text("change-map"),
    "ciphertext_blob.decode_ciphertext_blob": binary(b"VKCB"),
    "condemned.decode_condemned": text("condemned"),
    "condemned.decode_sweeping": text("sweeping"),
    "copy_cursor.decode_copy_cursor": text("copy"),
    "import_cursor.decode_import_cursor": text("import"),
    "import_token.decode_import_token": binary(b"VKIT"),
    "job.decode_job": text("job"),
    "lease.decode_lease": text("lease"),
    "lease.decode_lease_release": text("lease-release"),
    "manifest.decode_manifest": text("manifest"),
    "migration.decode_migration": text("migration"),
    "pages.decode_page": text("page"),
    "pages.decode_table": text("table"),
    "pin.decode_pin": text("pin"),
    "present_map.decode_header": present_header(),
    "record_copy.decode_record_copy": text("volume-copy"),
    "sealed_secret.decode_sealed_secret": binary(b"VKSS"),
    "store.decode_store_document": text("store"),
    "store_place.decode_store_place": text("store-place"),
    "token_image.decode_token_image": text("token"),
    "tombstone.decode_tombstone": text("tombstone"),
    "volume_record.decode_volume_record": text("volume"),
    "workflow.decode_workflow": text("workflow"),
    "write_count.decode_write_count": write_count._KIND + b"%d\n" % NEWER,
    "write_intents.decode_header": intents_header(),
}
NO_FORMATS = {
    "backup.decode_files": "what is behind the header, which has the version",
    "certificate.decode_signed": "any of the signed ones",
    "document.decode_document": "any of the sealed ones",
    "luks2.decode_luks2": "a format of others",
    "present_map.decode_sectors": "what is behind the header, which has the version",
    "write_intents.decode_sectors": "what is behind the header, which has the version",
}


def modules() -> Iterator[Any]:
    for found in pkgutil.iter_modules(volcrypt.formats.__path__):
        yield importlib.import_module(f"volcrypt.formats.{found.name}")


def decoders() -> dict[str, Callable[..., Any]]:
    return {
        f"{module.__name__.rpartition('.')[2]}.{name}": function
        for module in modules()
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if name.startswith(("decode_", "split_header")) and function.__module__ == module.__name__
    }


def test_every_format_is_here() -> None:
    assert sorted(decoders()) == sorted([*BYTES, *NO_FORMATS])
    versioned = {
        module.__name__.rpartition(".")[2]
        for module in modules()
        if {"VERSION", "_VERSION", "FORMAT_VERSION"} & vars(module).keys()
    }
    assert versioned == {name.partition(".")[0] for name in BYTES}


@pytest.mark.parametrize("name", BYTES)
def test_a_newer_version_is_refused_with_both_named(name: str) -> None:
    function = decoders()[name]
    seal = MacSeal(bytes(32))
    given: dict[str, Any] = {
        "verifier": seal,
        "root": seal,
        "verifier_of": lambda _signer: seal,
        "what": "the file",
        "number": 0,
        "size_bytes": 2**20,
    }
    names = list(inspect.signature(function).parameters)
    arguments = {each: given[each] for each in names[1:]}
    with pytest.raises(UnsupportedVersionError) as raised:
        function(BYTES[name], **arguments)
    module = importlib.import_module(f"volcrypt.formats.{name.partition('.')[0]}")
    known = next(
        vars(module)[each]
        for each in ("VERSION", "_VERSION", "FORMAT_VERSION")
        if each in vars(module)
    )
    assert (raised.value.version, raised.value.known) == (NEWER, known)
    assert f"version {NEWER} is not supported, this release knows {known}" in str(raised.value)
