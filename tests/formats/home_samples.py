"""One value of each format of a home that has no golden file of its own test, and how it becomes
bytes and back. All that is secret in real ones is made of known bytes here."""

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.fakes.keystore import MemoryKeyStore
from tests.formats.samples import Sample
from volcrypt.formats.audit_record import (
    GENESIS_HASH,
    AuditEvent,
    AuditHead,
    Resource,
    UserIdentity,
    decode_record,
    encode_record,
)
from volcrypt.formats.ciphertext_blob import (
    CiphertextBlob,
    decode_ciphertext_blob,
    encode_ciphertext_blob,
)
from volcrypt.formats.import_token import ImportToken, decode_import_token, encode_import_token
from volcrypt.formats.luks2 import LuksSegment, decode_luks2
from volcrypt.formats.sealed_secret import (
    SealedSecret,
    decode_sealed_secret,
    encode_sealed_secret,
)
from volcrypt.formats.token_image import TokenImage, decode_token_image, encode_token_image
from volcrypt.kms.catalog import FIRST_COUNTER, Catalog
from volcrypt.kms.context import encode_aad
from volcrypt.kms.grants import (
    Constraints,
    Grant,
    GrantPointer,
    Permission,
    decode_token,
    encode_token,
    grantee_digest,
)
from volcrypt.kms.head_file import HeadFile
from volcrypt.kms.lock import WriterLock
from volcrypt.kms.sealing import Item, Seal, item_text, seal_text
from volcrypt.names import VolumeId
from volcrypt.operations.home_directory import HomeDocument, read_home_document
from volcrypt.operations.mount_grants import MountGrant
from volcrypt.volume import owner
from volcrypt.volume.kept_mount import KeptMount
from volcrypt.volume.owner import OwnerRecord

KEY_ID: Final = "00112233-4455-6677-8899-aabbccddeeff"
KEY_ARN: Final = f"arn:aws:kms:us-east-1:000000000000:key/{KEY_ID}"
ALICE: Final = "arn:aws:iam::000000000000:user/alice"

EVENT = AuditEvent(
    user_identity=UserIdentity(type="IAMUser", arn=ALICE, account_id="000000000000"),
    event_time="2026-11-22T03:04:05Z",
    event_name="Decrypt",
    aws_region="us-east-1",
    source_ip_address="localhost",
    user_agent="volcrypt",
    request_parameters={"encryptionContext": {"volcrypt:volume-id": "vol-0123456789abcdef0"}},
    response_elements=None,
    request_id="11111111-2222-4333-8444-555555555555",
    event_id="66666666-7777-4888-8999-aaaaaaaaaaaa",
    read_only=True,
    resources=[Resource(arn=KEY_ARN, account_id="000000000000")],
    recipient_account_id="000000000000",
)
BLOB = CiphertextBlob(
    key_id=KEY_ID, material_id="11" * 32, sealed=b"\x22" * 12 + bytes(range(32)) + b"\x33" * 16
)
IMPORT_TOKEN = (ImportToken(key_id=KEY_ID, import_id="11" * 16, valid_to=1_795_000_000), b"\2" * 32)
SECRET = SealedSecret(generation=2, wrapped_key=b"\x11" * 40, sealed=b"\x22" * 12 + b"\x33" * 17)
TOKEN = TokenImage(files={"serial/token.object": b"\0\1\2", "serial/generation": b""})
PERMISSION = Permission(
    grantee=ALICE,
    operations=("Decrypt", "DescribeKey"),
    constraints=Constraints(subset={"volcrypt:volume-id": "vol-0123456789abcdef0"}),
    name="a-mount",
)
GRANT = Grant(
    key_arn=KEY_ARN,
    grant_id="ab" * 32,
    permission=PERMISSION,
    issuing_account="000000000000",
    created_at=1_795_000_000.0,
)
POINTER = GrantPointer(key_id=KEY_ID, grantee_digest=grantee_digest(ALICE), grant_id=GRANT.grant_id)
HOME = HomeDocument(home_id="0011223344556677", account="000000000000", region="us-east-1")
OWNER = OwnerRecord(
    machine_id="0123456789abcdef0123456789abcdef",
    host_name="alpha",
    boot_id="11111111-2222-4333-8444-555555555555",
    pid=4711,
    start_ticks=123456,
    purpose="mount",
)
MOUNT_GRANT = MountGrant(
    key_arn=KEY_ARN, grant_id="ab" * 32, grantee=ALICE, account="000000000000", kms="home"
)
KEPT = KeptMount(
    volume_id=VolumeId("vol-0123456789abcdef0"),
    mount_directory="/srv/data",
    device="0:42",
    read_only=False,
    discard=True,
    discard_zeros=False,
    init_request=bytes(range(64)),
    init_reply=bytes(range(64, 128)),
    lease_epoch=7,
)
AAD = encode_aad(
    {"purpose": "golden", "owner": "tests"},
    account="000000000000",
    region="us-east-1",
    key_id=KEY_ID,
    material_id="11" * 32,
)
ITEMS = (
    Item(kind="alias", id="us-east-1:alias/app", body=b'{"key":"k"}', name="alias/app", owner="k"),
    Item(kind="key", id="us-east-1:k", body=b'{"state":"Enabled"}'),
)
SEAL = Seal(
    counter=7,
    roots={"key": "22" * 32},
    audit=AuditHead(sequence=3, hash="33" * 32, file=1, end=4096),
)
LUKS = LuksSegment(offset_bytes=0, size_bytes=None, areas_bytes=2 * 16384 + 16744448)
MACS: Final = MemoryKeyStore()


