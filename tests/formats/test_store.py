"""All formats of the snapshot store alike: golden bytes, round trip, junk."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.formats.samples import GOLDEN, SAMPLES
from volcrypt.errors import (
    BadMagicError,
    FormatError,
    IntegrityError,
    MalformedError,
    UnsupportedVersionError,
)

KINDS = list(SAMPLES)


def test_every_golden_file_is_used_and_there_is_one_of_each_format() -> None:
    assert sorted(file.name for file in GOLDEN.iterdir()) == sorted(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_golden_bytes_decode_to_known_values(kind: str) -> None:
    assert SAMPLES[kind].decode((GOLDEN / kind).read_bytes()) == SAMPLES[kind].value


@pytest.mark.parametrize("kind", KINDS)
def test_known_values_encode_to_golden_bytes(kind: str) -> None:
    assert SAMPLES[kind].encode() == (GOLDEN / kind).read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_version_is_refused_by_number(kind: str) -> None:
    data = SAMPLES[kind].encode().replace(f"{kind} 1\n".encode(), f"{kind} 2\n".encode())
    with pytest.raises(UnsupportedVersionError, match="version 2 is not supported"):
        SAMPLES[kind].decode(data)


@pytest.mark.parametrize("kind", KINDS)
def test_another_kind_is_refused(kind: str) -> None:
    other = KINDS[(KINDS.index(kind) + 1) % len(KINDS)]
    with pytest.raises(BadMagicError, match="not a volcrypt document of this kind"):
        SAMPLES[kind].decode(SAMPLES[other].encode())


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_is_refused(kind: str) -> None:
    data = SAMPLES[kind].encode()
    for length in range(len(data)):
        with pytest.raises((FormatError, IntegrityError)):
            SAMPLES[kind].decode(data[:length])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in {"page", "table"}])
def test_every_changed_byte_of_a_document_is_refused(kind: str) -> None:
    data = SAMPLES[kind].encode()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 0x01
        with pytest.raises((FormatError, IntegrityError)):
            SAMPLES[kind].decode(bytes(changed))


@pytest.mark.parametrize("kind", ["page", "table"])
def test_a_page_or_table_of_another_length_is_refused(kind: str) -> None:
    with pytest.raises(MalformedError, match="not of the length"):
        SAMPLES[kind].decode(SAMPLES[kind].encode() + bytes(32))


@given(
    kind=st.sampled_from(KINDS),
    junk=st.binary(max_size=300)
    | st.binary(max_size=200).map(lambda tail: b"volcrypt manifest 1\n" + tail)
    | st.binary(max_size=200).map(lambda tail: b"volcrypt page " + tail),
)
@settings(max_examples=300, deadline=None)
def test_junk_raises_only_errors_of_formats(kind: str, junk: bytes) -> None:
    with pytest.raises((FormatError, IntegrityError)):
        SAMPLES[kind].decode(junk)
