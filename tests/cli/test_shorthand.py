"""Structures in the short form of the aws command line."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volcrypt.cli.shorthand import parse_structure
from volcrypt.cli.times import read_time
from volcrypt.errors import InvalidArgumentError, SerializationError


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("TagKey=a,TagValue=b", {"TagKey": "a", "TagValue": "b"}),
        ("TagKey=a,TagValue=", {"TagKey": "a", "TagValue": ""}),
        ("TagKey=a,TagValue=x=y z", {"TagKey": "a", "TagValue": "x=y z"}),
        ("TagKey=a,TagValue='b,c'", {"TagKey": "a", "TagValue": "b,c"}),
        (r'A="say \"x\""', {"A": 'say "x"'}),
        (
            "EncryptionContextSubset={Department=IT,Purpose=Test}",
            {"EncryptionContextSubset": {"Department": "IT", "Purpose": "Test"}},
        ),
        (
            "EncryptionContextEquals={volcrypt:volume-id=vol-1},B=2",
            {"EncryptionContextEquals": {"volcrypt:volume-id": "vol-1"}, "B": "2"},
        ),
        ("A=[b,c]", {"A": ["b", "c"]}),
        ('{"A": {"b": "c"}}', {"A": {"b": "c"}}),
        ('[{"TagKey": "a", "TagValue": "b"}]', [{"TagKey": "a", "TagValue": "b"}]),
    ],
)
def test_readings(text: str, meaning: Any) -> None:
    assert parse_structure(text) == meaning


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "=b",
        "a=b,",
        "a={b=c",
        "a=[b",
        "a='b",
        "a=b,a=c",
        "a={b=c}d",
        "a=b}",
        "{a=b",
        "a={b={b={b={b={b={b={b={b={b={b=",
        '["a"], "b": ["c"]',
    ],
)
def test_what_has_no_reading_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        parse_structure(text)


@pytest.mark.parametrize("text", ['{"a": 1', '{"a": 1, "a": 2}', "[1,"])
def test_json_keeps_its_rules(text: str) -> None:
    with pytest.raises(SerializationError):
        parse_structure(text)


@given(st.text(alphabet="ab=,{}[]'\"\\ :", max_size=30))
def test_every_text_is_read_or_refused(text: str) -> None:
    with suppress(InvalidArgumentError, SerializationError):
        parse_structure(text)


@given(st.dictionaries(st.text("abcK", min_size=1), st.text(), max_size=5).filter(bool))
def test_quoted_values_come_back(pairs: dict[str, str]) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    text = ",".join(f"{name}={quoted(value)}" for name, value in pairs.items())
    assert parse_structure(text) == pairs


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("1767225600.5", 1767225600.5),
        ("2026-01-01", 1767225600.0),
        ("2026-01-01T00:00:00Z", 1767225600.0),
        ("2026-01-01T01:00:00+01:00", 1767225600.0),
    ],
)
def test_times(text: str, seconds: float) -> None:
    assert read_time(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "tomorrow", "nan", "inf", "-1e3", "2026-13-01", "9" * 19, "9" * 400, "1" * 5000],
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        read_time(text)
