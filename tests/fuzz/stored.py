"""Entries for what is stored: formats, names of objects, files on tmpfs, lists of the kernel."""

import hashlib
import io
import json
import os
import re
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.fakes.snapshots import ROOT_KEY, SIGNER
from tests.formats import samples
from tests.fuzz.decoders import Decoder, example, example_line, text
from tests.golden import golden_bytes
from volcrypt.errors import FormatError, HomeNotInitialisedError, VolcryptError
from volcrypt.formats import (
    audit_head,
    audit_record,
    backup,
    change_map,
    ciphertext_blob,
    import_cursor,
    import_log,
    import_token,
    job,
    luks2,
    migration,
    present_map,
    sealed_secret,
    token_image,
    volume_record,
    workflow,
    write_count,
    write_intents,
)
from volcrypt.formats.audit_head import SLOT_BYTES, SLOT_OFFSETS
from volcrypt.formats.document import MacSeal, Sealer, SigningSeal
from volcrypt.geometry import SECTOR_BYTES
from volcrypt.names import VolumeId
from volcrypt.operations import home_directory
from volcrypt.snapshot import layout
from volcrypt.volume import kept_mount, mountpoint, owner
from volcrypt.volume.fence import FenceNote

VOLUME: Final = VolumeId("vol-0123456789abcdef0")
_ZEROS: Final = MacSeal(bytes(32))
_COUNTING: Final = MacSeal(bytes(range(32)))


def resealing(sealer: Sealer, *, tail: bool = False) -> Callable[[bytes], bytes]:
    """For documents: the seal over whatever the first two lines are. `tail`: something follows."""

    def reseal(data: bytes) -> bytes:
        lines = data.split(b"\n", 3)
        if len(lines) < 3:
            return data
        covered = lines[0] + b"\n" + lines[1] + b"\n"
        rest = lines[3] if tail and len(lines) == 4 else b""
        return covered + sealer.seal(covered).hex().encode() + b"\n" + rest

    return reseal


def document(
    decode: Callable[..., object], sealer: MacSeal, *golden: str, tail: bool = False
) -> Decoder:
    return Decoder(
        decode=lambda data: decode(data, sealer, what="it"),
        seeds=tuple(golden_bytes("v1", name) for name in golden),
        reseal=resealing(sealer, tail=tail),
        sealed=True,
        covers=(f"{decode.__module__.removeprefix('volcrypt.')}.{decode.__name__}",),
    )


def sample(name: str, covers: str, sealer: Sealer | None = None) -> Decoder:
    known = samples.SAMPLES[name]
    return Decoder(
        decode=known.decode,
        seeds=(known.encode(),),
        reseal=None if sealer is None else resealing(sealer),
        sealed=sealer is not None,
        covers=(f"formats.{covers}",),
    )


class _AnyRoot:
    """Of a store document: it has its own key, so anybody's seal is one."""

    def seal(self, covered: bytes) -> bytes:
        return SigningSeal(ROOT_KEY).seal(covered)


def _slots(data: bytes) -> bytes:
    changed = bytearray(data)
    for offset in SLOT_OFFSETS:
        slot = resealing(_ZEROS)(bytes(changed[offset : offset + SLOT_BYTES]).rstrip(b"\0"))
        if len(slot) <= SLOT_BYTES:
            changed[offset : offset + SLOT_BYTES] = slot.ljust(SLOT_BYTES, b"\0")
    return bytes(changed)


def _sector_sum(data: bytes) -> bytes:
    """A header of 512 bytes whose last 32 are the digest of the others."""
    head = data[: SECTOR_BYTES - 32]
    return head + hashlib.sha256(head).digest() + data[SECTOR_BYTES:]


def _luks_sum(data: bytes) -> bytes:
    changed = bytearray(data)
    if len(changed) >= luks2.BINARY_BYTES:
        changed[448:512] = bytes(64)
        changed[448:480] = hashlib.sha256(changed).digest()
    return bytes(changed)