@contextmanager
def opened_catalog(path: Path) -> Iterator[Catalog]:
    with (
        closing(WriterLock(path.with_name("lock"))) as lock,
        closing(HeadFile(path.with_name("head"), macs=MACS)) as heads,
        closing(Catalog(path, lock=lock, macs=MACS, heads=heads)) as catalog,
    ):
        yield catalog


def encode_catalog() -> bytes:
    """A new one with two items, as SQL."""
    with tempfile.TemporaryDirectory() as text:
        path = Path(text, "catalog.sqlite3")
        Catalog.create(path, macs=MACS, items=ITEMS)
        with closing(sqlite3.connect(path)) as connection:
            lines = [
                f"PRAGMA {name} = {connection.execute(f'PRAGMA {name}').fetchone()[0]};"
                for name in ("application_id", "user_version")
            ]
            return "\n".join([*lines, *connection.iterdump(), ""]).encode()


def decode_catalog(data: bytes) -> tuple[Item | None, ...]:
    with tempfile.TemporaryDirectory() as text:
        path = Path(text, "catalog.sqlite3")
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(data.decode())
        HeadFile.create(path.with_name("head"), macs=MACS, catalogue=FIRST_COUNTER)
        with opened_catalog(path) as catalog, catalog.reading() as view:
            return tuple(view.get(item.kind, item.id) for item in ITEMS)


def decode_home(data: bytes) -> HomeDocument:
    with tempfile.TemporaryDirectory() as text:
        Path(text, "home").write_bytes(data)
        return read_home_document(Path(text))


def encode_owner() -> bytes:
    with tempfile.TemporaryFile() as file:
        owner._write_sector(file.fileno(), owner._encode(OWNER))
        file.seek(0)
        return file.read()


def decode_owner(data: bytes) -> OwnerRecord | None:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        return owner._read_record(file.fileno(), Path("vol-0"))


def json_of(value: Any) -> Sample:
    return Sample(
        value,
        lambda: msgspec.json.encode(value),
        lambda data: msgspec.json.decode(data, type=type(value)),
    )


def _audited() -> bytes:
    return encode_record(EVENT, sequence=1, previous_hash=GENESIS_HASH)


SAMPLES: Final[dict[str, Sample]] = {
    "audit-record": Sample(decode_record(_audited()), _audited, decode_record),
    "ciphertext-blob": Sample(BLOB, lambda: encode_ciphertext_blob(BLOB), decode_ciphertext_blob),
    "import-token": Sample(
        IMPORT_TOKEN, lambda: encode_import_token(*IMPORT_TOKEN), decode_import_token
    ),
    "sealed-secret": Sample(SECRET, lambda: encode_sealed_secret(SECRET), decode_sealed_secret),
    "token-image": Sample(
        TOKEN,
        lambda: encode_token_image(TOKEN),
        lambda data: decode_token_image(data, what="token"),
    ),
    "grant-token": Sample(
        POINTER,
        lambda: encode_token(GRANT, bytes(range(8))).encode(),
        lambda data: decode_token(data.decode()),
    ),
    "home": Sample(HOME, lambda: msgspec.json.encode(HOME) + b"\n", decode_home),
    "owner": Sample(OWNER, encode_owner, decode_owner),
    "mount-grant": json_of(MOUNT_GRANT),
    "kept-mount": json_of(KEPT),
    # What is under a MAC or an AEAD and read by nobody: the bytes are all of it.
    "encryption-context": Sample(AAD, lambda: AAD, bytes),
    "catalogue-item": Sample(item_text(ITEMS[0]), lambda: item_text(ITEMS[0]), bytes),
    "catalogue-seal": Sample(
        seal_text(msgspec.json.encode(SEAL)), lambda: seal_text(msgspec.json.encode(SEAL)), bytes
    ),
    "catalogue": Sample(ITEMS, encode_catalog, decode_catalog),
}
"""By the name of their golden file. Not here, since cryptsetup writes it: `luks2-header`."""

VERSIONS: Final = {"catalogue": 2, "catalogue-seal": 2}
"""Those that are not of version 1."""


def decode_luks(data: bytes) -> LuksSegment:
    return decode_luks2(data, what="header")
