"""`volcrypt kms`: options, answers, files."""

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import Command, disposable_home


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    with disposable_home(tmp_path_factory.mktemp("kms") / "home") as made:
        made.run("init")
        yield made


def test_envelope_encryption_by_hand(command: Command, tmp_path: Path) -> None:
    key = command.json("kms", "create-key", "--description", "by hand")["KeyMetadata"]
    command.run("kms", "create-alias", "--alias-name", "alias/hand", "--target-key-id", key["Arn"])
    context = ("--encryption-context", "purpose=test,owner=me")
    made = command.json(
        "kms", "generate-data-key", "--key-id", "alias/hand", "--key-spec", "AES_256", *context
    )
    blob = tmp_path / "blob"
    blob.write_bytes(base64.b64decode(made["CiphertextBlob"]))
    opened = command.json("kms", "decrypt", "--ciphertext-blob", f"fileb://{blob}", *context)
    assert opened["Plaintext"] == made["Plaintext"]
    assert opened["KeyId"] == key["Arn"]
    command.fails(6, "kms", "decrypt", "--ciphertext-blob", f"fileb://{blob}")

    other = command.json("kms", "create-key")["KeyMetadata"]["Arn"]
    moved = command.json(
        *("kms", "re-encrypt", "--ciphertext-blob", f"fileb://{blob}"),
        *("--source-encryption-context", '{"owner": "me", "purpose": "test"}'),
        *("--destination-key-id", other),
    )
    assert (moved["SourceKeyId"], moved["KeyId"]) == (key["Arn"], other)
    blob.write_bytes(base64.b64decode(moved["CiphertextBlob"]))
    opened = command.json("kms", "decrypt", "--ciphertext-blob", f"fileb://{blob}")
    assert opened["Plaintext"] == made["Plaintext"]


@pytest.mark.parametrize("context", ["a=1,a=2", '{"a": "1", "a": "2"}', '{"a": 1}', "a", "=1", "{"])
def test_contexts_that_are_none(command: Command, context: str) -> None:
    key = command.json("kms", "create-key")["KeyMetadata"]["KeyId"]
    encrypt = ("kms", "encrypt", "--key-id", key, "--plaintext", "-")
    command.fails(2, *encrypt, "--encryption-context", context, stdin=b"x")


def test_plaintext_from_standard_input(command: Command, tmp_path: Path) -> None:
    key = command.json("kms", "create-key")["KeyMetadata"]["KeyId"]
    text = command.run(
        "--json", "kms", "encrypt", "--key-id", key, "--plaintext", "-", stdin=b"secret"
    )
    blob = tmp_path / "blob"
    blob.write_bytes(base64.b64decode(json.loads(text)["CiphertextBlob"]))
    opened = command.json("kms", "decrypt", "--ciphertext-blob", f"fileb://{blob}")
    assert base64.b64decode(opened["Plaintext"]) == b"secret"


def test_input_as_json(command: Command, tmp_path: Path) -> None:
    request = tmp_path / "request"
    request.write_text('{"Description": "from a file"}')
    made = command.json("kms", "create-key", "--cli-input-json", request)["KeyMetadata"]
    assert made["Description"] == "from a file"
    for text in ("", "[]", "{", '{"Description": 1}', '{"Nonsense": 1}', '{"a":1,"a":2}'):
        request.write_text(text)
        command.fails(2, "kms", "create-key", "--cli-input-json", request)


def test_disabled_keys_and_pages(command: Command) -> None:
    key = command.json("kms", "create-key")["KeyMetadata"]["KeyId"]
    command.run("kms", "disable-key", "--key-id", key)
    assert "is disabled" in command.fails(
        5, "kms", "generate-data-key", "--key-id", key, "--number-of-bytes", "32"
    )
    command.run("kms", "enable-key", "--key-id", key)
    assert command.json("kms", "describe-key", "--key-id", key)["KeyMetadata"]["Enabled"] is True
    page = command.json("kms", "list-keys", "--limit", "1")
    assert page["Truncated"] is True
    rest = command.json("kms", "list-keys", "--marker", page["NextMarker"])
    found = {row["KeyId"] for row in page["Keys"] + rest["Keys"]}
    assert key in found


def test_the_pin_may_come_from_elsewhere(tmp_path: Path) -> None:
    with disposable_home(tmp_path / "home") as command:
        command.run("init", "--pin-file", "-", stdin=b"a PIN of ours\n")
        assert "no terminal to ask" in command.fails(1, "kms", "list-keys")
        for path in command.home.rglob("*"):
            if path.is_file():
                assert b"a PIN of ours" not in path.read_bytes()
        (tmp_path / "volcrypt.pin").write_text("a PIN of ours\n")
        os.environ["CREDENTIALS_DIRECTORY"] = str(tmp_path)
        try:
            command.run("kms", "create-key")
            (tmp_path / "volcrypt.pin").write_text("another")
            assert "PIN" in command.fails(5, "kms", "list-keys")
        finally:
            del os.environ["CREDENTIALS_DIRECTORY"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("create-alias",), "missing options '--alias-name', '--target-key-id'"),
        (("describe-key",), "missing option '--key-id'"),
        (
            ("generate-data-key", "--key-id", "alias/a", "--key-spec", "AES_9"),
            "--key-spec 'AES_9': it must satisfy enum value set: [AES_256, AES_128]",
        ),
        (("encrypt", "--key-id", "alias/a", "--plaintext", "word"), "--plaintext: binary values"),
        (("create-key", "--tags", "word"), "--tags: 'word' is not of the form NAME=VALUE"),
    ],
)
def test_what_is_wrong_is_named_as_it_is_typed(
    command: Command, words: tuple[str, ...], said: str
) -> None:
    complaint = command.fails(2, "kms", *words)
    assert f"error: {said}" in complaint
    if "--plaintext" not in words and "--tags" not in words:
        assert f"hint: see 'volcrypt kms {words[0]} --help'" in complaint


def test_a_word_that_names_no_key(command: Command) -> None:
    said = command.fails(3, "kms", "describe-key", "--key-id", "mine")
    assert "alias/NAME" in said


def test_no_record_of_a_key_is_a_word_of_its_own(command: Command) -> None:
    """A list without lines would say that a key which is there was never used."""
    done = command.try_run("audit", "list", "--key", "11111111-1111-1111-1111-111111111111")
    assert done.returncode == 0
    assert "note: no such request on key 11111111-" in done.stderr


def test_a_mistyped_operation_is_not_taken_for_one_that_nobody_asked_for(command: Command) -> None:
    said = command.try_run("audit", "list", "--operation", "decrypt").stderr
    assert "note: nothing is on record as decrypt" in said
    assert command.try_run("audit", "list", "--operation", "DeleteAlias").stderr == ""
