"""LUKS2 headers: one that cryptsetup made, every damage to it, and what its maker may put in."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cryptsetup import CHEAP_PBKDF, HEADER_BYTES, LUKS2, make_sparse, run_cryptsetup
from volcrypt.errors import FormatError, InvalidArgumentError, MalformedError
from volcrypt.formats.luks2 import BINARY_BYTES, LuksSegment, decode_luks2, header_length

LENGTH = 16384


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    directory = tmp_path_factory.mktemp("luks")
    make_sparse(directory / "data", 2**20)
    make_sparse(directory / "header", HEADER_BYTES)
    run_cryptsetup(directory, "luksFormat", *LUKS2, *CHEAP_PBKDF, "data")
    return (directory / "header").read_bytes()[:LENGTH]


def decode(data: bytes) -> LuksSegment:
    return decode_luks2(data, what="it")


def sealed(header: bytes, **places: tuple[int, bytes]) -> bytes:
    """The header with other bytes at places, and a checksum that holds."""
    changed = bytearray(header)
    for offset, data in places.values():
        changed[offset : offset + len(data)] = data
    changed[448:512] = bytes(64)
    changed[448:480] = hashlib.sha256(changed).digest()
    return bytes(changed)


def metadata_of(header: bytes) -> Any:
    return json.loads(header[BINARY_BYTES:].rstrip(b"\0"))


def with_text(header: bytes, text: bytes) -> bytes:
    return sealed(header, json=(BINARY_BYTES, text.ljust(LENGTH - BINARY_BYTES, b"\0")))


def with_json(header: bytes, document: Any) -> bytes:
    return with_text(header, json.dumps(document).encode())


def test_what_cryptsetup_made(header: bytes) -> None:
    assert header_length(header[:BINARY_BYTES], what="it") == LENGTH
    assert decode(header) == LuksSegment(
        offset_bytes=0, size_bytes=None, areas_bytes=2 * LENGTH + 16744448
    )
    assert decode(sealed(header)) == decode(with_json(header, metadata_of(header)))


def test_every_damage_is_found(header: bytes) -> None:
    used = BINARY_BYTES + len(header[BINARY_BYTES:].rstrip(b"\0"))
    for end in [*range(0, BINARY_BYTES, 97), *range(BINARY_BYTES, LENGTH, 501)]:
        with pytest.raises((FormatError, InvalidArgumentError)):
            decode(header[:end])
    for position in [*range(520), *range(BINARY_BYTES, used + 8), LENGTH - 1]:
        for bit in (0, 3, 7):
            damaged = bytearray(header)
            damaged[position] ^= 1 << bit
            with pytest.raises((FormatError, InvalidArgumentError)):
                decode(bytes(damaged))


@given(st.binary(max_size=200))
def test_junk(data: bytes) -> None:
    for junk in (data, b"LUKS\xba\xbe\0\x02" + data):
        with pytest.raises((FormatError, InvalidArgumentError)):
            decode(junk)


def test_what_is_not_luks2(header: bytes) -> None:
    with pytest.raises(InvalidArgumentError, match="has no LUKS header"):
        decode(b"\0" * LENGTH)
    with pytest.raises(InvalidArgumentError, match="of LUKS version 1; only LUKS2"):
        decode(sealed(header, version=(6, b"\0\1")))


@pytest.mark.parametrize(
    ("offset", "data"),
    [
        (8, (8192).to_bytes(8, "big")),
        (8, (8 * 2**20).to_bytes(8, "big")),
        (8, (LENGTH + 4096).to_bytes(8, "big")),
        (8, b"\xff" * 8),
        (256, (LENGTH).to_bytes(8, "big")),
        (BINARY_BYTES, b"\0"),
        (LENGTH - 1, b"x"),
    ],
)
def test_a_binary_header_that_contradicts_itself(header: bytes, offset: int, data: bytes) -> None:
    with pytest.raises(MalformedError):
        decode(sealed(header, there=(offset, data)))


def test_another_checksum(header: bytes) -> None:
    with pytest.raises(InvalidArgumentError, match="its checksum is by 'sha512'"):
        decode(sealed(header, algorithm=(72, b"sha512\0")))


def segment(**members: Any) -> dict[str, Any]:
    return {"segments": {"0": members}}


REFUSED: dict[str, list[Any]] = {
    "a reencryption of it is unfinished": [
        {"config": {"requirements": {"mandatory": ["online-reencrypt-v2"]}}},
        {"config": {"requirements": {"mandatory": ["offline-reencrypt"]}}},
        {"keyslots": {"1": {"type": "reencrypt", "key_size": 1}}},
        segment(flags=["in-reencryption"]),
    ],
    "it requires 'something-new'": [{"config": {"requirements": {"mandatory": ["something-new"]}}}],
    "it has 2 segments": [{"segments": {"1": {"type": "linear", "offset": "0", "size": "512"}}}],
    "its data is of type 'linear'": [segment(type="linear")],
    "its data is of type 'hw-opal'": [segment(type="hw-opal")],
    "it has integrity protection": [segment(integrity={"type": "hmac(sha256)"})],
    "its cipher is 'aes-cbc-essiv:sha256'": [segment(encryption="aes-cbc-essiv:sha256")],
    "its cipher is ''": [segment(encryption="")],
    "its sectors have 512 bytes": [segment(sector_size=512)],
    "its IVs start at '8'": [segment(iv_tweak="8")],
    "its data is marked 'backup-final'": [segment(flags=["backup-final"])],
    "its key has 256 bits": [{"keyslots": {"0": {"key_size": 32}}}],
    "it has no keyslot": [{"keyslots": {"0": {"type": "other"}}}],
}


def merged(base: Any, change: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    return base | {key: merged(base.get(key), value) for key, value in change.items()}


@pytest.mark.parametrize(
    ("reason", "change"), [(reason, change) for reason, all_ in REFUSED.items() for change in all_]
)
def test_what_cannot_be_imported_is_named(header: bytes, reason: str, change: Any) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        decode(with_json(header, merged(metadata_of(header), change)))
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    "change",
    [
        segment(offset="-1"),
        segment(offset="x"),
        segment(offset="9" * 19),
        segment(offset=0),
        segment(size="0"),
        segment(size="4095"),
        segment(size=""),
        segment(sector_size="4096"),
        {"segments": []},
        {"segments": {"0": []}},
        {"keyslots": None},
        {"config": {"json_size": "16384"}},
        {"config": {"keyslots_size": str(300 * 2**20)}},
        {"config": {"keyslots_size": "-4096"}},
        {"config": {"requirements": {"mandatory": [1]}}},
    ],
    ids=str,
)
def test_values_that_cannot_be(header: bytes, change: Any) -> None:
    with pytest.raises(MalformedError):
        decode(with_json(header, merged(metadata_of(header), change)))


@pytest.mark.parametrize(
    "text", [b"[" * 12000, b'{"a":' * 2000, b"\xff{}", b"", b"{}", b"null", b"1e999999999"]
)
def test_hostile_json(header: bytes, text: bytes) -> None:
    with pytest.raises(MalformedError):
        decode(with_text(header, text))


def test_a_fixed_size_and_an_offset(header: bytes) -> None:
    change = segment(offset="33554432", size="1048576")
    found = decode(with_json(header, merged(metadata_of(header), change)))
    assert (found.offset_bytes, found.size_bytes) == (33554432, 1048576)


def test_a_header_from_a_file_of_its_own(header: bytes, tmp_path: Path) -> None:
    (tmp_path / "header").write_bytes(header)
    assert decode((tmp_path / "header").read_bytes()).offset_bytes == 0
