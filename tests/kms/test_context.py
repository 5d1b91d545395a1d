"""The additional authenticated data: one context, one encoding, and no two alike."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volcrypt.errors import KmsValidationError
from volcrypt.kms.context import check_context, encode_aad

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
CONTEXTS = st.dictionaries(TEXT, TEXT, max_size=4)


def aad(context: dict[str, str], key_id: str = "k") -> bytes:
    return encode_aad(context, account="a", region="r", key_id=key_id, material_id="m")


def test_the_encoding() -> None:
    assert aad({"b": "xy", "a": ""}) == (
        b"\x01" + b"\0\0\0\x01a" + b"\0\0\0\x01r" + b"\0\0\0\x01k" + b"\0\0\0\x01m"
        b"\0\0\0\x02" + b"\0\0\0\x01a" + b"\0\0\0\x00" + b"\0\0\0\x01b" + b"\0\0\0\x02xy"
    )


def test_keys_are_sorted_by_their_bytes() -> None:
    encoded = aad({"b": "1", "aa": "2"})
    assert encoded.index(b"aa") < encoded.index(b"b")


def test_lengths_keep_apart_what_concatenation_would_not() -> None:
    assert aad({"a": "bc"}) != aad({"ab": "c"})
    assert aad({}, key_id="km") != encode_aad(
        {}, account="a", region="r", key_id="k", material_id="mm"
    )


@given(CONTEXTS, CONTEXTS)
def test_other_contexts_have_other_encodings(one: dict[str, str], other: dict[str, str]) -> None:
    assert (aad(one) == aad(other)) == (one == other)


@given(CONTEXTS)
def test_order_does_not_matter(context: dict[str, str]) -> None:
    assert aad(context) == aad(dict(reversed(context.items())))


@pytest.mark.parametrize("context", [{"a": "x" * 8192}, {"": "x"}, {"a": "\ud800"}])
def test_limits(context: dict[str, str]) -> None:
    with pytest.raises(KmsValidationError):
        check_context(context)


def test_what_fits_is_accepted() -> None:
    check_context({"a": "x" * 8191})
    check_context({})