def _luks_header() -> bytes:
    """As `cryptsetup luksFormat` makes one: only what is read of it."""
    area = (
        b'{"keyslots":{"0":{"type":"luks2","key_size":64}},"tokens":{},"segments":{"0":{"type":'
        b'"crypt","offset":"16777216","size":"dynamic","iv_tweak":"0","encryption":'
        b'"aes-xts-plain64","sector_size":4096}},"digests":{},"config":{"json_size":"12288",'
        b'"keyslots_size":"16744448"}}'
    )
    binary = bytearray(luks2.BINARY_BYTES)
    binary[:8] = b"LUKS\xba\xbe\0\2"
    binary[8:16] = (16384).to_bytes(8, "big")
    binary[72:78] = b"sha256"
    return _luks_sum(bytes(binary) + area.ljust(16384 - luks2.BINARY_BYTES, b"\0"))


def _luks_json(data: bytes) -> bytes:
    """The JSON as long as its area is, whatever became of it."""
    binary, area = data[: luks2.BINARY_BYTES], data[luks2.BINARY_BYTES :].rstrip(b"\0")
    length = 16384 - luks2.BINARY_BYTES
    return _luks_sum(binary + area[:length].ljust(length, b"\0"))


def _present(data: bytes) -> object:
    header = present_map.decode_header(data[:SECTOR_BYTES], what="it")
    return present_map.decode_sectors(header, data[SECTOR_BYTES:], what="it")


def _intents(data: bytes) -> object:
    header = write_intents.decode_header(data[:SECTOR_BYTES], what="it")
    return write_intents.decode_sectors(header, data[SECTOR_BYTES:])


_TOKEN: Final = import_token.ImportToken(
    key_id="0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9",
    import_id="0a1b2c3d4e5f60718293a4b5c6d7e8f9",
    valid_to=1_800_000_000,
)
_SECRET: Final = bytes(range(32))


def _backup(data: bytes) -> object:
    _, head = backup.split_header(data, what="it")
    source = io.BytesIO(data[len(head) :])
    pieces = backup.open_chunks(backup.chunk_key(_SECRET, head), source.read, what="it")
    return [
        (each.name, sum(map(len, each.content))) for each in backup.decode_files(pieces, what="it")
    ]


def _backup_seed() -> bytes:
    head = backup.split_header(golden_bytes("v1", "backup"), what="it")[1]
    files = [("home", 2, [b"{}"]), ("kms/pin", 4, [b"1234"])]
    return head + b"".join(
        backup.seal_chunks(backup.chunk_key(_SECRET, head), backup.encode_files(files))
    )


def _payload(data: bytes) -> object:
    """What is behind the seal of a backup."""
    return [len(b"".join(each.content)) for each in backup.decode_files([data], what="it")]


def _import_log(data: bytes) -> object:
    size = import_log.ENTRY_BYTES
    entries = [data[i : i + size] for i in range(0, len(data), size)]
    chain = import_log.ImportChain(bytes(32))
    return list(import_log.read_entries(chain, entries, chunks=1024, what="it"))


def _import_log_seed() -> bytes:
    chain = import_log.ImportChain(bytes(32))
    return b"".join(chain.entry(index, bytes(32)) for index in (0, 5, 1023))


