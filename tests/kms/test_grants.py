"""Constraints and tokens of grants."""

import hashlib
import importlib
from base64 import b64decode, b64encode
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from volcrypt.errors import InvalidGrantTokenError
from volcrypt.kms.grants import (
    OTHER_OPERATIONS,
    SYMMETRIC_OPERATIONS,
    Constraints,
    Grant,
    Permission,
    decode_token,
    encode_token,
    grantee_digest,
    parameters_digest,
)

KEY_ID = "1234abcd-12ab-34cd-56ef-1234567890ab"
GRANT = Grant(
    grant_id="ab" * 32,
    key_arn=f"arn:aws:kms:us-east-1:000000000000:key/{KEY_ID}",
    permission=Permission(grantee="arn:aws:iam::000000000000:root", operations=("Decrypt",)),
    issuing_account="000000000000",
    created_at=0.0,
)
maps = st.dictionaries(st.sampled_from("ab"), st.sampled_from("12"), max_size=2)
constraints = st.builds(
    Constraints, equals=maps, subset=maps, source_arn=st.sampled_from([None, "arn"])
)


def test_the_operations_are_those_of_the_aws_kms() -> None:
    session = importlib.import_module("botocore.session").get_session()
    model = session.get_service_model("kms")
    assert set(model.shape_for("GrantOperation").enum) == SYMMETRIC_OPERATIONS | OTHER_OPERATIONS


@settings(deadline=None)
@given(constraints, constraints, maps, st.sampled_from([None, "arn", "other"]))
@example(Constraints(equals={"a": "1"}), Constraints(subset={"a": "1"}), {"a": "1"}, None)
@example(Constraints(), Constraints(source_arn="arn"), {}, None)
def test_what_a_stricter_constraint_lets_through_the_other_does_too(
    strict: Constraints, other: Constraints, context: dict[str, str], source: str | None
) -> None:
    def lets_through(own: Constraints) -> bool:
        return own.hold(context) and own.source_arn in (None, source)

    if strict.are_as_strict_as(other) and lets_through(strict):
        assert lets_through(other)


@settings(deadline=None)
@given(constraints)
def test_a_constraint_is_as_strict_as_itself_and_none_is_the_least(own: Constraints) -> None:
    assert own.are_as_strict_as(own)
    assert own.are_as_strict_as(Constraints())


OWN = Permission(
    grantee="g",
    operations=("Decrypt", "CreateGrant", "DescribeKey", "RetireGrant"),
    constraints=Constraints(equals={"a": "1"}, source_arn="arn"),
)
NARROW = replace(OWN, operations=("Decrypt",))
RIGHT = {"a": "1"}


@pytest.mark.parametrize(
    ("operation", "context", "source", "passed_on", "expected"),
    [
        ("Decrypt", RIGHT, "arn", None, True),
        ("Decrypt", {"a": "2"}, "arn", None, False),
        ("Decrypt", {}, "arn", None, False),
        ("Decrypt", {**RIGHT, "b": "1"}, "arn", None, False),
        ("Decrypt", RIGHT, None, None, False),
        ("Decrypt", RIGHT, "other", None, False),
        ("Encrypt", RIGHT, "arn", None, False),
        ("Encrypt", RIGHT, "arn", NARROW, False),
        # A description has no context, and who gives a grant up has no source either.
        ("DescribeKey", {}, "arn", None, True),
        ("DescribeKey", {}, None, None, False),
        ("RetireGrant", {}, "arn", None, True),
        ("RetireGrant", {}, None, None, True),
        # What is passed on is bound, and not the request for it.
        ("CreateGrant", {}, "arn", OWN, True),
        ("CreateGrant", {}, "arn", NARROW, True),
        ("CreateGrant", {}, None, NARROW, False),
        ("CreateGrant", {}, "arn", None, False),
        ("CreateGrant", RIGHT, "arn", replace(NARROW, operations=("Encrypt",)), False),
        ("CreateGrant", RIGHT, "arn", replace(NARROW, constraints=Constraints()), False),
        (
            "CreateGrant",
            RIGHT,
            "arn",
            replace(NARROW, constraints=Constraints(subset=RIGHT, source_arn="arn")),
            False,
        ),
    ],
)
def test_what_a_grant_permits(
    operation: str,
    context: dict[str, str],
    source: str | None,
    passed_on: Permission | None,
    expected: bool,
) -> None:
    grant = replace(GRANT, permission=OWN)
    found = grant.permits(operation, context=context, source_arn=source, passed_on=passed_on)
    assert found == expected


