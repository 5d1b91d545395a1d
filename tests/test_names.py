"""Ids and names: one word on a command line is one or the other, never both."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volcrypt import names
from volcrypt.errors import InvalidArgumentError

RANDOM = bytes.fromhex("0123456789abcdef01")
DIGITS = "0123456789abcdef0"

MAKERS: list[tuple[Callable[[bytes], str], str]] = [
    (names.make_volume_id, "vol-"),
    (names.make_snapshot_id, "snap-"),
    (names.make_store_id, "store-"),
    (names.make_data_key_id, "dk-"),
]
PARSERS: list[tuple[Callable[[str], str], str, str]] = [
    (names.parse_volume_id, "vol-", "a volume id"),
    (names.parse_snapshot_id, "snap-", "a snapshot id"),
    (names.parse_store_id, "store-", "a store id"),
]


@pytest.mark.parametrize(("make", "prefix"), MAKERS)
def test_ids_are_made_from_the_randomness_given(make: Callable[[bytes], str], prefix: str) -> None:
    assert make(RANDOM) == prefix + DIGITS
    assert len(make(bytes(9))) == len(prefix) + names.ID_DIGITS
    with pytest.raises(AssertionError, match="internal error"):
        make(bytes(8))


@pytest.mark.parametrize(("parse", "prefix", "what"), PARSERS)
def test_ids_parse(parse: Callable[[str], str], prefix: str, what: str) -> None:
    assert parse(prefix + DIGITS) == prefix + DIGITS
    others = [other + DIGITS for _, other in MAKERS if other != prefix]
    for text in [
        *others,
        "",
        prefix,
        prefix + DIGITS[1:],
        prefix + DIGITS + "0",
        prefix + DIGITS.upper(),
        prefix + DIGITS + "\n",
        " " + prefix + DIGITS,
        prefix + "g" * 17,
        prefix + "\u0661" * 17,
        prefix + DIGITS[:-1] + "/",
    ]:
        with pytest.raises(InvalidArgumentError, match=f"is not {what}"):
            parse(text)


@pytest.mark.parametrize("text", ["a", "0", "data", "Data-1.old_2", "x" * 128, "vol", "snapshot-1"])
def test_names(text: str) -> None:
    assert names.parse_name(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        ".hidden",
        "-option",
        "_x",
        "a/b",
        "a b",
        "a\n",
        "a\0",
        "\u00e4",
        "x" * 129,
        "vol-1",
        "snap-x",
        "store-x",
        "dk-x",
        "vol-" + DIGITS,
    ],
)
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="is not acceptable as a name") as caught:
        names.parse_name(text)
    assert caught.value.hint is not None


@given(st.text(max_size=40))
def test_a_word_is_an_id_or_a_name_or_refused(text: str) -> None:
    try:
        names.parse_name(text)
    except InvalidArgumentError:
        return
    assert not names.is_volume_id(text)
    assert not names.is_snapshot_id(text)
    assert "/" not in text
    assert text not in (".", "..")