def in_file(read: Callable[[Path], object], name: str, *made: str) -> Callable[[bytes], object]:
    """A decoder that is given the path of a file or directory."""

    def decode(data: bytes) -> object:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
            path = Path(directory, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            return read(Path(directory, *made))

    return decode


def in_memory(read: Callable[[int], object]) -> Callable[[bytes], object]:
    def decode(data: bytes) -> object:
        descriptor = os.memfd_create("fuzz", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, data)
            return read(descriptor)
        finally:
            os.close(descriptor)

    return decode


_MOUNTS: Final = (
    b"36 35 98:0 / /mnt rw,noatime master:1 - ext4 /dev/root rw,errors=continue\n"
    b"40 36 0:33 / /mnt/%s rw,nosuid - fuse.volcrypt vol-0123456789abcdef0 rw,user_id=0\n"
)


def _mount_points(data: bytes) -> object:
    """Whoever may mount chooses a name, of which the kernel escapes four characters."""
    escaped = re.sub(rb"[ \t\n\\]", lambda found: b"\\%03o" % found[0][0], data)
    mounts = mountpoint.parse_mountinfo(os.fsdecode(_MOUNTS % escaped))
    assert [os.fsencode(mount.mount_point) for mount in mounts] == [b"/mnt", b"/mnt/" + data]
    assert mounts[1].fs_type == mountpoint.FS_TYPE
    return mounts


def _record_line() -> bytes:
    line = example_line(audit_record.AuditRecord).rstrip(b"\n")
    return line.replace(b'"formatVersion": 7', b'"formatVersion": 1')


def _chain() -> Iterator[bytes]:
    event = msgspec.convert(example(audit_record.AuditEvent), audit_record.AuditEvent)
    previous = audit_record.GENESIS_HASH
    for sequence in (1, 2, 3):
        line = audit_record.encode_record(event, sequence=sequence, previous_hash=previous)
        previous = audit_record.hash_line(line)
        yield line


def _versioned(kind: Any) -> bytes:
    return json.dumps(example(kind) | {"version": 1}).encode()


def _facts() -> bytes:
    init = b64encode(bytes(range(64))).decode()
    facts = example(kept_mount.KeptMount) | {"version": 1}
    return json.dumps(facts | {"init_request": init, "init_reply": init}).encode() + b"\n"


STORED_DECODERS: Final[dict[str, Decoder]] = {
    "audit head": Decoder(
        decode=lambda data: audit_head.decode_file(data, _ZEROS, what="it"),
        seeds=(golden_bytes("v1", "audit-head"),),
        reseal=_slots,
        covers=("formats.audit_head.decode_file",),
    ),
    "audit record": Decoder(
        decode=audit_record.decode_record,
        seeds=(_record_line(),),
        covers=("formats.audit_record.decode_record",),
    ),
    "audit chain": Decoder(
        decode=lambda data: list(audit_record.check_chain(data.split(b"\n"))),
        seeds=(b"\n".join(_chain()),),
    ),
    "backup": Decoder(
        decode=_backup,
        seeds=(_backup_seed(),),
        covers=("formats.backup.split_header",),
    ),
    "payload of a backup": Decoder(
        decode=_payload,
        seeds=(b"".join(backup.encode_files([("a/b", 3, [b"abc"]), ("c", 0, [])])),),
        covers=("formats.backup.decode_files",),
    ),
    "change map": document(change_map.decode_change_map, _ZEROS, "change-map", tail=True),
    "ciphertext blob": Decoder(
        decode=ciphertext_blob.decode_ciphertext_blob,
        seeds=(bytes.fromhex("564b43420100112233445566778899aabbccddeeff") + bytes(61),),
        covers=("formats.ciphertext_blob.decode_ciphertext_blob",),
    ),
    "import cursor": document(import_cursor.decode_import_cursor, _COUNTING, "import"),
    "import log": Decoder(
        decode=_import_log,
        seeds=(_import_log_seed(),),
        covers=("formats.import_log.ImportChain.read",),
    ),
    "import token": Decoder(
        decode=import_token.decode_import_token,
        seeds=(import_token.encode_import_token(_TOKEN, bytes(32)),),
        covers=("formats.import_token.decode_import_token",),
    ),
    "job": Decoder(
        decode=lambda data: job.decode_job(data, what="it"),
        seeds=(golden_bytes("v1", "job"), golden_bytes("v1", "job-copy")),
        covers=("formats.job.decode_job",),
    ),
    "LUKS2 header": Decoder(
        decode=lambda data: luks2.decode_luks2(data, what="it"),
        seeds=(_luks_header(),),
        refusals=(VolcryptError,),
        reseal=_luks_json,
        covers=("formats.luks2.decode_luks2", "formats.luks2._decode_json"),
    ),
    "migration": document(migration.decode_migration, _COUNTING, "migration"),
    "present map": Decoder(
        decode=_present,
        seeds=(golden_bytes("v1", "present-map"),),
        reseal=_sector_sum,
        covers=("formats.present_map.decode_header", "formats.present_map.decode_sectors"),
    ),
    "sealed secret": Decoder(
        decode=sealed_secret.decode_sealed_secret,
        seeds=(bytes.fromhex("564b53530100000002") + bytes(69),),
        covers=("formats.sealed_secret.decode_sealed_secret",),
    ),
    "token image": Decoder(
        decode=lambda data: token_image.decode_token_image(data, what="it"),
        seeds=(
            token_image.encode_token_image(
                token_image.TokenImage(files={"serial/token.object": b"\0\1\2", "x": b""})
            ),
        ),
        reseal=resealing(token_image._DigestSeal()),
        sealed=True,
        covers=("formats.token_image.decode_token_image",),
    ),
    "volume record": document(
        volume_record.decode_volume_record,
        _COUNTING,
        *(f"volume-record-{kind}" for kind in ("customer", "kms", "lazy", "none")),
    ),
    "workflow": document(workflow.decode_workflow, _COUNTING, "workflow"),
    "write count": Decoder(
        decode=lambda data: write_count.decode_write_count(data, what="it"),
        seeds=(golden_bytes("v1", "write-count"),),
        covers=("formats.write_count.decode_write_count",),
    ),
    "write intents": Decoder(
        decode=_intents,
        seeds=(golden_bytes("v1", "write-intents"),),
        reseal=_sector_sum,
        covers=("formats.write_intents.decode_header", "formats.write_intents.decode_sectors"),
    ),
    "store document": sample("store", "store.decode_store_document", _AnyRoot()),
    "certificate": sample("certificate", "certificate.decode_certificate", SigningSeal(ROOT_KEY)),
    "manifest": sample("manifest", "manifest.decode_manifest", SIGNER.seal),
    "tombstone": sample("tombstone", "tombstone.decode_tombstone", SIGNER.seal),
    "pin": sample("pin", "pin.decode_pin", SIGNER.seal),
    "condemned": sample("condemned", "condemned.decode_condemned", SIGNER.seal),
    "sweeping": sample("sweeping", "condemned.decode_sweeping", SIGNER.seal),
    "copy cursor": sample("copy", "copy_cursor.decode_copy_cursor", samples.CURSOR_SEAL),
    "store place": sample("store-place", "store_place.decode_store_place", samples.CURSOR_SEAL),
    "lease": sample("lease", "lease.decode_lease", SIGNER.seal),
    "lease release": sample("lease-release", "lease.decode_lease_release", SIGNER.seal),
    "record copy": sample("volume-copy", "record_copy.decode_record_copy", samples.COPY_SEAL),
    "page": sample("page", "pages.decode_page"),
    "table": sample("table", "pages.decode_table"),
    # Names in a store
    "entry name": Decoder(
        decode=text(layout.parse_entry_name),
        seeds=(
            b"manifests/snap-0123456789abcdef0.0000000002.0011223344556677",
            b"tombstones/snap-0123456789abcdef0.0000000002.00112233.0000000001.44556677",
        ),
        refusals=(),
        covers=("snapshot.layout.parse_entry_name",),
    ),
    "lease name": Decoder(
        decode=text(lambda name: layout.parse_lease_name(VOLUME, name)),
        seeds=(b"leases/vol-0123456789abcdef0/00000007", b"leases/x/00000007.released"),
        refusals=(),
        covers=("snapshot.layout.parse_lease_name",),
    ),
    "digest in a name": Decoder(
        decode=text(layout.digest_in_name),
        seeds=(layout.chunk_name(bytes(32)).encode(), layout.page_name(bytes(32)).encode()),
        refusals=(),
        covers=("snapshot.layout.digest_in_name",),
    ),
    # Files without a seal
    "home document": Decoder(
        decode=in_file(home_directory.read_home_document, "home"),
        seeds=(_versioned(home_directory.HomeDocument),),
        refusals=(FormatError, HomeNotInitialisedError),
        covers=("operations.home_directory.read_home_document",),
    ),
    "owner": Decoder(
        decode=in_memory(lambda descriptor: owner._read_record(descriptor, Path("vol-1"))),
        seeds=(owner._MAGIC + example_line(owner.OwnerRecord),),
        covers=("volume.owner._read_record",),
    ),
    "kept mount": Decoder(
        decode=in_memory(kept_mount.read_facts),
        seeds=(_facts(), _facts() + example_line(FenceNote)),
        covers=("volume.kept_mount.read_facts",),
    ),
    "mount points": Decoder(
        decode=_mount_points,
        seeds=(b"data", b"a b", b"x\x0c1 2 0:99 / /mnt rw - fuse.volcrypt v rw"),
        refusals=(),
        covers=("volume.mountpoint.parse_mountinfo",),
    ),
}
