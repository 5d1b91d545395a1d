"""The format of backups: nothing of it can be changed, moved, cut or continued unseen."""

import io
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_bytes
from volcrypt.errors import FormatError, IntegrityError, MalformedError
from volcrypt.formats.backup import (
    CHUNK_BYTES,
    TAG_BYTES,
    BackupHeader,
    KmsDataKey,
    PassphraseKey,
    chunk_key,
    decode_files,
    encode_files,
    encode_header,
    open_chunks,
    seal_chunks,
    split_header,
    stretch_passphrase,
)

SECRET = bytes(32)
HEADER = BackupHeader(
    home_id="0011223344556677",
    account="000000000000",
    region="us-east-1",
    created_at=1_800_000_000,
    passphrase=PassphraseKey(log_n=4, salt=bytes(range(32))),
)
FILES = {"home": b"{}", "kms/pin": b"1234", "kms/audit/audit-000001.jsonl": b""}


def written(files: dict[str, bytes], header: BackupHeader = HEADER) -> bytes:
    head = encode_header(header)
    entries = ((name, len(content), [content]) for name, content in files.items())
    return head + b"".join(seal_chunks(chunk_key(SECRET, head), encode_files(entries)))


def read(data: bytes) -> dict[str, bytes]:
    _, head = split_header(data, what="it")
    source = io.BytesIO(data[len(head) :])
    pieces = open_chunks(chunk_key(SECRET, head), source.read, what="it")
    return {found.name: b"".join(found.content) for found in decode_files(pieces, what="it")}


def test_the_golden_file() -> None:
    data = golden_bytes("v1", "backup")
    assert split_header(data, what="it")[0] == HEADER
    assert read(data) == FILES
    assert written(FILES) == data


@pytest.mark.parametrize(
    "size", [0, 1, CHUNK_BYTES - 40, *range(CHUNK_BYTES - 22, CHUNK_BYTES - 14), 3 * CHUNK_BYTES]
)
def test_contents_of_all_sizes_come_back(size: int) -> None:
    """Also where the last chunk is just full, and one byte beyond."""
    assert read(written({"a/b": b"x" * size, "c": b"y"})) == {"a/b": b"x" * size, "c": b"y"}


def test_every_flipped_bit_and_every_cut_is_found() -> None:
    data = written(FILES)
    for place in range(len(data)):
        for bit in (1, 128):
            changed = bytearray(data)
            changed[place] ^= bit
            with pytest.raises((FormatError, IntegrityError)):
                read(bytes(changed))
    for size in range(len(data)):
        with pytest.raises((FormatError, IntegrityError)):
            read(data[:size])
    with pytest.raises(IntegrityError):
        read(data + b"x")


def test_chunks_have_their_places() -> None:
    data = written({"a": b"x" * (4 * CHUNK_BYTES)})
    _, head = split_header(data, what="it")
    step = CHUNK_BYTES + TAG_BYTES
    chunks = [data[at : at + step] for at in range(len(head), len(data), step)]
    assert len(chunks) == 5
    for order in ([1, 0, 2, 3, 4], [0, 1, 2, 3], [0, 2, 3, 4], [0, 1, 2, 3, 4, 4], [0, 1, 2, 4]):
        with pytest.raises(IntegrityError, match="chunk"):
            read(head + b"".join(chunks[index] for index in order))


def test_another_header_is_another_key() -> None:
    other = encode_header(msgspec.structs.replace(HEADER, region="eu-west-1"))
    data = written(FILES)
    with pytest.raises(IntegrityError, match="wrong passphrase or key"):
        read(other + data[len(encode_header(HEADER)) :])


def test_a_passphrase_stands_for_one_secret() -> None:
    parameters = PassphraseKey(log_n=4, salt=bytes(32))
    secret = stretch_passphrase(bytearray(b"a"), parameters)
    assert len(secret) == 32
    assert secret == stretch_passphrase(b"a", parameters)
    assert secret != stretch_passphrase(b"b", parameters)
    assert secret != stretch_passphrase(b"a", PassphraseKey(log_n=4, salt=b"\1" * 32))


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", ".", "a\0b", "x" * 1001]
)
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    encoded = name.encode()
    payload = len(encoded).to_bytes(2, "big") + encoded + bytes(8) + bytes(2)
    if not name:
        payload = b"\0\0\0"  # no name is the end, and then something follows
    with pytest.raises(MalformedError):
        list(decode_files([payload], what="it"))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\0",
        b"\0\1",
        b"\0\1a" + bytes(7),
        b"\0\1a" + bytes(7) + b"\2x",
        b"\0\1\xff",
        (b"\0\1a" + bytes(8)) * 2 + b"\0\0",
    ],
)
def test_payloads_that_do_not_parse(payload: bytes) -> None:
    with pytest.raises(MalformedError):
        list(decode_files([payload] if payload else [], what="it"))


@pytest.mark.parametrize(
    "header",
    [
        msgspec.structs.replace(HEADER, passphrase=None),
        msgspec.structs.replace(HEADER, passphrase=PassphraseKey(log_n=40, salt=b"")),
        msgspec.structs.replace(HEADER, passphrase=PassphraseKey(log_n=0, salt=b"")),
        msgspec.structs.replace(
            HEADER, kms=KmsDataKey(key_arn="", ciphertext=b"", encryption_context={})
        ),
    ],
)
def test_headers_that_cannot_be(header: BackupHeader) -> None:
    with pytest.raises(MalformedError):
        split_header(encode_header(header), what="it")


@given(st.binary(max_size=200), st.sampled_from([b"", b"volcrypt backup ", b"volcrypt backup 1\n"]))
@settings(max_examples=300)
def test_junk_is_no_header(junk: bytes, start: bytes) -> None:
    with pytest.raises(FormatError):
        split_header(start + junk, what="it")


@given(st.binary(max_size=200))
def test_junk_is_no_payload(junk: bytes) -> None:
    def pieces() -> Iterator[bytes]:
        for at in range(0, len(junk), 7):
            yield junk[at : at + 7]

    try:
        for found in decode_files(pieces(), what="it"):
            list(found.content)
    except MalformedError:
        return
    assert junk.endswith(b"\0\0")
