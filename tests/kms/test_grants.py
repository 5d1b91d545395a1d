"""Constraints and tokens of grants."""

import importlib
from base64 import b64decode, b64encode

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
        base.bound_to("user"),
    ]
    assert parameters_digest(base) == parameters_digest(same)
    assert len({parameters_digest(one) for one in (base, *others)}) == 1 + len(others)
