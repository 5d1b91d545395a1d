"""How requests name keys."""

import pytest

from volcrypt.errors import InvalidArnError, KeyNotFoundError
from volcrypt.kms.reference import KeyReference, parse_key_reference

ID = "00112233-4455-6677-8899-aabbccddeeff"


def parse(text: str) -> KeyReference:
    return parse_key_reference(text, account="0", region="us-east-1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ID, KeyReference(account="0", key_id=ID)),
        (f"arn:aws:kms:us-east-1:0:key/{ID}", KeyReference(account="0", key_id=ID)),
        (f"arn:aws:kms:us-east-1:1:key/{ID}", KeyReference(account="1", key_id=ID)),
        ("alias/x/y", KeyReference(account="0", alias="alias/x/y")),
        ("arn:aws:kms:us-east-1:1:alias/x", KeyReference(account="1", alias="alias/x")),
        ("alias/aws/ebs", KeyReference(account="0", alias="alias/aws/ebs")),
        (f"mrk-{'0a' * 16}", KeyReference(account="0", key_id=f"mrk-{'0a' * 16}")),
    ],
)
def test_all_four_ways(text: str, expected: KeyReference) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "Invalid keyId 'x'"),
        (ID.upper(), f"Invalid keyId '{ID.upper()}'"),
        (ID + "\n", f"Invalid keyId '{ID}\n'"),
        ("arn:aws:kms:us-east-1:0:key/x", "Invalid keyId 'x'"),
        ("mrk-x", "Invalid keyId 'mrk-x'"),
        (ID.replace("-", ""), f"Invalid keyId '{ID.replace('-', '')}'"),
        ("arn:aws:kms:us-east-1:0:key/alias/x", "Invalid keyId 'alias/x'"),
        (f"arn:aws:kms:eu-west-1:0:key/{ID}", "Invalid arn eu-west-1"),
    ],
)
def test_what_cannot_be_a_key_of_here_is_not_found(text: str, message: str) -> None:
    with pytest.raises(KeyNotFoundError) as raised:
        parse(text)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    "text", ["arn:", "arn:aws:s3:::x", "arn:aws:kms:us-east-1:0:thing/x", "arn:x:kms:r:0:key/x"]
)
def test_other_arns_are_invalid(text: str) -> None:
    with pytest.raises(InvalidArnError):
        parse(text)


@pytest.mark.parametrize("text", ["alias/x", "arn:aws:kms:us-east-1:0:alias/x", "alias/"])
def test_aliases_where_none_is_taken(text: str) -> None:
    with pytest.raises(InvalidArnError) as raised:
        parse_key_reference(text, account="0", region="us-east-1", takes_alias=False)
    assert str(raised.value) == "Key Aliases are not supported for this operation."


def test_ids_and_arns_where_no_alias_is_taken() -> None:
    for text in (ID, f"arn:aws:kms:us-east-1:0:key/{ID}"):
        reference = parse_key_reference(text, account="0", region="us-east-1", takes_alias=False)
        assert reference.key_id == ID
