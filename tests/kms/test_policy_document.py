"""Policy documents: what is read, and what is refused."""

import json
from typing import Any

import pytest

from tests.kms.policies import ALICE, HOME, ROOT, Statement, allow, document
from volcrypt.errors import InvalidArnError, MalformedPolicyError
from volcrypt.kms.policy_document import PolicyKind, parse_policy, principal_account

KEY, IDENTITY = PolicyKind.KEY, PolicyKind.IDENTITY
INVALID = "Policy contains a statement with one or more invalid principals."
WITHOUT = "Policy contains a statement with no principal."


def parse(value: object, kind: PolicyKind = KEY) -> None:
    parse_policy(value if isinstance(value, str) else json.dumps(value), kind)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "my policy",
        "[]",
        "1",
        "{",
        "[" * 100_000,
        "{}",
        '{"Statement": []}',
        '{"Statement": 1}',
        '{"Statement": [1]}',
        '{"Statement": {}, "Statement": {}}',
    ],
)
def test_what_is_no_document_is_malformed(text: str) -> None:
    for kind in PolicyKind:
        with pytest.raises(MalformedPolicyError):
            parse_policy(text, kind)


@pytest.mark.parametrize(
    "members",
    [
        {"Effect": "allow"},
        {"Effect": None},
        {"Sid": 1},
        {"Conditions": {}},
        {"Action": 7},
        {"Action": ["kms:*", 7]},
        {"Action": "Decrypt"},
        {"Action": "kms:a:b"},
        {"NotAction": "kms:*"},
        {"NotResource": "*"},
        {"NotPrincipal": {"AWS": ROOT}},
        {"Resource": "key/*"},
        {"Resource": "arn:aws:kms"},
        {"Resource": "arn:aws:kms:us-east-1"},
        {"Condition": []},
        {"Condition": {"StringEquals": "a"}},
        {"Condition": {"StringMatches": {"a": "b"}}},
    ],
)
def test_statements_that_are_not_understood(members: dict[str, Any]) -> None:
    with pytest.raises(MalformedPolicyError):
        parse_policy(document([allow(ROOT) | members]), KEY)


@pytest.mark.parametrize(
    ("principal", "message"),
    [
        (None, WITHOUT),
        ({}, WITHOUT),
        ({"AWS": []}, WITHOUT),
        ("alice", INVALID),
        (ROOT, INVALID),
        ([ROOT], INVALID),
        ({"AWS": "alice"}, INVALID),
        ({"AWS": "1234"}, INVALID),
        ({"AWS": "AIDACKCEVSQ6C2EXAMPLE"}, INVALID),
        ({"CanonicalUser": "79a59d"}, INVALID),
        ({"Service": "*"}, INVALID),
        ({"Federated": "*"}, INVALID),
        ({"Users": "*"}, INVALID),
    ],
)
def test_principals_that_are_none(principal: object, message: str) -> None:
    statement = allow(Principal=principal)
    with pytest.raises(MalformedPolicyError) as raised:
        parse_policy(document([statement]), KEY)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    "arn",
    [
        f"arn:aws:iam::{HOME}:group/admins",
        f"arn:aws:iam::{HOME}:user/*",
        f"arn:aws:iam::{HOME}:root/x",
        "arn:aws:iam::1:root",
        "arn:aws:s3:::bucket",
    ],
)
def test_arns_that_are_no_principals(arn: str) -> None:
    assert principal_account(arn) is None
    with pytest.raises(InvalidArnError) as raised:
        parse_policy(document([allow(arn)]), KEY)
    assert str(raised.value) == "An ARN in the specified key policy is invalid."


@pytest.mark.parametrize(
    "arn",
    [
        ROOT,
        ALICE,
        f"arn:aws:iam::{HOME}:role/service-role/deployer",
        f"arn:aws:sts::{HOME}:assumed-role/deployer/session",
        f"arn:aws:sts::{HOME}:federated-user/alice",
    ],
)
def test_arns_of_principals(arn: str) -> None:
    assert principal_account(arn) == HOME
    parse_policy(document([allow(arn)]), KEY)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"Principal": {"AWS": ROOT}}, "Policy document should not specify a principal."),
        ({"NotPrincipal": {"AWS": ROOT}}, "Policy document should not specify a principal."),
        ({"Action": []}, "Policy statement must contain actions."),
        ({"Resource": []}, "Policy statement must contain resources."),
        ({"Resource": "x"}, 'Resource x must be in ARN format or "*".'),
    ],
)
def test_identity_policies_with_the_texts_of_aws(members: dict[str, Any], message: str) -> None:
    with pytest.raises(MalformedPolicyError) as raised:
        parse_policy(document([allow() | members]), IDENTITY)
    assert str(raised.value) == message


@pytest.mark.parametrize("version", ["2012-10-17", "2008-10-17"])
def test_versions(version: str) -> None:
    parse_policy(document([allow()], version), IDENTITY)
    with pytest.raises(MalformedPolicyError):
        parse_policy(document([allow()], version + "x"), IDENTITY)


def test_one_statement_may_stand_without_a_list_and_the_rest_is_optional() -> None:
    statement: Statement = allow(ROOT, Sid="any text", Condition={})
    parse({"Statement": statement, "Id": "mine"})
    parse({"Statement": {name: statement[name] for name in ("Effect", "Principal")}})


def test_a_document_is_parsed_once() -> None:
    text = document([allow(ROOT)])
    assert parse_policy(text, KEY) is parse_policy(str(text), KEY)