def test_a_subset_lets_other_pairs_through() -> None:
    own = Constraints(subset={"a": "1"})
    assert own.hold({"a": "1", "b": "2"})
    assert not own.hold({"b": "2"})


def test_tokens() -> None:
    one, two = encode_token(GRANT, bytes(8)), encode_token(GRANT, b"\x01" * 8)
    assert one != two
    assert decode_token(one) == decode_token(two)
    pointer = decode_token(one)
    assert (pointer.key_id, pointer.grant_id) == (KEY_ID, GRANT.grant_id)
    assert pointer.grantee_digest == grantee_digest(GRANT.permission.grantee)


def test_every_changed_byte_of_a_token_is_noticed() -> None:
    data = b64decode(encode_token(GRANT, bytes(8)))
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises(InvalidGrantTokenError):
            decode_token(b64encode(bytes(changed)).decode())


def test_a_token_of_another_version_or_length_or_with_junk_is_none() -> None:
    token = encode_token(GRANT, bytes(8))
    body = b64decode(token)[:-8]
    for wrong in (b"\x02" + body[1:], body + b"\0", body[:-1]):
        forged = b64encode(wrong + hashlib.sha256(wrong).digest()[:8]).decode()
        with pytest.raises(InvalidGrantTokenError, match="not one that the KMS gave"):
            decode_token(forged)
    with pytest.raises(InvalidGrantTokenError):
        decode_token(f"{token[:8]}\n{token[8:]}")


@settings(deadline=None)
@given(st.text() | st.binary().map(lambda data: b64encode(data).decode()))
@example("")
@example("AQpAM2RhZTk1MGMyNTk2ZmZmMzEyYWVhOWViN2I1MWM4Mzc0MWFiYjc0ZDE1ODkyNGFlNTIzODZhMzgyZjBlNDk")
def test_what_is_no_token(text: str) -> None:
    with pytest.raises(InvalidGrantTokenError):
        decode_token(text)


def test_the_order_of_operations_is_no_parameter_and_all_else_is() -> None:
    base = Permission(grantee="g", operations=("Decrypt", "Encrypt"), name="n")
    same = Permission(grantee="g", operations=("Encrypt", "Decrypt"), name="n")
    others = [
        Permission(grantee="h", operations=("Encrypt", "Decrypt"), name="n"),
        Permission(grantee="g", operations=("Encrypt",), name="n"),
        Permission(grantee="g", operations=("Encrypt", "Decrypt"), name="m"),
        Permission(grantee="g", operations=("Encrypt", "Decrypt"), name="n", retiring="r"),
        Permission(
            grantee="g",
            operations=("Encrypt", "Decrypt"),
            name="n",
            constraints=Constraints(subset={"a": "b"}),
        ),
        replace(base, grantee_user_id="user"),
    ]
    assert parameters_digest(base) == parameters_digest(same)
    assert len({parameters_digest(one) for one in (base, *others)}) == 1 + len(others)


def test_the_order_of_pairs_is_no_parameter() -> None:
    orders = ({"a": "1", "b": "2"}, {"b": "2", "a": "1"})
    digests = {
        parameters_digest(replace(OWN, constraints=Constraints(subset=pairs))) for pairs in orders
    }
    assert len(digests) == 1
