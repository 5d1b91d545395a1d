"""Options of `volcrypt kms` made from requests with every kind of member."""

from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner

from volcrypt.cli.kms_options import KmsCommand, option_of, value_of
from volcrypt.cli.session import Session
from volcrypt.errors import InvalidArgumentError
from volcrypt.kms.messages.base import NO_CONTEXT, EmptyResponse, Message, Request


class Tag(Message, frozen=True, kw_only=True):
    tag_key: str
    tag_value: str


class Constraints(Message, frozen=True, kw_only=True):
    encryption_context_subset: dict[str, str] | None = None


class EverythingRequest(Request[EmptyResponse], frozen=True, kw_only=True):
    key_id: str
    tags: list[Tag] = msgspec.field(default_factory=list)
    operations: list[str] = msgspec.field(default_factory=list)
    constraints: Constraints | None = None
    valid_to: float | None = None
    encrypted_key_material: bytes | None = None
    key_store_password: str | None = None
    encryption_context: dict[str, str] = NO_CONTEXT
    pending_window_in_days: int | None = None
    dry_run: bool = False


FIELDS = msgspec.structs.fields(EverythingRequest)


def members(*arguments: str, stdin: str = "") -> dict[str, Any]:
    """What the options become in the request's JSON; it must be a request then."""
    found: dict[str, Any] = {}

    def run(**given: Any) -> None:
        for field in FIELDS:
            if given[field.name] not in (None, ()):
                found[field.encode_name] = value_of(field, given[field.name])

    command = KmsCommand("it", callback=run, params=[option_of(field) for field in FIELDS])
    done = CliRunner().invoke(command, list(arguments), input=stdin, obj=Session())
    if done.exception is not None:
        raise done.exception
    msgspec.convert({"KeyId": "k"} | found, EverythingRequest)
    return found


@pytest.mark.parametrize(
    "words",
    [
        ("TagKey=a,TagValue=b", "TagKey=c,TagValue=d"),
        ('[{"TagKey": "a", "TagValue": "b"}, {"TagKey": "c", "TagValue": "d"}]',),
    ],
)
def test_lists_of_structures(words: tuple[str, ...]) -> None:
    wanted = [{"TagKey": "a", "TagValue": "b"}, {"TagKey": "c", "TagValue": "d"}]
    assert members("--tags", *words, "--key-id", "k") == {"KeyId": "k", "Tags": wanted}
    repeated = [word for text in words for word in ("--tags", text)]
    assert members(*repeated)["Tags"] == wanted


def test_lists_of_words() -> None:
    assert members("--operations", "Decrypt", "Encrypt", "--dry-run") == {
        "Operations": ["Decrypt", "Encrypt"],
        "DryRun": True,
    }
    assert members("--operations", '["Decrypt"]')["Operations"] == ["Decrypt"]


def test_structures_and_maps() -> None:
    subset = {"EncryptionContextSubset": {"a": "b", "c": "d"}}
    for text in (
        "EncryptionContextSubset={a=b,c=d}",
        '{"EncryptionContextSubset": {"a": "b", "c": "d"}}',
    ):
        assert members("--constraints", text)["Constraints"] == subset
    assert members("--encryption-context", "a=b")["EncryptionContext"] == {"a": "b"}


def test_times_and_numbers() -> None:
    assert members("--valid-to", "2026-01-01T00:00:00Z")["ValidTo"] == 1767225600
    assert members("--valid-to", "1767225600")["ValidTo"] == 1767225600
    assert members("--pending-window-in-days", "7")["PendingWindowInDays"] == 7


def test_bytes_and_passwords_are_no_words(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\0\1\n")
    assert members("--encrypted-key-material", f"fileb://{tmp_path}/f") == {
        "EncryptedKeyMaterial": "AAEK"
    }
    (tmp_path / "f").write_text("PIN\n")
    assert members("--key-store-password", f"file://{tmp_path}/f")["KeyStorePassword"] == "PIN"
    assert members("--key-store-password", "-", stdin="PIN\n")["KeyStorePassword"] == "PIN"
    for option in ("--encrypted-key-material", "--key-store-password"):
        with pytest.raises(InvalidArgumentError, match="never from the command line"):
            members(option, "secret")


def test_text_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("an id")
    assert members("--key-id", f"file://{tmp_path}/f") == {"KeyId": "an id"}
    (tmp_path / "f").write_bytes(b"\xff")
    with pytest.raises(InvalidArgumentError, match="UTF-8"):
        members("--key-id", f"file://{tmp_path}/f")
    with pytest.raises(FileNotFoundError):
        members("--key-id", f"file://{tmp_path}/none")


def test_a_word_without_an_option_is_refused() -> None:
    for arguments in (("word",), ("--key-id", "a", "b"), ("--tags", "TagKey=a", "--dry-run", "c")):
        with pytest.raises((click.UsageError, SystemExit)):
            members(*arguments)
